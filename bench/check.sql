-- What is wrong with the money in the tables of :ledger, after :settled workflows were settled; nothing if all
-- adds up. Every balance began with 100,000,000 tokens.
WITH settled AS (
    SELECT count(*) AS workflows, sum(charged_tokens) AS tokens FROM :ledger.settlement
), used AS (
    SELECT sum(u.total_tokens) AS tokens FROM app.token_usage AS u
    WHERE u.workflow_id IN (SELECT s.workflow_id FROM :ledger.settlement AS s)
), taken AS (
    SELECT sum(100000000 - a.token_balance) AS tokens FROM app.users AS a
), entries AS (
    SELECT l.*, lag(l.new_balance, 1, 100000000::bigint) OVER (PARTITION BY l.user_id ORDER BY l.entry_id) AS before
    FROM :ledger.ledger AS l
), ledger AS (
    SELECT count(*) AS entries, -sum(amount) AS tokens,
        count(*) FILTER (WHERE previous_balance <> before OR new_balance <> previous_balance + amount) AS broken
    FROM entries
), ends AS (
    SELECT count(*) AS wrong FROM app.users AS a
    JOIN LATERAL (SELECT l.new_balance FROM :ledger.ledger AS l WHERE l.user_id = a.id ORDER BY l.entry_id DESC LIMIT 1) AS last
    ON last.new_balance <> a.token_balance
)
SELECT format('%s workflows settled, not %s; tokens: usage %s, settlements %s, ledger %s, balances %s; '
    '%s entries, %s of them break a chain; %s balances are not the end of theirs',
    settled.workflows, :settled, used.tokens, settled.tokens, ledger.tokens, taken.tokens, ledger.entries, ledger.broken, ends.wrong)
FROM settled, used, taken, ledger, ends
WHERE (settled.workflows, used.tokens, ledger.tokens, taken.tokens, ledger.entries, ledger.broken, ends.wrong)
    IS DISTINCT FROM (:settled::bigint, settled.tokens, settled.tokens, settled.tokens, :settled::bigint, 0::bigint, 0::bigint);
