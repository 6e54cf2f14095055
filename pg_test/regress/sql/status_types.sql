-- Runs whose status is a boolean or a number (DESIGN T16, T17).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA st;
SET search_path = st, public;
\i common/try.sql
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE DOMAIN code AS smallint;
CREATE TABLE runs (id text PRIMARY KEY, user_id text, is_done boolean, state integer, code code, big bigint, since date, label text);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA st;
CREATE FUNCTION charged(OUT charged text) LANGUAGE sql AS $$SELECT string_agg(workflow_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id COLLATE "C") FROM token_balance.settlement WHERE charged_tokens > 0$$;
CREATE FUNCTION anew() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM token_usage; DELETE FROM runs; DELETE FROM users;
  PERFORM token_balance.reset();
  PERFORM token_balance.detach(true);
  INSERT INTO users VALUES ('ann');
END $$;

-- a boolean: true completes, if nothing is said
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done');
SELECT completed_statuses FROM token_balance.binding;
INSERT INTO token_usage SELECT 'w' || n, 'ann', 10 ^ n FROM generate_series(0, 4) AS n;
INSERT INTO runs (id, is_done) VALUES ('w0', true), ('w1', false), ('w2', NULL), ('w3', false), ('w4', NULL);
SELECT * FROM charged();
UPDATE runs SET is_done = true WHERE id = 'w1';
UPDATE runs SET is_done = 't' WHERE id IN ('w2', 'w3');
SELECT * FROM charged();
-- one that stays completed is not settled anew, one that opens and completes again is
INSERT INTO token_usage VALUES ('w1', 'ann', 5);
UPDATE runs SET is_done = true WHERE id = 'w1';
SELECT * FROM charged();
UPDATE runs SET is_done = false WHERE id = 'w1';
UPDATE runs SET is_done = true WHERE id = 'w1';
SELECT * FROM charged();
-- the sweep, the state and verify go by the same rule
ALTER TABLE runs DISABLE TRIGGER USER;
UPDATE runs SET is_done = true WHERE id = 'w4';
ALTER TABLE runs ENABLE TRIGGER USER;
SELECT state, reason, tokens FROM token_balance.usage_state();
SELECT token_balance.settle_pending() -> 'tokens_used' AS swept;
INSERT INTO runs (id, is_done) VALUES ('open', false);
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE 'statuses%';
-- the same again, however it is spelled; another one is another binding
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', completed_statuses => '{t," TRUE ",on,1,yes}');
SELECT token_balance.attach_again();
SELECT completed_statuses FROM token_balance.binding;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', completed_statuses => '{f}')$$);
SELECT anew();
-- false completes: a column that says whether the run is running
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', completed_statuses => '{f,maybe}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', completed_statuses => '{}')$$);
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', completed_statuses => '{f}');
INSERT INTO token_usage VALUES ('a', 'ann', 1), ('b', 'ann', 2);
INSERT INTO runs (id, is_done) VALUES ('a', true), ('b', true);
UPDATE runs SET is_done = false WHERE id = 'b';
SELECT * FROM charged();
SELECT anew();

-- numbers: which of them complete a run has to be said, and they are compared as the type spells them
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'state')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'state', completed_statuses => '{2,done}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'code', completed_statuses => '{70000}')$$);
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'state', completed_statuses => '{+2,-1," 02"}');
SELECT completed_statuses FROM token_balance.binding;
INSERT INTO token_usage SELECT 'n' || n, 'ann', 10 ^ n FROM generate_series(0, 4) AS n;
INSERT INTO runs (id, state) VALUES ('n0', 2), ('n1', 1), ('n2', 1), ('n3', 0), ('n4', NULL);
UPDATE runs SET state = 2 WHERE id = 'n1';
UPDATE runs SET state = -1 WHERE id = 'n2';
UPDATE runs SET state = 22 WHERE id = 'n3';
UPDATE runs SET state = 1 WHERE id = 'n4';
SELECT * FROM charged();
-- 1 is no other spelling of -1
SELECT name, ok, detail FROM token_balance.verify() WHERE name LIKE 'statuses%';
SELECT anew();
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'code', completed_statuses => '{3}');
INSERT INTO token_usage VALUES ('d', 'ann', 7);
INSERT INTO runs (id, code) VALUES ('d', 3);
SELECT * FROM charged();
SELECT anew();
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'big', completed_statuses => '{9223372036854775807}');
INSERT INTO token_usage VALUES ('e', 'ann', 8);
INSERT INTO runs (id, big) VALUES ('e', 9223372036854775807);
SELECT * FROM charged();
SELECT anew();

-- a type that is none of them, an expression, several columns: the error says what to do
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'since')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'label=''done''')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'state,is_done')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_done', usage_tokens => '{usage->>tokens}')$$);
-- and that does it
ALTER TABLE runs ADD is_over boolean GENERATED ALWAYS AS (is_done AND state = 2) STORED;
SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_status => 'is_over');
INSERT INTO token_usage VALUES ('g', 'ann', 9), ('h', 'ann', 1);
INSERT INTO runs (id, is_done, state) VALUES ('g', true, 1), ('h', false, 2);
SELECT * FROM charged();
UPDATE runs SET state = 2;
SELECT * FROM charged();

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA st CASCADE;
