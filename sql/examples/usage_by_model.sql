-- Usage by model in the last 30 days, with its share, and how much of it no completed run stands for yet.
--
-- Gives for each model, largest first: calls, accounts, prompt, completion and total tokens, the share of all tokens in
-- percent, and the tokens of runs that are not completed. Those will be charged when their run is. Usage without an
-- account is in it too, though nobody pays for it.
--
-- Tables: the default ones (token_usage with model, prompt_tokens, completion_tokens, total_tokens and created_at;
-- workflows). The statuses are the default ones.
-- Role: SELECT on token_usage and workflows. Nothing of the extension is read.
SELECT coalesce(t.model, 'unknown') AS model,
       count(*) AS calls,
       count(DISTINCT t.user_id) AS accounts,
       coalesce(sum(t.prompt_tokens), 0) AS prompt_tokens,
       coalesce(sum(t.completion_tokens), 0) AS completion_tokens,
       coalesce(sum(t.total_tokens), 0) AS total_tokens,
       round(100 * coalesce(sum(t.total_tokens), 0) / nullif(sum(sum(t.total_tokens)) OVER (), 0), 1) AS percent,
       coalesce(sum(t.total_tokens) FILTER (WHERE NOT EXISTS (
           SELECT FROM workflows AS w
           WHERE w.id::text = t.workflow_id::text
             AND w.status IN ('completed', 'succeeded', 'success', 'finished', 'done'))), 0) AS tokens_of_open_runs
FROM token_usage AS t
WHERE t.created_at >= now() - interval '30 days'
GROUP BY 1
ORDER BY total_tokens DESC, model;
