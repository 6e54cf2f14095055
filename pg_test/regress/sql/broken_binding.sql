-- A bound table that is gone breaks settling and nothing else: users, balances and usage go on, and attach goes on with the table that took the place of a dropped workflow table (DESIGN B1, B2, B3, B4).
\set SHOW_CONTEXT never
CREATE SCHEMA bb;
SET search_path = bb, public;
\i common/tables.sql
ALTER TABLE users ADD password text;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA bb;
SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
\i common/try.sql
INSERT INTO workflows VALUES ('open', 'ann', 'running'), ('done', 'ann', 'running');
INSERT INTO token_usage VALUES ('open', 'ann', 900), ('done', 'ann', 100);
UPDATE workflows SET status = 'completed' WHERE id = 'done';
TABLE users ORDER BY id;

-- the application's script makes its workflow table anew
CREATE TABLE kept AS TABLE workflows;
DROP TABLE workflows;
UPDATE users SET password = 'of ann' WHERE id = 'ann';
INSERT INTO users VALUES ('cid', 'of cid');
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'bob';
SELECT token_balance.balance('ann'), token_balance.credit('bob', 10, 'payment');
SELECT token_balance.balance_at('bob', clock_timestamp());
SELECT kind, amount, new_balance FROM token_balance.statement('bob');
TABLE token_balance.overdrawn;
-- usage is not refused: one warning per statement
INSERT INTO token_usage VALUES ('open', 'ann', 50), ('done', 'ann', 7), ('done', 'bob', 3);
-- what settles, and what says that it cannot
CALL pg_temp.try($$SELECT settle_workflow('open')$$);
CALL pg_temp.try('SELECT token_balance.settle_pending()');
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
SELECT problem, hint FROM token_balance.reconcile();
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
INSERT INTO workflows TABLE kept;
-- it has no trigger yet
UPDATE workflows SET status = 'completed' WHERE id = 'open';
CALL pg_temp.try($$SELECT settle_workflow('open')$$);
UPDATE users SET password = 'another' WHERE id = 'ann';
TABLE users ORDER BY id;

-- what the hint says; nothing is forgotten, nothing is charged twice
SET client_min_messages = notice;
SELECT token_balance.attach(users => 'bb.users', usage => 'bb.token_usage', user_key => 'id', usage_user => 'user_id', usage_workflow => 'workflow_id', usage_tokens => ARRAY['total_tokens']::name[], workflows => 'bb.workflows', workflow_key => 'id', workflow_status => 'status', completed_statuses => ARRAY['completed', 'succeeded', 'success', 'finished', 'done']::text[], late_usage => 'settle');
SET client_min_messages = warning;
SELECT name, detail FROM token_balance.verify() WHERE NOT ok;
SELECT token_balance.settle_pending();
TABLE users ORDER BY id;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement ORDER BY 1, 2;
SELECT problem FROM token_balance.reconcile();
-- and it settles as before
INSERT INTO workflows VALUES ('next', 'bob');
INSERT INTO token_usage VALUES ('next', 'bob', 5);
UPDATE workflows SET status = 'completed' WHERE id = 'next';
TABLE users ORDER BY id;

-- a workflow table of another name and shape goes on, too; other columns of usage are another binding
DROP TABLE workflows;
CREATE TABLE runs (run text PRIMARY KEY, finished_at timestamptz);
CALL pg_temp.try($$SELECT token_balance.attach('users', 'token_usage', 'runs', workflow_key => 'run', workflow_completed_at => 'finished_at', usage_tokens => '{total_tokens}', late_usage => 'settle')$$);
INSERT INTO runs VALUES ('more', NULL);
INSERT INTO token_usage VALUES ('more', 'bob', 30), ('open', 'ann', 1);
UPDATE runs SET finished_at = now();
SELECT token_balance.settle_pending();
TABLE users ORDER BY id;
SELECT problem FROM token_balance.reconcile();

-- a column of usage that cannot be read any more
ALTER TABLE token_usage ALTER total_tokens TYPE numeric;
UPDATE users SET password = 'third' WHERE id = 'ann';
SELECT token_balance.balance('ann');
INSERT INTO token_usage VALUES ('more', 'ann', 2);
CALL pg_temp.try($$UPDATE runs SET finished_at = NULL; UPDATE runs SET finished_at = now()$$);
ALTER TABLE token_usage ALTER total_tokens TYPE integer;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
TABLE users ORDER BY id;

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA bb CASCADE;
