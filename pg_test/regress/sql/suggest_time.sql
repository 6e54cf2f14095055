-- suggest(): which column says when usage was, and which names the model; and what is attached already (DESIGN F30, F31).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sn;
SET search_path = sn, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA sn;
\pset tuples_only on
\pset format unaligned
\pset null '-'
CREATE TABLE customers (id bigint PRIMARY KEY);
CREATE TABLE sessions (id uuid PRIMARY KEY, customer_id bigint, state text);
CREATE TABLE usage_events (id bigint PRIMARY KEY, session_id uuid, customer_id bigint, model_name text, total_tokens int, ts timestamptz);
INSERT INTO customers SELECT n FROM generate_series(1, 10) n;
INSERT INTO sessions SELECT md5(n::text)::uuid, n % 10 + 1, 'finished' FROM generate_series(1, 20) n;
INSERT INTO usage_events SELECT n, md5((n % 20 + 1)::text)::uuid, (n % 20 + 1) % 10 + 1, 'm', n, now() FROM generate_series(1, 60) n;
-- a time that is not called created_at is named, and the binding has what needs it
BEGIN;
SELECT call, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
SELECT usage_created_at, usage_model FROM token_balance.binding;
SELECT token_balance.settle_pending(idle => '1 hour');
ROLLBACK;

-- columns of a usage table, and which of them the call names
CREATE FUNCTION named(columns text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  found record;
BEGIN
  DROP TABLE usage_events;
  EXECUTE format('CREATE TABLE usage_events (session_id uuid, customer_id bigint, total_tokens int, %s)', columns);
  INSERT INTO usage_events (session_id, customer_id, total_tokens) SELECT id, customer_id, 1 FROM sessions;
  SELECT * INTO found FROM token_balance.suggestions() WHERE rank = 1;
  -- attach takes it
  EXECUTE found.call;
  PERFORM token_balance.detach();
  RETURN coalesce(substring(found.call FROM 'usage_model => (\S+?)[,)]'), '-') || ' ' || coalesce(substring(found.call FROM 'usage_created_at => (\S+?)[,)]'), '-')
    || coalesce(E'\n    ' || substring(found.remarks FROM '[^\n]*usage_created_at[^\n]*'), '');
END $$;
-- the usual names, the usual types
SELECT columns, named(columns) FROM unnest(ARRAY['created_at timestamptz', 'created_at date', 'ts timestamptz', 'timestamp timestamp', '"time" timestamptz',
  'called_at timestamptz', 'logged_at timestamp', 'occurred_at timestamptz', 'recorded_at date', 'event_time timestamptz', 'started_at timestamptz',
  '"createdAt" timestamptz', 'createdat timestamptz', 'date_created date', '"calledAt" timestamptz', 'inserted_on date']) WITH ORDINALITY AS c (columns, at) ORDER BY at;
-- the only one, whatever its name
SELECT columns, named(columns) FROM unnest(ARRAY['wann timestamptz', 'billing_moment timestamp, note text', 'completed_at timestamptz NOT NULL DEFAULT now()']) WITH ORDINALITY AS c (columns, at) ORDER BY at;
-- the row's own making before what comes later, and before what it is of
SELECT columns, named(columns) FROM unnest(ARRAY['updated_at timestamptz, called_at timestamptz', 'expires_at timestamptz, deleted_at timestamptz, wann timestamptz',
  'finished_at timestamptz, started_at timestamptz', 'start_time timestamptz, inserted_at timestamptz', 'ts timestamptz, created timestamptz', 'date date, ts timestamptz',
  'updated_at timestamptz, created_at timestamptz', 'created_at bigint, logged_at timestamptz']) WITH ORDINALITY AS c (columns, at) ORDER BY at;
-- where none is clearly it, what needs it is told
SELECT columns, named(columns) FROM unnest(ARRAY['note text', 'updated_at timestamptz', 'finished_at timestamptz', 'wann timestamptz, quand timestamptz', 'created_at bigint', 'clock time'])
  WITH ORDINALITY AS c (columns, at) ORDER BY at;

-- the model
SELECT columns, named(columns) FROM unnest(ARRAY['model text', 'model_name text', 'model_id varchar(40)', 'llm_model text', 'engine text', 'llm text', '"modelName" text',
  'engine text, model_name text', 'base_model text, model_id text', 'model_id text, model_name text', 'model text, model_name text', 'engine integer', 'search_engine text'])
  WITH ORDINALITY AS c (columns, at) ORDER BY at;

ALTER TABLE usage_events DROP search_engine, ADD ts timestamptz;
-- an engine of what has no tokens is no model
BEGIN;
DROP TABLE usage_events;
CREATE TABLE jobs (id uuid PRIMARY KEY, customer_id bigint, state text, engine text, credits integer, created_at timestamptz);
INSERT INTO jobs SELECT id, customer_id, 'done', 'V2', 1, now() FROM sessions;
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
ROLLBACK;

-- a view of documents shows a time as created_at
BEGIN;
DROP TABLE usage_events;
CREATE TABLE calls (id bigint PRIMARY KEY, session_id uuid, customer_id bigint, engine text, called_at timestamptz, usage jsonb);
INSERT INTO calls SELECT row_number() OVER (), id, customer_id, 'm', now(), '{"total_tokens": 5}' FROM sessions;
SELECT substring(call FROM 'u\.\S+ AS model'), substring(call FROM 'u\.\S+ AS created_at'), remarks FROM token_balance.suggestions() WHERE rank = 1;
ALTER TABLE calls DROP called_at;
SELECT substring(call FROM 'u\.\S+ AS created_at'), remarks FROM token_balance.suggestions() WHERE rank = 1;
ROLLBACK;

-- what is attached is told as what, and only the rest is proposed
BEGIN;
SELECT token_balance.attach('customers', 'usage_events', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state');
SELECT token_balance.suggest();
CREATE TABLE "Image ""calls" (session_id uuid, customer_id bigint, total_tokens int, created_at timestamptz);
CREATE INDEX ON "Image ""calls" (session_id);
INSERT INTO "Image ""calls" SELECT id, customer_id, 1, now() FROM sessions;
SELECT line FROM token_balance.suggest() WITH ORDINALITY AS s (line, at)
  WHERE at < (SELECT min(at) FROM token_balance.suggest() WITH ORDINALITY AS s (line, at) WHERE line LIKE '-- 2.%') ORDER BY at;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
SELECT token_balance.suggest();
-- what is detached is proposed again
SELECT token_balance.detach(name => 'default');
SELECT line FROM token_balance.suggest() AS s (line) WHERE line ~ 'attached as|^-- 1\.';
ROLLBACK;
-- what a view that is attached reads is attached with it
BEGIN;
CREATE VIEW halves AS SELECT session_id, customer_id, total_tokens * 0.5 AS total_tokens, ts AS created_at FROM usage_events;
SELECT token_balance.attach('customers', 'halves', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state');
SELECT token_balance.suggest();
ROLLBACK;
-- the run's account pays
BEGIN;
SELECT token_balance.attach('customers', 'usage_events', 'sessions', usage_user => NULL, usage_workflow => 'session_id', workflow_user => 'customer_id', workflow_status => 'state', name => 'of runs');
SELECT token_balance.suggest();
ROLLBACK;
-- other owners' bindings are theirs
BEGIN;
CREATE ROLE sn_other;
SELECT token_balance.attach('customers', 'usage_events', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state');
GRANT USAGE ON SCHEMA token_balance TO sn_other;
GRANT EXECUTE ON FUNCTION token_balance.suggest() TO sn_other;
SET LOCAL ROLE sn_other;
SELECT token_balance.suggest();
ROLLBACK;
-- a name with a line break ends no comment
BEGIN;
CREATE TABLE "calls
SELECT 'not a comment' --" (session_id uuid, customer_id bigint, total_tokens int, created_at timestamptz);
SELECT line FROM token_balance.suggest() AS s (line) WHERE line ~ '\n';
SELECT token_balance.attach('customers', E'"calls\nSELECT ''not a comment'' --"', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state');
SELECT line FROM token_balance.suggest() AS s (line) WHERE line LIKE '%attached as%';
ROLLBACK;

-- Without a time the summary still wants an index on the account: verify() has a row of it, and its statement works.
SELECT token_balance.attach('customers', 'usage_events', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state', create_index => true,
  usage_created_at => NULL);
SELECT ok, detail, hint FROM token_balance.verify() WHERE name = 'summary index';
SELECT hint AS statement FROM token_balance.verify() WHERE name = 'summary index' \gset
:statement
SELECT ok, detail, hint FROM token_balance.verify() WHERE name = 'summary index';
SELECT token_balance.detach();
-- with a time it is as it was
DROP INDEX usage_events_customer_id_idx;
ALTER TABLE usage_events ADD called_at timestamptz;
SELECT token_balance.attach('customers', 'usage_events', 'sessions', usage_user => 'customer_id', usage_workflow => 'session_id', workflow_status => 'state', usage_created_at => 'called_at');
SELECT ok, detail, hint FROM token_balance.verify() WHERE name = 'summary index';
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sn CASCADE;
