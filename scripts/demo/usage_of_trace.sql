-- Every request of the trace becomes a usage row. Eight requests in a row are one
-- run, and a fixed rule gives each run its user, some users far more often than
-- others: the same trace always gives the same charges.
INSERT INTO demo.run (n, workflow_id)
SELECT n, format('run-%s', lpad(n::text, 6, '0'))
FROM (SELECT DISTINCT (n / 8 + 1)::integer AS n FROM demo.trace) numbered;

INSERT INTO workflows (id, user_id, name, created_at)
SELECT run.workflow_id, 1 + floor(200 * ((run.n * 0.6180339887) % 1.0) ^ 2)::bigint, 'requests of a trace', min(happened_at)
FROM demo.run JOIN demo.trace ON trace.n / 8 + 1 = run.n
GROUP BY run.n, run.workflow_id;

INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT w.id, w.user_id, 'traced', 'request', context_tokens, generated_tokens, context_tokens + generated_tokens, happened_at
FROM demo.trace JOIN demo.run ON trace.n / 8 + 1 = run.n JOIN workflows w ON w.id = run.workflow_id
ORDER BY trace.n;

VACUUM (ANALYZE) users, workflows, token_usage;
