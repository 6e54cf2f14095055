-- What suggest() proposes is pasted as it is, and the sums are right: JSON of which a row has one key alone, joins that keep migrations
-- possible, times that are not called created_at.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA sv;
SET search_path = sv, public;
CREATE EXTENSION token_balance SCHEMA sv;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE runs (id text PRIMARY KEY, user_id text REFERENCES users, status text);
CREATE TABLE calls (id bigserial PRIMARY KEY, run_id text REFERENCES runs, user_id text REFERENCES users, usage jsonb, ts timestamptz DEFAULT now());
CREATE INDEX ON calls (run_id);
INSERT INTO users VALUES ('ann');
INSERT INTO runs SELECT 'r' || n, 'ann', 'completed' FROM generate_series(1, 40) AS n;
INSERT INTO calls (run_id, user_id, usage)
SELECT 'r' || n, 'ann', CASE WHEN n % 2 = 0 THEN '{"prompt_tokens": 30}' ELSE '{"prompt_tokens": 100.0, "completion_tokens": 50}' END::jsonb
FROM generate_series(1, 40) AS n;
ANALYZE;
\pset tuples_only on
\pset format unaligned
SELECT call FROM token_balance.suggestions() WHERE rank = 1 \gset
\echo :call
:call;
SELECT sum(usage_tokens) AS exempt FROM token_balance.settlement;
INSERT INTO runs VALUES ('e', 'ann', 'running');
INSERT INTO calls (run_id, user_id, usage) VALUES ('e', 'ann', '{"prompt_tokens": 30000}'), ('e', 'ann', '{"completion_tokens": 7}'), ('e', 'ann', '{}');
UPDATE runs SET status = 'completed' WHERE id = 'e';
SELECT * FROM users;
-- what is attached is said
SELECT line FROM token_balance.suggest() AS line;
SELECT token_balance.detach(true);
DROP TABLE users, runs, calls CASCADE;
-- the payer by a join: the view shows what is bound alone, so that the rest can be migrated; and what a change of the join means is said
CREATE TABLE customers (id integer PRIMARY KEY);
CREATE TABLE agents (id integer PRIMARY KEY, user_id integer REFERENCES customers);
CREATE TABLE llm_calls (id bigserial PRIMARY KEY, run_id uuid, agent_id integer REFERENCES agents, total_tokens integer, note varchar(10), logged_at timestamptz DEFAULT now(), deleted_at timestamptz);
CREATE TABLE runs (id uuid PRIMARY KEY, status text);
CREATE INDEX ON llm_calls (run_id);
INSERT INTO customers VALUES (1), (2);
INSERT INTO agents VALUES (1, 1), (2, 2);
INSERT INTO runs SELECT md5(n::text)::uuid, 'completed' FROM generate_series(1, 20) AS n;
INSERT INTO llm_calls (run_id, agent_id, total_tokens) SELECT md5(n::text)::uuid, n % 2 + 1, n FROM generate_series(1, 20) AS n;
ANALYZE;
SELECT call, remarks FROM token_balance.suggestions() WHERE call LIKE 'CREATE VIEW%' ORDER BY rank LIMIT 1;
SELECT call FROM token_balance.suggestions() WHERE call LIKE 'CREATE VIEW%' ORDER BY rank LIMIT 1 \gset
:call;
ALTER TABLE llm_calls ALTER note TYPE text, DROP deleted_at;
INSERT INTO runs VALUES (md5('e')::uuid, 'running');
INSERT INTO llm_calls (run_id, agent_id, total_tokens) VALUES (md5('e')::uuid, 2, 70);
UPDATE runs SET status = 'completed' WHERE status = 'running';
SELECT * FROM customers ORDER BY id;
-- no time at all
SELECT token_balance.detach(true);
DROP VIEW llm_calls_tokens;
ALTER TABLE llm_calls DROP logged_at;
SELECT count(*) > 0 AS is_said FROM token_balance.suggestions() WHERE remarks LIKE '%usage_created_at%';
-- nor is what becomes of a row later the time at which it was written
ALTER TABLE llm_calls ADD expires_at timestamptz;
SELECT count(*) > 0 AS is_said FROM token_balance.suggestions() WHERE remarks LIKE '%usage_created_at%';
-- an id that repeats among the runs comes after one that is theirs alone; money is remarked; what each row has from its beginning is no
-- end of it; sums of what is below are not counted with it
DROP TABLE llm_calls, runs, agents, customers CASCADE;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE flows (id text PRIMARY KEY);
CREATE TABLE execution_logs (id text PRIMARY KEY, workflow_id text REFERENCES flows, execution_id text UNIQUE, status text);
CREATE TABLE usage_log (id bigserial PRIMARY KEY, user_id text REFERENCES users, workflow_id text REFERENCES flows, execution_id text, cost numeric NOT NULL, created_at timestamptz DEFAULT now());
INSERT INTO users SELECT 'u' || n FROM generate_series(1, 9) AS n;
INSERT INTO flows SELECT 'f' || n FROM generate_series(1, 9) AS n;
INSERT INTO execution_logs SELECT 'l' || n, 'f' || (n % 9 + 1), 'e' || n, CASE WHEN n % 5 = 0 THEN 'failed' ELSE 'completed' END FROM generate_series(1, 60) AS n;
INSERT INTO usage_log (user_id, workflow_id, execution_id, cost) SELECT 'u' || (n % 9 + 1), 'f' || (n % 9 + 1), 'e' || n, 0.0123 FROM generate_series(1, 60) AS n;
ANALYZE;
SELECT call, remarks FROM token_balance.suggestions() WHERE rank = 1;
SELECT remarks FROM token_balance.suggestions() WHERE call LIKE '%workflow_key => ''workflow_id''%' LIMIT 1;
DROP TABLE usage_log, execution_logs, flows CASCADE;
CREATE TABLE traces (id bigint PRIMARY KEY, start_time timestamptz NOT NULL, end_time timestamptz NOT NULL);
CREATE TABLE spans (id bigserial PRIMARY KEY, trace_id bigint REFERENCES traces, user_id text REFERENCES users, cumulative_tokens integer, total_tokens integer, start_time timestamptz);
ANALYZE;
SELECT count(*) FILTER (WHERE call LIKE '%end_time%') AS by_end, count(*) FILTER (WHERE call LIKE '%cumulative%') AS cumulative, count(*) > 0 AS some FROM token_balance.suggestions();
-- a name with the end of a line in it does not end the comment that it is in: the rest would be pasted as SQL
DROP TABLE spans, traces;
CREATE TABLE "usage
DROP TABLE users; --" (id bigint PRIMARY KEY, run_id text, user_id text REFERENCES users, total_tokens integer, "created
at" timestamptz);
SELECT line FROM token_balance.suggest() AS line WHERE line LIKE '--%' AND line LIKE '%DROP TABLE users%';
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sv CASCADE;
