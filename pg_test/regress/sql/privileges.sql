-- Who may do what, run as the roles themselves (DESIGN O3, O5, O8, O9, O11).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_tb_owner;
CREATE ROLE regress_tb_app;
CREATE ROLE regress_tb_other;
CREATE SCHEMA pv AUTHORIZATION regress_tb_owner;
GRANT USAGE ON SCHEMA pv TO regress_tb_app, regress_tb_other;
GRANT CREATE ON SCHEMA pv TO regress_tb_other;
SET search_path = pv, public;
\i common/try.sql

-- only a superuser installs
SET ROLE regress_tb_owner;
CALL pg_temp.try($$CREATE EXTENSION token_balance SCHEMA pv$$);
CREATE TABLE users (id text PRIMARY KEY, is_admin boolean NOT NULL DEFAULT false);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
GRANT SELECT, INSERT, UPDATE ON token_usage, workflows TO regress_tb_app;
GRANT SELECT ON users TO regress_tb_app;
RESET ROLE;
-- two names that the convention looks for: nothing is bound, the owner attaches
CREATE TABLE workflow_runs (id text PRIMARY KEY, status text);
CREATE EXTENSION token_balance SCHEMA pv;
DROP TABLE workflow_runs;

-- without a grant nobody but the superuser calls anything
SET ROLE regress_tb_app;
CALL pg_temp.try($$SELECT settle_workflow('w1')$$);
CALL pg_temp.try($$SELECT settle_workflow(1)$$);
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
RESET ROLE;
-- the superuser lets the owner of the tables attach them, and only an owner of all of them can
GRANT USAGE ON SCHEMA token_balance TO regress_tb_owner, regress_tb_other;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance TO regress_tb_owner, regress_tb_other;
SET ROLE regress_tb_other;
CREATE TABLE other_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE other_users (id text PRIMARY KEY);
CALL pg_temp.try($$SELECT token_balance.attach('pv.users', 'pv.token_usage', 'pv.workflows')$$);
CALL pg_temp.try($$SELECT token_balance.attach('pv.users', 'pv.other_usage')$$);
CALL pg_temp.try($$SELECT token_balance.attach('pv.other_users', 'pv.token_usage')$$);
CALL pg_temp.try($$SELECT token_balance.attach('pv.other_users', 'pv.other_usage', 'pv.workflows')$$);
-- the superuser may, but a charge runs as the owner of users, who cannot read the other's usage
RESET ROLE;
CALL pg_temp.try($$SELECT token_balance.attach('pv.users', 'pv.other_usage', 'pv.workflows')$$);
GRANT SELECT ON other_usage TO regress_tb_owner;
CALL pg_temp.try($$SELECT token_balance.attach('pv.users', 'pv.other_usage', 'pv.workflows')$$);
SELECT token_balance.detach();
DROP TABLE other_usage, other_users;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA token_balance FROM regress_tb_other, regress_tb_owner;
REVOKE ALL ON SCHEMA token_balance FROM regress_tb_other, regress_tb_owner;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_owner;
GRANT EXECUTE ON FUNCTION token_balance.attach TO regress_tb_owner;

SET ROLE regress_tb_owner;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
-- attach granted the owner what the day needs
INSERT INTO workflows VALUES ('w1', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 10);
SELECT settle_workflow('w1') ->> 'new_balance' AS new_balance;
SELECT token_balance.balance('ann');
SELECT charged_tokens FROM token_balance.settle_workflows('{w1}');
-- the tables of the extension are not the owner's to write
CALL pg_temp.try($$INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance) VALUES ('ann', 'credit', 1, 1, 2)$$);
CALL pg_temp.try($$UPDATE token_balance.ledger SET amount = 0$$);
CALL pg_temp.try($$DELETE FROM token_balance.ledger$$);
CALL pg_temp.try($$TRUNCATE token_balance.ledger$$);
CALL pg_temp.try($$DELETE FROM token_balance.settlement$$);
CALL pg_temp.try($$UPDATE token_balance.settlement SET usage_tokens = 0$$);
CALL pg_temp.try($$INSERT INTO token_balance.settlement (workflow_id, user_id) VALUES ('w9', 'ann')$$);
CALL pg_temp.try($$UPDATE token_balance.binding SET attached_by = 'me'$$);
CALL pg_temp.try($$DELETE FROM token_balance.binding$$);
CALL pg_temp.try($$DROP TABLE token_balance.ledger$$);
CALL pg_temp.try($$ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL$$);
CALL pg_temp.try($$CREATE TABLE token_balance.mine ()$$);
CALL pg_temp.try($$SELECT setval(pg_get_serial_sequence('token_balance.ledger', 'entry_id'), 1)$$);
RESET ROLE;

-- the application's role completes runs without any right on users: the charge runs as the tables' owner
SET ROLE regress_tb_app;
INSERT INTO workflows VALUES ('w2', 'ann', 'running');
INSERT INTO token_usage VALUES ('w2', 'ann', 5);
CALL pg_temp.try($$UPDATE users SET token_balance = 0$$);
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
SELECT id, token_balance FROM users ORDER BY id;
-- it calls nothing
CALL pg_temp.try($$SELECT settle_workflow('w2')$$);
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT token_balance.verify()$$);
CALL pg_temp.try($$SELECT token_balance.settle_workflows('{w2}')$$);
CALL pg_temp.try($$SELECT token_balance.detach()$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.ledger$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.settlement$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.binding$$);
RESET ROLE;
-- one that has EXECUTE and no right on the tables settles: that is what the function is for
GRANT EXECUTE ON FUNCTION settle_workflow(text) TO regress_tb_other;
SET ROLE regress_tb_other;
CALL pg_temp.try($$SELECT * FROM token_usage$$);
SELECT settle_workflow('w2') ->> 'status' AS status;
RESET ROLE;

-- trigger functions: not executable, so no table of one's own gets them, and they refuse to run on one
SELECT p.proname, has_function_privilege('regress_tb_other', p.oid, 'EXECUTE') AS other, has_function_privilege('regress_tb_owner', p.oid, 'EXECUTE') AS owner
  FROM pg_proc p WHERE p.pronamespace = 'token_balance'::regnamespace AND p.prorettype = 'trigger'::regtype ORDER BY 1;
SET ROLE regress_tb_other;
CREATE TABLE mine (id text, user_id text, status text, token_balance integer);
INSERT INTO mine VALUES ('ann', 'ann', 'running', 5);
RESET ROLE;
CREATE FUNCTION pg_temp.abuse() RETURNS void LANGUAGE plpgsql AS $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'token_balance'::regnamespace AND p.prorettype = 'trigger'::regtype ORDER BY p.proname LOOP
    CALL pg_temp.try(format('CREATE TRIGGER abuse AFTER INSERT OR UPDATE ON pv.mine FOR EACH ROW EXECUTE FUNCTION %s', f));
  END LOOP;
END $$;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_other;
SET ROLE regress_tb_other;
SELECT pg_temp.abuse();
RESET ROLE;
REVOKE USAGE ON SCHEMA token_balance FROM regress_tb_other;
-- even a superuser who attaches one gets an error, and no charge
CREATE FUNCTION pg_temp.abuse2() RETURNS void LANGUAGE plpgsql AS $$
DECLARE f regprocedure;
BEGIN
  FOR f IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'token_balance'::regnamespace AND p.prorettype = 'trigger'::regtype ORDER BY p.proname LOOP
    RAISE WARNING '%', f;
    EXECUTE format('CREATE TRIGGER abuse AFTER UPDATE ON pv.mine FOR EACH ROW EXECUTE FUNCTION %s', f);
    CALL pg_temp.try($q$UPDATE pv.mine SET status = 'completed', token_balance = 1000$q$);
    DROP TRIGGER abuse ON pv.mine;
    EXECUTE format('CREATE TRIGGER abuse AFTER UPDATE ON pv.mine FOR EACH STATEMENT EXECUTE FUNCTION %s', f);
    CALL pg_temp.try($q$UPDATE pv.mine SET status = 'completed', token_balance = 1000$q$);
    DROP TRIGGER abuse ON pv.mine;
    EXECUTE format('CREATE TRIGGER abuse BEFORE INSERT ON pv.mine FOR EACH ROW EXECUTE FUNCTION %s', f);
    CALL pg_temp.try($q$INSERT INTO pv.mine VALUES ('ann', 'ann', 'completed', 7)$q$);
    DROP TRIGGER abuse ON pv.mine;
    CALL pg_temp.try(format('SELECT %s', f));
  END LOOP;
END $$;
SELECT pg_temp.abuse2();
DROP TABLE mine;
SELECT id, token_balance FROM users ORDER BY id;

-- code of the application runs as the tables' owner, never as the extension's, and cannot switch
CREATE TABLE seen (what text, who text);
ALTER TABLE seen OWNER TO regress_tb_owner;
SET ROLE regress_tb_owner;
CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO pv.seen VALUES (TG_OP || ' ' || TG_TABLE_NAME, current_user);
  BEGIN
    EXECUTE 'ALTER ROLE regress_tb_owner SUPERUSER';
    INSERT INTO pv.seen VALUES ('is superuser now', current_user);
  EXCEPTION WHEN OTHERS THEN INSERT INTO pv.seen VALUES ('alter role: ' || SQLSTATE, current_user);
  END;
  BEGIN
    RESET ROLE;
    INSERT INTO pv.seen VALUES ('reset role', current_user);
  EXCEPTION WHEN OTHERS THEN INSERT INTO pv.seen VALUES ('reset role: ' || SQLSTATE, current_user);
  END;
  BEGIN
    RESET SESSION AUTHORIZATION;
    INSERT INTO pv.seen VALUES ('reset session authorization', current_user);
  EXCEPTION WHEN OTHERS THEN INSERT INTO pv.seen VALUES ('reset session authorization: ' || SQLSTATE, current_user);
  END;
  BEGIN
    UPDATE token_balance.settlement SET charged_tokens = 0;
    INSERT INTO pv.seen VALUES ('wrote the settlement', current_user);
  EXCEPTION WHEN OTHERS THEN INSERT INTO pv.seen VALUES ('settlement: ' || SQLSTATE, current_user);
  END;
  RETURN NEW;
END $$;
CREATE TRIGGER evil BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
-- by the function as superuser
INSERT INTO token_usage VALUES ('w2', 'ann', 1);
SELECT settle_workflow('w2') ->> 'new_balance' AS new_balance;
SELECT * FROM seen;
DELETE FROM seen;
SELECT current_user = session_user AS restored;
-- by the trigger as the application's role
SET ROLE regress_tb_app;
INSERT INTO token_usage VALUES ('w3', 'ann', 1);
INSERT INTO workflows VALUES ('w3', 'ann', 'completed');
SELECT current_user;
RESET ROLE;
SELECT * FROM seen;
DELETE FROM seen;
-- by the batch
INSERT INTO token_usage VALUES ('w4', 'ann', 1), ('w5', 'bob', 1);
SELECT workflow_id, new_balance FROM token_balance.settle_workflows('{w4,w5}');
SELECT DISTINCT * FROM seen ORDER BY 1;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_tb_owner';
DROP TRIGGER evil ON users;
-- an error in there restores the user as well
SET ROLE regress_tb_owner;
CREATE OR REPLACE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;
CREATE TRIGGER evil BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
GRANT EXECUTE ON FUNCTION settle_workflow(text) TO regress_tb_app;
SET ROLE regress_tb_app;
INSERT INTO token_usage VALUES ('w6', 'ann', 1);
SELECT settle_workflow('w6');
SELECT current_user;
CALL pg_temp.try($$SELECT settle_workflow('w6')$$);
SELECT current_user;
RESET ROLE;
DROP TRIGGER evil ON users;

-- a default, a rule-free generated column and an index expression of the owner: his functions run as him
SET ROLE regress_tb_owner;
CREATE FUNCTION spy(x integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'index expression runs as %', current_user; RETURN x; END$$;
CREATE INDEX ON users (spy(token_balance));
RESET ROLE;
SELECT settle_workflow('w6') ->> 'success' AS success;
DROP FUNCTION spy CASCADE;

-- detach: owner of all, or superuser
GRANT EXECUTE ON FUNCTION token_balance.detach TO regress_tb_owner, regress_tb_other;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_other;
SET ROLE regress_tb_other;
CALL pg_temp.try($$SELECT token_balance.detach()$$);
SET ROLE regress_tb_owner;
SELECT token_balance.detach();
-- and attaches again: what detach takes back is what attach gave, not what the superuser did
SELECT token_balance.attach('users', 'token_usage', 'workflows');
RESET ROLE;
SELECT token_balance.detach();
SELECT count(*) FROM token_balance.binding WHERE detached_at IS NULL;

-- an attach inside CREATE EXTENSION grants the same, and as an ordinary grant that a dump carries, not as an initial privilege
DROP EXTENSION token_balance;
CREATE EXTENSION token_balance SCHEMA pv;
SELECT has_function_privilege('regress_tb_owner', 'pv.settle_workflow(text)', 'EXECUTE') AS settle,
  has_function_privilege('regress_tb_owner', 'token_balance.balance(text, name)', 'EXECUTE') AS balance,
  has_schema_privilege('regress_tb_owner', 'token_balance', 'USAGE') AS usage;
SELECT count(*) AS initial_grants FROM pg_init_privs i, aclexplode(i.initprivs) a WHERE a.grantee = 'regress_tb_owner'::regrole;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA pv CASCADE;
DROP ROLE regress_tb_owner, regress_tb_app, regress_tb_other;
