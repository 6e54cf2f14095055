-- A key's type is changed, and the ids with it (USING): nothing that is known is of the new ones, and attach says so (DESIGN I13).
\i common/try.sql
SET client_min_messages = warning;
CREATE SCHEMA ir;
SET search_path = ir, public;
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE token_usage (workflow_id bigint, user_id bigint, total_tokens integer);
CREATE TABLE workflows (id bigint PRIMARY KEY, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES (1), (2);
INSERT INTO workflows SELECT n, 'completed' FROM generate_series(1, 20) n;
INSERT INTO token_usage SELECT n, n % 2 + 1, 5000 FROM generate_series(1, 20) n;
CREATE EXTENSION token_balance SCHEMA ir;
INSERT INTO workflows VALUES (30, 'running');
INSERT INTO token_usage VALUES (30, 1, 100);
UPDATE workflows SET status = 'completed' WHERE id = 30;
CREATE VIEW state AS SELECT (SELECT sum(token_balance) FROM users) AS balances, (SELECT sum(charged_tokens) FROM token_balance.settlement) AS charged;
SELECT * FROM state;

-- workflows, between a detach and an attach
BEGIN;
SELECT token_balance.detach();
ALTER TABLE workflows ALTER id TYPE uuid USING md5('salt' || id)::uuid;
ALTER TABLE token_usage ALTER workflow_id TYPE uuid USING md5('salt' || workflow_id)::uuid;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SAVEPOINT asked;
-- as the hint has it: all that is there is exempt, and what comes is charged
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
INSERT INTO workflows VALUES (md5('new')::uuid, 'running');
INSERT INTO token_usage VALUES (md5('new')::uuid, 1, 7);
UPDATE workflows SET status = 'completed' WHERE status = 'running';
SELECT * FROM state;
ROLLBACK TO asked;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'same');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
ROLLBACK;

-- accounts, while it is attached
BEGIN;
ALTER TABLE users ALTER id TYPE text USING 'usr_' || id;
ALTER TABLE token_usage ALTER user_id TYPE text USING 'usr_' || user_id;
CALL pg_temp.try('SELECT token_balance.attach_again()');
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
-- taken back, and as the hint has it: the type first, the ids then
UPDATE users SET id = substr(id, 5);
UPDATE token_usage SET user_id = substr(user_id, 5);
SELECT token_balance.attach_again();
UPDATE users SET id = 'usr_' || id;
UPDATE token_usage SET user_id = 'usr_' || user_id;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM state;
SELECT count(*) FROM token_balance.reconcile();
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id = '30';
ROLLBACK;

-- a type alone asks nothing, and what is told for nothing is told
SET client_min_messages = notice;
ALTER TABLE users ALTER id TYPE text;
ALTER TABLE token_usage ALTER user_id TYPE text;
SELECT token_balance.attach_again();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new', accounts => 'same');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ir CASCADE;
