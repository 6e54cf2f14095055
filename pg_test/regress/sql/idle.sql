-- Runs that nobody settles: no workflow table, or the application crashed before it said that the run is over (DESIGN W7).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA id;
SET search_path = id, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA id;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
SELECT token_balance.attach('users', 'token_usage');
INSERT INTO token_usage VALUES ('old', 'ann', 1, now() - interval '3 hours'), ('old', 'ann', 2, now() - interval '2 hours'),
  ('busy', 'ann', 4, now() - interval '3 hours'), ('busy', 'ann', 8, DEFAULT), ('settled', 'ann', 16, DEFAULT);
SELECT settle_workflow('settled') ->> 'tokens_used' AS settled;
INSERT INTO token_usage VALUES ('settled', 'ann', 32);
SELECT state, reason, workflows, tokens FROM token_balance.usage_state();
SELECT token_balance.settle_pending() ->> 'tokens_used' AS settled_once;
SELECT token_balance.settle_pending(idle => '1 hour') AS idle;
SELECT token_balance.settle_pending(idle => '1 hour') ->> 'tokens_used' AS again;
SELECT token_balance.settle_pending(idle => '0') ->> 'tokens_used' AS all_of_them;
SELECT * FROM users;
SELECT * FROM token_balance.reconcile();
-- usage that comes later is late usage of a run that was settled once
INSERT INTO token_usage VALUES ('old', 'ann', 64);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS late;
CALL pg_temp.try($$SELECT token_balance.settle_pending(idle => '-1 second')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => NULL);
CALL pg_temp.try($$SELECT token_balance.settle_pending(idle => '1 hour')$$);
-- with a workflow table: a run that is open, one that is not there, one that is completed
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
INSERT INTO workflows VALUES ('crashed', 'ann', 'running'), ('running', 'ann', 'running'), ('completed', 'ann', 'completed');
INSERT INTO token_usage VALUES ('crashed', 'ann', 100, now() - interval '2 days'), ('running', 'ann', 200, DEFAULT), ('nowhere', 'ann', 300, now() - interval '2 days'), ('completed', 'ann', 400, DEFAULT);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS completed;
SELECT token_balance.settle_pending(idle => '1 day') AS idle;
SELECT state, reason, workflows, tokens FROM token_balance.usage_state();
-- which it may complete later: nothing more is charged
UPDATE workflows SET status = 'completed' WHERE id = 'crashed';
SELECT workflow_id, charged_tokens FROM token_balance.settlement ORDER BY 1;
SELECT token_balance.settle_pending(max_workflows => 1, idle => '0') ->> 'more' AS more;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA id CASCADE;
