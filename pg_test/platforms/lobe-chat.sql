-- Lobe Chat 1.120 (Drizzle): a message has its tokens in the JSON of its metadata, in camel case.
-- expects a view: public.messages
-- expects: usage => 'public.messages_tokens' users => 'public.users'
-- account: SELECT 'user_a'
-- run: tpc_new
-- use: INSERT INTO topics (id, user_id) VALUES (:'run', :'account'); INSERT INTO messages (id, role, user_id, topic_id, metadata) VALUES ('new1', 'assistant', :'account', :'run', '{"totalTokens": 100}'), ('ask1', 'user', :'account', :'run', NULL)
-- done: SELECT extension.settle_workflow(:'run')
-- late: INSERT INTO messages (id, role, user_id, topic_id, metadata) VALUES ('new2', 'assistant', :'account', :'run', '{"totalTokens": 20}')
-- more: UPDATE messages SET metadata = '{"totalTokens": 105}' WHERE id = 'new1'
-- migrate: ALTER TABLE messages ADD COLUMN thread_id text; ALTER TABLE users ADD COLUMN full_name text
-- away: INSERT INTO messages (id, role, user_id, topic_id, metadata) VALUES ('new3', 'assistant', :'account', :'run', '{"totalTokens": 7}')
CREATE TABLE users (id text PRIMARY KEY, username text UNIQUE, email text, avatar text, first_name text, is_onboarded boolean DEFAULT false, clerk_created_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE sessions (id text PRIMARY KEY, slug varchar(100) NOT NULL, title text, user_id text NOT NULL REFERENCES users ON DELETE CASCADE, type text DEFAULT 'agent', client_id text, pinned boolean DEFAULT false, created_at timestamptz NOT NULL DEFAULT now(), UNIQUE (slug, user_id));
CREATE TABLE topics (id text PRIMARY KEY, title text, favorite boolean DEFAULT false, session_id text REFERENCES sessions ON DELETE CASCADE, user_id text NOT NULL REFERENCES users ON DELETE CASCADE, client_id text, metadata jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE messages (id text PRIMARY KEY, role text NOT NULL, content text, reasoning jsonb, search jsonb, metadata jsonb, model text, provider text, favorite boolean DEFAULT false, error jsonb, tools jsonb, trace_id text, observation_id text, client_id text, user_id text NOT NULL REFERENCES users ON DELETE CASCADE, session_id text REFERENCES sessions ON DELETE CASCADE, topic_id text REFERENCES topics ON DELETE CASCADE, parent_id text REFERENCES messages ON DELETE SET NULL, quota_id text REFERENCES messages ON DELETE SET NULL, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON messages (topic_id);
CREATE INDEX ON messages (created_at);
CREATE TABLE async_tasks (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), type text, status text, error jsonb, user_id text NOT NULL REFERENCES users ON DELETE CASCADE, duration integer, created_at timestamptz NOT NULL DEFAULT now());

INSERT INTO users (id) VALUES ('user_a'), ('user_b');
INSERT INTO sessions (id, slug, user_id) VALUES ('ssn_1', 'one', 'user_a'), ('ssn_2', 'two', 'user_b');
INSERT INTO topics (id, session_id, user_id) SELECT 'tpc_' || i, 'ssn_' || 1 + i % 2, CASE i % 2 WHEN 0 THEN 'user_a' ELSE 'user_b' END FROM generate_series(1, 6) i;
INSERT INTO messages (id, role, content, metadata, model, user_id, session_id, topic_id) SELECT 'msg_' || i, CASE i % 2 WHEN 0 THEN 'assistant' ELSE 'user' END, 'hello', CASE i % 2 WHEN 0 THEN '{"totalTokens": 120, "totalInputTokens": 100, "totalOutputTokens": 20, "tps": 40.5}'::jsonb END, 'gpt-4o', t.user_id, t.session_id, t.id FROM generate_series(1, 20) i JOIN topics t ON t.id = 'tpc_' || 1 + i % 6;
