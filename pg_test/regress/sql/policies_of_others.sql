-- Policies on a bound table of another owner than users': what reads several tables at once would not see its rows, and says so
-- in place of finding nothing (DESIGN O8).
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_tb_users, regress_tb_runs;
CREATE ROLE regress_tb_users;
CREATE ROLE regress_tb_runs;
SET client_min_messages = warning;
CREATE SCHEMA po;
SET search_path = po, public;
\i common/try.sql
GRANT USAGE ON SCHEMA po TO PUBLIC;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT clock_timestamp());
CREATE INDEX ON token_usage (workflow_id);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
ALTER TABLE users OWNER TO regress_tb_users;
ALTER TABLE token_usage OWNER TO regress_tb_users;
ALTER TABLE workflows OWNER TO regress_tb_runs;
GRANT SELECT ON workflows TO regress_tb_users;
CREATE EXTENSION token_balance SCHEMA po;
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w2', 'ann', 50);
CREATE PROCEDURE all_of_it() LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY['SELECT token_balance.settle_pending()', 'SELECT token_balance.exempt_pending()',
        'SELECT token_balance.accept_deletions(clock_timestamp())', 'SELECT count(*) FROM token_balance.usage_state()',
        'SELECT count(*) FROM token_balance.unsettled', 'SELECT count(*) FROM token_balance.reconcile()', 'SELECT token_balance.attach_again()'] LOOP
        CALL pg_temp.try(statement);
    END LOOP;
END $$;
-- runs that complete are charged; late usage waits, and is not called something else
ALTER TABLE workflows ENABLE ROW LEVEL SECURITY;
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
INSERT INTO token_usage VALUES ('w1', 'ann', 1);
CALL all_of_it();
SELECT name, detail, hint FROM token_balance.verify() WHERE name = 'owners';
-- as the hint says
BEGIN;
ALTER ROLE regress_tb_users BYPASSRLS;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT state, reason, tokens FROM token_balance.usage_state();
SELECT name FROM token_balance.verify() WHERE name = 'owners' AND NOT ok;
ROLLBACK;
ALTER TABLE workflows OWNER TO regress_tb_users;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT state, reason, tokens FROM token_balance.usage_state();
-- the same of the usage
ALTER TABLE workflows DISABLE ROW LEVEL SECURITY;
ALTER TABLE token_usage OWNER TO regress_tb_runs;
ALTER TABLE token_usage ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON token_usage TO regress_tb_users;
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
INSERT INTO token_usage VALUES ('w2', 'ann', 2);
CALL all_of_it();
SELECT detail FROM token_balance.verify() WHERE name = 'owners';
-- who has the owner's rights is under no policy
GRANT regress_tb_runs TO regress_tb_users;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT token_balance FROM users;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA po CASCADE;
DROP ROLE regress_tb_users, regress_tb_runs;
