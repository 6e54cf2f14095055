# shellcheck shell=bash
# A part of other scripts: the invariants, in a database with users (id), token_usage (workflow_id, user_id,
# total_tokens) and workflows (id, status), as the query of one state that says what breaks them. The opening balance
# is 1000000. I1: opening balance plus ledger is the column, and the chain has no gap. I2: what a settlement charged is
# what the ledger and the queue have. I3: a completed workflow's usage is accounted for. I4: the ledger never shrinks:
# what it had at an earlier check is there unchanged. I5: reconcile() is empty (DESIGN S7).
broken_invariants="
WITH entries AS (
    SELECT user_id, previous_balance, new_balance, amount,
        lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before,
        first_value(previous_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS opening
    FROM token_balance.ledger),
chains AS (
    SELECT user_id, max(opening) AS opening, sum(amount) AS amount,
        bool_or(before <> previous_balance OR new_balance <> previous_balance + amount) AS has_gap
    FROM entries GROUP BY user_id),
charges AS (
    SELECT workflow_id, user_id, sum(tokens) AS charged FROM (
        SELECT workflow_id, user_id, -amount AS tokens FROM token_balance.ledger WHERE kind IN ('settlement', 'correction')
        UNION ALL SELECT workflow_id, user_id, tokens FROM token_balance.queue) AS c GROUP BY 1, 2),
used AS (
    SELECT workflow_id, user_id, sum(total_tokens) AS tokens FROM token_usage GROUP BY 1, 2)
SELECT coalesce(string_agg(what, ', '), 'nothing') FROM (
    SELECT 'I1 ' || u.id FROM users AS u LEFT JOIN chains AS c ON c.user_id = u.id
    WHERE u.token_balance <> coalesce(c.opening + c.amount, 1000000) OR c.has_gap
    UNION ALL
    SELECT 'I2 ' || coalesce(s.workflow_id, c.workflow_id) FROM token_balance.settlement AS s
    FULL JOIN charges AS c ON c.workflow_id = s.workflow_id AND c.user_id = s.user_id
    WHERE coalesce(s.charged_tokens, 0) <> coalesce(c.charged, 0)
    UNION ALL
    SELECT 'I3 ' || g.workflow_id FROM used AS g JOIN workflows AS w ON w.id = g.workflow_id
    LEFT JOIN token_balance.settlement AS s ON s.workflow_id = g.workflow_id AND s.user_id = g.user_id
    WHERE w.status = 'completed' AND g.tokens <> coalesce(s.usage_tokens - s.archived_usage_tokens, 0)
    UNION ALL
    SELECT 'I4 entry ' || entry_id FROM (TABLE seen_ledger EXCEPT TABLE token_balance.ledger) AS gone
    UNION ALL
    SELECT 'I5 ' || r.problem || coalesce(' ' || r.workflow_id, '') FROM token_balance.reconcile() AS r
) AS broken (what)"

# Both take psql's arguments; who sources this has a function psql that stops at an error.
see_ledger() { # keep a copy of what the ledger has, for the checks to come
    psql "$@" <<'SQL'
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS seen_ledger (LIKE token_balance.ledger);
INSERT INTO seen_ledger SELECT l.* FROM token_balance.ledger AS l
WHERE NOT EXISTS (SELECT FROM seen_ledger AS s WHERE s.entry_id = l.entry_id);
SQL
}
what_breaks() { # says what breaks an invariant, or nothing; the ledger was seen before
    psql -At "$@" -c "$broken_invariants"
    see_ledger "$@"
}
