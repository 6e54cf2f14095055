-- After pgledger's own SQL: each user has an account of tokens and one of what was used, as a double entry wants it,
-- and the application remembers their ids. So transfers of two users share no account.
CREATE TABLE pgledger_account (user_id text PRIMARY KEY, available text NOT NULL, used text NOT NULL);
INSERT INTO pgledger_account
SELECT u.id, available.id, used.id
FROM users AS u, pgledger_create_account(u.id || '.available', 'TOKEN') AS available,
    pgledger_create_account(u.id || '.used', 'TOKEN') AS used;
