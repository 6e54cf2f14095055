-- An account's id is changed: what it has used and paid, and what waits for it, goes with it; who gets the old id has none of it (DESIGN L4, I9).
SET client_min_messages = warning;
CREATE SCHEMA ar;
SET search_path = ar, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text REFERENCES users ON UPDATE CASCADE, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA ar;
CREATE VIEW state AS
  SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances,
    (SELECT string_agg(workflow_id || ' ' || user_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id, user_id) FROM token_balance.settlement) AS settlements,
    (SELECT string_agg(workflow_id || ' ' || user_id || ' ' || tokens, ', ' ORDER BY workflow_id, user_id) FROM token_balance.queue) AS queued;
-- settled, renamed, and late usage
INSERT INTO token_usage VALUES ('w1', 'ann', 100);
INSERT INTO workflows VALUES ('w1', 'ann', 'completed');
UPDATE users SET id = 'eve' WHERE id = 'ann';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w1', 'eve', 10);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM state;
-- the new owner of the old id
INSERT INTO users VALUES ('ann');
INSERT INTO token_usage VALUES ('w1', 'ann', 1);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- renamed while charges wait: also those that a transaction with one snapshot left
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue');
INSERT INTO token_usage VALUES ('w2', 'bob', 7);
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO workflows VALUES ('w2', 'bob', 'completed');
COMMIT;
SELECT queued FROM state;
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE users SET id = 'dan' WHERE id = 'bob';
INSERT INTO users VALUES ('bob');
COMMIT;
SELECT * FROM state;
SELECT token_balance.balance('bob') ->> 'token_balance' AS bob, token_balance.balance('dan') ->> 'token_balance' AS dan;
SELECT token_balance.settle_pending() ->> 'applied' AS applied;
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- what was left in the queue goes along with 'wait' as well
INSERT INTO token_usage VALUES ('w4', 'bob', 6);
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO workflows VALUES ('w4', 'bob', 'completed');
COMMIT;
ALTER TABLE token_balance.binding DISABLE TRIGGER owner_only;
UPDATE token_balance.binding SET busy_account = 'wait';
ALTER TABLE token_balance.binding ENABLE ALWAYS TRIGGER owner_only;
UPDATE users SET id = 'pat' WHERE id = 'bob';
INSERT INTO users VALUES ('bob');
SELECT token_balance.settle_pending() ->> 'applied' AS applied;
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
DROP EXTENSION token_balance CASCADE;
SET client_min_messages = error;
DROP SCHEMA ar CASCADE;
