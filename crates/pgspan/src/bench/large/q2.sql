SELECT COUNT(*) FROM (SELECT u.username, ro.product_name FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id) t
