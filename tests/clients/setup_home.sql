-- Home's side. source_host, source_port and source_password are psql variables.
CREATE EXTENSION postgres_fdw;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (x int, y text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE SERVER orders_server FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'source_host', port :'source_port', dbname 'clients_source');
CREATE USER MAPPING FOR postgres SERVER orders_server OPTIONS (user 'postgres', password :'source_password');
CREATE TABLE users (
    user_id serial PRIMARY KEY, username varchar(50) UNIQUE NOT NULL, email varchar(100),
    first_name varchar(50), last_name varchar(50), created_at timestamp DEFAULT '2024-01-01');
INSERT INTO users (username, email, first_name, last_name) VALUES
    ('john_doe', 'john@example.com', 'John', 'Doe'),
    ('jane_smith', 'jane@example.com', 'Jane', 'Smith'),
    ('bob_wilson', 'bob@example.com', 'Bob', 'Wilson'),
    ('alice_brown', 'alice@example.com', 'Alice', 'Brown'),
    ('charlie_davis', NULL, 'Charlie', 'Davis');
COMMENT ON TABLE users IS 'who buys';
CREATE FOREIGN TABLE remote_orders (
    order_id int, user_id int, product_name varchar(100), quantity int, unit_price numeric(10,2),
    total_amount numeric(10,2), order_status varchar(20), order_date timestamp)
    SERVER orders_server OPTIONS (schema_name 'public', table_name 'orders');
CREATE FOREIGN TABLE remote_kinds (
    id int, i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric,
    b boolean, t text, v varchar(20), c char(5), by bytea, d date, ti time, tz timestamptz,
    ts timestamp, iv interval, u uuid, j json, jb jsonb, ia int[], ta text[], ip inet, m mood)
    SERVER orders_server OPTIONS (table_name 'kinds');
CREATE FOREIGN TABLE remote_notes (id int, body text NOT NULL)
    SERVER orders_server OPTIONS (table_name 'notes');
CREATE FOREIGN TABLE remote_many (id int, name text) SERVER orders_server OPTIONS (table_name 'many');
CREATE FOREIGN TABLE remote_shrinking (id int, name text)
    SERVER orders_server OPTIONS (table_name 'shrinking');
CREATE FOREIGN TABLE remote_failing (id int, q int) SERVER orders_server OPTIONS (table_name 'failing');
CREATE FOREIGN TABLE remote_absent (id int, name text) SERVER orders_server OPTIONS (table_name 'absent');
CREATE TABLE notes (id serial PRIMARY KEY, body text NOT NULL, mood mood DEFAULT 'ok',
    CHECK (body <> 'forbidden'));
CREATE TABLE pairs (id int PRIMARY KEY, p pair, ps pair[], r int4range, po positive);
INSERT INTO pairs VALUES (1, '(1,one)', '{"(2,two)",NULL}', '[1,5)', 7), (2, NULL, '{}', 'empty', NULL);
CREATE VIEW spending AS
    SELECT u.username, sum(o.total_amount) AS spent
    FROM users u LEFT JOIN remote_orders o USING (user_id) GROUP BY u.username;
CREATE MATERIALIZED VIEW order_days AS SELECT order_date::date AS day FROM remote_orders;
CREATE INDEX users_email ON users (lower(email));
CREATE FUNCTION complain(message text, level int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF level = 0 THEN RAISE NOTICE '%', message USING DETAIL = 'a detail', HINT = 'a hint'; END IF;
    IF level = 1 THEN RAISE WARNING '%', message USING ERRCODE = '01P01'; END IF;
    IF level = 2 THEN
        RAISE EXCEPTION '%', message USING ERRCODE = 'PS001', DETAIL = 'a detail', HINT = 'a hint',
            TABLE = 'users', COLUMN = 'email', CONSTRAINT = 'none', DATATYPE = 'text', SCHEMA = 'public';
    END IF;
    RETURN level;
END $$;
CREATE FUNCTION order_count(who int) RETURNS bigint LANGUAGE sql
    AS 'SELECT count(*) FROM remote_orders WHERE user_id = who';
CREATE PROCEDURE add_note(text) LANGUAGE sql AS 'INSERT INTO notes (body) VALUES ($1)';
ANALYZE users, notes, pairs;
