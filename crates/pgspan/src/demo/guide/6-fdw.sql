CREATE EXTENSION IF NOT EXISTS postgres_fdw;
CREATE SERVER IF NOT EXISTS orders_server FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$ORDERS_WRITER', port '5432', dbname 'ordersdb');
CREATE USER MAPPING IF NOT EXISTS FOR postgres SERVER orders_server OPTIONS (user 'postgres', password '$PGPASSWORD');
CREATE FOREIGN TABLE IF NOT EXISTS remote_orders (order_id INTEGER, user_id INTEGER, product_name VARCHAR(100), quantity INTEGER, unit_price DECIMAL(10,2), total_amount DECIMAL(10,2), order_status VARCHAR(20), order_date TIMESTAMP) SERVER orders_server OPTIONS (schema_name 'public', table_name 'orders');
SELECT 'FDW配置成功', COUNT(*) FROM remote_orders;
\q
