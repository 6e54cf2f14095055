-- The condition of the completion triggers: whatever the statuses, however many bindings, wherever the row is, whoever writes it, and whatever has
-- become of the binding, it is true of the rows that become completed and of no other. (DESIGN T15, T40, T41)
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA co;
SET search_path = co, public;
\i common/tables.sql
\i common/try.sql
ALTER TABLE users ADD token_balance bigint NOT NULL DEFAULT 1000;
ALTER TABLE token_usage ADD team_id text DEFAULT 'red';
CREATE TABLE teams (id text PRIMARY KEY, token_balance bigint NOT NULL DEFAULT 1000);
CREATE EXTENSION token_balance SCHEMA co;
CREATE VIEW conditions AS SELECT substring(tgname FROM '[a-z]*$') AS trigger, substring(pg_get_triggerdef(oid) FROM 'WHEN \((.*)\) EXECUTE') AS condition
FROM pg_trigger WHERE tgrelid = 'workflows'::regclass AND tgname LIKE 'token_balance_completed%' ORDER BY 1;
CREATE FUNCTION charged(OUT charged text) LANGUAGE sql AS $$
SELECT string_agg(concat_ws(' ', workflow_id, user_id, charged_tokens), ', ' ORDER BY workflow_id COLLATE "C", user_id) FROM token_balance.settlement WHERE charged_tokens > 0
$$;
-- nine runs, w1 with 1 token, w2 with 2; nothing is attached and nothing known
CREATE PROCEDURE anew() LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM token_usage; DELETE FROM workflows; DELETE FROM users; DELETE FROM teams;
  PERFORM token_balance.reset(name) FROM token_balance.binding WHERE detached_at IS NULL;
  PERFORM token_balance.detach(name => name) FROM token_balance.binding WHERE detached_at IS NULL;
  INSERT INTO users VALUES ('ann'); INSERT INTO teams VALUES ('red');
  INSERT INTO workflows SELECT 'w' || g, 'ann', 'running' FROM generate_series(1, 9) AS g;
  INSERT INTO token_usage SELECT 'w' || g, 'ann', g FROM generate_series(1, 9) AS g;
END $$;
CREATE PROCEDURE attached(statuses text[]) LANGUAGE sql AS $$
SELECT token_balance.attach('users', 'token_usage', 'workflows', completed_statuses => statuses, existing_usage => 'charge') $$;

-- the usual ones are not in the condition, unless they are named in another order
CALL anew();
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
TABLE conditions;
UPDATE workflows SET status = ('{done,Done,completed,over,success,succeeded,finished,done!,""}'::text[])[substr(id, 2)::integer];
SELECT * FROM charged();
UPDATE workflows SET status = 'completed';
SELECT * FROM charged();
CALL anew();
CALL attached('{done,finished,success,succeeded,completed}');
TABLE conditions;

-- others are, after what is in none of them
CALL anew();
CALL attached('{over,failed}');
TABLE conditions;
UPDATE workflows SET status = ('{done,over,"over,failed",",",failed," over",OVER,"",over}'::text[])[substr(id, 2)::integer];
SELECT * FROM charged();
CALL anew();
CALL attached(ARRAY['it''s, over', '!', 'a\b', '']);
TABLE conditions;
UPDATE workflows SET status = (ARRAY['it''s', ' over', 'it''s, over', '!', 'a\b', '', ',', '"', '\'])[substr(id, 2)::integer];
SELECT * FROM charged();
-- of statuses that have all characters no list can be made
CALL anew();
SELECT string_agg(chr(g), '') AS visible FROM generate_series(33, 126) AS g \gset
CALL attached(ARRAY[:'visible', 'over']);
TABLE conditions;
UPDATE workflows SET status = (ARRAY[:'visible', 'over', 'done'])[substr(id, 2)::integer] WHERE id < 'w4';
SELECT * FROM charged();

-- two bindings of one table, by other statuses: the event is of either, and each settles its own
CALL anew();
SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge');
SELECT token_balance.attach('teams', 'token_usage', 'workflows', usage_user => 'team_id', workflow_user => NULL, name => 'teams', completed_statuses => '{over,done}', existing_usage => 'charge');
TABLE conditions;
UPDATE workflows SET status = ('{done,over,completed,running}'::text[])[substr(id, 2)::integer] WHERE id < 'w5';
SELECT * FROM charged();
-- without the first one the condition is the other's
SELECT token_balance.detach(name => 'default');
TABLE conditions;
UPDATE workflows SET status = ('{over,over,over,completed,over}'::text[])[substr(id, 2)::integer] WHERE id < 'w6';
SELECT * FROM charged();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
TABLE conditions;

-- what this transaction has attached holds, and what it has rolled back does not
CALL anew();
CALL attached('{over}');
UPDATE workflows SET status = 'over' WHERE id = 'w1';
BEGIN;
SAVEPOINT a;
SELECT token_balance.detach();
CALL attached('{ended}');
UPDATE workflows SET status = 'ended' WHERE id = 'w2';
UPDATE workflows SET status = 'over' WHERE id = 'w3';
SELECT * FROM charged();
ROLLBACK TO a;
UPDATE workflows SET status = 'ended' WHERE id = 'w4';
UPDATE workflows SET status = 'over' WHERE id = 'w5';
COMMIT;
SELECT * FROM charged();

-- a role that may do nothing but write the table
CREATE ROLE regress_tb_writer;
GRANT USAGE ON SCHEMA co TO regress_tb_writer;
GRANT SELECT, INSERT, UPDATE ON workflows TO regress_tb_writer;
SET ROLE regress_tb_writer;
UPDATE workflows SET status = 'waiting' WHERE id = 'w6';
UPDATE workflows SET status = 'over' WHERE id = 'w7';
INSERT INTO workflows VALUES ('v', 'ann', 'over');
RESET ROLE;
SELECT * FROM charged();

-- the usage is gone: what completes nothing is written all the same
DROP TABLE token_usage CASCADE;
UPDATE workflows SET status = 'waiting' WHERE id = 'w8';
INSERT INTO workflows VALUES ('new', 'ann', 'running');
UPDATE workflows SET status = 'over' WHERE id IN ('w8', 'w9');

-- a bound table that becomes a partition: by whichever name it is written
DROP EXTENSION token_balance CASCADE;
DROP TABLE workflows, users CASCADE;
\i common/tables.sql
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA co;
CREATE TABLE all_workflows (id text, user_id text, status text NOT NULL DEFAULT 'running') PARTITION BY LIST (user_id);
ALTER TABLE all_workflows ATTACH PARTITION workflows FOR VALUES IN ('ann');
INSERT INTO all_workflows SELECT 'w' || g, 'ann' FROM generate_series(1, 6) AS g;
INSERT INTO token_usage SELECT 'w' || g, 'ann', g FROM generate_series(1, 6) AS g;
UPDATE all_workflows SET status = 'done' WHERE id IN ('w1', 'w2');
UPDATE workflows SET status = 'done' WHERE id = 'w3';
SELECT * FROM charged();
ALTER TABLE all_workflows DETACH PARTITION workflows;
UPDATE workflows SET status = 'done' WHERE id = 'w4';
-- and one that other tables inherit from: their rows are not in it
CREATE TABLE others () INHERITS (workflows);
INSERT INTO others VALUES ('w7', 'ann', 'running');
INSERT INTO token_usage VALUES ('w7', 'ann', 7);
UPDATE workflows SET status = 'done' WHERE id IN ('w5', 'w7');
SELECT * FROM charged();

-- a table that becomes a partition of the bound one, with rows, and one that was it
DROP EXTENSION token_balance CASCADE;
DROP TABLE workflows, users, token_usage, all_workflows CASCADE;
\i common/tables.sql
DROP TABLE workflows;
CREATE TABLE workflows (id text, user_id text, status text NOT NULL DEFAULT 'running') PARTITION BY RANGE (id);
CREATE TABLE workflows_v PARTITION OF workflows FOR VALUES FROM ('v') TO ('w');
CREATE TABLE workflows_w (status text NOT NULL, dropped integer, id text, user_id text);
ALTER TABLE workflows_w DROP dropped;
INSERT INTO workflows_w SELECT 'running', 'w' || g, 'ann' FROM generate_series(1, 5) AS g;
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA co;
INSERT INTO token_usage SELECT 'w' || g, 'ann', g FROM generate_series(1, 5) AS g;
UPDATE workflows_w SET status = 'done' WHERE id = 'w1';
SELECT * FROM charged();
ALTER TABLE workflows ATTACH PARTITION workflows_w FOR VALUES FROM ('w') TO ('x');
UPDATE workflows SET status = 'done' WHERE id IN ('w2', 'w3');
UPDATE workflows_w SET status = 'done' WHERE id = 'w4';
SELECT * FROM charged();
ALTER TABLE workflows DETACH PARTITION workflows_w;
UPDATE workflows_w SET status = 'done' WHERE id = 'w5';
SELECT * FROM charged();
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA co CASCADE;
DROP ROLE regress_tb_writer;
