-- (DESIGN P13, T9, T10, T11, T12, T13) A statement that completes many runs is settled as one: one UPDATE per account. Savepoints, deferred triggers,
-- partitions, usage that is added meanwhile, and calls of note_completion by hand change no sum.
\set SHOW_CONTEXT never
CREATE SCHEMA os;
SET search_path = os, public;
SET client_min_messages = warning;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text, status text DEFAULT 'running', part integer DEFAULT 1) PARTITION BY LIST (part);
CREATE TABLE workflows_1 PARTITION OF workflows FOR VALUES IN (1);
CREATE TABLE workflows_2 PARTITION OF workflows FOR VALUES IN (2);
CREATE INDEX ON workflows (id);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA os;
-- how often a balance was updated
CREATE TABLE updates (id text, tokens integer);
CREATE FUNCTION count_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO os.updates VALUES (NEW.id, OLD.token_balance - NEW.token_balance); RETURN NULL; END $$;
CREATE TRIGGER zz_count AFTER UPDATE ON users FOR EACH ROW EXECUTE FUNCTION count_update();
CREATE FUNCTION state() RETURNS TABLE (charged text, balances text, updated text, wrong bigint) LANGUAGE sql AS $$
SELECT (SELECT string_agg(workflow_id || ' ' || user_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id COLLATE "C", user_id) FROM token_balance.settlement),
  (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM os.users),
  (SELECT string_agg(id || ' ' || tokens, ', ' ORDER BY id, tokens) FROM os.updates),
  (SELECT count(*) FROM token_balance.reconcile())
$$;
CREATE FUNCTION fill(name text, runs integer) RETURNS void LANGUAGE sql AS $$
INSERT INTO os.workflows SELECT name || g, 'running', 1 + g % 2 FROM generate_series(1, runs) g;
INSERT INTO os.token_usage SELECT name || g, u, 10 FROM generate_series(1, runs) g, unnest('{ann,bob}'::text[]) u;
$$;

-- several runs, several partitions, the rows against the order of ids: one UPDATE per account
SELECT fill('a', 3);
UPDATE workflows SET status = 'completed';
SELECT * FROM state();
SELECT user_id, workflow_id, amount, previous_balance, new_balance FROM token_balance.ledger ORDER BY user_id, entry_id;
TRUNCATE updates;

-- directly in a partition, by INSERT, by COPY, moved to another partition as it completes
SELECT fill('b', 2);
UPDATE workflows_1 SET status = 'completed' WHERE id LIKE 'b%';
UPDATE workflows SET status = 'completed', part = 1 WHERE id LIKE 'b%' AND status = 'running';
INSERT INTO token_usage VALUES ('c1', 'ann', 1), ('c2', 'ann', 1), ('c3', 'bob', 1), ('c4', 'bob', 1);
INSERT INTO workflows VALUES ('c1', 'completed', 1), ('c2', 'done', 2), ('c5', 'running', 1);
COPY workflows (id, status) FROM stdin;
c3	completed
c4	failed
\.
SELECT * FROM state();
TRUNCATE updates;

-- a savepoint that is rolled back takes its notes along, also where only the firing was inside
SELECT fill('d', 3);
BEGIN;
SAVEPOINT one;
UPDATE workflows SET status = 'completed' WHERE id IN ('d1', 'd2');
ROLLBACK TO one;
UPDATE workflows SET status = 'completed' WHERE id = 'd3';
SELECT charged FROM state();
SET CONSTRAINTS ALL DEFERRED;
UPDATE workflows SET status = 'completed' WHERE id = 'd2';
SAVEPOINT two;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT charged FROM state();
ROLLBACK TO two;
UPDATE workflows SET status = 'completed' WHERE id = 'd1';
INSERT INTO token_usage VALUES ('d1', 'ann', 1), ('d2', 'ann', 2), ('d3', 'ann', 4);
SELECT charged FROM state();
COMMIT;
-- d3 was settled before its last usage came
SELECT * FROM state();
SELECT token_balance.settle_pending();
TRUNCATE updates;

-- an error in one of many: none is settled, and the session goes on
SELECT fill('e', 3);
ALTER TABLE users ADD CONSTRAINT enough CHECK (token_balance > 999900 OR users IS NULL);
UPDATE workflows SET status = 'completed' WHERE id LIKE 'e%';
ALTER TABLE users DROP CONSTRAINT enough;
UPDATE workflows SET status = 'completed' WHERE id = 'e2';
SELECT * FROM state();
TRUNCATE updates;

-- triggers of the application that add usage while the rows' events fire, and that keep a row as it is
CREATE FUNCTION last_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO os.token_usage VALUES (NEW.id, 'ann', 5); RETURN NULL; END $$;
CREATE TRIGGER add_usage AFTER UPDATE ON workflows FOR EACH ROW WHEN (NEW.id LIKE 'f%') EXECUTE FUNCTION last_call();
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER zz_keep BEFORE UPDATE ON workflows FOR EACH ROW WHEN (NEW.id = 'f2') EXECUTE FUNCTION keep();
SELECT fill('f', 3);
UPDATE workflows SET status = 'completed' WHERE id LIKE 'f%';
SELECT charged FROM state();
DROP TRIGGER add_usage ON workflows;
DROP TRIGGER zz_keep ON workflows;
SELECT * FROM token_balance.reconcile();
TRUNCATE updates;

-- note_completion by hand: of rows that are not there, of others' tables, of rows that are not completed, of one
-- that another transaction wrote. Nothing is settled by it but what this transaction completed.
SELECT fill('g', 4);
CREATE TABLE other (id text, status text);
INSERT INTO other VALUES ('g3', 'completed');
BEGIN;
SELECT token_balance.note_completion('workflows'::regclass, '(0,1)'), token_balance.note_completion('workflows_1'::regclass, '(0,0)'),
  token_balance.note_completion('workflows_1'::regclass, '(4294967294,1)'), token_balance.note_completion('workflows_2'::regclass, '(0,65535)'),
  token_balance.note_completion('other'::regclass, '(0,1)'), token_balance.note_completion(0, '(0,1)'), token_balance.note_completion(NULL, NULL);
SELECT count(token_balance.note_completion(tableoid, ctid)) FROM workflows WHERE id LIKE 'g%';
UPDATE workflows SET part = part WHERE id = 'g3';
SELECT token_balance.note_completion(tableoid, ctid) FROM workflows WHERE id = 'g3';
UPDATE workflows SET status = 'completed' WHERE id = 'g1';
SELECT * FROM state();
COMMIT;
-- note_status by hand
BEGIN;
SELECT count(*) FILTER (WHERE token_balance.note_status('running', 'done', '{done}'::text[], tableoid, ctid)) AS noted FROM workflows WHERE id LIKE 'g%';
SELECT count(*) FILTER (WHERE token_balance.note_status('running', 'done', ',done', tableoid, ctid)) AS noted FROM workflows WHERE id LIKE 'g%';
SELECT count(*) FILTER (WHERE token_balance.note_usual_status('running', 'done', tableoid, ctid)) AS noted FROM workflows WHERE id LIKE 'g%';
SELECT token_balance.note_status(NULL, NULL, NULL::text[], NULL, NULL), token_balance.note_status(NULL, 'x', '{{x,y},{z,x}}'::text[], 0, '(0,1)'),
  token_balance.note_usual_status(NULL, NULL, NULL, NULL), token_balance.note_usual_status(NULL, 'done', NULL, NULL);
SELECT * FROM state();
COMMIT;
-- a note without an event is gone with its transaction
UPDATE workflows SET status = 'completed' WHERE id = 'g2';
SELECT * FROM state();
\d workflows_1
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA os CASCADE;
