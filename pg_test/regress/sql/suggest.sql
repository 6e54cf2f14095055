-- What this database could bind: calls of attach, best first, with what speaks for them (DESIGN F30, F31, F32).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sg;
SET search_path = sg, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA sg;
SET client_min_messages = notice;
\pset tuples_only on
\pset format unaligned
-- a database without anything
SELECT token_balance.suggest();
SELECT count(*) FROM token_balance.suggestions();

-- the usual tables, as people see it on psql's screen; and what is there is a statement
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status varchar(20));
CREATE TABLE token_usage (id bigserial PRIMARY KEY, workflow_id text, user_id text, model text, total_tokens integer, created_at timestamptz DEFAULT now());
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows SELECT 'w' || i, 'ann', CASE WHEN i % 2 = 0 THEN 'completed' WHEN i % 3 = 0 THEN 'failed' ELSE 'running' END FROM generate_series(1, 12) i;
INSERT INTO token_usage (workflow_id, user_id, model, total_tokens) SELECT id, user_id, 'm', 5 FROM workflows;
SELECT line FROM token_balance.suggest() WITH ORDINALITY AS s (line, at)
  WHERE at < (SELECT min(at) FROM token_balance.suggest() WITH ORDINALITY AS s (line, at) WHERE line LIKE '-- 2.%') ORDER BY at;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT token_balance FROM users ORDER BY id;
-- what is bound is not proposed again, and another binding gets a name of its own and the accounts' options
SELECT count(*) FROM token_balance.suggestions();
CREATE TABLE image_usage (run text REFERENCES workflows, user_id text REFERENCES users, tokens bigint);
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
SELECT name FROM token_balance.binding ORDER BY name;
-- it leaves no lock and no setting behind
ROLLBACK;
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
COMMIT;
BEGIN READ ONLY;
SET LOCAL lock_timeout = '7s';
SELECT count(*) > 0 FROM token_balance.suggestions();
SELECT count(*) FROM pg_locks l WHERE l.pid = pg_backend_pid() AND l.relation IN ('users'::regclass, 'token_usage'::regclass);
SELECT pg_current_xact_id_if_assigned() IS NULL;
SHOW lock_timeout;
COMMIT;
DROP TABLE users, token_usage;

-- values decide, not names: the column that is called id has no id of the usage
BEGIN;
CREATE TABLE users (id bigserial PRIMARY KEY, handle text UNIQUE);
CREATE TABLE runs (id text PRIMARY KEY, external text UNIQUE, done_at timestamptz, state text);
CREATE TABLE llm_calls (run text, who text, input_tokens bigint, output_tokens bigint, model_name text);
INSERT INTO users (handle) SELECT 'somebody-' || i FROM generate_series(1, 5) i;
INSERT INTO runs SELECT 'row-' || i, 'run-' || i, now(), 'OK' FROM generate_series(1, 20) i;
INSERT INTO llm_calls SELECT external, 'somebody-' || 1 + length(id) % 5, 3, 4, 'm' FROM runs;
SELECT call, reasons, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
ROLLBACK;

-- empty tables go by names, types and foreign keys; an enum has its labels without a row; Django saves whole rows
BEGIN;
CREATE TABLE accounts (id uuid PRIMARY KEY, email text);
CREATE TYPE job_state AS ENUM ('queued', 'running', 'SUCCEEDED', 'CANCELED');
CREATE TABLE jobs (id integer PRIMARY KEY, state job_state NOT NULL);
CREATE TABLE usage_events (id bigserial PRIMARY KEY, job_id bigint, account_id uuid REFERENCES accounts, tokens_used integer);
CREATE TABLE django_migrations (id bigint PRIMARY KEY);
SELECT call, reasons, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
ROLLBACK;

-- the account of the run pays; a run that nothing ends
BEGIN;
CREATE TABLE customers (id text PRIMARY KEY);
CREATE TABLE conversations (id text PRIMARY KEY, customer_id text REFERENCES customers, finished_at timestamptz);
CREATE TABLE messages (id bigserial PRIMARY KEY, conversation_id text REFERENCES conversations, total_tokens integer);
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
DROP TABLE messages, conversations;
SELECT token_balance.detach();
CREATE TABLE messages (session_id text, customer_id text REFERENCES customers, total_tokens integer);
SELECT call, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
ROLLBACK;

-- tokens in JSON, and who pays by a join: a view, which is a statement
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE chats (id text PRIMARY KEY, user_id text REFERENCES users);
CREATE TABLE chat_messages (id text PRIMARY KEY, chat_id text REFERENCES chats, usage jsonb, note json);
INSERT INTO users VALUES ('ann');
INSERT INTO chats VALUES ('c1', 'ann');
INSERT INTO chat_messages VALUES ('m1', 'c1', '{"tokens": {"prompt_tokens": 3, "completion_tokens": 4}, "total": "x"}', '[1]'), ('m2', 'c1', NULL, NULL);
SELECT call, reasons, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
SELECT workflow_id, total_tokens, account_id FROM chat_messages_tokens ORDER BY total_tokens;
SELECT name, ok FROM token_balance.verify() WHERE NOT ok;
-- it says what it cannot know
ROLLBACK;
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE llm_calls (id text PRIMARY KEY, user_id text REFERENCES users, usage jsonb);
SELECT call, reasons, remarks FROM token_balance.suggestions() WHERE rank = 1;
ROLLBACK;

-- what attach would refuse is told, not proposed
BEGIN;
CREATE TABLE users (id text PRIMARY KEY, token_balance text);
CREATE TABLE token_usage (session_id text, user_id text, total_tokens integer);
SELECT call IS NULL, remarks FROM token_balance.suggestions() WHERE rank = 1;
ROLLBACK;

-- It runs with no more rights than the table's owner has, and only where the caller has them: what an index's
-- condition or a cast would do. The first SELECT shows that it would.
SET client_min_messages = warning;
CREATE ROLE sg_mallory;
CREATE ROLE sg_reader;
CREATE SCHEMA mallory AUTHORIZATION sg_mallory;
GRANT USAGE ON SCHEMA sg TO sg_mallory;
SET ROLE sg_mallory;
CREATE FUNCTION mallory.spy(n integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF current_user <> 'sg_mallory' THEN RAISE WARNING 'code of a table runs as somebody else'; END IF;
  RETURN true;
END $$;
CREATE TYPE mallory.state AS ENUM ('running', 'completed');
CREATE FUNCTION mallory.spell(state mallory.state) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RAISE WARNING 'a cast is called';
  RETURN 'x';
END $$;
CREATE CAST (mallory.state AS text) WITH FUNCTION mallory.spell(mallory.state);
CREATE TABLE mallory.users (id text PRIMARY KEY);
CREATE TABLE mallory.runs (id text PRIMARY KEY, status mallory.state);
CREATE TABLE mallory.token_usage (run_id text, user_id text, total_tokens integer);
INSERT INTO mallory.users VALUES ('ann');
INSERT INTO mallory.runs VALUES ('r1', 'completed');
INSERT INTO mallory.token_usage VALUES ('r1', 'ann', 1);
CREATE INDEX ON mallory.token_usage (run_id) WHERE mallory.spy(1);
CREATE INDEX ON mallory.users (id) WHERE mallory.spy(1);
CREATE INDEX ON mallory.runs (id) WHERE mallory.spy(1);
RESET ROLE;
SELECT count(*) FROM mallory.users WHERE id = 'ann';
SELECT reasons FROM token_balance.suggestions() WHERE rank = 1;
-- others' tables are not looked at, and it is said
SET client_min_messages = notice;
GRANT USAGE ON SCHEMA token_balance TO sg_reader;
GRANT EXECUTE ON FUNCTION token_balance.suggest(), token_balance.suggestions() TO sg_reader;
GRANT USAGE ON SCHEMA mallory TO sg_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA mallory TO sg_reader;
SET ROLE sg_reader;
SELECT token_balance.suggest();
RESET ROLE;
-- (whether there are other tables depends on what ran before)
SET client_min_messages = warning;
-- where policies hide rows from the caller no value is read; a table that cannot be read is no failure
GRANT USAGE ON SCHEMA token_balance TO sg_mallory;
GRANT EXECUTE ON FUNCTION token_balance.suggest(), token_balance.suggestions() TO sg_mallory;
ALTER TABLE mallory.token_usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET ROLE sg_mallory;
SELECT reasons, remarks FROM token_balance.suggestions() WHERE rank = 1;
CREATE OR REPLACE FUNCTION mallory.spy(n integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RAISE EXCEPTION 'nobody reads this';
END $$;
SELECT reasons FROM token_balance.suggestions() WHERE rank = 1;
SELECT 1 FROM mallory.users WHERE id = 'ann';
RESET ROLE;
DROP OWNED BY sg_mallory, sg_reader CASCADE;
DROP ROLE sg_mallory, sg_reader;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sg CASCADE;
