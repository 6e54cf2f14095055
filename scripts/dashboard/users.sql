-- Whom to show: one user in credit, with a top-up if there is such a one, and the one who owes most.
(SELECT 'in credit', u.id, u.email FROM users AS u
 WHERE token_balance >= 0
 ORDER BY EXISTS (SELECT FROM token_balance.ledger AS l WHERE l.user_id = u.id::text AND kind = 'credit') DESC,
    (SELECT count(*) FROM token_balance.ledger AS l WHERE l.user_id = u.id::text) DESC, u.id LIMIT 1)
UNION ALL
(SELECT 'overdrawn', id, email FROM users WHERE token_balance < 0 ORDER BY token_balance, id LIMIT 1);
