-- How summary adds up: by an aggregate of the extension's own, which answers what SQL's GROUP BY does, and from the index
-- that verify() names, without the rows (DESIGN K21, K22).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_tb_owner;
CREATE ROLE regress_tb_owner;
CREATE SCHEMA ss;
SET search_path = ss, public;
\i common/try.sql
GRANT ALL ON SCHEMA ss TO regress_tb_owner;
CREATE DOMAIN tokens AS integer;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, workflow_id text, user_id text, prompt_tokens tokens, completion_tokens smallint,
  total_tokens bigint, model text, stage text, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
INSERT INTO workflows SELECT 'w' || i FROM generate_series(0, 49) AS i;
SET client_min_messages = error;
CREATE EXTENSION token_balance SCHEMA ss;
RESET client_min_messages;

-- 3000 rows of ann's in 9 groups, which NULLs and empty texts are some of
INSERT INTO token_usage (workflow_id, user_id, prompt_tokens, completion_tokens, total_tokens, stage, model, created_at)
SELECT 'w' || i % 50, CASE WHEN i % 2 = 0 THEN 'ann' ELSE 'bob' END, nullif(i % 7, 0), -(i % 11), i, (ARRAY['plan', '', NULL])[i / 2 % 3 + 1],
  (ARRAY['large', '', NULL])[i / 6 % 3 + 1], now() - make_interval(secs => 6000 - i) FROM generate_series(1, 6000) AS i;
SELECT count(*) AS rows, sum(prompt_tokens) AS prompt, sum(completion_tokens) AS completion, sum(total_tokens) AS tokens, count(DISTINCT (stage, model)) AS groups
  FROM token_usage WHERE user_id = 'ann';
SELECT token_balance.summary('ann') -> 'summary' AS summary;
SELECT jsonb_array_elements(token_balance.summary('ann') -> 'by_stage') AS by_stage;
SELECT jsonb_array_elements(token_balance.summary('ann') -> 'by_model') AS by_model;

-- verify()'s hint, followed to its end: no rows are read but the newest 20, which are shown. The session counts what it
-- reads by scans, and what it fetches for an index.
VACUUM (FREEZE, ANALYZE) token_usage;
CREATE TABLE answer AS SELECT token_balance.summary('ann') AS before;
CREATE VIEW reads AS SELECT seq_tup_read AS scanned, idx_tup_fetch AS fetched FROM pg_stat_xact_user_tables WHERE relid = 'token_usage'::regclass;
BEGIN;
-- what a worker reads is not in the view
SET LOCAL max_parallel_workers = 0;
SELECT scanned, fetched FROM reads \gset
SELECT token_balance.summary('ann') = before AS same FROM answer;
SELECT scanned - :scanned AS scanned, fetched - :fetched AS fetched FROM reads;
COMMIT;
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT hint AS statement FROM token_balance.verify() WHERE NOT ok \gset
:statement ;
SELECT name, hint FROM token_balance.verify() WHERE NOT ok;
SELECT detail FROM token_balance.verify() WHERE name = 'summary index';
BEGIN;
-- what a worker reads is not in the view
SET LOCAL max_parallel_workers = 0;
SELECT scanned, fetched FROM reads \gset
SELECT token_balance.summary('ann') = before AS same FROM answer;
SELECT scanned - :scanned AS scanned, fetched - :fetched AS fetched FROM reads;
COMMIT;
-- the session's settings of the planner are as they were
SELECT count(*) AS changed FROM pg_settings WHERE (name LIKE 'enable%' OR name LIKE 'parallel%cost') AND setting <> boot_val;
-- what is not visible to all is read where it is
UPDATE token_usage SET total_tokens = total_tokens + 1 WHERE user_id = 'ann' AND stage = 'plan';
SELECT token_balance.summary('ann') #>> '{summary,total_tokens}' AS tokens, (SELECT sum(total_tokens) FROM token_usage WHERE user_id = 'ann') AS by_hand;
UPDATE token_usage SET total_tokens = total_tokens - 1 WHERE user_id = 'ann' AND stage = 'plan';

-- by the aggregate: with another one in its place the answer cannot be read
BEGIN;
CREATE FUNCTION other(text, text, text, VARIADIC "any") RETURNS text LANGUAGE internal IMMUTABLE AS 'text_concat';
CREATE OR REPLACE AGGREGATE token_balance.usage_sums(stage text, model text, VARIADIC tokens "any") (SFUNC = other, STYPE = text);
CALL pg_temp.try($$SELECT token_balance.summary('ann')$$);
CALL pg_temp.try($$SELECT token_balance.summary('cid') -> 'summary'$$);
ROLLBACK;
-- by parallel workers
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET min_parallel_index_scan_size = 0;
SET parallel_leader_participation = off;
EXPLAIN (COSTS OFF) SELECT token_balance.usage_sums(stage, model, total_tokens) FROM token_usage;
SELECT token_balance.summary('ann') = before AS same FROM answer;
-- 700 groups, by the aggregate and by hand, in parts and not
CREATE TABLE many AS SELECT 's' || i % 70 AS stage, 'm' || i % 100 AS model, i::smallint AS small, i AS plain, i * 10000000000 AS large FROM generate_series(1, 30000) AS i;
ANALYZE many;
CREATE FUNCTION differences() RETURNS TABLE (groups bigint, missing bigint, besides bigint) LANGUAGE sql AS $$
  WITH ours AS (SELECT g ->> 'stage' AS stage, g ->> 'model' AS model, (g ->> 'rows')::bigint AS rows, g #>> '{sums,0}' AS small, g #>> '{sums,1}' AS plain, g #>> '{sums,2}' AS large
      FROM jsonb_array_elements((SELECT token_balance.usage_sums(stage, model, small, plain, large)::jsonb FROM many)) AS g),
    theirs AS (SELECT stage, model, count(*), sum(small)::text, sum(plain)::text, sum(large)::text FROM many GROUP BY 1, 2)
  SELECT (SELECT count(*) FROM ours), (SELECT count(*) FROM (TABLE theirs EXCEPT ALL TABLE ours) AS x), (SELECT count(*) FROM (TABLE ours EXCEPT ALL TABLE theirs) AS x)
$$;
SELECT * FROM differences();
SET max_parallel_workers_per_gather = 0;
SELECT * FROM differences();
RESET ALL;
SET search_path = ss, public;
-- a stage ends where it ends; a NULL is no text; a sum of bigints goes past them; of no rows it is null
SELECT jsonb_array_elements(token_balance.usage_sums(stage, model, 9223372036854775807, n::smallint)::jsonb) AS usage_sums
  FROM (VALUES ('ab', 'c', -1), ('a', 'bc', 2), ('a', 'bc', 3), (NULL, 'abc', NULL), ('', 'abc', 5), ('abc', NULL, 6), ('abc', '', 7), (NULL, NULL, 8)) AS v (stage, model, n);
SELECT token_balance.usage_sums('a', 'b', 1) FROM users WHERE false;
SELECT token_balance.usage_sums(id, NULL, 1) OVER (ORDER BY id) FROM users;
-- long ones, which are stored elsewhere
CREATE TABLE long (stage text);
INSERT INTO long SELECT repeat(md5(i::text), 100) || (i % 2) FROM generate_series(1, 2) AS i, generate_series(1, 3);
ALTER TABLE long ALTER stage SET STORAGE EXTERNAL;
INSERT INTO long TABLE long;
SELECT right(g ->> 'stage', 1) AS stage, length(g ->> 'stage') AS length, g -> 'sums' AS sums FROM jsonb_array_elements((SELECT token_balance.usage_sums(stage, NULL, 1)::jsonb FROM long)) AS g ORDER BY 1;
CALL pg_temp.try($$SELECT token_balance.usage_sums('a', 'b', 1, 1.5)$$);
CALL pg_temp.try($$SELECT token_balance.usage_sums('a', 'b', '1')$$);
CALL pg_temp.try($$SELECT token_balance.usage_sums('a', 'b', VARIADIC ARRAY[1])$$);
-- its parts are nobody's to call
SELECT proname, has_function_privilege('regress_tb_owner', oid, 'EXECUTE') AS may FROM pg_proc WHERE pronamespace = 'token_balance'::regnamespace AND proname LIKE '%usage_sums' ORDER BY 1;

-- by GROUP BY where the owner of the usage may not call it, or not find it: the same
SET client_min_messages = warning;
SELECT token_balance.detach();
ALTER TABLE token_usage OWNER TO regress_tb_owner;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
RESET client_min_messages;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_owner;
SELECT token_balance.summary('ann') = before AS same FROM answer;
REVOKE EXECUTE ON FUNCTION token_balance.usage_sums FROM PUBLIC;
SELECT token_balance.summary('ann') = before AS same FROM answer;
GRANT EXECUTE ON FUNCTION token_balance.usage_sums TO PUBLIC;
REVOKE USAGE ON SCHEMA token_balance FROM regress_tb_owner;
SELECT token_balance.summary('ann') = before AS same FROM answer;
-- an error leaves the session's settings as they were, too
REVOKE SELECT ON token_usage FROM regress_tb_owner;
CALL pg_temp.try($$SELECT token_balance.summary('ann')$$);
GRANT SELECT ON token_usage TO regress_tb_owner;
SELECT count(*) AS changed FROM pg_settings WHERE (name LIKE 'enable%' OR name LIKE 'parallel%cost') AND setting <> boot_val;
-- where there is none, as in a catalog that is not updated yet
BEGIN;
ALTER EXTENSION token_balance DROP AGGREGATE token_balance.usage_sums(text, text, VARIADIC "any");
DROP AGGREGATE token_balance.usage_sums(text, text, VARIADIC "any");
SELECT token_balance.summary('ann') = before AS same FROM answer;
ROLLBACK;
-- and of fractions
SET client_min_messages = warning;
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER total_tokens TYPE numeric;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
RESET client_min_messages;
SELECT token_balance.summary('ann') = before AS same FROM answer;
UPDATE token_usage SET total_tokens = 0.5 WHERE user_id = 'ann' AND total_tokens <= 6;
SELECT token_balance.summary('ann') #>> '{summary,total_tokens}' AS tokens;

-- tokens of several columns, one of which is shown besides; the index has each once
SET client_min_messages = warning;
SELECT token_balance.detach();
DROP INDEX token_usage_user_id_created_at_stage_model_prompt_tokens_co_idx;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{prompt_tokens,completion_tokens}');
RESET client_min_messages;
SELECT hint FROM token_balance.verify() WHERE name = 'summary index';
SELECT token_balance.summary('ann') -> 'summary' AS summary;
-- of more columns than an index has
SET client_min_messages = warning;
SELECT token_balance.detach();
DO $$ BEGIN FOR i IN 1..27 LOOP EXECUTE format('ALTER TABLE token_usage ADD c%s integer DEFAULT %1$s', i); END LOOP; END $$;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => (SELECT array_agg('c' || i) FROM generate_series(1, 26) AS i)::name[]);
SELECT hint ~ 'INCLUDE \(stage, .*, c26\);$' AS included FROM token_balance.verify() WHERE name = 'summary index';
SELECT hint AS statement FROM token_balance.verify() WHERE name = 'summary index' \gset
:statement ;
DROP INDEX token_usage_user_id_created_at_stage_model_prompt_tokens_co_idx;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => (SELECT array_agg('c' || i) FROM generate_series(1, 27) AS i)::name[]);
RESET client_min_messages;
SELECT hint FROM token_balance.verify() WHERE name = 'summary index';
SELECT token_balance.summary('ann') -> 'summary' AS summary;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ss CASCADE;
DROP OWNED BY regress_tb_owner;
DROP ROLE regress_tb_owner;
