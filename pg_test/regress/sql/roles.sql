-- The three roles of docs/privileges.md, logged in as each: what they may call, and what they are denied (DESIGN O9, O10).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
SELECT session_user AS me \gset
CREATE ROLE regress_tb_tables;
CREATE ROLE regress_tb_app LOGIN;
CREATE ROLE regress_tb_billing LOGIN;
CREATE ROLE regress_tb_reader LOGIN;
CREATE ROLE regress_tb_nobody LOGIN;
CREATE SCHEMA ro AUTHORIZATION regress_tb_tables;
GRANT USAGE ON SCHEMA ro TO PUBLIC;
SET search_path = ro, public;
SET ROLE regress_tb_tables;
\i common/tables.sql
INSERT INTO users VALUES ('ann'), ('bob');
GRANT INSERT, UPDATE, SELECT ON token_usage, workflows TO regress_tb_app;
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA ro;
UPDATE users SET token_balance = -5 WHERE id = 'bob';
-- each function once; in a transaction that is rolled back
CREATE TABLE call (n integer PRIMARY KEY, name text, statement text);
INSERT INTO call VALUES
  (1, 'settle_workflow(text)', $$SELECT ro.settle_workflow('w1') ->> 'status'$$),
  (2, 'settle_workflow(bigint)', $$SELECT ro.settle_workflow(1) ->> 'status'$$),
  (3, 'settle_workflow(uuid)', $$SELECT ro.settle_workflow('00000000-0000-0000-0000-000000000001'::uuid) ->> 'status'$$),
  (4, 'settle_workflows', $$SELECT count(*) FROM token_balance.settle_workflows('{w1}')$$),
  (5, 'balance', $$SELECT token_balance.balance('ann')$$),
  (6, 'summary', $$SELECT token_balance.summary('ann') ->> 'token_balance'$$),
  (7, 'statement', $$SELECT count(*) FROM token_balance.statement('ann')$$),
  (8, 'balance_at', $$SELECT token_balance.balance_at('ann', now())$$),
  (9, 'credit', $$SELECT token_balance.credit('ann', 1) ->> 'amount'$$),
  (10, 'refund_workflow', $$SELECT token_balance.refund_workflow('w0') ->> 'amount'$$),
  (11, 'overdrawn_accounts', $$SELECT user_id FROM token_balance.overdrawn_accounts()$$),
  (12, 'overdrawn', $$SELECT user_id FROM token_balance.overdrawn$$),
  (13, 'settle_pending', $$SELECT token_balance.settle_pending() ->> 'charges'$$),
  (14, 'settle_backlog', $$CALL token_balance.settle_backlog()$$),
  (15, 'reconcile', $$SELECT count(*) FROM token_balance.reconcile()$$),
  (16, 'verify', $$SELECT count(*) > 0 FROM token_balance.verify()$$),
  (17, 'attach', $$SELECT token_balance.attach('ro.users', 'ro.token_usage', 'ro.workflows')$$),
  (18, 'detach', $$SELECT token_balance.detach()$$),
  (19, 'read the ledger', $$SELECT count(*) FROM token_balance.ledger$$),
  (20, 'read the settlements', $$SELECT count(*) FROM token_balance.settlement$$),
  (21, 'read the binding', $$SELECT count(*) FROM token_balance.binding$$),
  (22, 'write the ledger', $$INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance, actor) VALUES ('ann', 'credit', 1, 1, 2, 'me')$$),
  (23, 'write the settlements', $$UPDATE token_balance.settlement SET charged_tokens = 0$$),
  (24, 'write a balance', $$UPDATE ro.users SET token_balance = 1$$),
  (25, 'exempt_pending', $$SELECT token_balance.exempt_pending() ->> 'pairs'$$),
  -- accounts are text: those of other types are called with an id that nobody has
  (26, 'balance(bigint)', $$SELECT token_balance.balance(1)$$),
  (27, 'balance(uuid)', $$SELECT token_balance.balance('00000000-0000-0000-0000-000000000001'::uuid)$$),
  (28, 'summary(bigint)', $$SELECT token_balance.summary(1)$$),
  (29, 'summary(uuid)', $$SELECT token_balance.summary('00000000-0000-0000-0000-000000000001'::uuid)$$),
  (30, 'statement(bigint)', $$SELECT token_balance.statement(1)$$),
  (31, 'statement(uuid)', $$SELECT token_balance.statement('00000000-0000-0000-0000-000000000001'::uuid)$$),
  (32, 'balance_at(bigint)', $$SELECT token_balance.balance_at(1, now())$$),
  (33, 'balance_at(uuid)', $$SELECT token_balance.balance_at('00000000-0000-0000-0000-000000000001'::uuid, now())$$),
  (34, 'credit(bigint)', $$SELECT token_balance.credit(1, 1)$$),
  (35, 'credit(uuid)', $$SELECT token_balance.credit('00000000-0000-0000-0000-000000000001'::uuid, 1)$$),
  (36, 'refund_workflow(bigint)', $$SELECT token_balance.refund_workflow(2)$$),
  (37, 'refund_workflow(uuid)', $$SELECT token_balance.refund_workflow('00000000-0000-0000-0000-000000000002'::uuid)$$),
  (38, 'adjust(bigint)', $$SELECT token_balance.adjust(1, 1)$$),
  (39, 'adjust(uuid)', $$SELECT token_balance.adjust('00000000-0000-0000-0000-000000000001'::uuid, 1)$$),
  (40, 'correct_workflow(text)', $$SELECT token_balance.correct_workflow('w0') ->> 'amount'$$),
  (41, 'correct_workflow(bigint)', $$SELECT token_balance.correct_workflow(1) ->> 'amount'$$),
  (42, 'correct_workflow(uuid)', $$SELECT token_balance.correct_workflow('00000000-0000-0000-0000-000000000001'::uuid) ->> 'amount'$$);
GRANT SELECT ON call TO PUBLIC;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
  IF statement ~ '^SELECT' THEN EXECUTE statement INTO answer; ELSE EXECUTE statement; END IF;
  RETURN coalesce('yes: ' || answer, 'yes');
EXCEPTION WHEN OTHERS THEN
  RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END $$;
INSERT INTO token_usage VALUES ('w0', 'ann', 10), ('w1', 'ann', 20), ('1', 'ann', 1), ('00000000-0000-0000-0000-000000000001', 'ann', 1);
SELECT settle_workflow('w0') ->> 'new_balance' AS ann;

-- attach granted the everyday ones to the owner of the tables, and only these; the note_ functions are everybody's, since they stand in a trigger's condition
SELECT r.rolname, p.proname, pg_get_function_identity_arguments(p.oid) AS arguments FROM pg_proc p, pg_roles r
 WHERE (p.pronamespace = 'token_balance'::regnamespace OR p.proname = 'settle_workflow' AND p.pronamespace = 'ro'::regnamespace)
   AND r.rolname LIKE 'regress_tb_%' AND p.proname NOT IN ('note_completion', 'note_status', 'note_usual_status', 'note_update', 'exact_numeric', 'usage_sums') AND has_function_privilege(r.oid, p.oid, 'EXECUTE') ORDER BY 1, 2, 3;
SELECT rolname, has_schema_privilege(oid, 'token_balance', 'USAGE') AS usage, has_table_privilege(oid, 'token_balance.ledger', 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') AS ledger,
  has_table_privilege(oid, 'token_balance.overdrawn', 'SELECT') AS overdrawn FROM pg_roles WHERE rolname LIKE 'regress_tb_%' ORDER BY 1;

-- the GRANT block of docs/privileges.md
GRANT USAGE ON SCHEMA token_balance TO regress_tb_app, regress_tb_billing, regress_tb_reader;
DO $$
DECLARE
  f record;
BEGIN
  FOR f IN
    SELECT p.oid::regprocedure AS function, may.role
    FROM (VALUES
      ('regress_tb_app', '{settle_workflow,balance,summary,statement}'::name[]),
      ('regress_tb_billing', '{credit,refund_workflow,statement,balance,balance_at}'),
      ('regress_tb_reader', '{balance,summary,statement,balance_at,overdrawn_accounts}')) AS may (role, functions)
    JOIN pg_proc AS p ON p.proname = ANY (may.functions)
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON e.oid = d.refobjid AND e.extname = 'token_balance'
  LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f.function, f.role);
  END LOOP;
END $$;
GRANT SELECT ON token_balance.overdrawn TO regress_tb_reader;

-- the application: it also completes runs, which needs no right on users
\c - regress_tb_app
BEGIN;
SELECT session_user, name, ro.try(statement) AS answer FROM ro.call ORDER BY n;
INSERT INTO ro.token_usage VALUES ('w2', 'ann', 5);
INSERT INTO ro.workflows VALUES ('w2', 'ann', 'completed');
SELECT token_balance.balance('ann');
ROLLBACK;

-- billing; the ledger names it
\c - regress_tb_billing
BEGIN;
SELECT session_user, name, ro.try(statement) AS answer FROM ro.call ORDER BY n;
SELECT kind, amount, actor FROM token_balance.statement('ann') ORDER BY entry_id DESC LIMIT 2;
ROLLBACK;

-- read-only, in a read-only transaction
\c - regress_tb_reader
BEGIN READ ONLY;
SELECT session_user, name, ro.try(statement) AS answer FROM ro.call ORDER BY n;
ROLLBACK;

-- anybody else
\c - regress_tb_nobody
SELECT session_user, name, ro.try(statement) AS answer FROM ro.call ORDER BY n;

-- the owner of the tables
\c - :me
SET search_path = ro, public;
SET client_min_messages = warning;
ALTER ROLE regress_tb_tables LOGIN;
\c - regress_tb_tables
BEGIN;
SELECT session_user, name, ro.try(statement) AS answer FROM ro.call WHERE n NOT IN (24, 25) ORDER BY n;
ROLLBACK;

-- the sweep and reconcile are granted by hand, to a role of their own
\c - :me
SET search_path = ro, public;
SET client_min_messages = warning;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_nobody;
GRANT EXECUTE ON FUNCTION token_balance.settle_pending, token_balance.reconcile TO regress_tb_nobody;
GRANT EXECUTE ON PROCEDURE token_balance.settle_backlog TO regress_tb_nobody;
ALTER TABLE workflows DISABLE TRIGGER USER;
INSERT INTO workflows VALUES ('w1', 'ann', 'completed');
ALTER TABLE workflows ENABLE TRIGGER USER;
\c - regress_tb_nobody
SET client_min_messages = warning;
SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile();
SELECT token_balance.settle_pending();
CALL token_balance.settle_backlog();
SELECT * FROM token_balance.reconcile();
-- with an application that keeps its rows to itself
\c - :me
SET search_path = ro, public;
SET client_min_messages = warning;
SELECT kind, amount, replace(actor, :'me', 'me') AS actor FROM token_balance.statement('ann');
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
ALTER TABLE users FORCE ROW LEVEL SECURITY;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE token_usage FORCE ROW LEVEL SECURITY;
\c - regress_tb_billing
SELECT token_balance.credit('bob', 5) ->> 'new_balance' AS bob, token_balance.refund_workflow('w0') ->> 'amount' AS refunded;
\c - regress_tb_reader
SELECT token_balance.summary('ann') -> 'summary' ->> 'total_tokens' AS tokens, token_balance.balance('bob') AS bob;
SELECT * FROM token_balance.overdrawn;
\c - regress_tb_nobody
SELECT * FROM token_balance.reconcile();

\c - :me
SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ro CASCADE;
DROP ROLE regress_tb_tables, regress_tb_app, regress_tb_billing, regress_tb_reader, regress_tb_nobody;
