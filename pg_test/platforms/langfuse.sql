-- Langfuse 2, whose observations are in PostgreSQL. Projects pay; a trace does not say when it is over.
-- expects: users => 'public.projects' usage => 'public.observations' usage_user => 'project_id'
-- account: SELECT 'clproject1'
-- run: trace-new
-- use: INSERT INTO traces (id, name, project_id) VALUES (:'run', 'chat', :'account'); INSERT INTO observations (id, trace_id, project_id, type, total_tokens) VALUES ('new1', :'run', :'account', 'GENERATION', 100)
-- again: UPDATE traces SET name = 'again' WHERE id = :'run'; UPDATE observations SET end_time = now() WHERE id = 'new1'
-- late: INSERT INTO observations (id, trace_id, project_id, type, total_tokens) VALUES ('new2', :'run', :'account', 'GENERATION', 20)
-- more: UPDATE observations SET total_tokens = total_tokens + 5 WHERE id = 'new1'
-- migrate: ALTER TABLE observations ADD COLUMN internal_model_id text; ALTER TABLE traces ADD COLUMN release text
-- away: INSERT INTO observations (id, trace_id, project_id, type, total_tokens) VALUES ('new3', :'run', :'account', 'GENERATION', 7)
CREATE TYPE "ObservationType" AS ENUM ('SPAN', 'EVENT', 'GENERATION');
CREATE TYPE "ObservationLevel" AS ENUM ('DEBUG', 'DEFAULT', 'WARNING', 'ERROR');
CREATE TABLE users (id text PRIMARY KEY, name text, email text UNIQUE, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE organizations (id text PRIMARY KEY, name text NOT NULL, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE projects (id text PRIMARY KEY, org_id text NOT NULL REFERENCES organizations, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, name text NOT NULL);
CREATE TABLE api_keys (id text PRIMARY KEY, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, note text, public_key text NOT NULL UNIQUE, hashed_secret_key text NOT NULL UNIQUE, project_id text NOT NULL REFERENCES projects);
CREATE TABLE trace_sessions (id text NOT NULL, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, project_id text NOT NULL REFERENCES projects, PRIMARY KEY (id, project_id));
CREATE TABLE traces (id text PRIMARY KEY, external_id text, timestamp timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, name text, user_id text, metadata jsonb, project_id text NOT NULL REFERENCES projects ON DELETE CASCADE, public boolean NOT NULL DEFAULT false, tags text[] DEFAULT '{}', session_id text);
CREATE TABLE observations (id text PRIMARY KEY, trace_id text, project_id text NOT NULL REFERENCES projects ON DELETE CASCADE, type "ObservationType" NOT NULL, start_time timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, end_time timestamp(3), name text, metadata jsonb, parent_observation_id text, level "ObservationLevel" NOT NULL DEFAULT 'DEFAULT', status_message text, version text, created_at timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP, model text, internal_model text, "modelParameters" jsonb, input jsonb, output jsonb, prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0, unit text, input_cost numeric(65, 30), output_cost numeric(65, 30), total_cost numeric(65, 30), completion_start_time timestamp(3), prompt_id text, UNIQUE (id, project_id));
CREATE INDEX ON observations (trace_id);
CREATE INDEX ON observations (project_id, internal_model, start_time, unit);
CREATE TABLE _prisma_migrations (id varchar(36) PRIMARY KEY, migration_name varchar(255) NOT NULL);

INSERT INTO organizations (id, name) VALUES ('org1', 'one');
INSERT INTO projects (id, org_id, name) VALUES ('clproject1', 'org1', 'one'), ('clproject2', 'org1', 'two');
INSERT INTO traces (id, name, project_id, user_id) SELECT 'trace' || i, 'chat', 'clproject' || 1 + i % 2, 'visitor' || i FROM generate_series(1, 12) i;
INSERT INTO observations (id, trace_id, project_id, type, end_time, model, prompt_tokens, completion_tokens, total_tokens, unit) SELECT 'observation' || i, t.id, t.project_id, 'GENERATION', now(), 'gpt-4o', 80, 20, 100, 'TOKENS' FROM generate_series(1, 36) i JOIN traces t ON t.id = 'trace' || 1 + i % 12;
