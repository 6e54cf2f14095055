-- What is detached is remembered: nothing is forgiven, nothing is charged twice, nobody inherits a stranger's.
\set SHOW_CONTEXT never
SET client_min_messages = notice;
CREATE SCHEMA re;
SET search_path = re, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA re;
CREATE PROCEDURE platform() LANGUAGE plpgsql AS $$
BEGIN
  CREATE TABLE users (id text PRIMARY KEY);
  CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id text, total_tokens integer);
  CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
  INSERT INTO users VALUES ('ann'), ('bob');
  PERFORM token_balance.attach('users', 'token_usage', 'workflows');
END $$;
CREATE PROCEDURE run(workflow text, account text, tokens integer, is_completed boolean DEFAULT true) LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO workflows VALUES (workflow, account) ON CONFLICT DO NOTHING;
  INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (workflow, account, tokens);
  UPDATE workflows SET status = 'completed' WHERE id = workflow AND is_completed;
END $$;
CREATE VIEW bindings AS SELECT binding_id, name, accounts_id, usage_name, detached_at IS NULL AS attached FROM token_balance.binding ORDER BY 1;

-- a detach, a migration and an attach forgave the usage of open runs (DESIGN B7)
BEGIN;
CALL platform();
CALL run('open', 'ann', 900, false);
CALL run('late', 'ann', 100);
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('late', 'ann', 50);
SELECT token_balance.detach();
ALTER TABLE workflows ALTER status TYPE varchar(300);
-- completes while nothing is attached
CALL run('meanwhile', 'ann', 7);
TABLE bindings;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
TABLE bindings;
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT token_balance.settle_pending();
SELECT * FROM users ORDER BY id;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- the same said with existing_usage => 'exempt' is refused, and says what it would forgive (DESIGN B8)
BEGIN;
CALL platform();
CALL run('open', 'ann', 900, false);
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'exempt')$$);
UPDATE workflows SET status = 'completed';
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
-- where nothing waits it forgives nothing
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'exempt');
ROLLBACK;

-- the account of the workflow pays: what it has paid is found by its workflow
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
INSERT INTO workflows VALUES ('w1', 'ann'), ('w2', 'ann');
INSERT INTO token_usage VALUES ('w1', 10), ('w2', 20);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
SELECT * FROM users;
ROLLBACK;

-- usage was rebuilt as a new table and renamed into place: verify()'s own hint, followed, exempted open usage (DESIGN B9)
BEGIN;
CALL platform();
CALL run('done', 'ann', 10);
CALL run('open', 'ann', 7, false);
CREATE TABLE rebuilt (LIKE token_usage INCLUDING ALL);
INSERT INTO rebuilt (workflow_id, user_id, total_tokens) SELECT workflow_id, user_id, total_tokens FROM token_usage;
ALTER TABLE token_usage RENAME TO token_usage_old;
ALTER TABLE rebuilt RENAME TO token_usage;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT * FROM users ORDER BY id;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
TABLE bindings;
DROP TABLE token_usage_old;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- usage made anew with the same ids and other usage in them: the caller says what the ids mean (DESIGN B10)
BEGIN;
CALL platform();
CALL run('1', 'ann', 1000);
CALL run('2', 'ann', 1000);
DROP TABLE token_usage;
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id text, total_tokens integer);
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('1', 'ann', 5), ('2', 'ann', 1000);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'other')$$);
SAVEPOINT said;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new', existing_usage => 'charge');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
SELECT binding_id, workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT * FROM token_balance.reconcile();
SELECT amount, binding_id, accounts_id FROM token_balance.ledger ORDER BY created_at, entry_id;
ROLLBACK TO said;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'same');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
TABLE bindings;
ROLLBACK;
-- an empty one says nothing of its ids
BEGIN;
CALL platform();
CALL run('1', 'ann', 1000);
DROP TABLE token_usage;
CREATE TABLE token_usage (id bigint, workflow_id text, user_id text, total_tokens integer);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
ROLLBACK;

-- one binding tried, then another with serial ids of its own: they share no ids (DESIGN S13)
BEGIN;
CALL platform();
CALL run('1', 'ann', 1000);
SELECT token_balance.detach();
CREATE TABLE image_usage (LIKE token_usage);
CREATE TABLE image_runs (LIKE workflows INCLUDING ALL);
SELECT token_balance.attach('users', 'image_usage', 'image_runs');
INSERT INTO image_runs VALUES ('1', 'ann');
INSERT INTO image_usage (id, workflow_id, user_id, total_tokens) VALUES (1, '1', 'ann', 30);
UPDATE image_runs SET status = 'completed';
SELECT * FROM users ORDER BY id;
SELECT settle_workflow('1') ->> 'status' AS status, token_balance.refund_workflow('1') ->> 'amount' AS refunded;
SELECT * FROM token_balance.reconcile();
-- and back: the first one knows what it knew
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT settle_workflow('1') ->> 'status' AS status, token_balance.refund_workflow('1') ->> 'amount' AS refunded;
SELECT * FROM users ORDER BY id;
SELECT binding_id, workflow_id, user_id, charged_tokens, refunded_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT entry_id, kind, amount, binding_id FROM token_balance.ledger ORDER BY user_id, entry_id;
SELECT * FROM token_balance.reconcile();
TABLE bindings;
ROLLBACK;

-- users made anew by a rebuild, with its balances: it goes on (DESIGN B11)
BEGIN;
CALL platform();
CALL run('w1', 'ann', 10);
CREATE TABLE copy (LIKE users INCLUDING ALL);
INSERT INTO copy TABLE users;
DROP TABLE users CASCADE;
ALTER TABLE copy RENAME TO users;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
CALL run('w2', 'ann', 1);
SELECT * FROM users ORDER BY id;
SELECT entry_id, kind, amount, new_balance FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id;
SELECT * FROM token_balance.reconcile();
TABLE bindings;
ROLLBACK;
-- by a script that makes all tables for other people with the same ids: nobody inherits a balance or a debt
BEGIN;
CALL platform();
CALL run('w1', 'ann', 2000000);
SELECT token_balance.credit('ann', 5, 'pay-1') ->> 'new_balance' AS new_balance;
DROP TABLE users, token_usage, workflows CASCADE;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
INSERT INTO workflows VALUES ('w1', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 3);
UPDATE workflows SET status = 'completed';
SELECT * FROM users;
-- a stranger's payment is not replayed
SELECT token_balance.credit('ann', 5, 'pay-1') - 'user_id' AS credit;
SELECT kind, amount, reference FROM token_balance.statement('ann');
SELECT * FROM token_balance.reconcile();
TABLE bindings;
ROLLBACK;
-- users made anew with balances that the ledger does not have
BEGIN;
CALL platform();
CALL run('w1', 'ann', 10);
DROP TABLE users CASCADE;
CREATE TABLE users (id text PRIMARY KEY, token_balance integer);
INSERT INTO users VALUES ('ann', 77), ('bob', 5);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'same');
SELECT entry_id, kind, amount, previous_balance, new_balance FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- users are renamed away, others have their name: no trigger of ours stays on what is bound no more (DESIGN B9)
BEGIN;
CALL platform();
CALL run('w1', 'ann', 10);
ALTER TABLE users RENAME TO people;
CREATE TABLE users (id text PRIMARY KEY, token_balance integer NOT NULL DEFAULT 1000000);
INSERT INTO users TABLE people;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT count(*) AS triggers_left FROM pg_trigger WHERE tgrelid = 'people'::regclass AND NOT tgisinternal;
UPDATE people SET token_balance = 1;
CALL run('w2', 'ann', 1);
SELECT * FROM users ORDER BY id;
ROLLBACK;

-- an account's id changed, then its payment's reference retried under the new id: credited once (DESIGN C7)
BEGIN;
CALL platform();
SELECT token_balance.credit('ann', 100, 'pay-1') ->> 'new_balance' AS new_balance;
UPDATE users SET id = 'anna' WHERE id = 'ann';
SELECT token_balance.credit('anna', 100, 'pay-1') AS replayed;
-- who gets the old id next has none of it
INSERT INTO users VALUES ('ann');
SELECT token_balance.credit('ann', 100, 'pay-1') AS fresh;
-- both had the reference: the account that has the id now is answered by its own
UPDATE users SET id = 'old-anna' WHERE id = 'anna';
UPDATE users SET id = 'anna' WHERE id = 'ann';
SELECT token_balance.credit('anna', 100, 'pay-1') ->> 'previous_balance' AS previous_balance;
SELECT accounts_id, user_id, reference, kind, amount FROM token_balance.reference ORDER BY 1, 2, 3;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- the ledger's trigger is off: what the extension does has its entry and its reference all the same (DESIGN L8)
BEGIN;
CALL platform();
ALTER TABLE users DISABLE TRIGGER USER;
SELECT token_balance.credit('ann', 100, 'pay-1') ->> 'replayed' AS replayed;
SELECT token_balance.credit('ann', 100, 'pay-1') ->> 'replayed' AS replayed;
CALL run('w1', 'ann', 10);
SELECT token_balance.refund_workflow('w1', 4, 'sorry') ->> 'replayed' AS replayed;
SELECT token_balance.refund_workflow('w1', 4, 'sorry') ->> 'replayed' AS replayed;
ALTER TABLE users ENABLE TRIGGER USER;
SET LOCAL session_replication_role = replica;
SELECT token_balance.credit('ann', 1, 'pay-2') ->> 'replayed' AS replayed;
SELECT token_balance.credit('ann', 1, 'pay-2') ->> 'replayed' AS replayed;
SET LOCAL session_replication_role = origin;
SELECT entry_id, kind, amount, previous_balance, new_balance, reference FROM token_balance.ledger ORDER BY entry_id;
SELECT * FROM users ORDER BY id;
SELECT problem FROM token_balance.reconcile();
ROLLBACK;

-- sequences are not replicated: an account's entries are numbered, whatever those say (DESIGN L9)
BEGIN;
CALL platform();
CALL run('w1', 'ann', 10);
CALL run('w2', 'ann', 10);
SELECT setval('token_balance.ledger_entry_id_seq', 1, false), setval('token_balance.queue_charge_id_seq', 1, false);
CALL run('w3', 'ann', 10);
CALL run('w4', 'bob', 10);
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue');
CALL run('w5', 'bob', 10);
SELECT user_id, entry_id, new_balance FROM token_balance.ledger ORDER BY user_id, entry_id;
SELECT * FROM token_balance.reconcile();
ROLLBACK;

-- another payer column, and back: the first binding does not know what the second one has charged (DESIGN B13)
BEGIN;
CALL platform();
CALL run('late', 'ann', 100);
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('late', 'ann', 5);
CALL run('open', 'ann', 7, false);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL)$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
INSERT INTO workflows VALUES ('p', 'bob');
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('p', 'ann', 70000);
UPDATE workflows SET status = 'completed' WHERE id = 'p';
SELECT * FROM users ORDER BY id;
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
TABLE bindings;
ROLLBACK;

-- serial ids that begin again, with larger runs under them: nothing agrees (DESIGN B10)
BEGIN;
CALL platform();
CALL run('1', 'ann', 1000);
CALL run('2', 'ann', 500);
DROP TABLE token_usage;
CREATE TABLE token_usage (id bigint, workflow_id text, user_id text, total_tokens integer);
INSERT INTO token_usage VALUES (1, '1', 'ann', 5000), (2, '2', 'ann', 600);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
ROLLBACK;
-- other people, and the one account that the ledger knows stands at what each new account has (DESIGN B11)
BEGIN;
CALL platform();
CALL run('1', 'ann', 10);
SELECT token_balance.refund_workflow('1', 10, 'all') ->> 'amount' AS refunded;
DROP TABLE users CASCADE;
CREATE TABLE users (id text PRIMARY KEY, token_balance integer NOT NULL DEFAULT 1000000);
INSERT INTO users VALUES ('ann');
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
ROLLBACK;

-- an older version has forgotten which tables were detached: the usage says (DESIGN B10)
BEGIN;
CALL platform();
CALL run('late', 'ann', 100);
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('late', 'ann', 5);
CALL run('done', 'ann', 10);
CALL run('open', 'ann', 7, false);
SELECT token_balance.detach();
DELETE FROM token_balance.binding;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
UPDATE workflows SET status = 'completed';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS charged;
SELECT * FROM users ORDER BY id;
ROLLBACK;

-- the session that attaches, and settled between the rename and the attach, goes by the new table (DESIGN B9)
BEGIN;
CALL platform();
CALL run('c', 'ann', 1000);
CREATE TABLE rebuilt (LIKE token_usage INCLUDING ALL);
INSERT INTO rebuilt (workflow_id, user_id, total_tokens) SELECT workflow_id, user_id, total_tokens FROM token_usage;
ALTER TABLE token_usage RENAME TO token_usage_old;
ALTER TABLE rebuilt RENAME TO token_usage;
SELECT settle_workflow('c') ->> 'status' AS status;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
CALL run('n', 'ann', 500);
SELECT * FROM users ORDER BY id;
ROLLBACK;
-- usage that was renamed, and then made anew under its present name, exempted what waited (DESIGN B18)
BEGIN;
CALL platform();
CALL run('done', 'ann', 100);
CALL run('open', 'ann', 900, false);
ALTER TABLE token_usage RENAME TO calls;
CREATE TABLE rebuilt (LIKE calls);
INSERT INTO rebuilt TABLE calls;
DROP TABLE calls;
ALTER TABLE rebuilt RENAME TO calls;
SELECT token_balance.attach('users', 'calls', 'workflows');
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT * FROM users ORDER BY id;
SELECT token_balance.refund_workflow('done') ->> 'amount' AS amount;
SELECT binding_id, usage_name, attached FROM bindings;
-- users, too
ALTER TABLE users RENAME TO people;
CREATE TABLE rebuilt (LIKE people INCLUDING ALL);
INSERT INTO rebuilt TABLE people;
DROP TABLE people CASCADE;
ALTER TABLE rebuilt RENAME TO people;
SELECT token_balance.attach('people', 'calls', 'workflows');
SELECT accounts_id, attached FROM bindings;
SELECT * FROM token_balance.reconcile();
ROLLBACK;
-- another one with nothing of it is another one
BEGIN;
CALL platform();
CALL run('done', 'ann', 100);
DROP TABLE token_usage;
CREATE TABLE calls (workflow_id text, user_id text, total_tokens integer);
INSERT INTO calls VALUES ('elsewhere', 'ann', 5);
SELECT token_balance.attach('users', 'calls', 'workflows');
SELECT binding_id, usage_name, attached FROM bindings;
ROLLBACK;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA re CASCADE;
