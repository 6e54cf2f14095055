-- Every type that a user id and a workflow id can have, and pairs of different types (DESIGN F11).
\set SHOW_CONTEXT never
CREATE SCHEMA kt;
SET search_path = kt, public;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA kt;
\i common/try.sql

-- one run by the function, one by the trigger, for a given type of each of the four columns
CREATE FUNCTION pg_temp.run(user_type text, usage_user_type text, workflow_type text, usage_workflow_type text, ann text, w1 text, w2 text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE j jsonb; after text; bound text; led text;
BEGIN
  EXECUTE format('CREATE TABLE users (id %s PRIMARY KEY)', user_type);
  EXECUTE format('CREATE TABLE token_usage (workflow_id %s, user_id %s, total_tokens integer)', usage_workflow_type, usage_user_type);
  EXECUTE format('CREATE TABLE workflows (id %s PRIMARY KEY, user_id %s, status text)', workflow_type, user_type);
  PERFORM token_balance.attach('users', 'token_usage', 'workflows', initial_balance => 1000, accounts => 'new');
  EXECUTE format('INSERT INTO users VALUES (%L)', ann);
  EXECUTE format('INSERT INTO token_usage VALUES (%1$L, %3$L, 10), (%1$L, %3$L, 1), (%2$L, %3$L, 200)', w1, w2, ann);
  EXECUTE format('INSERT INTO workflows VALUES (%L, %L, ''running''), (%L, %2$L, ''running'')', w1, ann, w2);
  j := settle_workflow(w1);
  UPDATE workflows SET status = 'completed';
  EXECUTE 'SELECT token_balance FROM users' INTO after;
  SELECT string_agg(format('%s %s %s', user_id, workflow_id, amount), ', ' ORDER BY created_at, entry_id) INTO led FROM token_balance.ledger;
  RETURN format('%s %s %s -> %s; then %s; ledger: %s', j->>'workflow_id', j->>'status', j->>'tokens_used', j->>'new_balance', after, led);
END $$;
-- each case is rolled back: attach, tables, entries and all
BEGIN; SELECT pg_temp.run('text', 'text', 'text', 'text', 'ann', 'run one', 'run two'); ROLLBACK;
BEGIN; SELECT pg_temp.run('varchar(36)', 'varchar(36)', 'varchar(36)', 'varchar(36)', 'ann', 'w1', 'w2'); ROLLBACK;
BEGIN; SELECT pg_temp.run('uuid', 'uuid', 'uuid', 'uuid', '00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002'); ROLLBACK;
BEGIN; SELECT pg_temp.run('int4', 'int4', 'int4', 'int4', '7', '1', '2'); ROLLBACK;
BEGIN; SELECT pg_temp.run('int8', 'int8', 'int8', 'int8', '7000000000', '1', '9223372036854775807'); ROLLBACK;
-- pairs of different types
BEGIN; SELECT pg_temp.run('text', 'varchar', 'varchar', 'text', 'ann', 'w1', 'w2'); ROLLBACK;
BEGIN; SELECT pg_temp.run('int8', 'int4', 'int4', 'int8', '7', '1', '2'); ROLLBACK;
BEGIN; SELECT pg_temp.run('uuid', 'varchar', 'uuid', 'varchar', '00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002'); ROLLBACK;
BEGIN; SELECT pg_temp.run('uuid', 'uuid', 'uuid', 'text', '00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002'); ROLLBACK;
BEGIN; SELECT pg_temp.run('text', 'uuid', 'text', 'uuid', '00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002'); ROLLBACK;
BEGIN; SELECT pg_temp.run('int8', 'text', 'int8', 'text', '7', '1', '2'); ROLLBACK;
-- a domain over a key type
CREATE DOMAIN account_id AS text CHECK (VALUE ~ '^[a-z]+$');
CREATE DOMAIN run_id AS uuid;
BEGIN; SELECT pg_temp.run('account_id', 'account_id', 'run_id', 'run_id', 'ann', '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002'); ROLLBACK;

-- the three forms of the function
CREATE TABLE users (id int8 PRIMARY KEY);
CREATE TABLE token_usage (workflow_id int8, user_id int8, total_tokens integer);
CREATE TABLE workflows (id int8 PRIMARY KEY, user_id int8, status text);
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
INSERT INTO users VALUES (7);
INSERT INTO workflows VALUES (1, 7, 'running'), (2, 7, 'running'), (3, 7, 'running');
INSERT INTO token_usage VALUES (1, 7, 10), (2, 7, 20), (3, 7, 30);
SELECT settle_workflow(1) ->> 'tokens_used' AS "integer";
SELECT settle_workflow(2::bigint) ->> 'tokens_used' AS "bigint";
SELECT settle_workflow('3') ->> 'tokens_used' AS "text";
-- a spelling of the same id is the same workflow
SELECT settle_workflow(' 003 ') -> 'status' AS status, settle_workflow('+3') -> 'workflow_id' AS workflow_id;
SELECT workflow_id, charged_tokens FROM token_balance.settlement ORDER BY 1;
-- a malformed id is the type's own error
CALL pg_temp.try($$SELECT settle_workflow('three')$$);
CALL pg_temp.try($$SELECT settle_workflow('99999999999999999999')$$);
CALL pg_temp.try($$SELECT settle_workflow('00000000-0000-0000-0000-000000000001'::uuid)$$);
CALL pg_temp.try($$SELECT settle_workflow('')$$);
CALL pg_temp.try($$SELECT token_balance.balance('seven')$$);
CALL pg_temp.try($$SELECT * FROM token_balance.settle_workflows('{1,two}')$$);
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE token_usage (workflow_id varchar(36), user_id uuid, total_tokens integer);
CREATE TABLE workflows (id uuid PRIMARY KEY, user_id uuid, status text);
SELECT token_balance.attach('users', 'token_usage', 'workflows', accounts => 'new');
INSERT INTO users VALUES ('00000000-0000-0000-0000-00000000000a');
INSERT INTO workflows VALUES ('00000000-0000-0000-0000-0000000000b1', '00000000-0000-0000-0000-00000000000a', 'running');
INSERT INTO token_usage VALUES ('00000000-0000-0000-0000-0000000000b1', '00000000-0000-0000-0000-00000000000a', 10);
SELECT settle_workflow('00000000-0000-0000-0000-0000000000b1'::uuid) ->> 'tokens_used' AS "uuid";
-- upper case is the same uuid, and so is the same run
SELECT settle_workflow('00000000-0000-0000-0000-0000000000B1') ->> 'status' AS status;
CALL pg_temp.try($$SELECT settle_workflow('w1')$$);
CALL pg_temp.try($$SELECT settle_workflow(5)$$);
SELECT token_balance.balance('00000000-0000-0000-0000-00000000000A');
SELECT workflow_id, user_id, charged_tokens FROM token_balance.settlement WHERE workflow_id LIKE '%b1';
SELECT token_balance.detach();
DROP TABLE users, token_usage, workflows;

-- a value that a typed usage column could not hold is malformed there as well: no workflow table bound
CREATE TABLE users (id int4 PRIMARY KEY);
CREATE TABLE token_usage (workflow_id int4, user_id int4, total_tokens integer);
SELECT token_balance.attach('users', 'token_usage', accounts => 'new');
CALL pg_temp.try($$SELECT settle_workflow(3000000000)$$);
CALL pg_temp.try($$SELECT settle_workflow(3)$$);

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA kt CASCADE;
