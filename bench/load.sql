-- Everything is made by arithmetic, so each run has the same rows. A workflow has ten usage rows, and a
-- hundred workflows run at the same time, so its rows lie between those of others. :account is an expression: the
-- number of the account of workflow n.
SET ROLE app;
INSERT INTO app.users (id, email)
SELECT 'user-' || n, 'user-' || n || '@example.com' FROM generate_series(1, :users) AS n;

INSERT INTO app.workflows (id, number, user_id, status, created_at)
SELECT 'run-' || n, n, 'user-' || :account, :'status', timestamptz '2026-01-01' + n * interval '10 seconds'
FROM generate_series(1, :workflows) AS n;

INSERT INTO app.token_usage (workflow_id, user_id, stage, model, prompt_tokens, completion_tokens, total_tokens, created_at)
SELECT 'run-' || n, 'user-' || :account,
    (ARRAY['plan', 'search', 'draft', 'review', 'answer'])[i / 100 % 5 + 1],
    (ARRAY['small', 'large', 'vision', 'embedding'])[(i / 100 + i) % 4 + 1],
    prompt, completion, prompt + completion, timestamptz '2026-01-01' + i * interval '1 second'
FROM (
    SELECT i, i / 1000 * 100 + i % 100 + 1 AS n, 100 + i::bigint * 31 % 900 AS prompt, 20 + i::bigint * 17 % 300 AS completion
    FROM generate_series(0, :workflows * 10 - 1) AS i) AS usage;

CREATE INDEX ON app.token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON app.token_usage (user_id, created_at);
RESET ROLE;
VACUUM (FREEZE, ANALYZE);
