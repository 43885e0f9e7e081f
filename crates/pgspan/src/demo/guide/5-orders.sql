INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (1, 'Laptop Computer', 1, 999.99, 999.99, 'completed');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (1, 'Wireless Mouse', 2, 29.99, 59.98, 'completed');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (2, 'Smartphone', 1, 699.99, 699.99, 'pending');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (3, 'Tablet', 1, 399.99, 399.99, 'completed');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (4, 'Monitor', 2, 299.99, 599.98, 'completed');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES (5, 'Headphones', 1, 149.99, 149.99, 'pending');
SELECT COUNT(*) FROM orders;
\q
