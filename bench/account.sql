-- One account with a tenth of the rows, all within the last 30 days, between those of the others.
SET ROLE app;
INSERT INTO app.users (id, email)
SELECT 'user-' || n, 'user-' || n || '@example.com' FROM generate_series(1, :users) AS n;

INSERT INTO app.token_usage (workflow_id, user_id, stage, model, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT 'run-' || i / 10, CASE i % 10 WHEN 0 THEN 'user-1' ELSE 'user-' || 2 + i % (:users - 1) END,
    (ARRAY['plan', 'search', 'draft', 'review', 'answer'])[i / 100 % 5 + 1],
    (ARRAY['small', 'large', 'vision', 'embedding'])[(i / 100 + i / 10) % 4 + 1],
    prompt, completion, prompt + completion, now() - interval '29 days' * (1 - i / :rows::float8)
FROM (
    SELECT i, 100 + i::bigint * 31 % 900 AS prompt, 20 + i::bigint * 17 % 300 AS completion
    FROM generate_series(0, :rows - 1) AS i) AS usage;

CREATE INDEX ON app.token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON app.token_usage (user_id, created_at);
RESET ROLE;
VACUUM (FREEZE, ANALYZE);
