-- credit: tokens that are given to an account, once for a reference (DESIGN C1, C2, F12).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA cr;
SET search_path = cr, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA cr;
RESET client_min_messages;
\i common/try.sql
CREATE VIEW state AS SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances, count(*) AS entries FROM token_balance.ledger;

-- the whole answer, and what the ledger says
SELECT jsonb_pretty(token_balance.credit('ann', 500));
SELECT jsonb_pretty(token_balance.credit('ann', 250, 'invoice-1', 'January'));
SELECT user_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor = session_user AS actor_is_me FROM token_balance.ledger ORDER BY created_at, entry_id;
SELECT * FROM users ORDER BY id;

-- the same reference again answers as the first time, also when the balance has moved since, and changes nothing
UPDATE users SET token_balance = token_balance - 100 WHERE id = 'ann';
SELECT token_balance.credit('ann', 250, 'invoice-1', 'January');
SELECT token_balance.credit('ann', 250, 'invoice-1', 'another note') ->> 'replayed' AS replayed;
SELECT token_balance.credit('ann', 250.000, 'invoice-1') ->> 'replayed' AS replayed;
SELECT * FROM state;
SELECT note FROM token_balance.ledger WHERE reference = 'invoice-1';
-- with another amount it is an error
CALL pg_temp.try($$SELECT token_balance.credit('ann', 251, 'invoice-1')$$);
-- another account may have the same reference; without one, each call is a credit of its own
SELECT token_balance.credit('bob', 70, 'invoice-1') ->> 'replayed' AS replayed;
SELECT token_balance.credit('bob', 1) ->> 'new_balance' AS first, token_balance.credit('bob', 1) ->> 'new_balance' AS second;
-- two calls in one statement
SELECT token_balance.credit('bob', 5, 'twice') ->> 'replayed' AS first, token_balance.credit('bob', 5, 'twice') ->> 'replayed' AS second;
-- by name, with a note and no reference
SELECT token_balance.credit(user_id => 'bob', amount => 3, note => 'goodwill') ->> 'reference' AS reference;
SELECT kind, amount, reference, note FROM token_balance.ledger WHERE user_id = 'bob' ORDER BY entry_id;
SELECT * FROM state;

-- rolled back, the reference is free again
BEGIN;
SELECT token_balance.credit('ann', 9, 'invoice-2') ->> 'replayed' AS replayed;
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT token_balance.credit('ann', 9, 'invoice-2') ->> 'replayed' AS replayed;
ROLLBACK TO s;
SELECT token_balance.credit('ann', 8, 'invoice-2') ->> 'replayed' AS replayed;
COMMIT;
SELECT * FROM state;

-- amounts that make no sense
CALL pg_temp.try($$SELECT token_balance.credit('ann', 0)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', -1)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', -0.5)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 0.5)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1.5)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 'NaN')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 'Infinity')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', '-Infinity')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', NULL)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 9223372036854775808)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1e30)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', -1e30)$$);
-- out of the range of the column, integer here; and of the balance itself
CALL pg_temp.try($$SELECT token_balance.credit('ann', 9223372036854775807)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 2147483647)$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 2147483647, 'too much')$$);
-- references
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1, '')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1, repeat('x', 256))$$);
-- accounts
CALL pg_temp.try($$SELECT token_balance.credit('zoe', 1)$$);
CALL pg_temp.try($$SELECT token_balance.credit('zoe', 1, 'r')$$);
CALL pg_temp.try($$SELECT token_balance.credit(NULL, 1)$$);
CALL pg_temp.try($$SELECT token_balance.credit('', 1)$$);
-- none of them changed anything
SELECT * FROM state;
-- the reference of a failed credit is free; 255 characters of several bytes are fine
SELECT token_balance.credit('ann', 1, 'too much') ->> 'replayed' AS replayed;
SELECT length(token_balance.credit('ann', 1, repeat('é', 255)) ->> 'reference') AS length;
SELECT token_balance.credit('ann', 1, repeat('é', 255)) ->> 'replayed' AS replayed;
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1, repeat('é', 256))$$);
-- references are compared as they are
SELECT token_balance.credit('ann', 1, 'Invoice-1') ->> 'replayed' AS upper_case, token_balance.credit('ann', 1, 'invoice-1 ') ->> 'replayed' AS with_space;

-- read-only transaction
BEGIN READ ONLY;
SELECT token_balance.credit('ann', 1);
ROLLBACK;

-- up to the edge of the column, out of an overdraft
UPDATE users SET token_balance = -10 WHERE id = 'bob';
SELECT token_balance.credit('bob', 9) - 'reference' AS still_below;
SELECT token_balance.credit('bob', 1) - 'reference' AS zero;
SELECT token_balance.credit('bob', 2147483647) - 'reference' AS edge;
CALL pg_temp.try($$SELECT token_balance.credit('bob', 1)$$);
-- a wider column
DROP VIEW state;
ALTER TABLE users ALTER token_balance TYPE bigint;
SELECT token_balance.credit('bob', 9223372034707292160) ->> 'new_balance' AS edge;
CALL pg_temp.try($$SELECT token_balance.credit('bob', 1)$$);

-- a constraint of the application's own is its own error, and nothing is credited
ALTER TABLE users ADD CONSTRAINT at_most CHECK (id <> 'ann' OR token_balance < 2000000);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1500000, 'cap')$$);
ALTER TABLE users DROP CONSTRAINT at_most;
SELECT token_balance.credit('ann', 1500000, 'cap') ->> 'replayed' AS replayed;

-- a trigger of the application that changes what it leaves (a cap): a retry answers as the first time all the same
BEGIN;
CREATE FUNCTION cap() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.token_balance := least(NEW.token_balance, 1000000); RETURN NEW; END$$;
CREATE TRIGGER cap BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION cap();
UPDATE users SET token_balance = 999995 WHERE id = 'ann';
SELECT token_balance.credit('ann', 7, 'capped') - 'user_id' AS credited, token_balance.credit('ann', 7, 'capped') - 'user_id' AS again;
SELECT kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id DESC LIMIT 2;
INSERT INTO token_usage VALUES ('capped', 'ann', 100);
SELECT settle_workflow('capped') ->> 'new_balance' AS settled, token_balance.credit('ann', 60, 'more') ->> 'new_balance' AS credited;
SELECT token_balance.refund_workflow('capped', NULL, 'tick') -> 'refunds' AS refunded, token_balance.refund_workflow('capped', NULL, 'tick') -> 'refunds' AS again;
SELECT token_balance FROM users WHERE id = 'ann';
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- the chain is whole, and all adds up
SELECT * FROM users ORDER BY id;
SELECT * FROM token_balance.reconcile();

-- nothing attached
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1)$$);

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;

-- a key of another type: the id is taken as text, in any spelling of it
DROP TABLE users, token_usage, workflows;
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE token_usage (workflow_id uuid, user_id bigint, total_tokens integer);
CREATE TABLE workflows (id uuid PRIMARY KEY, user_id bigint, status text);
INSERT INTO users VALUES (7);
CREATE EXTENSION token_balance SCHEMA cr;
RESET client_min_messages;
SELECT token_balance.credit('7', 1, 'a') ->> 'user_id' AS plain, token_balance.credit(' 007', 1, 'a') ->> 'replayed' AS with_zeros;
CALL pg_temp.try($$SELECT token_balance.credit('seven', 1)$$);
CALL pg_temp.try($$SELECT token_balance.credit('8', 1)$$);
SET client_min_messages = warning;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA cr CASCADE;
