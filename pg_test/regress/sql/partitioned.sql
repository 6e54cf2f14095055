-- Partitioned workflow, usage and users tables (DESIGN T3).
\set SHOW_CONTEXT never
CREATE SCHEMA pt;
SET search_path = pt, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer) PARTITION BY HASH (workflow_id);
CREATE TABLE token_usage_0 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE token_usage_1 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE workflows (id text, user_id text, status text, PRIMARY KEY (id, status)) PARTITION BY LIST (status);
CREATE TABLE workflows_open PARTITION OF workflows FOR VALUES IN ('pending', 'running');
CREATE TABLE workflows_closed PARTITION OF workflows FOR VALUES IN ('completed', 'failed');
INSERT INTO users VALUES ('ann');
INSERT INTO workflows VALUES ('w0', 'ann', 'completed');
INSERT INTO token_usage VALUES ('w0', 'ann', 1000);
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA pt;
RESET client_min_messages;
SELECT count(*) AS bound FROM token_balance.binding;
SELECT name FROM token_balance.verify() WHERE NOT ok;
CREATE FUNCTION ann() RETURNS bigint LANGUAGE sql AS 'SELECT token_balance FROM pt.users WHERE id = ''ann''';
-- old usage is exempt here as well
SELECT settle_workflow('w0') ->> 'tokens_used' AS tokens_used, ann();

INSERT INTO token_usage SELECT 'w' || i, 'ann', 10 ^ i FROM generate_series(1, 5) i;
-- a row that moves to another partition on completion
INSERT INTO workflows VALUES ('w1', 'ann', 'running');
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT ann();
-- inserted into the partition itself
INSERT INTO workflows_closed VALUES ('w2', 'ann', 'completed');
SELECT ann();
-- moves to the closed partition without being completed
INSERT INTO workflows VALUES ('w3', 'ann', 'running');
UPDATE workflows SET status = 'failed' WHERE id = 'w3';
SELECT ann();
-- completed within one partition
UPDATE workflows_closed SET status = 'completed' WHERE id = 'w3';
SELECT ann();
SELECT settle_workflow('w1') ->> 'status' AS status;

-- partitions that come later get the triggers; an attached one too
CREATE TABLE workflows_other PARTITION OF workflows DEFAULT;
INSERT INTO workflows VALUES ('w4', 'ann', 'waiting');
UPDATE workflows SET status = 'done' WHERE id = 'w4';
SELECT ann();
CREATE TABLE workflows_late (id text NOT NULL, user_id text, status text NOT NULL);
INSERT INTO workflows_late VALUES ('w5', 'ann', 'success');
DROP TABLE workflows_other;
ALTER TABLE workflows ATTACH PARTITION workflows_late FOR VALUES IN ('success', 'waiting');
SELECT ann();
UPDATE workflows SET status = 'waiting' WHERE id = 'w5';
UPDATE workflows SET status = 'success' WHERE id = 'w5';
SELECT ann();
-- a detached one loses them
ALTER TABLE workflows DETACH PARTITION workflows_late;
INSERT INTO token_usage VALUES ('w6', 'ann', 7);
INSERT INTO workflows_late VALUES ('w6', 'ann', 'success');
SELECT ann();
SELECT name FROM token_balance.verify() WHERE NOT ok;
-- deferred over a move
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO workflows VALUES ('w7', 'ann', 'running');
INSERT INTO token_usage VALUES ('w7', 'ann', 3);
UPDATE workflows SET status = 'completed' WHERE id = 'w7';
SELECT ann();
COMMIT;
SELECT ann();
SET client_min_messages = warning;
SELECT token_balance.detach();
SELECT count(*) AS triggers_left FROM pg_trigger WHERE tgrelid NOT IN (SELECT oid FROM pg_class WHERE relnamespace = 'token_balance'::regnamespace) AND tgfoid IN (SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'token_balance'::regnamespace);
DROP TABLE users, token_usage, workflows;

-- partitioned users: the ledger trigger reaches each partition
CREATE TABLE users (id bigint PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE users_0 PARTITION OF users FOR VALUES FROM (0) TO (100);
CREATE TABLE users_1 PARTITION OF users FOR VALUES FROM (100) TO (200);
CREATE TABLE token_usage (workflow_id bigint, user_id bigint, total_tokens integer);
CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint, status text);
INSERT INTO users VALUES (1), (100);
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
INSERT INTO token_usage VALUES (5, 1, 10), (5, 100, 20);
INSERT INTO workflows VALUES (5, 1, 'completed');
UPDATE users_1 SET token_balance = 1 WHERE id = 100;
SELECT tableoid::regclass AS partition, * FROM users ORDER BY id;
SELECT user_id, kind, amount, previous_balance, new_balance, workflow_id FROM token_balance.ledger WHERE user_id IN ('1', '100') ORDER BY user_id, entry_id;

-- an id that takes the row to another partition would leave everything behind: refused, by whatever statement; one that does not is followed
\i common/try.sql
CALL pg_temp.try('UPDATE users SET id = 101 WHERE id = 1');
UPDATE users SET id = 101 WHERE id = 1;
CALL pg_temp.try('UPDATE users_0 SET id = id + 100');
CALL pg_temp.try($$INSERT INTO users VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 150$$);
UPDATE users SET id = 2 WHERE id = 1;
UPDATE token_usage SET user_id = 2 WHERE user_id = 1;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id = '5' ORDER BY 1;
SELECT * FROM token_balance.reconcile();
SELECT name, ok FROM token_balance.verify() WHERE name LIKE '%keep%';
-- whatever is done with outside changes
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', outside_changes => 'keep');
CALL pg_temp.try('UPDATE users SET id = 101, token_balance = 7 WHERE id = 2');
UPDATE users SET id = 3, token_balance = 7 WHERE id = 2;
SELECT * FROM users ORDER BY id;
SELECT token_balance.detach();
UPDATE users SET id = 101 WHERE id = 3;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA pt CASCADE;
