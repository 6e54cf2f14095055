-- settle_workflow: what it answers and what it charges (DESIGN A1, A2, A3, A5, A6, A7, A8, E3, P8).
\set SHOW_CONTEXT never
CREATE SCHEMA st;
SET search_path = st, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA st;
RESET client_min_messages;
\i common/try.sql

-- settled: the whole answer
INSERT INTO workflows VALUES ('w1', 'ann');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'ann', 20), ('w1', 'ann', 3);
SELECT jsonb_pretty(settle_workflow('w1'));
SELECT * FROM users ORDER BY id;
-- a second call charges nothing, and writes nothing
SELECT jsonb_pretty(settle_workflow('w1'));
SELECT * FROM users ORDER BY id;
SELECT workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens FROM token_balance.settlement;
SELECT user_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor = session_user AS actor_is_me FROM token_balance.ledger;
-- completed now: there is nothing left to charge
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT * FROM users ORDER BY id;

-- a known workflow without usage
INSERT INTO workflows VALUES ('w2', 'ann');
SELECT jsonb_pretty(settle_workflow('w2'));
SELECT count(*) FROM token_balance.settlement WHERE workflow_id = 'w2';
-- with usage of no tokens: NULL counts as 0
INSERT INTO token_usage VALUES ('w2', 'ann', NULL), ('w2', 'ann', 0);
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used, (SELECT token_balance FROM users WHERE id = 'ann') AS ann;
-- NULL among numbers
INSERT INTO token_usage VALUES ('w2', 'ann', 5);
SELECT settle_workflow('w2') ->> 'tokens_used' AS tokens_used;

-- errors of the call: a null id, an id that nobody knows
CALL pg_temp.try($$SELECT settle_workflow(NULL::text)$$);
CALL pg_temp.try($$SELECT settle_workflow(NULL::bigint)$$);
CALL pg_temp.try($$SELECT settle_workflow(NULL::uuid)$$);
CALL pg_temp.try($$SELECT settle_workflow('nobody knows')$$);
CALL pg_temp.try($$SELECT settle_workflow('')$$);
-- an id that only the usage knows is a workflow
INSERT INTO token_usage VALUES ('w3', 'bob', 30);
SELECT settle_workflow('w3') ->> 'status' AS status;

-- called before the run is completed, usage that comes later, the completion
INSERT INTO workflows VALUES ('w4', 'bob');
INSERT INTO token_usage VALUES ('w4', 'bob', 10);
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('w4', 'bob', 7);
UPDATE workflows SET status = 'completed' WHERE id = 'w4';
SELECT * FROM users WHERE id = 'bob';
SELECT settle_workflow('w4') ->> 'status' AS status;
-- late usage, after the completion: the next settlement takes it
INSERT INTO token_usage VALUES ('w4', 'bob', 2);
SELECT * FROM users WHERE id = 'bob';
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
SELECT usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w4';
SELECT amount, previous_balance, new_balance FROM token_balance.ledger WHERE workflow_id = 'w4' ORDER BY entry_id;

-- a sum that shrank charges nothing and gives nothing back; what comes after is counted from the old sum
DELETE FROM token_usage WHERE workflow_id = 'w4' AND total_tokens = 10;
SELECT settle_workflow('w4') ->> 'status' AS status, settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
SELECT usage_tokens, charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w4';
INSERT INTO token_usage VALUES ('w4', 'bob', 11);
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
DELETE FROM token_usage WHERE workflow_id = 'w4';
SELECT settle_workflow('w4') ->> 'tokens_used' AS tokens_used;
SELECT * FROM users WHERE id = 'bob';
-- negative usage is a sum that shrinks
INSERT INTO token_usage VALUES ('w5', 'bob', -5);
SELECT settle_workflow('w5') ->> 'tokens_used' AS tokens_used;
SELECT * FROM users WHERE id = 'bob';

-- overdraft: a run is never stopped for it
INSERT INTO workflows VALUES ('w6', 'bob');
INSERT INTO token_usage VALUES ('w6', 'bob', 1000000);
SELECT jsonb_pretty(settle_workflow('w6'));
SELECT token_balance.balance('bob');
SELECT token_balance.balance('ann');
-- exactly zero is no overdraft
UPDATE users SET token_balance = 40 WHERE id = 'ann';
INSERT INTO token_usage VALUES ('w7', 'ann', 40);
SELECT settle_workflow('w7') - 'charges' AS answer;

-- balance of an account that is not there
CALL pg_temp.try($$SELECT token_balance.balance('zoe')$$);
CALL pg_temp.try($$SELECT token_balance.balance(NULL)$$);

-- NULL in usage.user_id belongs to nobody: never charged, no error
INSERT INTO workflows VALUES ('w8', 'ann');
INSERT INTO token_usage VALUES ('w8', NULL, 1000), ('w8', 'ann', 1);
SELECT settle_workflow('w8') ->> 'tokens_used' AS tokens_used;
INSERT INTO workflows VALUES ('w9', 'ann');
INSERT INTO token_usage VALUES ('w9', NULL, 1000);
SELECT settle_workflow('w9') ->> 'tokens_used' AS tokens_used, settle_workflow('w9') ->> 'success' AS success;
UPDATE workflows SET status = 'completed' WHERE id = 'w9';
-- NULL in usage.workflow_id belongs to no run
INSERT INTO token_usage VALUES (NULL, 'ann', 1000);
SELECT user_id, count(*), sum(charged_tokens) FROM token_balance.settlement GROUP BY 1 ORDER BY 1;

-- usage of more than an int4 in one run, a sum of more than an int4 over the runs
ALTER TABLE users ALTER token_balance TYPE bigint;
INSERT INTO token_usage SELECT 'w10', 'ann', 2000000000 FROM generate_series(1, 3);
SELECT settle_workflow('w10') ->> 'new_balance' AS new_balance;

-- in a READ ONLY transaction it is the ordinary error
BEGIN READ ONLY;
CALL pg_temp.try($$SELECT settle_workflow('w8')$$);
ROLLBACK;
BEGIN READ ONLY;
SELECT token_balance.balance('bob');
ROLLBACK;

-- each isolation level sees the usage that its own transaction wrote
BEGIN ISOLATION LEVEL REPEATABLE READ;
INSERT INTO token_usage VALUES ('r1', 'bob', 1);
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
INSERT INTO token_usage VALUES ('r1', 'bob', 2);
SELECT settle_workflow('r1') ->> 'tokens_used' AS tokens_used;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO token_usage VALUES ('r2', 'bob', 4);
SELECT settle_workflow('r2') ->> 'tokens_used' AS tokens_used;
INSERT INTO workflows VALUES ('r2', 'bob');
INSERT INTO token_usage VALUES ('r2', 'bob', 8);
UPDATE workflows SET status = 'completed' WHERE id = 'r2';
SELECT * FROM users WHERE id = 'bob';
COMMIT;

-- two settlements in one statement, one settlement in a join over many
INSERT INTO token_usage VALUES ('m1', 'bob', 1), ('m2', 'bob', 2), ('m3', 'bob', 4);
SELECT settle_workflow('m1') ->> 'tokens_used' AS m1, settle_workflow('m1') ->> 'tokens_used' AS again;
SELECT id, settle_workflow(id) ->> 'tokens_used' AS tokens_used FROM unnest('{m1,m2,m3}'::text[]) id ORDER BY id;
-- prepared, and run often enough for a generic plan
PREPARE settle(text) AS SELECT settle_workflow($1) ->> 'status';
EXECUTE settle('m1');
EXECUTE settle('m1');
EXECUTE settle('m1');
EXECUTE settle('m1');
EXECUTE settle('m1');
EXECUTE settle('m1');
EXECUTE settle('m1');
DEALLOCATE settle;

-- the invariants: each chain is whole, its end is the column, charges are the settlement entries
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;
SELECT u.id, u.token_balance = (SELECT new_balance FROM token_balance.ledger l WHERE l.user_id = u.id ORDER BY entry_id DESC LIMIT 1) AS column_is_chain_end,
  (SELECT sum(charged_tokens) FROM token_balance.settlement s WHERE s.user_id = u.id) = (SELECT -sum(amount) FROM token_balance.ledger l WHERE l.user_id = u.id AND kind = 'settlement') AS charges_are_entries
  FROM users u ORDER BY id;

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA st CASCADE;
