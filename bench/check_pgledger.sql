-- What is wrong with the balances of pgledger's accounts, after :settled workflows were completed; nothing if all adds
-- up. Asked of its views, as its page says. Every balance began with 0.
WITH charged AS (
    SELECT w.user_id, sum(u.total_tokens) AS tokens
    FROM app.workflows AS w JOIN app.token_usage AS u ON u.workflow_id = w.id
    WHERE w.status = 'completed' GROUP BY 1
), used AS (
    SELECT a.available, a.used, coalesce(c.tokens, 0) AS tokens
    FROM app.pgledger_account AS a LEFT JOIN charged AS c USING (user_id)
), due (id, balance) AS (
    SELECT available, -tokens FROM used UNION ALL SELECT used, tokens FROM used
), differ AS (
    SELECT count(*) AS wrong
    FROM due FULL JOIN app.pgledger_accounts_view AS a USING (id)
    LEFT JOIN (SELECT account_id AS id, sum(amount) AS amount FROM app.pgledger_entries_view GROUP BY 1) AS entries USING (id)
    WHERE (a.balance, coalesce(entries.amount, 0)) IS DISTINCT FROM (due.balance, due.balance)
), total AS (
    SELECT sum(balance) AS balance FROM app.pgledger_accounts_view
), transfers AS (
    SELECT count(*) AS n FROM app.pgledger_transfers_view
), completed AS (
    SELECT count(*) AS workflows FROM app.workflows WHERE status = 'completed'
)
SELECT format('%s workflows completed and %s transfers, not %s; %s accounts are wrong; all balances come to %s',
    completed.workflows, transfers.n, :settled, differ.wrong, total.balance)
FROM completed, transfers, differ, total
WHERE (completed.workflows, transfers.n, differ.wrong, total.balance)
    IS DISTINCT FROM (:settled::bigint, :settled::bigint, 0::bigint, 0::numeric);
