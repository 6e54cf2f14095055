-- One statement that completes 3,000 runs over many accounts (DESIGN K3, K4, P2, T9).
\set SHOW_CONTEXT never
CREATE SCHEMA bk;
SET search_path = bk, public;
SET client_min_messages = warning;
CREATE TABLE users (id integer PRIMARY KEY);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY, workflow_id integer, user_id integer, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE workflows (id integer PRIMARY KEY, user_id integer, status text DEFAULT 'running');
INSERT INTO users SELECT generate_series(1, 200);
CREATE EXTENSION token_balance SCHEMA bk;
-- nine usage rows per run, every fifth run with a second account
INSERT INTO workflows SELECT w, w % 200 + 1 FROM generate_series(1, 3000) w;
INSERT INTO token_usage (workflow_id, user_id, total_tokens)
SELECT w, CASE WHEN w % 5 = 0 AND i > 6 THEN (w * 7) % 200 + 1 ELSE w % 200 + 1 END, (w * 31 + i * 17) % 1000 FROM generate_series(1, 3000) w, generate_series(1, 9) i;
ANALYZE token_usage, workflows, users;

CREATE VIEW totals AS SELECT (SELECT sum(total_tokens) FROM token_usage) AS usage, (SELECT sum(charged_tokens) FROM token_balance.settlement) AS charged,
  (SELECT -sum(amount) FROM token_balance.ledger) AS ledger, (SELECT sum(1000000 - token_balance) FROM users) AS drop_in_balances;
-- a settlement is a few index probes, also in a session that planned its statements when the tables were known to be empty
ANALYZE token_balance.settlement, token_balance.ledger;
BEGIN;
SELECT sum(seq_scan) AS before FROM pg_stat_xact_user_tables WHERE relid IN ('token_balance.settlement'::regclass, 'token_balance.ledger'::regclass) \gset
UPDATE workflows SET status = 'completed';
SELECT sum(seq_scan) - :before AS sequential_scans FROM pg_stat_xact_user_tables WHERE relid IN ('token_balance.settlement'::regclass, 'token_balance.ledger'::regclass);
COMMIT;
SELECT * FROM totals;
SELECT count(DISTINCT workflow_id) AS settled FROM token_balance.settlement;
-- again: nothing
UPDATE workflows SET status = 'running';
UPDATE workflows SET status = 'completed';
SELECT * FROM totals;
-- each account for itself
SELECT count(*) AS wrong FROM users u WHERE 1000000 - token_balance <> (SELECT sum(total_tokens) FROM token_usage t WHERE t.user_id = u.id);
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;

-- deferred, in one transaction with its usage; rolled back; done
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO workflows SELECT w, w % 200 + 1, 'completed' FROM generate_series(3001, 4000) w;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT w, w % 200 + 1, 1 FROM generate_series(3001, 4000) w;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT usage = charged AND charged = ledger AND ledger = drop_in_balances AS agree FROM totals;
ROLLBACK;
SELECT usage = charged AND charged = ledger AND ledger = drop_in_balances AS agree FROM totals;
-- COPY in one go
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT w, w % 200 + 1, 2 FROM generate_series(3001, 3004) w;
COPY workflows FROM stdin;
3001	1	completed
3002	2	completed
3003	3	failed
3004	4	done
\.
SELECT usage - charged AS unsettled, charged = ledger AND ledger = drop_in_balances AS agree FROM totals;

-- all on one account
INSERT INTO workflows SELECT w, 1 FROM generate_series(5001, 6000) w;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT w, 1, w % 10 FROM generate_series(5001, 6000) w, generate_series(1, 2);
UPDATE workflows SET status = 'completed' WHERE id > 5000;
SELECT usage - charged AS unsettled, charged = ledger AND ledger = drop_in_balances AS agree FROM totals;
-- no lock is left behind
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';

DROP EXTENSION token_balance CASCADE;
DROP SCHEMA bk CASCADE;
