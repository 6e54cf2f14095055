-- The views that suggestions() writes: each is made and bound as it is proposed, and what it charges is right (DESIGN F30, B20).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sv;
SET search_path = sv, public;
CREATE EXTENSION token_balance SCHEMA sv;
\pset tuples_only on
\pset format unaligned

-- half of the rows have one of two keys, as those of embeddings: 1000000 - 30000 - 150 = 969850
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, user_id text REFERENCES users, status text);
CREATE TABLE calls (id bigserial PRIMARY KEY, run_id text REFERENCES runs, user_id text REFERENCES users, usage jsonb, model text, created_at timestamptz DEFAULT now(), note text);
CREATE INDEX ON calls (run_id);
INSERT INTO users VALUES ('ann');
INSERT INTO runs SELECT 'r' || n, 'ann', 'completed' FROM generate_series(1, 40) n;
INSERT INTO calls (run_id, user_id, usage) SELECT 'r' || n, 'ann', CASE WHEN n % 2 = 0 THEN '{"prompt_tokens": 30}'
  ELSE '{"prompt_tokens": 100, "completion_tokens": 50}' END::jsonb FROM generate_series(1, 40) n;
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
SET LOCAL client_min_messages = notice;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
SET LOCAL client_min_messages = warning;
INSERT INTO runs VALUES ('e', 'ann', 'running');
INSERT INTO calls (run_id, user_id, usage) VALUES ('e', 'ann', '{"prompt_tokens": 30000}'), ('e', 'ann', '{"prompt_tokens": 100, "completion_tokens": 50}'),
  ('e', 'ann', '{"prompt_tokens": null}'), ('e', 'ann', '"text"'), ('e', 'ann', NULL);
UPDATE runs SET status = 'completed' WHERE id = 'e';
SELECT token_balance FROM users;
SELECT state, tokens FROM token_balance.usage_state() ORDER BY 1;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
ROLLBACK;

-- numbers with a fraction, or written as if: they are added up exactly, and rounded once: 100.0 + 12.5 + 12.5 + 1e3 + 0.5 = 1125.5
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, user_id text REFERENCES users, status text);
CREATE TABLE calls (id bigserial PRIMARY KEY, run_id text REFERENCES runs, user_id text REFERENCES users, usage json);
CREATE INDEX ON calls (run_id);
INSERT INTO users VALUES ('ann');
INSERT INTO runs SELECT 'r' || n, 'ann', 'completed' FROM generate_series(1, 20) n;
INSERT INTO calls (run_id, user_id, usage) SELECT 'r' || n, 'ann', CASE WHEN n % 2 = 0 THEN '{"total_tokens": 100.0}' ELSE '{"total_tokens": 12.5}' END::json FROM generate_series(1, 20) n;
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
INSERT INTO runs VALUES ('e', 'ann', 'running');
INSERT INTO calls (run_id, user_id, usage) SELECT 'e', 'ann', json_build_object('total_tokens', n::json) FROM unnest('{100.0,12.5,12.5,1e3,0.5}'::text[]) n;
UPDATE runs SET status = 'completed' WHERE id = 'e';
SELECT token_balance FROM users;
SELECT settle_workflow('e') ->> 'status', settle_workflow('r1') ->> 'status';
ROLLBACK;

-- who pays by a join: the view shows what the binding needs, and keeps migrations from nothing else
BEGIN;
CREATE TABLE projects (id serial PRIMARY KEY, name text);
CREATE TABLE agents (id serial PRIMARY KEY, project_id int REFERENCES projects);
CREATE TABLE agent_executions (execution int PRIMARY KEY, status varchar, agent_id int REFERENCES agents, num_of_calls int, input_tokens int, output_tokens int,
  llm_model text, stage text, permission_id int, started_at timestamptz, created_at timestamptz DEFAULT now());
INSERT INTO projects VALUES (1, 'shop');
INSERT INTO agents VALUES (1, 1);
INSERT INTO agent_executions SELECT n, 'COMPLETED', 1, 1, 60, 40, 'small', 'plan', 7, now(), now() - interval '1 day' FROM generate_series(1, 20) n;
SELECT call FROM token_balance.suggestions() WHERE rank = 1;
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gexec
ALTER TABLE agent_executions ALTER num_of_calls TYPE bigint;
ALTER TABLE agent_executions DROP COLUMN permission_id, DROP COLUMN started_at;
INSERT INTO agent_executions (execution, status, agent_id, input_tokens, output_tokens, llm_model, stage) VALUES (21, 'RUNNING', 1, 7, 5, 'large', 'answer');
UPDATE agent_executions SET status = 'COMPLETED' WHERE execution = 21;
SELECT token_balance FROM projects;
SELECT r - 'created_at', r ? 'created_at' FROM jsonb_array_elements(token_balance.summary(1) -> 'recent_records') r WHERE r ->> 'model' = 'large';
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
ROLLBACK;

-- a row that is a run of its own: what the remark says of late usage can be pasted into the call
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE llm_calls (id bigserial PRIMARY KEY, user_id text REFERENCES users, usage jsonb);
INSERT INTO users VALUES ('ann');
INSERT INTO llm_calls (user_id, usage) SELECT 'ann', '{"total_tokens": 10}' FROM generate_series(1, 20);
SELECT remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT regexp_replace(call, '\);$', E',\n    ' || substring(remarks FROM $$late_usage => 'settle', late_usage_on => \S+$$) || ');') AS call
  FROM token_balance.suggestions() WHERE rank = 1 \gset
\echo :call
:call
INSERT INTO llm_calls (user_id, usage) VALUES ('ann', '{"total_tokens": 100}');
SELECT token_balance FROM users;
UPDATE llm_calls SET usage = '{"total_tokens": 130}' WHERE id = 21;
SELECT token_balance FROM users;
ROLLBACK;
-- with names that are to be quoted, of a table whose usage is json
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE "LLM Calls" ("callId" bigserial PRIMARY KEY, user_id text REFERENCES users, usage json);
INSERT INTO users VALUES ('ann');
INSERT INTO "LLM Calls" (user_id, usage) SELECT 'ann', '{"total_tokens": 10}' FROM generate_series(1, 20);
SELECT remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT regexp_replace(call, '\);$', E',\n    ' || substring(remarks FROM $$late_usage => 'settle', late_usage_on => .*\]$$) || ');') AS call
  FROM token_balance.suggestions() WHERE rank = 1 \gset
\echo :call
:call
INSERT INTO "LLM Calls" (user_id, usage) VALUES ('ann', '{"total_tokens": 100}');
UPDATE "LLM Calls" SET usage = '{"total_tokens": 130}' WHERE "callId" = 21;
SELECT token_balance FROM users;
ROLLBACK;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sv CASCADE;
