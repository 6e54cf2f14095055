-- Tenants of several owners in one database: who may call a function may not look at, or touch, what is not his (DESIGN O17).
\set SHOW_CONTEXT never
SET client_min_messages = error;
DROP ROLE IF EXISTS regress_tb_one, regress_tb_two, regress_tb_both, regress_tb_app;
CREATE ROLE regress_tb_one;
CREATE ROLE regress_tb_two;
CREATE ROLE regress_tb_both;
CREATE ROLE regress_tb_app;
SET client_min_messages = warning;
CREATE SCHEMA so;
SET search_path = so, public;
\i common/try.sql
GRANT USAGE ON SCHEMA so TO PUBLIC;
CREATE EXTENSION token_balance SCHEMA so;
GRANT USAGE ON SCHEMA token_balance TO PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance TO regress_tb_one, regress_tb_two, regress_tb_both, regress_tb_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA so TO regress_tb_one, regress_tb_two, regress_tb_both, regress_tb_app;
GRANT SELECT ON ALL TABLES IN SCHEMA token_balance TO regress_tb_one;
CREATE PROCEDURE tenant(name text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE SCHEMA %I AUTHORIZATION regress_tb_%1$s; SET LOCAL ROLE regress_tb_%1$s;
    CREATE TABLE %1$I.users (id integer PRIMARY KEY); CREATE TABLE %1$I.token_usage (workflow_id integer, user_id integer, total_tokens integer);
    CREATE TABLE %1$I.workflows (id integer, status text); INSERT INTO %1$I.users VALUES (1), (2);
    SELECT token_balance.attach(%2$L, %3$L, %4$L, name => %1$L);
    INSERT INTO %1$I.token_usage VALUES (1, 1, 10), (2, 2, 5); INSERT INTO %1$I.workflows VALUES (1, %5$L), (2, %6$L)',
    name, name || '.users', name || '.token_usage', name || '.workflows', 'completed', 'running');
END $$;
CALL tenant('one');
CALL tenant('two');
CREATE PROCEDURE calls() LANGUAGE plpgsql AS $$
DECLARE statement text;
BEGIN
  FOREACH statement IN ARRAY ARRAY[
    $q$SELECT token_balance.balance('1')$q$, $q$SELECT token_balance.balance('1', 'two')$q$,
    $q$SELECT token_balance.credit('1', 1, binding => 'two') - 'note'$q$, $q$SELECT count(*) FROM token_balance.statement('1', binding => 'two')$q$,
    $q$SELECT settle_workflow(2) - 'success'$q$, $q$SELECT settle_workflow(2, 'two') - 'success'$q$,
    $q$SELECT token_balance.settle_pending()$q$, $q$SELECT token_balance.refund_workflow('1') ->> 'amount'$q$,
    $q$SELECT token_balance.correct_workflow('1') ->> 'amount'$q$, $q$SELECT token_balance.correct_workflow('1', 'two') ->> 'amount'$q$,
    $q$SELECT string_agg(DISTINCT binding, ' ') FROM token_balance.usage_state()$q$, $q$SELECT string_agg(DISTINCT binding, ' ') FROM token_balance.verify()$q$,
    $q$SELECT count(*) FROM token_balance.reconcile()$q$, $q$SELECT count(*) FROM token_balance.reconcile('two')$q$,
    $q$SELECT count(*) FROM token_balance.overdrawn_accounts('two')$q$, $q$SELECT token_balance.exempt_pending(binding => 'two')$q$,
    $q$SELECT token_balance.detach(name => 'two')$q$, $q$SELECT token_balance.attach_again('two')$q$, $q$SELECT token_balance.reset('two')$q$]
  LOOP
    RAISE WARNING '%', statement;
    CALL pg_temp.try(statement);
  END LOOP;
END $$;

-- the other's owner
BEGIN;
SET LOCAL ROLE regress_tb_one;
CALL calls();
ROLLBACK;
-- an application of neither
BEGIN;
SET LOCAL ROLE regress_tb_app;
CALL pg_temp.try($$SELECT token_balance.balance('1')$$);
CALL pg_temp.try($$SELECT token_balance.balance('1', 'one')$$);
CALL pg_temp.try($$SELECT settle_workflow(2)$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.usage_state()$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.verify()$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.reconcile()$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.overdrawn_accounts()$$);
ROLLBACK;
-- accounts of the other's do not leave by her, and nobody's receipt counts that she passes on
BEGIN;
SELECT token_balance.export_account(1, 'elsewhere', 'two') ->> 'balance' AS balance;
CREATE FUNCTION receipt(said text) RETURNS jsonb LANGUAGE sql AS $$
  SELECT jsonb_build_object('token', token, 'user_id', user_id, 'database', database, 'state', said, 'replayed', false) FROM token_balance.account_move $$;
SET LOCAL ROLE regress_tb_one;
CALL pg_temp.try($$SELECT token_balance.export_account(2, 'elsewhere', 'two')$$);
CALL pg_temp.try($$SELECT token_balance.confirm_export(receipt('imported'))$$);
CALL pg_temp.try($$SELECT token_balance.take_back_account(receipt('refused'))$$);
ROLLBACK;
-- the hint is right: who may read the users tables
BEGIN;
GRANT USAGE ON SCHEMA one, two TO regress_tb_both;
GRANT SELECT ON one.users, two.users TO regress_tb_both;
SET LOCAL ROLE regress_tb_both;
CALL pg_temp.try($$SELECT token_balance.balance('1')$$);
SELECT token_balance.balance('1', 'one'), token_balance.balance('1', 'two');
SELECT jsonb_path_query_array(settle_workflow(2), '$.charges[*].binding');
ROLLBACK;
-- a completion charges, whoever completes
BEGIN;
GRANT USAGE ON SCHEMA two TO regress_tb_app;
GRANT SELECT, UPDATE ON two.workflows TO regress_tb_app;
SET LOCAL ROLE regress_tb_app;
UPDATE two.workflows SET status = 'completed' WHERE id = 2;
RESET ROLE;
SELECT * FROM two.users ORDER BY id;
-- of one owner alone there is nothing to guard
SELECT token_balance.detach(name => 'one');
SET LOCAL ROLE regress_tb_app;
SELECT token_balance.balance('2');
ROLLBACK;
SELECT problem, binding FROM token_balance.reconcile();
-- a stated limit: what a trigger of the owner prepares stays in the session (DESIGN O18)
CREATE FUNCTION two.prepares() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'PREPARE of_two AS SELECT 1'; RETURN NEW; END $$;
CREATE TRIGGER prepares BEFORE UPDATE ON two.users FOR EACH ROW EXECUTE FUNCTION two.prepares();
SELECT settle_workflow(2, 'one') ->> 'status' AS status;
SELECT name FROM pg_prepared_statements;
SELECT settle_workflow(2, 'two') ->> 'status' AS status;
SELECT name FROM pg_prepared_statements;
DEALLOCATE of_two;

SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA one, two, so CASCADE;
DROP ROLE regress_tb_one, regress_tb_two, regress_tb_both, regress_tb_app;
