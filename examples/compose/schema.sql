-- Run once, when the server is made: the tables of a small platform, and the extension that binds them.
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE EXTENSION token_balance;
