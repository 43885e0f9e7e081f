CREATE FOREIGN TABLE ${name} (
    order_id int NOT NULL,
    user_id int NOT NULL,
    product_name varchar(100) NOT NULL,
    quantity int NOT NULL,
    unit_price decimal(10,2) NOT NULL,
    total_amount decimal(10,2) NOT NULL,
    order_status varchar(20),
    order_date timestamp
) SERVER ${server} OPTIONS (schema_name 'public', table_name '${table}')
