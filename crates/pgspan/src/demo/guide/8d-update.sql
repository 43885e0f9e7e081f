UPDATE orders SET order_status = 'delivered' WHERE user_id = 1 AND product_name = 'Gaming Keyboard';
SELECT 'Order status updated' as status;
\q
