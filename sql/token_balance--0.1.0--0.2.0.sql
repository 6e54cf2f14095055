-- From 0.1.0 to 0.2.0. What it leaves behind is what CREATE EXTENSION makes, to the last detail:
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
-- nobody waits for each other.
DO $$
DECLARE
    workflows regclass := (SELECT b.workflows FROM token_balance.binding AS b
        WHERE EXISTS (SELECT FROM pg_class AS c WHERE c.oid = b.workflows));
BEGIN
    IF workflows IS NOT NULL THEN
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', workflows);
    END IF;
END $$;

-- Tables.

ALTER TABLE token_balance.binding
    ADD COLUMN balance_type pg_catalog.regtype NOT NULL DEFAULT 'integer',
    ADD COLUMN usage_prompt_tokens pg_catalog.name,
    ADD COLUMN usage_completion_tokens pg_catalog.name,
    ADD COLUMN usage_model pg_catalog.name,
    ADD COLUMN usage_stage pg_catalog.name,
    ADD COLUMN usage_created_at pg_catalog.name,
    ADD COLUMN busy_account pg_catalog.text NOT NULL DEFAULT 'wait',
    ADD COLUMN late_usage pg_catalog.text NOT NULL DEFAULT 'pending';

ALTER TABLE token_balance.settlement
    ALTER COLUMN first_settled_at DROP DEFAULT,
    ALTER COLUMN last_settled_at DROP DEFAULT,
    ADD COLUMN archived_charged_tokens bigint NOT NULL DEFAULT 0,
    ADD COLUMN archived_refunded_tokens bigint NOT NULL DEFAULT 0;

ALTER TABLE token_balance.ledger
    DROP CONSTRAINT ledger_kind,
    ADD CONSTRAINT ledger_kind CHECK (
        kind OPERATOR(pg_catalog.=) ANY (
            ARRAY['settlement', 'credit', 'refund', 'adjustment', 'opening']::pg_catalog.text[]));

CREATE TABLE token_balance.archived_reference (
    user_id pg_catalog.text NOT NULL,
    reference pg_catalog.text NOT NULL,
    kind pg_catalog.text NOT NULL,
    amount bigint NOT NULL,
    previous_balance bigint NOT NULL,
    new_balance bigint NOT NULL,
    workflow_id pg_catalog.text,
    PRIMARY KEY (user_id, reference)
);

CREATE TABLE token_balance.queue (
    user_id pg_catalog.text NOT NULL,
    charge_id bigint GENERATED ALWAYS AS IDENTITY,
    workflow_id pg_catalog.text NOT NULL,
    tokens bigint NOT NULL,
    actor pg_catalog.text NOT NULL,
    queued_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (user_id, charge_id)
);

SELECT pg_extension_config_dump('token_balance.archived_reference', '');
SELECT pg_extension_config_dump('token_balance.queue', '');
SELECT pg_extension_config_dump('token_balance.queue_charge_id_seq', '');

-- The binding as attach would have made it: the balance's type, and the usual columns of the usage,
-- but for those whose type is of no use.
WITH unusable AS (
    SELECT a.attname
    FROM token_balance.binding AS b JOIN pg_attribute AS a ON a.attrelid = b.usage
    WHERE a.attname IN ('prompt_tokens', 'completion_tokens')
            AND a.atttypid NOT IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
        OR a.attname = 'created_at' AND a.atttypid NOT IN (
            'timestamp with time zone'::regtype, 'timestamp without time zone'::regtype, 'date'::regtype)
)
UPDATE token_balance.binding AS b SET
    balance_type = CASE
        WHEN b.initial_balance NOT BETWEEN -2147483648 AND 2147483647 OR EXISTS (
            SELECT FROM pg_attribute AS a
            WHERE a.attrelid = b.users AND a.attname = 'token_balance' AND a.atttypid = 'bigint'::regtype)
        THEN 'bigint'::regtype ELSE 'integer'::regtype END,
    usage_prompt_tokens = CASE
        WHEN 'prompt_tokens' NOT IN (SELECT attname FROM unusable) THEN 'prompt_tokens' END,
    usage_completion_tokens = CASE
        WHEN 'completion_tokens' NOT IN (SELECT attname FROM unusable) THEN 'completion_tokens' END,
    usage_model = 'model',
    usage_stage = 'stage',
    usage_created_at = CASE
        WHEN 'created_at' NOT IN (SELECT attname FROM unusable) THEN 'created_at' END;

-- Functions. Those of 0.1.0 move to the new path of the library, so that sessions which have the old library
-- loaded go on with the new one.

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id bigint) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE OR REPLACE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.uuid) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_uuid_wrapper';

CREATE OR REPLACE FUNCTION token_balance.settle_workflows(workflow_ids pg_catalog.text[])
RETURNS TABLE (
    workflow_id pg_catalog.text,
    user_id pg_catalog.text,
    charged_tokens bigint,
    previous_balance bigint,
    new_balance bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflows_wrapper';

CREATE OR REPLACE FUNCTION token_balance.balance(user_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_wrapper';

CREATE OR REPLACE FUNCTION token_balance.detach(drop_column boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';

CREATE OR REPLACE FUNCTION token_balance.verify()
RETURNS TABLE (name pg_catalog.text, ok boolean, detail pg_catalog.text, hint pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';

CREATE OR REPLACE FUNCTION token_balance.settle_on_completion() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_on_completion_wrapper';

CREATE OR REPLACE FUNCTION token_balance.record_balance_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_balance_change_wrapper';

CREATE OR REPLACE FUNCTION token_balance.refuse_ledger_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_ledger_change_wrapper';

CREATE FUNCTION token_balance.settle_pending(
    since timestamp with time zone DEFAULT NULL,
    max_workflows integer DEFAULT 10000)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_pending_wrapper';

CREATE PROCEDURE token_balance.settle_backlog(
    batch_size integer DEFAULT 10000,
    existing boolean DEFAULT false)
LANGUAGE c AS 'MODULE_PATHNAME', 'settle_backlog_wrapper';

-- Amounts are numeric so that one past bigint gets a clear error.
CREATE FUNCTION token_balance.credit(
    user_id pg_catalog.text,
    amount pg_catalog.numeric,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'credit_wrapper';

CREATE FUNCTION token_balance.refund_workflow(
    workflow_id pg_catalog.text,
    amount pg_catalog.numeric DEFAULT NULL,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refund_workflow_wrapper';

CREATE FUNCTION token_balance.statement(
    user_id pg_catalog.text,
    since timestamp with time zone DEFAULT NULL,
    until timestamp with time zone DEFAULT NULL)
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

CREATE FUNCTION token_balance.balance_at(
    user_id pg_catalog.text,
    at timestamp with time zone)
RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_at_wrapper';

CREATE FUNCTION token_balance.summary(user_id pg_catalog.text, days integer DEFAULT 30)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'summary_wrapper';

CREATE FUNCTION token_balance.overdrawn_accounts()
RETURNS TABLE (
    user_id pg_catalog.text,
    token_balance bigint,
    since timestamp with time zone)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'overdrawn_accounts_wrapper';

CREATE VIEW token_balance.overdrawn AS
SELECT a.user_id, a.token_balance, a.since FROM token_balance.overdrawn_accounts() AS a;

CREATE FUNCTION token_balance.reconcile()
RETURNS TABLE (
    problem pg_catalog.text,
    user_id pg_catalog.text,
    workflow_id pg_catalog.text,
    expected pg_catalog.numeric,
    found pg_catalog.numeric,
    hint pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reconcile_wrapper';

CREATE FUNCTION token_balance.archive_ledger(
    before timestamp with time zone,
    archive pg_catalog.regclass)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_ledger_wrapper';

REVOKE ALL ON FUNCTION
    token_balance.settle_pending(timestamp with time zone, integer),
    token_balance.credit(text, numeric, text, text),
    token_balance.refund_workflow(text, numeric, text, text),
    token_balance.statement(text, timestamp with time zone, timestamp with time zone),
    token_balance.balance_at(text, timestamp with time zone),
    token_balance.summary(text, integer),
    token_balance.overdrawn_accounts(),
    token_balance.archive_ledger(timestamp with time zone, regclass),
    token_balance.reconcile()
FROM PUBLIC;

REVOKE ALL ON PROCEDURE token_balance.settle_backlog(integer, boolean) FROM PUBLIC;

-- attach names the columns of summary, and takes options. Who was granted the old one is granted the new one.

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
    initial_balance bigint DEFAULT 1000000,
    balance_type pg_catalog.regtype DEFAULT 'integer',
    existing_usage pg_catalog.text DEFAULT 'exempt',
    create_index boolean DEFAULT false,
    usage_prompt_tokens pg_catalog.name DEFAULT 'prompt_tokens',
    usage_completion_tokens pg_catalog.name DEFAULT 'completion_tokens',
    usage_model pg_catalog.name DEFAULT 'model',
    usage_stage pg_catalog.name DEFAULT 'stage',
    usage_created_at pg_catalog.name DEFAULT 'created_at',
    busy_account pg_catalog.text DEFAULT 'wait',
    late_usage pg_catalog.text DEFAULT 'pending')
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_tables_wrapper';

REVOKE ALL ON FUNCTION token_balance.attach(
    regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
    text, boolean, name, name, name, name, name, text, text)
FROM PUBLIC;

CREATE FUNCTION token_balance.upgrade_grants(before regprocedure, after regprocedure) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_grants_wrapper';

SELECT token_balance.upgrade_grants(
    'token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean)',
    'token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text)');

DROP FUNCTION token_balance.upgrade_grants(regprocedure, regprocedure);

DROP FUNCTION token_balance.attach(
    regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
    text, boolean);

-- Triggers.

CREATE FUNCTION token_balance.refuse_foreign_write() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_foreign_write_wrapper';

CREATE FUNCTION token_balance.settle_late_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_late_usage_wrapper';

REVOKE ALL ON FUNCTION token_balance.refuse_foreign_write(), token_balance.settle_late_usage() FROM PUBLIC;

CREATE FUNCTION token_balance.note_completion("table" oid, "row" tid) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_completion_wrapper';

CREATE FUNCTION token_balance.note_status(old text, new text, completed text[], "table" oid, "row" tid) RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_status_wrapper';

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.binding
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.settlement
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.ledger
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.archived_reference
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.queue
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.binding ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.settlement ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.archived_reference ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.queue ENABLE ALWAYS TRIGGER owner_only;

-- Comments.

COMMENT ON FUNCTION token_balance.attach(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text[], bigint, pg_catalog.regtype, pg_catalog.text, boolean, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text, pg_catalog.text) IS 'Bind the extension to the application''s tables: add users.token_balance, exempt existing usage, settle completed workflows from now on. Calling it again repairs the binding and sets the options busy_account and late_usage.';
COMMENT ON FUNCTION token_balance.settle_pending(timestamp with time zone, integer) IS 'Settle completed workflows that have unsettled usage: runs that were never settled, and late usage. Returns workflows, charges, tokens_used and more.';
COMMENT ON PROCEDURE token_balance.settle_backlog(integer, boolean) IS 'Settle all that is pending with a commit a batch; with existing => true also the usage from before the extension. May be stopped and called again.';
COMMENT ON FUNCTION token_balance.credit(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS 'Top up an account. The same reference again answers as the first time and changes nothing.';
COMMENT ON FUNCTION token_balance.refund_workflow(pg_catalog.text, pg_catalog.numeric, pg_catalog.text, pg_catalog.text) IS 'Give back what a workflow was charged, all that is left or a part, to the accounts that paid.';
COMMENT ON FUNCTION token_balance.statement(pg_catalog.text, timestamp with time zone, timestamp with time zone) IS 'The ledger of an account in order, from since on and before until.';
COMMENT ON FUNCTION token_balance.balance_at(pg_catalog.text, timestamp with time zone) IS 'The balance of an account at a moment, by the ledger.';
COMMENT ON FUNCTION token_balance.summary(pg_catalog.text, integer) IS 'Usage of an account in the last days: summary, by_stage, by_model, recent_records, token_balance and is_overdraft.';
COMMENT ON FUNCTION token_balance.overdrawn_accounts() IS 'The accounts below zero; see the view overdrawn.';
COMMENT ON FUNCTION token_balance.reconcile() IS 'Everything that does not add up, with the two figures and what to do; no row if all does.';
COMMENT ON VIEW token_balance.overdrawn IS 'The accounts below zero, deepest first.';
COMMENT ON COLUMN token_balance.overdrawn.user_id IS 'Account, as text.';
COMMENT ON COLUMN token_balance.overdrawn.token_balance IS 'Its balance in tokens.';
COMMENT ON COLUMN token_balance.overdrawn.since IS 'When it crossed zero; null if that is not in the ledger.';
COMMENT ON FUNCTION token_balance.note_completion(pg_catalog.oid, pg_catalog.tid) IS 'In the WHEN condition of the completion triggers: notes a completed row, so that one statement is settled as one. Always true.';
COMMENT ON FUNCTION token_balance.note_status(pg_catalog.text, pg_catalog.text, pg_catalog.text[], pg_catalog.oid, pg_catalog.tid) IS 'The WHEN condition of the completion triggers: whether the status became a completed one; if so, notes the row.';
COMMENT ON FUNCTION token_balance.archive_ledger(timestamp with time zone, pg_catalog.regclass) IS 'Move the ledger entries before a moment to a table of yours, which has the ledger''s columns; of each account an opening entry stays. Returns accounts, entries and archive.';
COMMENT ON FUNCTION token_balance.settle_late_usage() IS 'Trigger function on the usage table, with late_usage => ''settle'': settles usage of a workflow that is over.';
COMMENT ON FUNCTION token_balance.refuse_ledger_change() IS 'Trigger function on the ledger: keeps it append-only, but for token_balance.archive_ledger().';
COMMENT ON FUNCTION token_balance.refuse_foreign_write() IS 'Trigger function on the extension''s tables: only their owner writes them.';
COMMENT ON COLUMN token_balance.binding.balance_type IS 'Type of the balance column, if attach added it.';
COMMENT ON COLUMN token_balance.binding.usage_prompt_tokens IS 'Prompt tokens of a usage row, for summary(); left out where there is no such column.';
COMMENT ON COLUMN token_balance.binding.usage_completion_tokens IS 'Completion tokens of a usage row, for summary().';
COMMENT ON COLUMN token_balance.binding.usage_model IS 'Model of a usage row, for summary().';
COMMENT ON COLUMN token_balance.binding.usage_stage IS 'Stage of a usage row, for summary().';
COMMENT ON COLUMN token_balance.binding.usage_created_at IS 'Time of a usage row, for summary() and settle_pending(since).';
COMMENT ON COLUMN token_balance.binding.busy_account IS 'What a settlement does while another transaction holds the account: wait, or leave the charge in the queue.';
COMMENT ON COLUMN token_balance.binding.late_usage IS 'Usage written after its workflow was settled is pending until the next settlement, or a trigger settles it at once.';
COMMENT ON COLUMN token_balance.settlement.archived_charged_tokens IS 'What archived ledger entries took from the balance.';
COMMENT ON COLUMN token_balance.settlement.archived_refunded_tokens IS 'What archived ledger entries gave back.';
COMMENT ON COLUMN token_balance.ledger.kind IS 'settlement, credit, refund, adjustment (a change that was not made by the extension), or opening (the entries before it are archived).';
COMMENT ON COLUMN token_balance.ledger.amount IS 'new_balance less previous_balance; negative for a charge, 0 in an opening entry.';
COMMENT ON TABLE token_balance.archived_reference IS 'Archived ledger entries that have a reference: it stays used. Amounts are tokens.';
COMMENT ON COLUMN token_balance.archived_reference.user_id IS 'Account, as text.';
COMMENT ON COLUMN token_balance.archived_reference.reference IS 'The caller''s own id of a credit or refund.';
COMMENT ON COLUMN token_balance.archived_reference.kind IS 'credit or refund.';
COMMENT ON COLUMN token_balance.archived_reference.amount IS 'What was given.';
COMMENT ON COLUMN token_balance.archived_reference.previous_balance IS 'Balance before.';
COMMENT ON COLUMN token_balance.archived_reference.new_balance IS 'Balance after.';
COMMENT ON COLUMN token_balance.archived_reference.workflow_id IS 'Workflow that was refunded.';
COMMENT ON TABLE token_balance.queue IS 'Charges that wait for their account''s row, with busy_account => ''queue''. The balance is the column less what waits here.';
COMMENT ON COLUMN token_balance.queue.user_id IS 'Account, as text.';
COMMENT ON COLUMN token_balance.queue.charge_id IS 'Number of the charge; they are applied in this order.';
COMMENT ON COLUMN token_balance.queue.workflow_id IS 'Workflow that was settled.';
COMMENT ON COLUMN token_balance.queue.tokens IS 'Tokens to be charged.';
COMMENT ON COLUMN token_balance.queue.actor IS 'Role that settled the workflow.';
COMMENT ON COLUMN token_balance.queue.queued_at IS 'When it was settled.';
COMMENT ON SEQUENCE token_balance.queue_charge_id_seq IS 'The numbers of queued charges.';

-- The bound tables: their triggers and their owner's grants. The function is of use only here.
CREATE FUNCTION token_balance.upgrade_binding() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_binding_wrapper';

SELECT token_balance.upgrade_binding();

DROP FUNCTION token_balance.upgrade_binding();

SELECT set_config('role', current_setting('token_balance.updating_role'), true);
