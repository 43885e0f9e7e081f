-- 批量插入测试数据
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) 
SELECT 
    (random() * 4 + 1)::int as user_id,
    'Test Product ' || generate_series as product_name,
    1 as quantity,
    (random() * 100 + 10)::decimal(10,2) as unit_price,
    (random() * 100 + 10)::decimal(10,2) as total_amount,
    CASE (random() * 3)::int WHEN 0 THEN 'pending' WHEN 1 THEN 'completed' ELSE 'shipped' END as order_status
FROM generate_series(1, 100);

SELECT 'Bulk test data inserted', COUNT(*) as total_orders FROM orders;
\q
