-- attach's options: busy_account and late_usage. They can be changed in place; nothing else of a binding can (DESIGN F8, G2, G3, Q7, S11).
\set SHOW_CONTEXT never
CREATE SCHEMA op;
SET search_path = op, public;
SET client_min_messages = warning;
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE token_usage (workflow_id uuid, user_id integer, total_tokens integer) PARTITION BY RANGE (total_tokens);
CREATE TABLE small_usage PARTITION OF token_usage FOR VALUES FROM (0) TO (100);
CREATE TABLE large_usage PARTITION OF token_usage FOR VALUES FROM (100) TO (1000000000);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id uuid PRIMARY KEY, status text DEFAULT 'running');
INSERT INTO users VALUES (1), (2);
CREATE EXTENSION token_balance SCHEMA op;
SELECT busy_account, late_usage FROM token_balance.binding;
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'skip');
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'ignore');
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => NULL);
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => NULL);
-- changed in place, though another table is refused
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue', late_usage => 'settle');
SELECT busy_account, late_usage FROM token_balance.binding;
SELECT token_balance.attach('users', 'token_usage', busy_account => 'queue', late_usage => 'settle');
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%';

-- late usage, by INSERT, COPY and directly in a partition; of no workflow, of a running one, of a completed one
INSERT INTO workflows VALUES ('00000000-0000-0000-0000-000000000001', 'running'), ('00000000-0000-0000-0000-000000000002', 'done');
INSERT INTO token_usage VALUES ('00000000-0000-0000-0000-000000000001', 1, 10), ('00000000-0000-0000-0000-000000000002', 1, 200), (NULL, 1, 5),
  ('00000000-0000-0000-0000-000000000003', 1, 7), ('00000000-0000-0000-0000-000000000002', NULL, 7), ('00000000-0000-0000-0000-000000000002', 2, 3000);
INSERT INTO large_usage VALUES ('00000000-0000-0000-0000-000000000002', 2, 101);
COPY token_usage FROM stdin;
00000000-0000-0000-0000-000000000002	1	1
00000000-0000-0000-0000-000000000002	1	2
\.
SELECT * FROM users ORDER BY id;
-- a bad charge does not refuse the usage
INSERT INTO token_usage VALUES ('00000000-0000-0000-0000-000000000002', 3, 4);
INSERT INTO token_usage SELECT '00000000-0000-0000-0000-000000000002', 1, 999999999 FROM generate_series(1, 3);
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT id, token_balance.balance(id::text) FROM users ORDER BY id;
DELETE FROM token_usage WHERE total_tokens IN (4, 999999999);

-- the queue: an account that has charges there is overdrawn when they count
INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) VALUES ('1', '00000000-0000-0000-0000-000000000001', 2000000, 'me'), ('3', '00000000-0000-0000-0000-000000000001', 5, 'me');
SELECT user_id, token_balance, since FROM token_balance.overdrawn;
SELECT token_balance.balance('1');
SELECT token_balance.summary('1') -> 'token_balance' AS summary;
SELECT token_balance.balance_at('1', now() - interval '1 day') AS yesterday, token_balance.balance_at('1', clock_timestamp()) AS now;
SELECT entry_id IS NULL AS waits, kind, amount, previous_balance, new_balance, workflow_id, note, actor = current_user AS mine FROM token_balance.statement('1') ORDER BY created_at DESC LIMIT 1;
SELECT count(*) FROM token_balance.statement('1', until => now() - interval '1 day');
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
-- one charge that has no room does not keep the others
DELETE FROM token_balance.queue WHERE user_id = '3';
INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) VALUES ('1', '00000000-0000-0000-0000-000000000001', 2147000000, 'me'), ('1', '00000000-0000-0000-0000-000000000001', 5, 'me');
SELECT token_balance.settle_pending();
SELECT user_id, tokens FROM token_balance.queue ORDER BY charge_id;
SELECT user_id, token_balance, since IS NOT NULL AS known FROM token_balance.overdrawn;
-- the id of an account that has charges in the queue
UPDATE users SET id = 11 WHERE id = 1;
SELECT user_id, tokens FROM token_balance.queue ORDER BY charge_id;
DELETE FROM token_balance.queue;
-- nobody but the extension writes it
CREATE ROLE regress_tb_queue;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_queue;
GRANT ALL ON token_balance.queue TO regress_tb_queue;
SET ROLE regress_tb_queue;
INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) VALUES ('1', 'w', 1, 'me');
DELETE FROM token_balance.queue;
RESET ROLE;
DROP OWNED BY regress_tb_queue;
DROP ROLE regress_tb_queue;

-- back to the usual ones
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT busy_account, late_usage FROM token_balance.binding;
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%';
INSERT INTO token_usage VALUES ('00000000-0000-0000-0000-000000000002', 2, 50);
SELECT token_balance FROM users WHERE id = 2;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA op CASCADE;
