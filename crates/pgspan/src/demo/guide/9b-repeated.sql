-- 执行多次相同查询，观察性能
\timing on
SELECT COUNT(*) FROM (SELECT u.username, ro.product_name FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id) t;
SELECT COUNT(*) FROM (SELECT u.username, ro.product_name FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id) t;
SELECT COUNT(*) FROM (SELECT u.username, ro.product_name FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id) t;
\timing off
