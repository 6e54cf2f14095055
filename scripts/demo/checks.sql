-- Every figure twice or three times, from places that do not know of each other;
-- fails when two of them disagree.
\pset footer off
\pset border 1
\set number '''FM999,999,999,999'''

CREATE TABLE demo.total AS
WITH ledger AS (
    SELECT coalesce(-sum(amount) FILTER (WHERE kind = 'settlement'), 0)::bigint AS charged,
        coalesce(sum(amount) FILTER (WHERE kind = 'credit'), 0)::bigint AS credited,
        coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0)::bigint AS refunded
    FROM token_balance.ledger
), settlement AS (
    SELECT coalesce(sum(charged_tokens), 0)::bigint AS charged, coalesce(sum(refunded_tokens), 0)::bigint AS refunded
    FROM token_balance.settlement
)
SELECT 1 AS n, 'charges (platform: usage since CREATE EXTENSION)' AS what,
    (SELECT coalesce(sum(total_tokens), 0)::bigint FROM demo.new_usage) AS platform,
    settlement.charged AS settlement, ledger.charged AS ledger FROM settlement, ledger
UNION ALL SELECT 2, 'credits', NULL, NULL, credited FROM ledger
UNION ALL SELECT 3, 'refunds', NULL, settlement.refunded, ledger.refunded FROM settlement, ledger
UNION ALL SELECT 4, 'drop in balances = charges - credits - refunds',
    (SELECT sum(o.balance - u.token_balance)::bigint FROM users u JOIN demo.opening o USING (id)), NULL, charged - credited - refunded
FROM ledger;
\echo
\echo Totals: the figures of a line must agree
SELECT what AS " ", to_char(platform, '999,999,999,999') AS platform, to_char(settlement, '999,999,999,999') AS settlement,
    to_char(ledger, '999,999,999,999') AS ledger
FROM demo.total ORDER BY n;

INSERT INTO demo.verdict
SELECT 1, 'the totals agree', bool_and(coalesce(platform, ledger) = ledger AND coalesce(settlement, ledger) = ledger)
    AND count(ledger) = 4 AND EXISTS (SELECT FROM demo.new_usage) FROM demo.total
UNION ALL SELECT 2, 'every run is completed', NOT EXISTS (SELECT FROM workflows WHERE status <> 'completed')
UNION ALL SELECT 3, 'every user paid for exactly the calls made since CREATE EXTENSION', NOT EXISTS (
    SELECT FROM (SELECT user_id::text, workflow_id, sum(total_tokens) AS tokens FROM demo.new_usage GROUP BY 1, 2) used
    FULL JOIN (SELECT user_id, workflow_id, charged_tokens AS tokens FROM token_balance.settlement WHERE charged_tokens <> 0) paid
        USING (user_id, workflow_id)
    WHERE used.tokens IS DISTINCT FROM paid.tokens)
UNION ALL SELECT 4, 'retrying every run charged nothing', coalesce((SELECT charged = 0 FROM demo.retries), false)
UNION ALL SELECT 5, 'each ledger entry goes on where the one before it ended', NOT EXISTS (
    SELECT FROM (SELECT user_id, previous_balance, amount, new_balance,
            lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) entry
    WHERE previous_balance IS DISTINCT FROM coalesce(before, (SELECT balance FROM demo.opening WHERE id::text = user_id))
        OR previous_balance + amount IS DISTINCT FROM new_balance)
UNION ALL SELECT 6, 'each ledger ends at the balance of its account', NOT EXISTS (
    SELECT FROM (SELECT DISTINCT ON (user_id) user_id, new_balance FROM token_balance.ledger ORDER BY user_id, entry_id DESC) entry
    FULL JOIN (SELECT id::text AS user_id, token_balance, balance FROM users JOIN demo.opening USING (id)) account USING (user_id)
    WHERE coalesce(new_balance, balance) IS DISTINCT FROM token_balance)
UNION ALL SELECT 7, 'balance() and the view overdrawn tell the accounts below zero, no others', NOT EXISTS (
    SELECT FROM users FULL JOIN token_balance.overdrawn o ON o.user_id = id::text
    WHERE (token_balance.balance(id::text) ->> 'is_overdraft')::boolean IS DISTINCT FROM (users.token_balance < 0)
        OR (o.user_id IS NOT NULL) IS DISTINCT FROM (users.token_balance < 0) OR o.token_balance <> users.token_balance);

-- One line if all of it is well, and one for each check that is not.
CREATE TABLE demo.verify AS SELECT * FROM token_balance.verify();
INSERT INTO demo.verdict
SELECT 13, 'token_balance.verify(): ' || count(*) || ' checks', bool_and(ok) FROM demo.verify
UNION ALL SELECT 14, 'token_balance.verify(): ' || concat_ws(', ', name, detail, hint), false FROM demo.verify WHERE ok IS NOT TRUE;

SELECT clock_timestamp() AS began \gset
CREATE TABLE demo.problem AS SELECT * FROM token_balance.reconcile();
SELECT to_char(extract(epoch FROM clock_timestamp() - :'began'), 'FM990.00') AS seconds,
    to_char(count(*), :number) AS entries FROM token_balance.ledger \gset
INSERT INTO demo.verdict SELECT 15, 'token_balance.reconcile() finds nothing', count(*) = 0 FROM demo.problem;
\echo reconcile(), after :entries ledger entries, in :seconds s
\pset footer on
SELECT problem, user_id AS account, workflow_id AS workflow, expected, found, hint FROM demo.problem LIMIT 20;
\pset footer off

\echo Checks
SELECT CASE WHEN ok THEN 'ok' ELSE 'FAILED' END AS verdict, fact AS "check" FROM demo.verdict ORDER BY n;

SELECT bool_and(coalesce(ok, false)) AS all_ok FROM demo.verdict \gset
SELECT to_char(count(*), :number) AS runs, (SELECT to_char(ledger, :number) FROM demo.total WHERE n = 1) AS tokens,
    (SELECT to_char(sum(extract(epoch FROM finished_at - started_at)), 'FM9,990.0') FROM demo.step) AS seconds
FROM demo.run \gset
\if :all_ok
\echo :runs runs settled exactly once, :tokens tokens charged, in :seconds s.
\else
DO $$ BEGIN RAISE 'the totals or the checks above disagree'; END $$;
\endif
