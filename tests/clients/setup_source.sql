-- The source's side: the guide's orders, a table of many types, tables to write to.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE orders (
    order_id serial PRIMARY KEY, user_id int, product_name varchar(100), quantity int,
    unit_price numeric(10,2), total_amount numeric(10,2), order_status varchar(20),
    order_date timestamp DEFAULT '2024-05-01 12:00:00');
INSERT INTO orders (user_id, product_name, quantity, unit_price, total_amount, order_status) VALUES
    (1, 'Laptop', 1, 999.99, 999.99, 'completed'),
    (1, 'Mouse', 2, 29.99, 59.98, 'completed'),
    (2, 'Smartphone', 1, 699.99, 699.99, 'pending'),
    (3, 'Tablet', 1, 399.99, 399.99, 'completed'),
    (4, 'Monitor', 2, 299.99, 599.98, 'completed'),
    (5, 'Headphones', 1, 149.99, 149.99, 'pending');
CREATE TABLE kinds (
    id int PRIMARY KEY, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric,
    b boolean, t text, v varchar(20), c char(5), by bytea, d date, ti time, tz timestamptz,
    ts timestamp, iv interval, u uuid, j json, jb jsonb, ia int[], ta text[], ip inet, m mood);
INSERT INTO kinds VALUES
    (1, 1, 9007199254740993, 0.1, 0.1, 1.10, true, 'plain', 'vary', 'ab', '\x00ff10', '2024-02-29',
     '23:59:59.5', '2024-02-29 23:59:59+00', '2024-02-29 23:59:59.123456', '1 day 02:03:04.5',
     '00000000-0000-0000-0000-000000000001', '{"a": [1, null]}', '{"b": 2}', '{1,NULL,3}',
     '{a,"b c",NULL}', '10.0.0.1/24', 'ok'),
    (2, -32768, -1, -0.0, 'NaN', 'NaN', false, 'é''\\"', '', '', '\x', '0044-03-15 BC', '00:00',
     'infinity', '-infinity', '-1 mon', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '[]', 'null',
     '{}', '{}', '::1', 'sad'),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE notes (id int PRIMARY KEY, body text NOT NULL, CHECK (body <> 'forbidden'));
CREATE TABLE many (id int PRIMARY KEY, name text);
INSERT INTO many SELECT g, 'name ' || g FROM generate_series(1, 2000) g;
CREATE TABLE shrinking (id int PRIMARY KEY, name text);
INSERT INTO shrinking VALUES (1, 'one');
CREATE VIEW failing AS SELECT id, 1 / (id - 3) AS q FROM kinds;
ANALYZE;
