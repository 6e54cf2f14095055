-- The newest entries of an account, and for each day of the period what left the balance, what came to it, and what
-- it was at the day's end; null where the ledger no longer knows.
--   $1 account    $2 days, today the last one    $3 time zone that the days are of
WITH period AS (
    SELECT today, today - ($2::integer - 1) AS first_day
    FROM (SELECT (now() AT TIME ZONE $3::text)::date) AS t (today)
), entry AS MATERIALIZED (
    -- Its order is that of the changes; a charge that still waits in the queue has no id yet.
    SELECT e.*, (e.created_at AT TIME ZONE $3::text)::date AS day
    FROM period, token_balance.statement($1::text, since => period.first_day::timestamp AT TIME ZONE $3::text)
        WITH ORDINALITY AS e
), changed AS (
    SELECT day,
        coalesce(-sum(amount) FILTER (WHERE kind = 'settlement'), 0) AS charged,
        coalesce(sum(amount) FILTER (WHERE kind <> 'settlement'), 0) AS added,
        (array_agg(new_balance ORDER BY ordinality DESC))[1] AS balance
    FROM entry GROUP BY day
), archived AS (
    -- An opening entry stands for older ones that were archived: of that day and those before it not all is known.
    SELECT max(day) AS day FROM entry WHERE kind = 'opening'
), opening AS (
    -- No entry in the period: the balance has been what it is.
    SELECT coalesce(
        (SELECT previous_balance FROM entry ORDER BY ordinality LIMIT 1),
        (token_balance.balance($1::text) ->> 'token_balance')::bigint) AS balance
), daily AS (
    SELECT d.day::date AS day,
        CASE WHEN d.day <= archived.day THEN NULL ELSE coalesce(c.charged, 0) END AS charged,
        CASE WHEN d.day <= archived.day THEN NULL ELSE coalesce(c.added, 0) END AS added,
        CASE WHEN d.day < archived.day THEN NULL ELSE coalesce(
            (SELECT last.balance FROM changed AS last WHERE last.day <= d.day ORDER BY last.day DESC LIMIT 1),
            opening.balance) END AS balance
    FROM opening, archived, period, generate_series(period.first_day::timestamp, period.today, interval '1 day') AS d (day)
    LEFT JOIN changed AS c ON c.day = d.day::date
), newest AS (
    -- Who made an entry, and where old ones are, is the platform's to know.
    SELECT ordinality, json_build_object('entry_id', entry_id, 'created_at', created_at, 'kind', kind, 'amount', amount,
        'new_balance', new_balance, 'workflow_id', workflow_id, 'reference', reference,
        'note', CASE WHEN kind <> 'opening' THEN note END) AS entry
    FROM entry ORDER BY ordinality DESC LIMIT 50
)
SELECT json_build_object(
    'days', (SELECT json_agg(daily ORDER BY day) FROM daily),
    'entry_count', (SELECT count(*) FROM entry),
    'entries', (SELECT coalesce(json_agg(entry ORDER BY ordinality DESC), '[]') FROM newest))::text
