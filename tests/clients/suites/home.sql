-- Home's side of the suites' databases: what the suites' instructions ask for, and foreign
-- tables, out of the search path, under names that the suites give to tables of their own,
-- so that the gateway looks at their statements rather than relaying them unseen.
CREATE EXTENSION hstore;
CREATE SCHEMA test_schema;
CREATE SCHEMA test_schema_2;
CREATE EXTENSION postgres_fdw;
CREATE SERVER rows_server FOREIGN DATA WRAPPER postgres_fdw
    OPTIONS (host :'source_host', port :'source_port', dbname 'clients_source');
CREATE USER MAPPING FOR postgres SERVER rows_server OPTIONS (user 'postgres', password :'source_password');
CREATE SCHEMA elsewhere;
SELECT format('CREATE FOREIGN TABLE elsewhere.%I (id int, data text) SERVER rows_server OPTIONS (table_name ''rows'')', name)
    FROM unnest('{tab,tab1,mytab,test_table,table1,tbl,users,addresses,items,some_table,data_table,stuff,test_tpc,test_with,test_args,test_null,cqueries,booktest,tcopy,isolevel,person,foo,tweet,tweet_reply,products,test_citext,"user",post,comment}'::text[]) AS name
\gexec

-- Roles for each way of asking for a password, in the server's own words.
SELECT format('DROP ROLE IF EXISTS %I', name) FROM unnest('{pass_user,md5_user,scram_user}'::text[]) AS name
\gexec
CREATE ROLE pass_user LOGIN PASSWORD 'password';
SET password_encryption = 'md5';
CREATE ROLE md5_user LOGIN PASSWORD 'password';
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram_user LOGIN PASSWORD 'password';
SELECT format($$COPY (
        SELECT 'host all pass_user 127.0.0.0/8 password' UNION ALL SELECT 'host all md5_user 127.0.0.0/8 md5'
        UNION ALL SELECT line FROM regexp_split_to_table(%L, E'\n') AS line WHERE line !~ ' (pass|md5)_user '
    ) TO %L$$, pg_read_file(file), file) FROM current_setting('hba_file') AS file
\gexec
SELECT pg_reload_conf();
