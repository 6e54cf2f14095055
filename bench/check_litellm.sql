-- What is wrong with the spending in LiteLLM's tables, after :settled workflows were completed; nothing if all adds up:
-- each log row is what its workflow used, and what a user, key, team or organization spent is what its log rows say.
WITH logs AS (
    SELECT l.*, (SELECT sum(u.total_tokens) FROM app.token_usage AS u WHERE u.workflow_id = l.request_id) AS used
    FROM app."LiteLLM_SpendLogs" AS l
), said AS (
    SELECT count(*) AS logs,
        count(*) FILTER (WHERE total_tokens IS DISTINCT FROM used OR spend <> used / 1048576e0) AS wrong
    FROM logs
), spent (what, id, spend) AS (
    SELECT 'user', user_id, spend FROM app."LiteLLM_UserTable"
    UNION ALL SELECT 'key', token, spend FROM app."LiteLLM_VerificationToken"
    UNION ALL SELECT 'team', team_id, spend FROM app."LiteLLM_TeamTable"
    UNION ALL SELECT 'organization', organization_id, spend FROM app."LiteLLM_OrganizationTable"
), due AS (
    SELECT what, id, sum(spend) AS spend
    FROM logs, LATERAL (
        VALUES ('user', "user"), ('key', api_key), ('team', team_id), ('organization', organization_id)) AS v (what, id)
    GROUP BY 1, 2
), differ AS (
    SELECT count(*) AS wrong
    FROM spent FULL JOIN due USING (what, id) WHERE spent.spend IS DISTINCT FROM coalesce(due.spend, 0)
), completed AS (
    SELECT count(*) AS workflows FROM app.workflows WHERE status = 'completed'
)
SELECT format('%s workflows completed and %s log rows, not %s; %s log rows and %s sums are wrong',
    completed.workflows, said.logs, :settled, said.wrong, differ.wrong)
FROM said, differ, completed
WHERE (completed.workflows, said.logs, said.wrong, differ.wrong)
    IS DISTINCT FROM (:settled::bigint, :settled::bigint, 0::bigint, 0::bigint);
