-- A key that comes to take ids of other spellings for its own (a nondeterministic collation, which needs ICU): nothing is
-- charged to a run or an account of another spelling, and verify() says so.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.has_icu() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  CREATE COLLATION pg_temp.probe (provider = icu, locale = 'und');
  RETURN true;
EXCEPTION WHEN feature_not_supported THEN
  RETURN false;
END $$;
SELECT pg_temp.has_icu() \gset
\if :has_icu
\else
\echo this server has no ICU
\quit
\endif
CREATE SCHEMA lc;
SET search_path = lc, public;
CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users VALUES ('ann'), ('ANN');
INSERT INTO workflows VALUES ('abd', 'running'), ('ABD', 'running');
CREATE EXTENSION token_balance SCHEMA lc;
INSERT INTO token_usage VALUES ('abd', 'ann', 1), ('ABD', 'ann', 10), ('abd', 'ANN', 100);
-- warm
SELECT settle_workflow('ABD') ->> 'tokens_used' AS tokens_used;
ALTER TABLE token_usage ALTER workflow_id TYPE text COLLATE loose;
SELECT settle_workflow('abd');
UPDATE workflows SET status = 'completed' WHERE id = 'abd';
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
-- as the hint says
ALTER TABLE token_usage ALTER workflow_id TYPE text COLLATE "C";
SELECT settle_workflow('abd') ->> 'tokens_used' AS tokens_used;
ALTER TABLE token_usage ALTER user_id TYPE text COLLATE loose;
SELECT settle_workflow('abd');
ALTER TABLE token_usage ALTER user_id TYPE text;
SELECT settle_workflow('abd') ->> 'status' AS status;
SELECT id, token_balance FROM users ORDER BY id COLLATE "C";
SELECT count(*) FROM token_balance.reconcile();
-- a summary's stages and models are equal where their columns say so: a group for both spellings, by SQL's GROUP BY (DESIGN K21)
SELECT token_balance.detach();
ALTER TABLE token_usage ADD stage text COLLATE loose, ADD model text COLLATE loose;
UPDATE token_usage SET stage = 'plan', model = workflow_id;
UPDATE token_usage SET stage = 'PLAN' WHERE total_tokens = 1;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT jsonb_array_length(s -> 'by_stage') AS stages, s #> '{by_stage,0,total_tokens}' AS tokens, jsonb_array_length(s -> 'by_model') AS models FROM token_balance.summary('ann') AS s;
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER stage TYPE text COLLATE "C";
UPDATE token_usage SET stage = 'plan';
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT jsonb_array_length(s -> 'by_stage') AS stages, s #> '{by_stage,0,total_tokens}' AS tokens, jsonb_array_length(s -> 'by_model') AS models FROM token_balance.summary('ann') AS s;
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER model TYPE text;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT jsonb_array_length(s -> 'by_stage') AS stages, s #> '{by_stage,0,total_tokens}' AS tokens, jsonb_array_length(s -> 'by_model') AS models FROM token_balance.summary('ann') AS s;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA lc CASCADE;
