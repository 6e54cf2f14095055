-- The functions that people call. Nobody but the extension's owner may, until it is granted;
-- token_balance.attach grants the everyday ones to the owner of the users table.

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_text_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id bigint) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_bigint_wrapper';

CREATE FUNCTION @extschema@.settle_workflow(workflow_id pg_catalog.uuid) RETURNS pg_catalog.jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflow_uuid_wrapper';

CREATE FUNCTION token_balance.settle_workflows(workflow_ids pg_catalog.text[])
RETURNS TABLE (
    workflow_id pg_catalog.text,
    user_id pg_catalog.text,
    charged_tokens bigint,
    previous_balance bigint,
    new_balance bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_workflows_wrapper';

CREATE FUNCTION token_balance.balance(user_id pg_catalog.text) RETURNS pg_catalog.jsonb
LANGUAGE c STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'balance_wrapper';

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
    create_index boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_wrapper';

CREATE FUNCTION token_balance.detach(drop_column boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'detach_wrapper';

CREATE FUNCTION token_balance.verify()
RETURNS TABLE (name pg_catalog.text, ok boolean, detail pg_catalog.text, hint pg_catalog.text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'verify_wrapper';

REVOKE ALL ON FUNCTION
    @extschema@.settle_workflow(pg_catalog.text),
    @extschema@.settle_workflow(bigint),
    @extschema@.settle_workflow(pg_catalog.uuid),
    token_balance.settle_workflows(pg_catalog.text[]),
    token_balance.balance(pg_catalog.text),
    token_balance.attach(
        pg_catalog.regclass, pg_catalog.regclass, pg_catalog.regclass, pg_catalog.name,
        pg_catalog.name, pg_catalog.name, pg_catalog.name[], pg_catalog.name, pg_catalog.name,
        pg_catalog.name, pg_catalog.name, pg_catalog.text[], bigint, pg_catalog.regtype,
        pg_catalog.text, boolean),
    token_balance.detach(boolean),
    token_balance.verify()
FROM PUBLIC;
