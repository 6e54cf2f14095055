-- Columns are bound by number: one that is renamed stays bound, and another that takes its name is not read in its place (DESIGN B14, B15, B16).
\set SHOW_CONTEXT never
CREATE SCHEMA cr;
SET search_path = cr, public;
SET client_min_messages = warning;
\i common/try.sql
CREATE EXTENSION token_balance SCHEMA cr;
CREATE PROCEDURE platform(more text DEFAULT '') LANGUAGE plpgsql AS $$
BEGIN
  CREATE TABLE users (id text PRIMARY KEY);
  CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, extra_tokens integer DEFAULT 0, prompt_tokens integer,
    completion_tokens integer, model text, stage text, created_at timestamptz DEFAULT now());
  CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running', finished_at timestamptz);
  CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens, extra_tokens);
  CREATE INDEX ON token_usage (user_id, created_at);
  INSERT INTO users VALUES ('ann'), ('bob');
  EXECUTE format($c$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}' %s)$c$, more);
  INSERT INTO workflows (id, user_id) SELECT 'w' || n, 'ann' FROM generate_series(1, 9) AS n;
  INSERT INTO token_usage (workflow_id, user_id, total_tokens, extra_tokens, prompt_tokens, completion_tokens, model, stage)
    SELECT id, user_id, 100, 1, 60, 40, 'm', 's' FROM workflows;
END $$;
-- the next run completes by itself, the one after it by a call
CREATE FUNCTION complete(n integer, set_what text DEFAULT $$status = 'completed'$$, key text DEFAULT 'id') RETURNS text LANGUAGE plpgsql AS $$
DECLARE balance text; charged text;
BEGIN
  EXECUTE format('UPDATE workflows SET %s WHERE %I = %L', set_what, key, 'w' || n);
  PERFORM settle_workflow('w' || n + 1);
  SELECT token_balance.balance('ann') ->> 'token_balance' INTO balance;
  SELECT string_agg(workflow_id || ' ' || user_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id) INTO charged FROM token_balance.settlement;
  RETURN format('%s: %s', balance, charged);
END $$;
CREATE VIEW problems AS SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile() ORDER BY 1, 2, 3;
CREATE VIEW broken AS SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
CREATE FUNCTION call_of(hint text) RETURNS text LANGUAGE sql AS $$ SELECT 'SELECT ' || substring(hint FROM 'token_balance\.attach\([^)]*\)(?:[^()]*\))*') $$;

-- each of them in turn, in a session that knows the binding; another column takes the name
BEGIN;
CALL platform();
SELECT complete(1);
ALTER TABLE users RENAME id TO name;
ALTER TABLE users ADD id text DEFAULT 'bob';
ALTER TABLE token_usage RENAME user_id TO who;
ALTER TABLE token_usage ADD user_id text DEFAULT 'bob';
SELECT complete(3);
ALTER TABLE token_usage RENAME workflow_id TO run;
ALTER TABLE token_usage ADD workflow_id text DEFAULT 'w5';
ALTER TABLE token_usage RENAME total_tokens TO tokens;
ALTER TABLE token_usage ADD total_tokens integer DEFAULT 7777;
SELECT complete(5);
ALTER TABLE workflows RENAME status TO state;
ALTER TABLE workflows ADD status text DEFAULT 'completed';
ALTER TABLE workflows RENAME id TO run;
ALTER TABLE workflows ADD id text DEFAULT 'w1';
SELECT complete(7, $$state = 'completed'$$, 'run');
UPDATE workflows SET status = 'running';
UPDATE workflows SET status = 'completed';
SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w9';
ALTER TABLE token_usage RENAME prompt_tokens TO input;
ALTER TABLE token_usage RENAME completion_tokens TO output;
ALTER TABLE token_usage RENAME model TO engine;
ALTER TABLE token_usage RENAME stage TO step;
ALTER TABLE token_usage RENAME created_at TO at;
ALTER TABLE token_usage ADD prompt_tokens integer DEFAULT -1, ADD completion_tokens integer DEFAULT -1, ADD model text DEFAULT 'no', ADD stage text DEFAULT 'no',
  ADD created_at timestamptz DEFAULT '2001-01-01';
SELECT jsonb_pretty(s -> 'summary') AS summary, s -> 'by_model' AS by_model, s -> 'by_stage' AS by_stage FROM token_balance.summary('ann') AS s;
SELECT token_balance.settle_pending(since => now() - interval '1 day') ->> 'tokens_used' AS open_still;
UPDATE users SET token_balance = token_balance + 1 WHERE name = 'bob';
SELECT user_id, kind, amount FROM token_balance.ledger WHERE kind = 'adjustment';
SELECT detail, hint FROM token_balance.verify() WHERE name = 'binding';
SELECT name FROM broken;
-- what the hint says stores the names, and nothing else happens
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE name = 'binding' \gset
:call;
SELECT name, detail FROM broken;
SELECT user_key, usage_user, usage_workflow, usage_tokens, workflow_key, workflow_status, usage_model FROM token_balance.binding;
SELECT argument, position, told FROM token_balance.bound_column ORDER BY 1, 2;
-- by the names of before it would be another binding
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', user_key => 'name', usage_tokens => '{total_tokens,extra_tokens}')$$);
TABLE problems;
ROLLBACK;

-- the account of the workflow pays, a timestamp completes
BEGIN;
CALL platform($$, usage_user => NULL, workflow_completed_at => 'finished_at', late_usage => 'settle'$$);
SELECT complete(1, 'finished_at = now()');
ALTER TABLE workflows RENAME user_id TO payer;
ALTER TABLE workflows ADD user_id text DEFAULT 'bob';
ALTER TABLE workflows RENAME finished_at TO done_at;
ALTER TABLE workflows ADD finished_at timestamptz;
SELECT complete(3, 'done_at = now()');
UPDATE workflows SET finished_at = now() WHERE id = 'w5';
INSERT INTO token_usage (workflow_id, total_tokens) VALUES ('w3', 5), ('w5', 5);
SELECT workflow_id, user_id, charged_tokens FROM token_balance.settlement ORDER BY 1;
SELECT name, detail FROM broken;
SELECT token_balance.attach_again();
SELECT name, detail FROM broken;
SELECT workflow_user, workflow_completed_at FROM token_balance.binding;
UPDATE workflows SET done_at = now() WHERE id = 'w7';
SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w7';
TABLE problems;
ROLLBACK;

-- two columns exchange their names: both are text, both are integer
BEGIN;
CALL platform();
SELECT complete(1);
UPDATE token_usage SET completion_tokens = 5, prompt_tokens = 7;
ALTER TABLE token_usage RENAME user_id TO x;
ALTER TABLE token_usage RENAME workflow_id TO user_id;
ALTER TABLE token_usage RENAME x TO workflow_id;
ALTER TABLE token_usage RENAME total_tokens TO x;
ALTER TABLE token_usage RENAME completion_tokens TO total_tokens;
ALTER TABLE token_usage RENAME x TO completion_tokens;
ALTER TABLE workflows RENAME user_id TO x;
ALTER TABLE workflows RENAME id TO user_id;
ALTER TABLE workflows RENAME x TO id;
SELECT complete(3, key => 'user_id');
SELECT detail FROM token_balance.verify() WHERE name = 'binding';
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE name = 'binding' \gset
:call;
SELECT complete(5, key => 'user_id');
SELECT name, detail FROM broken;
-- within the list of token columns
ALTER TABLE token_usage RENAME extra_tokens TO x;
ALTER TABLE token_usage RENAME completion_tokens TO extra_tokens;
ALTER TABLE token_usage RENAME x TO completion_tokens;
SELECT complete(7, key => 'user_id');
TABLE problems;
ROLLBACK;

-- a script that attaches at each start goes on with the old name, as long as nobody has taken it
BEGIN;
CALL platform();
SELECT complete(1);
ALTER TABLE token_usage RENAME user_id TO who;
ALTER TABLE token_usage RENAME created_at TO at;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}');
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}');
SELECT complete(3);
SELECT name, detail FROM broken;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}', usage_user => 'who', usage_created_at => 'at');
SELECT name, detail FROM broken;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}', usage_user => 'who');
SELECT complete(5);
-- of a detached one, too
SELECT token_balance.detach();
ALTER TABLE token_usage RENAME who TO account;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}', usage_user => 'who');
SELECT complete(7);
SELECT count(*) FROM token_balance.binding;
-- with a column that has the name by now it is another binding, whose usage nobody has charged
SELECT token_balance.detach();
ALTER TABLE token_usage ADD who text;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}', usage_user => 'who');
SELECT count(*) FROM token_balance.binding;
ROLLBACK;

-- dropped, and made anew under its name: nothing of it is read, and users and usage are written all the same
BEGIN;
CALL platform($$, late_usage => 'settle'$$);
SELECT complete(1);
ALTER TABLE users ADD email text;
ALTER TABLE token_usage DROP user_id, ADD user_id text DEFAULT 'bob';
UPDATE users SET email = 'new';
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'bob';
SELECT token_balance.credit('bob', 10) ->> 'new_balance' AS bob;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w3', 'ann', 5), ('w1', 'ann', 6);
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
CALL pg_temp.try($$UPDATE workflows SET status = 'completed' WHERE id = 'w3'$$);
CALL pg_temp.try('SELECT token_balance.settle_pending()');
CALL pg_temp.try('SELECT token_balance.attach_again()');
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}')$$);
SELECT name, detail FROM broken;
SELECT call_of(hint) AS call FROM token_balance.verify() WHERE name = 'binding' \gset
UPDATE token_usage SET user_id = 'ann';
SELECT token_balance.detach();
:call;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS late;
SELECT complete(3);
SELECT count(*) FROM token_balance.binding;
ROLLBACK;
-- the others, each by itself
CREATE PROCEDURE drop_one(relation text, name text, more text DEFAULT '') LANGUAGE plpgsql AS $$
BEGIN
  CALL cr.platform(more);
  PERFORM cr.complete(1, $c$status = 'completed', finished_at = now()$c$);
  EXECUTE format('ALTER TABLE %s DROP %I CASCADE', relation, name);
  IF relation <> 'users' THEN
    UPDATE cr.users SET token_balance = token_balance + 1 WHERE id = 'bob';
  END IF;
  INSERT INTO token_usage (stage) VALUES ('s');
  EXECUTE format('ALTER TABLE %s ADD %I text', relation, name);
  INSERT INTO token_usage (stage) VALUES ('s');
END $$;
BEGIN;
CALL drop_one('token_usage', 'workflow_id');
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
SELECT name, detail FROM broken WHERE name = 'binding';
ROLLBACK;
BEGIN;
CALL drop_one('token_usage', 'extra_tokens');
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
ALTER TABLE token_usage DROP extra_tokens;
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT complete(3);
TABLE problems;
ROLLBACK;
BEGIN;
CALL drop_one('workflows', 'id');
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
CALL pg_temp.try($$UPDATE workflows SET status = 'completed'$$);
ROLLBACK;
-- the triggers that read a status go with it: nothing completes
BEGIN;
CALL drop_one('workflows', 'status');
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
UPDATE workflows SET status = 'completed';
SELECT count(*) FROM token_balance.settlement;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}');
SELECT token_balance.settle_pending() ->> 'tokens_used' AS completed_meanwhile;
ROLLBACK;
BEGIN;
CALL drop_one('workflows', 'finished_at', $$, workflow_completed_at => 'finished_at'$$);
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
ROLLBACK;
BEGIN;
CALL drop_one('workflows', 'user_id', $$, usage_user => NULL$$);
CALL pg_temp.try($$SELECT settle_workflow('w3')$$);
ROLLBACK;
-- without its key a row of users is nobody's account: it is written, but not its balance
BEGIN;
CALL drop_one('users', 'id');
UPDATE users SET id = ctid::text;
INSERT INTO users (id) VALUES ('new');
CALL pg_temp.try('UPDATE users SET token_balance = 0');
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT token_balance.credit('ann', 1)$$);
ROLLBACK;
-- what a summary shows is left out; attach takes the new one
BEGIN;
CALL drop_one('token_usage', 'model');
UPDATE token_usage SET model = 'new';
SELECT s -> 'by_model' AS by_model FROM token_balance.summary('ann') AS s;
SELECT complete(3);
SELECT name, detail FROM broken;
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}');
SELECT s -> 'by_model' AS by_model FROM token_balance.summary('ann') AS s;
SELECT name, detail FROM broken;
ROLLBACK;

-- the status is replaced by one of another type, by names: detach and attach go on with it
BEGIN;
CALL platform();
SELECT complete(1);
CREATE TYPE state AS ENUM ('running', 'completed');
ALTER TABLE workflows ADD status_new state;
UPDATE workflows SET status_new = status::state;
ALTER TABLE workflows RENAME status TO status_old;
ALTER TABLE workflows RENAME status_new TO status;
SELECT name, detail FROM broken;
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}')$$);
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_tokens => '{total_tokens,extra_tokens}');
SELECT complete(3);
SELECT name, detail FROM broken;
ROLLBACK;

-- numbers are no part of a dump: where they are not there the names count, as those of a row that was loaded by itself
BEGIN;
CALL platform();
SELECT complete(1);
DELETE FROM token_balance.bound_column;
SELECT complete(3);
SELECT name, detail FROM broken;
SELECT token_balance.attach_again();
SELECT count(*) FROM token_balance.bound_column;
UPDATE token_balance.binding SET usage_tokens = '{prompt_tokens,extra_tokens}';
ALTER TABLE users ADD x text;
ALTER TABLE token_usage ADD x text;
SELECT complete(5);
TABLE problems;
ROLLBACK;

-- a schema that the kept search_path names
BEGIN;
CALL platform();
ALTER SCHEMA cr RENAME TO cr_later;
SELECT token_balance.attach_again();
SELECT name FROM token_balance.verify() WHERE NOT ok;
SET LOCAL search_path = cr_later, public;
SELECT complete(1);
ROLLBACK;
SELECT 'token_balance.bound_column'::regclass = ANY (extconfig) AS is_dumped FROM pg_extension WHERE extname = 'token_balance';

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA cr CASCADE;
