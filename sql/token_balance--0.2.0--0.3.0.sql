-- From 0.2.0 to 0.3.0. What it leaves behind is what CREATE EXTENSION makes, to the last detail:
-- pg_test/once_per_run/upgrade.sh compares the two.
--
-- A REVOKE or GRANT on a function that is there already would make the grants of the application's roles
-- initial privileges of the extension, which pg_dump leaves out. So only new functions have one here.

SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Whichever superuser updates, the new objects belong to the owner of the old ones.
SELECT set_config('token_balance.updating_role', current_setting('role'), true);
SELECT set_config('role', r.rolname, true)
FROM pg_extension AS e JOIN pg_roles AS r ON r.oid = e.extowner
WHERE e.extname = 'token_balance' AND r.rolsuper;

-- A run that completes holds its table's lock before it takes those of the extension's tables; in this order
-- nobody waits for each other. It is asked for until it can be had at once, for a minute: who waited in the queue
-- would keep all others waiting behind it.
DO $$
DECLARE
    workflows regclass := (SELECT b.workflows FROM token_balance.binding AS b
        WHERE EXISTS (SELECT FROM pg_class AS c WHERE c.oid = b.workflows));
    until timestamptz := clock_timestamp() + interval '1 minute';
BEGIN
    IF workflows IS NULL THEN
        RETURN;
    END IF;
    LOOP
        BEGIN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', workflows);
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            IF clock_timestamp() > until THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.01);
    END LOOP;
END $$;

-- Functions. Those of 0.2.0 move to the new library, so that sessions which have the old one loaded go on with it.
-- They come first: triggers on the extension's tables call them, and the old library need not be there any more.

CREATE OR REPLACE FUNCTION token_balance.archive_ledger(
    before timestamp with time zone,
    archive pg_catalog.regclass)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_ledger_wrapper';

-- The others have an argument more, which names the binding, or more columns: they take the place of those of 0.2.0. C
-- functions that read other arguments than those of 0.2.0 have names of their own, so a session with the old library
-- cannot call that library's.

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id bigint) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.uuid) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_uuid_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text, binding pg_catalog.name)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id bigint, binding pg_catalog.name)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.uuid, binding pg_catalog.name)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_uuid_wrapper';

CREATE FUNCTION token_balance.settle_workflows(
    workflow_ids pg_catalog.text[],
    binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    workflow_id pg_catalog.text,
    user_id pg_catalog.text,
    charged_tokens bigint,
    previous_balance bigint,
    new_balance bigint,
    binding pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflows_wrapper';

CREATE FUNCTION token_balance.settle_pending(
    since timestamp with time zone DEFAULT NULL,
    max_workflows integer DEFAULT 10000,
    idle interval DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_pending_or_idle_wrapper';

CREATE PROCEDURE token_balance.settle_backlog(
    batch_size integer DEFAULT 10000,
    existing boolean DEFAULT false,
    binding pg_catalog.name DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'settle_backlog_wrapper';

CREATE FUNCTION token_balance.balance(user_id pg_catalog.text, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_wrapper';

CREATE FUNCTION token_balance.balance(user_id bigint, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_by_key_wrapper';

CREATE FUNCTION token_balance.balance(user_id pg_catalog.uuid, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_by_key_wrapper';

CREATE FUNCTION token_balance.credit(
    user_id pg_catalog.text,
    amount pg_catalog.numeric,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'credit_wrapper';

CREATE FUNCTION token_balance.credit(
    user_id bigint,
    amount pg_catalog.numeric,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'credit_by_key_wrapper';

CREATE FUNCTION token_balance.credit(
    user_id pg_catalog.uuid,
    amount pg_catalog.numeric,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'credit_by_key_wrapper';

CREATE FUNCTION token_balance.refund_workflow(
    workflow_id pg_catalog.text,
    amount pg_catalog.numeric DEFAULT NULL,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL,
    archive pg_catalog.regclass DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refund_workflow_wrapper';

CREATE FUNCTION token_balance.refund_workflow(
    workflow_id bigint,
    amount pg_catalog.numeric DEFAULT NULL,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL,
    archive pg_catalog.regclass DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refund_workflow_by_key_wrapper';

CREATE FUNCTION token_balance.refund_workflow(
    workflow_id pg_catalog.uuid,
    amount pg_catalog.numeric DEFAULT NULL,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL,
    archive pg_catalog.regclass DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refund_workflow_by_key_wrapper';

CREATE FUNCTION token_balance.statement(
    user_id pg_catalog.text,
    since timestamp with time zone DEFAULT NULL,
    until timestamp with time zone DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    entry_id bigint,
    created_at timestamp with time zone,
    kind pg_catalog.text,
    amount bigint,
    previous_balance bigint,
    new_balance bigint,
    workflow_id pg_catalog.text,
    reference pg_catalog.text,
    note pg_catalog.text,
    actor pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'statement_wrapper';

CREATE FUNCTION token_balance.statement(
    user_id bigint,
    since timestamp with time zone DEFAULT NULL,
    until timestamp with time zone DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    entry_id bigint,
    created_at timestamp with time zone,
    kind pg_catalog.text,
    amount bigint,
    previous_balance bigint,
    new_balance bigint,
    workflow_id pg_catalog.text,
    reference pg_catalog.text,
    note pg_catalog.text,
    actor pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'statement_by_key_wrapper';

CREATE FUNCTION token_balance.statement(
    user_id pg_catalog.uuid,
    since timestamp with time zone DEFAULT NULL,
    until timestamp with time zone DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    entry_id bigint,
    created_at timestamp with time zone,
    kind pg_catalog.text,
    amount bigint,
    previous_balance bigint,
    new_balance bigint,
    workflow_id pg_catalog.text,
    reference pg_catalog.text,
    note pg_catalog.text,
    actor pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'statement_by_key_wrapper';

CREATE FUNCTION token_balance.balance_at(
    user_id pg_catalog.text,
    at timestamp with time zone,
    binding pg_catalog.name DEFAULT NULL)
RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_at_wrapper';

CREATE FUNCTION token_balance.balance_at(
    user_id bigint,
    at timestamp with time zone,
    binding pg_catalog.name DEFAULT NULL)
RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_at_by_key_wrapper';

CREATE FUNCTION token_balance.balance_at(
    user_id pg_catalog.uuid,
    at timestamp with time zone,
    binding pg_catalog.name DEFAULT NULL)
RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_at_by_key_wrapper';

CREATE FUNCTION token_balance.summary(
    user_id pg_catalog.text,
    days integer DEFAULT 30,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'summary_wrapper';

CREATE FUNCTION token_balance.summary(
    user_id bigint,
    days integer DEFAULT 30,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'summary_by_key_wrapper';

CREATE FUNCTION token_balance.summary(
    user_id pg_catalog.uuid,
    days integer DEFAULT 30,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'summary_by_key_wrapper';

CREATE FUNCTION token_balance.overdrawn_accounts(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    user_id pg_catalog.text,
    token_balance bigint,
    since timestamp with time zone,
    binding pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'overdrawn_accounts_wrapper';

CREATE FUNCTION token_balance.reconcile(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    problem pg_catalog.text,
    user_id pg_catalog.text,
    workflow_id pg_catalog.text,
    expected pg_catalog.numeric,
    found pg_catalog.numeric,
    hint pg_catalog.text,
    binding pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reconcile_wrapper';

CREATE FUNCTION token_balance.detach(drop_column boolean DEFAULT false, name pg_catalog.name DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';

CREATE FUNCTION token_balance.verify(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    name pg_catalog.text,
    ok boolean,
    detail pg_catalog.text,
    hint pg_catalog.text,
    binding pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';

CREATE FUNCTION token_balance.attach(
    users pg_catalog.regclass,
    usage pg_catalog.regclass,
    workflows pg_catalog.regclass DEFAULT NULL,
    user_key pg_catalog.name DEFAULT 'id',
    usage_user pg_catalog.name DEFAULT 'user_id',
    usage_workflow pg_catalog.name DEFAULT 'workflow_id',
    usage_tokens pg_catalog.name[] DEFAULT '{total_tokens}',
    workflow_key pg_catalog.name DEFAULT 'id',
    workflow_user pg_catalog.name DEFAULT 'user_id',
    workflow_status pg_catalog.name DEFAULT 'status',
    workflow_completed_at pg_catalog.name DEFAULT NULL,
    completed_statuses pg_catalog.text[] DEFAULT '{completed,succeeded,success,finished,done}',
    initial_balance bigint DEFAULT NULL,
    balance_type pg_catalog.regtype DEFAULT 'integer',
    existing_usage pg_catalog.text DEFAULT NULL,
    create_index boolean DEFAULT false,
    usage_prompt_tokens pg_catalog.name DEFAULT 'prompt_tokens',
    usage_completion_tokens pg_catalog.name DEFAULT 'completion_tokens',
    usage_model pg_catalog.name DEFAULT 'model',
    usage_stage pg_catalog.name DEFAULT 'stage',
    usage_created_at pg_catalog.name DEFAULT 'created_at',
    busy_account pg_catalog.text DEFAULT 'wait',
    late_usage pg_catalog.text DEFAULT 'pending',
    search_path pg_catalog.name[] DEFAULT NULL,
    usage_ids pg_catalog.text DEFAULT NULL,
    accounts pg_catalog.text DEFAULT NULL,
    outside_changes pg_catalog.text DEFAULT 'record',
    name pg_catalog.name DEFAULT 'default',
    balance_column pg_catalog.name DEFAULT 'token_balance',
    late_usage_on pg_catalog.text[] DEFAULT '{}',
    usage_id pg_catalog.name DEFAULT 'id',
    deleted_usage pg_catalog.text DEFAULT 'report',
    dry_run boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_by_name_wrapper';

REVOKE ALL ON ROUTINE
    @extschema@.settle_workflow(text, name),
    @extschema@.settle_workflow(bigint, name),
    @extschema@.settle_workflow(uuid, name),
    token_balance.settle_workflows(text[], name),
    token_balance.settle_pending(timestamp with time zone, integer, interval, name),
    token_balance.settle_backlog(integer, boolean, name),
    token_balance.balance(text, name),
    token_balance.balance(bigint, name),
    token_balance.balance(uuid, name),
    token_balance.credit(text, numeric, text, text, name),
    token_balance.credit(bigint, numeric, text, text, name),
    token_balance.credit(uuid, numeric, text, text, name),
    token_balance.refund_workflow(text, numeric, text, text, name, regclass),
    token_balance.refund_workflow(bigint, numeric, text, text, name, regclass),
    token_balance.refund_workflow(uuid, numeric, text, text, name, regclass),
    token_balance.statement(text, timestamp with time zone, timestamp with time zone, name),
    token_balance.statement(bigint, timestamp with time zone, timestamp with time zone, name),
    token_balance.statement(uuid, timestamp with time zone, timestamp with time zone, name),
    token_balance.balance_at(text, timestamp with time zone, name),
    token_balance.balance_at(bigint, timestamp with time zone, name),
    token_balance.balance_at(uuid, timestamp with time zone, name),
    token_balance.summary(text, integer, name),
    token_balance.summary(bigint, integer, name),
    token_balance.summary(uuid, integer, name),
    token_balance.overdrawn_accounts(name),
    token_balance.reconcile(name),
    token_balance.detach(boolean, name),
    token_balance.verify(name),
    token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text, name[], text, text, text, name, name, text[], name,
        text, boolean)
FROM PUBLIC;

-- Before the function that it has called is dropped, so that it stays with its grants and with what reads it.
CREATE OR REPLACE VIEW token_balance.overdrawn AS
SELECT a.user_id, a.token_balance, a.since, a.binding
FROM token_balance.overdrawn_accounts(NULL::pg_catalog.name) AS a;

-- The grants of the old functions go to the new ones. What else depends on an old one, a view or a function of the
-- application, the server's own error at DROP names.

CREATE FUNCTION token_balance.upgrade_grants(before regprocedure, after regprocedure) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_grants_wrapper';

SELECT token_balance.upgrade_grants(before::regprocedure, after::regprocedure) FROM (VALUES
    ('@extschema@.settle_workflow(text)',
    '@extschema@.settle_workflow(text, name)'),
    ('@extschema@.settle_workflow(bigint)',
    '@extschema@.settle_workflow(bigint, name)'),
    ('@extschema@.settle_workflow(uuid)',
    '@extschema@.settle_workflow(uuid, name)'),
    ('token_balance.settle_workflows(text[])',
    'token_balance.settle_workflows(text[], name)'),
    ('token_balance.settle_pending(timestamp with time zone, integer)',
    'token_balance.settle_pending(timestamp with time zone, integer, interval, name)'),
    ('token_balance.settle_backlog(integer, boolean)',
    'token_balance.settle_backlog(integer, boolean, name)'),
    ('token_balance.balance(text)',
    'token_balance.balance(text, name)'),
    ('token_balance.balance(text)',
    'token_balance.balance(bigint, name)'),
    ('token_balance.balance(text)',
    'token_balance.balance(uuid, name)'),
    ('token_balance.credit(text, numeric, text, text)',
    'token_balance.credit(text, numeric, text, text, name)'),
    ('token_balance.credit(text, numeric, text, text)',
    'token_balance.credit(bigint, numeric, text, text, name)'),
    ('token_balance.credit(text, numeric, text, text)',
    'token_balance.credit(uuid, numeric, text, text, name)'),
    ('token_balance.refund_workflow(text, numeric, text, text)',
    'token_balance.refund_workflow(text, numeric, text, text, name, regclass)'),
    ('token_balance.refund_workflow(text, numeric, text, text)',
    'token_balance.refund_workflow(bigint, numeric, text, text, name, regclass)'),
    ('token_balance.refund_workflow(text, numeric, text, text)',
    'token_balance.refund_workflow(uuid, numeric, text, text, name, regclass)'),
    ('token_balance.statement(text, timestamp with time zone, timestamp with time zone)',
    'token_balance.statement(text, timestamp with time zone, timestamp with time zone, name)'),
    ('token_balance.statement(text, timestamp with time zone, timestamp with time zone)',
    'token_balance.statement(bigint, timestamp with time zone, timestamp with time zone, name)'),
    ('token_balance.statement(text, timestamp with time zone, timestamp with time zone)',
    'token_balance.statement(uuid, timestamp with time zone, timestamp with time zone, name)'),
    ('token_balance.balance_at(text, timestamp with time zone)',
    'token_balance.balance_at(text, timestamp with time zone, name)'),
    ('token_balance.balance_at(text, timestamp with time zone)',
    'token_balance.balance_at(bigint, timestamp with time zone, name)'),
    ('token_balance.balance_at(text, timestamp with time zone)',
    'token_balance.balance_at(uuid, timestamp with time zone, name)'),
    ('token_balance.summary(text, integer)',
    'token_balance.summary(text, integer, name)'),
    ('token_balance.summary(text, integer)',
    'token_balance.summary(bigint, integer, name)'),
    ('token_balance.summary(text, integer)',
    'token_balance.summary(uuid, integer, name)'),
    ('token_balance.overdrawn_accounts()',
    'token_balance.overdrawn_accounts(name)'),
    ('token_balance.reconcile()',
    'token_balance.reconcile(name)'),
    ('token_balance.detach(boolean)',
    'token_balance.detach(boolean, name)'),
    ('token_balance.verify()',
    'token_balance.verify(name)'),
    ('token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text)',
    'token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text, name[], text, text, text, name, name, text[], name,
        text, boolean)')) AS t (before, after);

DROP FUNCTION token_balance.upgrade_grants(regprocedure, regprocedure);

DROP ROUTINE
    token_balance.settle_workflows(text[]),
    token_balance.settle_pending(timestamp with time zone, integer),
    token_balance.settle_backlog(integer, boolean),
    token_balance.balance(text),
    token_balance.credit(text, numeric, text, text),
    token_balance.refund_workflow(text, numeric, text, text),
    token_balance.statement(text, timestamp with time zone, timestamp with time zone),
    token_balance.balance_at(text, timestamp with time zone),
    token_balance.summary(text, integer),
    token_balance.overdrawn_accounts(),
    token_balance.reconcile(),
    token_balance.detach(boolean),
    token_balance.verify(),
    token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text);

-- What 0.2.0 did not have.

CREATE FUNCTION token_balance.adjust(
    user_id pg_catalog.text,
    amount pg_catalog.numeric,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_wrapper';

CREATE FUNCTION token_balance.adjust(
    user_id bigint,
    amount pg_catalog.numeric,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_by_key_wrapper';

CREATE FUNCTION token_balance.adjust(
    user_id pg_catalog.uuid,
    amount pg_catalog.numeric,
    note pg_catalog.text DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'adjust_by_key_wrapper';
CREATE FUNCTION token_balance.suggestions()
RETURNS TABLE (
    rank integer,
    call pg_catalog.text,
    reasons pg_catalog.text,
    remarks pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'suggestions_wrapper';

CREATE FUNCTION token_balance.suggest() RETURNS SETOF pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'suggest_lines_wrapper';

CREATE FUNCTION token_balance.exempt_pending(
    until timestamp with time zone DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'exempt_pending_wrapper';

CREATE FUNCTION token_balance.archive_settlements(
    before timestamp with time zone,
    archive pg_catalog.regclass DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL,
    max_workflows integer DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_settlements_wrapper';

CREATE PROCEDURE token_balance.archive(
    keep interval,
    usage_archive pg_catalog.regclass DEFAULT NULL,
    ledger_archive pg_catalog.regclass DEFAULT NULL,
    settlement_archive pg_catalog.regclass DEFAULT NULL,
    batch_size integer DEFAULT 1000,
    binding pg_catalog.name DEFAULT NULL)
LANGUAGE c AS 'MODULE_PATHNAME', 'archive_by_policy_wrapper';

CREATE FUNCTION token_balance.correct_workflow(workflow_id pg_catalog.text, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_text_wrapper';

CREATE FUNCTION token_balance.correct_workflow(workflow_id bigint, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_bigint_wrapper';

CREATE FUNCTION token_balance.correct_workflow(workflow_id pg_catalog.uuid, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_uuid_wrapper';

CREATE FUNCTION token_balance.usage_state(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    binding pg_catalog.text,
    state pg_catalog.text,
    reason pg_catalog.text,
    workflows bigint,
    usage_rows bigint,
    tokens pg_catalog.numeric,
    oldest timestamp with time zone,
    newest timestamp with time zone)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'usage_state_wrapper';

CREATE FUNCTION token_balance.unsettled_usage(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    binding pg_catalog.text,
    workflow_id pg_catalog.text,
    user_id pg_catalog.text,
    state pg_catalog.text,
    reason pg_catalog.text,
    usage_rows bigint,
    tokens pg_catalog.numeric,
    oldest timestamp with time zone,
    newest timestamp with time zone)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'unsettled_usage_wrapper';

CREATE VIEW token_balance.unsettled AS
SELECT u.binding, u.workflow_id, u.user_id, u.state, u.reason, u.usage_rows, u.tokens, u.oldest, u.newest
FROM token_balance.unsettled_usage() AS u;

REVOKE ALL ON ROUTINE
    token_balance.adjust(text, numeric, text, name),
    token_balance.adjust(bigint, numeric, text, name),
    token_balance.adjust(uuid, numeric, text, name),
    token_balance.exempt_pending(timestamp with time zone, name),
    token_balance.archive_settlements(timestamp with time zone, regclass, name, integer),
    token_balance.archive(interval, regclass, regclass, regclass, integer, name),
    token_balance.correct_workflow(text, name),
    token_balance.correct_workflow(bigint, name),
    token_balance.correct_workflow(uuid, name),
    token_balance.usage_state(name),
    token_balance.suggestions(),
    token_balance.suggest(),
    token_balance.unsettled_usage(name)
FROM PUBLIC;

-- Trigger functions, and what is in the triggers' conditions.

CREATE OR REPLACE FUNCTION token_balance.settle_on_completion() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_on_completion_wrapper';

CREATE OR REPLACE FUNCTION token_balance.settle_late_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_late_usage_wrapper';

CREATE OR REPLACE FUNCTION token_balance.record_balance_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_balance_change_wrapper';

CREATE FUNCTION token_balance.reset(binding pg_catalog.name DEFAULT NULL) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reset_wrapper';

REVOKE ALL ON FUNCTION token_balance.reset(name) FROM PUBLIC;

CREATE FUNCTION token_balance.warn_of_truncate() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'warn_of_truncate_wrapper';

REVOKE ALL ON FUNCTION token_balance.warn_of_truncate() FROM PUBLIC;

CREATE FUNCTION token_balance.keep_balance() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'keep_balance_wrapper';

REVOKE ALL ON FUNCTION token_balance.keep_balance() FROM PUBLIC;

CREATE OR REPLACE FUNCTION token_balance.refuse_ledger_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_ledger_change_wrapper';

CREATE OR REPLACE FUNCTION token_balance.refuse_foreign_write() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_foreign_write_wrapper';

CREATE OR REPLACE FUNCTION token_balance.note_completion("table" pg_catalog.oid, "row" pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_completion_wrapper';

CREATE OR REPLACE FUNCTION token_balance.note_status(old pg_catalog.text, new pg_catalog.text, completed pg_catalog.text[],
    "table" pg_catalog.oid, "row" pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_status_wrapper';

CREATE FUNCTION token_balance.note_usual_status(old pg_catalog.text, new pg_catalog.text,
    "table" pg_catalog.oid, "row" pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_usual_status_wrapper';

CREATE FUNCTION token_balance.note_status(old pg_catalog.text, new pg_catalog.text, completed pg_catalog.text,
    "table" pg_catalog.oid, "row" pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_listed_status_wrapper';

CREATE FUNCTION token_balance.note_update("table" pg_catalog.oid, old pg_catalog.tid, new pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_update_wrapper';

CREATE FUNCTION token_balance.exact_numeric(value real) RETURNS pg_catalog.numeric
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'exact_numeric_of_real_wrapper';

CREATE FUNCTION token_balance.exact_numeric(value double precision) RETURNS pg_catalog.numeric
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'exact_numeric_of_double_wrapper';

-- Usage rows added up by stage and model, for summary: PUBLIC may call the aggregate, as above. The answer is JSON.
CREATE FUNCTION token_balance.add_to_usage_sums(sums pg_catalog.internal, stage pg_catalog.text, model pg_catalog.text,
    VARIADIC tokens pg_catalog."any")
RETURNS pg_catalog.internal
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'add_to_usage_sums_wrapper';

CREATE FUNCTION token_balance.merge_usage_sums(sums pg_catalog.internal, others pg_catalog.internal)
RETURNS pg_catalog.internal
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'merge_usage_sums_wrapper';

CREATE FUNCTION token_balance.pack_usage_sums(sums pg_catalog.internal) RETURNS pg_catalog.bytea
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'pack_usage_sums_wrapper';

CREATE FUNCTION token_balance.unpack_usage_sums(packed pg_catalog.bytea, sums pg_catalog.internal)
RETURNS pg_catalog.internal
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'unpack_usage_sums_wrapper';

CREATE FUNCTION token_balance.shown_usage_sums(sums pg_catalog.internal) RETURNS pg_catalog.text
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'shown_usage_sums_wrapper';

CREATE AGGREGATE token_balance.usage_sums(
    stage pg_catalog.text, model pg_catalog.text, VARIADIC tokens pg_catalog."any") (
    SFUNC = token_balance.add_to_usage_sums,
    STYPE = pg_catalog.internal,
    SSPACE = 8192,
    FINALFUNC = token_balance.shown_usage_sums,
    COMBINEFUNC = token_balance.merge_usage_sums,
    SERIALFUNC = token_balance.pack_usage_sums,
    DESERIALFUNC = token_balance.unpack_usage_sums,
    PARALLEL = SAFE
);

REVOKE ALL ON FUNCTION
    token_balance.add_to_usage_sums(pg_catalog.internal, pg_catalog.text, pg_catalog.text, VARIADIC pg_catalog."any"),
    token_balance.merge_usage_sums(pg_catalog.internal, pg_catalog.internal),
    token_balance.pack_usage_sums(pg_catalog.internal),
    token_balance.unpack_usage_sums(pg_catalog.bytea, pg_catalog.internal),
    token_balance.shown_usage_sums(pg_catalog.internal)
FROM PUBLIC;

CREATE FUNCTION token_balance.attach_again(binding pg_catalog.name DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_again_wrapper';

REVOKE ALL ON FUNCTION token_balance.attach_again(name) FROM PUBLIC;

CREATE FUNCTION token_balance.follow_workflow_id() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'follow_workflow_id_wrapper';

REVOKE ALL ON FUNCTION token_balance.follow_workflow_id() FROM PUBLIC;

CREATE FUNCTION token_balance.record_deleted_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_deleted_usage_wrapper';

REVOKE ALL ON FUNCTION token_balance.record_deleted_usage() FROM PUBLIC;

-- Tables.

-- Settlements, then the ledger, as whoever settles takes them.
LOCK TABLE token_balance.settlement, token_balance.ledger, token_balance.queue IN ACCESS EXCLUSIVE MODE;

-- In which schemas the owner's triggers find names that they do not qualify. NULL: none was chosen, and only the
-- bound tables' schemas are searched.
ALTER TABLE token_balance.binding
    ADD COLUMN search_path name[],
    ADD COLUMN binding_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN name name NOT NULL DEFAULT 'default',
    ADD COLUMN accounts_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN detached_at timestamp with time zone,
    DROP CONSTRAINT binding_pkey,
    DROP CONSTRAINT binding_singleton_check,
    ALTER COLUMN singleton DROP NOT NULL,
    ALTER COLUMN singleton DROP DEFAULT;
ALTER TABLE token_balance.binding ADD PRIMARY KEY (binding_id);
CREATE UNIQUE INDEX binding_attached ON token_balance.binding (name) WHERE detached_at IS NULL;

-- All that there is, is of one binding and of its accounts. The tables are not rewritten, their keys are made anew.
ALTER TABLE token_balance.settlement
    ADD COLUMN binding_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN corrected_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN archived_usage_tokens pg_catalog.numeric NOT NULL DEFAULT 0,
    DROP CONSTRAINT settlement_pkey,
    ADD PRIMARY KEY (workflow_id, binding_id, user_id);
ALTER TABLE token_balance.ledger
    ADD COLUMN accounts_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN binding_id smallint DEFAULT 1,
    DROP CONSTRAINT ledger_pkey,
    ADD PRIMARY KEY (user_id, accounts_id, entry_id),
    DROP CONSTRAINT ledger_kind,
    ADD CONSTRAINT ledger_kind CHECK (
        kind OPERATOR(pg_catalog.=) ANY (
            ARRAY['settlement', 'credit', 'refund', 'correction', 'adjustment', 'opening']::text[]));
ALTER TABLE token_balance.queue
    ADD COLUMN accounts_id smallint NOT NULL DEFAULT 1,
    ADD COLUMN binding_id smallint NOT NULL DEFAULT 1,
    DROP CONSTRAINT queue_pkey,
    ADD PRIMARY KEY (user_id, accounts_id, charge_id);

-- References are no longer the ledger's: they go with their account when that gets another id.
CREATE TABLE token_balance.reference (
    accounts_id smallint NOT NULL,
    user_id text NOT NULL,
    reference text NOT NULL,
    kind text NOT NULL,
    amount bigint NOT NULL,
    previous_balance bigint NOT NULL,
    new_balance bigint NOT NULL,
    workflow_id text,
    binding_id smallint,
    PRIMARY KEY (user_id, accounts_id, reference)
);
CREATE INDEX reference_of_refund ON token_balance.reference (reference) WHERE kind = 'refund';
SELECT pg_extension_config_dump('token_balance.reference', '');
INSERT INTO token_balance.reference
SELECT 1, user_id, reference, kind, amount, previous_balance, new_balance, workflow_id,
    CASE WHEN kind OPERATOR(pg_catalog.=) 'refund' THEN 1 END
FROM token_balance.archived_reference
UNION ALL
SELECT 1, user_id, reference, kind, amount, previous_balance, new_balance, workflow_id,
    CASE WHEN kind OPERATOR(pg_catalog.=) 'refund' THEN 1 END
FROM token_balance.ledger WHERE reference IS NOT NULL;
DELETE FROM token_balance.archived_reference;
UPDATE token_balance.binding SET singleton = NULL;
DROP INDEX token_balance.ledger_reference;
CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.reference
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();
ALTER TABLE token_balance.reference ENABLE ALWAYS TRIGGER owner_only;

-- How stored ids are spelled.
ALTER TABLE token_balance.binding ADD COLUMN workflow_ids text, ADD COLUMN account_ids text;

-- Ids that workflows have had.
CREATE TABLE token_balance.workflow_alias (
    binding_id smallint NOT NULL,
    workflow_id text NOT NULL,
    family text NOT NULL,
    became text,
    PRIMARY KEY (binding_id, workflow_id)
);

CREATE INDEX workflow_alias_family ON token_balance.workflow_alias (binding_id, family);

SELECT pg_extension_config_dump('token_balance.workflow_alias', '');

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.workflow_alias
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.workflow_alias ENABLE ALWAYS TRIGGER owner_only;

-- What was forgiven, and by whom.
CREATE TABLE token_balance.exemption (
    binding_id smallint NOT NULL,
    exempted_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    until timestamp with time zone,
    actor text NOT NULL,
    workflows bigint NOT NULL,
    pairs bigint NOT NULL,
    tokens numeric NOT NULL
);

SELECT pg_extension_config_dump('token_balance.exemption', '');

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.exemption
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.exemption ENABLE ALWAYS TRIGGER owner_only;

CREATE FUNCTION token_balance.archive_usage(
    before timestamp with time zone DEFAULT NULL,
    archive regclass DEFAULT NULL,
    binding name DEFAULT NULL,
    partition regclass DEFAULT NULL,
    max_workflows integer DEFAULT NULL,
    usage_table text DEFAULT NULL)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_usage_wrapper';

CREATE FUNCTION token_balance.accept_deletions(
    before timestamp with time zone,
    dry_run boolean DEFAULT false,
    binding name DEFAULT NULL)
RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'accept_deletions_wrapper';

REVOKE ALL ON FUNCTION
    token_balance.archive_usage(timestamp with time zone, regclass, name, regclass, integer, text),
    token_balance.accept_deletions(timestamp with time zone, boolean, name)
FROM PUBLIC;

-- What left the tables by archiving, and deletions that were accepted.
CREATE TABLE token_balance.archived (
    binding_id smallint NOT NULL,
    kind text NOT NULL,
    archive text NOT NULL,
    first_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    last_at timestamp with time zone NOT NULL DEFAULT clock_timestamp(),
    before timestamp with time zone,
    actor text NOT NULL,
    row_count bigint NOT NULL,
    tokens numeric NOT NULL,
    PRIMARY KEY (binding_id, kind, archive),
    CONSTRAINT archived_kind CHECK (kind = ANY (ARRAY['usage', 'deletion', 'settlement', 'ledger']))
);

SELECT pg_extension_config_dump('token_balance.archived', '');

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.archived
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.archived ENABLE ALWAYS TRIGGER owner_only;

-- Numbers to watch.
CREATE FUNCTION token_balance.counters()
RETURNS TABLE (
    since timestamp with time zone,
    scope pg_catalog.text,
    settled_by_trigger bigint,
    settled_by_function bigint,
    settled_by_batch bigint,
    settled_by_sweep bigint,
    settled_late bigint,
    settled_on_deletion bigint,
    charges bigint,
    tokens_charged bigint,
    bad_charges bigint,
    overdrafts bigint,
    charges_queued bigint,
    charges_applied bigint,
    balances_direct bigint,
    balances_by_sql bigint,
    settlements_direct bigint,
    settlements_by_sql bigint,
    binding_reads bigint,
    sweeps bigint,
    last_sweep timestamp with time zone)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'counters_wrapper';

-- Cheap enough for a look every few seconds: the queue is short, and the tables' rows are the planner's estimate.
CREATE VIEW token_balance.stat AS
SELECT c.since, c.scope, c.settled_by_trigger, c.settled_by_function, c.settled_by_batch, c.settled_by_sweep,
    c.settled_late, c.settled_on_deletion, c.charges, c.tokens_charged, c.bad_charges, c.overdrafts, c.charges_queued,
    c.charges_applied, c.balances_direct, c.balances_by_sql, c.settlements_direct, c.settlements_by_sql,
    c.binding_reads, c.sweeps, c.last_sweep,
    q.queued_charges, q.queued_tokens, q.oldest_queued,
    (SELECT pg_catalog.max(a.last_at) FROM token_balance.archived AS a) AS last_archive,
    (SELECT pg_catalog.count(*) FROM token_balance.binding AS b WHERE b.detached_at IS NULL) AS bindings,
    (SELECT CASE WHEN r.reltuples OPERATOR(pg_catalog.>=) 0 THEN r.reltuples::bigint END FROM pg_catalog.pg_class AS r
        WHERE r.oid OPERATOR(pg_catalog.=) 'token_balance.settlement'::pg_catalog.regclass) AS settlement_rows,
    (SELECT CASE WHEN r.reltuples OPERATOR(pg_catalog.>=) 0 THEN r.reltuples::bigint END FROM pg_catalog.pg_class AS r
        WHERE r.oid OPERATOR(pg_catalog.=) 'token_balance.ledger'::pg_catalog.regclass) AS ledger_rows
FROM token_balance.counters() AS c
CROSS JOIN (SELECT pg_catalog.count(*) AS queued_charges, COALESCE(pg_catalog.sum(w.tokens), 0) AS queued_tokens,
    pg_catalog.min(w.queued_at) AS oldest_queued FROM token_balance.queue AS w) AS q;

REVOKE ALL ON FUNCTION token_balance.counters() FROM PUBLIC;

-- Numbers alone, and no names: what monitoring reads.
GRANT EXECUTE ON FUNCTION token_balance.counters() TO pg_monitor;
GRANT SELECT ON token_balance.stat TO pg_monitor;

-- Accounts that were moved between databases: a row per move, on either side. What has left stays in `document` until the
-- receipt of the other side has come. Rows stay for good: a document opens an account once.
CREATE TABLE token_balance.account_move (
    token pg_catalog.uuid NOT NULL,
    direction pg_catalog.text NOT NULL,
    accounts_id smallint,
    user_id pg_catalog.text NOT NULL,
    database pg_catalog.text NOT NULL,
    state pg_catalog.text NOT NULL,
    lineage pg_catalog.uuid[] NOT NULL,
    balance bigint NOT NULL,
    actor pg_catalog.text NOT NULL,
    moved_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    ended_at timestamp with time zone,
    document pg_catalog.jsonb,
    PRIMARY KEY (token, direction),
    CONSTRAINT account_move_state CHECK (
        CASE direction WHEN 'out' THEN state OPERATOR(pg_catalog.=) ANY (
            ARRAY['sent', 'confirmed', 'taken back', 'returned']::pg_catalog.text[])
        WHEN 'in' THEN state OPERATOR(pg_catalog.=) ANY (ARRAY['imported', 'refused']::pg_catalog.text[])
        ELSE false END),
    CONSTRAINT account_move_document CHECK (
        (document IS NOT NULL) OPERATOR(pg_catalog.=) (state OPERATOR(pg_catalog.=) 'sent'))
);

-- An account is in one other database at most.
CREATE UNIQUE INDEX account_move_away ON token_balance.account_move (user_id, accounts_id)
WHERE state OPERATOR(pg_catalog.=) ANY (ARRAY['sent', 'confirmed']::pg_catalog.text[]);

CREATE INDEX account_move_of_account ON token_balance.account_move (user_id, accounts_id, moved_at);

SELECT pg_extension_config_dump('token_balance.account_move', '');

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.account_move
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.account_move ENABLE ALWAYS TRIGGER owner_only;

-- Accounts that move between databases.
CREATE FUNCTION token_balance.export_account(
    user_id pg_catalog.text,
    destination pg_catalog.text,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'export_account_wrapper';

CREATE FUNCTION token_balance.export_account(
    user_id bigint,
    destination pg_catalog.text,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'export_account_by_key_wrapper';

CREATE FUNCTION token_balance.export_account(
    user_id pg_catalog.uuid,
    destination pg_catalog.text,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'export_account_by_key_wrapper';

CREATE FUNCTION token_balance.import_account(document pg_catalog.jsonb, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'import_account_wrapper';

CREATE FUNCTION token_balance.refuse_account(document pg_catalog.jsonb) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_account_wrapper';

CREATE FUNCTION token_balance.confirm_export(receipt pg_catalog.jsonb) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'confirm_export_wrapper';

CREATE FUNCTION token_balance.take_back_account(receipt pg_catalog.jsonb) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'take_back_account_wrapper';

REVOKE ALL ON FUNCTION
    token_balance.export_account(pg_catalog.text, pg_catalog.text, pg_catalog.name),
    token_balance.export_account(bigint, pg_catalog.text, pg_catalog.name),
    token_balance.export_account(pg_catalog.uuid, pg_catalog.text, pg_catalog.name),
    token_balance.import_account(pg_catalog.jsonb, pg_catalog.name),
    token_balance.refuse_account(pg_catalog.jsonb),
    token_balance.confirm_export(pg_catalog.jsonb),
    token_balance.take_back_account(pg_catalog.jsonb)
FROM PUBLIC;

-- The numbers of the bound columns. upgrade_binding() below stores them for what is attached.
CREATE TABLE token_balance.bound_column (
    binding_id smallint NOT NULL,
    argument name NOT NULL,
    position smallint NOT NULL,
    relation oid NOT NULL,
    number smallint NOT NULL,
    told name NOT NULL,
    PRIMARY KEY (binding_id, argument, position)
);

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.bound_column
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.bound_column ENABLE ALWAYS TRIGGER owner_only;

-- What a statement that is not the extension's may do to a balance: as before, all that it wants.
ALTER TABLE token_balance.binding ADD COLUMN outside_changes text NOT NULL DEFAULT 'record';

-- The column that holds the balance.
ALTER TABLE token_balance.binding ADD COLUMN balance_column name NOT NULL DEFAULT 'token_balance';
ALTER TABLE token_balance.binding ADD COLUMN usage_definition text, ADD COLUMN usage_rule text,
    ADD COLUMN late_usage_on text[] NOT NULL DEFAULT '{}';

-- The usage's key, for summary(): of what is attached, the column that attach is told by default.
ALTER TABLE token_balance.binding ADD COLUMN usage_id name DEFAULT 'id';

-- Whether attach has made the balance column: nobody knows of a binding of before.
ALTER TABLE token_balance.binding ADD COLUMN made_column boolean;

-- What usage that is deleted counts as: as before, what was settled of it shrank.
ALTER TABLE token_balance.binding ADD COLUMN deleted_usage text NOT NULL DEFAULT 'report';

-- A column that is there keeps its own default where attach is told none.
ALTER TABLE token_balance.binding ALTER COLUMN initial_balance DROP NOT NULL;
UPDATE token_balance.binding SET initial_balance = NULL WHERE initial_balance = 1000000;

-- Comments.

COMMENT ON FUNCTION @extschema@.settle_workflow(pg_catalog.text) IS 'Charge the accounts of a workflow for its usage that was not charged yet. Returns success, previous_balance, tokens_used, new_balance, is_overdraft, workflow_id, status (settled, already_settled, no_usage) and charges.';
COMMENT ON FUNCTION @extschema@.settle_workflow(pg_catalog.text, pg_catalog.name) IS 'The same in the binding of this name; NULL means each one that knows the workflow.';
COMMENT ON FUNCTION @extschema@.settle_workflow(bigint) IS 'Charge the accounts of a workflow for its usage that was not charged yet; see settle_workflow(text).';
COMMENT ON FUNCTION @extschema@.settle_workflow(bigint, pg_catalog.name) IS 'The same in the binding of this name; NULL means each one that knows the workflow.';
COMMENT ON FUNCTION @extschema@.settle_workflow(pg_catalog.uuid) IS 'Charge the accounts of a workflow for its usage that was not charged yet; see settle_workflow(text).';
COMMENT ON FUNCTION @extschema@.settle_workflow(pg_catalog.uuid, pg_catalog.name) IS 'The same in the binding of this name; NULL means each one that knows the workflow.';
COMMENT ON FUNCTION token_balance.settle_workflows(pg_catalog.text[], pg_catalog.name) IS 'Settle several workflows in one go; one row for each charge. binding: NULL means each one that knows them.';
COMMENT ON FUNCTION token_balance.balance(pg_catalog.text, pg_catalog.name) IS 'The balance of an account as {"token_balance": tokens, "is_overdraft": boolean}. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.balance(bigint, pg_catalog.name) IS 'The same for an id of type bigint; see balance(text).';
COMMENT ON FUNCTION token_balance.balance(pg_catalog.uuid, pg_catalog.name) IS 'The same for an id of type uuid; see balance(text).';
COMMENT ON FUNCTION token_balance.attach(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text[], bigint, pg_catalog.regtype, pg_catalog.text, boolean, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text, pg_catalog.text, pg_catalog.name[], pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.name, pg_catalog.text[], pg_catalog.name, pg_catalog.text, boolean) IS 'Bind the extension to the application''s tables: add users.token_balance, exempt existing usage, settle completed workflows from now on. Calling it again repairs the binding and sets the options busy_account, late_usage, outside_changes and deleted_usage, and the search_path where one is given. Usage that was attached before goes on where it was. name: that of the binding. dry_run: say what would happen, and do nothing.';
COMMENT ON FUNCTION token_balance.exact_numeric(real) IS 'The number as the server prints it, as numeric: the shortest text that reads back. A cast to numeric rounds it to 6 digits.';
COMMENT ON FUNCTION token_balance.exact_numeric(double precision) IS 'The number as the server prints it, as numeric: the shortest text that reads back. A cast to numeric rounds it to 15 digits.';
COMMENT ON FUNCTION token_balance.add_to_usage_sums(pg_catalog.internal, pg_catalog.text, pg_catalog.text, VARIADIC pg_catalog."any") IS 'Part of the aggregate usage_sums: adds a row.';
COMMENT ON FUNCTION token_balance.merge_usage_sums(pg_catalog.internal, pg_catalog.internal) IS 'Part of the aggregate usage_sums: joins what parallel workers have added up.';
COMMENT ON FUNCTION token_balance.pack_usage_sums(pg_catalog.internal) IS 'Part of the aggregate usage_sums: for another process.';
COMMENT ON FUNCTION token_balance.unpack_usage_sums(pg_catalog.bytea, pg_catalog.internal) IS 'Part of the aggregate usage_sums: from another process.';
COMMENT ON FUNCTION token_balance.shown_usage_sums(pg_catalog.internal) IS 'Part of the aggregate usage_sums: its answer.';
COMMENT ON AGGREGATE token_balance.usage_sums(pg_catalog.text, pg_catalog.text, VARIADIC pg_catalog."any") IS 'For summary: usage rows added up by stage and model, as JSON: stage, model, number of rows, and a sum for each column of whole numbers.';
COMMENT ON FUNCTION token_balance.attach_again(pg_catalog.name) IS 'Bind what is attached once more, with the arguments that are remembered: after a key''s type was changed, say. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.detach(boolean, pg_catalog.name) IS 'Drop the triggers. The binding is remembered: attach goes on where it was. Balances, settlements and ledger stay; the column too, unless drop_column, which drops one that attach has made. name: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.reset(pg_catalog.name) IS 'Forget settlements, ledger, queue and references where users and usage are empty, for test suites that use ids again. Returns settlements, ledger_entries, queued_charges and references. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.verify(pg_catalog.name) IS 'Check the binding: one row per check, with what to do where it is not ok. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.suggestions() IS 'The calls of attach that fit this database, best first: rank, the call, with a view before it where one is needed (null where there is none), what speaks for it, what to watch. Reads samples of tables whose owner''s rights the caller has.';
COMMENT ON FUNCTION token_balance.suggest() IS 'The same as lines to read and to paste: all but the calls are comments.';
COMMENT ON FUNCTION token_balance.settle_pending(timestamp with time zone, integer, interval, pg_catalog.name) IS 'Settle completed workflows that have unsettled usage: runs that were never settled, and late usage; with idle also those whose newest usage is older than that. Returns workflows, charges, tokens_used and more. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.archive_settlements(timestamp with time zone, pg_catalog.regclass, pg_catalog.name, integer) IS 'Move settlements from before a moment, of which neither usage nor ledger entries are left, to a table of yours, which has the settlement table''s columns; NULL deletes them. Returns workflows, settlements, archive and more. binding: NULL means each one that is attached.';
COMMENT ON PROCEDURE token_balance.archive(interval, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, integer, pg_catalog.name) IS 'Archive what is older than keep: usage, ledger and settlements, with one commit per batch. Without an archive usage and settlements are deleted, and the ledger stays. May be stopped and called again. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.exempt_pending(timestamp with time zone, pg_catalog.name) IS 'Forgive the usage that waits to be charged, of completed and of open runs; with until, what is older than that. It is accounted for as exempt and recorded in token_balance.exemption. Returns workflows, pairs and tokens_exempt. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON PROCEDURE token_balance.settle_backlog(integer, boolean, pg_catalog.name) IS 'Settle all that is pending with one commit per batch; with existing => true also the usage from before the extension. May be stopped and called again. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.credit(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name) IS 'Top up an account. The same reference again answers as the first time and changes nothing. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.credit(bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type bigint; see credit(text).';
COMMENT ON FUNCTION token_balance.credit(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type uuid; see credit(text).';
COMMENT ON FUNCTION token_balance.adjust(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.name) IS 'Change a balance by hand, by an amount above or below zero; the ledger has who did it, and the note. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.adjust(bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type bigint; see adjust(text).';
COMMENT ON FUNCTION token_balance.adjust(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type uuid; see adjust(text).';
COMMENT ON FUNCTION token_balance.refund_workflow(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.regclass) IS 'Give back what a workflow was charged, all that is left or a part, to the accounts that paid. binding: NULL means each one that has charged it; for an amount one of several is to be named. archive: a table of the caller''s from which its settlement comes back first.';
COMMENT ON FUNCTION token_balance.refund_workflow(bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.regclass) IS 'The same for an id of type bigint; see refund_workflow(text).';
COMMENT ON FUNCTION token_balance.refund_workflow(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.regclass) IS 'The same for an id of type uuid; see refund_workflow(text).';
COMMENT ON FUNCTION token_balance.correct_workflow(pg_catalog.text, pg_catalog.name) IS 'Give back, once, what was charged for usage of a workflow that was deleted, lowered or moved away since. Returns success, workflow_id, amount, tokens_exempt, corrections and gone. binding: NULL means each one that has settled it.';
COMMENT ON FUNCTION token_balance.correct_workflow(bigint, pg_catalog.name) IS 'Give back what was charged for usage that is gone; see correct_workflow(text).';
COMMENT ON FUNCTION token_balance.correct_workflow(pg_catalog.uuid, pg_catalog.name) IS 'Give back what was charged for usage that is gone; see correct_workflow(text).';
COMMENT ON FUNCTION token_balance.statement(pg_catalog.text, timestamp with time zone, timestamp with time zone, pg_catalog.name) IS 'The ledger of an account in order, from since on and before until. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.statement(bigint, timestamp with time zone, timestamp with time zone, pg_catalog.name) IS 'The same for an id of type bigint; see statement(text).';
COMMENT ON FUNCTION token_balance.statement(pg_catalog.uuid, timestamp with time zone, timestamp with time zone, pg_catalog.name) IS 'The same for an id of type uuid; see statement(text).';
COMMENT ON FUNCTION token_balance.balance_at(pg_catalog.text, timestamp with time zone, pg_catalog.name) IS 'The balance of an account at a moment, by the ledger. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.balance_at(bigint, timestamp with time zone, pg_catalog.name) IS 'The same for an id of type bigint; see balance_at(text).';
COMMENT ON FUNCTION token_balance.balance_at(pg_catalog.uuid, timestamp with time zone, pg_catalog.name) IS 'The same for an id of type uuid; see balance_at(text).';
COMMENT ON FUNCTION token_balance.summary(pg_catalog.text, integer, pg_catalog.name) IS 'Usage of an account in the last days: summary, by_stage, by_model, recent_records, token_balance and is_overdraft. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.summary(bigint, integer, pg_catalog.name) IS 'The same for an id of type bigint; see summary(text).';
COMMENT ON FUNCTION token_balance.summary(pg_catalog.uuid, integer, pg_catalog.name) IS 'The same for an id of type uuid; see summary(text).';
COMMENT ON FUNCTION token_balance.overdrawn_accounts(pg_catalog.name) IS 'The accounts below zero; see the view overdrawn. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.reconcile(pg_catalog.name) IS 'Everything that does not add up, with the two figures and what to do; no row if all does. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.usage_state(pg_catalog.name) IS 'What has become of all usage, by state: charged, exempt, waiting (with the reason), unowned, archived, shrunk. Amounts are tokens. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.unsettled_usage(pg_catalog.name) IS 'Usage that waits or that nobody owns; see the view unsettled. binding: NULL means each one that is attached.';
COMMENT ON FUNCTION token_balance.follow_workflow_id() IS 'Trigger function on the workflow table: what is known of a workflow follows it to another id.';
COMMENT ON FUNCTION token_balance.record_deleted_usage() IS 'Trigger function on the usage table and its partitions, with deleted_usage => ''record'': what was settled of rows that are deleted stays settled.';
COMMENT ON FUNCTION token_balance.keep_balance() IS 'Trigger function on the users table, with outside_changes => ''keep'': leaves the balance as it was, unless the extension changes it. On partitioned users it refuses an id that takes the row to another partition.';
COMMENT ON FUNCTION token_balance.warn_of_truncate() IS 'Trigger function on users and usage: tells of a TRUNCATE that what was settled before it is known all the same.';
COMMENT ON FUNCTION token_balance.refuse_ledger_change() IS 'Trigger function on the ledger: keeps it append-only, but for token_balance.archive_ledger() and reset().';
COMMENT ON FUNCTION token_balance.note_usual_status(pg_catalog.text, pg_catalog.text, pg_catalog.oid, pg_catalog.tid) IS 'The WHEN condition of the completion triggers, where no other statuses were named: whether the status became one of completed, succeeded, success, finished and done; if so, notes the row.';
COMMENT ON FUNCTION token_balance.note_status(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.oid, pg_catalog.tid) IS 'The WHEN condition of the completion triggers: whether the status became one of a list, whose first character separates them; if so, notes the row.';
COMMENT ON FUNCTION token_balance.note_update(pg_catalog.oid, pg_catalog.tid, pg_catalog.tid) IS 'The WHEN condition of the trigger for updated usage: whether an UPDATE has changed a bound column; if so, notes the row.';
COMMENT ON COLUMN token_balance.overdrawn.binding IS 'Name of the binding.';
COMMENT ON COLUMN token_balance.binding.users IS 'Table of accounts; it has the balance column.';
COMMENT ON COLUMN token_balance.binding.balance_column IS 'Column of the users table that holds the balance.';
COMMENT ON COLUMN token_balance.binding.usage_definition IS 'What the usage view said when it was attached; null: the usage is a table.';
COMMENT ON COLUMN token_balance.binding.usage_rule IS 'Checksum of the same as the server stores it, which a rename does not change.';
COMMENT ON COLUMN token_balance.binding.late_usage_on IS 'Tables below a usage view whose late usage is settled at once, each with its column that the view shows.';
COMMENT ON COLUMN token_balance.binding.usage_id IS 'Key of a usage row, for summary(); left out where there is no such column.';
COMMENT ON COLUMN token_balance.binding.made_column IS 'Whether attach has made the balance column, so that detach may drop it; null: an older version bound it.';
COMMENT ON COLUMN token_balance.binding.deleted_usage IS 'What usage that is deleted counts as: report (what was settled of it shrank) or record (triggers record it, and it stays settled).';
COMMENT ON COLUMN token_balance.binding.initial_balance IS 'Tokens that a new account starts with; null: attach was told none, and a balance column that was there keeps its default.';
COMMENT ON COLUMN token_balance.binding.workflow_ids IS 'How stored workflow ids are spelled: as text, uuid or integer; null: as the usage spells them.';
COMMENT ON COLUMN token_balance.binding.account_ids IS 'How stored account ids are spelled: as text, uuid or integer; null: as the users table spells them.';
COMMENT ON TABLE token_balance.workflow_alias IS 'Ids that a workflow has had, with one row each. Ledger entries keep the id that they were made with.';
COMMENT ON COLUMN token_balance.workflow_alias.binding_id IS 'Binding whose workflow it is.';
COMMENT ON COLUMN token_balance.workflow_alias.workflow_id IS 'Workflow id, as text.';
COMMENT ON COLUMN token_balance.workflow_alias.family IS 'The same for all ids of a workflow, and for all workflows that have shared one.';
COMMENT ON COLUMN token_balance.workflow_alias.became IS 'The id that it was changed to; null if it is the last one.';
COMMENT ON INDEX token_balance.reference_of_refund IS 'Refunds by reference: their settlements may be archived.';
COMMENT ON INDEX token_balance.workflow_alias_family IS 'The ids of a family.';
COMMENT ON FUNCTION token_balance.export_account(pg_catalog.text, pg_catalog.text, pg_catalog.name) IS 'Close an account here, to be opened in another database: the document for import_account there. destination: that database''s name. Called again before the receipt has come, the same document. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.export_account(bigint, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type bigint; see export_account(text).';
COMMENT ON FUNCTION token_balance.export_account(pg_catalog.uuid, pg_catalog.text, pg_catalog.name) IS 'The same for an id of type uuid; see export_account(text).';
COMMENT ON FUNCTION token_balance.import_account(pg_catalog.jsonb, pg_catalog.name) IS 'Open the account of a document of export_account here, with its balance, ledger and settlements. Its row must be there. Returns the receipt for confirm_export: token, user_id, database, state and replayed. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.refuse_account(pg_catalog.jsonb) IS 'Never open the account by this document. Returns the receipt for take_back_account: token, user_id, database, state and replayed.';
COMMENT ON FUNCTION token_balance.confirm_export(pg_catalog.jsonb) IS 'The account has arrived, as the receipt of import_account says: its document is dropped. Returns success, token, user_id and replayed.';
COMMENT ON FUNCTION token_balance.take_back_account(pg_catalog.jsonb) IS 'The account does not arrive, as the receipt of refuse_account says: it is opened here again, as it left. Returns success, token, user_id and replayed.';
COMMENT ON TABLE token_balance.account_move IS 'Accounts that were moved between databases: a row per move, on either side. Rows stay for good.';
COMMENT ON COLUMN token_balance.account_move.token IS 'Id of the move, the same in both databases.';
COMMENT ON COLUMN token_balance.account_move.direction IS 'out: the account has left; in: a document for this database.';
COMMENT ON COLUMN token_balance.account_move.accounts_id IS 'Number of its accounts; null for a document that was refused.';
COMMENT ON COLUMN token_balance.account_move.user_id IS 'Account, as text.';
COMMENT ON COLUMN token_balance.account_move.database IS 'The other database.';
COMMENT ON COLUMN token_balance.account_move.state IS 'out: sent (no receipt has come), confirmed, taken back, or returned (with a later move); in: imported or refused.';
COMMENT ON COLUMN token_balance.account_move.lineage IS 'Tokens of the moves before it.';
COMMENT ON COLUMN token_balance.account_move.balance IS 'Tokens with which it has moved.';
COMMENT ON COLUMN token_balance.account_move.actor IS 'Role that called the function.';
COMMENT ON COLUMN token_balance.account_move.moved_at IS 'When that was.';
COMMENT ON COLUMN token_balance.account_move.ended_at IS 'When the receipt came, or the account came back.';
COMMENT ON COLUMN token_balance.account_move.document IS 'What has left, until the receipt comes.';
COMMENT ON INDEX token_balance.account_move_away IS 'Where an account is that is not here.';
COMMENT ON INDEX token_balance.account_move_of_account IS 'The moves of an account.';
COMMENT ON TABLE token_balance.bound_column IS 'The numbers of the bound columns, which stay when columns are renamed. Not in a dump: after a restore the names in token_balance.binding count, until the next attach.';
COMMENT ON COLUMN token_balance.bound_column.binding_id IS 'Binding whose column it is.';
COMMENT ON COLUMN token_balance.bound_column.argument IS 'Argument of token_balance.attach() that names it.';
COMMENT ON COLUMN token_balance.bound_column.position IS 'Its place in the argument''s list, from 0 on.';
COMMENT ON COLUMN token_balance.bound_column.relation IS 'OID of the table for which the number was read.';
COMMENT ON COLUMN token_balance.bound_column.number IS 'Its number, pg_attribute.attnum.';
COMMENT ON COLUMN token_balance.bound_column.told IS 'The name that attach was told.';
COMMENT ON COLUMN token_balance.binding.search_path IS 'Schemas in which triggers on the bound tables find names that they do not qualify, while they run as the tables'' owner; between pg_catalog and pg_temp. Null: the bound tables'' schemas.';
COMMENT ON COLUMN token_balance.binding.outside_changes IS 'What a statement that is not the extension''s may do to a balance: record (change it, with an adjustment in the ledger), keep (nothing) or refuse (it is an error).';
COMMENT ON FUNCTION token_balance.counters() IS 'What the extension has done since the server started; see the view stat.';
COMMENT ON VIEW token_balance.stat IS 'Numbers to watch, in one row: what was done since the server started, and what waits. What is rolled back is not counted. Cheap: it reads no usage and no users.';
COMMENT ON COLUMN token_balance.stat.since IS 'When the counters began, at zero: with the first session after the server started; of one session, when that began.';
COMMENT ON COLUMN token_balance.stat.scope IS 'server: the counters are of all sessions of the database. session: of this one alone, before PostgreSQL 17 or where the server has no room.';
COMMENT ON COLUMN token_balance.stat.settled_by_trigger IS 'Workflows that completion triggers have settled, also those with nothing to charge.';
COMMENT ON COLUMN token_balance.stat.settled_by_function IS 'Workflows that settle_workflow() has settled.';
COMMENT ON COLUMN token_balance.stat.settled_by_batch IS 'Workflows that settle_workflows() has settled.';
COMMENT ON COLUMN token_balance.stat.settled_by_sweep IS 'Workflows that settle_pending() and settle_backlog() have settled.';
COMMENT ON COLUMN token_balance.stat.settled_late IS 'Workflows that late usage has settled at once.';
COMMENT ON COLUMN token_balance.stat.settled_on_deletion IS 'Workflows that were settled as their usage was deleted.';
COMMENT ON COLUMN token_balance.stat.charges IS 'Charges that balances have paid.';
COMMENT ON COLUMN token_balance.stat.tokens_charged IS 'Tokens of these charges; it stays at the largest bigint.';
COMMENT ON COLUMN token_balance.stat.bad_charges IS 'Charges that could not be made, each with a warning, and stay unsettled; a sweep that meets one again counts it again.';
COMMENT ON COLUMN token_balance.stat.overdrafts IS 'How often an account went below zero.';
COMMENT ON COLUMN token_balance.stat.charges_queued IS 'Charges that were left in the queue of a busy account.';
COMMENT ON COLUMN token_balance.stat.charges_applied IS 'Charges of the queue that balances have paid.';
COMMENT ON COLUMN token_balance.stat.balances_direct IS 'Balances changed without SQL, which is the fast way.';
COMMENT ON COLUMN token_balance.stat.balances_by_sql IS 'Balances changed by an UPDATE, where the users table has what only SQL can do.';
COMMENT ON COLUMN token_balance.stat.settlements_direct IS 'Settlement rows written without SQL.';
COMMENT ON COLUMN token_balance.stat.settlements_by_sql IS 'Settlement rows written by SQL: late usage, and where the fast way is not possible.';
COMMENT ON COLUMN token_balance.stat.binding_reads IS 'How often sessions have read the bindings: each once, and after DDL on bound tables.';
COMMENT ON COLUMN token_balance.stat.sweeps IS 'Calls of settle_pending() and settle_backlog() that came to their end.';
COMMENT ON COLUMN token_balance.stat.last_sweep IS 'When the last of these was; null if none was since the counters began.';
COMMENT ON COLUMN token_balance.stat.queued_charges IS 'Charges that wait in the queue now.';
COMMENT ON COLUMN token_balance.stat.queued_tokens IS 'Tokens of these.';
COMMENT ON COLUMN token_balance.stat.oldest_queued IS 'When the oldest of these was queued.';
COMMENT ON COLUMN token_balance.stat.last_archive IS 'When rows were archived last, or deletions accepted; null if never.';
COMMENT ON COLUMN token_balance.stat.bindings IS 'Bindings that are attached.';
COMMENT ON COLUMN token_balance.stat.settlement_rows IS 'Estimate of the rows of token_balance.settlement; null before its first ANALYZE.';
COMMENT ON COLUMN token_balance.stat.ledger_rows IS 'Estimate of the rows of token_balance.ledger; null before its first ANALYZE.';
COMMENT ON VIEW token_balance.unsettled IS 'Usage that waits to be charged, with the reason, and usage that names no workflow or no account; by workflow and account.';
COMMENT ON COLUMN token_balance.unsettled.binding IS 'Name of the binding.';
COMMENT ON COLUMN token_balance.unsettled.workflow_id IS 'Workflow id, as text; null where the usage names none.';
COMMENT ON COLUMN token_balance.unsettled.user_id IS 'Account, as text; null where the usage names none.';
COMMENT ON COLUMN token_balance.unsettled.state IS 'waiting or unowned.';
COMMENT ON COLUMN token_balance.unsettled.reason IS 'Why it waits.';
COMMENT ON COLUMN token_balance.unsettled.usage_rows IS 'Usage rows of the workflow and account.';
COMMENT ON COLUMN token_balance.unsettled.tokens IS 'Tokens that are not charged; null where they cannot be counted.';
COMMENT ON COLUMN token_balance.unsettled.oldest IS 'Time of the oldest of these rows; null where the usage has no time.';
COMMENT ON COLUMN token_balance.unsettled.newest IS 'Time of the newest of these rows.';
COMMENT ON TABLE token_balance.binding IS 'The tables and columns of this database that the extension works on: a row per binding, also of those that were detached. Written by token_balance.attach().';
COMMENT ON COLUMN token_balance.binding.singleton IS 'True in a row that a dump of an older version has brought, until its references are taken over; else null.';
COMMENT ON COLUMN token_balance.binding.binding_id IS 'Number of the binding; settlements have it.';
COMMENT ON COLUMN token_balance.binding.name IS 'Name of the binding.';
COMMENT ON COLUMN token_balance.binding.accounts_id IS 'Number of the accounts that it charges: bindings with one users table have the same.';
COMMENT ON COLUMN token_balance.binding.detached_at IS 'When it was detached; null while it is attached.';
COMMENT ON INDEX token_balance.binding_attached IS 'A name is that of one attached binding.';
COMMENT ON COLUMN token_balance.settlement.binding_id IS 'Binding whose usage it is.';
COMMENT ON COLUMN token_balance.settlement.corrected_tokens IS 'What corrections have taken out of usage_tokens, exempt usage included.';
COMMENT ON FUNCTION token_balance.archive_usage(timestamp with time zone, pg_catalog.regclass, pg_catalog.name, pg_catalog.regclass, integer, pg_catalog.text) IS 'Take old rows out of the usage, of workflows that are settled to the last token: into a table of yours, which has the usage''s columns, or for good. With partition: that one as a whole, which is detached. Of a view, usage_table names the table below it, with its column that the view shows: app.messages(id AS message_id). Returns workflows, usage_rows, tokens, unowned_rows, unsettled, archive and more. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON FUNCTION token_balance.accept_deletions(timestamp with time zone, boolean, pg_catalog.name) IS 'Usage from before a moment that was deleted without record is noted as archived, so that what came since is charged. Returns workflows, pairs, tokens, due, settled_since and dry_run. binding: NULL means the one that is attached, if it is the only one.';
COMMENT ON COLUMN token_balance.settlement.archived_usage_tokens IS 'Usage that is not there any more and counts as if it were, before rounding: archived, or deleted and recorded.';
COMMENT ON COLUMN token_balance.ledger.entry_id IS 'Number of the entry; rising by one within an account.';
COMMENT ON COLUMN token_balance.ledger.accounts_id IS 'Accounts of which user_id is one.';
COMMENT ON COLUMN token_balance.ledger.binding_id IS 'Binding whose workflow was settled, refunded or corrected.';
COMMENT ON COLUMN token_balance.settlement.charged_tokens IS 'What was taken from the balance, less what corrections gave back.';
COMMENT ON COLUMN token_balance.settlement.refunded_tokens IS 'What refunds gave back.';
COMMENT ON COLUMN token_balance.settlement.archived_charged_tokens IS 'What archived ledger entries took from the balance, less corrections.';
COMMENT ON COLUMN token_balance.ledger.workflow_id IS 'Workflow that was settled, refunded or corrected.';
COMMENT ON COLUMN token_balance.ledger.kind IS 'settlement, credit, refund, correction (usage that was charged is gone), adjustment (a change that was not made by the extension), or opening (the entries before it are archived).';
COMMENT ON SEQUENCE token_balance.ledger_entry_id_seq IS 'Gives no numbers: entries are numbered by account. Older dumps set it.';
COMMENT ON TABLE token_balance.reference IS 'What credits and refunds with a reference did: a reference is used once for an account. Amounts are tokens.';
COMMENT ON COLUMN token_balance.reference.accounts_id IS 'Accounts of which user_id is one.';
COMMENT ON COLUMN token_balance.reference.user_id IS 'Account, as text.';
COMMENT ON COLUMN token_balance.reference.reference IS 'The caller''s own id of a credit or refund.';
COMMENT ON COLUMN token_balance.reference.kind IS 'credit or refund.';
COMMENT ON COLUMN token_balance.reference.amount IS 'What was given.';
COMMENT ON COLUMN token_balance.reference.previous_balance IS 'Balance before.';
COMMENT ON COLUMN token_balance.reference.new_balance IS 'Balance after.';
COMMENT ON COLUMN token_balance.reference.workflow_id IS 'Workflow that was refunded.';
COMMENT ON COLUMN token_balance.reference.binding_id IS 'Binding in which it was; null for a credit, and where it was refunded in several at once.';
COMMENT ON TABLE token_balance.exemption IS 'Who has forgiven usage that waited, by token_balance.exempt_pending(): a row per call that exempted some.';
COMMENT ON COLUMN token_balance.exemption.binding_id IS 'Binding whose usage it was.';
COMMENT ON COLUMN token_balance.exemption.exempted_at IS 'When it was exempted.';
COMMENT ON COLUMN token_balance.exemption.until IS 'Usage before this time was exempted; null: all that waited.';
COMMENT ON COLUMN token_balance.exemption.actor IS 'Role that exempted it.';
COMMENT ON COLUMN token_balance.exemption.workflows IS 'Workflows of which some was exempted.';
COMMENT ON COLUMN token_balance.exemption.pairs IS 'Pairs of workflow and account of which some was exempted.';
COMMENT ON COLUMN token_balance.exemption.tokens IS 'Tokens that were exempted.';
COMMENT ON TABLE token_balance.archived IS 'What left the tables: usage, settlements and ledger entries that were archived, and deletions of usage that were accepted. A row per binding, kind and archive.';
COMMENT ON COLUMN token_balance.archived.binding_id IS 'Binding that it was of; 0 for the ledger, which is that of all.';
COMMENT ON COLUMN token_balance.archived.kind IS 'usage, deletion (of usage, accepted by accept_deletions), settlement, or ledger.';
COMMENT ON COLUMN token_balance.archived.archive IS 'Table that has it; empty if it is gone for good.';
COMMENT ON COLUMN token_balance.archived.first_at IS 'When some of it left first.';
COMMENT ON COLUMN token_balance.archived.last_at IS 'When some of it left last.';
COMMENT ON COLUMN token_balance.archived.before IS 'The latest of the times before which it was from; null for a partition.';
COMMENT ON COLUMN token_balance.archived.actor IS 'Role that archived or accepted it last.';
COMMENT ON COLUMN token_balance.archived.row_count IS 'Rows in all; of a deletion, pairs of workflow and account.';
COMMENT ON COLUMN token_balance.archived.tokens IS 'Tokens in all: of usage, or what settlements accounted for; of the ledger, 0.';
COMMENT ON TABLE token_balance.archived_reference IS 'Empty: where a dump of an older version brings its archived references, until they are taken into token_balance.reference.';
COMMENT ON COLUMN token_balance.queue.charge_id IS 'Number of the charge, by the time at which it was queued; they are applied in this order.';
COMMENT ON COLUMN token_balance.queue.accounts_id IS 'Accounts of which user_id is one.';
COMMENT ON COLUMN token_balance.queue.binding_id IS 'Binding whose workflow was settled.';
COMMENT ON SEQUENCE token_balance.queue_charge_id_seq IS 'Gives no numbers. Older dumps set it.';

-- The bound tables: their triggers and their owner's grants. The function is of use only here.

CREATE FUNCTION token_balance.upgrade_binding() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_binding_wrapper';

SELECT token_balance.upgrade_binding();

DROP FUNCTION token_balance.upgrade_binding();

SELECT set_config('role', current_setting('token_balance.updating_role'), true);
