-- A key's type is changed from text to uuid or integer, and old ids were spelled otherwise: nothing is charged twice (DESIGN I7, I8).
\i common/try.sql
SET client_min_messages = warning;
CREATE ROLE regress_tb_keys;
CREATE SCHEMA kr AUTHORIZATION regress_tb_keys;
SET search_path = kr, public;
SET ROLE regress_tb_keys;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text NOT NULL DEFAULT 'running');
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('007'), ('8');
INSERT INTO workflows VALUES ('ABCDEF00-0000-0000-0000-000000000001', '007'), ('abcdef00000000000000000000000002', '8'), ('abcdef00-0000-0000-0000-000000000003', '8');
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA public;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
SELECT workflow_ids, account_ids FROM token_balance.binding;
INSERT INTO token_usage VALUES ('ABCDEF00-0000-0000-0000-000000000001', '007', 100), ('abcdef00000000000000000000000002', '8', 20), ('abcdef00-0000-0000-0000-000000000003', '8', 3);
UPDATE workflows SET status = 'completed' WHERE user_id = '007' OR id LIKE '%2';
SELECT token_balance.credit('007', 5, 'paid') ->> 'replayed' AS replayed;
SELECT token_balance.refund_workflow('ABCDEF00-0000-0000-0000-000000000001', 1, 'sorry') ->> 'replayed' AS replayed;
CREATE VIEW state AS
  SELECT (SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users) AS balances,
    (SELECT string_agg(right(workflow_id, 3) || ' ' || user_id || ' ' || charged_tokens, ', ' ORDER BY workflow_id, user_id) FROM token_balance.settlement) AS settlements;
SELECT * FROM state;
DROP VIEW state;

-- types that spell alike need nothing
ALTER TABLE token_usage ALTER workflow_id TYPE varchar(60);
SELECT settle_workflow('abcdef00000000000000000000000002') ->> 'status' AS status;
-- row 13; the workflow table's key has its type as long as the table is bound
CALL pg_temp.try($$ALTER TABLE workflows ALTER id TYPE uuid USING id::uuid$$);
ALTER TABLE token_usage ALTER workflow_id TYPE uuid USING workflow_id::uuid;
SET ROLE regress_tb_keys;
-- completions succeed, and wait
SET client_min_messages = warning;
UPDATE workflows SET status = 'completed' WHERE status = 'running';
SELECT token_balance FROM users ORDER BY id;
-- balances go on
RESET ROLE;
SELECT token_balance.credit('8', 1) ->> 'success' AS success;
CALL pg_temp.try($$SELECT public.settle_workflow('abcdef00-0000-0000-0000-000000000001'::uuid)$$);
CALL pg_temp.try($$SELECT token_balance.settle_pending()$$);
SELECT problem, hint FROM token_balance.reconcile() WHERE problem LIKE 'binding%';
SELECT name, ok, detail, hint FROM token_balance.verify() WHERE NOT ok;
-- the accounts' key as well
ALTER TABLE users ALTER id TYPE integer USING id::integer;
ALTER TABLE workflows ALTER user_id TYPE integer USING user_id::integer;
ALTER TABLE token_usage ALTER user_id TYPE integer USING user_id::integer;
-- the tables' owner
SET ROLE regress_tb_keys;
SELECT token_balance.attach_again();
RESET ROLE;
SELECT workflow_ids, account_ids FROM token_balance.binding;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT id, token_balance FROM users ORDER BY id;
SELECT workflow_id, user_id, charged_tokens, refunded_tokens FROM token_balance.settlement ORDER BY 1;
SELECT * FROM token_balance.reconcile();
-- what was paid and given back is known by the new ids
SELECT token_balance.credit('7', 5, 'paid') ->> 'replayed' AS replayed;
SELECT token_balance.refund_workflow('abcdef00-0000-0000-0000-000000000001', 1, 'sorry') ->> 'replayed' AS replayed;
SELECT user_id, kind, amount, new_balance, note FROM token_balance.ledger ORDER BY user_id, entry_id;
-- again: nothing is left to do
SELECT token_balance.attach_again();
-- the workflow table's key
BEGIN;
SELECT token_balance.detach();
ALTER TABLE workflows ALTER id TYPE uuid USING id::uuid;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT * FROM token_balance.reconcile();
SELECT count(*) FROM token_balance.verify() WHERE NOT ok AND name <> 'summary index';

-- back to text, with what becomes one when it is an integer again
BEGIN;
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER workflow_id TYPE text;
ALTER TABLE workflows ALTER id TYPE text;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
INSERT INTO workflows VALUES ('01', 8), ('1', 8);
INSERT INTO token_usage VALUES ('01', 8, 10), ('1', 8, 1000);
UPDATE workflows SET status = 'completed' WHERE length(id) < 3;
DELETE FROM workflows WHERE id = '01' OR length(id) > 2;
DELETE FROM token_usage WHERE length(workflow_id) > 2;
BEGIN;
SELECT token_balance.detach();
ALTER TABLE token_usage ALTER workflow_id TYPE bigint USING workflow_id::bigint;
ALTER TABLE workflows ALTER id TYPE bigint USING id::bigint;
SELECT token_balance.attach('users', 'token_usage', 'workflows');
COMMIT;
SELECT token_balance.settle_pending() ->> 'tokens_used' AS tokens_used;
SELECT workflow_id, charged_tokens FROM token_balance.settlement WHERE length(workflow_id) < 3;
SELECT problem, workflow_id, expected, found FROM token_balance.reconcile() WHERE workflow_id = '1';
-- nothing is attached
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach_again()$$);
DROP EXTENSION token_balance CASCADE;
SET client_min_messages = error;
DROP SCHEMA kr CASCADE;
DROP ROLE regress_tb_keys;
