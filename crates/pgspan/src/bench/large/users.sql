-- Home: ${users} users, a new one every minute.
CREATE TABLE users (
    user_id int NOT NULL,
    username varchar(50) NOT NULL,
    email varchar(100) NOT NULL,
    first_name varchar(50),
    last_name varchar(50),
    country varchar(2),
    created_at timestamp
);
INSERT INTO users
SELECT i, 'user_' || i, 'user_' || i || '@example.com', 'First' || (i % 1000), 'Last' || (i % 5000),
       (ARRAY['US', 'DE', 'CN', 'FR', 'JP', 'BR', 'IN', 'GB'])[1 + i % 8],
       timestamp '2024-01-01' + i * interval '1 minute'
FROM generate_series(1, ${users}) i;
ALTER TABLE users ADD PRIMARY KEY (user_id);
ALTER TABLE users ADD UNIQUE (username)
