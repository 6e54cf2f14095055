-- All of it as the application: the tables' owner, no superuser. Each statement
-- is a transaction of its own and is flushed to disk.
\pset footer off

SELECT demo.start('one UPDATE per run') \g /dev/null
SET ROLE platform;
SELECT format('UPDATE workflows SET status = ''completed'', completed_at = now() WHERE id = %L', workflow_id)
FROM demo.run WHERE way = 'update' ORDER BY n \gexec
RESET ROLE;
SELECT demo.finish('one UPDATE per run') \g /dev/null

SELECT demo.start('settle_workflow(), then UPDATE') \g /dev/null
SET ROLE platform;
SELECT workflow_id AS run FROM demo.run ORDER BY way = 'call' DESC, n LIMIT 1 \gset
SELECT settle_workflow(:'run') AS first \gset
SELECT settle_workflow(:'run') AS again \gset
\echo
\echo A direct call for one run, and the same call again:
SELECT key, :'first'::jsonb ->> key AS "first call", :'again'::jsonb ->> key AS "again"
FROM unnest('{workflow_id,status,tokens_used,previous_balance,new_balance,is_overdraft}'::text[]) WITH ORDINALITY k (key, n)
ORDER BY n;
\o /dev/null
SELECT format('SELECT settle_workflow(%L)', workflow_id), -- charges the run
    format('UPDATE workflows SET status = ''completed'', completed_at = now() WHERE id = %L', workflow_id) -- finds it charged
FROM demo.run WHERE way = 'call' ORDER BY n \gexec
\o
RESET ROLE;
SELECT demo.finish('settle_workflow(), then UPDATE') \g /dev/null

SELECT demo.start('one UPDATE for all the rest') \g /dev/null
SET ROLE platform;
UPDATE workflows SET status = 'completed', completed_at = now() WHERE status = 'running';
RESET ROLE;
SELECT demo.finish('one UPDATE for all the rest') \g /dev/null

-- Retries: every workflow there is, once more.
SET ROLE platform;
SELECT sum((settle_workflow(id) ->> 'tokens_used')::bigint) AS charged_again FROM workflows \gset
RESET ROLE;
CREATE TABLE demo.retries AS SELECT :'charged_again'::bigint AS charged;
