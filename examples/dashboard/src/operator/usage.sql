-- What has become of all usage, and the runs of which some waits, oldest first.
WITH unsettled AS MATERIALIZED (
    SELECT binding, workflow_id, user_id, state, reason, usage_rows, tokens, oldest FROM token_balance.unsettled
)
SELECT json_build_object(
    'states', (SELECT coalesce(json_agg(s ORDER BY s.binding, s.state, s.reason), '[]') FROM token_balance.usage_state() AS s),
    'unsettled_count', (SELECT count(*) FROM unsettled),
    'unsettled', (SELECT coalesce(json_agg(u ORDER BY oldest, workflow_id, user_id), '[]')
        FROM (SELECT * FROM unsettled ORDER BY oldest, workflow_id, user_id LIMIT 100) AS u))::text
