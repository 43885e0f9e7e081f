EXPLAIN (ANALYZE, BUFFERS, VERBOSE) 
SELECT u.username, COUNT(ro.order_id) as order_count, SUM(ro.total_amount) as total_amount 
FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id 
GROUP BY u.username;
