-- Usage from before the extension: exempt, or charged when asked (DESIGN H5).
\set SHOW_CONTEXT never
CREATE SCHEMA eu;
SET search_path = eu, public;
\i common/tables.sql
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows VALUES ('old', 'ann', 'completed'), ('half', 'ann', 'running'), ('shared', 'bob', 'completed');
INSERT INTO token_usage VALUES ('old', 'ann', 1000), ('half', 'ann', 500), ('shared', 'ann', 30), ('shared', 'bob', 40),
  (NULL, 'ann', 5), ('old', NULL, 6), ('gone', 'zoe', 7), ('zero', 'bob', 0), ('zero', 'bob', NULL);
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA eu;
SELECT workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens FROM token_balance.settlement WHERE usage_tokens <> 0 ORDER BY 1, 2;
SELECT * FROM users ORDER BY id;
SELECT count(*) AS entries FROM token_balance.ledger;

SELECT settle_workflow('old') ->> 'status' AS old, settle_workflow('half') ->> 'tokens_used' AS half, settle_workflow('shared') ->> 'tokens_used' AS shared;
UPDATE workflows SET status = 'completed' WHERE id = 'half';
SELECT settle_workflow('gone') ->> 'tokens_used' AS gone;
SELECT * FROM users ORDER BY id;
-- what comes now is charged, in the old runs as well
UPDATE workflows SET status = 'running' WHERE id = 'half';
INSERT INTO token_usage VALUES ('half', 'ann', 3), ('old', 'ann', 2), ('shared', 'bob', 1);
UPDATE workflows SET status = 'completed' WHERE id = 'half';
SELECT settle_workflow('old') ->> 'tokens_used' AS old, settle_workflow('shared') ->> 'tokens_used' AS shared;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement WHERE charged_tokens <> 0 ORDER BY 1, 2;
SELECT * FROM users ORDER BY id;

-- detach, usage while nothing is attached, attach again: it goes on where it was, nothing is exempted a second time (DESIGN B5)
SELECT token_balance.detach();
INSERT INTO token_usage VALUES ('half', 'ann', 100), ('pause', 'bob', 200);
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT settle_workflow('half') ->> 'tokens_used' AS half, settle_workflow('pause') ->> 'tokens_used' AS pause;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id IN ('half', 'pause') ORDER BY 1, 2;
SELECT * FROM users ORDER BY id;
DROP EXTENSION token_balance CASCADE;

-- the opt-in: what is there is charged when its run is settled, or settled again
DROP TABLE users, workflows;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob'), ('zoe');
INSERT INTO runs VALUES ('half', 'ann', 'running');
CREATE EXTENSION token_balance SCHEMA eu;
SELECT token_balance.attach('users', 'token_usage', 'runs', existing_usage => 'charge');
SELECT count(*) FROM token_balance.settlement;
SELECT * FROM users ORDER BY id;
SELECT settle_workflow('old') ->> 'tokens_used' AS old;
UPDATE runs SET status = 'completed' WHERE id = 'half';
SELECT settle_workflow('shared') ->> 'tokens_used' AS shared;
SELECT * FROM users ORDER BY id;
SELECT settle_workflow('old') ->> 'tokens_used' AS old;
DROP EXTENSION token_balance CASCADE;

-- exempt where the workflow row's account pays; NULL account: nobody
DROP TABLE users, runs, token_usage;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE usage (run text, tokens integer);
CREATE TABLE runs (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
INSERT INTO runs VALUES ('r1', 'ann', 'completed'), ('r2', NULL, 'completed');
INSERT INTO usage VALUES ('r1', 10), ('r1', 20), ('r2', 40), ('unknown', 50);
CREATE EXTENSION token_balance SCHEMA eu;
SELECT token_balance.attach('users', 'usage', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}');
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
INSERT INTO usage VALUES ('r1', 1);
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
SELECT * FROM users;

-- exempt where many runs share one session
SELECT token_balance.detach();
DROP TABLE runs;
CREATE TABLE runs (task integer PRIMARY KEY, id text, user_id text, status text);
INSERT INTO runs VALUES (1, 'r1', 'ann', 'completed'), (2, 'r1', 'ann', 'completed'), (3, 'r1', 'ann', 'running');
SELECT token_balance.attach('users', 'usage', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}');
UPDATE runs SET status = 'completed' WHERE task = 3;
SELECT * FROM users;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA eu CASCADE;
