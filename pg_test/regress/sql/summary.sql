-- summary: the dashboard's payload, against the same numbers by hand (DESIGN F6, F18, F19, F20, K6).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
SET TimeZone = 'UTC';
CREATE SCHEMA sy;
SET search_path = sy, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, workflow_id text, user_id text, prompt_tokens integer, completion_tokens integer,
  total_tokens integer, model text, stage text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
CREATE EXTENSION token_balance SCHEMA sy;
RESET client_min_messages;
-- times differ from run to run: records without them
CREATE FUNCTION shown(j jsonb) RETURNS text LANGUAGE sql AS $$
  SELECT jsonb_pretty(jsonb_set(j, '{recent_records}', coalesce((SELECT jsonb_agg(r - 'created_at' ORDER BY n) FROM jsonb_array_elements(j -> 'recent_records') WITH ORDINALITY AS x (r, n)), '[]')))
$$;

-- verify names the index that it wants, and the statement works as it stands
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT substring(hint FROM 'CREATE INDEX.*') AS statement FROM token_balance.verify() WHERE NOT ok \gset
:statement ;
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT detail FROM token_balance.verify() WHERE name = 'summary index';

-- an account without usage
SELECT jsonb_pretty(token_balance.summary('ann'));

-- the whole answer
INSERT INTO token_usage (workflow_id, user_id, prompt_tokens, completion_tokens, total_tokens, model, stage, created_at) VALUES
  ('w1', 'ann', 100, 20, 120, 'large', 'plan', now() - interval '3 hours'),
  ('w1', 'ann', 10, 2, 12, 'small', 'plan', now() - interval '2 hours'),
  ('w1', 'ann', 7, 1, 8, 'small', NULL, now() - interval '1 hour'),
  ('w2', 'ann', NULL, NULL, NULL, NULL, 'write', now() - interval '29 days'),
  ('w2', 'ann', 1000, 1000, 2000, 'large', 'write', now() - interval '31 days'),
  ('w2', 'bob', 5, 5, 10, 'large', 'plan', now()),
  ('w2', NULL, 5, 5, 10, 'large', 'plan', now()),
  (NULL, 'ann', 3, 3, 6, 'large', 'plan', now() - interval '4 hours');
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SELECT shown(token_balance.summary('ann'));
-- a record's time is that of the row
SELECT token_balance.summary('ann') #>> '{recent_records,0,created_at}' = to_jsonb(max(created_at)) #>> '{}' AS same_time FROM token_usage WHERE user_id = 'ann';
-- the period
SELECT days, token_balance.summary('ann', days) #>> '{summary,record_count}' AS records, token_balance.summary('ann', days) #>> '{summary,total_tokens}' AS tokens
  FROM unnest(ARRAY[1, 29, 30, 31, 32, 36500]) AS days ORDER BY days;
-- of no days: zeros, and the balance
SELECT days, token_balance.summary('ann', days) = '{"summary": {"record_count": 0, "total_tokens": 0, "total_prompt_tokens": 0, "total_completion_tokens": 0}, "by_model": [], "by_stage": [], "is_overdraft": false, "token_balance": 999860, "recent_records": []}' AS zeros
  FROM unnest(ARRAY[0, -1, -2147483648]) AS days ORDER BY days DESC;
CALL pg_temp.try($$SELECT token_balance.summary('zoe', 0)$$);
CALL pg_temp.try($$SELECT token_balance.summary('ann', 36501)$$);
CALL pg_temp.try($$SELECT token_balance.summary('ann', 2147483647)$$);
CALL pg_temp.try($$SELECT token_balance.summary('ann', NULL)$$);
CALL pg_temp.try($$SELECT token_balance.summary(NULL)$$);
CALL pg_temp.try($$SELECT token_balance.summary('zoe')$$);
-- overdrawn
UPDATE users SET token_balance = -1 WHERE id = 'cid';
SELECT token_balance.summary('cid') -> 'token_balance' AS token_balance, token_balance.summary('cid') -> 'is_overdraft' AS is_overdraft;
-- it reads, and nothing more: fine in a read-only transaction
BEGIN READ ONLY;
SELECT token_balance.summary('bob') -> 'summary' AS summary;
COMMIT;

-- the newest 20, newest first, of an account with more
INSERT INTO token_usage (workflow_id, user_id, prompt_tokens, completion_tokens, total_tokens, model, stage, created_at)
SELECT 'many', 'bob', i, i * 2, i * 3, 'm' || i % 3, CASE WHEN i % 4 > 0 THEN 's' || i % 4 END, now() - make_interval(mins => i) FROM generate_series(1, 300) i;
SELECT jsonb_array_length(token_balance.summary('bob') -> 'recent_records') AS records;
SELECT string_agg(r ->> 'total_tokens', ' ' ORDER BY n) FROM jsonb_array_elements(token_balance.summary('bob') -> 'recent_records') WITH ORDINALITY AS x (r, n);
-- numbers as by hand
CREATE FUNCTION by_hand(who text, period integer) RETURNS TABLE (what text, name text, prompt numeric, completion numeric, tokens numeric, records bigint) LANGUAGE sql AS $$
  WITH u AS (SELECT * FROM token_usage WHERE user_id = who AND created_at >= now() - make_interval(days => period))
  SELECT 'all', '', coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0), count(*) FROM u
  UNION ALL SELECT 'stage', coalesce(nullif(stage, ''), 'unknown'), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0), count(*) FROM u GROUP BY 2
  UNION ALL SELECT 'model', coalesce(model, 'null'), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0), count(*) FROM u GROUP BY 2
$$;
CREATE FUNCTION by_summary(who text, period integer) RETURNS TABLE (what text, name text, prompt numeric, completion numeric, tokens numeric, records bigint) LANGUAGE sql AS $$
  WITH j AS (SELECT token_balance.summary(who, period) AS j),
  blocks AS (SELECT 'all' AS what, '' AS name, j -> 'summary' AS t FROM j
    UNION ALL SELECT 'stage', t ->> 'stage', t FROM j, jsonb_array_elements(j -> 'by_stage') t
    UNION ALL SELECT 'model', coalesce(t ->> 'model', 'null'), t FROM j, jsonb_array_elements(j -> 'by_model') t)
  SELECT what, name, (t ->> (CASE what WHEN 'all' THEN 'total_' ELSE '' END || 'prompt_tokens'))::numeric, (t ->> (CASE what WHEN 'all' THEN 'total_' ELSE '' END || 'completion_tokens'))::numeric, (t ->> 'total_tokens')::numeric, (t ->> 'record_count')::bigint FROM blocks
$$;
SELECT what, name, tokens, records FROM by_summary('bob', 30) ORDER BY what, name COLLATE "C";
SELECT who, period, count(*) AS lines, count(*) FILTER (WHERE sides <> 2) AS wrong
  FROM (SELECT who, period, x, count(*) AS sides FROM unnest(ARRAY['ann', 'bob', 'cid']) who, unnest(ARRAY[1, 30, 365]) period,
    LATERAL (SELECT h::text AS x FROM by_hand(who, period) h UNION ALL SELECT s::text FROM by_summary(who, period) s) y GROUP BY 1, 2, 3) z GROUP BY 1, 2 ORDER BY 1, 2;
-- stages and models with the most tokens first
SELECT string_agg(t ->> 'stage', ' ' ORDER BY n) AS stages FROM jsonb_array_elements(token_balance.summary('bob') -> 'by_stage') WITH ORDINALITY AS x (t, n);
-- a stage that is called "unknown", an empty one and rows without one are added up; a model that is empty is none that is missing
INSERT INTO token_usage (workflow_id, user_id, total_tokens, stage) VALUES ('u', 'cid', 1, 'unknown'), ('u', 'cid', 2, NULL), ('u', 'cid', 4, '');
SELECT t ->> 'stage' AS stage, t ->> 'total_tokens' AS tokens FROM jsonb_array_elements(token_balance.summary('cid') -> 'by_stage') t;
UPDATE token_usage SET model = '' WHERE workflow_id = 'u' AND total_tokens = 1;
SELECT t -> 'model' AS model, t ->> 'total_tokens' AS tokens FROM jsonb_array_elements(token_balance.summary('cid') -> 'by_model') t;
-- a record's stage is as it is
SELECT r -> 'stage' AS stage, r ->> 'total_tokens' AS tokens FROM jsonb_array_elements(token_balance.summary('cid') -> 'recent_records') r ORDER BY 2;
-- sums past bigint are exact
ALTER TABLE token_usage ALTER total_tokens TYPE bigint;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT 'big', 'cid', 9223372036854775807 FROM generate_series(1, 3);
SELECT token_balance.summary('cid') #>> '{summary,total_tokens}' AS tokens;

-- other column names, by attach; one that is not there is an error if it was named
SELECT token_balance.detach();
DROP INDEX token_usage_workflow_id_user_id_total_tokens_idx;
ALTER TABLE token_usage RENAME prompt_tokens TO input;
ALTER TABLE token_usage RENAME completion_tokens TO output;
ALTER TABLE token_usage RENAME model TO engine;
ALTER TABLE token_usage RENAME stage TO "Step";
ALTER TABLE token_usage RENAME created_at TO at;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_model => 'nope')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_prompt_tokens => 'engine')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_created_at => 'engine')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_prompt_tokens => 'input', usage_completion_tokens => 'output', usage_model => 'engine', usage_stage => 'Step', usage_created_at => 'at');
SELECT shown(token_balance.summary('ann', 1));
-- without them: left out, or zero; the period is everything
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT jsonb_pretty(token_balance.summary('ann', 1));
SELECT name FROM token_balance.verify() WHERE NOT ok;
-- NULL: not bound although the column is there
SELECT token_balance.detach();
ALTER TABLE token_usage RENAME input TO prompt_tokens;
ALTER TABLE token_usage RENAME engine TO model;
ALTER TABLE token_usage RENAME at TO created_at;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_model => NULL);
SELECT token_balance.summary('ann', 1) -> 'summary' AS summary, token_balance.summary('ann', 1) -> 'by_model' AS by_model;
-- columns that come and go after attach
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.summary('ann', 1) -> 'by_model' AS by_model;
ALTER TABLE token_usage DROP COLUMN model;
CALL pg_temp.try($$SELECT token_balance.summary('ann', 1) -> 'by_model'$$);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok AND name <> 'usage index';
-- settling does not need them
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT jsonb_array_length(token_balance.summary('ann', 1) -> 'by_model') AS models;

-- the key by its name, or another column, or none; the workflow id by the column's name, also after a rename
SELECT token_balance.detach();
CREATE FUNCTION keys() RETURNS TABLE (name text, value jsonb) LANGUAGE sql AS $$
  SELECT key, value FROM jsonb_each(token_balance.summary('ann', 1) -> 'recent_records' -> 0) WHERE jsonb_typeof(value) <> 'number' AND key NOT IN ('created_at', 'stage') ORDER BY key COLLATE "C"
$$;
ALTER TABLE token_usage ADD record uuid DEFAULT '00000000-0000-0000-0000-00000000000a', ADD model text;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT * FROM keys();
ALTER TABLE token_usage RENAME workflow_id TO session_id;
SELECT * FROM keys();
ALTER TABLE token_usage RENAME id TO number;
SELECT * FROM keys();
ALTER TABLE token_usage DROP number;
SELECT * FROM keys();
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_workflow => 'session_id', usage_id => 'nope')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_workflow => 'session_id', usage_id => 'record');
SELECT * FROM keys();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_workflow => 'session_id')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_workflow => 'session_id', usage_id => NULL);
SELECT * FROM keys();
SELECT usage_id FROM token_balance.binding WHERE detached_at IS NULL;
-- called like another field, the workflow id has the name workflow_id
ALTER TABLE token_usage DROP model;
ALTER TABLE token_usage RENAME session_id TO model;
SELECT * FROM keys();
SELECT token_balance.detach();
ALTER TABLE token_usage RENAME model TO workflow_id;
ALTER TABLE token_usage DROP record;
SELECT token_balance.attach('users', 'token_usage', 'workflows');

-- a time without a zone is one of the session's time zone
SELECT token_balance.detach();
TRUNCATE token_usage;
ALTER TABLE token_usage ALTER created_at DROP DEFAULT, ALTER created_at TYPE timestamp USING NULL, ALTER created_at SET DEFAULT localtimestamp;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SET TimeZone = 'Asia/Tokyo';
INSERT INTO token_usage (workflow_id, user_id, total_tokens, created_at) VALUES ('z', 'ann', 1, localtimestamp - interval '23 hours'), ('z', 'ann', 2, localtimestamp - interval '25 hours');
SELECT token_balance.summary('ann', 1) #>> '{summary,total_tokens}' AS tokens;
SET TimeZone = 'UTC';
SELECT token_balance.summary('ann', 1) #>> '{summary,total_tokens}' AS tokens;
SELECT token_balance.summary('ann') #>> '{recent_records,0,created_at}' = to_jsonb(max(created_at)) #>> '{}' AS same_time FROM token_usage;
-- a date is one too
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER created_at TYPE date;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;

-- the workflow row's account pays; keys of other types; tokens of several columns
DROP TABLE users, token_usage, workflows;
CREATE TABLE users (id bigint PRIMARY KEY);
CREATE TABLE calls (run integer, input_tokens integer, output_tokens bigint, model text, created_at timestamptz DEFAULT now());
CREATE TABLE runs (id integer PRIMARY KEY, owner bigint, status text);
INSERT INTO users VALUES (1), (2);
INSERT INTO runs VALUES (10, 1, 'running'), (11, 1, 'running'), (20, 2, 'running');
CREATE EXTENSION token_balance SCHEMA sy;
SELECT token_balance.attach('users', 'calls', 'runs', usage_user => NULL, usage_workflow => 'run', usage_tokens => '{input_tokens,output_tokens}', workflow_user => 'owner',
  usage_prompt_tokens => 'input_tokens', usage_completion_tokens => 'output_tokens');
INSERT INTO calls VALUES (10, 1, 2, 'a', now() - interval '1 minute'), (11, 10, NULL, 'b', now() - interval '2 minutes'), (20, 100, 200, 'a', now()), (99, 1000, 1000, 'a', now());
SELECT shown(token_balance.summary('1'));
SELECT token_balance.summary('2') -> 'summary' AS summary;
RESET client_min_messages;
CALL pg_temp.try($$SELECT token_balance.summary('one')$$);
-- nothing attached
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.summary('1')$$);

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sy CASCADE;
