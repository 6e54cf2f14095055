-- 200 users: a trace names none.
SET ROLE platform;
INSERT INTO users (id, email)
SELECT n, format('user%s@example.com', lpad(n::text, 3, '0')) FROM generate_series(1, 200) n;
