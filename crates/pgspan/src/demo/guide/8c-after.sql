-- 应该能看到新增的订单
SELECT u.username, ro.product_name, ro.total_amount, ro.order_status FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id WHERE u.username = 'john_doe' ORDER BY ro.order_date DESC;

-- 验证聚合数据也实时更新
SELECT u.username, COUNT(ro.order_id) as total_orders, SUM(ro.total_amount) as total_spent FROM users u LEFT JOIN remote_orders ro ON u.user_id = ro.user_id WHERE u.username = 'john_doe' GROUP BY u.username;
