-- The law: charged + exempt + waiting + unowned - shrunk are the tokens of the usage rows; nothing is in no state (DESIGN Y1).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA us;
SET search_path = us, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA us;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT '2026-01-01');
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO token_usage VALUES ('old', 'ann', 1000);
CREATE VIEW law AS SELECT (SELECT sum(CASE state WHEN 'shrunk' THEN -tokens ELSE tokens END) FROM token_balance.usage_state())
  = (SELECT sum(total_tokens) FROM token_usage) AS law, (SELECT sum(usage_rows) FROM token_balance.usage_state()) = (SELECT count(*) FROM token_usage) AS rows;
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
CALL pg_temp.try($$TABLE token_balance.unsettled$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT * FROM token_balance.usage_state();
TABLE law;
-- a run in each state (DESIGN Y2, Y3)
INSERT INTO workflows VALUES ('done', 'ann', 'running'), ('open', 'ann', 'running'), ('late', 'bob', 'running'), ('stranger', 'eve', 'running'), ('rich', 'bob', 'running'),
  ('less', 'bob', 'running'), ('gone', 'ann', 'running');
INSERT INTO token_usage VALUES ('done', 'ann', 10), ('done', 'bob', 20), ('open', 'ann', 30), ('late', 'bob', 40), ('less', 'bob', 50), ('less', 'bob', 5), ('gone', 'ann', 60);
UPDATE workflows SET status = 'completed' WHERE id IN ('done', 'late', 'less', 'gone');
INSERT INTO token_usage VALUES ('late', 'bob', 4), ('late', 'bob', 1), ('old', 'ann', 7), ('stranger', 'eve', 8), ('rich', 'bob', 2147483647),
  -- a surrogate key that was bound by mistake, a run that nobody knows
  ('nowhere', 'ann', 9), (NULL, 'ann', 100), ('open', NULL, 200), (NULL, NULL, 300);
INSERT INTO token_usage VALUES ('open', 'ann', 1, '2026-03-01'), ('open', 'ann', 1, '2026-04-01');
UPDATE workflows SET status = 'completed' WHERE id IN ('stranger', 'rich');
DELETE FROM token_usage WHERE workflow_id = 'gone' OR (workflow_id = 'less' AND total_tokens = 50);
SELECT * FROM token_balance.usage_state();
TABLE token_balance.unsettled;
TABLE law;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
-- a refund is of what was charged; an old snapshot has its own
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT token_balance.refund_workflow('done') ->> 'amount' AS refunded;
TABLE law;
COMMIT;
-- the application deletes an account, and its usage by cascade: there is nothing to do (DESIGN R4)
DELETE FROM token_usage WHERE user_id = 'bob';
DELETE FROM users WHERE id = 'bob';
SELECT problem, user_id, workflow_id, expected, found, hint FROM token_balance.reconcile() WHERE problem LIKE '%gone%';
TABLE law;

-- no workflow table: usage that was never settled once is seen, with its time (DESIGN Y2)
SELECT token_balance.detach();
DELETE FROM token_usage;
INSERT INTO users VALUES ('bob');
SELECT token_balance.attach('users', 'token_usage');
INSERT INTO token_usage VALUES ('s1', 'ann', 1, '2026-05-01'), ('s2', 'bob', 2, '2026-05-02'), ('s2', 'bob', 3, '2026-05-03');
SELECT settle_workflow('s1') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('s1', 'ann', 5);
SELECT * FROM token_balance.usage_state() WHERE state = 'waiting';
TABLE law;
-- a time that never comes, and one that never was
INSERT INTO token_usage VALUES ('s2', 'bob', 7, 'infinity'), ('s2', 'bob', 8, '-infinity');
SELECT * FROM token_balance.usage_state() WHERE state = 'waiting';
SELECT count(*) FROM token_balance.reconcile();
SELECT token_balance.summary('bob', 36500) #> '{summary,total_tokens}' AS total_tokens;
TABLE law;

-- the account of the workflow pays
SELECT token_balance.detach();
DELETE FROM token_usage;
DELETE FROM workflows;
CREATE TABLE runs (task serial, id text, user_id text, status text);
CREATE TABLE steps (run text, tokens bigint);
INSERT INTO runs (id, user_id, status) VALUES ('r1', 'ann', 'completed'), ('r2', NULL, 'completed'), ('r3', 'ann', 'completed'), ('r3', 'bob', 'completed'), ('r4', 'ann', 'running'), ('r5', 'eve', 'completed');
SELECT token_balance.attach('users', 'steps', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}');
INSERT INTO steps VALUES ('r1', 1), ('r2', 2), ('r3', 4), ('r4', 8), ('r5', 16), ('r6', 32), (NULL, 64);
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
INSERT INTO steps VALUES ('r1', 128);
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
SELECT sum(tokens) = (SELECT sum(tokens) FROM steps) AS law FROM token_balance.usage_state();
TABLE token_balance.unsettled;
-- whom it is granted to
CREATE ROLE regress_tb_us;
SET ROLE regress_tb_us;
CALL pg_temp.try($$TABLE token_balance.unsettled$$);
CALL pg_temp.try($$SELECT * FROM token_balance.usage_state()$$);
RESET ROLE;
DROP ROLE regress_tb_us;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA us CASCADE;
