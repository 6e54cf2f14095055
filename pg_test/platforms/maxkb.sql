-- MaxKB 2 (Django): chat records. Who pays is only reached through the chat and the application; Django saves whole rows.
-- expects a view: public.application_chat_record
-- account: SELECT md5('u1')::uuid
-- run: 3a8cb000-0000-0000-0000-000000000001
-- use: INSERT INTO application_chat (id, application_id, abstract, chat_user_type, is_deleted) VALUES (:'run', md5('a2')::uuid, 'hello', 'ANONYMOUS_USER', false); INSERT INTO application_chat_record (id, chat_id, problem_text, answer_text, message_tokens, answer_tokens, index) VALUES (md5('new1')::uuid, :'run', '', '', 60, 40, 1)
-- done: SELECT extension.settle_workflow(:'run'::uuid)
-- late: INSERT INTO application_chat_record (id, chat_id, problem_text, answer_text, message_tokens, answer_tokens, index) VALUES (md5('new2')::uuid, :'run', '', '', 15, 5, 2)
-- more: UPDATE application_chat_record SET answer_tokens = answer_tokens + 5 WHERE id = md5('new1')::uuid
-- migrate: ALTER TABLE application_chat_record ADD COLUMN source jsonb NOT NULL DEFAULT '{}', ALTER COLUMN index TYPE bigint, DROP COLUMN const; ALTER TABLE application_chat RENAME COLUMN abstract TO summary
-- away: INSERT INTO application_chat_record (id, chat_id, problem_text, answer_text, message_tokens, answer_tokens, index) VALUES (md5('new3')::uuid, :'run', '', '', 4, 3, 3)
CREATE TABLE "user" (id uuid PRIMARY KEY, email varchar(254), phone varchar(20) NOT NULL DEFAULT '', nick_name varchar(150) NOT NULL, username varchar(150) NOT NULL UNIQUE, password varchar(150) NOT NULL, role varchar(150) NOT NULL, source varchar(10) NOT NULL, is_active boolean NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now());
CREATE TABLE model (id uuid PRIMARY KEY, name varchar(128) NOT NULL, status varchar(20) NOT NULL, model_type varchar(128) NOT NULL, model_name varchar(128) NOT NULL, provider varchar(128) NOT NULL, user_id uuid, create_time timestamptz NOT NULL DEFAULT now());
CREATE TABLE application (id uuid PRIMARY KEY, workspace_id varchar(64) NOT NULL DEFAULT 'default', is_publish boolean NOT NULL, name varchar(128) NOT NULL, "desc" varchar(512) NOT NULL, user_id uuid, model_id uuid, model_setting jsonb NOT NULL DEFAULT '{}', type varchar(256) NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now());
CREATE TABLE application_chat (id uuid PRIMARY KEY, application_id uuid NOT NULL REFERENCES application DEFERRABLE INITIALLY DEFERRED, abstract varchar(1024) NOT NULL, chat_user_id varchar, chat_user_type varchar(64) NOT NULL, is_deleted boolean NOT NULL, asker jsonb NOT NULL DEFAULT '{}', meta jsonb NOT NULL DEFAULT '{}', star_num integer NOT NULL DEFAULT 0, chat_record_count integer NOT NULL DEFAULT 0, create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now());
CREATE TABLE application_chat_record (id uuid PRIMARY KEY, chat_id uuid NOT NULL REFERENCES application_chat DEFERRABLE INITIALLY DEFERRED, vote_status varchar(10) NOT NULL DEFAULT '-1', problem_text varchar(10240) NOT NULL, answer_text varchar(40960) NOT NULL, message_tokens integer NOT NULL DEFAULT 0, answer_tokens integer NOT NULL DEFAULT 0, const integer NOT NULL DEFAULT 0, details jsonb NOT NULL DEFAULT '{}', run_time double precision NOT NULL DEFAULT 0, index integer NOT NULL, create_time timestamptz NOT NULL DEFAULT now(), update_time timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON application_chat_record (chat_id);
CREATE INDEX ON application_chat (application_id);
CREATE TABLE django_migrations (id bigint PRIMARY KEY, app varchar(255) NOT NULL, name varchar(255) NOT NULL, applied timestamptz NOT NULL);

INSERT INTO "user" (id, nick_name, username, password, role, source, is_active) SELECT md5('u' || i)::uuid, 'u' || i, 'u' || i, '', 'ADMIN', 'LOCAL', true FROM generate_series(1, 2) i;
INSERT INTO application (id, is_publish, name, "desc", user_id, type) SELECT md5('a' || i)::uuid, true, 'a' || i, '', md5('u' || 1 + i % 2)::uuid, 'SIMPLE' FROM generate_series(1, 3) i;
INSERT INTO application_chat (id, application_id, abstract, chat_user_type, chat_user_id, is_deleted) SELECT md5('c' || i)::uuid, md5('a' || 1 + i % 3)::uuid, 'hello', 'ANONYMOUS_USER', md5('anonymous' || i)::uuid, false FROM generate_series(1, 12) i;
INSERT INTO application_chat_record (id, chat_id, problem_text, answer_text, message_tokens, answer_tokens, index) SELECT md5('r' || i)::uuid, md5('c' || 1 + i % 12)::uuid, 'q', 'a', 60, 40, i FROM generate_series(1, 30) i;
