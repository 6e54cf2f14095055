-- attach(…, dry_run => true): what would happen, and nothing happens (DESIGN F33).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA dr;
SET search_path = dr, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA dr;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
-- what was written by this transaction, what is locked otherwise than by reading, and what there is of a binding
CREATE VIEW done AS SELECT pg_current_xact_id_if_assigned() IS NOT NULL AS writes,
  (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype IN ('relation', 'advisory') AND mode <> 'AccessShareLock') AS locks,
  (SELECT count(*) FROM token_balance.binding) AS bindings, (SELECT count(*) FROM token_balance.settlement) AS settlements,
  (SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('users'::regclass, 'token_usage'::regclass, 'workflows'::regclass)) AS triggers,
  (SELECT count(*) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attname = 'token_balance') AS columns,
  (SELECT count(*) FROM pg_index WHERE indrelid = 'token_usage'::regclass) AS indexes;
SET client_min_messages = notice;
-- empty tables, in a transaction that may not write
BEGIN READ ONLY;
SELECT token_balance.attach('users', 'token_usage', 'workflows', dry_run => true);
TABLE done;
COMMIT;

-- 100 + 20 of runs that are completed, 3 of one that is not, 4 of one that nobody knows
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'ann', 'running'), ('w3', 'bob', 'failed');
INSERT INTO token_usage VALUES ('w1', 'ann', 60), ('w1', 'ann', 40), ('w1', 'bob', 20), ('w2', 'ann', 3), ('w9', 'ann', 4);
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true, dry_run => true);
TABLE done;
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge', balance_type => 'bigint', initial_balance => 5, late_usage => 'settle', dry_run => true);
TABLE done;
COMMIT;
-- what attach refuses, it refuses; the word is a word
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_status => 'state', dry_run => true)$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', dry_run => NULL)$$);
-- a binding that can never match
BEGIN;
INSERT INTO token_usage SELECT 'other-' || i, 'ann', 1 FROM generate_series(1, 20) i;
DELETE FROM token_usage WHERE workflow_id LIKE 'w%';
SELECT token_balance.attach('users', 'token_usage', 'workflows', dry_run => true);
ROLLBACK;

-- attached: nothing to do; another option; a column that was there
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge', create_index => true);
INSERT INTO token_usage VALUES ('w1', 'ann', 7);
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows', dry_run => true);
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle', dry_run => true);
TABLE done;
SELECT late_usage FROM token_balance.binding;
COMMIT;
-- one that was detached goes on
SELECT token_balance.detach();
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows', initial_balance => 9, dry_run => true);
TABLE done;
COMMIT;
-- usage from a view: its tables are locked as well
CREATE TABLE calls (id bigint PRIMARY KEY, run text, who text, usage jsonb);
INSERT INTO calls VALUES (1, 'w1', 'ann', '{"total": 8}'), (2, 'w2', 'bob', '{"total": 9}');
CREATE VIEW call_tokens AS SELECT id, run AS workflow_id, who AS user_id, (usage ->> 'total')::bigint AS total_tokens FROM calls;
BEGIN;
SELECT token_balance.attach('users', 'call_tokens', 'workflows', late_usage => 'settle', late_usage_on => '{dr.calls(id)}', name => 'calls', dry_run => true);
TABLE done;
COMMIT;
-- what it says is what happens: 120 tokens of completed runs and 7 more
SET client_min_messages = warning;
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
SELECT token_balance.settle_pending();
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA dr CASCADE;
