-- The source: ${orders} orders of ${users} users, drawn at random with a fixed seed.
CREATE TABLE ${table} (
    order_id int NOT NULL,
    user_id int NOT NULL,
    product_name varchar(100) NOT NULL,
    quantity int NOT NULL DEFAULT 1,
    unit_price decimal(10,2) NOT NULL,
    total_amount decimal(10,2) NOT NULL,
    order_status varchar(20) DEFAULT 'pending',
    order_date timestamp DEFAULT current_timestamp
);
SELECT setseed(0.42);
INSERT INTO ${table}
SELECT i, 1 + (random() * (${users} - 1))::int, 'Product ' || (i % 5000), 1 + i % 5,
       ((i * 7919) % 100000) / 100.0 + 1, ((i * 104729) % 500000) / 100.0 + 1,
       (ARRAY['pending', 'completed', 'shipped', 'processing'])[1 + i % 4],
       timestamp '2024-06-01' + (i % 500000) * interval '1 minute'
FROM generate_series(1::bigint, ${orders}) i;
ALTER TABLE ${table} ADD PRIMARY KEY (order_id);
CREATE INDEX ON ${table} (user_id);
CREATE INDEX ON ${table} (order_status, order_date)
