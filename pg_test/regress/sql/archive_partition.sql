-- archive_usage(partition): a whole partition leaves, none of its rows touched (DESIGN V34, V37).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA ap;
SET search_path = ap, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens numeric, created_at date NOT NULL) PARTITION BY RANGE (created_at);
CREATE TABLE usage_01 PARTITION OF token_usage FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE usage_02 PARTITION OF token_usage FOR VALUES FROM ('2026-02-01') TO ('2026-03-01') PARTITION BY LIST (user_id);
CREATE TABLE usage_02_ann PARTITION OF usage_02 FOR VALUES IN ('ann');
CREATE TABLE usage_02_rest PARTITION OF usage_02 DEFAULT;
CREATE TABLE usage_03 PARTITION OF token_usage DEFAULT;
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA ap;
SELECT count(*) FROM token_balance.attach('users', 'token_usage', 'workflows');
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement ORDER BY 1, 2;
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance - 1000000, ', ' ORDER BY id) AS balances FROM users;
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();

-- fractions are added up before they are rounded: 10.4 + 0.4 + 0.4 are 11
INSERT INTO token_usage VALUES ('w1', 'ann', 10.4, '2026-01-05'), ('w1', 'ann', 0.4, '2026-02-05'), ('w2', 'bob', 7, '2026-01-06'), ('w2', 'bob', 2, '2026-02-06'),
  (NULL, 'ann', 5, '2026-01-07'), ('w3', NULL, 5, '2026-01-07');
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'bob', 'completed'), ('w3', 'bob', 'running');
TABLE balances;
SELECT token_balance.archive_usage(partition => 'usage_01');
TABLE settled;
INSERT INTO token_usage VALUES ('w1', 'ann', 0.4, '2026-03-05');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE settled;
TABLE law;
TABLE problems;
-- it is a table of its own, with all of its rows
SELECT count(*), inhparent::regclass FROM usage_01 LEFT JOIN pg_inherits ON inhrelid = 'usage_01'::regclass GROUP BY 2;
DROP TABLE usage_01;
TABLE problems;
-- what is not settled keeps it, and nothing is half done
INSERT INTO token_usage VALUES ('open', 'ann', 3, '2026-02-07'), ('more', 'ann', 3, '2026-02-07');
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'usage_02')$$);
TABLE settled;
SELECT token_balance.exempt_pending() ->> 'tokens_exempt' AS tokens_exempt;
-- a partition of a partition, and one that has some
SELECT token_balance.archive_usage(partition => 'usage_02_ann');
SELECT token_balance.archive_usage(partition => 'usage_02');
TABLE law;
TABLE problems;
SELECT kind, archive, before, row_count, tokens FROM token_balance.archived ORDER BY archive COLLATE "C";
SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'token_usage'::regclass;
-- tokens that cannot be counted are not settled
INSERT INTO token_usage VALUES ('w2', 'bob', 'NaN', '2026-04-01');
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'usage_03')$$);
DELETE FROM token_usage WHERE total_tokens = 'NaN';
-- a run of which all usage has left is charged for what comes later
INSERT INTO token_usage VALUES ('w2', 'bob', 1.6, '2026-04-01');
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'token_usage')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 4294967295)$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'usage_03', archive => 'usage_02')$$);
-- with what the same transaction has written and settled; rolled back, all is as it was
BEGIN;
INSERT INTO token_usage VALUES ('w2', 'bob', 1, '2026-04-01');
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;
SELECT token_balance.archive_usage(partition => 'usage_03');
TABLE law;
ROLLBACK;
TABLE settled;
TABLE law;

-- the workflow's account pays
SELECT count(*) FROM token_balance.detach();
CREATE TABLE runs_usage (run text, tokens integer, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE runs_01 PARTITION OF runs_usage FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z');
CREATE TABLE runs_02 PARTITION OF runs_usage FOR VALUES FROM ('2026-02-01Z') TO ('2026-03-01Z');
CREATE INDEX ON runs_usage (run);
SELECT count(*) FROM token_balance.attach('users', 'runs_usage', 'workflows', name => 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
INSERT INTO workflows VALUES ('r1', 'ann', 'running'), ('r2', 'bob', 'running');
INSERT INTO runs_usage VALUES ('r1', 100, '2026-01-05Z'), ('r1', 11, '2026-02-05Z'), ('r2', 7, '2026-01-06Z');
UPDATE workflows SET status = 'completed' WHERE id IN ('r1', 'r2');
SELECT token_balance.archive_usage(partition => 'runs_01');
SELECT * FROM settled WHERE workflow_id LIKE 'r%';
INSERT INTO runs_usage VALUES ('r1', 5, '2026-02-06Z'), ('r2', 4, '2026-02-06Z');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT token_balance.archive_usage('2026-03-01Z');
SELECT * FROM settled WHERE workflow_id LIKE 'r%';
TABLE law;
TABLE problems;
-- two bindings have this usage: what leaves would have to be noted in both
CREATE TABLE teams (id text PRIMARY KEY);
SELECT count(*) FROM token_balance.attach('teams', 'runs_usage', 'workflows', name => 'teams', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-03-01Z', binding => 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'runs_02', binding => 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-03-01Z')$$);
SELECT count(*) FROM token_balance.detach(name => 'teams');
-- more pairs of workflow and account than are read at a time: no workflow is taken in two parts
SELECT count(*) FROM token_balance.detach();
CREATE TABLE many (run text, account text, tokens integer, at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE many_01 PARTITION OF many FOR VALUES FROM ('2026-01-01Z') TO ('2026-02-01Z');
INSERT INTO users VALUES ('cat');
INSERT INTO many SELECT 'm' || run, account, 2, '2026-01-05Z' FROM generate_series(1, 3400) AS run, unnest('{ann,bob,cat}'::text[]) AS account;
CREATE INDEX ON many (run);
SELECT count(*) FROM token_balance.attach('users', 'many', 'workflows', name => 'many', usage_user => 'account', usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at', existing_usage => 'charge');
INSERT INTO workflows SELECT 'm' || run, 'ann', 'completed' FROM generate_series(1, 3400) AS run;
SELECT token_balance.archive_usage(partition => 'many_01', binding => 'many');
SELECT count(*), sum(charged_tokens) AS charged, sum(archived_usage_tokens) AS archived FROM token_balance.settlement WHERE workflow_id ~ '^m[0-9]';
TABLE problems;
-- usage without a time, and from a view
CREATE TABLE plain (run text, tokens integer);
ALTER TABLE plain ADD at timestamptz;
CREATE VIEW shown AS SELECT run, tokens, at FROM plain;
SELECT count(*) FROM token_balance.attach('users', 'plain', 'workflows', name => 'plain', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-03-01Z', binding => 'plain')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-03-01Z', NULL, 'plain')$$);
SELECT count(*) FROM token_balance.attach('users', 'shown', 'workflows', name => 'shown', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', usage_created_at => 'at');
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-03-01Z', binding => 'shown')$$);
CALL pg_temp.try($$SELECT token_balance.archive_usage(partition => 'plain', binding => 'shown')$$);
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ap CASCADE;
