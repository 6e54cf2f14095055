-- Entries of an account, newest first: twenty, and before them, where no entry is named, charges that still wait in the
-- queue, which have no id yet.
--   $1 account    $2 the entry before which to begin, null: at the newest
WITH entry AS MATERIALIZED (
    -- Its order is that of the changes.
    SELECT e.* FROM token_balance.statement($1::text) WITH ORDINALITY AS e
), waiting AS (
    SELECT * FROM entry WHERE entry_id IS NULL AND $2::bigint IS NULL ORDER BY ordinality DESC LIMIT 20
), older AS (
    -- One more than is shown: is there another page?
    SELECT * FROM entry WHERE entry_id < $2 OR entry_id IS NOT NULL AND $2 IS NULL ORDER BY ordinality DESC LIMIT 21
), shown AS (
    SELECT * FROM waiting UNION ALL (SELECT * FROM older ORDER BY ordinality DESC LIMIT 20)
)
SELECT json_build_object(
    'entries', (SELECT coalesce(json_agg(json_build_object('entry_id', entry_id, 'created_at', created_at, 'kind', kind,
        'amount', amount, 'new_balance', new_balance, 'workflow_id', workflow_id, 'reference', reference, 'note', note,
        'actor', actor) ORDER BY ordinality DESC), '[]') FROM shown),
    'entry_count', (SELECT count(*) FROM entry),
    'waiting_count', (SELECT count(*) FROM entry WHERE entry_id IS NULL),
    'older_before', (SELECT min(entry_id) FROM shown WHERE (SELECT count(*) FROM older) > 20))::text
