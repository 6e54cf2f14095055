-- Open WebUI 0.8: a message has its tokens in JSON, with one of two pairs of keys. Times are numbers of seconds.
-- expects a view: public.chat_message
-- account: SELECT md5('u1')
-- run: chat-new
-- use: INSERT INTO chat (id, user_id, title, archived, created_at, updated_at) VALUES (:'run', :'account', 't', false, 0, 0); INSERT INTO chat_message (id, chat_id, user_id, role, usage) VALUES ('new1', :'run', :'account', 'assistant', '{"total_tokens": 100}'), ('ask1', :'run', :'account', 'user', NULL)
-- done: SELECT extension.settle_workflow(:'run')
-- late: INSERT INTO chat_message (id, chat_id, user_id, role, usage) VALUES ('new2', :'run', :'account', 'assistant', '{"total_tokens": 20}')
-- more: UPDATE chat_message SET usage = '{"total_tokens": 105}' WHERE id = 'new1'
-- migrate: ALTER TABLE chat_message ADD COLUMN meta json; ALTER TABLE chat ADD COLUMN folder text
-- away: INSERT INTO chat_message (id, chat_id, user_id, role, usage) VALUES ('new3', :'run', :'account', 'assistant', '{"total_tokens": 7}')
CREATE TABLE "user" (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL, role text NOT NULL, profile_image_url text NOT NULL, last_active_at bigint NOT NULL, updated_at bigint NOT NULL, created_at bigint NOT NULL, api_key text UNIQUE, settings json, info json, oauth_sub text UNIQUE);
CREATE TABLE model (id text PRIMARY KEY, user_id text NOT NULL, base_model_id text, name text NOT NULL, params text NOT NULL, meta text NOT NULL, is_active boolean NOT NULL, updated_at bigint NOT NULL, created_at bigint NOT NULL);
CREATE TABLE chat (id text PRIMARY KEY, user_id text NOT NULL, title text NOT NULL, chat json, share_id text UNIQUE, archived boolean NOT NULL, pinned boolean, meta json DEFAULT '{}', folder_id text, created_at bigint NOT NULL, updated_at bigint NOT NULL);
CREATE TABLE chat_message (id text PRIMARY KEY, chat_id text NOT NULL REFERENCES chat ON DELETE CASCADE, user_id text, role text NOT NULL, parent_id text, content json, output json, model_id text, files json, sources json, embeds json, done boolean, status_history json, error json, usage json, created_at bigint, updated_at bigint);
CREATE INDEX ON chat_message (chat_id, parent_id);
CREATE INDEX ON chat_message (user_id, created_at);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);

INSERT INTO "user" SELECT md5('u' || i), 'u' || i, 'e', 'user', '', 0, 0, 0 FROM generate_series(1, 3) i;
INSERT INTO chat (id, user_id, title, archived, created_at, updated_at) SELECT md5('c' || i), md5('u' || 1 + i % 3), 't', false, 0, 0 FROM generate_series(1, 6) i;
INSERT INTO chat_message (id, chat_id, user_id, role, content, model_id, done, usage, created_at) SELECT c.id || '-' || i, c.id, c.user_id, CASE i % 2 WHEN 0 THEN 'assistant' ELSE 'user' END, '"hello"', 'llama', true, CASE i % 2 WHEN 0 THEN '{"input_tokens": 20, "output_tokens": 30, "total_tokens": 50}'::json END, 1760000000 FROM chat c, generate_series(1, 4) i;
