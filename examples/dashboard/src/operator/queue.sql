-- Charges that wait for their account's row.
SELECT json_build_object('depth', count(*), 'accounts', count(DISTINCT (accounts_id, user_id)),
    'tokens', coalesce(sum(tokens), 0), 'oldest', min(queued_at))::text
FROM token_balance.queue
