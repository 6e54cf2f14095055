-- The functions that people call. Nobody but the extension's owner may, until it is granted;
-- token_balance.attach grants the everyday ones to the owner of the users table.

-- Not one function with a default for the binding: whoever may create in this schema could have one with a single
-- argument called in its place.
CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text, binding pg_catalog.name)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id bigint) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id bigint, binding pg_catalog.name)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.uuid) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_uuid_wrapper';

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

CREATE FUNCTION token_balance.exempt_pending(
    until timestamp with time zone DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'exempt_pending_wrapper';

-- An id is text, bigint or uuid in each function that takes one. Not in settle_workflows: of several array types the
-- server would choose none for '{w1,w2}'.
CREATE FUNCTION token_balance.balance(user_id pg_catalog.text, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_wrapper';

CREATE FUNCTION token_balance.balance(user_id bigint, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_by_key_wrapper';

CREATE FUNCTION token_balance.balance(user_id pg_catalog.uuid, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_by_key_wrapper';

-- Amounts are numeric so that one past bigint gets a clear error.
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

CREATE FUNCTION token_balance.correct_workflow(workflow_id pg_catalog.text, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_text_wrapper';

CREATE FUNCTION token_balance.correct_workflow(workflow_id bigint, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_bigint_wrapper';

CREATE FUNCTION token_balance.correct_workflow(workflow_id pg_catalog.uuid, binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'correct_workflow_uuid_wrapper';

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

-- The argument is there for the update, which makes this view while the function without one is there, too.
CREATE VIEW token_balance.overdrawn AS
SELECT a.user_id, a.token_balance, a.since, a.binding
FROM token_balance.overdrawn_accounts(NULL::pg_catalog.name) AS a;

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

CREATE FUNCTION token_balance.archive_usage(
    before timestamp with time zone DEFAULT NULL,
    archive pg_catalog.regclass DEFAULT NULL,
    binding pg_catalog.name DEFAULT NULL,
    partition pg_catalog.regclass DEFAULT NULL,
    max_workflows integer DEFAULT NULL,
    usage_table pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_usage_wrapper';

CREATE FUNCTION token_balance.accept_deletions(
    before timestamp with time zone,
    dry_run boolean DEFAULT false,
    binding pg_catalog.name DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'accept_deletions_wrapper';

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

CREATE FUNCTION token_balance.archive_ledger(
    before timestamp with time zone,
    archive pg_catalog.regclass)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_ledger_wrapper';

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

CREATE FUNCTION token_balance.attach_again(binding pg_catalog.name DEFAULT NULL) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_again_wrapper';

CREATE FUNCTION token_balance.detach(drop_column boolean DEFAULT false, name pg_catalog.name DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';

CREATE FUNCTION token_balance.reset(binding pg_catalog.name DEFAULT NULL) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reset_wrapper';

CREATE FUNCTION token_balance.verify(binding pg_catalog.name DEFAULT NULL)
RETURNS TABLE (
    name pg_catalog.text,
    ok boolean,
    detail pg_catalog.text,
    hint pg_catalog.text,
    binding pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';

CREATE FUNCTION token_balance.suggestions()
RETURNS TABLE (
    rank integer,
    call pg_catalog.text,
    reasons pg_catalog.text,
    remarks pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'suggestions_wrapper';

CREATE FUNCTION token_balance.suggest() RETURNS SETOF pg_catalog.text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'suggest_lines_wrapper';

REVOKE ALL ON FUNCTION
    @extschema@.settle_workflow(pg_catalog.text),
    @extschema@.settle_workflow(bigint),
    @extschema@.settle_workflow(pg_catalog.uuid),
    @extschema@.settle_workflow(pg_catalog.text, pg_catalog.name),
    @extschema@.settle_workflow(bigint, pg_catalog.name),
    @extschema@.settle_workflow(pg_catalog.uuid, pg_catalog.name),
    token_balance.settle_workflows(pg_catalog.text[], pg_catalog.name),
    token_balance.balance(pg_catalog.text, pg_catalog.name),
    token_balance.balance(bigint, pg_catalog.name),
    token_balance.balance(pg_catalog.uuid, pg_catalog.name),
    token_balance.attach(
        pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name,
        pg_catalog.name, pg_catalog.name, pg_catalog.name[], pg_catalog.name, pg_catalog.name,
        pg_catalog.name, pg_catalog.name, pg_catalog.text[], bigint, pg_catalog.regtype,
        pg_catalog.text, boolean, pg_catalog.name, pg_catalog.name, pg_catalog.name,
        pg_catalog.name, pg_catalog.name, pg_catalog.text, pg_catalog.text, pg_catalog.name[],
        pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.name, pg_catalog.name,
        pg_catalog.text[], pg_catalog.name, pg_catalog.text, boolean),
    token_balance.attach_again(pg_catalog.name),
    token_balance.adjust(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.name),
    token_balance.adjust(bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.name),
    token_balance.adjust(pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.name),
    token_balance.detach(boolean, pg_catalog.name),
    token_balance.reset(pg_catalog.name),
    token_balance.verify(pg_catalog.name),
    token_balance.suggestions(),
    token_balance.suggest(),
    token_balance.settle_pending(timestamp with time zone, integer, interval, pg_catalog.name),
    token_balance.exempt_pending(timestamp with time zone, pg_catalog.name),
    token_balance.credit(
        pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name),
    token_balance.credit(
        bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name),
    token_balance.credit(
        pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name),
    token_balance.refund_workflow(
        pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name,
        pg_catalog.regclass),
    token_balance.refund_workflow(
        bigint, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name,
        pg_catalog.regclass),
    token_balance.refund_workflow(
        pg_catalog.uuid, pg_catalog.numeric, pg_catalog.text, pg_catalog.text, pg_catalog.name,
        pg_catalog.regclass),
    token_balance.correct_workflow(pg_catalog.text, pg_catalog.name),
    token_balance.correct_workflow(bigint, pg_catalog.name),
    token_balance.correct_workflow(pg_catalog.uuid, pg_catalog.name),
    token_balance.statement(
        pg_catalog.text, timestamp with time zone, timestamp with time zone, pg_catalog.name),
    token_balance.statement(
        bigint, timestamp with time zone, timestamp with time zone, pg_catalog.name),
    token_balance.statement(
        pg_catalog.uuid, timestamp with time zone, timestamp with time zone, pg_catalog.name),
    token_balance.balance_at(pg_catalog.text, timestamp with time zone, pg_catalog.name),
    token_balance.balance_at(bigint, timestamp with time zone, pg_catalog.name),
    token_balance.balance_at(pg_catalog.uuid, timestamp with time zone, pg_catalog.name),
    token_balance.summary(pg_catalog.text, integer, pg_catalog.name),
    token_balance.summary(bigint, integer, pg_catalog.name),
    token_balance.summary(pg_catalog.uuid, integer, pg_catalog.name),
    token_balance.overdrawn_accounts(pg_catalog.name),
    token_balance.export_account(pg_catalog.text, pg_catalog.text, pg_catalog.name),
    token_balance.export_account(bigint, pg_catalog.text, pg_catalog.name),
    token_balance.export_account(pg_catalog.uuid, pg_catalog.text, pg_catalog.name),
    token_balance.import_account(pg_catalog.jsonb, pg_catalog.name),
    token_balance.refuse_account(pg_catalog.jsonb),
    token_balance.confirm_export(pg_catalog.jsonb),
    token_balance.take_back_account(pg_catalog.jsonb),
    token_balance.archive_ledger(timestamp with time zone, pg_catalog.regclass),
    token_balance.archive_settlements(
        timestamp with time zone, pg_catalog.regclass, pg_catalog.name, integer),
    token_balance.archive_usage(
        timestamp with time zone, pg_catalog.regclass, pg_catalog.name, pg_catalog.regclass, integer, pg_catalog.text),
    token_balance.accept_deletions(timestamp with time zone, boolean, pg_catalog.name),
    token_balance.usage_state(pg_catalog.name),
    token_balance.unsettled_usage(pg_catalog.name),
    token_balance.counters(),
    token_balance.reconcile(pg_catalog.name)
FROM PUBLIC;

REVOKE ALL ON PROCEDURE
    token_balance.settle_backlog(integer, boolean, pg_catalog.name),
    token_balance.archive(
        interval, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, integer, pg_catalog.name)
FROM PUBLIC;

-- Numbers alone, and no names: what monitoring reads.
GRANT EXECUTE ON FUNCTION token_balance.counters() TO pg_monitor;
GRANT SELECT ON token_balance.stat TO pg_monitor;
