-- archive_usage where deletions are recorded: what it takes is recorded once, and what that sets off by itself (DESIGN V31, V34, V39).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA rc;
SET search_path = rc, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
-- a step goes with the one that it is a part of
CREATE TABLE token_usage (id integer PRIMARY KEY, parent integer REFERENCES token_usage ON DELETE CASCADE, workflow_id text, user_id text, total_tokens integer, created_at timestamptz);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (parent);
CREATE TABLE old_usage (LIKE token_usage);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA rc;
SELECT count(*) FROM token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
CREATE VIEW settled AS SELECT workflow_id, user_id, usage_tokens, charged_tokens, archived_usage_tokens FROM token_balance.settlement ORDER BY 1, 2;
CREATE VIEW balances AS SELECT string_agg(id || ' ' || token_balance - 1000000, ', ' ORDER BY id) AS balances FROM users;
CREATE VIEW law AS SELECT string_agg(state || ' ' || tokens, ', ' ORDER BY state) AS states,
  sum(CASE WHEN state IN ('archived', 'shrunk') THEN -tokens ELSE tokens END) = COALESCE((SELECT sum(total_tokens) FROM token_usage), 0) AS holds FROM token_balance.usage_state();
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();

-- newer steps of the same run, of another that is over and of an open one go with old ones, and so does one that nobody was charged for yet
INSERT INTO token_usage VALUES (1, NULL, 'w1', 'ann', 100, '2026-01-01Z'), (2, 1, 'w1', 'ann', 20, '2026-03-01Z'), (3, 1, 'w2', 'bob', 7, '2026-03-01Z'), (4, 1, 'open', 'bob', 5, '2026-03-01Z'),
  (5, NULL, 'w2', 'bob', 3, '2026-03-01Z');
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'bob', 'completed'), ('open', 'bob', 'running');
INSERT INTO token_usage VALUES (6, 1, 'w2', 'bob', 4, '2026-03-02Z');
TABLE balances;
SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage');
TABLE settled;
TABLE balances;
TABLE law;
TABLE problems;
SELECT id, workflow_id, total_tokens FROM old_usage;
-- the same again, with the application's own deletions before and after it
BEGIN;
INSERT INTO token_usage VALUES (7, NULL, 'w1', 'ann', 30, '2026-01-02Z'), (8, NULL, 'w1', 'ann', 1, '2026-03-03Z'), (9, NULL, 'w1', 'ann', 2, '2026-03-03Z');
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE id = 8;
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'usage_rows' AS usage_rows;
DELETE FROM token_usage WHERE id = 9;
COMMIT;
TABLE settled;
TABLE law;
-- with its trigger off it is recorded all the same
INSERT INTO token_usage VALUES (10, NULL, 'w1', 'ann', 11, '2026-01-02Z');
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
ALTER TABLE token_usage DISABLE TRIGGER token_balance_deleted_usage;
SELECT token_balance.archive_usage('2026-02-01Z') ->> 'usage_rows' AS usage_rows;
ALTER TABLE token_usage ENABLE TRIGGER token_balance_deleted_usage;
TABLE settled;
-- a failure leaves nothing behind that would be taken for an archiver's
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
CREATE TRIGGER fails BEFORE INSERT ON old_usage FOR EACH ROW EXECUTE FUNCTION fail();
BEGIN;
INSERT INTO token_usage VALUES (11, NULL, 'w1', 'ann', 13, '2026-01-02Z');
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
CALL pg_temp.try($$SELECT token_balance.archive_usage('2026-02-01Z', 'old_usage')$$);
DELETE FROM token_usage WHERE id = 11;
COMMIT;
TABLE settled;
TABLE law;
TABLE problems;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA rc CASCADE;
