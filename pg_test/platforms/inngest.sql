-- Inngest 1.12, self-hosted: runs and their ends, without keys; what a function has used is nowhere.
-- expects nothing: no table has tokens
CREATE TABLE apps (id char(36) PRIMARY KEY, name varchar NOT NULL, sdk_language varchar NOT NULL, sdk_version varchar NOT NULL, framework varchar, metadata varchar NOT NULL DEFAULT '{}', status varchar NOT NULL, error varchar, checksum varchar NOT NULL, created_at timestamp NOT NULL DEFAULT now(), archived_at timestamp, url varchar NOT NULL);
CREATE TABLE functions (id char(36), app_id char(36), name varchar NOT NULL, slug varchar NOT NULL, config varchar NOT NULL, created_at timestamp NOT NULL DEFAULT now(), archived_at timestamp);
CREATE TABLE events (internal_id bytea, account_id char(36), workspace_id char(36), source varchar(255), source_id char(35), received_at timestamp NOT NULL DEFAULT now(), event_id varchar NOT NULL, event_name varchar NOT NULL, event_data varchar NOT NULL DEFAULT '{}', event_user varchar NOT NULL DEFAULT '{}', event_v varchar, event_ts timestamp NOT NULL);
CREATE TABLE function_runs (run_id bytea NOT NULL, run_started_at timestamp NOT NULL DEFAULT now(), function_id char(36), function_version integer NOT NULL, trigger_type varchar NOT NULL DEFAULT 'event', event_id bytea NOT NULL, batch_id bytea, original_run_id bytea, cron varchar);
CREATE TABLE function_finishes (run_id bytea, status varchar NOT NULL, output varchar NOT NULL DEFAULT '{}', completed_step_count integer NOT NULL DEFAULT 1, created_at timestamp NOT NULL DEFAULT now());

INSERT INTO function_runs (run_id, function_version, event_id) SELECT decode(md5('r' || i), 'hex'), 1, decode(md5('e' || i), 'hex') FROM generate_series(1, 12) i;
INSERT INTO function_finishes (run_id, status) SELECT run_id, 'Completed' FROM function_runs;
