-- statement and balance_at: an account's past, by the ledger (DESIGN F1).
\set SHOW_CONTEXT never
\pset null '-'
SET client_min_messages = warning;
CREATE SCHEMA sm;
SET search_path = sm, public;
\i common/tables.sql
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob'), ('cid');
CREATE EXTENSION token_balance SCHEMA sm;
RESET client_min_messages;
\i common/try.sql
-- a mixed life: settlement, credit, adjustment, refund; another account in between
INSERT INTO workflows VALUES ('w1', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w1', 'bob', 11);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT token_balance.credit('ann', 40, 'invoice-1', 'January') ->> 'new_balance' AS ann;
UPDATE users SET token_balance = 500 WHERE id <> 'cid';
SELECT token_balance.refund_workflow('w1', 10, 'ticket-1', 'sorry') ->> 'amount' AS refunded;
UPDATE users SET token_balance = token_balance WHERE id = 'ann';
SELECT entry_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor = session_user AS actor_is_me FROM token_balance.statement('ann');
SELECT kind, amount, previous_balance, new_balance FROM token_balance.statement('bob');
-- the time is the ledger's, to the microsecond
SELECT count(*) AS entries, count(*) FILTER (WHERE s.created_at = l.created_at) AS same_time FROM token_balance.statement('ann') s JOIN token_balance.ledger l ON l.entry_id = s.entry_id AND l.user_id = 'ann';
-- the running balance: each line begins where the one before ended
SELECT count(*) AS broken FROM (SELECT *, lag(new_balance) OVER (ORDER BY entry_id) AS before FROM token_balance.statement('ann')) s
 WHERE amount <> new_balance - previous_balance OR before <> previous_balance;

-- since on, before until
SELECT created_at AS t2 FROM token_balance.statement('ann') OFFSET 1 LIMIT 1 \gset
SELECT created_at AS t3 FROM token_balance.statement('ann') OFFSET 2 LIMIT 1 \gset
SELECT count(*) FROM token_balance.statement('ann', :'t2');
SELECT count(*) FROM token_balance.statement('ann', NULL, :'t2');
SELECT kind FROM token_balance.statement('ann', :'t2', :'t3');
SELECT kind FROM token_balance.statement('ann', until => :'t3');
SELECT count(*) FROM token_balance.statement('ann', :'t2', :'t2');
SELECT count(*) FROM token_balance.statement('ann', :'t2'::timestamptz + '1 microsecond');
SELECT count(*) FROM token_balance.statement('ann', '-infinity', 'infinity');
SELECT count(*) FROM token_balance.statement('ann', 'infinity');
SELECT count(*) FROM token_balance.statement('ann', now() - interval '2 hours', now() - interval '1 hour');
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement('ann', now(), now() - interval '1 second')$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement(NULL)$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement('zoe')$$);
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement('zoe', now(), now())$$);
-- an account without entries
SELECT * FROM token_balance.statement('cid');

-- balance_at: before the first entry, at one, between, after
SELECT token_balance.balance_at('ann', '2000-01-01') AS before, token_balance.balance_at('ann', '-infinity') AS long_before;
SELECT kind, token_balance.balance_at('ann', created_at - interval '1 microsecond') AS before, token_balance.balance_at('ann', created_at) AS at,
  previous_balance, new_balance FROM token_balance.statement('ann');
SELECT token_balance.balance_at('ann', now()) AS now, token_balance.balance_at('ann', 'infinity') AS after;
-- the opening balance of an account is the one that it had, not the default
INSERT INTO users VALUES ('dan', 77);
SELECT token_balance.credit('dan', 1) ->> 'new_balance' AS dan;
SELECT token_balance.balance_at('dan', '2000-01-01') AS opening, token_balance.balance_at('dan', now()) AS now;
-- without entries: its balance
SELECT token_balance.balance_at('cid', '2000-01-01') AS before, token_balance.balance_at('cid', now()) AS now;
CALL pg_temp.try($$SELECT token_balance.balance_at('zoe', now())$$);
CALL pg_temp.try($$SELECT token_balance.balance_at(NULL, now())$$);
CALL pg_temp.try($$SELECT token_balance.balance_at('ann', NULL)$$);

-- an account that is gone keeps its past
DELETE FROM users WHERE id IN ('bob', 'cid');
SELECT kind, amount, new_balance FROM token_balance.statement('bob');
SELECT token_balance.balance_at('bob', '2000-01-01') AS before, token_balance.balance_at('bob', now()) AS now;
CALL pg_temp.try($$SELECT count(*) FROM token_balance.statement('cid')$$);
CALL pg_temp.try($$SELECT token_balance.balance_at('cid', now())$$);

-- entries with one timestamp, and far-off ones (written by hand, with the guard off)
ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL;
UPDATE token_balance.ledger SET created_at = CASE WHEN entry_id < 3 THEN timestamptz '2026-01-31 23:59:59.999999+00' ELSE '2026-02-01 00:00:00+00' END WHERE user_id = 'ann';
SET TimeZone = 'UTC';
SELECT entry_id, created_at, new_balance FROM token_balance.statement('ann');
SELECT token_balance.balance_at('ann', '2026-01-31 23:59:59.999998+00') AS before, token_balance.balance_at('ann', '2026-01-31 23:59:59.999999+00') AS at,
  token_balance.balance_at('ann', '2026-02-01 00:00:00+00') AS after;
-- a month of another time zone
SET TimeZone = 'Asia/Tokyo';
SELECT count(*) FROM token_balance.statement('ann', '2026-02-01', '2026-03-01');
SET TimeZone = 'UTC';
SELECT count(*) FROM token_balance.statement('ann', '2026-02-01', '2026-03-01');
SELECT count(*) FROM token_balance.statement('ann', '2026-01-01', '2026-02-01');

SET client_min_messages = warning;
DROP EXTENSION token_balance CASCADE;
DROP SCHEMA sm CASCADE;
