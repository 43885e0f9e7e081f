SELECT u.username, ro.product_name, ro.total_amount FROM users u JOIN remote_orders ro ON u.user_id = ro.user_id WHERE u.country = 'US' AND u.created_at < '2024-01-02'
