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

-- Functions. Those of 0.2.0 move to the new library, so that sessions which have the old one loaded go on with it.
-- They come first: triggers on the extension's tables call them, and the old library need not be there any more.

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

CREATE OR REPLACE FUNCTION token_balance.settle_pending(
    since timestamp with time zone DEFAULT NULL,
    max_workflows integer DEFAULT 10000)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_pending_wrapper';

CREATE OR REPLACE PROCEDURE token_balance.settle_backlog(
    batch_size integer DEFAULT 10000,
    existing boolean DEFAULT false)
LANGUAGE c AS 'MODULE_PATHNAME', 'settle_backlog_wrapper';

CREATE OR REPLACE FUNCTION token_balance.balance(user_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_wrapper';

CREATE OR REPLACE FUNCTION token_balance.credit(
    user_id pg_catalog.text,
    amount pg_catalog.numeric,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'credit_wrapper';

CREATE OR REPLACE FUNCTION token_balance.refund_workflow(
    workflow_id pg_catalog.text,
    amount pg_catalog.numeric DEFAULT NULL,
    reference pg_catalog.text DEFAULT NULL,
    note pg_catalog.text DEFAULT NULL)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refund_workflow_wrapper';

CREATE OR REPLACE FUNCTION token_balance.statement(
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

CREATE OR REPLACE FUNCTION token_balance.balance_at(
    user_id pg_catalog.text,
    at timestamp with time zone)
RETURNS bigint
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_at_wrapper';

CREATE OR REPLACE FUNCTION token_balance.summary(user_id pg_catalog.text, days integer DEFAULT 30)
RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'summary_wrapper';

CREATE OR REPLACE FUNCTION token_balance.overdrawn_accounts()
RETURNS TABLE (
    user_id pg_catalog.text,
    token_balance bigint,
    since timestamp with time zone)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'overdrawn_accounts_wrapper';

CREATE OR REPLACE FUNCTION token_balance.reconcile()
RETURNS TABLE (
    problem pg_catalog.text,
    user_id pg_catalog.text,
    workflow_id pg_catalog.text,
    expected pg_catalog.numeric,
    found pg_catalog.numeric,
    hint pg_catalog.text)
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'reconcile_wrapper';

CREATE OR REPLACE FUNCTION token_balance.archive_ledger(
    before timestamp with time zone,
    archive pg_catalog.regclass)
RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'archive_ledger_wrapper';

-- attach has one argument more. The grants of the old function go to the new one. The C function reads
-- the arguments by their names; it has a name of its own, so a session with the old library cannot call that
-- library's.

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
    late_usage pg_catalog.text DEFAULT 'pending',
    search_path pg_catalog.name[] DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_by_name_wrapper';

REVOKE ALL ON FUNCTION token_balance.attach(
    regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
    text, boolean, name, name, name, name, name, text, text, name[])
FROM PUBLIC;

CREATE FUNCTION token_balance.upgrade_grants(before regprocedure, after regprocedure) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_grants_wrapper';

SELECT token_balance.upgrade_grants(
    'token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text)',
    'token_balance.attach(
        regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
        text, boolean, name, name, name, name, name, text, text, name[])');

DROP FUNCTION token_balance.upgrade_grants(regprocedure, regprocedure);

DROP FUNCTION token_balance.attach(
    regclass, regclass, regclass, name, name, name, name[], name, name, name, name, text[], bigint, regtype,
    text, boolean, name, name, name, name, name, text, text);

CREATE OR REPLACE FUNCTION token_balance.detach(drop_column boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';

CREATE OR REPLACE FUNCTION token_balance.verify()
RETURNS TABLE (name pg_catalog.text, ok boolean, detail pg_catalog.text, hint pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';

-- Trigger functions, and what is in the triggers' conditions.

CREATE OR REPLACE FUNCTION token_balance.settle_on_completion() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_on_completion_wrapper';

CREATE OR REPLACE FUNCTION token_balance.settle_late_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_late_usage_wrapper';

CREATE OR REPLACE FUNCTION token_balance.record_balance_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_balance_change_wrapper';

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

-- Tables.

-- In which schemas the owner's triggers find names that they do not qualify. NULL: none was chosen, and only the
-- bound tables' schemas are searched.
ALTER TABLE token_balance.binding ADD COLUMN search_path name[];

-- Comments.

COMMENT ON FUNCTION token_balance.verify() IS 'Check the binding: one row per check, with what to do where it is not ok.';
COMMENT ON PROCEDURE token_balance.settle_backlog(integer, boolean) IS 'Settle all that is pending with one commit per batch; with existing => true also the usage from before the extension. May be stopped and called again.';
COMMENT ON FUNCTION token_balance.attach(pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name[], pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text[], bigint, pg_catalog.regtype, pg_catalog.text, boolean, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.name, pg_catalog.text, pg_catalog.text, pg_catalog.name[]) IS 'Bind the extension to the application''s tables: add users.token_balance, exempt existing usage, settle completed workflows from now on. Calling it again repairs the binding and sets the options busy_account and late_usage, and the search_path where one is given.';
COMMENT ON COLUMN token_balance.binding.search_path IS 'Schemas in which triggers on the bound tables find names that they do not qualify, while they run as the tables'' owner; between pg_catalog and pg_temp. Null: the bound tables'' schemas.';

-- The bound tables: their triggers and their owner's grants. The function is of use only here.

CREATE FUNCTION token_balance.upgrade_binding() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'upgrade_binding_wrapper';

SELECT token_balance.upgrade_binding();

DROP FUNCTION token_balance.upgrade_binding();

SELECT set_config('role', current_setting('token_balance.updating_role'), true);
