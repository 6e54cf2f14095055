-- new-api 0.9 (GORM): logs, users and their keys. created_at is a number of seconds. Only rows of type 2 are use; a
-- top-up is a row without tokens.
-- expects: users => 'public.users' usage => 'public.logs' usage_tokens => '{prompt_tokens,completion_tokens}' usage_created_at => NULL
-- account: SELECT 1
-- run: 900001
-- use: INSERT INTO logs (id, user_id, type, prompt_tokens, completion_tokens) VALUES (:'run', 1, 2, 70, 30)
-- again: UPDATE logs SET content = 'again' WHERE id = :'run'
-- more: UPDATE logs SET completion_tokens = completion_tokens + 5 WHERE id = :'run'
-- migrate: ALTER TABLE logs ADD COLUMN request_id varchar(64) DEFAULT ''; CREATE INDEX idx_logs_request_id ON logs (request_id)
-- away: INSERT INTO logs (id, user_id, type, prompt_tokens, completion_tokens) VALUES (900002, 1, 2, 4, 3)
CREATE TABLE users (id bigserial PRIMARY KEY, username text UNIQUE, password text NOT NULL, display_name text, role bigint DEFAULT 1, status bigint DEFAULT 1, email text, access_token char(32) UNIQUE, quota bigint DEFAULT 0, used_quota bigint DEFAULT 0, request_count bigint DEFAULT 0, "group" varchar(64) DEFAULT 'default', aff_code varchar(32), inviter_id bigint, deleted_at timestamptz);
CREATE TABLE tokens (id bigserial PRIMARY KEY, user_id bigint, key char(48) UNIQUE, status bigint DEFAULT 1, name text, created_time bigint, accessed_time bigint, expired_time bigint DEFAULT -1, remain_quota bigint DEFAULT 0, unlimited_quota boolean, used_quota bigint DEFAULT 0, deleted_at timestamptz);
CREATE TABLE channels (id bigserial PRIMARY KEY, type bigint DEFAULT 0, key text NOT NULL, status bigint DEFAULT 1, name text, weight bigint DEFAULT 0, created_time bigint, balance numeric, models text, used_quota bigint DEFAULT 0);
CREATE TABLE logs (id bigserial PRIMARY KEY, user_id bigint, created_at bigint, type bigint, content text, username text DEFAULT '', token_name text DEFAULT '', model_name text DEFAULT '', quota bigint DEFAULT 0, prompt_tokens bigint DEFAULT 0, completion_tokens bigint DEFAULT 0, use_time bigint DEFAULT 0, is_stream boolean, channel_id bigint, token_id bigint DEFAULT 0, "group" text, ip text DEFAULT '', other text);
CREATE INDEX idx_logs_user_id ON logs (user_id);
CREATE INDEX idx_created_at_id ON logs (id, created_at);
CREATE TABLE quota_data (id bigserial PRIMARY KEY, user_id bigint, username text DEFAULT '', model_name text DEFAULT '', created_at bigint, token_used bigint DEFAULT 0, count bigint DEFAULT 0, quota bigint DEFAULT 0);
CREATE TABLE tasks (id bigserial PRIMARY KEY, created_at bigint, updated_at bigint, task_id varchar(50), platform varchar(30), user_id bigint, channel_id bigint, quota bigint, action varchar(40), status varchar(20), fail_reason text, submit_time bigint, start_time bigint, finish_time bigint, progress varchar(20), properties json, data json);

INSERT INTO users (username, password, quota) SELECT 'user' || i, '', 100000 FROM generate_series(1, 5) i;
INSERT INTO tokens (user_id, key, name) SELECT i, md5(i::text), 'key' || i FROM generate_series(1, 5) i;
INSERT INTO channels (key, name) VALUES ('k', 'openai');
INSERT INTO logs (user_id, created_at, type, content, model_name, quota, prompt_tokens, completion_tokens, channel_id, token_id) SELECT 1 + i % 5, 1760000000 + i, CASE WHEN i % 9 = 0 THEN 1 ELSE 2 END, '', 'gpt-4o', 500, CASE WHEN i % 9 = 0 THEN 0 ELSE 100 END, CASE WHEN i % 9 = 0 THEN 0 ELSE 25 END, 1, 1 + i % 5 FROM generate_series(1, 40) i;
INSERT INTO quota_data (user_id, username, model_name, created_at, token_used, count, quota) SELECT i, 'user' || i, 'gpt-4o', 1760000000, 1000, 8, 4000 FROM generate_series(1, 5) i;
