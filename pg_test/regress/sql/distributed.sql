-- (DESIGN Z2) Tables that Citus has distributed look like others, but their rows are in shards: refused at attach and at use, by
-- whatever way. The stand-in has the catalog that tells, and invalidates a table as Citus does.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA di;
SET search_path = di, public;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
CREATE TABLE bystander (id text);
INSERT INTO users VALUES ('ann');
INSERT INTO workflows VALUES ('w1', 'running'), ('w2', 'running'), ('w3', 'running');
CREATE EXTENSION token_balance SCHEMA di;
INSERT INTO token_usage VALUES ('w1', 'ann', 1), ('w2', 'ann', 10), ('w3', 'ann', 100);
CREATE FUNCTION pg_temp.outcome(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; hint text;
BEGIN
  EXECUTE command;
  RETURN 'done';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN code || ' ' || message || concat(' / ' || nullif(detail, ''), ' / ' || nullif(hint, ''));
END $$;
BEGIN;
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass PRIMARY KEY, partmethod "char" NOT NULL);
CREATE FUNCTION distribute(relation regclass) RETURNS void LANGUAGE sql AS $$
  INSERT INTO pg_catalog.pg_dist_partition VALUES (relation, 'h');
  UPDATE pg_class SET relname = relname WHERE oid = relation $$;
CREATE FUNCTION undistribute(relation regclass) RETURNS void LANGUAGE sql AS $$
  DELETE FROM pg_catalog.pg_dist_partition WHERE logicalrelid = relation;
  UPDATE pg_class SET relname = relname WHERE oid = relation $$;
-- with Citus there, and none of the tables distributed
SELECT distribute('bystander');
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SELECT pg_temp.outcome($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
-- a warm session, and each of the tables in turn
SELECT relation, ways.way, pg_temp.outcome(format('SELECT distribute(%L); %s', relation, way)) AS outcome,
  pg_temp.outcome(format('SELECT undistribute(%L)', relation)) AS back
FROM unnest('{users,token_usage,workflows,token_balance.settlement,token_balance.ledger,token_balance.queue}'::text[]) AS relation,
  (VALUES ('settle', $$SELECT settle_workflow('w2')$$), ('complete', $$UPDATE workflows SET status = 'completed' WHERE id = 'w3'$$)) AS ways (name, way)
ORDER BY relation COLLATE "C", name;
SELECT distribute('token_usage');
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT pg_temp.outcome('SELECT token_balance.settle_pending()');
-- a credit reads no usage
SELECT pg_temp.outcome($$SELECT token_balance.credit('ann', 5)$$);
-- undistributed again
SELECT undistribute('token_usage');
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;
UPDATE workflows SET status = 'completed' WHERE id = 'w3';
SELECT token_balance FROM users;
SELECT token_balance.detach();
SELECT distribute('users');
SELECT pg_temp.outcome($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
ROLLBACK;
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA di CASCADE;
