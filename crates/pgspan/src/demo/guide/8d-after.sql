-- 应该看到状态已更新为 'delivered'
SELECT ro.product_name, ro.order_status FROM remote_orders ro WHERE ro.user_id = 1 AND ro.product_name = 'Gaming Keyboard';
