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
    FROM unnest('{tab,tab1,mytab,test_table,table1,tbl,users,addresses,items,some_table,data_table,stuff,test_tpc,test_with,test_args,test_null,cqueries,booktest,tcopy,isolevel}'::text[]) AS name
\gexec
