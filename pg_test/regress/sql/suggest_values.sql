-- suggest(), attach and verify() go by the values: a column of the right name may have none of the tokens (DESIGN F31, Y4).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sv;
SET search_path = sv, public;
CREATE EXTENSION token_balance SCHEMA sv;
\pset tuples_only on
\pset format unaligned
CREATE TABLE users (id int PRIMARY KEY);
CREATE TABLE organizations (id int PRIMARY KEY);
CREATE TABLE runs (id int PRIMARY KEY, user_id int REFERENCES users, status text);
INSERT INTO users SELECT generate_series(1, 10);
INSERT INTO organizations SELECT generate_series(1, 10);
INSERT INTO runs SELECT n, n % 10 + 1, 'done' FROM generate_series(1, 50) n;

-- usage with these columns, filled so; what the first call says of tokens and of who pays, and what it then charges for one more run
CREATE FUNCTION proposed(columns text, filled text, more text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  found record;
BEGIN
  DROP VIEW IF EXISTS llm_calls_tokens;
  DROP TABLE IF EXISTS llm_calls;
  EXECUTE format('CREATE TABLE llm_calls (run_id int REFERENCES runs, created_at timestamptz DEFAULT now(), %s)', columns);
  CREATE INDEX ON llm_calls (run_id);
  EXECUTE format('INSERT INTO llm_calls SELECT r.id, now(), %s FROM runs AS r', filled);
  SELECT * INTO found FROM token_balance.suggestions() WHERE rank = 1;
  IF found.call IS NULL THEN
    RETURN NEXT coalesce('no call; ' || found.remarks, 'nothing');
    RETURN;
  END IF;
  RETURN NEXT coalesce(substring(found.call FROM '[^\n]*? AS total_tokens'), substring(found.call FROM 'usage_tokens => ''([^'']*)'''), 'total_tokens')
    || coalesce(', charged to ' || substring(found.call FROM '(?:usage_user|workflow_user) => ''(\w+)'''), '');
  RETURN QUERY SELECT '  ' || remark FROM regexp_split_to_table(found.remarks, '\n') AS remark WHERE remark ~ 'token|charge';
  EXECUTE found.call;
  INSERT INTO runs (id, user_id, status) VALUES (100, 1, 'running');
  EXECUTE format('INSERT INTO llm_calls SELECT r.id, now(), %s FROM runs AS r WHERE r.id = 100', more);
  UPDATE runs SET status = 'done' WHERE id = 100;
  RETURN QUERY SELECT '  charged ' || coalesce(sum(charged_tokens), 0) || coalesce(' to ' || string_agg(DISTINCT user_id, ', '), '') FROM token_balance.settlement WHERE workflow_id = '100';
  RETURN QUERY SELECT '  verify(): ' || name || ': ' || detail FROM token_balance.verify() WHERE name = 'tokens';
  PERFORM token_balance.detach();
  DELETE FROM llm_calls WHERE run_id = 100;
  DELETE FROM runs WHERE id = 100;
END $$;
CREATE FUNCTION shown(columns text, filled text, more text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  BEGIN
    RETURN QUERY SELECT proposed(columns, filled, more);
    RAISE 'undo' USING ERRCODE = 'TB000';
  EXCEPTION WHEN SQLSTATE 'TB000' THEN NULL;
  END;
END $$;

-- a total that nobody writes; one that some rows have; one that is right
SELECT shown('prompt_tokens int, completion_tokens int, total_tokens int', '1000, 50, NULL', '9000, 1000, NULL');
SELECT shown('prompt_tokens int, completion_tokens int, total_tokens int DEFAULT 0', '1000, 50, 0', '9000, 1000, 0');
SELECT shown('prompt_tokens int, completion_tokens int, total_tokens int', '1000, 50, CASE WHEN r.id % 2 = 0 THEN 1050 END', '9000, 1000, 10000');
SELECT shown('prompt_tokens int, completion_tokens int, total_tokens int', '1000, 50, 1050', '9000, 1000, 10000');
-- what is never above 0
SELECT shown('tokens int', '-20', '-20');
-- money and thousands are no tokens
SELECT shown('input_token_cost numeric, output_token_cost numeric', '0.01, 0.02', '0.01, 0.02');
SELECT shown('input_tokens int, input_token_cost numeric, output_tokens int, output_token_cost numeric, total_tokens_k numeric', '10, 0.01, 20, 0.02, 0.03', '10, 0.01, 20, 0.02, 0.03');
-- what is counted apart, and what is counted again
SELECT shown('input_tokens int, output_tokens int, cache_read_input_tokens int, cache_creation_input_tokens int', '10, 20, 300, 0', '10, 20, 300, 0');
SELECT shown('total_tokens int, cumulative_tokens int', '10, 10', '10, 10');
-- JSON of several providers
SELECT shown('usage jsonb', $$(ARRAY['{"total_tokens": 110}', '{"input_tokens": 10, "output_tokens": 20}', '{"prompt_tokens": 1, "completion_tokens": 2}'])[r.id % 3 + 1]::jsonb$$,
  $$'{"prompt_tokens": 5000, "completion_tokens": 20}'::jsonb$$);
-- an id of any table is no user's; one who is named now and then does not pay for all
ALTER TABLE runs DROP user_id, ADD owner_type text, ADD owner_id int;
UPDATE runs SET owner_type = 'organization', owner_id = id % 10 + 1;
SELECT shown('total_tokens int', '10', '10');
ALTER TABLE runs DROP owner_type, DROP owner_id, ADD user_id int REFERENCES users;
UPDATE runs SET user_id = id % 10 + 1;
SELECT shown('total_tokens int, reviewer_id int REFERENCES users', '10, CASE WHEN r.id % 5 = 0 THEN 3 END', '10, NULL');

-- attach by the convention says it, and its hint loses nothing
SET client_min_messages = notice;
CREATE TABLE token_usage (workflow_id int, user_id int, prompt_tokens int, completion_tokens int, total_tokens int);
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO token_usage SELECT id, user_id, 40, 2 FROM runs WHERE id <= 10;
SELECT token_balance.attach('users', 'token_usage', 'runs');
INSERT INTO runs (id, user_id, status) VALUES (200, 1, 'running');
INSERT INTO token_usage VALUES (200, 1, 7000, 70);
UPDATE runs SET status = 'completed' WHERE id = 200;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'tokens';
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'runs', usage_tokens => ARRAY['prompt_tokens', 'completion_tokens']);
-- either way of it
BEGIN;
SELECT token_balance.exempt_pending() ->> 'tokens_exempt', token_balance.settle_pending() ->> 'tokens_used';
ROLLBACK;
SELECT token_balance.settle_pending() ->> 'tokens_used';
SELECT count(*) FROM token_balance.verify() WHERE name = 'tokens';
SELECT count(*) FROM token_balance.reconcile();
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sv CASCADE;
