-- The extension's own schema and tables. A schema of that name that is there already is an error:
-- it could hold somebody else's objects.
CREATE SCHEMA token_balance;

-- What comes later than 0.1.0 goes to the end of a table, as ALTER TABLE puts it, and has a default: a dump of an older
-- version has not those columns, and its rows are of the only binding that there was.
CREATE TABLE token_balance.binding (
    singleton boolean,
    users pg_catalog.regclass NOT NULL,
    users_name pg_catalog.text NOT NULL,
    user_key pg_catalog.name NOT NULL,
    usage pg_catalog.regclass NOT NULL,
    usage_name pg_catalog.text NOT NULL,
    usage_user pg_catalog.name,
    usage_workflow pg_catalog.name NOT NULL,
    usage_tokens pg_catalog.name[] NOT NULL,
    workflows pg_catalog.regclass,
    workflows_name pg_catalog.text,
    workflow_key pg_catalog.name NOT NULL,
    workflow_user pg_catalog.name,
    workflow_status pg_catalog.name,
    workflow_completed_at pg_catalog.name,
    completed_statuses pg_catalog.text[] NOT NULL,
    initial_balance bigint,
    existing_usage pg_catalog.text NOT NULL,
    attached_by pg_catalog.text NOT NULL,
    attached_at timestamp with time zone NOT NULL DEFAULT pg_catalog.now(),
    -- Since 0.2.0.
    balance_type pg_catalog.regtype NOT NULL DEFAULT 'integer',
    usage_prompt_tokens pg_catalog.name,
    usage_completion_tokens pg_catalog.name,
    usage_model pg_catalog.name,
    usage_stage pg_catalog.name,
    usage_created_at pg_catalog.name,
    busy_account pg_catalog.text NOT NULL DEFAULT 'wait',
    late_usage pg_catalog.text NOT NULL DEFAULT 'pending',
    -- Since 0.3.0.
    search_path pg_catalog.name[],
    binding_id smallint NOT NULL DEFAULT 1,
    name pg_catalog.name NOT NULL DEFAULT 'default',
    accounts_id smallint NOT NULL DEFAULT 1,
    detached_at timestamp with time zone,
    workflow_ids pg_catalog.text,
    account_ids pg_catalog.text,
    outside_changes pg_catalog.text NOT NULL DEFAULT 'record',
    balance_column pg_catalog.name NOT NULL DEFAULT 'token_balance',
    usage_definition pg_catalog.text,
    usage_rule pg_catalog.text,
    late_usage_on pg_catalog.text[] NOT NULL DEFAULT '{}',
    usage_id pg_catalog.name DEFAULT 'id',
    made_column boolean,
    deleted_usage pg_catalog.text NOT NULL DEFAULT 'report',
    PRIMARY KEY (binding_id)
);

CREATE UNIQUE INDEX binding_attached ON token_balance.binding (name) WHERE detached_at IS NULL;

CREATE TABLE token_balance.settlement (
    workflow_id pg_catalog.text NOT NULL,
    user_id pg_catalog.text NOT NULL,
    usage_tokens bigint NOT NULL,
    charged_tokens bigint NOT NULL DEFAULT 0,
    refunded_tokens bigint NOT NULL DEFAULT 0,
    first_settled_at timestamp with time zone,
    last_settled_at timestamp with time zone,
    archived_charged_tokens bigint NOT NULL DEFAULT 0,
    archived_refunded_tokens bigint NOT NULL DEFAULT 0,
    binding_id smallint NOT NULL DEFAULT 1,
    corrected_tokens bigint NOT NULL DEFAULT 0,
    archived_usage_tokens pg_catalog.numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (workflow_id, binding_id, user_id)
);

CREATE TABLE token_balance.ledger (
    user_id pg_catalog.text NOT NULL,
    entry_id bigint GENERATED ALWAYS AS IDENTITY,
    kind pg_catalog.text NOT NULL,
    amount bigint NOT NULL,
    previous_balance bigint NOT NULL,
    new_balance bigint NOT NULL,
    workflow_id pg_catalog.text,
    reference pg_catalog.text,
    note pg_catalog.text,
    actor pg_catalog.text NOT NULL,
    created_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    accounts_id smallint NOT NULL DEFAULT 1,
    binding_id smallint DEFAULT 1,
    PRIMARY KEY (user_id, accounts_id, entry_id),
    CONSTRAINT ledger_kind CHECK (
        kind OPERATOR(pg_catalog.=) ANY (
            ARRAY['settlement', 'credit', 'refund', 'correction', 'adjustment', 'opening']::pg_catalog.text[])),
    CONSTRAINT ledger_amount CHECK (
        new_balance OPERATOR(pg_catalog.=) (previous_balance OPERATOR(pg_catalog.+) amount))
);

-- A credit or refund with a reference is made once: what the first call did. It goes with its account when that gets
-- another id, which entries of the ledger do not.
CREATE TABLE token_balance.reference (
    accounts_id smallint NOT NULL,
    user_id pg_catalog.text NOT NULL,
    reference pg_catalog.text NOT NULL,
    kind pg_catalog.text NOT NULL,
    amount bigint NOT NULL,
    previous_balance bigint NOT NULL,
    new_balance bigint NOT NULL,
    workflow_id pg_catalog.text,
    binding_id smallint,
    PRIMARY KEY (user_id, accounts_id, reference)
);

-- A refund finds what one with the same reference did, also where the settlement is archived, which says who had paid.
CREATE INDEX reference_of_refund ON token_balance.reference (reference)
WHERE kind OPERATOR(pg_catalog.=) 'refund';

-- Empty: a dump of 0.2.0 brings its archived references here, from where they are taken into the table above.
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

-- Charges that wait for their account's row: attach(busy_account => 'queue').
CREATE TABLE token_balance.queue (
    user_id pg_catalog.text NOT NULL,
    charge_id bigint GENERATED ALWAYS AS IDENTITY,
    workflow_id pg_catalog.text NOT NULL,
    tokens bigint NOT NULL,
    actor pg_catalog.text NOT NULL,
    queued_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    accounts_id smallint NOT NULL DEFAULT 1,
    binding_id smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (user_id, accounts_id, charge_id)
);

-- Workflows whose id was changed, and what it has become; null where the id is in use. The ids of one workflow are a
-- family: entries of the ledger keep the id that they were made with.
CREATE TABLE token_balance.workflow_alias (
    binding_id smallint NOT NULL,
    workflow_id pg_catalog.text NOT NULL,
    family pg_catalog.text NOT NULL,
    became pg_catalog.text,
    PRIMARY KEY (binding_id, workflow_id)
);

CREATE INDEX workflow_alias_family ON token_balance.workflow_alias (binding_id, family);

-- What was forgiven, and by whom. Rows are only added: it needs no key.
CREATE TABLE token_balance.exemption (
    binding_id smallint NOT NULL,
    exempted_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    until timestamp with time zone,
    actor pg_catalog.text NOT NULL,
    workflows bigint NOT NULL,
    pairs bigint NOT NULL,
    tokens pg_catalog.numeric NOT NULL
);

-- What left the tables by archiving, and deletions that were accepted: a row per binding (0: the ledger of all of them),
-- kind and archive, which is empty where it is gone for good.
CREATE TABLE token_balance.archived (
    binding_id smallint NOT NULL,
    kind pg_catalog.text NOT NULL,
    archive pg_catalog.text NOT NULL,
    first_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_at timestamp with time zone NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    before timestamp with time zone,
    actor pg_catalog.text NOT NULL,
    row_count bigint NOT NULL,
    tokens pg_catalog.numeric NOT NULL,
    PRIMARY KEY (binding_id, kind, archive),
    CONSTRAINT archived_kind CHECK (
        kind OPERATOR(pg_catalog.=) ANY (
            ARRAY['usage', 'deletion', 'settlement', 'ledger']::pg_catalog.text[]))
);

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

-- The numbers of the bound columns, by which they are known after a rename. Not for a dump: a restore gives columns
-- other numbers, and there the names in the binding count.
CREATE TABLE token_balance.bound_column (
    binding_id smallint NOT NULL,
    argument pg_catalog.name NOT NULL,
    position smallint NOT NULL,
    relation pg_catalog.oid NOT NULL,
    number smallint NOT NULL,
    told pg_catalog.name NOT NULL,
    PRIMARY KEY (binding_id, argument, position)
);

-- What a dump must carry: the rows of these tables. The sequences give no numbers any more; an older dump sets them.
SELECT pg_catalog.pg_extension_config_dump('token_balance.binding', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.settlement', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.ledger', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.reference', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.archived_reference', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.ledger_entry_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.workflow_alias', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.exemption', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.archived', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.account_move', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.queue', '');
SELECT pg_catalog.pg_extension_config_dump('token_balance.queue_charge_id_seq', '');
