-- A test suite truncates its tables and uses ids again: nothing was charged, a credit was replayed, and nobody said why (DESIGN J4, J5, J6).
\set SHOW_CONTEXT never
CREATE SCHEMA tr;
SET search_path = tr, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA tr;
\i common/try.sql
-- nothing is known: nothing is said
TRUNCATE token_usage, workflows, users;
INSERT INTO users VALUES ('ann'), ('bob');
CREATE PROCEDURE run() LANGUAGE sql BEGIN ATOMIC
  INSERT INTO workflows VALUES ('w1', 'ann');
  INSERT INTO token_usage VALUES ('w1', 'ann', 100);
  UPDATE workflows SET status = 'completed' WHERE id = 'w1';
END;
CALL run();
SELECT token_balance.credit('bob', 5, 'payment') ->> 'new_balance' AS bob;
SELECT name, ok FROM token_balance.verify() WHERE name LIKE 'trigger%';
-- one warning per statement
TRUNCATE token_usage, workflows, users;
BEGIN; TRUNCATE users; TRUNCATE token_usage RESTART IDENTITY; TRUNCATE workflows; ROLLBACK;
INSERT INTO users VALUES ('ann'), ('bob');
-- what it means
CALL run();
SELECT token_balance.credit('bob', 5, 'payment') ->> 'replayed' AS replayed;
TABLE users ORDER BY id;

-- reset: not while there is anything
CALL pg_temp.try('SELECT token_balance.reset()');
TRUNCATE token_usage;
CALL pg_temp.try('SELECT token_balance.reset()');
TRUNCATE users;
INSERT INTO token_usage VALUES ('w1', 'ann', 100);
CALL pg_temp.try('SELECT token_balance.reset()');
DELETE FROM token_usage;
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.reset();
SELECT name FROM token_balance.verify() WHERE NOT ok;
SELECT count(*) FROM token_balance.settlement;
SELECT count(*) FROM token_balance.ledger;
TRUNCATE workflows;
INSERT INTO users VALUES ('ann'), ('bob');
CALL run();
SELECT token_balance.credit('bob', 5, 'payment') ->> 'replayed' AS replayed;
TABLE users ORDER BY id;
SELECT user_id, entry_id, kind, amount, previous_balance FROM token_balance.ledger ORDER BY user_id;
SELECT problem FROM token_balance.reconcile();
-- again, in one transaction with the TRUNCATE; the queue and archived entries, too
CREATE TABLE archive (LIKE token_balance.ledger);
SELECT token_balance.archive_ledger(now(), 'archive') ->> 'entries' AS archived;
INSERT INTO token_balance.queue (user_id, workflow_id, tokens, actor) VALUES ('ann', 'w1', 6, 'me');
BEGIN;
TRUNCATE token_usage, workflows, users;
SELECT token_balance.reset();
INSERT INTO users VALUES ('ann'), ('bob');
CALL run();
COMMIT;
TABLE users ORDER BY id;
-- taken back with its transaction
BEGIN;
TRUNCATE token_usage, workflows, users;
SELECT token_balance.reset();
ROLLBACK;
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT problem FROM token_balance.reconcile();
-- the ledger is append-only still
CALL pg_temp.try('DELETE FROM token_balance.ledger');
-- whom it is granted to
CREATE ROLE regress_tb_tester;
GRANT USAGE ON SCHEMA token_balance, tr TO regress_tb_tester;
GRANT ALL ON ALL TABLES IN SCHEMA tr TO regress_tb_tester;
SET ROLE regress_tb_tester;
TRUNCATE users, token_usage, workflows;
CALL pg_temp.try('SELECT token_balance.reset()');
RESET ROLE;
GRANT EXECUTE ON FUNCTION token_balance.reset TO regress_tb_tester;
SET ROLE regress_tb_tester;
SELECT token_balance.reset() ->> 'settlements' AS settlements;
RESET ROLE;
BEGIN READ ONLY;
CALL pg_temp.try('SELECT token_balance.reset()');
COMMIT;
-- rows that policies hide from the caller are there
INSERT INTO users VALUES ('ann');
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SET ROLE regress_tb_tester;
CALL pg_temp.try('SELECT token_balance.reset()');
RESET ROLE;
ALTER TABLE users DISABLE ROW LEVEL SECURITY;
TRUNCATE users;
-- another binding of the same accounts, which is remembered, keeps its settlements
INSERT INTO users VALUES ('ann');
CALL run();
SELECT token_balance.detach();
CREATE TABLE calls (workflow_id text, user_id text, total_tokens integer);
SELECT token_balance.attach('users', 'calls');
INSERT INTO calls VALUES ('c1', 'ann', 7);
SELECT settle_workflow('c1') ->> 'new_balance' AS new_balance;
TRUNCATE users, calls;
SELECT token_balance.reset();
SELECT problem FROM token_balance.reconcile();
INSERT INTO users VALUES ('ann');
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT settle_workflow('w1') ->> 'status' AS status;
SELECT problem FROM token_balance.reconcile();
-- the triggers
DROP TRIGGER token_balance_truncated ON users;
ALTER TABLE token_usage DISABLE TRIGGER token_balance_truncated;
SELECT name, ok, detail FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
ALTER TABLE token_usage ENABLE TRIGGER token_balance_truncated;
SELECT name FROM token_balance.verify() WHERE NOT ok;
CREATE TABLE other (id integer);
CREATE TRIGGER t AFTER INSERT ON other EXECUTE FUNCTION token_balance.warn_of_truncate();
CALL pg_temp.try('INSERT INTO other VALUES (1)');
SELECT token_balance.detach();
SELECT count(*) FROM pg_trigger WHERE tgname = 'token_balance_truncated';
CALL pg_temp.try('SELECT token_balance.reset()');
TRUNCATE users, token_usage;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA tr CASCADE;
DROP ROLE regress_tb_tester;
