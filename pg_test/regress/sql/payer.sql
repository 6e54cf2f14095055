-- The usage has no account: the workflow row's account pays (DESIGN F3).
\set SHOW_CONTEXT never
CREATE SCHEMA py;
SET search_path = py, public;
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE usage (run_id bigint, input_tokens integer, output_tokens integer);
CREATE TABLE runs (id bigint PRIMARY KEY, owner_id bigint, status text);
INSERT INTO users VALUES (1), (2);
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA py;
SELECT token_balance.attach('users', 'usage', 'runs', usage_user => NULL, usage_workflow => 'run_id',
  usage_tokens => '{input_tokens,output_tokens}', workflow_user => 'owner_id');
RESET client_min_messages;

INSERT INTO runs VALUES (10, 1, 'running'), (20, 2, 'running');
INSERT INTO usage VALUES (10, 1, 2), (10, 3, 4), (20, 100, NULL);
SELECT settle_workflow(10) - 'charges' AS answer;
UPDATE runs SET status = 'completed';
SELECT * FROM users ORDER BY id;
INSERT INTO usage VALUES (10, 5, 0);
SELECT settle_workflow(10) ->> 'tokens_used' AS tokens_used;
SELECT settle_workflow(10) ->> 'status' AS status;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1;
-- no usage; a run that nobody knows
INSERT INTO runs VALUES (30, 1, 'running');
SELECT settle_workflow(30) ->> 'status' AS status;
SELECT settle_workflow(40);
-- inserted as completed
INSERT INTO usage VALUES (50, 7, 7);
INSERT INTO runs VALUES (50, 2, 'completed');
SELECT * FROM users ORDER BY id;
-- a run of nobody: its usage is nobody's to pay yet, so it waits like any bad charge
INSERT INTO usage VALUES (60, 7, 7);
INSERT INTO runs VALUES (60, NULL, 'completed');
SELECT * FROM users ORDER BY id;
SELECT settle_workflow(60);
-- its owner comes later
UPDATE runs SET owner_id = 2 WHERE id = 60;
SELECT settle_workflow(60) ->> 'tokens_used' AS tokens_used;
SELECT * FROM users ORDER BY id;
SELECT user_id, kind, amount, new_balance, workflow_id FROM token_balance.ledger ORDER BY user_id, entry_id;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA py CASCADE;
