-- Who is below zero, since when, and how it came to that.
--
-- Gives each overdrawn account, deepest first: its balance, when it crossed zero, the workflow whose charge took it
-- across (null if it was a change by hand), and what it was charged since then.
--
-- Tables: any, whatever is attached.
-- Role: EXECUTE on token_balance.overdrawn_accounts(), SELECT on token_balance.overdrawn and token_balance.ledger, USAGE
-- on schema token_balance.
SELECT o.user_id,
       o.token_balance,
       o.since,
       crossing.workflow_id AS crossed_by,
       (SELECT coalesce(-sum(l.amount), 0)
        FROM token_balance.ledger AS l
        WHERE l.user_id = o.user_id AND l.kind = 'settlement' AND l.entry_id > crossing.entry_id) AS charged_since
FROM token_balance.overdrawn AS o
LEFT JOIN LATERAL (
    SELECT l.entry_id, l.workflow_id
    FROM token_balance.ledger AS l
    WHERE l.user_id = o.user_id AND l.new_balance < 0 AND l.previous_balance >= 0
    ORDER BY l.entry_id DESC
    LIMIT 1) AS crossing ON true
ORDER BY o.token_balance, o.user_id;
