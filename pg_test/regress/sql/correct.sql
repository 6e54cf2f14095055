-- correct_workflow: what is no longer used is given back once (DESIGN C10, C11, C12, C13, C15, C16, R5).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA co;
SET search_path = co, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
-- from before the extension: exempt
INSERT INTO token_usage VALUES ('old', 'ann', 60);
CREATE EXTENSION token_balance SCHEMA co;
RESET client_min_messages;
\i common/try.sql
CREATE FUNCTION settled(id text) RETURNS TABLE (user_id text, usage_tokens bigint, charged bigint, refunded bigint, corrected bigint) LANGUAGE sql AS
  'SELECT user_id, usage_tokens, charged_tokens, refunded_tokens, corrected_tokens FROM token_balance.settlement WHERE workflow_id = id ORDER BY 1';
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) AS balances FROM users;
-- the law: what is in a state, less what shrank, is the usage
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  sum(CASE state WHEN 'shrunk' THEN -tokens ELSE tokens END) = (SELECT sum(total_tokens) FROM token_usage) AS holds FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();

-- 120 were charged, and the row of 20 was wrong: the whole answer
INSERT INTO workflows SELECT 'w' || n, 'ann' FROM generate_series(1, 9) AS n;
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'ann', 20);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
DELETE FROM token_usage WHERE workflow_id = 'w1' AND total_tokens = 20;
SELECT * FROM problems;
SELECT hint FROM token_balance.reconcile();
SELECT * FROM law;
SELECT jsonb_pretty(token_balance.correct_workflow('w1'));
SELECT * FROM settled('w1');
SELECT kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor = session_user AS actor_is_me FROM token_balance.statement('ann');
SELECT * FROM problems;
SELECT * FROM law;
-- twice: nothing, and nothing is charged again
SELECT token_balance.correct_workflow('w1');
SELECT settle_workflow('w1') ->> 'status' AS status;
-- the usage comes back, and is charged again: 20; gone again, it is given back again
INSERT INTO token_usage VALUES ('w1', 'ann', 20);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM settled('w1');
DELETE FROM token_usage WHERE workflow_id = 'w1' AND total_tokens = 20;
SELECT token_balance.correct_workflow('w1') ->> 'amount' AS amount;
SELECT * FROM settled('w1');
SELECT * FROM balances;

-- part exempt: of 60 exempt and 40 charged, 70 are gone: the exempt 60 first and without money, then 10
INSERT INTO token_usage VALUES ('old', 'ann', 30), ('old', 'ann', 10);
SELECT settle_workflow('old') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE workflow_id = 'old' AND total_tokens <> 30;
SELECT token_balance.correct_workflow('old');
SELECT * FROM settled('old');
SELECT * FROM law;
-- settle_backlog(existing) takes exemptions back, and there is none left of it
SET client_min_messages = warning;
CALL token_balance.settle_backlog(existing => true);
RESET client_min_messages;
SELECT * FROM settled('old');
SELECT * FROM balances;

-- after a refund of 70 of 100: at most the 30 that are left, and the 70 are told no more
INSERT INTO token_usage VALUES ('w2', 'ann', 100);
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
SELECT token_balance.refund_workflow('w2', 70) ->> 'amount' AS refunded;
DELETE FROM token_usage WHERE workflow_id = 'w2';
SELECT * FROM problems;
SELECT token_balance.correct_workflow('w2') ->> 'amount' AS amount;
SELECT * FROM settled('w2');
SELECT * FROM problems;
SELECT * FROM law;
SELECT token_balance.refund_workflow('w2') ->> 'amount' AS refunded;
-- 100 come back: the refunded 70 stay accounted for, 30 are charged
INSERT INTO token_usage VALUES ('w2', 'ann', 100);
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;
-- before a refund: 40 of 100 are corrected, so 60 are left for it
INSERT INTO token_usage VALUES ('w3', 'ann', 60), ('w3', 'ann', 40);
UPDATE workflows SET status = 'completed' WHERE id = 'w3';
DELETE FROM token_usage WHERE workflow_id = 'w3' AND total_tokens = 40;
SELECT token_balance.correct_workflow('w3') ->> 'amount' AS amount;
CALL pg_temp.try($$SELECT token_balance.refund_workflow('w3', 61)$$);
SELECT token_balance.refund_workflow('w3', 60) ->> 'amount' AS refunded;
SELECT * FROM settled('w3');
SELECT * FROM balances;

-- a row is moved to another run: its run is corrected, the other one charged, and in sum nothing
INSERT INTO token_usage VALUES ('w4', 'ann', 50), ('w4', 'ann', 7);
UPDATE workflows SET status = 'completed' WHERE id IN ('w4', 'w5');
SELECT * FROM balances;
UPDATE token_usage SET workflow_id = 'w5' WHERE workflow_id = 'w4' AND total_tokens = 50;
SELECT settle_workflow('w5') ->> 'tokens_used' AS tokens_used;
SELECT token_balance.correct_workflow('w4') ->> 'amount' AS amount;
SELECT * FROM balances;
-- and to another account
UPDATE token_usage SET user_id = 'bob' WHERE workflow_id = 'w5';
SELECT settle_workflow('w5') ->> 'tokens_used' AS tokens_used;
SELECT token_balance.correct_workflow('w5') -> 'corrections' AS corrections;
SELECT * FROM settled('w5');
SELECT * FROM balances;
-- a row is lowered; one below zero is added
UPDATE token_usage SET total_tokens = 4 WHERE workflow_id = 'w4';
SELECT token_balance.correct_workflow('w4') ->> 'amount' AS amount;
INSERT INTO token_usage VALUES ('w4', 'ann', -6);
SELECT token_balance.correct_workflow('w4') ->> 'amount' AS amount;
SELECT * FROM settled('w4');
DELETE FROM token_usage WHERE workflow_id = 'w4';
SELECT * FROM problems;

-- several accounts; one is gone: there is nobody to get its 30, the others get theirs
INSERT INTO token_usage VALUES ('w6', 'ann', 10), ('w6', 'bob', 20), ('w6', 'cid', 30);
UPDATE workflows SET status = 'completed' WHERE id = 'w6';
DELETE FROM token_usage WHERE workflow_id = 'w6';
DELETE FROM users WHERE id = 'cid';
SELECT jsonb_pretty(token_balance.correct_workflow('w6'));
SELECT token_balance.correct_workflow('w6');
SELECT * FROM settled('w6');
SELECT * FROM problems;
-- the account is there again: it gets them
INSERT INTO users VALUES ('cid');
SELECT * FROM problems;
SELECT token_balance.correct_workflow('w6') -> 'corrections' AS corrections;
SELECT * FROM problems;

-- all of it is gone, the run too
INSERT INTO token_usage VALUES ('w7', 'ann', 9);
UPDATE workflows SET status = 'completed' WHERE id = 'w7';
DELETE FROM token_usage WHERE workflow_id = 'w7';
DELETE FROM workflows WHERE id = 'w7';
SELECT token_balance.correct_workflow('w7') ->> 'amount' AS amount;
SELECT token_balance.correct_workflow('w7') ->> 'amount' AS amount;
-- by the id that it had before
INSERT INTO token_usage VALUES ('w8', 'ann', 11), ('w8', 'ann', 2);
UPDATE workflows SET status = 'completed' WHERE id = 'w8';
BEGIN;
UPDATE workflows SET id = 'w8b' WHERE id = 'w8';
UPDATE token_usage SET workflow_id = 'w8b' WHERE workflow_id = 'w8';
COMMIT;
DELETE FROM token_usage WHERE workflow_id = 'w8b' AND total_tokens = 2;
SELECT token_balance.correct_workflow('w8') ->> 'amount' AS amount;
SELECT * FROM settled('w8b');

-- what is archived goes on adding up, and a correction after that, too
CREATE TABLE archive (LIKE token_balance.ledger);
SELECT token_balance.archive_ledger(clock_timestamp(), 'archive') ->> 'entries' AS entries;
-- (cid has lost 30 with its first row)
SELECT sum(archived_charged_tokens) = sum(charged_tokens) AS net, sum(charged_tokens) - sum(refunded_tokens) = 3000000 + 30 - (SELECT sum(token_balance) FROM users) AS is_what_left FROM token_balance.settlement;
SELECT * FROM problems;
DELETE FROM token_usage WHERE workflow_id = 'w8b';
SELECT token_balance.correct_workflow('w8b') ->> 'amount' AS amount;
SELECT * FROM problems;
SELECT * FROM law;

-- arguments
CALL pg_temp.try($$SELECT token_balance.correct_workflow(NULL::text)$$);
CALL pg_temp.try($$SELECT token_balance.correct_workflow('nobody knows')$$);
CALL pg_temp.try($$SELECT token_balance.correct_workflow('w1', 'nobody')$$);
CALL pg_temp.try($$SELECT token_balance.correct_workflow(1)$$);
-- known, and never settled
SELECT token_balance.correct_workflow('w9');
BEGIN READ ONLY;
SELECT token_balance.correct_workflow('w1');
ROLLBACK;
-- out of the column's range
DELETE FROM token_usage WHERE workflow_id = 'w1';
UPDATE users SET token_balance = 2147483647 WHERE id = 'ann';
CALL pg_temp.try($$SELECT token_balance.correct_workflow('w1')$$);
SELECT * FROM settled('w1');

-- what reconcile() finds where somebody has taken back more than an entry says
UPDATE token_balance.settlement SET charged_tokens = charged_tokens - 1, usage_tokens = usage_tokens - 1 WHERE workflow_id = 'w1';
SELECT * FROM problems;

SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.correct_workflow('w1')$$);
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, token_usage, workflows CASCADE;

-- The workflow's account pays, and it changes: one usage, three payments. The account that was charged last comes first (DESIGN C12).
CREATE EXTENSION token_balance SCHEMA co;
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE runs (id bigint PRIMARY KEY, owner integer, status text);
CREATE TABLE calls (run bigint, tokens integer);
INSERT INTO users VALUES (1), (2), (3);
INSERT INTO calls VALUES (7, 5);
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', workflow_user => 'owner', existing_usage => 'exempt');
RESET client_min_messages;
INSERT INTO runs VALUES (7, 1, 'running');
INSERT INTO calls VALUES (7, 60);
UPDATE runs SET status = 'completed';
UPDATE runs SET owner = 2, status = 'running';
INSERT INTO calls VALUES (7, 40);
UPDATE runs SET status = 'completed';
UPDATE runs SET owner = 3, status = 'running';
INSERT INTO calls VALUES (7, 30);
UPDATE runs SET status = 'completed';
-- 5 exempt, 60 of 1, 40 of 2, 30 of 3; of 130, 13 are refunded in proportion: 6, 4 and 3
SELECT token_balance.refund_workflow('7', 13) -> 'refunds' AS refunds;
SELECT * FROM settled('7');
-- 35 less: 5 that were exempt, 27 of 3 (30 less 3 refunded), 3 of 2
DELETE FROM calls WHERE tokens IN (5, 30);
SELECT token_balance.correct_workflow(7) - 'success' AS corrected;
SELECT * FROM settled('7');
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
-- an account that is gone: what it would get is not another one's
DELETE FROM users WHERE id = 2;
DELETE FROM calls WHERE tokens = 60;
SELECT token_balance.correct_workflow(7) - 'success' AS corrected;
SELECT token_balance.correct_workflow(7) - 'success' AS corrected;
SELECT * FROM settled('7');
SELECT id, 1000000 - token_balance AS paid FROM users ORDER BY 1;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, runs, calls;

-- Two bindings of one users table, and uuids: each is corrected by its own usage, and an account has one change of its balance (DESIGN C14).
CREATE EXTENSION token_balance SCHEMA co;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id uuid PRIMARY KEY, status text);
CREATE TABLE calls (run uuid, u text, tokens integer);
CREATE TABLE tools (run uuid, u text, tokens integer);
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'calls');
SELECT token_balance.attach('users', 'tools', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}', name => 'tools');
RESET client_min_messages;
INSERT INTO users VALUES ('ann');
INSERT INTO runs VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'running');
INSERT INTO calls SELECT id, 'ann', 100 FROM runs;
INSERT INTO tools SELECT id, 'ann', 7 FROM runs;
UPDATE runs SET status = 'completed';
CREATE TABLE updates (balance integer);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO co.updates VALUES (NEW.token_balance); RETURN NULL; END';
CREATE TRIGGER note AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION note();
UPDATE calls SET tokens = 70;
DELETE FROM tools;
SELECT problem, expected, found, binding FROM token_balance.reconcile();
-- of one alone
SELECT token_balance.correct_workflow('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, 'tools') ->> 'amount' AS amount;
INSERT INTO tools SELECT id, 'ann', 7 FROM runs;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
DELETE FROM tools;
TRUNCATE updates;
-- of both: 30 and 7
SELECT token_balance.correct_workflow('A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11') -> 'corrections' AS corrections;
TABLE updates;
SELECT kind, amount, previous_balance, new_balance FROM token_balance.statement('ann') WHERE kind = 'correction';
SELECT problem FROM token_balance.reconcile();
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, runs, calls, tools;

-- Usage from a view, 3 tokens a unit. What it shows less after it was replaced is given back when an attach has told of it (DESIGN B24).
CREATE EXTENSION token_balance SCHEMA co;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, status text);
CREATE TABLE calls (run text, u text, units integer);
CREATE INDEX ON calls (run);
CREATE VIEW usage AS SELECT run, u, units * 3 AS tokens FROM calls;
SELECT token_balance.attach('users', 'usage', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}');
INSERT INTO users VALUES ('ann');
INSERT INTO runs VALUES ('r', 'running');
INSERT INTO calls VALUES ('r', 'ann', 10), ('r', 'ann', 2);
UPDATE runs SET status = 'completed';
-- 2 units less: 6
DELETE FROM calls WHERE units = 2;
SELECT token_balance.correct_workflow('r') ->> 'amount' AS amount;
CREATE OR REPLACE VIEW usage AS SELECT run, u, units * 1 AS tokens FROM calls;
CALL pg_temp.try($$SELECT token_balance.correct_workflow('r')$$);
SELECT token_balance.attach('users', 'usage', 'runs', usage_user => 'u', usage_workflow => 'run', usage_tokens => '{tokens}');
-- 10 units, 30 less 10
SELECT token_balance.correct_workflow('r') ->> 'amount' AS amount;
SELECT id, token_balance FROM users;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA co CASCADE;
