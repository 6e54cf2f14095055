-- How fast each account burns tokens, and for how many days its balance lasts.
--
-- Gives for each account that was charged in the last 7 days: tokens a day (charges less refunds and corrections), and the days left at
-- that rate: 0 for an account that is overdrawn, null where more was refunded than charged. The first to run dry is the
-- first row. An account whose first charge is younger than 7 days is measured since that charge, but over a day at least.
--
-- Tables: the default ones (users). For other tables change the name and the key.
-- Role: SELECT on users and on token_balance.ledger, USAGE on schema token_balance.
WITH spent AS (
    SELECT user_id,
           -sum(amount) AS tokens,
           GREATEST(extract(epoch FROM now() - min(created_at)) / 86400, 1) AS days
    FROM token_balance.ledger
    WHERE kind IN ('settlement', 'refund', 'correction') AND created_at >= now() - interval '7 days'
    GROUP BY user_id
),
rate AS (
    SELECT spent.user_id,
           -- an account with older charges has burned for the whole week
           spent.tokens / CASE
               WHEN EXISTS (SELECT FROM token_balance.ledger AS l
                            WHERE l.user_id = spent.user_id AND l.kind = 'settlement'
                              AND l.created_at < now() - interval '7 days') THEN 7
               ELSE spent.days
           END AS tokens_a_day
    FROM spent
)
SELECT rate.user_id,
       round(rate.tokens_a_day) AS tokens_a_day,
       u.token_balance,
       CASE WHEN rate.tokens_a_day > 0
            THEN round(GREATEST(u.token_balance, 0) / rate.tokens_a_day, 1)
       END AS days_left
FROM rate
JOIN users AS u ON u.id::text = rate.user_id
ORDER BY days_left NULLS LAST, rate.user_id;
