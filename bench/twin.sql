-- What a careful team writes by hand: a trigger in PL/pgSQL that settles a completed workflow exactly once
-- and keeps a ledger. The same settlement and ledger rows and keys as the extension's.
--
-- What it lacks: it is right in READ COMMITTED only (in REPEATABLE READ it sums with the transaction's old
-- snapshot); a balance that is changed by hand leaves no ledger entry; nobody is kept from changing the
-- ledger; a bad charge refuses the completion; no refunds, sweep, or checks.
CREATE SCHEMA twin AUTHORIZATION app;
SET ROLE app;

CREATE TABLE twin.settlement (
    workflow_id text NOT NULL, user_id text NOT NULL, usage_tokens bigint NOT NULL, charged_tokens bigint NOT NULL,
    refunded_tokens bigint NOT NULL DEFAULT 0, first_settled_at timestamptz, last_settled_at timestamptz,
    PRIMARY KEY (workflow_id, user_id));
CREATE TABLE twin.ledger (
    user_id text NOT NULL, entry_id bigint GENERATED ALWAYS AS IDENTITY, kind text NOT NULL, amount bigint NOT NULL,
    previous_balance bigint NOT NULL, new_balance bigint NOT NULL, workflow_id text, reference text, note text,
    actor text NOT NULL, created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, entry_id), CHECK (new_balance = previous_balance + amount));
CREATE UNIQUE INDEX ON twin.ledger (user_id, reference) WHERE reference IS NOT NULL;

-- Charge what the workflow has used and nobody was charged for. The answer is of the last account.
CREATE FUNCTION twin.settle(workflow text, OUT tokens_used bigint, OUT previous_balance bigint, OUT new_balance bigint)
LANGUAGE plpgsql AS $$
DECLARE
    usage record;
    delta bigint;
BEGIN
    -- Two settlements of one workflow take turns. A bounded number of locks: the server's lock table has
    -- no room for one lock a workflow when a statement completes 100,000 of them.
    PERFORM pg_advisory_xact_lock(20512, hashtext(workflow) & 1023);
    tokens_used := 0;
    FOR usage IN
        SELECT u.user_id, sum(u.total_tokens) AS tokens FROM app.token_usage AS u
        WHERE u.workflow_id = workflow GROUP BY u.user_id ORDER BY u.user_id
    LOOP
        CONTINUE WHEN usage.tokens <= 0;
        INSERT INTO twin.settlement (workflow_id, user_id, usage_tokens, charged_tokens, first_settled_at, last_settled_at)
        VALUES (workflow, usage.user_id, usage.tokens, usage.tokens, clock_timestamp(), clock_timestamp())
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            delta := usage.tokens;
        ELSE
            SELECT usage.tokens - s.usage_tokens INTO delta FROM twin.settlement AS s
            WHERE s.workflow_id = workflow AND s.user_id = usage.user_id;
            CONTINUE WHEN delta <= 0;
            UPDATE twin.settlement AS s
            SET usage_tokens = usage.tokens, charged_tokens = s.charged_tokens + delta, last_settled_at = clock_timestamp()
            WHERE s.workflow_id = workflow AND s.user_id = usage.user_id;
        END IF;
        UPDATE app.users AS a SET token_balance = a.token_balance - delta WHERE a.id = usage.user_id
        RETURNING a.token_balance INTO STRICT new_balance;
        previous_balance := new_balance + delta;
        INSERT INTO twin.ledger (user_id, kind, amount, previous_balance, new_balance, workflow_id, actor)
        VALUES (usage.user_id, 'settlement', -delta, previous_balance, new_balance, workflow, current_user);
        tokens_used := tokens_used + delta;
    END LOOP;
END $$;

CREATE FUNCTION twin.settle_on_completion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM twin.settle(NEW.id);
    RETURN NULL;
END $$;

CREATE TRIGGER settle_on_completion AFTER UPDATE ON app.workflows FOR EACH ROW
WHEN (NEW.status IN ('completed', 'succeeded', 'success', 'finished', 'done')
    AND OLD.status NOT IN ('completed', 'succeeded', 'success', 'finished', 'done'))
EXECUTE FUNCTION twin.settle_on_completion();
CREATE TRIGGER settle_on_insert AFTER INSERT ON app.workflows FOR EACH ROW
WHEN (NEW.status IN ('completed', 'succeeded', 'success', 'finished', 'done'))
EXECUTE FUNCTION twin.settle_on_completion();
RESET ROLE;
VACUUM (FREEZE, ANALYZE);
