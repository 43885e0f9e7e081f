-- What the tests expect of their database, besides hstore.
CREATE EXTENSION citext;
CREATE EXTENSION ltree;
