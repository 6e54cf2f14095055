-- 5,000 runs and 50,000 model calls. The token counts are log-normal, as in
-- published traces: a few calls use a hundred times what most of them use. A few
-- users work far more than the others.
SELECT setseed(0.42) \g /dev/null
SET max_parallel_workers_per_gather = 0;

INSERT INTO demo.run (n, workflow_id)
SELECT n, format('run-%s', lpad(n::text, 6, '0')) FROM generate_series(1, 5000) n;

INSERT INTO workflows (id, user_id, name, created_at)
SELECT workflow_id, 1 + floor(240 * random() ^ 1.3)::bigint,
    demo.pick('{answer a ticket,review a change,summarise a call,plan a trip,research a company}', 1.5),
    now() - interval '11 days' + n * interval '3 minutes'
FROM demo.run ORDER BY n;

-- Every run makes one call at least; the others fall where they fall.
WITH call AS MATERIALIZED (
    SELECT n, CASE WHEN n <= 5000 THEN n ELSE 1 + floor(5000 * random())::integer END AS run,
        demo.pick('{medium,small,large,embedding}', 1.6) AS model,
        demo.pick('{draft,retrieve,plan,review,summarise}', 1.2) AS stage
    FROM generate_series(1, 50000) n
), tokens AS MATERIALIZED (
    SELECT call.*, demo.log_normal(CASE stage WHEN 'retrieve' THEN 2400 WHEN 'review' THEN 1800 ELSE 900 END, 1.1) AS prompt,
        CASE model WHEN 'embedding' THEN 0 ELSE demo.log_normal(180, 1.0) END AS completion
    FROM call
)
INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT w.id, w.user_id, model, stage, prompt, completion, prompt + completion, w.created_at + (tokens.n % 600) * interval '1 second'
FROM tokens JOIN demo.run ON demo.run.n = tokens.run JOIN workflows w ON w.id = run.workflow_id
ORDER BY tokens.n;

-- The runs that were under way when the extension came go on. What they used
-- before it is exempt, this is not.
INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens)
SELECT id, user_id, 'medium', 'summarise', 4000, 500, 4500
FROM workflows WHERE status = 'running' AND id LIKE 'old-%' ORDER BY id;

INSERT INTO demo.run (n, workflow_id)
SELECT 5000 + row_number() OVER (ORDER BY id), id FROM workflows WHERE status = 'running' AND id LIKE 'old-%';

VACUUM (ANALYZE) users, workflows, token_usage;
