-- A migration dropped the balance column, and after the next attach everybody had the initial balance although the ledger knew better (DESIGN J1, J2, J3).
\set SHOW_CONTEXT never
CREATE SCHEMA cd;
SET search_path = cd, public;
\i common/tables.sql
ALTER TABLE users ADD email text;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid'), ('dan');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA cd;
\i common/try.sql
CREATE VIEW entries AS SELECT user_id, kind, amount, new_balance, note FROM token_balance.ledger ORDER BY user_id, entry_id;
INSERT INTO workflows VALUES ('w1', 'ann'), ('w2', 'ann'), ('w3', 'bob');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w2', 'ann', 20), ('w3', 'bob', 3);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT token_balance.credit('bob', 500) ->> 'new_balance' AS bob, token_balance.adjust('dan', -1000001) ->> 'new_balance' AS dan;
TABLE users ORDER BY id;
TABLE entries;

ALTER TABLE users DROP token_balance;
-- what needs the column says so and what to do
CALL pg_temp.try($$SELECT settle_workflow('w2')$$);
CALL pg_temp.try($$UPDATE workflows SET status = 'completed' WHERE id = 'w2'$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1)$$);
CALL pg_temp.try($$SELECT token_balance.adjust('ann', 1)$$);
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w1')$$);
CALL pg_temp.try($$SELECT token_balance.summary('ann')$$);
CALL pg_temp.try($$SELECT * FROM token_balance.statement('ann')$$);
CALL pg_temp.try($$SELECT * FROM token_balance.overdrawn$$);
SELECT name, ok, detail FROM token_balance.verify() WHERE NOT ok;
SELECT problem, left(hint, 40) AS hint FROM token_balance.reconcile();
-- users and usage go on; the ledger has nothing of it but another id
INSERT INTO users VALUES ('eve');
UPDATE users SET email = 'ann@new' WHERE id = 'ann';
UPDATE users SET id = 'rob' WHERE id = 'bob';
UPDATE token_usage SET user_id = 'rob' WHERE user_id = 'bob';
INSERT INTO token_usage VALUES ('w2', 'ann', 4);
SELECT * FROM entries WHERE user_id NOT IN ('ann', 'dan');
-- the balances come back, without an entry
SET client_min_messages = notice;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SET client_min_messages = warning;
TABLE users ORDER BY id;
SELECT count(*) FROM entries;
SELECT problem FROM token_balance.reconcile();
SELECT name FROM token_balance.verify() WHERE NOT ok;
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
SELECT token_balance.balance('ann');

-- in a narrower type there is no room: nothing is changed
ALTER TABLE users ALTER token_balance TYPE bigint;
SELECT token_balance.credit('rob', 3000000000) ->> 'new_balance' AS rob;
ALTER TABLE users DROP token_balance;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle')$$);
SELECT attname FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0 AND NOT attisdropped;
SELECT late_usage FROM token_balance.binding;
-- an option changes with it, and what waits in the queue is paid
INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) VALUES ('ann', 'w1', 6, 'me');
UPDATE token_balance.settlement SET usage_tokens = 106, charged_tokens = 106 WHERE workflow_id = 'w1';
INSERT INTO token_usage VALUES ('w1', 'ann', 6);
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', late_usage => 'settle');
TABLE users ORDER BY id;
SELECT * FROM entries WHERE user_id = 'ann';
SELECT tokens FROM token_balance.queue;
-- with late usage charged at once: it is written all the same
ALTER TABLE users DROP token_balance;
INSERT INTO token_usage VALUES ('w2', 'ann', 5);
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', late_usage => 'settle');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS late;
TABLE users ORDER BY id;

-- the application made it anew: everybody has the default, and attach says that the ledger knows better
ALTER TABLE users DROP token_balance;
ALTER TABLE users ADD token_balance bigint NOT NULL DEFAULT 1000000;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT problem, user_id, expected, found FROM token_balance.reconcile() WHERE problem LIKE 'balance%' ORDER BY user_id;
ALTER TABLE users DROP COLUMN token_balance CASCADE;
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint');
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint');
TABLE users ORDER BY id;
-- one that has no default: what is missing comes from the ledger
ALTER TABLE users DROP token_balance;
ALTER TABLE users ADD token_balance numeric(10);
INSERT INTO users VALUES ('fay', NULL, 77);
SET client_min_messages = notice;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SET client_min_messages = warning;
TABLE users ORDER BY id;
ALTER TABLE users DROP token_balance;
ALTER TABLE users ADD token_balance smallint;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', initial_balance => 10)$$);
ALTER TABLE users DROP token_balance;

-- triggers of the application see the UPDATE; one that is in the way is an error
CREATE FUNCTION no_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER no_change BEFORE UPDATE ON users FOR EACH ROW WHEN (OLD.id = 'dan') EXECUTE FUNCTION no_change();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint')$$);
DROP TRIGGER no_change ON users;
-- balances that are kept from others are given back all the same, and the migration has to say CASCADE
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', outside_changes => 'keep');
TABLE users ORDER BY id;
CALL pg_temp.try('ALTER TABLE users DROP token_balance');
ALTER TABLE users DROP token_balance CASCADE;
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', outside_changes => 'keep');
UPDATE users SET token_balance = 0;
TABLE users ORDER BY id;
ALTER TABLE users ALTER token_balance DROP NOT NULL;
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', outside_changes => 'keep');
ALTER TABLE users DROP token_balance CASCADE;
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint', outside_changes => 'refuse');
SELECT problem FROM token_balance.reconcile();

-- detach drops it, and attach takes it from the ledger
SELECT token_balance.detach(drop_column => true);
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_type => 'bigint');
TABLE users ORDER BY id;
SELECT problem FROM token_balance.reconcile();
SELECT count(*) FROM entries;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA cd CASCADE;
