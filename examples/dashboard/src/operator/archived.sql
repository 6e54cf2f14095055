-- What left the tables, the last first. The ledger is that of all bindings.
SELECT coalesce(json_agg(json_build_object('kind', a.kind, 'binding', b.name, 'archive', nullif(a.archive, ''),
    'last_at', a.last_at, 'before', a.before, 'row_count', a.row_count, 'tokens', a.tokens, 'actor', a.actor)
    ORDER BY a.last_at DESC, a.kind), '[]')::text
FROM token_balance.archived AS a LEFT JOIN token_balance.binding AS b ON b.binding_id = a.binding_id
