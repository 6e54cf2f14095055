-- Tokens of any number type: added up exactly, and rounded once (DESIGN A9, A10, A11).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA nt;
SET search_path = nt, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA nt;

-- the number is the text that reads back, whatever the session prints; the server's casts round
SET extra_float_digits = -3;
SELECT token_balance.exact_numeric(v::real) AS exact, v::real::numeric AS cast FROM unnest('{1234567,16777215,0.1,-0.1,3.4028235e38,1e-45,0,-0}'::text[]) AS v;
SELECT token_balance.exact_numeric(v::double precision) AS exact, v::double precision::numeric AS cast
  FROM unnest('{9007199254740991,123456789.123456789,0.1,-1e15,1e22,0}'::text[]) AS v;
SELECT token_balance.exact_numeric(v::real) AS "real", token_balance.exact_numeric(v::double precision) AS "double precision" FROM unnest('{NaN,Infinity,-Infinity,NULL}'::text[]) AS v;
RESET extra_float_digits;
SELECT token_balance.exact_numeric(5.6843418860808015e-14), token_balance.exact_numeric(1.7976931348623157e308) = 1.7976931348623157e308;
-- each power of two says what the server prints
SELECT count(*) FILTER (WHERE token_balance.exact_numeric(v) <> v::text::numeric) AS wrong, count(*)
  FROM (SELECT 2::double precision ^ n FROM generate_series(-1000, 1000) AS n) AS p (v);
SELECT count(*) FILTER (WHERE token_balance.exact_numeric(v) <> v::text::numeric) AS wrong, count(*)
  FROM (SELECT (2::double precision ^ n)::real FROM generate_series(-120, 120) AS n) AS p (v);

-- one life for each type: the total is rounded, half away from zero, and each settlement charges the difference
CREATE FUNCTION life(type_name text) RETURNS TABLE (step text, tokens_used bigint, balance bigint) LANGUAGE plpgsql AS $$
DECLARE
  answer jsonb;
BEGIN
  EXECUTE format('CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens %s)', type_name);
  PERFORM token_balance.attach('users', 'token_usage', 'workflows');
  INSERT INTO workflows VALUES ('w', 'ann', 'running'), ('n', 'bob', 'running');
  FOR step, answer IN VALUES ('0.25', '[["w", 0.25]]'::jsonb), ('+ 0.25 is a half', '[["w", 0.25]]'), ('+ 0.75', '[["w", 0.75]]'),
    ('+ 1000000.25', '[["w", 1000000.25]]'), ('- 0.5', '[["n", -0.5]]'), ('- 0.5 + 1', '[["n", 1]]'), ('+ 0.75', '[["n", 0.75]]') LOOP
    INSERT INTO token_usage SELECT u ->> 0, CASE u ->> 0 WHEN 'w' THEN 'ann' ELSE 'bob' END, (u ->> 1)::numeric FROM jsonb_array_elements(answer) AS u;
    tokens_used := settle_workflow(answer -> 0 ->> 0) ->> 'tokens_used';
    SELECT u.token_balance INTO balance FROM users AS u WHERE u.id = CASE answer -> 0 ->> 0 WHEN 'w' THEN 'ann' ELSE 'bob' END;
    RETURN NEXT;
  END LOOP;
  step := 'completed, nothing is left'; tokens_used := NULL;
  UPDATE workflows SET status = 'done';
  SELECT sum(u.token_balance) INTO balance FROM users AS u;
  RETURN NEXT;
  DELETE FROM token_usage;
  DELETE FROM users;
  DELETE FROM workflows;
  PERFORM token_balance.reset();
  PERFORM token_balance.detach(true);
  DROP TABLE token_usage;
  INSERT INTO users VALUES ('ann'), ('bob');
END $$;
CREATE DOMAIN tokens AS real CHECK (VALUE IS NULL OR VALUE < 2e6);
SELECT * FROM life('numeric(20,6)');
SELECT * FROM life('numeric');
SELECT * FROM life('real');
SELECT * FROM life('double precision');
SELECT * FROM life('tokens');

-- columns of several types are one total: 0.25 + 0.125 + 0.125 is a half
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens bigint, prompt_tokens real, completion_tokens numeric(12,3), more double precision,
  model text, stage text, created_at timestamptz DEFAULT now());
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,prompt_tokens,completion_tokens,more}', balance_type => 'bigint');
INSERT INTO token_usage VALUES ('mixed', 'ann', 1, 0.25, 0.125, 0.125, 'm', 's', now());
SELECT settle_workflow('mixed') -> 'tokens_used' AS two;
-- above 10^6 in real, 2^53 - 1 in double precision, and a NULL is 0
INSERT INTO token_usage VALUES ('large', 'ann', NULL, 1234567, NULL, NULL), ('large', 'bob', 0, NULL, NULL, 9007199254740991);
INSERT INTO workflows VALUES ('large', 'ann', 'running');
UPDATE workflows SET status = 'completed';
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'large' ORDER BY 1;
-- one that is too large for a bigint with the rest is out of range, as ever
INSERT INTO token_usage VALUES ('huge', 'ann', 9223372036854775807, NULL, NULL, 0.5);
CALL pg_temp.try($$SELECT settle_workflow('huge')$$);

-- a bad charge: NaN, infinities, and what no bigint holds. The function raises it, a completion warns (DESIGN H1, H3)
DELETE FROM token_usage;
DELETE FROM workflows;
DELETE FROM users;
SELECT token_balance.reset();
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows SELECT w, 'ann', 'running' FROM unnest('{nan,inf,numeric,far,good,open,zero}'::text[]) AS w;
INSERT INTO token_usage (workflow_id, user_id, total_tokens, prompt_tokens, completion_tokens, more) VALUES
  ('nan', 'ann', 5, 'NaN', NULL, NULL), ('nan', 'bob', 7, NULL, NULL, NULL), ('inf', 'ann', 1, 'Infinity', NULL, '-Infinity'),
  ('numeric', 'ann', 1, NULL, 'NaN', NULL), ('far', 'ann', 1, NULL, NULL, 1e19), ('far', 'ann', 1, NULL, NULL, -1e19),
  ('good', 'ann', 10, NULL, NULL, NULL), ('open', 'ann', 3, NULL, NULL, 'Infinity'), (NULL, 'ann', 4, NULL, NULL, 'NaN'), (NULL, 'ann', 4, NULL, NULL, 0.25);
CALL pg_temp.try($$SELECT settle_workflow('nan')$$);
CALL pg_temp.try($$SELECT token_balance.settle_workflows('{good,far}')$$);
UPDATE workflows SET status = 'completed' WHERE id = 'nan';
UPDATE workflows SET status = 'completed' WHERE id IN ('inf', 'good');
SELECT id, token_balance FROM users ORDER BY id;
-- the sweep goes on with the others
INSERT INTO token_usage VALUES ('good', 'ann', 2), ('zero', 'bob', 0);
ALTER TABLE workflows DISABLE TRIGGER USER;
UPDATE workflows SET status = 'completed' WHERE id IN ('numeric', 'far', 'zero');
ALTER TABLE workflows ENABLE TRIGGER USER;
SELECT token_balance.settle_pending(max_workflows => 1);
SELECT token_balance.settle_pending();
CALL token_balance.settle_backlog();
SELECT id, token_balance FROM users ORDER BY id;
-- reports say so, in a row
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
SELECT workflow_id, user_id, state, reason, usage_rows, tokens FROM token_balance.unsettled ORDER BY 1 NULLS LAST, 2, 6;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT jsonb_pretty(token_balance.summary('ann') #- '{recent_records}');
SELECT r - 'created_at' AS record FROM jsonb_array_elements(token_balance.summary('ann') -> 'recent_records') AS r ORDER BY r ->> 'workflow_id', r ->> 'total_tokens' LIMIT 3;
-- it cannot be forgiven, either
SELECT token_balance.exempt_pending();
-- nor corrected: it is there, and was not taken away
UPDATE token_usage SET more = 'NaN' WHERE workflow_id = 'good' AND total_tokens = 2;
CALL pg_temp.try($$SELECT token_balance.correct_workflow('good')$$);
UPDATE token_usage SET more = NULL WHERE workflow_id = 'good';
SELECT token_balance.correct_workflow('good') -> 'amount' AS given_back;
-- corrected, all of it is charged: 5 + 1.5 and 1; 1 and 1; 1 + 2 + 3
UPDATE token_usage SET prompt_tokens = 1.5 WHERE prompt_tokens = 'NaN';
UPDATE token_usage SET prompt_tokens = NULL, more = NULL WHERE workflow_id = 'inf';
UPDATE token_usage SET completion_tokens = 2 WHERE completion_tokens = 'NaN';
UPDATE token_usage SET more = NULL WHERE abs(more) = 1e19;
DELETE FROM token_usage WHERE workflow_id IS NULL;
SELECT token_balance.settle_pending();
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY workflow_id COLLATE "C", 2;
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
SELECT count(*) FROM token_balance.reconcile() WHERE workflow_id <> 'open';

-- a summary rounds each figure once, of all that it is of: three times 0.4 is 1, and 0 in each stage (DESIGN A12)
DELETE FROM token_usage;
INSERT INTO token_usage (workflow_id, user_id, total_tokens, prompt_tokens, completion_tokens, model, stage) VALUES
  ('s', 'bob', NULL, 0.4, 0.1, 'a', 'x'), ('s', 'bob', NULL, 0.4, 0.1, 'b', 'y'), ('s', 'bob', NULL, 0.4, 0.3, 'b', 'z'), ('s', 'bob', -2, -0.5, NULL, 'c', 'z');
SELECT s -> 'summary' AS summary, s -> 'by_stage' AS by_stage, s -> 'by_model' AS by_model FROM token_balance.summary('bob') AS s;
SELECT r - 'created_at' AS record FROM jsonb_array_elements(token_balance.summary('bob') -> 'recent_records') AS r ORDER BY r ->> 'stage', r ->> 'model';

-- usage from before: what can be counted is exempt, and what is corrected later is later usage (DESIGN H5)
DELETE FROM token_usage;
DELETE FROM users;
SELECT token_balance.reset();
SELECT token_balance.detach(true);
TRUNCATE workflows;
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO workflows VALUES ('old', 'ann', 'completed');
INSERT INTO token_usage (workflow_id, user_id, prompt_tokens, more) VALUES ('old', 'ann', 2.25, 0.25), ('old', 'ann', 100, 'NaN'), ('old', 'ann', NULL, 1e300);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{prompt_tokens,more}');
SELECT workflow_id, usage_tokens, charged_tokens FROM token_balance.settlement;
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state();
DELETE FROM token_usage WHERE more = 1e300;
UPDATE token_usage SET more = 7 WHERE more = 'NaN';
SELECT token_balance.settle_pending() -> 'tokens_used' AS seven;
-- it goes on where it was, and says what waits
SELECT token_balance.detach();
INSERT INTO token_usage (workflow_id, user_id, more) VALUES ('old', 'ann', 10.5), ('new', 'ann', 'NaN');
SET client_min_messages = notice;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{prompt_tokens,more}');
SET client_min_messages = warning;

-- where the workflow's account pays, the total is the workflow's
SELECT token_balance.detach(true);
DROP TABLE token_usage;
TRUNCATE workflows;
CREATE TABLE token_usage (workflow_id text, total_tokens numeric);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
INSERT INTO workflows VALUES ('p', 'ann', 'running'), ('q', 'ann', 'running');
INSERT INTO token_usage VALUES ('p', 0.3), ('p', 0.3), ('q', 'NaN'), ('q', 1);
CALL pg_temp.try($$SELECT settle_workflow('q')$$);
UPDATE workflows SET status = 'completed';
SELECT workflow_id, user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id IN ('p', 'q');

-- the type of a column that is bound may be changed, and what was charged stays what it was
ALTER TABLE token_usage ALTER total_tokens TYPE double precision;
INSERT INTO token_usage VALUES ('p', 0.9);
SELECT settle_workflow('p') -> 'tokens_used' AS one;
ALTER TABLE token_usage ALTER total_tokens TYPE integer USING 2;
SELECT settle_workflow('p') -> 'tokens_used' AS four;
ALTER TABLE token_usage ALTER total_tokens TYPE text;
CALL pg_temp.try($$SELECT settle_workflow('p')$$);

-- late usage at once: an UPDATE that the session would print as no change is one (DESIGN G6)
SELECT token_balance.detach(true);
DROP TABLE token_usage;
TRUNCATE workflows;
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens tokens, more double precision);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,more}', late_usage => 'settle', usage_ids => 'new', balance_type => 'bigint');
INSERT INTO workflows VALUES ('l', 'ann', 'done');
SET extra_float_digits = -15;
INSERT INTO token_usage VALUES ('l', 'ann', 1234567, 123456789012345);
UPDATE token_usage SET total_tokens = 1234568;
UPDATE token_usage SET more = 123456789012346;
RESET extra_float_digits;
SELECT charged_tokens - 123456789012345 AS "1234569" FROM token_balance.settlement WHERE workflow_id = 'l';
-- what cannot be counted is written all the same
UPDATE token_usage SET more = 'NaN';
INSERT INTO token_usage VALUES ('l', 'bob', 1, 'Infinity'), ('l', 'bob', 7, NULL);
SELECT user_id, reason, tokens FROM token_balance.unsettled;
UPDATE token_usage SET more = 1 WHERE more = 'Infinity';
SELECT user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'l' AND user_id = 'bob';

-- whoever owns the usage reads it, and whoever gets it: nobody else may do more than before
SELECT token_balance.detach(true);
DROP TABLE token_usage;
TRUNCATE workflows;
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens double precision);
CREATE ROLE regress_tb_usage;
CREATE ROLE regress_tb_later;
GRANT USAGE ON SCHEMA nt TO regress_tb_usage, regress_tb_later;
ALTER TABLE token_usage OWNER TO regress_tb_usage;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_ids => 'new', balance_type => 'bigint');
INSERT INTO token_usage VALUES ('r', 'ann', 1.5), ('s', 'ann', 1.5);
INSERT INTO workflows VALUES ('r', 'ann', 'completed');
ALTER TABLE token_usage OWNER TO regress_tb_later;
INSERT INTO workflows VALUES ('s', 'ann', 'completed');
SELECT workflow_id, charged_tokens FROM token_balance.settlement WHERE workflow_id IN ('r', 's') ORDER BY 1;
SET ROLE regress_tb_later;
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.ledger$$);
RESET ROLE;
REVOKE USAGE ON SCHEMA token_balance FROM PUBLIC;
SELECT name, ok, detail FROM token_balance.verify() WHERE name = 'grants';
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT name, ok FROM token_balance.verify() WHERE name = 'grants';

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA nt CASCADE;
DROP ROLE regress_tb_usage, regress_tb_later;
