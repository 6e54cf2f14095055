-- RAGFlow 0.19 (peewee) with PostgreSQL: a conversation's row has its tokens, which grow in place.
-- expects: users => 'public."user"' usage => 'public.api_4_conversation' usage_tokens => '{tokens}' usage_workflow => 'id'
-- account: SELECT md5('u1')
-- run: conversation-new
-- use: INSERT INTO api_4_conversation (id, dialog_id, user_id, tokens, duration, round, thumb_up) VALUES (:'run', 'd', :'account', 100, 0, 1, 0)
-- again: UPDATE api_4_conversation SET round = 1 WHERE id = :'run'
-- more: UPDATE api_4_conversation SET tokens = tokens + 5, round = 2 WHERE id = :'run'
-- migrate: ALTER TABLE api_4_conversation ADD COLUMN errors text; ALTER TABLE api_4_conversation ALTER COLUMN user_id DROP NOT NULL
-- away: INSERT INTO api_4_conversation (id, dialog_id, user_id, tokens, duration, round, thumb_up) VALUES ('conversation-away', 'd', :'account', 7, 0, 1, 0)
CREATE TABLE "user" (id varchar(32) PRIMARY KEY, create_time bigint, create_date timestamp, update_time bigint, access_token varchar(255), nickname varchar(100) NOT NULL, password varchar(255), email varchar(255) NOT NULL UNIQUE, status varchar(1), is_superuser boolean);
CREATE TABLE tenant (id varchar(32) PRIMARY KEY, create_time bigint, create_date timestamp, name varchar(100), llm_id varchar(128) NOT NULL, embd_id varchar(128) NOT NULL, credit integer NOT NULL, status varchar(1));
CREATE TABLE tenant_llm (id serial PRIMARY KEY, create_date timestamp, tenant_id varchar(32) NOT NULL, llm_factory varchar(128) NOT NULL, model_type varchar(128), llm_name varchar(128), api_key varchar(2048), max_tokens integer NOT NULL, used_tokens integer NOT NULL);
CREATE TABLE dialog (id varchar(32) PRIMARY KEY, create_date timestamp, tenant_id varchar(32) NOT NULL, name varchar(255), llm_id varchar(128) NOT NULL, status varchar(1));
CREATE TABLE conversation (id varchar(32) PRIMARY KEY, create_date timestamp, dialog_id varchar(32) NOT NULL, name varchar(255), message text, reference text, user_id varchar(255));
CREATE TABLE api_token (create_date timestamp, tenant_id varchar(32) NOT NULL, token varchar(255) NOT NULL, dialog_id varchar(32), source varchar(16), beta varchar(255), PRIMARY KEY (tenant_id, token));
CREATE TABLE api_4_conversation (id varchar(32) PRIMARY KEY, create_time bigint, create_date timestamp, update_time bigint, update_date timestamp, dialog_id varchar(32) NOT NULL, user_id varchar(255) NOT NULL, message text, reference text, tokens integer NOT NULL, source varchar(16), dsl text, duration double precision NOT NULL, round integer NOT NULL, thumb_up integer NOT NULL);
CREATE INDEX ON api_4_conversation (dialog_id);
CREATE INDEX ON api_4_conversation (user_id);

INSERT INTO "user" (id, nickname, email) SELECT md5('u' || i), 'u' || i, 'u' || i || '@example.com' FROM generate_series(1, 3) i;
INSERT INTO tenant (id, llm_id, embd_id, credit) SELECT id, '', '', 512 FROM "user";
INSERT INTO tenant_llm (tenant_id, llm_factory, llm_name, max_tokens, used_tokens) SELECT id, 'OpenAI', 'gpt-4o', 8192, 1000 FROM tenant;
INSERT INTO dialog (id, tenant_id, llm_id, status) SELECT md5('d' || i), md5('u' || 1 + i % 3), 'gpt-4o', '1' FROM generate_series(1, 4) i;
INSERT INTO api_4_conversation (id, create_date, dialog_id, user_id, tokens, source, duration, round, thumb_up) SELECT md5('c' || i), now(), md5('d' || 1 + i % 4), md5('u' || 1 + i % 3), 300, 'dialog', 1.5, 2, 0 FROM generate_series(1, 24) i;
