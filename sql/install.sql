-- Attach to tables with the usual names, if they are there. The function is of use only here.
CREATE FUNCTION token_balance.attach_by_convention(schema_name pg_catalog.text) RETURNS void
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'attach_by_convention_wrapper';

SELECT token_balance.attach_by_convention('@extschema@');

DROP FUNCTION token_balance.attach_by_convention(pg_catalog.text);
