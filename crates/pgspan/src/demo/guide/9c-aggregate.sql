\timing on
SELECT u.username, COUNT(ro.order_id) as total_orders, AVG(ro.total_amount)::decimal(10,2) as avg_amount FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id GROUP BY u.username ORDER BY total_orders DESC;
\timing off
