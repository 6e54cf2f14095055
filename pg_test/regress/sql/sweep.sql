-- The sweep: settle_pending and settle_backlog take what no completion has taken, once (DESIGN H7, W1, W2, W4, W5, W6).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA sw;
SET search_path = sw, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (user_id, created_at);
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO token_usage VALUES ('old', 'ann', 10000), ('old-run', 'bob', 20000);
INSERT INTO workflows VALUES ('old', 'ann', 'completed'), ('old-run', 'bob', 'running');
CREATE EXTENSION token_balance SCHEMA sw;
CREATE VIEW state AS SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances,
  (SELECT sum(charged_tokens) FROM token_balance.settlement) AS charged, (SELECT -sum(amount) FROM token_balance.ledger WHERE kind = 'settlement') AS ledger, (SELECT count(*) FROM token_balance.ledger) AS entries;
CREATE FUNCTION complete(VARIADIC ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  ALTER TABLE sw.workflows DISABLE TRIGGER USER;
  INSERT INTO sw.workflows (id, status) SELECT i, 'completed' FROM unnest(ids) i ON CONFLICT (id) DO UPDATE SET status = 'completed';
  ALTER TABLE sw.workflows ENABLE TRIGGER USER;
END $$;

-- nothing to do: old usage is exempt
SELECT token_balance.settle_pending();
-- never settled, as the triggers were off; late usage of a settled one; a run that goes on; usage of no known run
INSERT INTO token_usage VALUES ('never', 'ann', 100), ('never', 'bob', 10), ('never', NULL, 5), ('late', 'ann', 1), ('on', 'ann', 7), ('nobody', 'ann', 9), ('old', 'ann', 2);
SELECT complete('never');
INSERT INTO workflows VALUES ('late', 'ann', 'completed'), ('on', 'ann', 'running');
INSERT INTO token_usage VALUES ('late', 'ann', 30), ('late', 'bob', 3);
SELECT * FROM state;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT token_balance.settle_pending();
SELECT * FROM state;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT * FROM token_balance.reconcile();
-- again: nothing
SELECT token_balance.settle_pending();
SELECT * FROM state;
-- the run that went on, completed and with late usage before the sweep: each token once
UPDATE workflows SET status = 'completed' WHERE id = 'on';
INSERT INTO token_usage VALUES ('on', 'ann', 1);
SELECT token_balance.settle_pending();
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
SELECT * FROM state;

-- since: workflows with usage from then on
INSERT INTO token_usage VALUES ('s1', 'ann', 1000, now() - interval '10 days'), ('s2', 'ann', 200, now() - interval '1 hour'), ('s2', 'ann', 30, now() - interval '9 days'), ('s3', 'bob', 4, now());
SELECT complete('s1', 's2', 's3');
SELECT token_balance.settle_pending(now() + interval '1 hour') ->> 'workflows' AS workflows;
SELECT token_balance.settle_pending(now() - interval '1 minute');
SELECT token_balance.settle_pending(since => now() - interval '1 day');
SELECT token_balance.settle_pending(now() - interval '20 days');
SELECT * FROM state;

-- max_workflows, and whether there is more
INSERT INTO token_usage SELECT 'm' || i, CASE WHEN i % 2 = 0 THEN 'ann' ELSE 'bob' END, 1 FROM generate_series(1, 25) i;
SELECT complete(VARIADIC ARRAY(SELECT 'm' || i FROM generate_series(1, 25) i));
SELECT token_balance.settle_pending(max_workflows => 10);
SELECT token_balance.settle_pending(NULL, 10);
SELECT token_balance.settle_pending(NULL, 10);
SELECT token_balance.settle_pending(NULL, 10);
-- exactly as many as there are: no more
INSERT INTO token_usage VALUES ('m1', 'ann', 1), ('m2', 'ann', 1);
SELECT token_balance.settle_pending(NULL, 2);
SELECT * FROM state;
RESET client_min_messages;
CALL pg_temp.try($$SELECT token_balance.settle_pending(NULL, 0)$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending(NULL, -1)$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending(NULL, NULL)$$);
BEGIN READ ONLY;
SELECT token_balance.settle_pending();
ROLLBACK;

-- a bad charge is a warning and does not block the others; it is found again by the next sweep
INSERT INTO token_usage VALUES ('b1', 'ann', 1), ('b2', 'zoe', 20), ('b3', 'bob', 300), ('b4', 'ann', 2147483647), ('b4', 'ann', 2147483647), ('b5', 'bob', 4);
SET client_min_messages = warning;
SELECT complete('b1', 'b2', 'b3', 'b4', 'b5');
SELECT token_balance.settle_pending();
SELECT * FROM state;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
-- what cannot be charged does not use up the limit, or nothing behind it would ever be settled
INSERT INTO token_usage VALUES ('z9', 'bob', 5);
SELECT complete('z9');
SET client_min_messages = error;
SELECT token_balance.settle_pending(NULL, 2) ->> 'tokens_used' AS tokens_used;
SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'z9';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- the account comes, the other usage is corrected: taken
INSERT INTO users VALUES ('zoe');
DELETE FROM token_usage WHERE workflow_id = 'b4';
SET client_min_messages = warning;
SELECT token_balance.settle_pending();
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- a constraint of the application's own is no bad charge: it raises, and nothing is settled
ALTER TABLE users ADD CONSTRAINT floor CHECK (id <> 'bob' OR token_balance > 900000 OR users IS NULL);
INSERT INTO token_usage VALUES ('c1', 'ann', 1), ('c2', 'bob', 900000), ('c3', 'zoe', 1);
SELECT complete('c1', 'c2', 'c3');
RESET client_min_messages;
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
SELECT * FROM state;
ALTER TABLE users DROP CONSTRAINT floor;
SELECT token_balance.settle_pending();
SELECT * FROM state;

-- settle_backlog: the rate in its NOTICEs differs from run to run, so they are not shown
SET client_min_messages = warning;
CALL token_balance.settle_backlog();
SELECT * FROM state;
-- one commit per batch: ten pairs of workflow and account are in one transaction, no more
INSERT INTO token_usage SELECT 'k' || i, CASE WHEN i % 2 = 0 THEN 'ann' ELSE 'bob' END, 1 FROM generate_series(1, 95) i;
SELECT complete(VARIADIC ARRAY(SELECT 'k' || i FROM generate_series(1, 95) i));
SELECT clock_timestamp() AS last \gset
CALL token_balance.settle_backlog(10);
SELECT count(*) AS charges, count(DISTINCT xmin::text) >= 10 AS several_transactions,
  (SELECT max(n) <= 10 FROM (SELECT count(*) AS n FROM token_balance.ledger WHERE created_at > :'last' GROUP BY xmin::text) t) AS ten_at_most
  FROM token_balance.ledger WHERE created_at > :'last';
SELECT * FROM state;
CALL token_balance.settle_backlog(batch_size => 1);
SELECT * FROM state;
-- old usage stays exempt
SELECT usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id LIKE 'old%' ORDER BY workflow_id;

-- where it cannot commit, and arguments
BEGIN;
CALL token_balance.settle_backlog();
ROLLBACK;
\set VERBOSITY sqlstate
BEGIN;
CALL token_balance.settle_backlog();
ROLLBACK;
\set VERBOSITY default
CREATE FUNCTION inside() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL token_balance.settle_backlog(); END';
RESET client_min_messages;
CALL pg_temp.try('SELECT inside()');
SELECT inside();
CALL pg_temp.try('CALL token_balance.settle_backlog()');
CALL token_balance.settle_backlog(0);
CALL token_balance.settle_backlog(-5);
CALL token_balance.settle_backlog(NULL);
CALL token_balance.settle_backlog(1, NULL);
SELECT * FROM state;
-- a procedure that may commit may call it
SET client_min_messages = warning;
INSERT INTO token_usage VALUES ('k1', 'ann', 5);
CREATE PROCEDURE nightly() LANGUAGE plpgsql AS $$ BEGIN CALL token_balance.settle_backlog(); END $$;
CALL nightly();
SELECT * FROM state;

-- stopped by an error in the middle, the batches before it are committed; started again, it goes on
INSERT INTO token_usage SELECT 'r' || i, 'ann', 10 FROM generate_series(1, 60) i;
SELECT complete(VARIADIC ARRAY(SELECT 'r' || i FROM generate_series(1, 60) i));
SELECT token_balance - 300 AS floor FROM users WHERE id = 'ann' \gset
ALTER TABLE users ADD CONSTRAINT brake CHECK (id <> 'ann' OR token_balance >= :floor OR users IS NULL);
CALL token_balance.settle_backlog(1);
SELECT count(*) AS settled FROM token_balance.settlement WHERE workflow_id ~ '^r[0-9]';
SELECT * FROM state;
CALL token_balance.settle_backlog(7);
SELECT * FROM state;
ALTER TABLE users DROP CONSTRAINT brake;
CALL token_balance.settle_backlog(7);
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
CALL token_balance.settle_backlog(7);
SELECT * FROM state;
-- no cursor and no lock is left behind
SELECT (SELECT count(*) FROM pg_cursors) AS cursors, (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS locks;

-- existing => true: the usage from before the extension as well, of every workflow, once; stopped in the middle here too
SELECT complete('old-run');
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
SELECT token_balance AS floor FROM users WHERE id = 'bob' \gset
ALTER TABLE users ADD CONSTRAINT brake CHECK (id <> 'bob' OR token_balance >= :floor OR users IS NULL);
CALL token_balance.settle_backlog(1, existing => true);
SELECT token_balance = :floor AS bob_kept FROM users WHERE id = 'bob';
ALTER TABLE users DROP CONSTRAINT brake;
CALL token_balance.settle_backlog(existing => true);
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id LIKE 'old%' ORDER BY 1, 2;
SELECT * FROM state;
CALL token_balance.settle_backlog(existing => true);
CALL token_balance.settle_backlog(3, true);
SELECT * FROM state;
SELECT * FROM token_balance.reconcile();
-- a refund is not taken back by it
SELECT token_balance.refund_workflow('old') ->> 'amount' AS refunded;
CALL token_balance.settle_backlog(existing => true);
SELECT * FROM state;
-- nor is usage charged again that shrank
DELETE FROM token_usage WHERE workflow_id = 'never';
CALL token_balance.settle_backlog(existing => true);
SELECT charged_tokens, usage_tokens FROM token_balance.settlement WHERE workflow_id = 'never' ORDER BY 1;
SELECT * FROM state;
SELECT token_balance.detach();
RESET client_min_messages;
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
CALL token_balance.settle_backlog();
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;

-- no workflow table: workflows that were settled once and have late usage; with existing => true all that there is
DROP TABLE users, token_usage, workflows CASCADE;
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE calls (run uuid, account bigint, tokens integer);
INSERT INTO users VALUES (1), (2);
INSERT INTO calls VALUES ('00000000-0000-0000-0000-000000000001', 1, 1000);
CREATE EXTENSION token_balance SCHEMA sw;
SELECT token_balance.attach('users', 'calls', usage_workflow => 'run', usage_user => 'account', usage_tokens => '{tokens}');
INSERT INTO calls VALUES ('00000000-0000-0000-0000-000000000002', 1, 10), ('00000000-0000-0000-0000-000000000003', 2, 20);
SELECT settle_workflow('00000000-0000-0000-0000-000000000002'::uuid) ->> 'tokens_used' AS tokens_used;
INSERT INTO calls VALUES ('00000000-0000-0000-0000-000000000002', 1, 1), ('00000000-0000-0000-0000-000000000002', 2, 2);
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT token_balance.settle_pending();
SELECT * FROM users ORDER BY id;
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
CALL token_balance.settle_backlog();
SELECT * FROM users ORDER BY id;
CALL token_balance.settle_backlog(existing => true);
SELECT * FROM users ORDER BY id;
SELECT * FROM token_balance.reconcile();
-- since, where there is no time column: it limits nothing
INSERT INTO calls VALUES ('00000000-0000-0000-0000-000000000002', 1, 5);
SELECT token_balance.settle_pending(now() + interval '1 day') ->> 'tokens_used' AS tokens_used;
DROP EXTENSION token_balance CASCADE;

-- the workflow row's account pays; keys that are spelled differently; runs that share an id
DROP TABLE users, calls;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE calls (run text, tokens integer);
CREATE TABLE runs (id uuid, who text, ended_at timestamptz);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA sw;
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{tokens}', workflow_user => 'who', workflow_status => NULL, workflow_completed_at => 'ended_at');
INSERT INTO calls VALUES ('00000000-0000-0000-0000-00000000000a', 10), ('00000000-0000-0000-0000-00000000000b', 5);
INSERT INTO runs VALUES ('00000000-0000-0000-0000-00000000000A', 'ann', now()), ('00000000-0000-0000-0000-00000000000A', 'ann', NULL), ('00000000-0000-0000-0000-00000000000B', 'ann', NULL);
INSERT INTO calls VALUES ('00000000-0000-0000-0000-00000000000a', 1);
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT token_balance.settle_pending();
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
SELECT * FROM users;

DROP EXTENSION token_balance CASCADE;

-- more workflows than are read at a time; a usage time without a zone, which is one of the session's TimeZone
DROP TABLE users, calls, runs;
SET TimeZone = 'Asia/Tokyo';
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE token_usage (workflow_id integer, user_id integer, total_tokens integer, created_at timestamp NOT NULL DEFAULT localtimestamp);
CREATE TABLE workflows (id integer PRIMARY KEY, user_id integer, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users SELECT generate_series(1, 3);
CREATE EXTENSION token_balance SCHEMA sw;
ALTER TABLE workflows DISABLE TRIGGER USER;
INSERT INTO workflows SELECT w, 1, 'completed' FROM generate_series(1, 3500) w;
ALTER TABLE workflows ENABLE TRIGGER USER;
INSERT INTO token_usage SELECT w, w % 3 + 1, 1 FROM generate_series(1, 3500) w;
UPDATE token_usage SET created_at = localtimestamp - interval '10 hours' WHERE workflow_id <= 1500;
-- the first 1200 are of an account that does not exist
UPDATE token_usage SET user_id = 9 WHERE workflow_id <= 1200;
SET client_min_messages = error;
SELECT token_balance.settle_pending(now() - interval '1 hour', 1200);
SELECT token_balance.settle_pending(now() - interval '1 hour');
SELECT token_balance.settle_pending(NULL, 200);
SELECT token_balance.settle_pending();
SELECT problem, count(*), sum(expected) AS expected, sum(found) AS found FROM token_balance.reconcile() GROUP BY 1;
INSERT INTO users VALUES (9);
CALL token_balance.settle_backlog(500);
SELECT * FROM token_balance.reconcile();
SELECT * FROM users ORDER BY id;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sw CASCADE;
