-- Who spent most in the last 30 days.
--
-- Gives the 20 accounts that were charged most: the tokens charged, less what was refunded or corrected, the number of charges, and
-- the balance now. It counts what left the balance, so usage that is not settled yet is not in it.
--
-- Tables: the default ones (users). For other tables change the name and the key.
-- Role: SELECT on users and on token_balance.ledger, USAGE on schema token_balance.
SELECT l.user_id,
       -sum(l.amount) AS tokens_spent,
       count(*) FILTER (WHERE l.kind = 'settlement') AS charges,
       u.token_balance
FROM token_balance.ledger AS l
LEFT JOIN users AS u ON u.id::text = l.user_id
WHERE l.kind IN ('settlement', 'refund', 'correction')
  AND l.created_at >= now() - interval '30 days'
GROUP BY l.user_id, u.token_balance
ORDER BY tokens_spent DESC, l.user_id
LIMIT 20;
