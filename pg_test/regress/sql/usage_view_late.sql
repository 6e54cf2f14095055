-- Late usage that a view shows is settled at once where it is written to the tables that late_usage_on names (DESIGN G12, G13, G14).
\set SHOW_CONTEXT never
CREATE SCHEMA ul;
SET search_path = ul, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA ul;
\i common/try.sql
CREATE TABLE orgs (id text PRIMARY KEY);
CREATE TABLE keys (id integer PRIMARY KEY, org_id text NOT NULL);
CREATE TABLE runs (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
CREATE TABLE messages (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run_id text, key_id integer, kind text DEFAULT 'llm', usage jsonb, note text);
CREATE TABLE "Tool Calls" (number integer PRIMARY KEY, run_id text, org_id text, units integer) PARTITION BY RANGE (number);
CREATE TABLE calls_1 PARTITION OF "Tool Calls" FOR VALUES FROM (0) TO (100);
CREATE TABLE calls_2 PARTITION OF "Tool Calls" FOR VALUES FROM (100) TO (200);
CREATE INDEX ON messages (run_id);
CREATE INDEX ON "Tool Calls" (run_id);
CREATE VIEW all_usage AS
    SELECT m.run_id AS workflow_id, k.org_id AS user_id, (m.usage ->> 'tokens')::integer AS total_tokens, m.id, NULL::integer AS call
    FROM messages AS m JOIN keys AS k ON k.id = m.key_id WHERE m.kind = 'llm'
    UNION ALL
    SELECT c.run_id, c.org_id, c.units * 10, NULL, c.number FROM "Tool Calls" AS c;
INSERT INTO orgs VALUES ('acme'), ('bolt');
INSERT INTO keys VALUES (1, 'acme'), (2, 'bolt');
INSERT INTO runs SELECT 'r' || g FROM generate_series(1, 9) AS g;

-- how it is said
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{messages}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{runs(id)}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{nothing(id)}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{messages(key)}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{messages(usage AS call)}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'messages', usage_workflow => 'run_id', usage_user => NULL, usage_tokens => '{id}', workflows => 'runs', workflow_user => 'id', late_usage_on => '{messages(id)}')$$);
SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => ARRAY['messages(id)', '"Tool Calls"(number AS call)']);
SELECT late_usage_on FROM token_balance.binding WHERE detached_at IS NULL;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0 ORDER BY 1, 2;

-- usage of runs that are open, then what is late: an insert, an update, an upsert, a filter that lets it in, an account that comes later
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 1, '{"tokens": 100}'), ('r2', 2, '{"tokens": 20}');
SELECT sum(token_balance) FROM orgs;
UPDATE runs SET status = 'done' WHERE id IN ('r1', 'r2');
SELECT * FROM orgs ORDER BY id;
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 2, '{"tokens": 3}');
UPDATE messages SET usage = '{"tokens": 150}' WHERE id = 1;
INSERT INTO "Tool Calls" VALUES (1, 'r2', 'acme', 1);
INSERT INTO "Tool Calls" VALUES (1, 'r2', 'acme', 5) ON CONFLICT (number) DO UPDATE SET units = EXCLUDED.units;
SELECT * FROM orgs ORDER BY id;
INSERT INTO messages (run_id, key_id, kind, usage) VALUES ('r1', 1, 'debug', '{"tokens": 1000}');
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', NULL, '{"tokens": 7}');
SELECT * FROM orgs ORDER BY id;
UPDATE messages SET kind = 'llm' WHERE kind = 'debug';
UPDATE messages SET key_id = 2 WHERE key_id IS NULL;
SELECT * FROM orgs ORDER BY id;
-- many rows of many runs in one statement; a row that moves to another partition; what says nothing of usage
INSERT INTO "Tool Calls" SELECT g, 'r' || 1 + g % 2, 'bolt', 1 FROM generate_series(2, 9) AS g;
UPDATE "Tool Calls" SET number = number + 100, units = 2 WHERE number IN (2, 3);
UPDATE messages SET note = 'read';
SELECT * FROM orgs ORDER BY id;
-- a row that goes to another run that is over
UPDATE runs SET status = 'done' WHERE id = 'r3';
INSERT INTO messages (run_id, key_id, usage) VALUES ('r4', 1, '{"tokens": 1}');
UPDATE messages SET run_id = 'r3' WHERE run_id = 'r4';
SELECT * FROM orgs ORDER BY id;
-- what cannot be computed keeps no row from being written
INSERT INTO messages (run_id, key_id, usage) VALUES ('r3', 1, '{"tokens": "some"}');
UPDATE messages SET usage = '{"tokens": 9}' WHERE usage ->> 'tokens' = 'some';
SELECT * FROM orgs ORDER BY id;
SELECT problem FROM token_balance.reconcile();
SELECT state, tokens FROM token_balance.usage_state() ORDER BY 1;
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'late%' OR NOT ok ORDER BY 1, 3;

-- two views of one table: by one column
CREATE VIEW of_keys AS SELECT run_id AS workflow_id, key_id AS user_id, 1 AS total_tokens, id, length(note) AS size FROM messages;
CALL pg_temp.try($$SELECT token_balance.attach('keys', 'of_keys', 'runs', late_usage => 'settle', late_usage_on => '{messages(key_id AS size)}', name => 'keys')$$);
SELECT token_balance.attach('keys', 'of_keys', 'runs', late_usage => 'settle', late_usage_on => '{messages(id)}', name => 'keys');
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 1, '{"tokens": 1}');
SELECT id, token_balance FROM keys ORDER BY id;
SELECT * FROM orgs ORDER BY id;
CALL pg_temp.try($$SELECT token_balance.attach('orgs', 'messages', 'runs', usage_workflow => 'run_id', usage_user => 'note', usage_tokens => '{key_id}', late_usage => 'settle', name => 'direct')$$);
-- the triggers stay for the other one
SELECT token_balance.detach(name => 'default');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0 ORDER BY 1, 2;
SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => ARRAY['messages(id)', '"Tool Calls"(number AS call)']);
SELECT token_balance.detach(name => 'keys');
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0;

-- renamed: table and column are the same ones, also where another column takes the name
ALTER TABLE "Tool Calls" RENAME TO tools;
INSERT INTO tools VALUES (20, 'r1', 'acme', 1);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'late usage';
ALTER TABLE messages RENAME id TO key;
ALTER TABLE messages ADD id bigint DEFAULT 0;
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 1, '{"tokens": 1}');
SELECT state, tokens FROM token_balance.usage_state() WHERE state = 'waiting';
SELECT token_balance.attach_again();
SELECT late_usage_on FROM token_balance.binding WHERE detached_at IS NULL;
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 1, '{"tokens": 1}');
SELECT state, tokens FROM token_balance.usage_state() WHERE state = 'waiting';
-- a table that the view has left is told, and its late rows are none of the view's
BEGIN;
CREATE OR REPLACE VIEW all_usage AS
    SELECT m.run_id AS workflow_id, k.org_id AS user_id, (m.usage ->> 'tokens')::integer AS total_tokens, m.key AS id, NULL::integer AS call
    FROM messages AS m JOIN keys AS k ON k.id = m.key_id WHERE m.kind = 'llm';
INSERT INTO tools VALUES (21, 'r1', 'acme', 1);
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE name LIKE 'late usage';
ROLLBACK;
SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{messages(key AS id),tools(number AS call)}');
INSERT INTO messages (run_id, key_id, usage) VALUES ('r1', 1, '{"tokens": 2}');
SELECT state, tokens FROM token_balance.usage_state() WHERE state = 'waiting';
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
-- one of them alone, then none; a view that is gone
SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{tools(number AS call)}');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0 ORDER BY 1, 2;
SELECT token_balance.attach('orgs', 'all_usage', 'runs');
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0;
SELECT token_balance.attach('orgs', 'all_usage', 'runs', late_usage => 'settle', late_usage_on => '{tools(number AS call)}');
DROP VIEW all_usage;
INSERT INTO tools VALUES (30, 'r1', 'acme', 1);
SELECT token_balance.detach();
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'token_balance_%usage' AND tgparentid = 0;
DROP SCHEMA ul CASCADE;
