-- Ids that no index entry holds: a bad charge of their run alone, and nobody else's charge is kept from being made (DESIGN H9).
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA li;
SET search_path = li, public;
\i common/try.sql
CREATE TABLE users (id uuid PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id uuid, total_tokens integer, created_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE workflows (id text PRIMARY KEY, user_id uuid, status text);
CREATE INDEX ON token_usage (workflow_id);
CREATE FUNCTION long(n integer, size integer DEFAULT 2680) RETURNS text LANGUAGE sql AS
    'SELECT left(string_agg(md5((i * 1000 + n)::text), ''''), size) FROM generate_series(1, 100) AS i';
CREATE FUNCTION account(text) RETURNS uuid LANGUAGE sql AS 'SELECT md5($1)::uuid';
INSERT INTO users VALUES (account('mallory')), (account('ann'));
-- what is there before cannot be exempt, and does not keep anybody from using the extension
INSERT INTO token_usage VALUES (long(0), account('mallory'), 100), ('before', account('ann'), 50);
CREATE EXTENSION token_balance SCHEMA li;
\set balances 'SELECT CASE id WHEN account(''ann'') THEN ''ann'' ELSE ''mallory'' END AS account, token_balance FROM users ORDER BY 1'
\set waits 'SELECT left(workflow_id, 8) AS workflow, length(workflow_id), state, reason, tokens FROM token_balance.unsettled ORDER BY 1'
:waits;
-- late usage: a WARNING of that run, and the sweep goes on
INSERT INTO workflows VALUES (long(1), account('mallory'), 'completed'), ('good', account('ann'), 'completed');
INSERT INTO token_usage VALUES (long(1), account('mallory'), 1), ('good', account('ann'), 10);
SELECT token_balance.settle_pending();
SELECT token_balance.settle_pending() ->> 'charges' AS charges;
CALL token_balance.settle_backlog(1);
:balances;
-- so with runs that complete together, and the run completes
INSERT INTO workflows VALUES (long(2), account('mallory'), 'running'), ('w1', account('ann'), 'running');
INSERT INTO token_usage VALUES (long(2), account('mallory'), 1), ('w1', account('ann'), 10);
UPDATE workflows SET status = 'completed' WHERE status = 'running';
SELECT count(*) FROM workflows WHERE status = 'completed';
:balances;
-- the function says so, and nothing is exempt
CALL pg_temp.try($$SELECT settle_workflow(long(2))$$);
SELECT token_balance.exempt_pending();
:waits;
SELECT problem, left(workflow_id, 8) AS workflow, expected, found FROM token_balance.reconcile();
-- a shorter id, as the hint says
UPDATE token_usage SET workflow_id = 'short' WHERE workflow_id = long(2);
UPDATE workflows SET id = 'short' WHERE id = long(2);
SELECT settle_workflow('short') ->> 'tokens_used' AS used;
-- what compresses may be as long as it likes
INSERT INTO workflows VALUES (repeat('run-', 5000), account('ann'), 'running');
INSERT INTO token_usage VALUES (repeat('run-', 5000), account('ann'), 7);
UPDATE workflows SET status = 'completed' WHERE status = 'running';
:balances;
-- around the limit: no error of the server, and one rule
DO $$
DECLARE
    charged integer[];
BEGIN
    SET LOCAL client_min_messages = error;
    FOR size IN 2590 .. 2680 LOOP
        INSERT INTO workflows VALUES (long(size, size), account('ann'), 'running');
        INSERT INTO token_usage VALUES (long(size, size), account('ann'), 1);
        UPDATE workflows SET status = 'completed' WHERE status = 'running';
    END LOOP;
END $$;
SELECT min(length(workflow_id)) AS shortest, count(*) > 20 AS charged, max(length(workflow_id)) - min(length(workflow_id)) = count(*) - 1 AS without_gaps
FROM token_balance.settlement WHERE length(workflow_id) BETWEEN 2590 AND 2680;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA li CASCADE;
