-- An application whose usage carries a session id, used again for many runs (DESIGN F10).
\set SHOW_CONTEXT never
CREATE SCHEMA ss;
SET search_path = ss, public;
CREATE TABLE users (id varchar(50) PRIMARY KEY, email varchar(255) UNIQUE, created_at timestamp DEFAULT now());
CREATE TABLE token_usage (id serial PRIMARY KEY, user_id varchar(50) NOT NULL REFERENCES users (id), session_id varchar(100),
  prompt_tokens integer NOT NULL, completion_tokens integer NOT NULL, total_tokens integer NOT NULL,
  model varchar(100), stage varchar(50), created_at timestamp DEFAULT now());
CREATE TABLE tasks (id serial PRIMARY KEY, task_id varchar(100) UNIQUE NOT NULL, user_id varchar(50) NOT NULL REFERENCES users (id),
  session_id varchar(100), status varchar(20) NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'completed', 'failed')));
INSERT INTO users (id, email) VALUES ('u1', 'one@example.com'), ('u2', 'two@example.com');
-- a session of before the extension
INSERT INTO tasks (task_id, user_id, session_id, status) VALUES ('t0', 'u1', 's1', 'completed');
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens, model, stage) VALUES ('u1', 's1', 900, 100, 1000, 'small', 'plan');

-- no column workflow_id: the convention finds nothing to bind and says what to do
CREATE EXTENSION token_balance SCHEMA ss;
SELECT token_balance.attach('users', 'token_usage', 'tasks', usage_workflow => 'session_id', workflow_key => 'session_id');
SELECT id, token_balance FROM users ORDER BY id;

-- run after run in one session: each completion charges what is new
INSERT INTO tasks (task_id, user_id, session_id) VALUES ('t1', 'u1', 's1');
UPDATE tasks SET status = 'running' WHERE task_id = 't1';
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens, model, stage)
VALUES ('u1', 's1', 80, 20, 100, 'small', 'plan'), ('u1', 's1', 150, 50, 200, 'large', 'write');
SELECT id, token_balance FROM users ORDER BY id;
UPDATE tasks SET status = 'completed' WHERE task_id = 't1';
SELECT id, token_balance FROM users ORDER BY id;
INSERT INTO tasks (task_id, user_id, session_id) VALUES ('t2', 'u1', 's1');
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u1', 's1', 5, 2, 7);
UPDATE tasks SET status = 'completed' WHERE task_id = 't2';
SELECT id, token_balance FROM users ORDER BY id;
-- a run without usage of its own; a failed run, whose usage the next completed one of the session takes along
INSERT INTO tasks (task_id, user_id, session_id, status) VALUES ('t3', 'u1', 's1', 'completed');
SELECT id, token_balance FROM users ORDER BY id;
INSERT INTO tasks (task_id, user_id, session_id) VALUES ('t4', 'u1', 's1');
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u1', 's1', 20, 10, 30);
UPDATE tasks SET status = 'failed' WHERE task_id = 't4';
SELECT id, token_balance FROM users ORDER BY id;
INSERT INTO tasks (task_id, user_id, session_id) VALUES ('t5', 'u1', 's1');
UPDATE tasks SET status = 'completed' WHERE task_id = 't5';
SELECT id, token_balance FROM users ORDER BY id;
-- a task and usage without a session
INSERT INTO token_usage (user_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u1', 20, 10, 30);
INSERT INTO tasks (task_id, user_id, status) VALUES ('t6', 'u1', 'completed');
SELECT id, token_balance FROM users ORDER BY id;
-- two runs of one session completed by one statement
INSERT INTO tasks (task_id, user_id, session_id) VALUES ('t7', 'u2', 's2'), ('t8', 'u2', 's2');
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u2', 's2', 20, 10, 30), ('u2', 's2', 1, 1, 2);
UPDATE tasks SET status = 'completed' WHERE session_id = 's2';
SELECT id, token_balance FROM users ORDER BY id;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT user_id, amount, new_balance, workflow_id FROM token_balance.ledger ORDER BY user_id, entry_id;
SELECT name FROM token_balance.verify() WHERE NOT ok;

-- The same application binding no workflow table: it calls the function at the end of a run, in place of
-- code that read the balance, subtracted and wrote it back.
SET client_min_messages = warning;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', usage_workflow => 'session_id');
RESET client_min_messages;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tasks'::regclass AND NOT tgisinternal;
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u2', 's3', 20, 10, 30);
SELECT jsonb_pretty(settle_workflow('s3'));
INSERT INTO token_usage (user_id, session_id, prompt_tokens, completion_tokens, total_tokens) VALUES ('u2', 's3', 3, 1, 4);
SELECT settle_workflow('s3') ->> 'tokens_used' AS tokens_used;
SELECT settle_workflow('s3') ->> 'status' AS status;
-- what was charged under the other binding is not charged again
SELECT settle_workflow('s1') ->> 'tokens_used' AS tokens_used, settle_workflow('s2') ->> 'tokens_used' AS tokens_used;
-- a session that no usage knows
SELECT settle_workflow('s4');
SELECT id, token_balance FROM users ORDER BY id;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ss CASCADE;
