-- What the faults are made with, and the state that they must not change.
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE EXTENSION token_balance SCHEMA public;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE TG_ARGV[0]
        WHEN 'raise' THEN RAISE EXCEPTION 'a fault' USING ERRCODE = 'PT402';
        WHEN 'suppress' THEN RETURN NULL;
        WHEN 'cancel' THEN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(5);
        WHEN 'sleep' THEN PERFORM pg_sleep(5);
        WHEN 'divide' THEN PERFORM 1 / (SELECT count(*) FROM pg_class WHERE oid = 0);
        WHEN 'overflow' THEN PERFORM 2000000000 + x FROM (VALUES (2000000000)) AS v (x);
    END CASE;
    RETURN NEW;
END $$;
CREATE FUNCTION fault_of_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN IF tg_tag = current_setting('tb.fault', true) THEN RAISE EXCEPTION 'a fault' USING ERRCODE = 'PT402'; END IF; END $$;
CREATE EVENT TRIGGER fault ON ddl_command_start EXECUTE FUNCTION fault_of_ddl();
-- An index that orders by this is kept without an executor (src/postgres/direct): a fault in the middle of that.
CREATE FUNCTION fault_order(a bigint, b bigint) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    CASE current_setting('tb.in_index', true)
        WHEN 'raise' THEN RAISE EXCEPTION 'a fault' USING ERRCODE = 'PT402';
        WHEN 'divide' THEN PERFORM 1 / (SELECT count(*) FROM pg_class WHERE oid = 0);
        ELSE NULL;
    END CASE;
    RETURN btint8cmp(a, b);
END $$;
CREATE OPERATOR CLASS fault_ops FOR TYPE bigint USING btree
    AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 fault_order(bigint, bigint);
CREATE SCHEMA note;
-- All that the extension keeps or makes.
CREATE FUNCTION note.state() RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text; all_of text := ''; relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['users', 'token_usage', 'workflows', 'token_balance.settlement', 'token_balance.ledger', 'token_balance.binding'] LOOP
        EXECUTE format('SELECT md5(coalesce(string_agg(t::text, E''\n'' ORDER BY t::text), '''')) FROM %s AS t', relation) INTO found;
        all_of := all_of || found;
    END LOOP;
    RETURN md5(all_of || (SELECT string_agg(tgrelid || tgname || tgenabled::text, ',' ORDER BY tgrelid, tgname) FROM pg_trigger WHERE NOT tgisinternal)
        || (SELECT string_agg(attrelid || attname || attnotnull, ',' ORDER BY attrelid, attnum) FROM pg_attribute WHERE attrelid IN ('users'::regclass, 'token_usage'::regclass) AND attnum > 0 AND NOT attisdropped)
        || (SELECT string_agg(oid || proacl::text, ',' ORDER BY oid) FROM pg_proc WHERE proname = 'settle_workflow') || (SELECT count(*) FROM pg_index));
END $$;
