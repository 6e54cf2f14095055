-- Letta 0.16: the tables of usage, runs and accounts. SQLAlchemy makes an enum's column of statuses varchar.
-- expects: users => 'public.organizations' usage => 'public.steps' workflows => 'public.runs' usage_workflow => 'run_id'
-- account: SELECT 'org-1'
-- run: run-new
-- use: INSERT INTO runs (id, organization_id, agent_id, status) VALUES (:'run', :'account', 'agent-1', 'running'); INSERT INTO steps (id, organization_id, run_id, total_tokens) VALUES ('new1', :'account', :'run', 100)
-- done: UPDATE runs SET status = 'completed', completed_at = now() WHERE id = :'run'
-- late: INSERT INTO steps (id, organization_id, run_id, total_tokens) VALUES ('new2', :'account', :'run', 20)
-- more: UPDATE steps SET total_tokens = total_tokens + 5 WHERE id = 'new1'
-- migrate: ALTER TABLE steps ADD COLUMN model_handle varchar; ALTER TABLE runs ALTER COLUMN status TYPE varchar(50)
-- away: INSERT INTO steps (id, organization_id, run_id, total_tokens) VALUES ('new3', :'account', :'run', 7)
CREATE TABLE organizations (id varchar PRIMARY KEY, name varchar NOT NULL, privileged_tools boolean NOT NULL, is_deleted boolean NOT NULL DEFAULT false, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TABLE users (id varchar PRIMARY KEY, organization_id varchar REFERENCES organizations, name varchar NOT NULL, is_deleted boolean NOT NULL DEFAULT false, created_at timestamptz DEFAULT now());
CREATE TABLE providers (id varchar PRIMARY KEY, name varchar NOT NULL, organization_id varchar REFERENCES organizations, created_at timestamptz DEFAULT now());
CREATE TABLE agents (id varchar PRIMARY KEY, organization_id varchar NOT NULL REFERENCES organizations, name varchar, llm_config jsonb, created_at timestamptz DEFAULT now());
CREATE TABLE runs (id varchar PRIMARY KEY, organization_id varchar REFERENCES organizations, agent_id varchar NOT NULL REFERENCES agents, status varchar NOT NULL, completed_at timestamptz, stop_reason varchar, background boolean, metadata_ json, callback_url varchar, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TABLE steps (id varchar PRIMARY KEY, origin varchar, organization_id varchar REFERENCES organizations ON DELETE RESTRICT, provider_id varchar REFERENCES providers ON DELETE RESTRICT, run_id varchar REFERENCES runs ON DELETE SET NULL, agent_id varchar, provider_name varchar, model varchar, model_endpoint varchar, context_window_limit integer, completion_tokens integer NOT NULL DEFAULT 0, prompt_tokens integer NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0, cached_input_tokens integer, reasoning_tokens integer, prompt_tokens_details json, stop_reason varchar, tags json, tid varchar, trace_id varchar, error_type varchar, status varchar, created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE INDEX ix_steps_run_id ON steps (run_id);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);

INSERT INTO organizations (id, name, privileged_tools) VALUES ('org-1', 'one', false), ('org-2', 'two', false);
INSERT INTO users (id, organization_id, name) VALUES ('user-1', 'org-1', 'ann'), ('user-2', 'org-2', 'bob');
INSERT INTO providers (id, name) VALUES ('provider-1', 'openai');
INSERT INTO agents (id, organization_id) VALUES ('agent-1', 'org-1'), ('agent-2', 'org-2');
INSERT INTO runs (id, organization_id, agent_id, status, completed_at) SELECT 'run-' || i, 'org-' || 1 + i % 2, 'agent-' || 1 + i % 2, CASE i % 4 WHEN 0 THEN 'running' WHEN 1 THEN 'failed' ELSE 'completed' END, CASE WHEN i % 4 > 0 THEN now() END FROM generate_series(1, 12) i;
INSERT INTO steps (id, organization_id, provider_id, run_id, agent_id, model, prompt_tokens, completion_tokens, total_tokens, status) SELECT 'step-' || i, r.organization_id, 'provider-1', r.id, r.agent_id, 'gpt-4o-mini', 90, 10, 100, 'success' FROM generate_series(1, 30) i JOIN runs r ON r.id = 'run-' || 1 + i % 12;
