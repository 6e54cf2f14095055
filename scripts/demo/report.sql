-- What was charged, for a reader who sees this for the first time. No figure in
-- here is given, all of them are read.
\pset footer off
\pset border 1

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

-- The account whose story is shown: in overdraft if there is one.
SELECT id AS shown_id, email AS shown_email FROM users
ORDER BY token_balance, NOT EXISTS (SELECT FROM workflows WHERE user_id = users.id), id LIMIT 1 \gset
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

-- What was found, for checks.sql to show.
CREATE TABLE demo.verdict (n integer, fact text, ok boolean);

\if :traced
\echo The trace, added up from the file and from what was charged
SELECT 'file' AS source, to_char(:file_rows, '999,999,999') AS requests, to_char(:file_context, '999,999,999,999') AS context,
    to_char(:file_generated, '999,999,999,999') AS generated, to_char(:file_context + :file_generated, '999,999,999,999') AS total
UNION ALL
SELECT 'usage', to_char(count(*), '999,999,999'), to_char(sum(prompt_tokens), '999,999,999,999'),
    to_char(sum(completion_tokens), '999,999,999,999'), to_char(sum(total_tokens), '999,999,999,999') FROM demo.new_usage
UNION ALL
SELECT 'charged', '', '', '', to_char(sum(charged_tokens), '999,999,999,999') FROM token_balance.settlement;

INSERT INTO demo.verdict
SELECT 8, 'the usage rows and the charges are those of the trace, token by token',
    count(*) = :file_rows AND sum(prompt_tokens) = :file_context AND sum(completion_tokens) = :file_generated
        AND (SELECT coalesce(sum(charged_tokens), 0) FROM token_balance.settlement) = :file_context + :file_generated
FROM demo.new_usage;
\endif
