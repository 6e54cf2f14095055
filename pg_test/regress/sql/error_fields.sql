-- An error that passes a charge keeps what it is about: SQLSTATE, schema, table, column, type and constraint.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA ef;
SET search_path = ef, public;
CREATE DOMAIN small AS integer CONSTRAINT small_enough CHECK (value < 50);
CREATE TABLE seats (user_id text PRIMARY KEY);
CREATE TABLE users (id text PRIMARY KEY, seat text REFERENCES seats, last_low small, note text NOT NULL DEFAULT '');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
CREATE EXTENSION token_balance SCHEMA ef;
INSERT INTO users (id) VALUES ('ann');
INSERT INTO workflows VALUES ('w1', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100);
CREATE FUNCTION pg_temp.fields(command text) RETURNS TABLE (code text, schema_name text, table_name text, column_name text, type_name text, constraint_name text) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE command;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, schema_name = SCHEMA_NAME, table_name = TABLE_NAME,
    column_name = COLUMN_NAME, type_name = PG_DATATYPE_NAME, constraint_name = CONSTRAINT_NAME;
  RETURN NEXT;
END $$;
CREATE VIEW ways AS SELECT way FROM unnest(ARRAY['UPDATE users SET token_balance = token_balance - 100',
  $$SELECT settle_workflow('w1')$$, $$UPDATE workflows SET status = 'completed'$$,
  $$SELECT token_balance.credit('ann', 1)$$, 'SELECT token_balance.settle_pending()']) AS way;

-- a CHECK on users
ALTER TABLE users ADD CONSTRAINT plan_floor CHECK (token_balance >= 1000000 OR users IS NULL) NOT VALID, ADD CONSTRAINT plan_ceiling CHECK (token_balance <= 1000000);
SELECT way, f.* FROM ways, pg_temp.fields(way) AS f;
-- what completes without the extension's word is settled later, with the same error
ALTER TABLE workflows DISABLE TRIGGER USER;
UPDATE workflows SET status = 'completed';
SELECT f.* FROM pg_temp.fields('SELECT token_balance.settle_pending()') AS f;
UPDATE workflows SET status = 'running';
ALTER TABLE workflows ENABLE TRIGGER USER;
ALTER TABLE users DROP CONSTRAINT plan_floor, DROP CONSTRAINT plan_ceiling;

-- a trigger that breaks a domain, a NOT NULL, a foreign key; and one with words of its own
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  CASE TG_ARGV[0]
    WHEN 'domain' THEN NEW.last_low := 99;
    WHEN 'null' THEN NEW.note := NULL;
    WHEN 'foreign key' THEN NEW.seat := 'x';
    ELSE RAISE 'no' USING ERRCODE = 'PT402', SCHEMA = 'a', TABLE = 'b', COLUMN = 'c', DATATYPE = 'd', CONSTRAINT = 'e';
  END CASE;
  RETURN NEW;
END $$;
CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle('domain');
SELECT way, f.* FROM ways, pg_temp.fields(way) AS f;
DROP TRIGGER meddle ON users;
CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle('null');
SELECT way, f.* FROM ways, pg_temp.fields(way) AS f;
DROP TRIGGER meddle ON users;
CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle('foreign key');
SELECT way, f.* FROM ways, pg_temp.fields(way) AS f;
DROP TRIGGER meddle ON users;
CREATE TRIGGER meddle BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION meddle('else');
SELECT way, f.* FROM ways, pg_temp.fields(way) AS f;
DROP TRIGGER meddle ON users;

-- a constraint of the DBA's on the extension's own tables, which are written without SQL and with it
CREATE UNIQUE INDEX one_charge_each ON token_balance.ledger (user_id) WHERE workflow_id IS NOT NULL;
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w1', 'ann', 5);
SELECT f.* FROM pg_temp.fields($$SELECT settle_workflow('w1')$$) AS f;
DROP INDEX token_balance.one_charge_each;
ALTER TABLE token_balance.settlement ADD CONSTRAINT cheap_runs CHECK (charged_tokens <= 100);
SELECT f.* FROM pg_temp.fields($$SELECT settle_workflow('w1')$$) AS f;
ALTER TABLE token_balance.settlement DROP CONSTRAINT cheap_runs;
-- a warning on the way does not lend its code to an error of ours
CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'w' USING ERRCODE = 'PT999', CONSTRAINT = 'nobody'; RETURN NULL; END $$;
CREATE TRIGGER warn BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION warn();
SELECT f.* FROM pg_temp.fields($$SELECT settle_workflow('w1')$$) AS f;
DROP TRIGGER warn ON users;
SELECT settle_workflow('w1') ->> 'tokens_used' AS tokens_used;
SELECT token_balance FROM users;
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ef CASCADE;
