-- Accounts below zero, deepest first: how many, what they owe, and the first hundred.
WITH account AS MATERIALIZED (
    SELECT user_id, token_balance, since, binding FROM token_balance.overdrawn
)
SELECT json_build_object(
    'count', (SELECT count(*) FROM account),
    'owed', (SELECT coalesce(-sum(token_balance), 0) FROM account),
    'accounts', (SELECT coalesce(json_agg(a ORDER BY token_balance, user_id, binding), '[]')
        FROM (SELECT * FROM account ORDER BY token_balance, user_id, binding LIMIT 100) AS a))::text
