-- Accounts that move between databases: what leaves, what stays, what comes back, and what is refused (DESIGN Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z12, Z13, Z14).
\set SHOW_CONTEXT never
\set home :DBNAME
SET client_min_messages = warning;
DROP DATABASE IF EXISTS tb_elsewhere;
CREATE DATABASE tb_elsewhere TEMPLATE template0;
-- both databases have these tables
\set tables 'CREATE SCHEMA mv; SET search_path = mv, public; CREATE TABLE users (id bigint PRIMARY KEY, name text); CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id text, user_id bigint, total_tokens numeric, created_at timestamptz DEFAULT clock_timestamp()); CREATE TABLE workflows (id text PRIMARY KEY, user_id bigint, status text); CREATE EXTENSION token_balance SCHEMA mv'
\set problems 'SELECT problem, user_id, workflow_id, expected, found, binding FROM token_balance.reconcile()'
\set state 'SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state()'
\set statement 'SELECT entry_id, kind, amount, new_balance, workflow_id, reference FROM token_balance.statement(1)'
\set moves 'SELECT direction, user_id, database, state, balance, document IS NOT NULL AS has_document FROM token_balance.account_move ORDER BY moved_at'
:tables;
SET token_balance.database = 'north';
\i common/try.sql
INSERT INTO users VALUES (1, 'ann'), (2, 'bob'), (3, 'cid');
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1', 1, 100.25), ('w2', 1, 50), ('w3', 2, 70), ('w4', 1, 7), ('w4', 2, 5);
INSERT INTO workflows VALUES ('w1', 1, 'completed'), ('w2', 1, 'running'), ('w3', 2, 'completed'), ('w4', 1, 'completed');
SELECT token_balance.credit(1, 500, 'pay-1') ->> 'new_balance' AS balance;
SELECT token_balance.refund_workflow('w1', 30, 'r1') ->> 'amount' AS amount;
-- its workflow has had two ids
BEGIN;
UPDATE workflows SET id = 'w1b' WHERE id = 'w1';
UPDATE token_usage SET workflow_id = 'w1b' WHERE workflow_id = 'w1';
COMMIT;
SELECT settle_workflow('w1b') ->> 'status' AS status;
-- two have paid for w4, and a part of it is given back to the one
SELECT token_balance.refund_workflow('w4', 1, 'r4') -> 'refunds' -> 0 -> 'user_id' AS refunded;
CREATE TABLE old_ledger (LIKE token_balance.ledger);
-- what is wrong with a call
SELECT token_balance.export_account(NULL::bigint, 'south');
SELECT token_balance.export_account(1, NULL);
SELECT token_balance.export_account(1, '');
SELECT token_balance.export_account(1, 'north');
SELECT token_balance.export_account(9, 'south');
BEGIN READ ONLY;
SELECT token_balance.export_account(1, 'south');
ROLLBACK;
-- in the same command it is known to have left
BEGIN;
SELECT token_balance.export_account(3, 'south') ->> 'balance' AS balance, token_balance.credit(3, 1) AS credit;
ROLLBACK;
-- it leaves: once, with all that is known of it; and twice is the same
SELECT token_balance.export_account(1, 'south') AS document \gset
SELECT token_balance.export_account(1, 'south') = :'document'::jsonb AS is_same;
SELECT jsonb_pretty(:'document'::jsonb - '{token,digest,exported_at,exported_by,settlements,ledger}'::text[]) AS head;
SELECT s -> 'workflow_id' AS workflow, s -> 'binding' AS binding, s -> 'usage_tokens' AS used, s -> 'charged_tokens' AS charged, s -> 'refunded_tokens' AS refunded
  FROM jsonb_array_elements(:'document'::jsonb -> 'settlements') AS s;
-- no column of the tables is left out
SELECT c.relname, c.attname FROM (SELECT c.relname, a.attname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
  WHERE c.oid = ANY ('{token_balance.settlement,token_balance.ledger,token_balance.reference}'::regclass[]) AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname <> ALL ('{user_id,accounts_id,binding_id}')) AS c
  WHERE NOT (:'document'::jsonb -> CASE c.relname WHEN 'settlement' THEN 'settlements' WHEN 'reference' THEN 'references' ELSE 'ledger' END -> 0) ? c.attname;
SELECT count(*) FROM token_balance.ledger WHERE user_id = '1';
SELECT count(*) FROM token_balance.settlement WHERE user_id = '1';
SELECT id, token_balance FROM users ORDER BY id;
-- it is closed here, and what is called for it says where it is
SELECT token_balance.balance(1);
\echo :LAST_ERROR_SQLSTATE
SELECT token_balance.export_account(1, 'west');
SELECT token_balance.credit(1, 5);
SELECT token_balance.credit(1, 500, 'pay-1');
SELECT token_balance.adjust(1, 5);
SELECT token_balance.summary(1);
SELECT * FROM token_balance.statement(1);
SELECT token_balance.balance_at(1, now());
SELECT token_balance.refund_workflow('w1b');
SELECT token_balance.correct_workflow('w1b');
SELECT settle_workflow('w2');
UPDATE users SET token_balance = 5 WHERE id = 1;
UPDATE users SET id = 11 WHERE id = 1;
UPDATE users SET name = 'Ann' WHERE id = 1;
-- a reference is good for one refund, also where another has paid for the run, too
SELECT token_balance.refund_workflow('w4', 1, 'r4') - 'refunds' AS again;
BEGIN;
SELECT token_balance.refund_workflow('w4') - 'refunds' AS the_other;
ROLLBACK;
-- its runs keep their ids
BEGIN;
UPDATE workflows SET id = 'w4b' WHERE id = 'w4';
UPDATE token_usage SET workflow_id = 'w4b' WHERE workflow_id = 'w4';
COMMIT;
SET quote_all_identifiers = on;
SELECT token_balance.export_account(3, 'south') ->> 'balance' AS with_quoted_names;
RESET quote_all_identifiers;
-- its runs complete, and what they used waits; others of the same workflow are charged
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w4', 2, 1);
SELECT token_balance.settle_pending();
SELECT token_balance.exempt_pending();
:state;
SELECT workflow_id, user_id, state, reason, tokens FROM token_balance.unsettled ORDER BY 1, 2;
:problems;
-- elsewhere
\c tb_elsewhere
SET client_min_messages = warning;
:tables;
SET token_balance.database = 'west';
SELECT token_balance.import_account(:'document');
SET token_balance.database = 'south';
SELECT token_balance.import_account(NULL);
SELECT token_balance.import_account('{}');
SELECT token_balance.import_account('[]');
SELECT token_balance.import_account('{"format": 2, "token": "", "lineage": [], "source": "", "destination": "", "user_id": "", "account_ids": "", "balance": 0, "bindings": [], "digest": ""}');
SELECT token_balance.import_account(jsonb_set(:'document', '{balance}', '1000000000'));
SELECT token_balance.import_account(:'document');
BEGIN READ ONLY;
SELECT token_balance.import_account(:'document');
ROLLBACK;
INSERT INTO users VALUES (1, 'ann');
BEGIN;
SELECT token_balance.credit(1, 1) ->> 'success' AS success;
SELECT token_balance.import_account(:'document');
ROLLBACK;
BEGIN;
ALTER TABLE users ALTER token_balance TYPE smallint USING 0;
SELECT token_balance.import_account(:'document');
ROLLBACK;
BEGIN;
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'other', usage_ids => 'new');
SELECT token_balance.import_account(:'document');
ROLLBACK;
BEGIN;
SELECT token_balance.refuse_account(:'document') - 'token' AS receipt;
SELECT token_balance.import_account(:'document');
ROLLBACK;
SELECT token_balance.import_account(:'document') AS receipt \gset
SELECT :'receipt'::jsonb - 'token' AS receipt;
SELECT token_balance.import_account(:'document') - 'token' AS receipt;
SELECT token_balance.refuse_account(:'document');
-- with its whole chain, its references, and what is settled of its runs
:statement;
SELECT token_balance.credit(1, 500, 'pay-1') ->> 'replayed' AS replayed;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1b', 1, 100.25), ('w2', 1, 50), ('w4', 1, 7);
INSERT INTO workflows VALUES ('w1b', 1, 'completed'), ('w2', 1, 'completed'), ('w4', 1, 'completed');
:statement;
:state;
:problems;
SELECT token_balance.refund_workflow('w1', 10) ->> 'amount' AS amount;
-- home: the receipt has come, and so has the usage been carried over
\c :home
SET client_min_messages = warning;
SET search_path = mv, public;
SET token_balance.database = 'north';
SELECT token_balance.take_back_account(:'receipt');
SELECT token_balance.confirm_export('{}');
SELECT token_balance.confirm_export('7');
SELECT token_balance.confirm_export(jsonb_set(:'receipt', '{database}', '"west"'));
\set VERBOSITY sqlstate
SELECT token_balance.confirm_export(jsonb_set(:'receipt', '{user_id}', '"2"')) ->> 'success' AS success;
\set VERBOSITY default
SELECT token_balance.confirm_export(:'receipt') - 'token' AS confirmed;
SELECT token_balance.confirm_export(:'receipt') - 'token' AS confirmed;
SELECT token_balance.take_back_account(jsonb_set(:'receipt', '{state}', '"refused"'));
SELECT token_balance.export_account(1, 'south');
DELETE FROM token_usage WHERE user_id = 1;
DELETE FROM users WHERE id = 1;
:state;
:problems;
:moves;
-- its row comes again, and with it a balance that it does not have here
INSERT INTO users VALUES (1, 'ann');
:problems;
-- and back, from where it was charged
\c tb_elsewhere
SET client_min_messages = warning;
SET search_path = mv, public;
SET token_balance.database = 'south';
SELECT token_balance.export_account(1, 'north') AS back \gset
\c :home
SET client_min_messages = warning;
SET search_path = mv, public;
SET token_balance.database = 'north';
-- not by a document that knows nothing of how it left
\set VERBOSITY terse
BEGIN;
SET token_balance.database = 'south';
SELECT token_balance.import_account(:'document');
ROLLBACK;
\set VERBOSITY default
SELECT token_balance.import_account(:'back') - 'token' AS receipt;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) VALUES ('w1b', 1, 100.25), ('w2', 1, 50), ('w4', 1, 7), ('w4', 1, 2);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS late;
:statement;
:problems;
:moves;
-- an old document does not open it again
SELECT token_balance.import_account(:'back') ->> 'replayed' AS replayed;
-- it is taken back with the receipt of who refuses it, and with that alone
SELECT token_balance.export_account(1, 'south') AS document \gset
BEGIN;
SET LOCAL token_balance.database = 'south';
SELECT token_balance.refuse_account(:'document') AS receipt \gset
COMMIT;
SELECT token_balance.confirm_export(:'receipt');
DELETE FROM users WHERE id = 1;
SELECT token_balance.take_back_account(:'receipt');
INSERT INTO users VALUES (1, 'ann');
SELECT token_balance.take_back_account(:'receipt') - 'token' AS taken_back;
SELECT token_balance.take_back_account(:'receipt') - 'token' AS taken_back;
SELECT token_balance.confirm_export(jsonb_set(:'receipt', '{state}', '"imported"'));
:statement;
:problems;
SELECT token_balance.balance(1);
-- what waits in the queue is charged before it leaves, and a savepoint takes a move back
SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue');
BEGIN;
SAVEPOINT s;
SELECT token_balance.export_account(2, 'south') ->> 'balance' AS balance;
ROLLBACK TO s;
SELECT token_balance.credit(2, 1) ->> 'success' AS success;
ROLLBACK;
SELECT token_balance.balance(2);
-- an account that was given another id has entries under the old one: not all would go
UPDATE users SET id = 20 WHERE id = 2;
UPDATE token_usage SET user_id = 20 WHERE user_id = 2;
SELECT token_balance.export_account(20, 'south');
-- until these are archived, as the hint says
BEGIN;
SELECT token_balance.archive_usage(clock_timestamp()) ->> 'usage_rows' AS rows, token_balance.archive_ledger(clock_timestamp(), 'old_ledger') ->> 'entries' AS entries,
  token_balance.archive_settlements(clock_timestamp()) ->> 'settlements' AS settlements;
SELECT token_balance.export_account(20, 'south') ->> 'balance' AS balance;
ROLLBACK;
-- nor would what is of a binding that is detached
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'again', balance_column => 'second', existing_usage => 'charge');
SELECT token_balance.detach(name => 'default');
SELECT token_balance.attach('users', 'workflows', NULL, name => 'third', usage_workflow => 'id', usage_tokens => '{user_id}', existing_usage => 'charge', usage_created_at => NULL);
SELECT token_balance.export_account(1, 'south', 'third');
BEGIN;
SELECT token_balance.archive_ledger(clock_timestamp(), 'old_ledger') ->> 'accounts' AS accounts;
SELECT token_balance.export_account(1, 'south', 'third') ->> 'balance' AS balance;
ROLLBACK;
BEGIN;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT token_balance.export_account(1, 'south', 'third') ->> 'balance' AS balance;
ROLLBACK;
-- usage that is deleted here after it was carried over, where deletions are recorded
SELECT token_balance.detach(name => 'third'), token_balance.detach(name => 'again');
SELECT token_balance.attach('users', 'token_usage', 'workflows', deleted_usage => 'record');
SELECT token_balance.export_account(1, 'south') ->> 'balance' AS balance;
DELETE FROM token_usage WHERE user_id = 1;
SELECT count(*) FROM token_balance.settlement WHERE user_id = '1';
-- where the workflow's account pays, one of two that have paid for a run does not leave alone
SELECT token_balance.detach();
SELECT token_balance.attach('users', 'token_usage', 'workflows', name => 'by_run', usage_user => NULL, balance_column => 'third', existing_usage => 'charge');
INSERT INTO users VALUES (30, 'dan'), (31, 'eve');
INSERT INTO token_usage (workflow_id, total_tokens) VALUES ('p1', 60);
INSERT INTO workflows VALUES ('p1', 30, 'completed');
UPDATE workflows SET user_id = 31 WHERE id = 'p1';
INSERT INTO token_usage (workflow_id, total_tokens) VALUES ('p1', 40);
SELECT settle_workflow('p1') ->> 'tokens_used' AS used;
SELECT token_balance.export_account(30, 'south', 'by_run');
SELECT token_balance.export_account(31, 'south', 'by_run');
-- until the run has ended, as the hint says
BEGIN;
SELECT token_balance.archive_usage(clock_timestamp()) ->> 'tokens' AS tokens;
SELECT token_balance.archive_ledger(clock_timestamp(), 'old_ledger') IS NOT NULL AS archived;
SELECT token_balance.archive_settlements(clock_timestamp()) IS NOT NULL AS archived;
SELECT token_balance.export_account(30, 'south', 'by_run') ->> 'balance' AS balance;
ROLLBACK;
-- one that has paid alone does; and who is given the run afterwards does not pay for it again
INSERT INTO users VALUES (32, 'fay'), (33, 'gil');
INSERT INTO token_usage (workflow_id, total_tokens) VALUES ('p2', 60), ('p3', 70);
INSERT INTO workflows VALUES ('p2', 32, 'completed'), ('p3', 33, 'completed');
UPDATE workflows SET user_id = 31 WHERE id = 'p3';
SELECT token_balance.export_account(33, 'south', 'by_run');
SELECT token_balance.export_account(32, 'south', 'by_run') AS document \gset
UPDATE workflows SET user_id = 31 WHERE id = 'p2';
INSERT INTO token_usage (workflow_id, total_tokens) VALUES ('p2', 5);
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT settle_workflow('p2');
SELECT state, reason, workflows, usage_rows, tokens FROM token_balance.usage_state() WHERE state = 'waiting';
SELECT workflow_id, reason, tokens FROM token_balance.unsettled;
SELECT problem, expected, found FROM token_balance.reconcile();
SELECT id, third FROM users WHERE id >= 31 ORDER BY id;
BEGIN;
SET LOCAL token_balance.database = 'south';
SELECT token_balance.refuse_account(:'document') AS receipt \gset
COMMIT;
SELECT token_balance.take_back_account(:'receipt') ->> 'success' AS taken_back;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS used;
SELECT id, third FROM users WHERE id >= 31 ORDER BY id;
SELECT workflow_id, user_id, usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'p2' ORDER BY user_id;
-- where accounts are stays known when a test suite forgets the rest
BEGIN;
INSERT INTO users VALUES (34, 'hal');
SELECT token_balance.export_account(34, 'south') ->> 'balance' AS balance;
TRUNCATE users, token_usage;
SELECT token_balance.reset() IS NOT NULL AS forgotten;
INSERT INTO users VALUES (34, 'hal');
SELECT token_balance.credit(34, 1);
ROLLBACK;
-- nobody may, to whom it is not granted; and a member of pg_write_all_data does not write moves
CREATE ROLE mv_app;
GRANT pg_write_all_data TO mv_app;
GRANT USAGE ON SCHEMA token_balance TO mv_app;
SET ROLE mv_app;
SELECT token_balance.export_account(1, 'south');
SELECT token_balance.import_account('{}');
DELETE FROM token_balance.account_move;
RESET ROLE;
DROP OWNED BY mv_app;
DROP ROLE mv_app;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA mv CASCADE;
DROP DATABASE tb_elsewhere;
