-- What LiteLLM's proxy keeps of spending: the names, keys and indexes of its tables, and of their columns those that a
-- request writes, and some that make the rows as wide. Each user has a key, a team and an organization. The hottest
-- users are in different teams and organizations.
SET ROLE app;

CREATE TABLE app."LiteLLM_OrganizationTable" (
    organization_id text PRIMARY KEY, organization_alias text NOT NULL, budget_id text NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}', models text[] DEFAULT '{}', spend double precision NOT NULL DEFAULT 0,
    model_spend jsonb NOT NULL DEFAULT '{}', created_at timestamp(3) NOT NULL DEFAULT now(),
    created_by text NOT NULL DEFAULT '', updated_at timestamp(3) NOT NULL DEFAULT now(),
    updated_by text NOT NULL DEFAULT '');

CREATE TABLE app."LiteLLM_TeamTable" (
    team_id text PRIMARY KEY, team_alias text, organization_id text REFERENCES app."LiteLLM_OrganizationTable",
    members text[] DEFAULT '{}', members_with_roles jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}', max_budget double precision, spend double precision NOT NULL DEFAULT 0,
    models text[] DEFAULT '{}', blocked boolean NOT NULL DEFAULT false, model_spend jsonb NOT NULL DEFAULT '{}',
    model_max_budget jsonb NOT NULL DEFAULT '{}', created_at timestamp(3) NOT NULL DEFAULT now(),
    updated_at timestamp(3) NOT NULL DEFAULT now());
CREATE INDEX ON app."LiteLLM_TeamTable" (organization_id);
CREATE INDEX ON app."LiteLLM_TeamTable" (team_alias);
CREATE INDEX ON app."LiteLLM_TeamTable" (created_at);

CREATE TABLE app."LiteLLM_UserTable" (
    user_id text PRIMARY KEY, user_alias text, sso_user_id text UNIQUE,
    organization_id text REFERENCES app."LiteLLM_OrganizationTable", teams text[] NOT NULL DEFAULT '{}',
    max_budget double precision, spend double precision NOT NULL DEFAULT 0, user_email text, models text[] DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}', model_spend jsonb NOT NULL DEFAULT '{}',
    model_max_budget jsonb NOT NULL DEFAULT '{}', created_at timestamp(3) DEFAULT now(),
    updated_at timestamp(3) DEFAULT now());

CREATE TABLE app."LiteLLM_VerificationToken" (
    token text PRIMARY KEY, key_name text, spend double precision NOT NULL DEFAULT 0, expires timestamp(3),
    models text[] DEFAULT '{}', aliases jsonb NOT NULL DEFAULT '{}', config jsonb NOT NULL DEFAULT '{}', user_id text,
    team_id text, permissions jsonb NOT NULL DEFAULT '{}', metadata jsonb NOT NULL DEFAULT '{}',
    max_budget double precision, budget_reset_at timestamp(3), model_spend jsonb NOT NULL DEFAULT '{}',
    model_max_budget jsonb NOT NULL DEFAULT '{}', organization_id text REFERENCES app."LiteLLM_OrganizationTable",
    created_at timestamp(3) DEFAULT now(), updated_at timestamp(3) DEFAULT now());
CREATE INDEX ON app."LiteLLM_VerificationToken" (user_id, team_id);
CREATE INDEX ON app."LiteLLM_VerificationToken" (team_id);
CREATE INDEX ON app."LiteLLM_VerificationToken" (budget_reset_at, expires);

CREATE TABLE app."LiteLLM_SpendLogs" (
    request_id text PRIMARY KEY, call_type text NOT NULL, api_key text NOT NULL DEFAULT '',
    spend double precision NOT NULL DEFAULT 0, total_tokens integer NOT NULL DEFAULT 0,
    prompt_tokens integer NOT NULL DEFAULT 0, completion_tokens integer NOT NULL DEFAULT 0,
    "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL, model text NOT NULL DEFAULT '',
    model_group text DEFAULT '', custom_llm_provider text DEFAULT '', api_base text DEFAULT '', "user" text DEFAULT '',
    metadata jsonb DEFAULT '{}', cache_hit text DEFAULT '', request_tags jsonb DEFAULT '[]', team_id text,
    organization_id text, end_user text, messages jsonb DEFAULT '{}', response jsonb DEFAULT '{}', session_id text,
    status text, proxy_server_request jsonb DEFAULT '{}');
CREATE INDEX ON app."LiteLLM_SpendLogs" ("startTime");
CREATE INDEX ON app."LiteLLM_SpendLogs" ("startTime", request_id);
CREATE INDEX ON app."LiteLLM_SpendLogs" (end_user);
CREATE INDEX ON app."LiteLLM_SpendLogs" (session_id);

INSERT INTO app."LiteLLM_OrganizationTable" (organization_id, organization_alias, budget_id)
SELECT 'org-' || n, 'Organization ' || n, 'budget-' || n FROM generate_series(0, 99) AS n;
INSERT INTO app."LiteLLM_TeamTable" (team_id, team_alias, organization_id)
SELECT 'team-' || n, 'Team ' || n, 'org-' || n % 100 FROM generate_series(0, 999) AS n;
INSERT INTO app."LiteLLM_UserTable" (user_id, user_email, organization_id, teams)
SELECT u.id, u.email, 'org-' || n % 100, ARRAY['team-' || n % 1000]
FROM app.users AS u, CAST(substr(u.id, length('user-') + 1) AS integer) AS n;
INSERT INTO app."LiteLLM_VerificationToken" (token, key_name, user_id, team_id, organization_id)
SELECT encode(sha256(u.user_id::bytea), 'hex'), 'sk-...' || right(u.user_id, 4), u.user_id, u.teams[1], u.organization_id
FROM app."LiteLLM_UserTable" AS u;
RESET ROLE;
VACUUM (FREEZE, ANALYZE);
