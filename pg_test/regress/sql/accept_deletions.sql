-- accept_deletions: usage that was pruned without record counts as if it were there, so that what came since is charged (DESIGN V35, V36).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA ad;
SET search_path = ad, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens numeric, created_at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO token_usage VALUES ('old', 'ann', 60), ('old', 'bob', 6);
CREATE EXTENSION token_balance SCHEMA ad;
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement ORDER BY 1, 2;
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance - 1000000, ', ' ORDER BY id) AS balances FROM users;
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  sum(CASE WHEN state IN ('archived', 'shrunk') THEN -tokens ELSE tokens END) = COALESCE((SELECT sum(total_tokens) FROM token_usage), 0) AS holds FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();

-- a session whose id is used for months: settled 10,000, old rows of 8,000 pruned, 500 new ones
INSERT INTO workflows VALUES ('session', 'ann', 'completed'), ('other', 'bob', 'completed');
INSERT INTO token_usage VALUES ('session', 'ann', 8000), ('session', 'ann', 2000), ('other', 'bob', 40);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE total_tokens = 8000;
SELECT clock_timestamp() AS pruned \gset
INSERT INTO token_usage VALUES ('session', 'ann', 500);
SELECT settle_workflow('session') ->> 'tokens_used' AS tokens_used;
TABLE problems;
SELECT hint FROM token_balance.reconcile();
SELECT token_balance.accept_deletions(:'pruned', dry_run => true);
TABLE settled;
SELECT token_balance.accept_deletions(:'pruned');
TABLE settled;
SELECT settle_workflow('session') ->> 'tokens_used' AS tokens_used;
TABLE balances;
TABLE law;
TABLE problems;
SELECT kind, archive, actor = current_user AS actor_is_me, row_count, tokens FROM token_balance.archived;
-- again: nothing
SELECT token_balance.accept_deletions(:'pruned');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;

-- what was settled since is not known to be missing of the older part
INSERT INTO token_usage VALUES ('other', 'bob', 2);
SELECT settle_workflow('other') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE total_tokens = 40;
SELECT token_balance.accept_deletions(:'pruned');
SELECT clock_timestamp() AS later \gset
-- exempt usage has no time of its own: it is from before the attach
DELETE FROM token_usage WHERE workflow_id = 'old' AND user_id = 'ann';
SELECT token_balance.accept_deletions(:'later', true);
SELECT token_balance.accept_deletions(:'later');
TABLE law;
TABLE problems;
-- a row without a time is nothing that came since
INSERT INTO workflows VALUES ('untimed', 'bob', 'running');
INSERT INTO token_usage VALUES ('untimed', 'bob', 30, NULL), ('untimed', 'bob', 1.5, clock_timestamp());
UPDATE workflows SET status = 'completed' WHERE id = 'untimed';
SELECT clock_timestamp() AS latest \gset
SELECT token_balance.accept_deletions(:'latest');
DELETE FROM token_usage WHERE total_tokens = 1.5;
SELECT token_balance.accept_deletions(:'latest');
INSERT INTO token_usage VALUES ('untimed', 'bob', 0.6);
SELECT settle_workflow('untimed') ->> 'tokens_used' AS tokens_used;
TABLE settled;
-- what cannot be counted is not missing
DELETE FROM token_usage WHERE total_tokens = 0.6;
INSERT INTO token_usage VALUES ('untimed', 'bob', 'NaN', NULL);
SELECT token_balance.accept_deletions(clock_timestamp());
UPDATE token_usage SET total_tokens = 0 WHERE total_tokens = 'NaN';
SELECT token_balance.accept_deletions(clock_timestamp());
TABLE problems;
-- an account that is gone, with its usage
INSERT INTO users VALUES ('cid');
INSERT INTO token_usage VALUES ('gone', 'cid', 9);
SELECT settle_workflow('gone') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE user_id = 'cid';
DELETE FROM users WHERE id = 'cid';
TABLE problems;
SELECT token_balance.accept_deletions(clock_timestamp());
TABLE problems;
-- in the transaction that has changed a workflow's id
INSERT INTO token_usage VALUES ('moved', 'bob', 50), ('moved', 'bob', 7);
INSERT INTO workflows VALUES ('moved', 'bob', 'completed');
DELETE FROM token_usage WHERE workflow_id = 'moved' AND total_tokens = 50;
BEGIN;
UPDATE token_usage SET workflow_id = 'moved on' WHERE workflow_id = 'moved';
UPDATE workflows SET id = 'moved on' WHERE id = 'moved';
SELECT token_balance.accept_deletions(clock_timestamp(), true);
SELECT token_balance.accept_deletions(clock_timestamp());
COMMIT;
SELECT * FROM settled WHERE workflow_id LIKE 'moved%';
-- more workflows than a transaction has locks for; a correction comes too late for what was accepted
INSERT INTO token_usage SELECT 'n' || n, 'bob', 1 FROM generate_series(1, 2100) AS n;
SELECT count(*) FROM token_balance.settle_workflows(ARRAY(SELECT 'n' || n FROM generate_series(1, 2100) AS n));
DELETE FROM token_usage WHERE workflow_id LIKE 'n%';
SELECT token_balance.accept_deletions(clock_timestamp());
SELECT token_balance.correct_workflow('n1') ->> 'amount' AS amount;
TABLE law;
TABLE problems;

CALL pg_temp.try($$SELECT token_balance.accept_deletions(NULL)$$);
CALL pg_temp.try($$SELECT token_balance.accept_deletions(now(), NULL)$$);
CALL pg_temp.try($$SELECT token_balance.accept_deletions(now() + interval '1 day')$$);
CALL pg_temp.try($$SELECT token_balance.accept_deletions(now(), binding => 'none')$$);
BEGIN READ ONLY;
CALL pg_temp.try($$SELECT token_balance.accept_deletions(now())$$);
SELECT token_balance.accept_deletions(now(), true) ->> 'pairs' AS pairs;
ROLLBACK;
-- the application's clock goes ahead: what comes later than now is nothing that came since
INSERT INTO token_usage VALUES ('ahead', 'bob', 100, now() - interval '2 days'), ('ahead', 'bob', 50, now() + interval '9 hours');
SELECT settle_workflow('ahead') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE total_tokens = 100;
SELECT token_balance.accept_deletions(clock_timestamp());
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used, settle_workflow('ahead') ->> 'status' AS status;
-- usage without a time: all that is there is from before
SELECT count(*) FROM token_balance.detach();
CREATE TABLE plain (workflow_id text, user_id text, total_tokens integer);
SELECT count(*) FROM token_balance.attach('users', 'plain', 'workflows', name => 'plain');
INSERT INTO plain VALUES ('p1', 'ann', 10), ('p1', 'ann', 5);
SELECT settle_workflow('p1') ->> 'tokens_used' AS tokens_used;
DELETE FROM plain WHERE total_tokens = 10;
SELECT token_balance.accept_deletions(now());
INSERT INTO plain VALUES ('p1', 'ann', 3);
SELECT settle_workflow('p1') ->> 'tokens_used' AS tokens_used;
TABLE problems;
-- usage from a view: the application prunes the tables below
SELECT count(*) FROM token_balance.detach();
CREATE TABLE calls (run text, who text, input integer, output integer, at timestamptz);
CREATE VIEW all_calls AS SELECT run, who, input + output AS tokens, at FROM calls;
SELECT count(*) FROM token_balance.attach('users', 'all_calls', 'workflows', name => 'view', usage_user => 'who', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
INSERT INTO calls VALUES ('v1', 'ann', 60, 40, now() - interval '40 days'), ('v1', 'ann', 6, 4, now() - interval '1 day');
SELECT settle_workflow('v1', 'view') ->> 'tokens_used' AS tokens_used;
DELETE FROM calls WHERE at < now() - interval '30 days';
SELECT token_balance.accept_deletions(clock_timestamp(), binding => 'view');
INSERT INTO calls VALUES ('v1', 'ann', 1, 1, clock_timestamp());
SELECT settle_workflow('v1', 'view') ->> 'tokens_used' AS tokens_used;
TABLE problems;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ad CASCADE;
