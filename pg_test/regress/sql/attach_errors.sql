-- Each mistake gives one clear error: the column or table named, a SQLSTATE, a hint; and nothing is half done (DESIGN F13, F9, O7).
\set SHOW_CONTEXT never
CREATE SCHEMA ae;
SET search_path = ae, public;
\i common/try.sql

SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA ae;
RESET client_min_messages;

CREATE TABLE acc (id text PRIMARY KEY, name text);
CREATE TABLE usage (workflow_id text, user_id text, total_tokens integer, spent bigint, price money, note text);
CREATE TABLE runs (id text PRIMARY KEY, user_id text, status text, finished_at timestamptz, n integer);
CREATE TYPE mood AS ENUM ('happy', 'sad');
CREATE TABLE moods (id text PRIMARY KEY, user_id text, status mood);

-- nothing is attached yet: every function says so
CALL pg_temp.try($$SELECT settle_workflow('w')$$);
CALL pg_temp.try($$SELECT * FROM token_balance.settle_workflows('{w}')$$);
CALL pg_temp.try($$SELECT token_balance.balance('ann')$$);
CALL pg_temp.try($$SELECT token_balance.detach()$$);
SELECT name, ok FROM token_balance.verify();
-- all functions answer in one order: nulls, arguments that make no sense, a read-only transaction, that nothing is attached
CREATE FUNCTION pg_temp.state(statement text) RETURNS text STRICT LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE statement;
  RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
  RETURN SQLSTATE;
END $$;
CREATE TEMPORARY TABLE calls (call text, with_null text, senseless text, right_one text);
INSERT INTO calls VALUES
  ('settle_workflow', 'SELECT settle_workflow(NULL::text)', NULL, $$SELECT settle_workflow('w')$$),
  ('settle_workflows', 'SELECT token_balance.settle_workflows(NULL)', NULL, $$SELECT token_balance.settle_workflows('{w}')$$),
  ('settle_pending', 'SELECT token_balance.settle_pending(NULL, NULL)', 'SELECT token_balance.settle_pending(NULL, 0)', 'SELECT token_balance.settle_pending()'),
  ('settle_backlog', 'CALL token_balance.settle_backlog(0, NULL)', 'CALL token_balance.settle_backlog(0)', NULL),
  ('exempt_pending', NULL, $$SELECT token_balance.exempt_pending('infinity')$$, 'SELECT token_balance.exempt_pending()'),
  ('balance', 'SELECT token_balance.balance(NULL)', NULL, $$SELECT token_balance.balance('a')$$),
  ('credit', 'SELECT token_balance.credit(NULL, 0)', $$SELECT token_balance.credit('a', 0)$$, $$SELECT token_balance.credit('a', 1)$$),
  ('refund_workflow', 'SELECT token_balance.refund_workflow(NULL, 0)', $$SELECT token_balance.refund_workflow('w', 0)$$, $$SELECT token_balance.refund_workflow('w')$$),
  ('correct_workflow', 'SELECT token_balance.correct_workflow(NULL::bigint)', NULL, $$SELECT token_balance.correct_workflow('w')$$),
  ('statement', 'SELECT token_balance.statement(NULL)', $$SELECT token_balance.statement('a', now(), now() - interval '1 day')$$, $$SELECT token_balance.statement('a')$$),
  ('balance_at', 'SELECT token_balance.balance_at(NULL, now())', NULL, $$SELECT token_balance.balance_at('a', now())$$),
  ('summary', 'SELECT token_balance.summary(NULL, 36501)', $$SELECT token_balance.summary('a', 36501)$$, $$SELECT token_balance.summary('a')$$),
  ('balance(bigint)', 'SELECT token_balance.balance(NULL::bigint)', NULL, 'SELECT token_balance.balance(1)'),
  ('credit(bigint)', 'SELECT token_balance.credit(NULL::bigint, 0)', 'SELECT token_balance.credit(1, 0)', 'SELECT token_balance.credit(1, 1)'),
  ('adjust(bigint)', 'SELECT token_balance.adjust(NULL::bigint, 0)', 'SELECT token_balance.adjust(1, 0)', 'SELECT token_balance.adjust(1, 1)'),
  ('refund_workflow(bigint)', 'SELECT token_balance.refund_workflow(NULL::bigint, 0)', 'SELECT token_balance.refund_workflow(1, 0)', 'SELECT token_balance.refund_workflow(1)'),
  ('statement(bigint)', 'SELECT token_balance.statement(NULL::bigint)', 'SELECT token_balance.statement(1, now(), now() - interval ''1 day'')', 'SELECT token_balance.statement(1)'),
  ('balance_at(bigint)', 'SELECT token_balance.balance_at(NULL::bigint, now())', NULL, 'SELECT token_balance.balance_at(1, now())'),
  ('summary(bigint)', 'SELECT token_balance.summary(NULL::bigint, 36501)', 'SELECT token_balance.summary(1, 36501)', 'SELECT token_balance.summary(1)'),
  ('archive_ledger', $$SELECT token_balance.archive_ledger('infinity', NULL)$$, $$SELECT token_balance.archive_ledger('infinity', 'acc')$$, NULL),
  ('detach', 'SELECT token_balance.detach(NULL)', NULL, 'SELECT token_balance.detach()');
SELECT call, pg_temp.state(with_null) AS with_null, pg_temp.state(senseless) AS senseless, pg_temp.state(right_one) AS right_one FROM calls;
BEGIN READ ONLY;
SELECT call, pg_temp.state(with_null) AS with_null, pg_temp.state(senseless) AS senseless, pg_temp.state(right_one) AS right_one FROM calls;
ROLLBACK;

-- arguments that are not there
CALL pg_temp.try($$SELECT token_balance.attach(NULL, 'usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', NULL, 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', user_key => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_workflow => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{}')$$);
BEGIN;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{total_tokens,NULL}')$$);
ROLLBACK;
BEGIN;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{total_tokens,total_tokens}')$$);
ROLLBACK;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_key => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', completed_statuses => '{}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', completed_statuses => NULL)$$);
BEGIN;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', completed_statuses => '{done,NULL}')$$);
ROLLBACK;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', existing_usage => 'maybe')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', existing_usage => NULL)$$);
-- who pays, when neither the usage nor a workflow table has an account?
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', usage_user => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_user => NULL, workflow_user => NULL)$$);

-- relations of a wrong kind
CREATE VIEW v_acc AS SELECT * FROM acc;
CREATE VIEW v_usage AS SELECT * FROM usage;
CREATE MATERIALIZED VIEW m_usage AS SELECT * FROM usage;
CREATE SEQUENCE a_sequence;
CREATE FOREIGN DATA WRAPPER regress_tb_wrapper;
CREATE SERVER regress_tb_server FOREIGN DATA WRAPPER regress_tb_wrapper;
CREATE FOREIGN TABLE f_usage (workflow_id text, user_id text, total_tokens integer) SERVER regress_tb_server;
CREATE TEMP TABLE t_acc (id text PRIMARY KEY);
CALL pg_temp.try($$SELECT token_balance.attach('v_acc', 'usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'm_usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'f_usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'v_usage')$$);
CALL pg_temp.try($$SELECT token_balance.attach('a_sequence', 'usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'acc_pkey', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('no_such_table', 'usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('token_balance.ledger', 'usage', 'runs', user_key => 'user_id')$$);

-- columns that are not there, one for each argument
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', user_key => 'uid')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_user => 'account')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_workflow => 'session_id')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{input_tokens}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{total_tokens,output_tokens}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_key => 'run_id')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_status => 'state')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_status => NULL, workflow_completed_at => 'ended_at')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_user => NULL, workflow_user => 'owner')$$);
-- system columns and dropped columns are no columns
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', user_key => 'ctid')$$);
ALTER TABLE runs DROP COLUMN n;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_key => 'n')$$);

-- columns of a wrong type
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{note}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{price}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_status => 'finished_at')$$);
BEGIN;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_status => NULL, workflow_completed_at => 'status')$$);
-- one of them decides
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', workflow_status => 'id', workflow_completed_at => 'ended_at')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', completed_statuses => '{over}', workflow_completed_at => 'ended_at')$$);
ROLLBACK;
-- an enum that has none of the statuses: the trigger could never fire
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'moods')$$);

-- keys
CREATE TABLE nokey (id text, x integer);
CALL pg_temp.try($$SELECT token_balance.attach('nokey', 'usage', 'runs')$$);
-- a partial unique index, an expression, two columns, a deferrable one: none of them makes the key unique
CREATE UNIQUE INDEX nokey_partial ON nokey (id) WHERE x > 0;
CREATE UNIQUE INDEX nokey_expression ON nokey (lower(id));
CREATE UNIQUE INDEX nokey_two ON nokey (id, x);
CALL pg_temp.try($$SELECT token_balance.attach('nokey', 'usage', 'runs')$$);
-- a key of a type that is no key
CREATE TABLE jkey (id jsonb PRIMARY KEY);
CALL pg_temp.try($$SELECT token_balance.attach('jkey', 'usage', 'runs')$$);
CREATE TABLE fkey (id timestamptz PRIMARY KEY);
CALL pg_temp.try($$SELECT token_balance.attach('fkey', 'usage', 'runs')$$);

-- the balance: a wrong type, an initial balance that it does not hold
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', balance_type => 'text')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', balance_type => 'float8')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', balance_type => NULL)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', initial_balance => 3000000000)$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', initial_balance => 40000, balance_type => 'smallint')$$);
CREATE TABLE tacc (id text PRIMARY KEY, token_balance text);
CALL pg_temp.try($$SELECT token_balance.attach('tacc', 'usage', 'runs')$$);
CREATE TABLE facc (id text PRIMARY KEY, token_balance float8);
CALL pg_temp.try($$SELECT token_balance.attach('facc', 'usage', 'runs')$$);
CREATE TABLE gacc (id text PRIMARY KEY, paid bigint, token_balance bigint GENERATED ALWAYS AS (paid * 2) STORED);
CALL pg_temp.try($$SELECT token_balance.attach('gacc', 'usage', 'runs')$$);

-- nothing of all that was half done
SELECT count(*) FROM token_balance.binding;
SELECT count(*) FROM pg_attribute WHERE attrelid IN ('acc'::regclass, 'nokey'::regclass, 'jkey'::regclass) AND attname = 'token_balance';
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('acc'::regclass, 'usage'::regclass, 'runs'::regclass);

-- already attached to other tables, or with other columns
SET client_min_messages = warning;
SELECT token_balance.attach('acc', 'usage', 'runs');
RESET client_min_messages;
CREATE TABLE acc2 (id text PRIMARY KEY);
CALL pg_temp.try($$SELECT token_balance.attach('acc2', 'usage', 'runs')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', usage_tokens => '{spent}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', completed_statuses => '{done}')$$);
-- the same again is no mistake
SET client_min_messages = warning;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs')$$);
RESET client_min_messages;
SELECT token_balance.attach('acc', 'usage', 'runs');
SELECT count(*) FROM token_balance.binding;
SELECT tgrelid::regclass AS "table", count(*) FROM pg_trigger WHERE tgrelid IN ('acc'::regclass, 'usage'::regclass, 'runs'::regclass) AND NOT tgisinternal GROUP BY tgrelid ORDER BY tgrelid::regclass::text;

-- the extension's own tables and views, and views of them: their triggers are its own
SELECT token_balance.detach();
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'token_balance.ledger', 'runs', usage_tokens => '{amount}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'token_balance.unsettled', 'runs', usage_tokens => '{tokens}')$$);
CREATE VIEW own_ledger AS SELECT * FROM token_balance.ledger;
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'own_ledger', 'runs', usage_tokens => '{amount}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'token_balance.settlement', workflow_key => 'workflow_id', workflow_status => 'user_id')$$);
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND tgenabled = 'A';
-- names that nothing can have, and a column that no UPDATE may set
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', balance_column => '')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', balance_column => 'xmin')$$);
CALL pg_temp.try($$SELECT token_balance.attach('acc', 'usage', 'runs', name => '')$$);
CREATE TABLE counted (id text PRIMARY KEY, token_balance integer GENERATED ALWAYS AS IDENTITY);
CALL pg_temp.try($$SELECT token_balance.attach('counted', 'usage', 'runs')$$);
SELECT token_balance.attach('acc', 'usage', 'runs');

-- all faults at once, each with its argument and its cure: each attach told of the first one only (DESIGN F14)
SET client_min_messages = warning;
CREATE TABLE faulty (run text, who text, total_tokens money, created_at bigint, prompt_tokens text);
CREATE TABLE faulty_runs (id jsonb, status integer);
CALL pg_temp.try($$SELECT token_balance.attach('t_nothing', 'faulty')$$);
CALL pg_temp.try($$SELECT token_balance.attach('ae.acc', 'ae.faulty', 'ae.faulty_runs', user_key => 'name2')$$);
CALL pg_temp.try($$SELECT token_balance.attach('ae.acc', 'ae.faulty', 'ae.faulty_runs', usage_workflow => 'run', usage_user => NULL,
  workflow_user => 'payer', balance_type => 'text', existing_usage => 'all', completed_statuses => '{}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('ae.acc', 'ae.usage', usage_user => NULL, balance_type => 'numeric')$$);
-- two that are found when all is there
CREATE TABLE numbered (workflow_id bigint, user_id bigint, total_tokens integer);
CREATE TABLE numbered_runs (id uuid, user_id text, status integer);
CALL pg_temp.try($$SELECT token_balance.attach('ae.acc', 'ae.numbered', 'ae.numbered_runs')$$);
-- how what is right fits together, told with what is not: it was told of once that was right
CREATE TABLE faulty_acc (id uuid, token_balance float8);
CREATE TABLE faulty_moods (id uuid, status mood);
CALL pg_temp.try($$SELECT token_balance.attach('ae.faulty_acc', 'ae.numbered', 'ae.faulty_moods', usage_tokens => '{nothing}')$$);
CALL pg_temp.try($$SELECT token_balance.attach('ae.faulty_acc', 'ae.numbered', 'ae.faulty_moods', workflow_key => 'nothing', usage_user => NULL, workflow_user => 'id')$$);
RESET client_min_messages;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA ae CASCADE;
DROP TABLE t_acc;
DROP FOREIGN DATA WRAPPER regress_tb_wrapper CASCADE;
