INSERT INTO users (username, email, first_name, last_name) VALUES ('john_doe', 'john.doe@example.com', 'John', 'Doe');
INSERT INTO users (username, email, first_name, last_name) VALUES ('jane_smith', 'jane.smith@example.com', 'Jane', 'Smith');
INSERT INTO users (username, email, first_name, last_name) VALUES ('bob_wilson', 'bob.wilson@example.com', 'Bob', 'Wilson');
INSERT INTO users (username, email, first_name, last_name) VALUES ('alice_brown', 'alice.brown@example.com', 'Alice', 'Brown');
INSERT INTO users (username, email, first_name, last_name) VALUES ('charlie_davis', 'charlie.davis@example.com', 'Charlie', 'Davis');
SELECT COUNT(*) FROM users;
\q
