-- What goes and what stays (DESIGN D8, D9).
\set SHOW_CONTEXT never
\set VERBOSITY default
CREATE SCHEMA rm;
SET search_path = rm, public;
\i common/tables.sql
INSERT INTO users VALUES ('ann');
CREATE VIEW left_over AS
  SELECT (SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('rm.users'::regclass, 'rm.workflows'::regclass, 'rm.token_usage'::regclass)) AS triggers,
    (SELECT count(*) FROM pg_class WHERE relnamespace = 'rm'::regnamespace AND relkind = 'i') AS indexes,
    (SELECT count(*) FROM pg_proc p WHERE proname = 'settle_workflow') AS functions,
    (SELECT count(*) FROM pg_namespace WHERE nspname = 'token_balance') AS schemas,
    (SELECT count(*) FROM pg_attribute WHERE attrelid = 'rm.users'::regclass AND attname = 'token_balance' AND NOT attisdropped) AS columns;
SELECT * FROM left_over;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA rm;
INSERT INTO token_usage VALUES ('w1', 'ann', 10);
INSERT INTO workflows VALUES ('w1', 'ann', 'completed');
CREATE INDEX of_mine ON token_usage (workflow_id);
SELECT * FROM left_over;

-- a plain DROP is refused: triggers of the application's tables hang on it
\set VERBOSITY terse
DROP EXTENSION token_balance;
\set VERBOSITY default
DO $$
DECLARE message text; hint text;
BEGIN
  EXECUTE 'DROP EXTENSION token_balance';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
  RAISE WARNING '% % (%)', SQLSTATE, message, hint;
END $$;

-- detach: triggers go; column, balances, ledger and index stay; then a plain DROP
SELECT token_balance.detach();
SELECT * FROM left_over;
SELECT * FROM users;
SELECT count(*) FROM token_balance.ledger;
UPDATE users SET token_balance = token_balance - 1;
SELECT count(*) FROM token_balance.ledger;
SELECT token_balance.detach(NULL);
SELECT token_balance.detach();
DROP EXTENSION token_balance;
SELECT * FROM left_over;
SELECT * FROM users;
INSERT INTO users VALUES ('bob');
SELECT * FROM users ORDER BY id;
DELETE FROM users WHERE id = 'bob';

-- CASCADE: the same without the detach
CREATE EXTENSION token_balance SCHEMA rm;
INSERT INTO token_usage VALUES ('w2', 'ann', 10);
INSERT INTO workflows VALUES ('w2', 'ann', 'completed');
DROP EXTENSION token_balance CASCADE;
SELECT * FROM left_over;
SELECT * FROM users;
-- the application's tables go on without it
INSERT INTO token_usage VALUES ('w3', 'ann', 10);
INSERT INTO workflows VALUES ('w3', 'ann', 'completed');
SELECT * FROM users;

-- detach(drop_column => true)
CREATE EXTENSION token_balance SCHEMA rm;
SELECT token_balance.detach(drop_column => true);
SELECT * FROM left_over;
SELECT * FROM users;
DROP EXTENSION token_balance;

-- DROP of the bound tables themselves, with the extension there
CREATE EXTENSION token_balance SCHEMA rm;
DROP VIEW left_over;
DROP TABLE workflows;
DROP TABLE token_usage, users;
SELECT bool_and(ok) FROM token_balance.verify();
SELECT token_balance.detach();
DROP EXTENSION token_balance;
-- DROP SCHEMA of the application takes the extension that lives there only with CASCADE
CREATE EXTENSION token_balance SCHEMA rm;
DROP SCHEMA rm CASCADE;
SELECT count(*) FROM pg_extension WHERE extname = 'token_balance';
SELECT count(*) FROM pg_namespace WHERE nspname = 'token_balance';
