INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (1, 'Gaming Keyboard', 1, 129.99, 129.99, 'processing');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (1, 'Webcam HD', 1, 89.99, 89.99, 'shipped');
SELECT 'New orders added' as status;
\q
