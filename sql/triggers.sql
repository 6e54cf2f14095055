-- Trigger functions. Nobody else may make a trigger with them: one on a table of an attacker's own
-- could credit its maker.

CREATE FUNCTION token_balance.settle_on_completion() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_on_completion_wrapper';

CREATE FUNCTION token_balance.follow_workflow_id() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'follow_workflow_id_wrapper';

CREATE FUNCTION token_balance.settle_late_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'settle_late_usage_wrapper';

CREATE FUNCTION token_balance.record_deleted_usage() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_deleted_usage_wrapper';

CREATE FUNCTION token_balance.record_balance_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'record_balance_change_wrapper';

CREATE FUNCTION token_balance.keep_balance() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'keep_balance_wrapper';

CREATE FUNCTION token_balance.warn_of_truncate() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'warn_of_truncate_wrapper';

CREATE FUNCTION token_balance.refuse_ledger_change() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_ledger_change_wrapper';

CREATE FUNCTION token_balance.refuse_foreign_write() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'refuse_foreign_write_wrapper';

-- Evaluated in the WHEN condition of the triggers, as whoever completes a run or writes usage: PUBLIC may.
CREATE FUNCTION token_balance.note_completion("table" pg_catalog.oid, "row" pg_catalog.tid)
RETURNS boolean
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'note_completion_wrapper';

CREATE FUNCTION token_balance.note_status(old pg_catalog.text, new pg_catalog.text, completed pg_catalog.text[],
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

-- In statements that read usage, as the table's owner: PUBLIC may. They read their argument alone.
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

REVOKE ALL ON FUNCTION
    token_balance.settle_on_completion(),
    token_balance.follow_workflow_id(),
    token_balance.settle_late_usage(),
    token_balance.record_deleted_usage(),
    token_balance.record_balance_change(),
    token_balance.keep_balance(),
    token_balance.warn_of_truncate(),
    token_balance.refuse_ledger_change(),
    token_balance.refuse_foreign_write()
FROM PUBLIC;

-- The ledger is append-only but for archive_ledger, also where triggers of an origin do not fire.
CREATE TRIGGER append_only_rows BEFORE UPDATE OR DELETE ON token_balance.ledger
FOR EACH ROW EXECUTE FUNCTION token_balance.refuse_ledger_change();

CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON token_balance.ledger
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_ledger_change();

ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER append_only_rows;
ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER append_only_truncate;

-- pg_write_all_data writes every table; these only their owner does.
CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.binding
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.settlement
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.ledger
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.reference
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.archived_reference
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.queue
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.workflow_alias
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.exemption
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.archived
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.account_move
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

CREATE TRIGGER owner_only BEFORE INSERT OR UPDATE OR DELETE ON token_balance.bound_column
FOR EACH STATEMENT EXECUTE FUNCTION token_balance.refuse_foreign_write();

ALTER TABLE token_balance.binding ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.settlement ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.reference ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.archived_reference ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.queue ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.workflow_alias ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.exemption ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.archived ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.account_move ENABLE ALWAYS TRIGGER owner_only;
ALTER TABLE token_balance.bound_column ENABLE ALWAYS TRIGGER owner_only;
