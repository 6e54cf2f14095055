-- A price list: what calls cost in tokens of the balance, by model, kind of tokens and time. docs/weights.md explains it.
--
-- Makes a table rate, for the prices, and a view priced_usage, which has each call with its price in total_tokens. A row of
-- rate says that from `since` on, a token of this kind, used by this model, costs `weight` tokens of the balance; the model
-- '*' is every one that has no row of its own by then. A kind of tokens that has no weight is not free: the price of such a
-- call is NaN, which cannot be counted, and usage_state() says so.
--
-- Tables: token_usage with workflow_id, user_id, model, prompt_tokens, cached_tokens, completion_tokens and created_at.
-- Role: the owner of token_usage, who may create in the schema. Nothing of the extension is read.
CREATE TABLE rate (
    model text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('prompt', 'cached', 'completion')),
    weight numeric NOT NULL CHECK (weight BETWEEN -1000000 AND 1000000),
    since timestamptz NOT NULL,
    PRIMARY KEY (model, kind, since)
);

CREATE VIEW priced_usage AS
SELECT u.workflow_id, u.user_id, u.model, u.prompt_tokens, u.completion_tokens, u.created_at,
       (SELECT coalesce(sum(k.tokens * coalesce(r.weight, 'NaN')), 0)
        FROM (VALUES ('prompt', u.prompt_tokens), ('cached', u.cached_tokens),
                     ('completion', u.completion_tokens)) AS k (kind, tokens)
        LEFT JOIN LATERAL (
            SELECT f.weight FROM rate AS f
            WHERE f.model = p.model AND f.kind = k.kind AND f.since <= u.created_at
            ORDER BY f.since DESC LIMIT 1) AS r ON true
        WHERE k.tokens <> 0) AS total_tokens
FROM token_usage AS u
-- Under which model the call is priced: by its own prices alone, or by those of '*' alone.
CROSS JOIN LATERAL (
    SELECT CASE WHEN EXISTS (SELECT FROM rate AS o WHERE o.model = u.model AND o.since <= u.created_at)
                THEN u.model ELSE '*' END AS model) AS p;
