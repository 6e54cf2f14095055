-- Usage from a view: JSON, factors, filters, a payer through joins, two tables (DESIGN B20, B21, B22, B23, B24, B25, B26, B27, B28, B29, B30).
\set SHOW_CONTEXT never
CREATE SCHEMA uv;
SET search_path = uv, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA uv;
\i common/try.sql
CREATE TABLE orgs (id text PRIMARY KEY);
CREATE TABLE projects (id integer PRIMARY KEY, org_id text NOT NULL REFERENCES orgs);
CREATE TABLE keys (id integer PRIMARY KEY, project_id integer NOT NULL REFERENCES projects);
CREATE TABLE runs (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text, key_id integer REFERENCES keys, type integer, usage jsonb, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE tool_calls (run_id text, org_id text, units integer, unit text, created_at timestamptz NOT NULL DEFAULT now());
CREATE VIEW all_usage AS
    SELECT m.run_id AS workflow_id, p.org_id AS user_id, (m.usage ->> 'total_tokens')::integer AS total_tokens, m.usage ->> 'model' AS model, m.created_at
    FROM messages AS m JOIN keys AS k ON k.id = m.key_id JOIN projects AS p ON p.id = k.project_id WHERE m.type = 2
    UNION ALL
    SELECT t.run_id, t.org_id, t.units * 3, 'tool', t.created_at FROM tool_calls AS t WHERE t.unit = 'TOKENS';
INSERT INTO orgs VALUES ('acme'), ('bolt');
INSERT INTO projects VALUES (1, 'acme'), (2, 'bolt');
INSERT INTO keys VALUES (10, 1), (11, 1), (20, 2);
INSERT INTO runs SELECT 'r' || g FROM generate_series(0, 9) AS g;
-- from before: 50
INSERT INTO messages (run_id, key_id, type, usage) VALUES ('r0', 10, 2, '{"total_tokens": 50}');


-- what a view cannot have
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', create_index => true)$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle')$$);
SET client_min_messages = notice;
SELECT token_balance.attach('orgs', 'all_usage', 'runs');
SET client_min_messages = warning;

-- messages of another type and units of another kind are none: acme 100 + 200 + 3 * 7, bolt 40
INSERT INTO messages (run_id, key_id, type, usage) VALUES ('r1', 10, 2, '{"total_tokens": 100, "model": "m"}'), ('r1', 11, 2, '{"total_tokens": 200}'),
    ('r1', 20, 2, '{"total_tokens": 40}'), ('r1', 20, 1, '{"total_tokens": 4000}');
INSERT INTO tool_calls VALUES ('r1', 'acme', 7, 'TOKENS'), ('r1', 'acme', 7000, 'BYTES');
UPDATE runs SET status = 'completed' WHERE id IN ('r0', 'r1');
SELECT * FROM orgs ORDER BY id;
-- once
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
-- late usage waits for the sweep
INSERT INTO tool_calls VALUES ('r1', 'bolt', 5, 'TOKENS');
SELECT state, tokens FROM token_balance.usage_state() ORDER BY state;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
-- a batch, and the function for a run that is not completed
INSERT INTO tool_calls SELECT 'r' || g, 'acme', 1, 'TOKENS' FROM generate_series(2, 4) AS g;
SELECT workflow_id, user_id, charged_tokens FROM token_balance.settle_workflows('{r3,r2}') ORDER BY 1;
UPDATE runs SET status = 'done' WHERE id IN ('r2', 'r3', 'r4');
SELECT * FROM orgs ORDER BY id;
SELECT problem FROM token_balance.reconcile();
SELECT jsonb_pretty(token_balance.summary('bolt') #- '{recent_records}');

-- which table wants an index
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'usage%' OR NOT ok;
CREATE INDEX ON messages (run_id);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'usage%' OR NOT ok;
CREATE INDEX ON tool_calls (run_id);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'usage%' OR NOT ok;

-- what is renamed is the same view
ALTER TABLE messages RENAME TO chat_messages;
ALTER TABLE chat_messages RENAME COLUMN run_id TO run;
ALTER VIEW all_usage RENAME COLUMN total_tokens TO tokens;
INSERT INTO tool_calls VALUES ('r5', 'bolt', 1, 'TOKENS');
INSERT INTO chat_messages (run, key_id, type, usage) VALUES ('r5', 20, 2, '{"total_tokens": 2}');
UPDATE runs SET status = 'completed' WHERE id = 'r5';
INSERT INTO chat_messages (run, key_id, type, usage) VALUES ('r5', 20, 2, '{"total_tokens": 10}');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
SELECT * FROM orgs ORDER BY id;

-- a view that was replaced: what was settled looks new. The factor is 4: acme 7 + 3 * 1, bolt 5 + 1
CREATE OR REPLACE VIEW all_usage AS
    SELECT m.run AS workflow_id, p.org_id AS user_id, (m.usage ->> 'total_tokens')::integer AS tokens, m.usage ->> 'model' AS model, m.created_at
    FROM chat_messages AS m JOIN keys AS k ON k.id = m.key_id JOIN projects AS p ON p.id = k.project_id WHERE m.type = 2
    UNION ALL
    SELECT t.run_id, t.org_id, t.units * 4, 'tool', t.created_at FROM tool_calls AS t WHERE t.unit = 'TOKENS';
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
CALL pg_temp.try($$SELECT token_balance.exempt_pending()$$);
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
BEGIN;
INSERT INTO tool_calls VALUES ('r6', 'acme', 1000, 'TOKENS');
UPDATE runs SET status = 'completed' WHERE id = 'r6';
SELECT * FROM orgs ORDER BY id;
-- a run that was settled is not charged the difference by whoever settles it
INSERT INTO tool_calls VALUES ('r1', 'acme', 1, 'TOKENS');
UPDATE runs SET status = 'running' WHERE id = 'r1';
UPDATE runs SET status = 'completed' WHERE id = 'r1';
SAVEPOINT s;
SELECT settle_workflow('r1');
ROLLBACK TO s;
SELECT * FROM orgs ORDER BY id;
SET client_min_messages = notice;
SELECT token_balance.attach_again();
SET client_min_messages = warning;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM orgs ORDER BY id;
ROLLBACK;
-- the old one again
CREATE OR REPLACE VIEW all_usage AS
    SELECT m.run AS workflow_id, p.org_id AS user_id, (m.usage ->> 'total_tokens')::integer AS tokens, m.usage ->> 'model' AS model, m.created_at
    FROM chat_messages AS m JOIN keys AS k ON k.id = m.key_id JOIN projects AS p ON p.id = k.project_id WHERE m.type = 2
    UNION ALL
    SELECT t.run_id, t.org_id, t.units * 3, 'tool', t.created_at FROM tool_calls AS t WHERE t.unit = 'TOKENS';
SET client_min_messages = notice;
SELECT token_balance.attach_again();
SET client_min_messages = warning;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT problem FROM token_balance.reconcile();
-- made anew, with a column more between the others
DROP VIEW all_usage;
INSERT INTO tool_calls VALUES ('r7', 'acme', 100, 'TOKENS');
-- a migration makes views anew: runs complete and wait
UPDATE runs SET status = 'completed' WHERE id = 'r7';
CALL pg_temp.try($$SELECT settle_workflow('r7')$$);
CREATE VIEW all_usage AS
    SELECT m.run AS workflow_id, m.id, p.org_id AS user_id, (m.usage ->> 'total_tokens')::integer AS tokens, m.created_at
    FROM chat_messages AS m JOIN keys AS k ON k.id = m.key_id JOIN projects AS p ON p.id = k.project_id WHERE m.type = 2
    UNION ALL
    SELECT t.run_id, NULL, t.org_id, t.units * 3, t.created_at FROM tool_calls AS t WHERE t.unit = 'TOKENS';
SELECT token_balance.attach('orgs', 'all_usage', 'runs', usage_tokens => '{tokens}');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM orgs ORDER BY id;
SELECT problem FROM token_balance.reconcile();
-- detached and attached again
SELECT token_balance.detach();
INSERT INTO tool_calls VALUES ('r8', 'bolt', 2, 'TOKENS');
UPDATE runs SET status = 'completed' WHERE id = 'r8';
SELECT token_balance.attach('orgs', 'all_usage', 'runs', usage_tokens => '{tokens}');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;

-- a value that cannot be computed stops no run; the others of the statement are charged
BEGIN;
INSERT INTO runs VALUES ('x1', 'running'), ('x2', 'running'), ('x3', 'running');
INSERT INTO chat_messages (run, key_id, type, usage) VALUES ('x1', 10, 2, '{"total_tokens": 1}'), ('x2', 10, 2, '{"total_tokens": "many"}'),
    ('x2', 10, 2, '{"total_tokens": 20}'), ('x3', 10, 2, '{"total_tokens": 3}');
UPDATE runs SET status = 'completed' WHERE id = 'x2';
UPDATE runs SET status = 'completed' WHERE id LIKE 'x%' AND status = 'running';
SELECT * FROM orgs ORDER BY id;
CALL pg_temp.try($$SELECT settle_workflow('x2')$$);
-- nor the sweep: late usage of the others is charged, once
INSERT INTO chat_messages (run, key_id, type, usage) VALUES ('x1', 10, 2, '{"total_tokens": 1000}'), ('x3', 20, 2, '{"total_tokens": 3000}');
SELECT token_balance.settle_pending();
SELECT token_balance.settle_pending(max_workflows => 1);
CALL pg_temp.try($$SELECT * FROM token_balance.usage_state()$$);
CALL pg_temp.try($$SELECT * FROM token_balance.reconcile()$$);
SELECT * FROM orgs ORDER BY id;
UPDATE chat_messages SET usage = '{"total_tokens": 200}' WHERE usage ->> 'total_tokens' = 'many';
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT problem FROM token_balance.reconcile();
ROLLBACK;

INSERT INTO runs VALUES ('x4', 'done'), ('x5', 'done');
INSERT INTO chat_messages (run, key_id, type, usage) VALUES ('x4', 10, 2, '{"total_tokens": "some"}'), ('x5', 10, 2, '{"total_tokens": 5}');
CALL token_balance.settle_backlog();
SELECT * FROM orgs ORDER BY id;
DELETE FROM chat_messages WHERE run = 'x4';
-- a policy would hide usage: runs complete and wait
CREATE ROLE uv_owner;
CREATE ROLE uv_other;
GRANT USAGE, CREATE ON SCHEMA uv TO uv_owner, uv_other;
ALTER TABLE orgs OWNER TO uv_owner;
ALTER TABLE runs OWNER TO uv_owner;
CALL pg_temp.try($$SELECT settle_workflow('r8')$$);
ALTER VIEW all_usage OWNER TO uv_other;
INSERT INTO tool_calls VALUES ('r9', 'bolt', 1, 'TOKENS');
UPDATE runs SET status = 'completed' WHERE id = 'r9';
ALTER VIEW all_usage OWNER TO uv_owner;
-- nor do they fail because a table may not be read any more
GRANT SELECT ON chat_messages, projects, tool_calls TO uv_owner;
UPDATE runs SET status = 'running' WHERE id = 'r9';
UPDATE runs SET status = 'completed' WHERE id = 'r9';
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
GRANT SELECT (id, project_id) ON keys TO uv_owner;
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
GRANT SELECT ON keys TO uv_owner;
ALTER TABLE tool_calls ENABLE ROW LEVEL SECURITY;
UPDATE runs SET status = 'running' WHERE id = 'r9';
UPDATE runs SET status = 'completed' WHERE id = 'r9';
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT * FROM orgs ORDER BY id;
-- the table's owner sees all of it
ALTER TABLE tool_calls OWNER TO uv_owner;
ALTER TABLE tool_calls FORCE ROW LEVEL SECURITY;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM orgs ORDER BY id;
SELECT problem FROM token_balance.reconcile();
SELECT token_balance.detach();

-- what is not the same for everybody, or at every moment
CREATE FUNCTION weight(integer) RETURNS integer LANGUAGE sql RETURN 2;
CREATE FUNCTION steady(integer) RETURNS integer IMMUTABLE LANGUAGE sql RETURN 2;
CREATE VIEW below AS SELECT run_id, org_id, weight(units) AS units FROM tool_calls;
CREATE VIEW volatile AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM below;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'volatile')$$);
CREATE VIEW of_now AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls WHERE created_at < now();
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_now')$$);
CREATE VIEW of_zone AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls WHERE created_at::date > '2020-01-01';
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_zone')$$);
CREATE VIEW of_user AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls WHERE unit = CURRENT_USER;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_user')$$);
CREATE VIEW of_setting AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls WHERE unit = current_setting('my.unit', true);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_setting')$$);
CREATE VIEW of_text AS SELECT concat(run_id, created_at) AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_text')$$);
CREATE VIEW of_cast AS SELECT run_id || created_at AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_cast')$$);
CREATE VIEW of_conversion AS SELECT run_id || ' ' || created_at::text AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_conversion')$$);
CREATE VIEW of_sample AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls TABLESAMPLE SYSTEM (50);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_sample')$$);
CREATE VIEW of_some AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls LIMIT 3;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_some')$$);
CREATE VIEW of_place AS SELECT ctid::text AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_place')$$);
-- what a view may read
CREATE MATERIALIZED VIEW frozen AS SELECT run_id AS workflow_id, org_id AS user_id, units AS total_tokens FROM tool_calls;
CREATE VIEW of_frozen AS SELECT * FROM frozen;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'of_frozen')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'frozen')$$);
-- a constant time zone is the same for everybody
CREATE VIEW right_one AS SELECT run_id AS workflow_id, org_id AS user_id, steady(units) AS total_tokens FROM tool_calls
    WHERE (created_at AT TIME ZONE 'UTC')::date > '2020-01-01';
ALTER VIEW right_one OWNER TO uv_owner;
SELECT token_balance.attach('orgs', 'right_one', 'runs', usage_ids => 'new');
-- a function of it is replaced, and the sweep stops
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
CREATE OR REPLACE FUNCTION steady(integer) RETURNS integer IMMUTABLE LANGUAGE sql RETURN 3;
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.attach_again();
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
-- and is so no more
CREATE OR REPLACE FUNCTION steady(integer) RETURNS integer VOLATILE LANGUAGE sql RETURN 2;
CREATE OR REPLACE VIEW right_one AS SELECT run_id AS workflow_id, org_id AS user_id, steady(units) AS total_tokens FROM tool_calls;
UPDATE runs SET status = 'running' WHERE id = 'r9';
UPDATE runs SET status = 'completed' WHERE id = 'r9';
DROP SCHEMA uv CASCADE;
DROP ROLE uv_owner;
DROP ROLE uv_other;
