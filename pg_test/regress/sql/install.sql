-- CREATE EXTENSION binds by convention and never fails for what it finds (DESIGN D1, D2, D3, D4, D15, S1, S3).
\set SHOW_CONTEXT never
CREATE SCHEMA inst;
SET search_path = inst, public;

-- what was bound, whatever it was, and what one settlement then takes
CREATE FUNCTION pg_temp.bound() RETURNS text LANGUAGE plpgsql AS $$
DECLARE n bigint; bad text;
BEGIN
  EXECUTE 'SELECT count(*) FROM token_balance.binding' INTO n;
  IF n = 0 THEN RETURN 'not bound'; END IF;
  EXECUTE 'SELECT string_agg(name, '', '') FROM token_balance.verify() WHERE NOT ok' INTO bad;
  RETURN format('bound, not ok: %s', coalesce(bad, 'nothing'));
END $$;
CREATE FUNCTION pg_temp.charge(id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE j jsonb;
BEGIN
  EXECUTE 'SELECT inst.settle_workflow($1)' INTO j USING id;
  RETURN format('%s: %s from %s to %s', j->>'status', j->>'tokens_used', j->>'previous_balance', j->>'new_balance');
END $$;

-- no tables at all: a dump's CREATE EXTENSION runs like this
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
SELECT n.nspname, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.proname = 'settle_workflow' ORDER BY p.oid::regprocedure::text COLLATE "C";
DROP EXTENSION token_balance;

-- without SCHEMA: the first schema of the search path, public for most
SET search_path = public;
CREATE EXTENSION token_balance;
SELECT DISTINCT n.nspname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proname = 'settle_workflow';
DROP EXTENSION token_balance;
SET search_path = inst, public;

-- the plain convention
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'pending');
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS "default"
  FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = 'users'::regclass AND a.attname = 'token_balance';
SELECT * FROM users;
-- new accounts get the initial balance
INSERT INTO users VALUES ('bob');
SELECT * FROM users ORDER BY id;
INSERT INTO workflows VALUES ('w1', 'ann', 'running');
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 'ann', 70), ('w1', 'ann', 30);
SELECT pg_temp.charge('w1');
SELECT * FROM users ORDER BY id;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
RESET client_min_messages;

-- the column is kept as it is by the next CREATE EXTENSION; what was charged is now old usage
CREATE EXTENSION token_balance SCHEMA inst;
SELECT * FROM users ORDER BY id;
SELECT pg_temp.charge('w1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE users, token_usage, workflows;
RESET client_min_messages;

-- tokens, tokens_used, and the pairs; total_tokens goes before all of them
CREATE TABLE users (id bigint PRIMARY KEY);
INSERT INTO users VALUES (7);
CREATE TABLE workflow_runs (id bigint PRIMARY KEY, user_id bigint, status text);
INSERT INTO workflow_runs VALUES (1, 7, 'running');

CREATE TABLE token_usage (workflow_id bigint, user_id bigint, tokens integer);
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage VALUES (1, 7, 10), (1, 7, NULL);
SELECT pg_temp.charge('1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE token_usage;
RESET client_min_messages;

CREATE TABLE token_usage (workflow_id bigint, user_id bigint, tokens_used bigint);
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage VALUES (1, 7, 11);
SELECT pg_temp.charge('1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE token_usage;
RESET client_min_messages;

CREATE TABLE token_usage (workflow_id bigint, user_id bigint, prompt_tokens integer, completion_tokens integer);
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage VALUES (1, 7, 10, 2), (1, 7, NULL, 5), (1, 7, 6, NULL);
SELECT pg_temp.charge('1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE token_usage;
RESET client_min_messages;

CREATE TABLE token_usage (workflow_id bigint, user_id bigint, input_tokens smallint, output_tokens integer);
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage VALUES (1, 7, 10, 3);
SELECT pg_temp.charge('1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE token_usage;
RESET client_min_messages;

CREATE TABLE token_usage (workflow_id bigint, user_id bigint, input_tokens integer, output_tokens integer,
  prompt_tokens integer, completion_tokens integer, tokens_used integer, tokens integer, total_tokens integer);
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage VALUES (1, 7, 1, 1, 2, 2, 3, 3, 14);
SELECT pg_temp.charge('1');
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE workflow_runs;
RESET client_min_messages;

-- workflow_executions, whose key may be called workflow_id
CREATE TABLE workflow_executions (workflow_id bigint PRIMARY KEY, user_id bigint, status varchar(20));
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (2, 7, 20);
INSERT INTO workflow_executions VALUES (2, 7, 'completed');
SELECT * FROM users;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP TABLE workflow_executions;
RESET client_min_messages;

-- workflow_completions: each row is a completion
CREATE TABLE workflow_completions (workflow_id bigint PRIMARY KEY, completed_at timestamptz DEFAULT now());
CREATE EXTENSION token_balance SCHEMA inst;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES (3, 7, 30);
INSERT INTO workflow_completions VALUES (3);
SELECT * FROM users;
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
RESET client_min_messages;

-- two workflow tables: nothing is guessed, and nothing is altered
ALTER TABLE users DROP COLUMN token_balance;
CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint, status text);
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
SELECT * FROM users;
DROP EXTENSION token_balance;
DROP TABLE workflow_completions, workflows;

-- no workflow table
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;

-- a workflow table without a status
CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint);
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE workflows ADD COLUMN status text;

-- usage without tokens, without an account, without a workflow
ALTER TABLE token_usage DROP COLUMN total_tokens, DROP COLUMN tokens, DROP COLUMN tokens_used, DROP COLUMN input_tokens, DROP COLUMN completion_tokens;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE token_usage ADD COLUMN total_tokens integer;
ALTER TABLE token_usage RENAME user_id TO who;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE token_usage RENAME who TO user_id;
ALTER TABLE token_usage RENAME workflow_id TO run;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE token_usage RENAME run TO workflow_id;

-- tables that attach would refuse: no unique key, tokens that are no numbers, a view, a balance of a wrong type
ALTER TABLE users DROP CONSTRAINT users_pkey;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE users ADD PRIMARY KEY (id);
ALTER TABLE token_usage ALTER total_tokens TYPE text;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE token_usage ALTER total_tokens TYPE integer USING 0;
ALTER TABLE users ADD COLUMN token_balance text;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
ALTER TABLE users DROP COLUMN token_balance;
ALTER TABLE users RENAME TO accounts;
CREATE VIEW users AS SELECT * FROM accounts;
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
DROP VIEW users;

-- only the extension's own schema is looked at
ALTER TABLE accounts RENAME TO users;
CREATE SCHEMA inst2;
CREATE EXTENSION token_balance SCHEMA inst2;
SELECT pg_temp.bound();
DROP EXTENSION token_balance;
DROP SCHEMA inst2;

-- with everything right again it binds
CREATE EXTENSION token_balance SCHEMA inst;
SELECT pg_temp.bound();

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA inst CASCADE;

-- ids are UTF-8
\set home :DBNAME
DROP DATABASE IF EXISTS tb_latin1;
CREATE DATABASE tb_latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
\c tb_latin1
CREATE EXTENSION token_balance;
\echo :LAST_ERROR_SQLSTATE
\c :home
DROP DATABASE tb_latin1;
