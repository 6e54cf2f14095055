-- Windmill 1.550: a completed job's result is JSON; what an agent's step has used is in it. A workspace pays.
-- expects a view: public.v2_job_completed
-- account: SELECT 'shop'
-- run: 31d00000-0000-0000-0000-000000000001
-- use: INSERT INTO v2_job_completed (id, workspace_id, duration_ms, result, status) VALUES (:'run', :'account', 1, '{"usage": {"total_tokens": 100}}', 'success')
-- again: UPDATE v2_job_completed SET status = 'success', memory_peak = 1 WHERE id = :'run'
-- more: UPDATE v2_job_completed SET result = '{"usage": {"total_tokens": 105}}' WHERE id = :'run'
-- migrate: ALTER TABLE v2_job_completed ADD COLUMN result_columns text[]; ALTER TYPE job_status ADD VALUE 'paused'
-- away: INSERT INTO v2_job_completed (id, workspace_id, duration_ms, result, status) VALUES ('31d00000-0000-0000-0000-000000000002', :'account', 1, '{"usage": {"total_tokens": 7}}', 'success')
CREATE TYPE job_status AS ENUM ('success', 'failure', 'canceled', 'skipped');
CREATE TYPE job_kind AS ENUM ('script', 'preview', 'flow', 'dependencies', 'flowpreview', 'aiagent');
CREATE TABLE workspace (id varchar(50) PRIMARY KEY, name varchar(50) NOT NULL, owner varchar(50) NOT NULL, deleted boolean NOT NULL DEFAULT false, premium boolean NOT NULL DEFAULT false);
CREATE TABLE usr (workspace_id varchar(50) NOT NULL REFERENCES workspace, username varchar(50) NOT NULL, email varchar(255) NOT NULL, is_admin boolean NOT NULL DEFAULT false, PRIMARY KEY (workspace_id, username));
CREATE TABLE usage (id varchar(50) NOT NULL, is_workspace boolean NOT NULL, month_ integer NOT NULL, usage integer NOT NULL, PRIMARY KEY (id, is_workspace, month_));
CREATE TABLE v2_job (id uuid PRIMARY KEY, raw_code text, created_at timestamptz NOT NULL DEFAULT now(), created_by varchar(255) NOT NULL DEFAULT 'missing', permissioned_as varchar(55) NOT NULL DEFAULT 'g/all', kind job_kind NOT NULL DEFAULT 'script', runnable_path varchar(255), parent_job uuid, workspace_id varchar(100) NOT NULL, args jsonb, labels text[]);
CREATE TABLE v2_job_completed (id uuid PRIMARY KEY, workspace_id varchar(50) NOT NULL, duration_ms bigint NOT NULL, result jsonb, deleted boolean NOT NULL DEFAULT false, canceled_by varchar(50), canceled_reason text, flow_status jsonb, started_at timestamptz DEFAULT now(), memory_peak integer, status job_status NOT NULL, completed_at timestamptz NOT NULL DEFAULT now(), worker varchar(255), retries uuid[]);
CREATE INDEX ON v2_job_completed (workspace_id, completed_at DESC);

INSERT INTO workspace VALUES ('admins', 'Admins', 'a'), ('shop', 'Shop', 'b');
INSERT INTO v2_job (id, kind, workspace_id) SELECT md5('j' || i)::uuid, 'aiagent', CASE i % 3 WHEN 0 THEN 'admins' ELSE 'shop' END FROM generate_series(1, 15) i;
INSERT INTO v2_job_completed (id, workspace_id, duration_ms, result, status) SELECT id, workspace_id, 1200, '{"output": "hello", "usage": {"input_tokens": 15, "output_tokens": 20, "total_tokens": 35}}', 'success' FROM v2_job;
