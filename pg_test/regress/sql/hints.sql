-- Hints, followed to the letter, lose nothing: what is exempt stays exempt, what is not charged yet is charged, once (DESIGN B3, B5, B6).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA hi;
SET search_path = hi, public;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA hi;
-- a platform with usage from before, a run that was charged, and one that is open: 7 is owed
CREATE PROCEDURE platform() LANGUAGE plpgsql AS $$
BEGIN
  CREATE TABLE users (id text PRIMARY KEY);
  CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
  CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
  INSERT INTO users VALUES ('ann');
  INSERT INTO workflows VALUES ('old', 'ann', 'completed'), ('before', 'ann', 'running');
  INSERT INTO token_usage VALUES ('old', 'ann', 1000), ('before', 'ann', 100);
  PERFORM token_balance.attach('users', 'token_usage', 'workflows');
  INSERT INTO workflows VALUES ('done', 'ann'), ('open', 'ann');
  INSERT INTO token_usage VALUES ('done', 'ann', 10), ('open', 'ann', 7);
  UPDATE workflows SET status = 'completed' WHERE id = 'done';
END $$;
-- the call of attach that verify() names, or the hint of an error
CREATE FUNCTION call_of(hint text) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT ' || substring(hint FROM 'token_balance\.attach\([^)]*\)(?:[^()]*\))?') $$;
CREATE FUNCTION hint_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
  EXECUTE statement;
  RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
  RETURN hint;
END $$;
-- what has been charged once all is completed and swept, and what reconcile says
CREATE FUNCTION outcome(workflows regclass, status text DEFAULT 'status') RETURNS text LANGUAGE plpgsql AS $$
DECLARE charged bigint; problems text;
BEGIN
  EXECUTE format('UPDATE %s SET %I = ''completed'' WHERE %2$I <> ''completed''', workflows, status);
  PERFORM token_balance.settle_pending();
  SELECT sum(charged_tokens) INTO charged FROM token_balance.settlement;
  SELECT string_agg(problem, ', ') INTO problems FROM token_balance.reconcile();
  RETURN format('charged %s, to reconcile: %s', charged, coalesce(problems, 'nothing'));
END $$;

-- a table is renamed: verify() says so, and what it says lets it go on
BEGIN;
CALL platform();
ALTER TABLE workflows RENAME TO runs;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'binding';
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE name = 'binding' \gset
:call;
SELECT name FROM token_balance.verify() WHERE NOT ok AND name <> 'usage index' AND name <> 'summary index';
SELECT outcome('runs');
ROLLBACK;
-- a column is renamed: the same, and so with a detach in between
BEGIN;
CALL platform();
ALTER TABLE workflows RENAME status TO state;
SELECT settle_workflow('before') ->> 'tokens_used' AS charged;
SELECT detail, hint FROM token_balance.verify() WHERE name = 'binding';
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE name = 'binding' \gset
:call;
SELECT name FROM token_balance.verify() WHERE NOT ok AND name <> 'usage index' AND name <> 'summary index';
SELECT outcome('workflows', 'state');
ROLLBACK;
BEGIN;
CALL platform();
ALTER TABLE token_usage RENAME total_tokens TO tokens;
SELECT hint_of($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{tokens}')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{tokens}');
SELECT outcome('workflows');
ROLLBACK;
-- where the numbers of columns are not known, as after a restore, the names count: the error names the argument; attach then names the way
BEGIN;
CALL platform();
DELETE FROM token_balance.bound_column;
ALTER TABLE workflows RENAME status TO state;
CALL pg_temp.try($$SELECT settle_workflow('open')$$);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_status => 'state')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_status => 'state');
SELECT outcome('workflows', 'state');
ROLLBACK;
BEGIN;
CALL platform();
DELETE FROM token_balance.bound_column;
ALTER TABLE token_usage RENAME total_tokens TO tokens;
SELECT hint_of($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{tokens}')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{tokens}');
SELECT outcome('workflows');
ROLLBACK;
-- users are made anew, usage is made anew
BEGIN;
CALL platform();
CREATE TABLE copy AS TABLE users;
DROP TABLE users CASCADE;
CREATE TABLE users (id text PRIMARY KEY, token_balance integer NOT NULL DEFAULT 1000000);
INSERT INTO users TABLE copy;
SELECT hint_of($$SELECT settle_workflow('open')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT outcome('workflows');
ROLLBACK;
BEGIN;
CALL platform();
CREATE TABLE copy AS TABLE token_usage;
DROP TABLE token_usage;
ALTER TABLE copy RENAME TO token_usage;
CALL pg_temp.try($$SELECT settle_workflow('open')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT outcome('workflows');
ROLLBACK;
-- usage is rebuilt beside the old table, which is renamed away
BEGIN;
CALL platform();
CREATE TABLE rebuilt AS TABLE token_usage;
ALTER TABLE token_usage RENAME TO token_usage_old;
ALTER TABLE rebuilt RENAME TO token_usage;
SELECT hint_of($$SELECT token_balance.attach('users', 'token_usage', 'workflows')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT outcome('workflows');
ROLLBACK;
-- what waits is to be forgiven: attach does not do that of one that goes on, and says what does
BEGIN;
CALL platform();
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'exempt')$$);
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.exempt_pending();
SELECT outcome('workflows');
ROLLBACK;
-- another usage table is another binding: no word of going on
BEGIN;
CALL platform();
CREATE TABLE images (LIKE token_usage);
SELECT hint_of($$SELECT token_balance.attach('users', 'images', 'workflows')$$);
ROLLBACK;

-- the status column is swapped for one of another type, by names, and the numbers are not known: the triggers go on to read the old one
BEGIN;
CALL platform();
DELETE FROM token_balance.bound_column;
CREATE TYPE state AS ENUM ('running', 'completed');
ALTER TABLE workflows ADD status_new state;
UPDATE workflows SET status_new = status::state;
ALTER TABLE workflows RENAME status TO status_old;
ALTER TABLE workflows RENAME status_new TO status;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger %';
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger %' LIMIT 1 \gset
:call;
SELECT name FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger %';
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT sum(charged_tokens) AS charged FROM token_balance.settlement;
ALTER TABLE workflows DROP status_old;
SELECT outcome('workflows');
ROLLBACK;
-- the same with a completion timestamp, where a trigger of the application's keeps ours from having a column list
BEGIN;
CALL platform();
SELECT token_balance.detach();
ALTER TABLE workflows ADD finished_at timestamptz;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION touch();
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_completed_at => 'finished_at');
DELETE FROM token_balance.bound_column;
ALTER TABLE workflows RENAME finished_at TO finished_old;
ALTER TABLE workflows ADD finished_at timestamptz;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger %';
SELECT token_balance.attach('users', 'token_usage', 'workflows', workflow_completed_at => 'finished_at');
UPDATE workflows SET finished_at = now() WHERE id = 'open';
SELECT sum(charged_tokens) AS charged FROM token_balance.settlement;
ROLLBACK;
-- a balance column that has another name, in a restored dump, which knows the one before: as it says
BEGIN;
CALL platform();
DELETE FROM token_balance.bound_column;
ALTER TABLE users RENAME token_balance TO credits;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok AND name LIKE 'column %';
SELECT count(*) AS entries FROM token_balance.ledger \gset
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', balance_column => 'credits');
SELECT count(*) = :entries AS entries, count(DISTINCT accounts_id) AS accounts FROM token_balance.ledger;
UPDATE workflows SET status = 'completed' WHERE id = 'open';
SELECT outcome('workflows');
SELECT problem FROM token_balance.reconcile();
SELECT name FROM token_balance.verify() WHERE NOT ok AND name LIKE 'column %';
ROLLBACK;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA hi CASCADE;
