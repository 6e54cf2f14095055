-- Helicone (Supabase, 2024-05): a response has the tokens, and comes after its request. Policies are enabled for others than the owner.
-- expects: users => 'public.organization' usage => 'public.response' usage_user => 'helicone_org_id' usage_workflow => 'request' late_usage => 'settle'
-- account: SELECT md5('org1')::uuid
-- run: 0e11c0de-0000-0000-0000-000000000001
-- use: INSERT INTO request (id, body, path, auth_hash, helicone_org_id) VALUES (:'run', '{}', '/v1', '', :'account'); INSERT INTO response (body, request, prompt_tokens, completion_tokens, helicone_org_id) VALUES ('{}', :'run', 70, 30, :'account')
-- again: UPDATE request SET user_id = 'visitor' WHERE id = :'run'; UPDATE response SET feedback = '{}' WHERE request = :'run'
-- more: UPDATE response SET completion_tokens = completion_tokens + 5 WHERE request = :'run'
-- migrate: ALTER TABLE response ADD COLUMN prompt_cache_write_tokens integer; ALTER TABLE response ALTER COLUMN prompt_tokens TYPE bigint
-- away: INSERT INTO request (id, body, path, auth_hash, helicone_org_id) VALUES ('0e11c0de-0000-0000-0000-000000000002', '{}', '/v1', '', :'account'); INSERT INTO response (body, request, prompt_tokens, completion_tokens, helicone_org_id) VALUES ('{}', '0e11c0de-0000-0000-0000-000000000002', 4, 3, :'account')
CREATE TABLE organization (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), created_at timestamptz DEFAULT now(), name text NOT NULL, owner uuid NOT NULL, is_personal boolean NOT NULL DEFAULT false, soft_delete boolean NOT NULL DEFAULT false, tier text DEFAULT 'free', domain text);
ALTER TABLE organization ENABLE ROW LEVEL SECURITY;
CREATE TABLE organization_member (created_at timestamptz DEFAULT now(), member uuid NOT NULL, organization uuid NOT NULL REFERENCES organization, PRIMARY KEY (member, organization));
CREATE TABLE helicone_api_keys (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, created_at timestamptz DEFAULT now(), user_id uuid NOT NULL, api_key_hash text NOT NULL, api_key_name text NOT NULL, soft_delete boolean NOT NULL DEFAULT false, organization_id uuid NOT NULL REFERENCES organization);
CREATE TABLE request (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), created_at timestamptz DEFAULT now(), body jsonb NOT NULL, path text NOT NULL, auth_hash text NOT NULL, user_id text, prompt_id text, properties jsonb, helicone_user uuid, helicone_api_key_id bigint REFERENCES helicone_api_keys, helicone_org_id uuid REFERENCES organization, provider text, model text, UNIQUE (id, helicone_org_id));
CREATE TABLE response (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), created_at timestamptz DEFAULT now(), body jsonb NOT NULL, request uuid NOT NULL REFERENCES request, delay_ms integer, status integer, completion_tokens integer, prompt_tokens integer, model text, feedback jsonb, helicone_org_id uuid, UNIQUE (request, helicone_org_id));
ALTER TABLE response ENABLE ROW LEVEL SECURITY;
CREATE INDEX ON response (request);
CREATE INDEX ON response (created_at);
CREATE TABLE cache_hits (created_at timestamptz DEFAULT now(), request_id uuid NOT NULL REFERENCES request, organization_id uuid, PRIMARY KEY (request_id, created_at));

INSERT INTO organization (id, name, owner) SELECT md5('org' || i)::uuid, 'o' || i, md5('u' || i)::uuid FROM generate_series(1, 3) i;
INSERT INTO request (id, body, path, auth_hash, helicone_org_id) SELECT md5('q' || i)::uuid, '{}', '/v1', '', md5('org' || 1 + i % 3)::uuid FROM generate_series(1, 30) i;
INSERT INTO response (body, request, status, prompt_tokens, completion_tokens, model, helicone_org_id) SELECT '{}', id, 200, 70, 30, 'gpt-4o', helicone_org_id FROM request;
