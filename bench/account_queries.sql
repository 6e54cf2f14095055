-- What a dashboard shows of one account, asked for in four queries, as it would send them.
SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), coalesce(sum(total_tokens), 0)
FROM token_usage WHERE user_id = 'user-1' AND created_at >= now() - interval '30 days';

SELECT coalesce(model, 'unknown'), count(*), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens)
FROM token_usage WHERE user_id = 'user-1' AND created_at >= now() - interval '30 days' GROUP BY 1 ORDER BY 5 DESC;

SELECT coalesce(stage, 'unknown'), count(*), sum(prompt_tokens), sum(completion_tokens), sum(total_tokens)
FROM token_usage WHERE user_id = 'user-1' AND created_at >= now() - interval '30 days' GROUP BY 1 ORDER BY 5 DESC;

SELECT workflow_id, stage, model, prompt_tokens, completion_tokens, total_tokens, created_at
FROM token_usage WHERE user_id = 'user-1' AND created_at >= now() - interval '30 days' ORDER BY created_at DESC LIMIT 20;
