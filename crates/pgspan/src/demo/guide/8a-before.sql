SELECT u.username, ro.product_name, ro.total_amount, ro.order_status FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id WHERE u.username = 'john_doe';
