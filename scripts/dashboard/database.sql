-- What the dashboard needs of the demo's database, each once. The role logs in and may only read.
\set QUIET on
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'token_dashboard') AS new \gset
\if :new
CREATE ROLE token_dashboard LOGIN IN ROLE token_reader;

-- The demo charged everybody a moment ago, while the runs are of the last days: a page of thirty days would show a step.
-- So here, and only here, the entries get the times of the runs, in the order that they have. Nobody but a superuser can
-- do that, and only with the ledger's guards off.
BEGIN;
DO $$
DECLARE
    guard name;
BEGIN
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger DISABLE TRIGGER %I', guard);
    END LOOP;
    WITH entry AS (
        SELECT entry_id, row_number() OVER (PARTITION BY l.user_id ORDER BY entry_id) AS n, l.user_id,
            CASE WHEN l.kind = 'settlement' THEN least(w.created_at + interval '10 minutes', l.created_at) ELSE l.created_at END AS at
        FROM token_balance.ledger AS l LEFT JOIN public.workflows AS w ON w.id = l.workflow_id
    ), moment AS (
        SELECT user_id, at, row_number() OVER (PARTITION BY user_id ORDER BY at) AS n FROM entry
    )
    UPDATE token_balance.ledger AS l SET created_at = moment.at
    FROM entry JOIN moment USING (user_id, n) WHERE l.entry_id = entry.entry_id;
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER %I', guard);
    END LOOP;
END $$;
COMMIT;
\endif
