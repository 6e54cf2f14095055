-- Row-level security, forced on the owner too, hides every row from everybody: a charge still reaches its row (DESIGN O4).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_tb_rls;
CREATE ROLE regress_tb_rls_app;
CREATE SCHEMA rl AUTHORIZATION regress_tb_rls;
GRANT USAGE ON SCHEMA rl TO regress_tb_rls_app;
SET search_path = rl, public;
SET ROLE regress_tb_rls;
\i common/tables.sql
INSERT INTO users VALUES ('ann'), ('bob');
INSERT INTO token_usage VALUES ('w0', 'ann', 1000);
ALTER TABLE users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON users USING (false);
CREATE POLICY nothing ON token_usage USING (false) WITH CHECK (true);
GRANT ALL ON users, token_usage, workflows TO regress_tb_rls_app;
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA rl;
GRANT EXECUTE ON FUNCTION settle_workflow(text), token_balance.balance(text, name) TO regress_tb_rls_app;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_rls_app;
SELECT name FROM token_balance.verify() WHERE NOT ok;
-- attach saw the old usage
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement;

SET ROLE regress_tb_rls_app;
SELECT count(*) FROM users;
INSERT INTO token_usage VALUES ('w1', 'ann', 10), ('w1', 'bob', 20), ('w2', 'ann', 5);
SELECT count(*) FROM token_usage;
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w0', 'ann', 'completed');
SELECT settle_workflow('w2') ->> 'new_balance' AS new_balance;
SELECT token_balance.balance('ann');
SET ROLE regress_tb_rls;
SELECT count(*) FROM users;
INSERT INTO token_usage VALUES ('w2', 'bob', 7);
SELECT settle_workflow('w2') ->> 'new_balance' AS new_balance;
SELECT workflow_id, charged_tokens FROM token_balance.settle_workflows('{w1,w2}');
RESET ROLE;
SELECT * FROM users ORDER BY id;
SELECT user_id, kind, amount, workflow_id FROM token_balance.ledger ORDER BY created_at, entry_id;

-- the workflow table as well, its owner paying
SELECT token_balance.detach();
ALTER TABLE workflows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY nothing ON workflows USING (false) WITH CHECK (true);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL);
SET ROLE regress_tb_rls_app;
INSERT INTO token_usage VALUES ('w3', 'whoever', 7);
INSERT INTO workflows VALUES ('w3', 'bob', 'running');
SELECT settle_workflow('w3') ->> 'new_balance' AS new_balance;
RESET ROLE;
-- row_security = off says: rather fail than hide; nothing is hidden here
SET ROLE regress_tb_rls_app;
SET row_security = off;
SELECT settle_workflow('w3') ->> 'status' AS status;
RESET row_security;
RESET ROLE;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA rl CASCADE;
DROP ROLE regress_tb_rls, regress_tb_rls_app;
