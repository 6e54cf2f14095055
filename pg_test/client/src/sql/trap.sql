-- A trap in the schema tb.trap: what SQL might name without a schema, with an error behind it that says as whom it ran.
DO $do$
DECLARE
    body CONSTANT text := 'BEGIN RAISE EXCEPTION USING ERRCODE = ''PTRAP'', MESSAGE = ''trapped as '' || current_user; END';
    trap CONSTANT text := current_setting('tb.trap');
    one record;
    types CONSTANT oid[] := ARRAY['text', 'name', '"char"', 'int2', 'int4', 'int8', 'numeric', 'float8', 'oid', 'uuid', 'bool',
        'timestamptz', 'timestamp', 'date', 'interval', 'jsonb', 'regclass', 'text[]']::regtype[]::oid[];
BEGIN
    FOR one IN SELECT oprname AS name, oprleft::regtype AS l, oprright::regtype AS r, oprresult::regtype AS result FROM pg_operator
        WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprleft = ANY (types) AND oprright = ANY (types)
          AND oprname IN ('=', '<>', '<', '>', '<=', '>=', '+', '-', '*', '/', '||', '~', '!~', '~~', '->', '->>', '#>>')
        UNION ALL SELECT o, l, r, 'boolean' FROM unnest('{=,<>,<,>}'::text[]) o,
            (VALUES ('varchar'::regtype, 'varchar'::regtype), ('varchar', 'text'), ('text', 'varchar')) v (l, r) LOOP
        EXECUTE format('CREATE FUNCTION %I.%I(%s, %s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', trap, 'op' || one.name, one.l, one.r, one.result, body);
        EXECUTE format('CREATE OPERATOR %I.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %I.%I)', trap, one.name, one.l, one.r, trap, 'op' || one.name);
    END LOOP;
    FOR one IN SELECT proname AS name, pg_get_function_identity_arguments(oid) AS arguments, pg_get_function_result(oid) AS result FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind IN ('f', 'a')
          AND proname IN ('sum', 'max', 'min', 'bool_or', 'lag', 'unnest', 'now', 'clock_timestamp', 'quote_ident', 'to_jsonb', 'array_to_json',
            'make_interval', 'has_table_privilege', 'has_schema_privilege', 'has_function_privilege', 'format_type', 'pg_get_expr', 'trunc',
            'pg_partition_tree', 'pg_partition_ancestors', 'setval', 'nextval', 'pg_extension_config_dump', 'extract', 'date_part', 'lower', 'length')
          AND NOT (0 = ANY (proargtypes)) AND pg_get_function_identity_arguments(oid) !~ '"any"|internal|anyelement|anycompat|record|OUT ' LOOP
        EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql SET search_path = pg_catalog AS %L', trap, one.name, one.arguments, one.result, body);
    END LOOP;
    EXECUTE format('CREATE FUNCTION %I.count() RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog AS %L', trap, body);
    FOR one IN SELECT unnest(ARRAY['text', 'name', 'uuid', 'int8', 'int4', 'int2', 'varchar', 'numeric', 'jsonb', 'regclass', 'regtype', 'oid', 'timestamptz', 'date', 'bool']) AS name LOOP
        EXECUTE format('CREATE DOMAIN %I.%I AS pg_catalog.%I CHECK (false)', trap, one.name, one.name);
    END LOOP;
    FOR one IN SELECT unnest(ARRAY['binding', 'ledger', 'settlement', 'pg_class', 'pg_attribute', 'pg_trigger', 'pg_namespace', 'pg_type', 'pg_proc', 'pg_extension']) AS name LOOP
        EXECUTE format('CREATE TABLE %I.%I (trapped pg_catalog.text)', trap, one.name);
    END LOOP;
    RAISE NOTICE 'names in the trap: %', (SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = trap::regnamespace);
END $do$;
