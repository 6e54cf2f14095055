-- attach(deleted_usage => 'record'): what is deleted of settled usage stays settled (DESIGN V21, V22, V23, V24, V25, V26, V27, V28, V29).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA du;
SET search_path = du, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA du;
RESET client_min_messages;
\i common/try.sql
CREATE FUNCTION settled(id text) RETURNS TABLE (user_id text, usage_tokens bigint, charged bigint, archived numeric) LANGUAGE sql AS
  'SELECT user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement WHERE workflow_id = id ORDER BY 1';
CREATE VIEW spent AS SELECT string_agg(id || ' ' || (1000000 - token_balance), ', ' ORDER BY id) AS spent FROM users;
-- what is in a state, less what shrank or was deleted, is the usage; and nothing is wrong
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  coalesce(sum(CASE WHEN state IN ('shrunk', 'archived') THEN -tokens ELSE tokens END), 0) = (SELECT coalesce(sum(total_tokens), 0) FROM token_usage) AS holds,
  (SELECT string_agg(concat_ws(' ', problem, workflow_id, user_id, expected, found), ', ') FROM token_balance.reconcile()) AS problems FROM token_balance.usage_state();

-- without it, what is pruned is told as usage that shrank
INSERT INTO workflows SELECT 'w' || n, 'ann' FROM generate_series(1, 9) AS n;
BEGIN;
INSERT INTO token_usage VALUES ('w1', 'ann', 100);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
DELETE FROM token_usage;
SELECT * FROM law;
ROLLBACK;

-- the option, like the others
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'forget')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => NULL)$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record', dry_run => true);
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT deleted_usage FROM token_balance.binding;
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc ORDER BY 1;
SELECT name, ok, detail FROM token_balance.verify() WHERE name ~ '(deleted|truncated)_usage';

-- a settled run: 8,000 of its 10,000 are pruned, and 500 come late
INSERT INTO token_usage SELECT 'w1', 'ann', 1000 FROM generate_series(1, 10);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
DELETE FROM token_usage WHERE ctid IN (SELECT ctid FROM token_usage LIMIT 8);
SELECT * FROM settled('w1');
SELECT * FROM law;
INSERT INTO token_usage VALUES ('w1', 'ann', 500);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- all of it
DELETE FROM token_usage WHERE workflow_id = 'w1';
SELECT * FROM settled('w1');
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT token_balance.correct_workflow('w1') ->> 'amount' AS corrected;
SELECT * FROM law;
SELECT * FROM spent;
-- it is written down nowhere but in the settlement, and one that deletes nothing does nothing
DELETE FROM token_usage;
SELECT count(*) FROM token_balance.archived;

-- a run that has completed while the triggers were off, and late usage: charged before they go
ALTER TABLE workflows DISABLE TRIGGER USER;
INSERT INTO token_usage VALUES ('w2', 'ann', 70), ('w2', 'bob', 7), ('w2', 'bob', 1);
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
ALTER TABLE workflows ENABLE TRIGGER USER;
DELETE FROM token_usage WHERE total_tokens = 7;
SELECT * FROM settled('w2');
INSERT INTO token_usage VALUES ('w2', 'ann', 5);
DELETE FROM token_usage WHERE user_id = 'ann';
SELECT * FROM settled('w2');
SELECT * FROM law;
SELECT * FROM spent;

-- an open run: what was settled of it is the oldest, and what is deleted, too; what was not settled is never charged
INSERT INTO token_usage VALUES ('w3', 'ann', 100);
SELECT settle_workflow('w3') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w3', 'ann', 40);
DELETE FROM token_usage WHERE total_tokens = 100;
SELECT * FROM settled('w3');
SELECT * FROM law;
INSERT INTO token_usage VALUES ('w3', 'ann', 3);
DELETE FROM token_usage WHERE total_tokens = 3;
SELECT * FROM settled('w3');
UPDATE workflows SET status = 'completed' WHERE id = 'w3';
SELECT * FROM settled('w3');
SELECT * FROM law;
-- more than was settled goes at once: 60 were, of 90
INSERT INTO token_usage VALUES ('w4', 'ann', 60);
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w4', 'ann', 30), ('w4', 'ann', 8);
DELETE FROM token_usage WHERE total_tokens IN (60, 30);
SELECT * FROM settled('w4');
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
-- none of it was settled: no settlement
INSERT INTO token_usage VALUES ('w5', 'ann', 9);
DELETE FROM token_usage WHERE workflow_id = 'w5';
SELECT * FROM settled('w5');
-- rows below zero: a deletion makes nothing due, and shrinks nothing
INSERT INTO token_usage VALUES ('w6', 'ann', 100), ('w6', 'ann', -50);
SELECT settle_workflow('w6') ->> 'tokens_used' AS tokens_used;
BEGIN;
DELETE FROM token_usage WHERE total_tokens = -50;
SELECT * FROM settled('w6');
SELECT * FROM law;
DELETE FROM token_usage WHERE workflow_id = 'w6';
SELECT * FROM settled('w6');
ROLLBACK;
DELETE FROM token_usage WHERE workflow_id = 'w6' AND total_tokens = 100;
SELECT * FROM settled('w6');
SELECT * FROM law;
DELETE FROM token_usage WHERE workflow_id = 'w6';
SELECT * FROM settled('w6');

-- usage that nobody owns
INSERT INTO token_usage VALUES (NULL, 'ann', 1), ('w1', NULL, 2);
DELETE FROM token_usage WHERE workflow_id IS NULL OR user_id IS NULL;
SELECT * FROM settled('w1');
-- a savepoint
BEGIN;
INSERT INTO token_usage VALUES ('w1', 'ann', 11);
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SAVEPOINT s;
DELETE FROM token_usage WHERE workflow_id = 'w1';
SELECT * FROM settled('w1');
ROLLBACK TO s;
SELECT * FROM settled('w1');
COMMIT;
SELECT * FROM law;
-- the option of late usage: charged as it comes, and not again
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record', late_usage => 'settle');
INSERT INTO token_usage VALUES ('w1', 'ann', 13);
DELETE FROM token_usage WHERE workflow_id = 'w1';
INSERT INTO token_usage VALUES ('w1', 'ann', 17);
SELECT * FROM settled('w1');
SELECT * FROM law;
-- an UPDATE is no deletion
UPDATE token_usage SET total_tokens = 1 WHERE workflow_id = 'w1';
SELECT * FROM law;
UPDATE token_usage SET total_tokens = 17 WHERE workflow_id = 'w1';
-- one row in place of many, in one statement: nothing is deleted of it; and of an open run
INSERT INTO token_usage VALUES ('w1', 'ann', 4), ('w1', 'ann', 5), ('w3', 'ann', 6), ('w9', 'ann', 7), ('w9', 'ann', 8);
SELECT * FROM spent;
WITH gone AS (DELETE FROM token_usage RETURNING *)
INSERT INTO token_usage SELECT workflow_id, user_id, sum(total_tokens) FROM gone GROUP BY 1, 2;
SELECT * FROM spent;
SELECT * FROM law;
WITH gone AS (DELETE FROM token_usage WHERE workflow_id IN ('w1', 'w9') RETURNING *)
INSERT INTO token_usage SELECT workflow_id, user_id, sum(total_tokens) - 1 FROM gone GROUP BY 1, 2;
SELECT * FROM spent;
SELECT * FROM law;
-- TRUNCATE
TRUNCATE token_usage;
SELECT * FROM settled('w1');
SELECT * FROM settled('w3');
SELECT * FROM law;
BEGIN;
INSERT INTO token_usage VALUES ('w1', 'ann', 19);
SAVEPOINT s;
TRUNCATE token_usage;
ROLLBACK TO s;
TRUNCATE token_usage;
COMMIT;
SELECT * FROM settled('w1');
SELECT * FROM law;

-- a bad charge: what was not charged is told, and what was stays settled
INSERT INTO workflows VALUES ('bad', NULL, 'completed');
INSERT INTO token_usage VALUES ('bad', 'nobody', 60), ('bad', 'nobody', 40), ('bad', 'ann', 1);
DELETE FROM token_usage WHERE total_tokens IN (40, 1);
SELECT * FROM settled('bad');
SELECT * FROM law;
INSERT INTO users VALUES ('nobody');
SELECT settle_workflow('bad') ->> 'tokens_used' AS tokens_used;
SELECT * FROM law;
-- an account that was charged before and is gone
SET client_min_messages = error;
INSERT INTO token_usage VALUES ('bad', 'nobody', 30);
RESET client_min_messages;
DELETE FROM users WHERE id = 'nobody';
SET client_min_messages = error;
INSERT INTO token_usage VALUES ('bad', 'nobody', 5);
RESET client_min_messages;
DELETE FROM token_usage WHERE workflow_id = 'bad' AND total_tokens IN (60, 5);
SELECT * FROM settled('bad');
DELETE FROM token_usage WHERE workflow_id = 'bad';
SELECT * FROM settled('bad');
SELECT * FROM law;

-- a binding that is broken: usage is deleted all the same, with a warning
BEGIN;
INSERT INTO token_usage VALUES ('w1', 'ann', 23);
DROP TABLE workflows;
DELETE FROM token_usage;
TRUNCATE token_usage;
ROLLBACK;

-- cascades from the workflows and from the users, many rows of it in one statement; a run that is gone was over, if it was settled
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
ALTER TABLE token_usage ADD FOREIGN KEY (workflow_id) REFERENCES workflows ON DELETE CASCADE, ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE;
INSERT INTO token_usage SELECT 'w' || n, user_id, n FROM generate_series(1, 9) AS n, (VALUES ('ann'), ('bob')) AS u (user_id);
UPDATE workflows SET status = 'completed' WHERE id IN ('w7', 'w8');
INSERT INTO token_usage VALUES ('w8', 'ann', 1000);
SELECT * FROM spent;
DELETE FROM workflows WHERE id IN ('w7', 'w8', 'w9');
SELECT * FROM spent;
SELECT * FROM settled('w7');
SELECT * FROM settled('w8');
SELECT * FROM settled('w9');
SELECT * FROM law;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- one that was over, and nobody has settled; one that was open, of which somebody has settled a part; and one whose row has gone before
INSERT INTO workflows VALUES ('late', 'ann', 'completed'), ('partly', 'ann', 'running'), ('before', 'ann', 'running');
INSERT INTO token_usage VALUES ('late', 'ann', 20), ('partly', 'ann', 20), ('before', 'ann', 20);
SELECT settle_workflow('partly') ->> 'tokens_used' AS tokens_used, settle_workflow('before') ->> 'tokens_used' AS before;
INSERT INTO token_usage VALUES ('partly', 'ann', 30), ('before', 'ann', 30);
SELECT * FROM spent;
DELETE FROM workflows WHERE id IN ('late', 'partly');
SELECT * FROM spent;
SELECT * FROM settled('late');
SELECT * FROM settled('partly');
BEGIN;
ALTER TABLE token_usage DISABLE TRIGGER ALL;
ALTER TABLE workflows DISABLE TRIGGER ALL;
DELETE FROM workflows WHERE id = 'before';
ALTER TABLE token_usage ENABLE TRIGGER ALL;
ALTER TABLE workflows ENABLE TRIGGER ALL;
COMMIT;
DELETE FROM token_usage WHERE workflow_id = 'before';
SELECT * FROM settled('before');
SELECT * FROM law;
DELETE FROM users WHERE id = 'bob';
SELECT * FROM law;
-- by itself
ALTER TABLE token_usage ADD id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY, ADD parent integer REFERENCES token_usage ON DELETE CASCADE;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 'ann', 200);
INSERT INTO token_usage (workflow_id, user_id, total_tokens, parent) SELECT w, 'ann', t, max(id) FROM token_usage, (VALUES ('w1', 50), ('w2', 60)) AS v (w, t) GROUP BY w, t;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE total_tokens = 200;
SELECT * FROM settled('w1');
SELECT * FROM settled('w2');
SELECT * FROM law;

-- a run that gets another id, and whose usage goes with it or is deleted instead
ALTER TABLE token_usage DROP CONSTRAINT token_usage_workflow_id_fkey;
BEGIN;
UPDATE workflows SET id = 'w2b' WHERE id = 'w2';
UPDATE token_usage SET workflow_id = 'w2b' WHERE workflow_id = 'w2';
DELETE FROM token_usage WHERE workflow_id = 'w2b';
COMMIT;
SELECT * FROM settled('w2b');
BEGIN;
UPDATE workflows SET id = 'w3b' WHERE id = 'w3';
INSERT INTO workflows VALUES ('w3', 'ann', 'completed');
DELETE FROM token_usage WHERE workflow_id = 'w3';
COMMIT;
SELECT workflow_id, s.* FROM (VALUES ('w3'), ('w3b')) AS w (workflow_id), settled(workflow_id) AS s;
SELECT * FROM law;

-- more runs than there are locks for, in one statement
INSERT INTO workflows SELECT 'm' || n, 'ann', 'completed' FROM generate_series(1, 1200) AS n;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT 'm' || n, 'ann', 2 FROM generate_series(1, 1200) AS n;
SELECT count(*) FROM token_balance.settle_workflows(ARRAY(SELECT 'm' || n FROM generate_series(1, 1195) AS n));
DELETE FROM token_usage WHERE workflow_id ~ '^m';
SELECT count(*), sum(usage_tokens) AS usage_tokens, sum(archived_usage_tokens) AS archived FROM token_balance.settlement WHERE workflow_id ~ '^m';
SELECT * FROM law;

-- switched off
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc;
SELECT name FROM token_balance.verify() WHERE NOT ok;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 'ann', 29);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE total_tokens = 29;
SELECT * FROM law;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 'ann', 29);
-- and on, a row that another statement shrank before stays told
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT token_balance.detach();
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, token_usage, workflows CASCADE;

-- fractions are added up as they are, and rounded once
CREATE EXTENSION token_balance SCHEMA du;
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE calls (run integer, account integer, a numeric, b real);
CREATE TABLE runs (id integer, payer integer, status text);
INSERT INTO users VALUES (1), (2);
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{a,b}', deleted_usage => 'record');
RESET client_min_messages;
CREATE VIEW problems AS SELECT problem, workflow_id, user_id, expected, found FROM token_balance.reconcile();
INSERT INTO calls VALUES (1, 1, 1.4, 0), (1, 1, NULL, 0.3), (1, 2, 0.2, 0.2);
INSERT INTO runs VALUES (1, 1, 'completed');
DELETE FROM calls WHERE a = 1.4 OR a = 0.2;
SELECT * FROM settled('1');
INSERT INTO calls VALUES (1, 1, 0.7, 0.2), (1, 2, 0.1, NULL);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM settled('1');
DELETE FROM calls;
SELECT * FROM settled('1');
INSERT INTO calls VALUES (1, 2, 0.04, 0.06);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM problems;
-- what cannot be counted is not recorded, and told
INSERT INTO calls VALUES (1, 1, 10, 0), (1, 1, 'NaN', 0), (1, 2, 20, 0);
DELETE FROM calls WHERE a >= 10;
SELECT * FROM settled('1');
SELECT * FROM problems;
-- what was deleted is charged also where what is left cannot be counted
INSERT INTO calls VALUES (1, 1, 30, 0), (1, 1, 0, 'Infinity');
DELETE FROM calls WHERE a = 30;
SELECT * FROM settled('1');
SELECT * FROM problems;
DELETE FROM calls;
SELECT * FROM problems;
SELECT token_balance.detach();

-- two bindings of one table, one of which records: each by its own columns
ALTER TABLE users ADD pages bigint NOT NULL DEFAULT 0;
SET client_min_messages = warning;
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{a}', deleted_usage => 'record', name => 'a', existing_usage => 'charge');
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, workflow_user => 'payer', usage_workflow => 'run', usage_tokens => '{b}', balance_column => 'pages', name => 'b', existing_usage => 'charge');
RESET client_min_messages;
INSERT INTO runs VALUES (2, 2, 'running');
INSERT INTO calls VALUES (2, 1, 100, 7);
UPDATE runs SET status = 'completed' WHERE id = 2;
BEGIN;
DELETE FROM calls WHERE run = 2;
SELECT binding, problem, workflow_id, expected, found FROM token_balance.reconcile();
ROLLBACK;
-- both of them; where the run's account pays, its settlements stand for one usage
SET client_min_messages = warning;
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, workflow_user => 'payer', usage_workflow => 'run', usage_tokens => '{b}', balance_column => 'pages', name => 'b', deleted_usage => 'record');
RESET client_min_messages;
INSERT INTO calls VALUES (2, 1, 5, 3), (3, 1, 8, 9), (4, 1, 1, 2);
ALTER TABLE runs DISABLE TRIGGER USER;
INSERT INTO runs VALUES (3, 2, 'completed'), (4, 1, 'completed'), (4, 2, 'running'), (5, NULL, 'completed');
ALTER TABLE runs ENABLE TRIGGER USER;
INSERT INTO calls VALUES (5, 1, 6, 6);
DELETE FROM calls WHERE run IN (2, 3, 4, 5);
SELECT binding_id - min(binding_id) OVER () AS binding, workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement WHERE workflow_id > '1' ORDER BY 1, 2, 3;
SELECT id, 1000000 - token_balance AS tokens, pages FROM users ORDER BY 1;
SELECT binding, problem, workflow_id, expected, found FROM token_balance.reconcile();
-- the triggers stay for the one that wants them
SELECT token_balance.detach(name => 'a');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc;
SELECT name FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.detach(name => 'b');
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc;

-- no workflow table: a run is over when it was settled once
SET client_min_messages = warning;
SELECT token_balance.attach('users', 'calls', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{a}', deleted_usage => 'record', name => 'c', usage_ids => 'new');
RESET client_min_messages;
TRUNCATE calls;
INSERT INTO calls VALUES (7, 1, 10), (7, 1, 5), (8, 1, 3);
DELETE FROM calls WHERE a = 5 OR run = 8;
SELECT settle_workflow('7') ->> 'tokens_used' AS tokens_used;
INSERT INTO calls VALUES (7, 1, 4), (7, 2, 2);
DELETE FROM calls WHERE a IN (10, 2);
SELECT user_id, usage_tokens, archived_usage_tokens FROM token_balance.settlement WHERE workflow_id = '7' ORDER BY 1;
SELECT * FROM problems;
SELECT token_balance.detach();
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, calls, runs CASCADE;
RESET client_min_messages;

-- it runs as the tables' owner: who deletes needs no other right, and forced policies hide nothing from it
SET client_min_messages = warning;
CREATE ROLE regress_du_owner;
CREATE ROLE regress_du_app;
GRANT USAGE, CREATE ON SCHEMA du TO regress_du_owner;
GRANT USAGE ON SCHEMA du TO regress_du_app;
SET ROLE regress_du_owner;
\i common/tables.sql
ALTER TABLE token_usage ADD cost double precision;
CREATE POLICY nothing ON users USING (false);
CREATE POLICY nothing ON token_usage USING (current_user = 'regress_du_app');
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT, INSERT, DELETE ON token_usage TO regress_du_app;
RESET ROLE;
INSERT INTO users VALUES ('ann');
INSERT INTO workflows VALUES ('w1', 'ann', 'completed');
CREATE EXTENSION token_balance SCHEMA public;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,cost}', deleted_usage => 'record');
SET ROLE regress_du_app;
INSERT INTO token_usage VALUES ('w1', 'ann', 10, 0.3), ('w1', 'ann', 20, 0.3);
DELETE FROM token_usage WHERE total_tokens = 10;
RESET ROLE;
SELECT user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement;
SELECT 1000000 - token_balance AS spent FROM users;
SELECT problem FROM token_balance.reconcile();
-- in a session of a replica nothing fires: it was recorded where it was deleted
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM token_usage;
SELECT problem, expected, found FROM token_balance.reconcile();
ROLLBACK;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, token_usage, workflows CASCADE;
DROP OWNED BY regress_du_owner, regress_du_app;
DROP ROLE regress_du_owner, regress_du_app;

-- partitions: a DELETE fires the triggers of the table that it names, a TRUNCATE those of each table that it empties
SET client_min_messages = warning;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint, month integer) PARTITION BY LIST (month);
CREATE TABLE usage_1 PARTITION OF token_usage FOR VALUES IN (1);
-- its columns stand in another order, and one was dropped
CREATE TABLE usage_2 (month integer, gone text, total_tokens bigint, user_id text, workflow_id text);
ALTER TABLE usage_2 DROP gone;
ALTER TABLE token_usage ATTACH PARTITION usage_2 FOR VALUES IN (2);
CREATE TABLE usage_3 PARTITION OF token_usage FOR VALUES IN (3, 4) PARTITION BY HASH (workflow_id);
CREATE TABLE usage_3_a PARTITION OF usage_3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE usage_3_b PARTITION OF usage_3 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA du;
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
CREATE VIEW spent AS SELECT 1000000 - token_balance AS spent FROM users;
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  coalesce(sum(CASE WHEN state IN ('shrunk', 'archived') THEN -tokens ELSE tokens END), 0) = (SELECT coalesce(sum(total_tokens), 0) FROM token_usage) AS holds,
  (SELECT string_agg(concat_ws(' ', problem, workflow_id, user_id, expected, found), ', ') FROM token_balance.reconcile()) AS problems FROM token_balance.usage_state();
SELECT tgrelid::regclass, string_agg(tgname, ', ' ORDER BY tgname) AS triggers FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc GROUP BY 1 ORDER BY 1::text;
SELECT name, ok FROM token_balance.verify() WHERE name ~ '_usage on' OR NOT ok;
INSERT INTO workflows SELECT 'w' || n FROM generate_series(1, 4) AS n;
INSERT INTO token_usage SELECT 'w' || n, 'ann', 10 ^ m, m FROM generate_series(1, 4) AS n, generate_series(1, 4) AS m;
UPDATE workflows SET status = 'completed';
SELECT * FROM spent;
DELETE FROM token_usage WHERE workflow_id = 'w1' AND month IN (1, 3);
SELECT * FROM settled('w1');
DELETE FROM usage_1 WHERE workflow_id = 'w2';
DELETE FROM usage_2 WHERE workflow_id = 'w2';
DELETE FROM usage_3 WHERE workflow_id = 'w2' AND month = 3;
SELECT * FROM settled('w2');
DELETE FROM usage_3_a WHERE month = 4;
DELETE FROM usage_3_b WHERE month = 4;
SELECT sum(archived_usage_tokens) AS archived FROM token_balance.settlement;
SELECT * FROM law;
-- late usage is charged as it goes: 5 with the one that is left, 7 with the one that is gone
INSERT INTO token_usage VALUES ('w3', 'ann', 5, 1), ('w3', 'ann', 7, 2);
DELETE FROM token_usage WHERE total_tokens = 7;
SELECT * FROM spent;
-- a TRUNCATE of one partition, of some of them, and of all
BEGIN;
TRUNCATE usage_2;
SELECT * FROM law;
INSERT INTO token_usage VALUES ('w4', 'ann', 9, 1), ('w4', 'ann', 8, 3);
TRUNCATE usage_3, usage_1;
SELECT * FROM law;
SELECT * FROM spent;
ROLLBACK;
BEGIN;
INSERT INTO token_usage VALUES ('w4', 'ann', 9, 1), ('w4', 'ann', 8, 3);
TRUNCATE token_usage;
SELECT sum(usage_tokens) AS used, sum(charged_tokens) AS charged, sum(archived_usage_tokens) AS archived FROM token_balance.settlement;
SELECT * FROM law;
SELECT * FROM spent;
ROLLBACK;
TRUNCATE ONLY usage_1;
SELECT * FROM law;
-- one that comes later has none: verify() tells, attach makes them, and who is told so by reconcile()
CREATE TABLE usage_5 PARTITION OF token_usage FOR VALUES IN (5);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT problem, hint FROM token_balance.reconcile();
INSERT INTO token_usage SELECT 'w' || n, 'ann', 100, 5 FROM generate_series(1, 4) AS n;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE workflow_id = 'w1' AND month = 5;
SELECT holds FROM law;
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
DELETE FROM usage_5;
SELECT * FROM law;
ALTER TABLE usage_2 DISABLE TRIGGER token_balance_deleted_usage;
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
ALTER TABLE usage_2 ENABLE TRIGGER token_balance_deleted_usage;
-- one that is detached is no usage any more; attach takes the triggers from it
ALTER TABLE token_usage DETACH PARTITION usage_2;
DELETE FROM usage_2 WHERE workflow_id = 'w1';
TRUNCATE usage_2;
SELECT problems FROM law;
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT DISTINCT tgrelid::regclass FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc ORDER BY 1;
ALTER TABLE token_usage ATTACH PARTITION usage_2 FOR VALUES IN (2);
INSERT INTO token_usage SELECT 'w' || n, 'ann', 100, 2 FROM generate_series(1, 4) AS n;
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT * FROM law;
-- a row that moves to another partition is not deleted
UPDATE token_usage SET month = 5 WHERE workflow_id = 'w1' AND month = 2;
SELECT * FROM law;
-- nor by a MERGE, which the server says of it if it deletes others
INSERT INTO token_usage VALUES ('w3', 'ann', 7, 2);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT s.* FROM generate_series(1, 4) AS n, settled('w' || n) AS s;
SET client_min_messages = error;
DO $$
BEGIN
  IF current_setting('server_version_num')::integer >= 150000 THEN
    EXECUTE 'MERGE INTO token_usage AS u USING (VALUES (''w2''), (''w3''), (''w4'')) AS v (id) ON u.workflow_id = v.id AND u.month = 2
      WHEN MATCHED AND u.workflow_id = ''w4'' OR u.total_tokens = 7 THEN DELETE WHEN MATCHED THEN UPDATE SET month = 5';
  ELSE
    UPDATE token_usage SET month = 5 WHERE workflow_id = 'w2' AND month = 2 OR total_tokens = 100 AND workflow_id = 'w3' AND month = 2;
    DELETE FROM token_usage WHERE workflow_id = 'w4' AND month = 2 OR total_tokens = 7;
  END IF;
END $$;
SET client_min_messages = warning;
SELECT * FROM law;
SELECT s.* FROM generate_series(1, 4) AS n, settled('w' || n) AS s;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT workflow_id, month, sum(total_tokens) FROM token_usage GROUP BY 1, 2 ORDER BY 1, 2;
-- what cannot be recorded is refused
SELECT token_balance.detach();
SELECT count(*) FROM pg_trigger WHERE tgfoid = 'token_balance.record_deleted_usage'::regproc;
CREATE VIEW calls AS SELECT * FROM token_usage;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'calls', 'workflows', deleted_usage => 'record')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'usage_2', 'workflows', deleted_usage => 'record')$$);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE usage_6 PARTITION OF token_usage FOR VALUES IN (6) SERVER nowhere;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record')$$);
DROP FOREIGN TABLE usage_6;
DO $$
BEGIN
  IF current_setting('server_version_num')::integer >= 180000 THEN
    EXECUTE 'ALTER TABLE token_usage ADD who text GENERATED ALWAYS AS (user_id) VIRTUAL';
    PERFORM token_balance.attach('users', 'token_usage', 'workflows', usage_user => 'who', deleted_usage => 'record', usage_ids => 'new');
    RAISE 'a column that is not stored was attached';
  END IF;
EXCEPTION WHEN invalid_parameter_value THEN
  ASSERT SQLERRM = 'deleted_usage => ''record'' is not possible: a bound column is not stored', SQLERRM;
END $$;
SET client_min_messages = error;
DROP SCHEMA du CASCADE;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
