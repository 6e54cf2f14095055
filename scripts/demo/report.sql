-- What happened, for a reader who sees this for the first time; fails at its end
-- when a total disagrees. No figure in here is given, all of them are read.
\pset footer off
\pset border 1
\set number '''FM999,999,999,999'''

\echo
\echo How the runs were completed
SELECT way, to_char(charges, '999,999') AS charges,
    to_char(extract(epoch FROM finished_at - started_at), '9,990.00') AS seconds,
    to_char(charges / greatest(extract(epoch FROM finished_at - started_at), 0.001), '999,999') AS "charges/s"
FROM demo.step ORDER BY n;

\echo Accounts before and after (the heaviest three, one near the middle, the lightest)
WITH account AS (
    SELECT u.id, email, o.balance AS before, u.token_balance::bigint AS now,
        (SELECT count(*) FROM token_balance.ledger l WHERE l.user_id = u.id::text) AS charges,
        row_number() OVER (ORDER BY u.token_balance, u.id) AS place, count(*) OVER () AS accounts
    FROM users u JOIN demo.opening o USING (id)
)
SELECT email, to_char(before, '999,999,999') AS before, to_char(before - now, '999,999,999') AS charged,
    to_char(now, '999,999,999') AS now, charges,
    CASE WHEN (token_balance.balance(id::text) ->> 'is_overdraft')::boolean THEN 'overdraft' ELSE '' END AS " "
FROM account WHERE place <= 3 OR place IN (accounts / 2, accounts) ORDER BY place;

SELECT count(*) AS "accounts in overdraft" FROM users WHERE token_balance < 0;

-- The account whose story is shown: in overdraft if there is one.
SELECT id AS shown_id, email AS shown_email FROM users ORDER BY token_balance, id LIMIT 1 \gset
\echo The ledger of :shown_email: its first charges, where it ran dry, and the last one
WITH entry AS (
    SELECT *, row_number() OVER (ORDER BY entry_id) AS n, count(*) OVER () AS entries
    FROM token_balance.ledger WHERE user_id = :'shown_id'
), dry AS (
    SELECT min(n) AS n FROM entry WHERE new_balance < 0
)
SELECT entry.n || ' of ' || entries AS entry, kind, workflow_id AS workflow, to_char(previous_balance, '999,999,999') AS "previous",
    to_char(amount, '999,999,999') AS amount, to_char(new_balance, '999,999,999') AS new,
    CASE WHEN entry.n = dry.n THEN '<- the run is not stopped' ELSE '' END AS " "
FROM entry, dry
WHERE entry.n <= 3 OR entry.n BETWEEN dry.n - 1 AND dry.n + 1 OR entry.n = entries
ORDER BY entry.n;

\echo Totals that must agree
CREATE TABLE demo.total AS
SELECT 1 AS n, 'usage since CREATE EXTENSION' AS what, coalesce(sum(total_tokens), 0)::bigint AS tokens FROM demo.new_usage
UNION ALL SELECT 2, 'charges (settlement)', coalesce(sum(charged_tokens), 0)::bigint FROM token_balance.settlement
UNION ALL SELECT 3, 'drop in balances (users)', sum(o.balance - u.token_balance)::bigint FROM users u JOIN demo.opening o USING (id)
UNION ALL SELECT 4, 'charges (ledger)', coalesce(-sum(amount), 0)::bigint FROM token_balance.ledger WHERE kind = 'settlement';
SELECT what, to_char(tokens, '999,999,999,999') AS tokens FROM demo.total ORDER BY n;

\if :traced
\echo The trace, added up from the file and from what was charged
SELECT 'file' AS source, to_char(:file_rows, '999,999,999') AS requests, to_char(:file_context, '999,999,999,999') AS context,
    to_char(:file_generated, '999,999,999,999') AS generated, to_char(:file_context + :file_generated, '999,999,999,999') AS total
UNION ALL
SELECT 'usage', to_char(count(*), '999,999,999'), to_char(sum(prompt_tokens), '999,999,999,999'),
    to_char(sum(completion_tokens), '999,999,999,999'), to_char(sum(total_tokens), '999,999,999,999') FROM demo.new_usage
UNION ALL
SELECT 'charged', '', '', '', to_char(sum(charged_tokens), '999,999,999,999') FROM token_balance.settlement;
\endif

CREATE TABLE demo.verdict AS
SELECT 1 AS n, 'the four totals agree' AS fact, count(DISTINCT tokens) = 1 AND count(tokens) = 4
    AND EXISTS (SELECT FROM demo.new_usage) AS ok FROM demo.total
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
UNION ALL SELECT 7, 'overdraft is reported for the accounts below zero and no others', NOT EXISTS (
    SELECT FROM users WHERE (token_balance.balance(id::text) ->> 'is_overdraft')::boolean IS DISTINCT FROM (token_balance < 0))
UNION ALL SELECT 9, 'token_balance.verify(): ' || name || coalesce(' (' || nullif(detail, '') || ')', ''), ok FROM token_balance.verify();

-- A made-up run has no file to be compared with.
INSERT INTO demo.verdict
SELECT 8, 'the usage rows are the trace''s requests, token by token',
    count(*) = :file_rows AND sum(prompt_tokens) = :file_context AND sum(completion_tokens) = :file_generated
FROM demo.new_usage HAVING :'traced'::boolean;

\echo Checks
SELECT CASE WHEN ok THEN 'ok' ELSE 'FAILED' END AS verdict, fact AS "check" FROM demo.verdict ORDER BY n;

SELECT bool_and(coalesce(ok, false)) AS all_ok FROM demo.verdict \gset
SELECT to_char(count(*), :number) AS runs, (SELECT to_char(max(tokens), :number) FROM demo.total) AS tokens,
    (SELECT to_char(sum(extract(epoch FROM finished_at - started_at)), 'FM9,990.0') FROM demo.step) AS seconds
FROM demo.run \gset
\if :all_ok
\echo :runs runs settled exactly once, :tokens tokens charged, in :seconds s.
\else
DO $$ BEGIN RAISE 'the totals or the checks above disagree'; END $$;
\endif
