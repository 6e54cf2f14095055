-- A binding that can never match charges nothing, and every check said that all is well (DESIGN Y4).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA pl;
SET search_path = pl, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA pl;
CREATE VIEW checks AS SELECT name, ok, detail, hint FROM token_balance.verify()
  WHERE name ~ '^(statuses|workflow ids|unowned|children|binding)' AND NOT (name = 'binding' AND ok) ORDER BY 1;
CREATE PROCEDURE tables() LANGUAGE plpgsql AS $$
BEGIN
  CREATE TABLE users (id text PRIMARY KEY);
  CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
  CREATE TABLE workflows (id bigserial PRIMARY KEY, uuid text, user_id text, status text);
  INSERT INTO users VALUES ('ann');
END $$;

-- a surrogate key is bound by mistake: it never equals a usage's id
BEGIN;
CALL tables();
INSERT INTO workflows (uuid, user_id, status) SELECT 'run-' || i, 'ann', 'running' FROM generate_series(1, 20) i;
INSERT INTO token_usage SELECT uuid, user_id, 5 FROM workflows;
ALTER TABLE workflows ALTER id TYPE text;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
TABLE checks;
UPDATE workflows SET status = 'completed';
SELECT state, reason, tokens FROM token_balance.usage_state();
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
TABLE checks;
ROLLBACK;
-- partitioned usage is looked at as well; a few ids say nothing
BEGIN;
CALL tables();
DROP TABLE token_usage;
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer) PARTITION BY HASH (workflow_id);
CREATE TABLE token_usage_1 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE token_usage_2 PARTITION OF token_usage FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO token_usage SELECT 'run-' || i, 'ann', 5 FROM generate_series(1, 9) i;
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
TABLE checks;
INSERT INTO token_usage VALUES ('run-10', 'ann', 5);
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
SELECT name FROM checks;
ROLLBACK;

-- statuses that are spelled otherwise complete nothing, and so do ends that are not bound
BEGIN;
CALL tables();
INSERT INTO workflows (uuid, user_id, status) VALUES ('a', 'ann', 'COMPLETED'), ('b', 'ann', 'partial-succeeded'), ('c', 'ann', 'failed'), ('d', 'ann', 'failed'), ('e', 'ann', NULL);
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
TABLE checks;
UPDATE workflows SET status = 'completed' WHERE status = 'COMPLETED';
TABLE checks;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid', completed_statuses => '{completed,partial-succeeded,failed}');
TABLE checks;
ROLLBACK;

-- the value of an enum that completes a run is renamed
BEGIN;
CALL tables();
CREATE TYPE state AS ENUM ('running', 'completed');
ALTER TABLE workflows ALTER status TYPE state USING status::state;
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
TABLE checks;
ALTER TYPE state RENAME VALUE 'completed' TO 'ended';
TABLE checks;
ROLLBACK;

-- inheritance children: their rows are charged without a ledger entry, or complete without a charge
BEGIN;
CALL tables();
CREATE TABLE admins () INHERITS (users);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid')$$);
DROP TABLE admins;
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
CREATE TABLE admins () INHERITS (users);
CREATE TABLE old_usage () INHERITS (token_usage);
TABLE checks;
ROLLBACK;

-- usage that names no workflow, or no account
BEGIN;
CALL tables();
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_key => 'uuid');
INSERT INTO token_usage VALUES (NULL, 'ann', 10), ('w', NULL, 20), ('w', 'ann', 1);
TABLE checks;
SELECT state, tokens FROM token_balance.usage_state();
ROLLBACK;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA pl CASCADE;
