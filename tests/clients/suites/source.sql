-- The source's side of the suites' databases: tables that nobody reads.
CREATE TABLE rows (id int, data text);
INSERT INTO rows VALUES (1, 'not yours');
