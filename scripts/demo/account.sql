-- What goes on after the charges, with one account: usage that comes late, a
-- credit, a refund, and what its owner and the support desk look at. The tables'
-- owner was granted the reading; what gives tokens away was granted to billing.
\pset footer off
\pset border 1

CREATE ROLE billing;
GRANT USAGE ON SCHEMA token_balance TO billing;
GRANT EXECUTE ON FUNCTION token_balance.credit(text, numeric, text, text, name),
    token_balance.refund_workflow(text, numeric, text, text, name, regclass), token_balance.settle_pending, token_balance.reconcile TO billing;

-- The same account as in the report: in overdraft if there is one.
SELECT id AS account, email, token_balance AS balance FROM users
ORDER BY token_balance, NOT EXISTS (SELECT FROM workflows WHERE user_id = users.id), id LIMIT 1 \gset
SELECT clock_timestamp() AS since \gset

SET ROLE platform;
INSERT INTO token_usage (workflow_id, user_id, model, stage, prompt_tokens, completion_tokens, total_tokens)
SELECT run.id, :account, model, stage, 3000, 400, 3400
FROM (SELECT id FROM workflows WHERE user_id = :account AND status = 'completed' ORDER BY completed_at DESC, id DESC LIMIT 2) run,
    LATERAL (SELECT model, stage FROM token_usage WHERE workflow_id = run.id ORDER BY completion_tokens DESC, id LIMIT 1) call;
SET ROLE billing;
\echo
\echo Late usage: settled runs of :email make one more call; reconcile() reports it
SELECT problem, workflow_id AS workflow, user_id AS account, expected, found FROM token_balance.reconcile();
\echo settle_pending() charges it
SELECT * FROM jsonb_to_record(token_balance.settle_pending())
    AS swept (workflows integer, charges integer, tokens_used bigint, more boolean);
RESET ROLE;

SELECT count(*) AS overdrawn FROM token_balance.overdrawn \gset
\echo The view overdrawn (accounts below zero: :overdrawn), deepest first
SELECT u.email, to_char(o.token_balance, '999,999,999') AS balance, to_char(o.since, 'HH24:MI:SS') AS since
FROM token_balance.overdrawn o JOIN users u ON u.id::text = o.user_id ORDER BY o.token_balance, u.id LIMIT 3;

-- Enough to be out of the red again, and the run that cost most.
SELECT 1000000 * (1 + greatest(-token_balance, 0) / 1000000) AS credited FROM users WHERE id = :account \gset
SELECT workflow_id AS run FROM token_balance.settlement WHERE user_id = :'account'
ORDER BY charged_tokens DESC, workflow_id LIMIT 1 \gset

SET ROLE billing;
SELECT token_balance.credit(:'account', :credited, 'invoice-0412', 'paid by card') AS credit \gset
SELECT token_balance.credit(:'account', :credited, 'invoice-0412', 'paid by card') AS replay \gset
SELECT token_balance.refund_workflow(:'run', reference => 'ticket-1881', note => 'the answer was empty') AS refund \gset
SET ROLE platform;
SELECT settle_workflow(:'run') AS retry \gset
RESET ROLE;
\echo A credit, the same one again as after a lost answer, a refund, and a retry of the refunded run
SELECT call, to_char((answer ->> 'amount')::bigint, '999,999,999') AS amount,
    to_char((answer ->> 'previous_balance')::bigint, '999,999,999') AS previous,
    to_char((answer ->> 'new_balance')::bigint, '999,999,999') AS new, said AS " "
FROM (VALUES
    (1, format('credit(%L, %s, ''invoice-0412'')', :'account', :credited), :'credit'::jsonb, ''),
    (2, 'the same again', :'replay'::jsonb, 'replayed: ' || (:'replay'::jsonb ->> 'replayed')),
    (3, format('refund_workflow(%L)', :'run'), (:'refund'::jsonb -> 'refunds' -> 0), ''),
    (4, format('settle_workflow(%L)', :'run'), :'retry'::jsonb || jsonb_build_object('amount', :'retry'::jsonb -> 'tokens_used'),
        :'retry'::jsonb ->> 'status')
) calls (n, call, answer, said) ORDER BY n;

SET ROLE platform;
\echo The statement of :email since then
SELECT to_char(created_at, 'HH24:MI:SS') AS time, kind, to_char(amount, '999,999,999') AS amount,
    to_char(new_balance, '999,999,999') AS balance, workflow_id AS workflow, reference, note, actor
FROM token_balance.statement(:'account', since => :'since');
RESET ROLE;

-- A trace may be of years ago.
SELECT least(greatest(30, 1 + ceil(extract(epoch FROM now() - min(created_at)) / 86400)), 36500)::integer AS days
FROM demo.new_usage \gset
SET ROLE platform;
SELECT token_balance.summary(:'account', :days) AS summary \gset
RESET ROLE;
SELECT CASE WHEN (:'summary'::jsonb ->> 'is_overdraft')::boolean THEN 'in overdraft' ELSE 'not in overdraft' END AS state,
    to_char((:'summary'::jsonb ->> 'token_balance')::bigint, 'FM999,999,999') AS now_has \gset
\echo The summary of :email, the last :days days: balance :now_has, :state
SELECT by, what, to_char(record_count, '99,999') AS records, to_char(total_prompt_tokens, '999,999,999') AS prompt,
    to_char(total_completion_tokens, '999,999,999') AS completion, to_char(total_tokens, '999,999,999') AS total
FROM (
    SELECT 1 AS n, '' AS by, 'all' AS what, total.*
    FROM jsonb_to_record(:'summary'::jsonb -> 'summary')
        AS total (record_count bigint, total_prompt_tokens bigint, total_completion_tokens bigint, total_tokens bigint)
    UNION ALL
    SELECT 2, 'model', m.* FROM jsonb_to_recordset(:'summary'::jsonb -> 'by_model')
        AS m (model text, record_count bigint, total_prompt_tokens bigint, total_completion_tokens bigint, total_tokens bigint)
    UNION ALL
    SELECT 3, 'stage', s.* FROM jsonb_to_recordset(:'summary'::jsonb -> 'by_stage')
        AS s (stage text, record_count bigint, total_prompt_tokens bigint, total_completion_tokens bigint, total_tokens bigint)
) part ORDER BY n, total_tokens DESC, what;
\echo The newest of its recent records
SELECT record ->> 'workflow_id' AS workflow, record ->> 'model' AS model, record ->> 'stage' AS stage,
    record ->> 'total_tokens' AS tokens, left(record ->> 'created_at', 16) AS at
FROM jsonb_array_elements(:'summary'::jsonb -> 'recent_records') WITH ORDINALITY r (record, n) WHERE n <= 3 ORDER BY n;

INSERT INTO demo.verdict VALUES
    (9, 'the credit''s replay changed nothing', (:'replay'::jsonb ->> 'replayed')::boolean
        AND :'replay'::jsonb - 'replayed' = :'credit'::jsonb - 'replayed'
        AND (SELECT count(*) = 1 FROM token_balance.ledger WHERE reference = 'invoice-0412')),
    (10, 'the refunded run is not charged again', (:'retry'::jsonb ->> 'tokens_used')::bigint = 0),
    (11, 'balance_at() knows the balance from before this', token_balance.balance_at(:'account', :'since') = :balance),
    (12, 'summary() says what the usage rows say',
        (SELECT jsonb_build_object('total_tokens', sum(total_tokens), 'record_count', count(*),
                'total_prompt_tokens', sum(prompt_tokens), 'total_completion_tokens', sum(completion_tokens))
            FROM token_usage WHERE user_id = :account AND created_at >= now() - make_interval(days => :days))
        = :'summary'::jsonb -> 'summary');
