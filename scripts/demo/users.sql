-- 240 users, and what they did before the extension came: 300 runs, the last
-- 20 of them still under way. Times are counted back from now, as a dashboard
-- shows the last days; everything else is the same in each demo.
SELECT setseed(0.2026) \g /dev/null
SET max_parallel_workers_per_gather = 0;
SET ROLE platform;

INSERT INTO users (id, email, created_at)
SELECT n, format('user%s@example.com', lpad(n::text, 3, '0')), now() - interval '90 days' + n * interval '1 hour'
FROM generate_series(1, 240) n;

INSERT INTO workflows (id, user_id, name, status, created_at, completed_at)
SELECT format('old-%s', lpad(n::text, 5, '0')), 1 + n % 240, 'weekly digest',
    CASE WHEN n <= 280 THEN 'completed' ELSE 'running' END,
    now() - interval '45 days' + n * interval '10 minutes',
    CASE WHEN n <= 280 THEN now() - interval '45 days' + n * interval '11 minutes' END
FROM generate_series(1, 300) n;

INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT w.id, w.user_id, 'small', 'draft', 1500 + 10 * call, 200 + call, 1700 + 11 * call, w.created_at
FROM workflows w, generate_series(1, 10) call
ORDER BY w.id, call;
