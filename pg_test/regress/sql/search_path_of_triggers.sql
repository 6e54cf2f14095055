-- Names that the owner's triggers do not qualify: found in the schemas that attach has kept, by whoever completes a run, and never where the caller wants them to be (DESIGN F8, O14, X1, X2, X5, X6, X7, X8, X9, X10).
\set SHOW_CONTEXT never
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE ROLE regress_tb_owner;
CREATE ROLE regress_tb_low;
CREATE SCHEMA app AUTHORIZATION regress_tb_owner;
CREATE SCHEMA audit AUTHORIZATION regress_tb_owner;
CREATE SCHEMA extensions;
CREATE SCHEMA playground;
GRANT USAGE ON SCHEMA app TO regress_tb_low;
GRANT USAGE ON SCHEMA extensions TO PUBLIC;
GRANT CREATE, USAGE ON SCHEMA playground TO PUBLIC;
CREATE FUNCTION extensions.stamp(text) RETURNS text LANGUAGE sql AS $$SELECT '<' || $1 || '>'$$;
CREATE PROCEDURE playground.try(statement text) LANGUAGE plpgsql AS $$
DECLARE state text; message text; detail text; hint text;
BEGIN
  EXECUTE statement;
  RAISE WARNING 'no error';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RAISE WARNING '%', concat_ws(' / ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;

SET ROLE regress_tb_owner;
SET search_path = app;
CREATE TABLE users (id text PRIMARY KEY, name text);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, model text, created_at timestamptz DEFAULT now());
CREATE INDEX ON token_usage (workflow_id);
CREATE INDEX ON token_usage (user_id, created_at);
CREATE TABLE secret (x text);
CREATE TABLE log (who text, balance text, n integer GENERATED ALWAYS AS IDENTITY);
CREATE TABLE audit.trail (what text);
INSERT INTO users VALUES ('ann'), ('bob');
-- as most triggers are written: names without a schema, no SET search_path
CREATE FUNCTION log_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO log (who, balance) VALUES (new.id, stamp(new.token_balance::text));
  INSERT INTO trail VALUES (new.id || ' as ' || current_user || ', search_path ' || current_setting('search_path'));
  RETURN new;
END $$;
GRANT SELECT, INSERT, UPDATE ON workflows, token_usage TO regress_tb_low;
RESET ROLE;

-- attach keeps the bound tables' schema, and of the attacher's path what nobody else may create in
CREATE EXTENSION token_balance SCHEMA extensions;
SELECT count(*) AS bound FROM token_balance.binding;
GRANT USAGE ON SCHEMA token_balance TO regress_tb_low;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, extensions TO regress_tb_low;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO regress_tb_low;
SET search_path = playground, extensions, pg_catalog, pg_temp, missing, audit;
CREATE TEMP TABLE makes_the_temporary_schema ();
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows');
SELECT search_path FROM token_balance.binding;
SELECT ok, detail FROM token_balance.verify() WHERE name = 'search_path';
SET ROLE regress_tb_owner;
CREATE TRIGGER zz_log AFTER UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.log_balance();
RESET ROLE;

-- a role that may only complete runs has a log of its own
SET ROLE regress_tb_low;
RESET search_path;
CREATE TEMP TABLE log (who text, balance text);
CREATE TEMP TABLE trail (what text);
GRANT ALL ON log, trail TO PUBLIC;
CREATE FUNCTION pg_temp.steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE WARNING 'ran as %', current_user;
  EXECUTE 'GRANT SELECT ON app.secret TO regress_tb_low';
  RETURN new;
END $$;
CREATE TRIGGER t BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION pg_temp.steal();
CREATE TRIGGER t BEFORE INSERT ON trail FOR EACH ROW EXECUTE FUNCTION pg_temp.steal();
CREATE FUNCTION playground.stamp(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'ran as %', current_user; RETURN $1; END$$;
SET search_path = pg_temp, playground, app;
INSERT INTO app.workflows VALUES ('w1', 'ann');
INSERT INTO app.token_usage VALUES ('w1', 'ann', 5);
UPDATE app.workflows SET status = 'completed' WHERE id = 'w1';
SELECT has_table_privilege('app.secret', 'select') AS got_the_secret, (SELECT count(*) FROM log) AS hers;
SHOW search_path;
RESET ROLE;
SELECT who, balance FROM app.log;
SELECT what FROM audit.trail;

-- every way to a charge, with an empty search_path and with one that has another log in front
CREATE FUNCTION playground.all_ways() RETURNS TABLE (way text, logged bigint) LANGUAGE plpgsql AS $$
DECLARE
  step text;
  before bigint;
BEGIN
  FOREACH step IN ARRAY ARRAY[
    $q$UPDATE app.workflows SET status = 'completed'$q$,
    $q$SELECT extensions.settle_workflow('w2')$q$,
    $q$SELECT FROM token_balance.settle_workflows('{w2}')$q$,
    $q$SELECT token_balance.settle_pending()$q$,
    $q$SELECT token_balance.credit('bob', 1)$q$,
    $q$SELECT token_balance.refund_workflow('w2', 1)$q$,
    $q$SELECT token_balance.summary('bob')$q$,
    $q$SELECT FROM token_balance.reconcile()$q$] LOOP
    INSERT INTO app.workflows VALUES ('w2', 'bob') ON CONFLICT (id) DO UPDATE SET status = 'running';
    INSERT INTO app.token_usage VALUES ('w2', 'bob', 1);
    IF step ~ 'pending' THEN
      SET LOCAL session_replication_role = replica;
      UPDATE app.workflows SET status = 'completed';
      SET LOCAL session_replication_role = origin;
    END IF;
    SELECT count(*) INTO before FROM app.log;
    EXECUTE step;
    way := coalesce(substring(step FROM '(\w+)\('), 'UPDATE');
    SELECT count(*) - before INTO logged FROM app.log;
    RETURN NEXT;
  END LOOP;
END $$;
SET search_path = '';
SELECT * FROM playground.all_ways();
SET search_path = pg_temp, playground;
SELECT * FROM playground.all_ways();
SELECT DISTINCT what FROM audit.trail;
-- the procedure commits, and no level of settings may be open then
INSERT INTO app.token_usage SELECT 'w2', 'bob', 1 FROM generate_series(1, 3);
CALL token_balance.settle_backlog(1);
SHOW search_path;
-- charges by way of the queue, and late usage
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', busy_account => 'queue', late_usage => 'settle');
UPDATE app.workflows SET status = 'completed';
SELECT * FROM playground.all_ways();
INSERT INTO app.token_usage VALUES ('w2', 'bob', 1);
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows');
SELECT search_path FROM token_balance.binding;
SELECT DISTINCT what FROM audit.trail;
SELECT (SELECT count(*) FROM pg_temp.log) AS hers, (SELECT count(*) FROM token_balance.reconcile()) AS problems;

-- what a trigger sets ends with the charge, and the session's own setting is what it was
SET ROLE regress_tb_owner;
CREATE FUNCTION app.sets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF new.name = 'local' THEN PERFORM set_config('search_path', 'pg_temp', true), set_config('app.seen', 'local', true);
  ELSIF new.name = 'session' THEN PERFORM set_config('search_path', 'pg_temp', false);
  ELSIF new.name = 'same' THEN PERFORM set_config('search_path', current_setting('search_path'), false);
  ELSIF new.name = 'caught' THEN
    BEGIN
      SET search_path = pg_temp;
      RAISE EXCEPTION 'caught';
    EXCEPTION WHEN raise_exception THEN NULL;
    END;
  ELSIF new.name = 'error' THEN
    SET search_path = pg_temp;
    RAISE EXCEPTION 'error';
  END IF;
  RETURN new;
END $$;
CREATE TRIGGER zzz_sets AFTER UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.sets();
RESET ROLE;
SET search_path = playground, app;
CREATE FUNCTION playground.after(how text) RETURNS TABLE (logged bigint, path text, seen text) LANGUAGE plpgsql AS $$
DECLARE before bigint := (SELECT count(*) FROM app.log);
BEGIN
  SET LOCAL session_replication_role = replica;
  UPDATE app.users SET name = how WHERE id = 'ann';
  SET LOCAL session_replication_role = origin;
  INSERT INTO app.token_usage VALUES ('w3', 'ann', 1), ('w3', 'bob', 1);
  PERFORM extensions.settle_workflow('w3');
  RETURN QUERY SELECT count(*) - before, current_setting('search_path'), current_setting('app.seen', true) FROM app.log;
END $$;
INSERT INTO app.workflows VALUES ('w3', 'ann');
SELECT * FROM playground.after('local');
SHOW search_path;
SELECT * FROM playground.after('session');
SHOW search_path;
SELECT * FROM playground.after('same');
SHOW search_path;
SELECT * FROM playground.after('caught');
SHOW search_path;
SELECT * FROM playground.after('error');
SHOW search_path;
-- within a transaction: a local setting of the caller's stays, before and after
BEGIN;
SET LOCAL search_path = playground;
SELECT logged, path FROM playground.after('session');
SAVEPOINT s;
SELECT logged, path FROM playground.after('error');
ROLLBACK TO s;
SHOW search_path;
SELECT logged, path FROM playground.after('none');
SET LOCAL search_path = app;
SHOW search_path;
COMMIT;
SHOW search_path;
-- a trigger with a search_path of its own that settles another run
SET ROLE regress_tb_owner;
CREATE FUNCTION app.settles() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_temp, extensions AS $$
BEGIN
  IF new.id = 'ann' THEN
    INSERT INTO app.token_usage VALUES ('w4', 'bob', 1);
    PERFORM settle_workflow('w4');
    INSERT INTO audit.trail VALUES ('after that ' || current_setting('search_path'));
  END IF;
  RETURN new;
END $$;
CREATE TRIGGER xx_settles AFTER UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.settles();
RESET ROLE;
TRUNCATE audit.trail;
SELECT * FROM playground.after('none');
SELECT what, count(*) FROM audit.trail GROUP BY 1 ORDER BY 1;
SHOW search_path;
DROP TRIGGER xx_settles ON app.users;
DROP TRIGGER zzz_sets ON app.users;

-- another search_path: named, equal, none
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{audit,playground,app,extensions}');
SELECT search_path FROM token_balance.binding;
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{audit,playground,app,extensions}');
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows');
SELECT search_path FROM token_balance.binding;
CALL playground.try($$SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,missing}')$$);
CALL playground.try($$SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,pg_temp}')$$);
CALL playground.try($$SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,$user}')$$);
CALL playground.try($$SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,audit,app}')$$);
CALL playground.try($$SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,NULL}')$$);
SELECT search_path FROM token_balance.binding;

-- verify: a role may create where names are looked up; each hint, followed, helps
CREATE VIEW playground.bad AS SELECT name, detail, hint FROM token_balance.verify() WHERE NOT ok ORDER BY 1;
CREATE ROLE regress_tb_third;
GRANT CREATE ON SCHEMA app TO regress_tb_low;
ALTER SCHEMA playground OWNER TO regress_tb_third;
SELECT * FROM playground.bad \gx
SELECT hint FROM playground.bad \gexec
SELECT * FROM playground.bad;
SELECT search_path FROM token_balance.binding;
-- who may act as an owner is none of them; nor does it matter if all functions have a search_path
GRANT regress_tb_owner TO regress_tb_third;
GRANT CREATE ON SCHEMA app TO regress_tb_third;
SELECT * FROM playground.bad;
REVOKE regress_tb_owner FROM regress_tb_third;
SELECT name, hint FROM playground.bad;
ALTER FUNCTION app.log_balance() SET search_path = app, audit, extensions;
SELECT name, hint FROM playground.bad;
-- all kinds of code count: constraints, defaults, index expressions, policies
SET ROLE regress_tb_owner;
CREATE FUNCTION app.fine(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
ALTER TABLE app.users ADD CHECK (app.fine(name));
RESET ROLE;
SELECT name, substring(detail FROM ', and these.*') AS functions FROM playground.bad;
ALTER TABLE app.users DROP CONSTRAINT users_name_check;
CREATE INDEX ON app.users (app.fine(name));
SELECT name, substring(detail FROM ', and these.*') AS functions FROM playground.bad;
DROP FUNCTION app.fine CASCADE;
REVOKE CREATE ON SCHEMA app FROM regress_tb_third;
ALTER FUNCTION app.log_balance() RESET search_path;
-- a schema that is gone: whoever makes one of that name could put things there
CREATE SCHEMA passing;
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', search_path => '{app,passing,audit,extensions}');
DROP SCHEMA passing;
SELECT name, detail FROM playground.bad;
SELECT hint FROM playground.bad \gexec
SELECT name, detail FROM playground.bad;
-- the bound tables' schema belongs to somebody else
GRANT USAGE ON SCHEMA app TO regress_tb_owner;
ALTER SCHEMA app OWNER TO regress_tb_third;
GRANT USAGE, CREATE ON SCHEMA app TO regress_tb_owner;
SELECT name, hint FROM playground.bad;
SELECT hint FROM playground.bad \gexec
SELECT name, hint FROM playground.bad;
-- a deferrable trigger on users runs at the commit, when no path but the session's is in force
SET ROLE regress_tb_owner;
CREATE CONSTRAINT TRIGGER deferred_log AFTER UPDATE ON app.users DEFERRABLE FOR EACH ROW EXECUTE FUNCTION app.log_balance();
CREATE TABLE app.profiles (id text REFERENCES app.users DEFERRABLE);
RESET ROLE;
SELECT * FROM playground.bad \gx
SELECT hint FROM playground.bad \gexec
SELECT * FROM playground.bad;
BEGIN;
SET CONSTRAINTS app.deferred_log DEFERRED;
INSERT INTO app.token_usage VALUES ('w3', 'ann', 1);
SELECT extensions.settle_workflow('w3') ->> 'status' AS status;
TRUNCATE app.log;
COMMIT;
SELECT who FROM app.log;
DROP TRIGGER deferred_log ON app.users;
ALTER FUNCTION app.log_balance() RESET search_path;

-- the schema may be renamed; a binding from an older dump has chosen nothing
ALTER SCHEMA app RENAME TO application;
\c -
\set VERBOSITY terse
SET client_min_messages = warning;
TRUNCATE application.log;
INSERT INTO application.token_usage VALUES ('w3', 'ann', 1);
SELECT extensions.settle_workflow('w3') ->> 'status' AS status;
SELECT who FROM application.log;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'search_path' \gx
SELECT hint FROM token_balance.verify() WHERE name = 'search_path' \gexec
SELECT search_path FROM token_balance.binding;
SELECT name FROM token_balance.verify() WHERE NOT ok;
ALTER SCHEMA application RENAME TO app;
UPDATE token_balance.binding SET search_path = NULL;
\c -
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = playground, extensions, audit;
SELECT detail FROM bad WHERE name = 'search_path';
INSERT INTO app.token_usage VALUES ('w3', 'ann', 1);
CALL try($$SELECT settle_workflow('w3')$$);
SELECT 'SELECT ' || substring(hint FROM 'token_balance[.]attach[(].*[)]') FROM bad WHERE name = 'search_path' \gexec
SELECT search_path FROM token_balance.binding;
SELECT settle_workflow('w3') ->> 'status' AS status;
SELECT * FROM bad;

-- what the DBA puts on the extension's tables runs as a superuser: what the tables' owner has made is not found by it
CREATE TABLE extensions.outbox (what text);
CREATE FUNCTION extensions.tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO outbox VALUES (new.kind); RETURN new; END$$;
CREATE TRIGGER tell AFTER INSERT ON token_balance.ledger FOR EACH ROW EXECUTE FUNCTION extensions.tell();
SET ROLE regress_tb_owner;
CREATE TABLE app.outbox (what text);
CREATE FUNCTION app.steal() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'ran as %', current_user; RETURN new; END$$;
CREATE TRIGGER steal BEFORE INSERT ON app.outbox FOR EACH ROW EXECUTE FUNCTION app.steal();
INSERT INTO app.token_usage VALUES ('w3', 'ann', 1);
SELECT extensions.settle_workflow('w3') ->> 'status' AS status;
RESET ROLE;
SELECT * FROM extensions.outbox;
DROP TRIGGER tell ON token_balance.ledger;

-- an archive: its schema, and of the caller's path what the archive's owner may trust
CREATE TABLE extensions.old_entries (LIKE token_balance.ledger);
CREATE FUNCTION extensions.on_archive() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO outbox VALUES (current_setting('search_path')); RETURN new; END$$;
CREATE TRIGGER on_archive AFTER INSERT ON extensions.old_entries EXECUTE FUNCTION extensions.on_archive();
TRUNCATE extensions.outbox;
SET search_path = app, playground, extensions;
SELECT token_balance.archive_ledger(now(), 'old_entries') ->> 'archive' AS archive;
SELECT * FROM extensions.outbox;

-- what is read by a cursor, or for a summary, runs code as well: here a cast of the owner's
SELECT token_balance.detach();
SET ROLE regress_tb_owner;
SET search_path = app;
CREATE TYPE state AS ENUM ('running', 'completed');
CREATE TABLE labels (state state, label text);
INSERT INTO labels VALUES ('running', 'running'), ('completed', 'completed');
CREATE FUNCTION state_text(state) RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT label FROM labels WHERE labels.state = $1); END$$;
CREATE CAST (state AS text) WITH FUNCTION state_text(state);
CREATE TABLE runs (id text PRIMARY KEY, status state);
CREATE TABLE calls (workflow_id text, user_id text, total_tokens integer, stage state, created_at timestamptz DEFAULT now());
INSERT INTO runs VALUES ('r1', 'running');
INSERT INTO calls VALUES ('r1', 'ann', 1, 'completed');
RESET ROLE;
SET search_path = extensions, audit;
SELECT token_balance.attach('app.users', 'app.calls', 'app.runs', existing_usage => 'charge');
SET session_replication_role = replica;
UPDATE app.runs SET status = 'completed';
RESET session_replication_role;
CREATE TEMP TABLE labels (state app.state, label text);
SET search_path = pg_temp;
SELECT token_balance.settle_pending() -> 'tokens_used' AS tokens;
SELECT token_balance.summary('ann') #>> '{by_stage,0,stage}' AS stage;
INSERT INTO app.calls VALUES ('r1', 'ann', 1, 'completed');
CALL token_balance.settle_backlog(1);
SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'r1';

RESET search_path;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA app, audit, extensions, playground CASCADE;
DROP ROLE regress_tb_owner, regress_tb_low, regress_tb_third;
