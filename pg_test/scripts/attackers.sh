#!/usr/bin/env bash
# Attackers: names taken beforehand, code on the tables by their owner, hostile search paths, roles with every
# privilege but ownership. Each check says what is denied, or what runs as whom.
# shellcheck disable=SC2016 # dollars of SQL
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PG_VERSION:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_attackers
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
drop_database() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; }
clean() {
    drop_database
    psql -d "$maintenance" -c 'DROP ROLE IF EXISTS tb_eve, tb_att_app, tb_mallory, tb_all, tb_writer' 2>/dev/null
}
checks=0
failed=0
is() { # WHAT GOT EXPECTED
    checks=$((checks + 1))
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
# as ROLE STATEMENT…: what a connection of that role gets; the SQLSTATE for an error
as() {
    local role=$1 arguments=()
    shift
    for statement in "$@"; do arguments+=(-c "$statement"); done
    psql -At -d "$db" -U "$role" -v VERBOSITY=sqlstate "${arguments[@]}" 2>&1 | sed -n '/^NOTICE/d; s/^ERROR: *//; $p' || true
}
me=$(psql -At -d "$maintenance" -c 'SELECT current_user')
boss() { as "$me" "$@"; }
new_database() {
    drop_database
    psql -d "$maintenance" -c "CREATE DATABASE $db"
    psql -d "$db" -c 'GRANT CREATE, USAGE ON SCHEMA public TO tb_eve, tb_mallory'
}
clean
trap clean EXIT
psql -d "$maintenance" -c 'CREATE ROLE tb_eve LOGIN' -c 'CREATE ROLE tb_att_app LOGIN' \
    -c 'CREATE ROLE tb_mallory LOGIN' -c 'CREATE ROLE tb_all LOGIN' -c 'CREATE ROLE tb_writer LOGIN IN ROLE pg_write_all_data'

# A trap: what SQL might name without a schema, with an error behind it that says as whom it ran.
cat >"$WORK/trap.sql" <<'SQL'
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
SQL
make_trap() { # SCHEMA ROLE
    PGOPTIONS="-c tb.trap=$1" psql -d "$db" -U "$2" -f "$WORK/trap.sql" 2>&1 | sed -n 's/.*NOTICE: *//p'
}

echo '# names that are taken before CREATE EXTENSION'
left_over="SELECT count(*) FROM pg_extension WHERE extname = 'token_balance'"
new_database
as tb_mallory "CREATE FUNCTION public.settle_workflow(text) RETURNS jsonb LANGUAGE plpgsql AS 'BEGIN RAISE ''caught''; END'" >/dev/null
is 'settle_workflow(text) in public: refused' "$(boss 'CREATE EXTENSION token_balance SCHEMA public')" 42723
is '… and nothing is left' "$(value "$left_over")$(value "SELECT count(*) FROM pg_namespace WHERE nspname = 'token_balance'")" 00
value 'DROP FUNCTION public.settle_workflow(text)'
psql -d "$db" -c 'CREATE SCHEMA token_balance AUTHORIZATION tb_mallory'
is 'a squatted schema token_balance: refused' "$(boss 'CREATE EXTENSION token_balance SCHEMA public')" 42P06
as tb_mallory 'CREATE TABLE token_balance.ledger (x text)' 'CREATE TABLE token_balance.binding (x text)' >/dev/null
is '… with tables in it: refused' "$(boss 'CREATE EXTENSION token_balance SCHEMA public')" 42P06
is '… and nothing is left' "$(value "$left_over")$(value "SELECT count(*) FROM pg_proc WHERE proname = 'settle_workflow'")" 00
psql -d "$db" -c 'DROP SCHEMA token_balance CASCADE' 2>/dev/null
psql -d "$db" -U tb_eve <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'); INSERT INTO token_usage VALUES ('w0', 'ann', 5);
SQL
make_trap public tb_mallory
is 'operators, functions, types and tables in public: harmless' "$(boss 'CREATE EXTENSION token_balance SCHEMA public' 'SELECT count(*) FROM token_balance.binding')" 1
is '… to settling too' "$(psql -At -d "$db" -c 'SET search_path = public, pg_catalog' -c "INSERT INTO token_usage VALUES ('w1', 'ann', 7)" \
    -c "INSERT INTO workflows VALUES ('w1', 'ann', 'completed')" -c 'SELECT token_balance FROM users' 2>&1)" 999993

echo '# code on the tables by their owner, who is no superuser'
new_database
psql -d "$db" -c 'CREATE SCHEMA app AUTHORIZATION tb_eve' -c 'GRANT USAGE ON SCHEMA app TO tb_att_app'
psql -d "$db" -U tb_eve <<'SQL'
CREATE TABLE app.seen (what text, who text);
GRANT INSERT ON app.seen TO PUBLIC;
CREATE FUNCTION app.try(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE me name := current_user;
BEGIN
    INSERT INTO app.seen VALUES (what, current_user);
    FOR i IN 1..5 LOOP
        BEGIN
            IF i = 1 THEN ALTER ROLE tb_eve SUPERUSER;
            ELSIF i = 2 THEN RESET ROLE;
            ELSIF i = 3 THEN RESET SESSION AUTHORIZATION;
            ELSIF i = 4 THEN EXECUTE format('SET ROLE %I', session_user);
            ELSE UPDATE token_balance.settlement SET usage_tokens = 0;
            END IF;
            IF i IN (1, 5) OR current_user <> me THEN
                INSERT INTO app.seen VALUES (what || ' could do ' || i, current_user);
            END IF;
        EXCEPTION WHEN OTHERS THEN NULL;
        END;
    END LOOP;
END $$;
-- Immutable by name only: what it calls may write.
CREATE FUNCTION app.spy(what text, x integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(what); RETURN x; END $$;
CREATE FUNCTION app.spy(what text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(what); RETURN true; END $$;
CREATE FUNCTION app.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM app.try(TG_ARGV[0]); RETURN NEW; END $$;
CREATE TYPE app.status AS ENUM ('running', 'completed');
CREATE FUNCTION app.status_text(app.status) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM app.try('cast'); RETURN enum_out($1); END $$;
CREATE CAST (app.status AS text) WITH FUNCTION app.status_text(app.status);
CREATE DOMAIN app.tokens AS integer CHECK (app.spy('domain'));
CREATE TABLE app.users (id text PRIMARY KEY, token_balance app.tokens DEFAULT app.spy('default of users', 1000),
    watched integer GENERATED ALWAYS AS (app.spy('generated', token_balance)) STORED, CHECK (app.spy('check')));
CREATE TABLE app.token_usage (workflow_id text, user_id text, total_tokens integer, model text, created_at timestamptz DEFAULT now());
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status app.status, token integer DEFAULT app.spy('default of workflows', 1));
CREATE INDEX ON app.users (app.spy('index', token_balance));
CREATE INDEX ON app.users (id) WHERE app.spy('partial index', token_balance) > 0;
CREATE INDEX ON app.token_usage (app.spy('index of usage', total_tokens));
CREATE TRIGGER a_before BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.on_row('before trigger');
CREATE TRIGGER z_after AFTER UPDATE ON app.users FOR EACH ROW WHEN (app.spy('when')) EXECUTE FUNCTION app.on_row('after trigger');
CREATE TRIGGER z_statement AFTER UPDATE ON app.users EXECUTE FUNCTION app.on_row('statement trigger');
CREATE TRIGGER z_workflow BEFORE UPDATE ON app.workflows FOR EACH ROW EXECUTE FUNCTION app.on_row('workflow trigger');
CREATE RULE watch AS ON UPDATE TO app.users DO ALSO SELECT app.spy('rule');
INSERT INTO app.users (id) VALUES ('ann'), ('bob');
INSERT INTO app.users (id, token_balance) VALUES ('cat', NULL);
INSERT INTO app.token_usage VALUES ('w0', 'ann', 5);
INSERT INTO app.workflows VALUES ('w0', 'ann', 'completed');
CREATE POLICY watch ON app.users USING (app.spy('policy on users'));
CREATE POLICY watch ON app.token_usage USING (app.spy('policy on usage'));
CREATE POLICY watch ON app.workflows USING (app.spy('policy on workflows'));
GRANT SELECT, INSERT, UPDATE ON app.token_usage, app.workflows TO tb_att_app;
DELETE FROM app.seen;
SQL
whose='SELECT coalesce(string_agg(DISTINCT who, $$,$$ ORDER BY who), $$nobody$$) FROM app.seen'
fired=
ran() { # WHAT EXPECTED: as whom her code ran since the last time
    is "$1: her code ran only as" "$(value "$whose")" "$2"
    fired+=$(value 'SELECT DISTINCT what FROM app.seen')$'\n'
    value 'DELETE FROM app.seen'
}
is 'CREATE EXTENSION attaches' "$(boss 'CREATE EXTENSION token_balance SCHEMA app' 'SELECT count(*) FROM token_balance.binding')" 1
ran 'CREATE EXTENSION as superuser' tb_eve
is 'detach and attach' "$(boss 'SELECT token_balance.detach()' "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', create_index => true) IS NOT NULL")" t
if [ "$PG_VERSION" -ge 18 ]; then # before, the server forgets who queued it (see the README)
    as tb_eve "CREATE CONSTRAINT TRIGGER z_deferred AFTER UPDATE ON app.users DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.on_row('deferred trigger')" >/dev/null
fi
psql -d "$db" <<'SQL'
GRANT USAGE ON SCHEMA token_balance TO tb_att_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, app TO tb_att_app;
GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO tb_att_app;
SQL
calls=("SELECT app.settle_workflow('w1') ->> 'tokens_used'" 'SELECT sum(charged_tokens) FROM token_balance.settle_workflows($${w2}$$)'
    "SELECT token_balance.settle_pending(since => '2020-01-01') ->> 'tokens_used'" 'CALL token_balance.settle_backlog()'
    "SELECT token_balance.credit('ann', 5) ->> 'amount'" "SELECT token_balance.refund_workflow('w1', 1) ->> 'amount'"
    "SELECT token_balance.summary('ann') #>> '{summary,record_count}'" "SELECT token_balance.balance('ann') ->> 'is_overdraft'"
    "SELECT count(*) > 0 FROM token_balance.statement('ann')" "SELECT token_balance.balance_at('ann', now()) > 0"
    'SELECT count(*) FROM token_balance.overdrawn_accounts()' 'SELECT count(*) FROM token_balance.reconcile()')
# The app's own statements run her triggers as the app, by the server's rule; the superuser only calls functions.
prepare_usage() {
    as tb_eve "INSERT INTO app.token_usage VALUES ('w1', 'ann', 10), ('w2', 'bob', 20), ('w0', 'ann', 4)" \
        "INSERT INTO app.workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'running') ON CONFLICT DO NOTHING" 'DELETE FROM app.seen' >/dev/null
}
answers=(10 20 4 '' 5 1 3 false t t 0 0)
for force in '' NO; do
    if [ -z "$force" ]; then kind='no policies'; else kind='policies forced'; fi
    if [ -n "$force" ]; then
        as tb_eve 'ALTER TABLE app.users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY' 'ALTER TABLE app.token_usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY' \
            'ALTER TABLE app.workflows ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY' >/dev/null
        answers=(10 20 4 '' 5 1 5 false t t 0 0)
    fi
    prepare_usage
    for n in "${!calls[@]}"; do is "$kind, superuser: ${calls[$n]}" "$(boss "${calls[$n]}")" "${answers[$n]}"; done
    is "$kind, superuser: verify" "$(boss 'SELECT count(*) > 5 FROM token_balance.verify()')" t
    ran "$kind, all functions as superuser" tb_eve
done
prepare_usage
answers=(10 20 4 '' 5 1 7 false t t 0 0)
for n in "${!calls[@]}"; do is "app: ${calls[$n]}" "$(as tb_att_app "${calls[$n]}")" "${answers[$n]}"; done
ran 'all functions as the app' tb_eve
is 'the app completes runs' "$(as tb_att_app "INSERT INTO app.token_usage VALUES ('w1', 'ann', 1)" "UPDATE app.workflows SET status = 'completed' RETURNING 1" 'SELECT current_user')" tb_att_app
ran 'a completion by the app' tb_att_app,tb_eve
is 'the superuser detaches and attaches' "$(boss 'SELECT token_balance.detach(drop_column => false)' "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows') IS NOT NULL")" t
ran 'detach and attach as superuser' nobody
is 'she is no superuser' "$(value "SELECT rolsuper FROM pg_roles WHERE rolname = 'tb_eve'")" f
is 'nothing of what she tried worked' "$(grep -c 'could do' <<<"$fired")" 0
for what in domain generated check index 'partial index' 'before trigger' 'after trigger' when 'statement trigger' rule cast 'workflow trigger'; do
    is "it did run: $what" "$(grep -cx "$what" <<<"$fired" | sed 's/^[1-9].*/yes/')" yes
done
is 'the column and the ledger agree' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
echo "her code ran at: $(sort -u <<<"$fired" | paste -sd, | sed 's/^,//')"

echo "# names that the owner's code does not qualify, planted by a role that may only complete runs"
new_database
psql -d "$db" -c 'CREATE SCHEMA app AUTHORIZATION tb_eve' -c 'GRANT USAGE ON SCHEMA app TO tb_mallory' \
    -c 'CREATE SCHEMA open' -c 'GRANT CREATE, USAGE ON SCHEMA open TO PUBLIC'
psql -d "$db" -U tb_eve <<'SQL'
SET search_path = app;
CREATE TABLE journal (what text);
CREATE TABLE notes (what text);
CREATE DOMAIN tag AS text;
CREATE TYPE kind AS ENUM ('a');
CREATE FUNCTION helper(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
CREATE FUNCTION same(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = same);
-- Everything that it names is found by the search_path.
CREATE FUNCTION probe(text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    tagged tag := $1;
BEGIN
    PERFORM helper($1), $1 === $1, $1::tag, 'a'::kind::text, count(what) FROM notes;
    INSERT INTO journal VALUES ($1);
    RETURN true;
END $$;
-- Immutable by name only: what it calls may write.
CREATE FUNCTION seen(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe($1); RETURN true; END';
CREATE FUNCTION seen(text, integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe($1); RETURN $2; END';
CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM app.probe(TG_ARGV[0]); RETURN new; END';
CREATE TYPE status AS ENUM ('running', 'completed');
CREATE FUNCTION status_text(status) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM app.probe('cast'); RETURN enum_out($1); END $$;
CREATE CAST (status AS text) WITH FUNCTION status_text(status);
CREATE DOMAIN tokens AS integer CHECK (app.seen('domain'));
CREATE TABLE users (id text PRIMARY KEY, token_balance tokens DEFAULT 1000);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status status);
-- Before there are rows: the server itself runs such code with a path of its own while it builds an index.
ALTER TABLE users ADD CHECK (app.seen('check')), ADD watched integer GENERATED ALWAYS AS (app.seen('generated', token_balance)) STORED;
CREATE INDEX ON users (app.seen('index', token_balance));
CREATE INDEX ON users (id) WHERE app.seen('partial index', token_balance) > 0;
CREATE TRIGGER before_row BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION on_row('before trigger');
CREATE TRIGGER after_row AFTER UPDATE ON users FOR EACH ROW WHEN (app.seen('when')) EXECUTE FUNCTION on_row('after trigger');
CREATE TRIGGER after_all AFTER UPDATE ON users EXECUTE FUNCTION on_row('statement trigger');
CREATE RULE watch AS ON UPDATE TO users DO ALSO SELECT app.seen('rule');
CREATE POLICY watch ON users USING (app.seen('policy'));
ALTER TABLE users ENABLE ROW LEVEL SECURITY;
INSERT INTO users VALUES ('ann'), ('bob');
GRANT SELECT, INSERT, UPDATE ON token_usage, workflows TO tb_mallory;
-- One secret for each kind of plant.
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['trigger', 'default', 'generated', 'check', 'policy', 'rule', 'view', 'domain', 'cast', 'function', 'operator'] LOOP
        EXECUTE format('CREATE TABLE app.secret_%s (x text)', kind);
    END LOOP;
END $$;
SQL
psql -d "$db" -c 'SET search_path = open, app' -c 'CREATE EXTENSION token_balance SCHEMA public' 2>/dev/null
psql -d "$db" -c 'SET search_path = open, app' -c "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows')" \
    -c 'GRANT USAGE ON SCHEMA token_balance TO tb_mallory' -c 'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA token_balance, public TO tb_mallory' \
    -c 'GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA token_balance TO tb_mallory' >/dev/null
is 'attach leaves out where others may create' "$(value 'SELECT search_path FROM token_balance.binding')" '{app}'
# What she puts where @ stands, under every name that the owner's code uses.
cat >"$WORK/plants.sql" <<'SQL'
CREATE FUNCTION @.steal(kind text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'tb_mallory' THEN
        EXECUTE format('GRANT SELECT ON app.secret_%s TO tb_mallory', kind);
    END IF;
    RETURN true;
END $$;
CREATE FUNCTION @.stolen(kind text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM @.steal(kind); RETURN true; END';
CREATE FUNCTION @.stolen_text(kind text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM @.steal(kind); RETURN kind; END';
CREATE FUNCTION @.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('trigger'); RETURN new; END $$;
CREATE TABLE @.journal (what text CHECK (@.stolen('check')), a boolean DEFAULT @.stolen('default'),
    b boolean GENERATED ALWAYS AS (@.stolen('generated' || left(what, 0))) STORED);
CREATE TRIGGER t BEFORE INSERT ON @.journal FOR EACH ROW EXECUTE FUNCTION @.on_row();
CREATE RULE r AS ON INSERT TO @.journal DO ALSO SELECT @.stolen('rule');
ALTER TABLE @.journal ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON @.journal USING (true) WITH CHECK (@.stolen('policy'));
CREATE VIEW @.notes AS SELECT @.stolen('view') AS what;
GRANT ALL ON @.journal, @.notes TO PUBLIC;
CREATE DOMAIN @.tag AS text CHECK (@.stolen('domain'));
CREATE TYPE @.kind AS ENUM ('a');
CREATE FUNCTION @.kind_text(@.kind) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('cast'); RETURN 'a'; END $$;
CREATE CAST (@.kind AS text) WITH FUNCTION @.kind_text(@.kind);
CREATE FUNCTION @.helper(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('function'); RETURN $1; END $$;
CREATE FUNCTION @.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM @.steal('operator'); RETURN true; END $$;
CREATE OPERATOR @.=== (LEFTARG = text, RIGHTARG = text, FUNCTION = @.same);
SQL
sed 's/@/open/g' "$WORK/plants.sql" >"$WORK/open.sql"
sed 's/@/pg_temp/g' "$WORK/plants.sql" >"$WORK/temporary.sql"
psql -d "$db" -U tb_mallory -f "$WORK/open.sql"
got_secrets="SELECT coalesce(string_agg(substr(relname, 8), ',' ORDER BY relname), 'none') FROM pg_class WHERE relname ~ '^secret_' AND has_table_privilege('tb_mallory', oid, 'SELECT')"
stolen() { # WHAT EXPECTED: which plants were run with the owner's rights
    is "$1: plants that ran as the owner" "$(value "$got_secrets")" "$2"
    value "DO \$\$ DECLARE t regclass; BEGIN FOR t IN SELECT oid FROM pg_class WHERE relname ~ '^secret_' LOOP EXECUTE 'REVOKE ALL ON ' || t || ' FROM tb_mallory'; END LOOP; END \$\$"
}
# in_her_session SEARCH_PATH STATEMENT…: with all plants in her temporary schema
in_her_session() {
    local path=$1 arguments=()
    shift
    for statement in "$@"; do arguments+=(-c "$statement"); done
    psql -At -d "$db" -U tb_mallory -f "$WORK/temporary.sql" -c "SET search_path = $path" "${arguments[@]}" 2>&1
}
# The plants do work where such code runs with a path that reaches them: the test could fail.
as tb_eve 'SET search_path = open, app' "SELECT probe('control')" >/dev/null
stolen 'control, in a schema' cast,check,default,domain,function,generated,operator,policy,rule,trigger,view
as tb_eve "CREATE FUNCTION app.control() RETURNS boolean SECURITY DEFINER LANGUAGE plpgsql AS \$\$BEGIN RETURN app.probe('control'); END \$\$" >/dev/null
in_her_session app 'SELECT app.control()' >/dev/null
stolen 'control, in her temporary schema' cast,check,default,domain,generated,policy,rule,trigger,view
calls=("UPDATE app.workflows SET status = 'completed' WHERE id = 'w1'" "SELECT public.settle_workflow('w1')" 'SELECT FROM token_balance.settle_workflows($${w1,w2}$$)'
    'SELECT token_balance.settle_pending()' 'CALL token_balance.settle_backlog()' "SELECT token_balance.credit('ann', 5)"
    "SELECT token_balance.refund_workflow('w1', 1)" "SELECT token_balance.summary('ann')" "SELECT token_balance.balance('ann')"
    'SELECT FROM token_balance.overdrawn_accounts()' 'SELECT FROM token_balance.reconcile()')
charged=(1 1 2 1 1 1 1 0 0 0 0) # accounts
fired=
for path in app 'open, app' 'pg_temp, open, app' 'pg_temp, open, app, pg_catalog'; do
    for n in "${!calls[@]}"; do
        is "path $path: usage of two runs" "$(as tb_eve 'SET search_path = app' "INSERT INTO token_usage VALUES ('w1', 'ann', 1), ('w2', 'bob', 1)" \
            "INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'completed') ON CONFLICT (id) DO NOTHING" \
            "UPDATE workflows SET status = 'running' WHERE id = 'w1' RETURNING 1" 'TRUNCATE journal')" 1
        is "path $path: ${calls[$n]}: no error" "$(in_her_session "$path" "${calls[$n]}" | grep ERROR)" ''
        is "path $path: ${calls[$n]}: accounts that were changed" "$(value "SELECT count(*) FROM app.journal WHERE what = 'after trigger'")" "${charged[$n]}"
        stolen "path $path: ${calls[$n]}" none
        fired+=$(value 'SELECT DISTINCT what FROM app.journal')$'\n'
    done
done
is "the owner's code found what is his" "$(sort -u <<<"$fired" | paste -sd, | sed 's/^,//')" \
    'after trigger,before trigger,cast,check,domain,generated,index,partial index,rule,statement trigger,when'
# Whoever attaches runs the owner's code as well, to fill balances that are NULL.
is 'balances are NULL' "$(as tb_eve 'SET search_path = app' 'ALTER TABLE users ALTER token_balance DROP NOT NULL, DISABLE TRIGGER USER' \
    'UPDATE users SET token_balance = NULL' 'ALTER TABLE users ENABLE TRIGGER USER' 'TRUNCATE journal' 'SELECT count(token_balance) FROM users')" 0
boss 'SELECT token_balance.detach()' 'SET search_path = open, app' \
    "SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', create_index => true)" >/dev/null
stolen 'attach as superuser' none
is "… and the owner's code found what is his" "$(value "SELECT count(*) > 0 FROM app.journal WHERE what = 'before trigger'")" t
is 'the column and the ledger agree' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0

echo '# a rule that makes a bound table a view'
if [ "$PG_VERSION" -le 15 ]; then
    new_database
    psql -d "$db" -U tb_eve <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
INSERT INTO users VALUES ('ann');
CREATE FUNCTION evil() RETURNS text LANGUAGE plpgsql AS $$BEGIN ALTER ROLE tb_eve SUPERUSER; RETURN 'w1'; END $$;
SQL
    psql -d "$db" -c 'CREATE EXTENSION token_balance SCHEMA public' -c "SELECT token_balance.attach('users', 'token_usage')" >/dev/null 2>&1
    is 'settling works before' "$(boss "SELECT token_balance.balance('ann') ->> 'token_balance'")" 1000000
    is 'usage becomes a view' "$(as tb_eve 'CREATE RULE "_RETURN" AS ON SELECT TO token_usage DO INSTEAD SELECT evil() AS workflow_id, $$ann$$::text AS user_id, 1 AS total_tokens' \
        "SELECT relkind FROM pg_class WHERE relname = 'token_usage'")" v
    for call in "SELECT settle_workflow('w1')" "SELECT token_balance.summary('ann')" 'SELECT token_balance.settle_pending()'; do
        is "a view: $call" "$(boss "$call")" 42809
    done
    is 'she is no superuser' "$(value "SELECT rolsuper FROM pg_roles WHERE rolname = 'tb_eve'")" f
else
    echo "PostgreSQL $PG_VERSION makes no view of a table"
fi

echo '# trigger functions on a foreign table'
new_database
psql -d "$db" -U tb_eve <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
SQL
psql -d "$db" -c 'CREATE EXTENSION token_balance SCHEMA public' 2>/dev/null
psql -d "$db" 2>/dev/null <<'SQL'
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
GRANT USAGE ON FOREIGN SERVER nowhere TO tb_mallory;
GRANT USAGE ON SCHEMA token_balance TO tb_mallory;
SET ROLE tb_mallory;
CREATE FOREIGN TABLE users_f (id text, token_balance integer, status text) SERVER nowhere;
CREATE TABLE users_m (id text, token_balance integer, status text);
SQL
for table in users_f users_m; do
    for function in record_balance_change settle_on_completion refuse_ledger_change; do
        is "$table: no trigger with $function" "$(as tb_mallory "CREATE TRIGGER x AFTER INSERT OR UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION token_balance.$function()")" 42501
    done
done
is 'a foreign table is not attached' "$(boss "SELECT token_balance.detach()" "SELECT token_balance.attach('users_f', 'token_usage')")" 42809
psql -d "$db" -c "SELECT token_balance.attach('users', 'token_usage', 'workflows')" >/dev/null
if psql -d "$db" -c 'CREATE EXTENSION postgres_fdw' 2>/dev/null; then
    psql -d "$db" -v port="${PGPORT:-5432}" -v host="${PGHOST:-/tmp}" -v db="$db" -v me="$me" 2>/dev/null <<'SQL'
CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host :'host', port :'port', dbname :'db');
CREATE USER MAPPING FOR CURRENT_USER SERVER loop OPTIONS (user :'me');
CREATE FOREIGN TABLE loop_users (id text, token_balance integer, status text) SERVER loop OPTIONS (table_name 'users_m');
SQL
    for function in record_balance_change settle_on_completion refuse_ledger_change; do
        is "a foreign table, even by a superuser: $function" "$(boss "CREATE TRIGGER x AFTER INSERT ON loop_users FOR EACH ROW EXECUTE FUNCTION token_balance.$function()" \
            "INSERT INTO loop_users VALUES ('ann', 9, 'completed')")" 42809
        boss 'DROP TRIGGER x ON loop_users' >/dev/null
    done
else
    echo 'no postgres_fdw here: a foreign table that takes rows is not tried'
fi
is 'nobody was credited' "$(value 'SELECT string_agg(token_balance::text, $$,$$) FROM users')" 1000000,1000000

echo '# every table privilege except ownership'
psql -d "$db" -c 'GRANT ALL ON users, token_usage, workflows TO tb_all' -c 'GRANT USAGE ON SCHEMA token_balance TO tb_all' \
    -c 'GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach TO tb_all' \
    -c "INSERT INTO token_usage VALUES ('w1', 'ann', 10)" -c "INSERT INTO workflows VALUES ('w1', 'ann', 'completed')"
for denied in 'SELECT token_balance.detach()' "SELECT token_balance.attach('users', 'token_usage', 'workflows')" \
    'ALTER TABLE users DISABLE TRIGGER USER' 'DROP TRIGGER "00_token_balance_ledger" ON users' 'ALTER TABLE users DROP COLUMN token_balance' \
    'ALTER TABLE token_usage ADD x integer' "SET session_replication_role = 'replica'" \
    "INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance, actor) VALUES ('ann', 'credit', 1, 1, 2, 'x')" \
    'UPDATE token_balance.settlement SET usage_tokens = 0' 'DELETE FROM token_balance.binding' 'SELECT count(*) FROM token_balance.ledger' \
    "SELECT setval('token_balance.ledger_entry_id_seq', 1)" "SELECT settle_workflow('w1')" 'ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL'; do
    is "denied: $denied" "$(as tb_all "$denied")" 42501
done
as tb_all "UPDATE users SET token_balance = 5 WHERE id = 'bob'" >/dev/null
is 'a balance that it writes is in the ledger, with its name' "$(value "SELECT kind || ' ' || amount || ' ' || actor FROM token_balance.ledger WHERE user_id = 'bob'")" 'adjustment -999995 tb_all'
as tb_all 'TRUNCATE token_usage' >/dev/null
is 'usage that it truncates: reconcile() shows it' "$(value 'SELECT string_agg(problem, $$,$$) FROM token_balance.reconcile()')" 'usage shrank'
psql -d "$db" -c "INSERT INTO token_usage VALUES ('w1', 'ann', 10)" -c 'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON token_balance.ledger TO tb_all'
for change in 'UPDATE token_balance.ledger SET amount = 0' 'DELETE FROM token_balance.ledger'; do
    is "only the owner writes the ledger: $change" "$(as tb_all "$change")" 42501
    is "and he may only append: $change" "$(boss "$change")" 55000
done
for who in tb_all "$me"; do is "TRUNCATE token_balance.ledger by $who" "$(as "$who" 'TRUNCATE token_balance.ledger')" 55000; done
psql -d "$db" -c 'REVOKE ALL ON token_balance.ledger FROM tb_all'

echo '# pg_write_all_data'
is 'healthy before' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
for denied in "INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance, actor) VALUES ('ann', 'credit', 1, 1, 2, 'x')" \
    'UPDATE token_balance.ledger SET amount = 0' 'DELETE FROM token_balance.ledger' 'TRUNCATE token_balance.ledger' \
    "INSERT INTO token_balance.settlement (workflow_id, user_id, usage_tokens) VALUES ('w9', 'ann', 9)" \
    'UPDATE token_balance.settlement SET usage_tokens = 0' 'DELETE FROM token_balance.settlement' \
    "UPDATE token_balance.binding SET usage_workflow = 'user_id'" 'DELETE FROM token_balance.binding' \
    'ALTER TABLE token_balance.ledger DISABLE TRIGGER ALL' 'SELECT token_balance.detach()' "SELECT settle_workflow('w1')" \
    "SELECT token_balance.credit('ann', 1)" 'SELECT user_id FROM token_balance.ledger' 'DROP TABLE token_balance.ledger'; do
    is "denied: $denied" "$(as tb_writer "$denied")" 42501
done
as tb_writer 'UPDATE users SET token_balance = 4' >/dev/null
is 'a balance that it writes is in the ledger, with its name' "$(value "SELECT actor FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id DESC LIMIT 1")" tb_writer
value 'UPDATE users SET token_balance = 1000000'
# A sequence knows no triggers: the server lets that role set it.
as tb_writer "SELECT setval('token_balance.ledger_entry_id_seq', 1, false)" >/dev/null
is 'the next entry id set back: reconcile() shows it' "$(value "SELECT count(*) FROM token_balance.reconcile() AS r WHERE r.problem LIKE 'ledger sequence%'")" 1
value "$(value "SELECT hint FROM token_balance.verify() WHERE name = 'ledger sequence'")" >/dev/null
is 'its hint repairs it' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
psql -d "$db" -c "UPDATE users SET token_balance = CASE id WHEN 'ann' THEN 999990 ELSE 5 END"

echo '# a hostile search path, for every function'
psql -d "$db" -c 'CREATE SCHEMA trap AUTHORIZATION tb_mallory' -c 'GRANT USAGE ON SCHEMA trap TO PUBLIC'
make_trap trap tb_mallory
called=" archive_ledger attach balance balance_at credit detach note_completion note_status overdrawn_accounts reconcile refund_workflow settle_backlog settle_pending settle_workflow settle_workflows statement summary verify "
not_called=$(value "SELECT string_agg(DISTINCT p.proname::text, ' ' ORDER BY p.proname::text) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'token_balance' \
    JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass WHERE d.deptype = 'e' AND p.prorettype <> 'trigger'::regtype \
    AND position(' ' || p.proname || ' ' in '$called') = 0")
is 'no function was left out' "$not_called" ''
trapped() { # STATEMENT EXPECTED
    local got
    got=$(psql -At -d "$db" -c 'SET search_path = trap, pg_catalog, public' -c "$1" 2>"$WORK/trapped.err") || got+=$(grep -h ERROR "$WORK/trapped.err")
    is "trap, pg_catalog: $1" "$got" "$2"
}
psql -d "$db" -c "INSERT INTO token_usage VALUES ('w1', 'ann', 4), ('w2', 'ann', 5), ('w3', 'bob', 6), ('7', 'bob', 7)"
trapped "SELECT public.settle_workflow('w1'::pg_catalog.text) IS NULL" f
trapped "SELECT public.settle_workflow(7::bigint) IS NULL" f
trapped "SELECT w.charged_tokens FROM token_balance.settle_workflows('{w2}') AS w" 5
trapped "INSERT INTO public.workflows VALUES ('w3', 'bob', 'completed') RETURNING 1" 1
trapped "INSERT INTO public.token_usage VALUES ('w3', 'bob', 1) RETURNING 1" 1
trapped 'SELECT token_balance.settle_pending()' '{"more": false, "charges": 1, "workflows": 1, "tokens_used": 1}'
trapped "INSERT INTO public.token_usage VALUES ('w3', 'bob', 2) RETURNING 1" 1
trapped "SELECT token_balance.settle_pending(since => '2020-01-01')" '{"more": false, "charges": 1, "workflows": 1, "tokens_used": 2}'
trapped 'CALL token_balance.settle_backlog()' ''
trapped 'CALL token_balance.settle_backlog(existing => true)' ''
trapped "SELECT token_balance.balance('ann')" '{"is_overdraft": false, "token_balance": 999981}'
trapped "SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL" f
trapped "SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL" f
trapped "SELECT token_balance.refund_workflow('w1', 2, 'q') IS NULL" f
trapped "SELECT token_balance.refund_workflow('w1') IS NULL" f
trapped "SELECT token_balance.balance_at('ann', '2100-01-01')" 1000004
trapped "SELECT token_balance.balance_at('ann', '2000-01-01')" 1000000
trapped "SELECT s.amount FROM token_balance.statement('ann', '2000-01-01', '2100-01-01') AS s LIMIT 1" -10
trapped "SELECT token_balance.summary('ann') IS NULL" f
trapped 'SELECT o.user_id FROM token_balance.overdrawn_accounts() AS o' bob
trapped 'SELECT o.user_id FROM token_balance.overdrawn AS o' bob
psql -d "$db" -c 'CREATE TABLE public.vault (LIKE token_balance.ledger)'
trapped "SELECT token_balance.archive_ledger(pg_catalog.clock_timestamp(), 'public.vault'::pg_catalog.regclass) IS NULL" f
is 'entries were archived' "$(value 'SELECT count(*) > 5 FROM vault')" t
trapped "SELECT token_balance.credit('ann', 9, 'r', 'n') IS NULL" f
trapped "SELECT s.kind FROM token_balance.statement('ann') AS s" opening
trapped 'SELECT r.problem FROM token_balance.reconcile() AS r' ''
trapped 'SELECT v.name FROM token_balance.verify() AS v LIMIT 1' binding
trapped "UPDATE public.users SET token_balance = 77 RETURNING 1" $'1\n1'
trapped "UPDATE public.users SET id = pg_catalog.concat('x', id) RETURNING 1" $'1\n1'
trapped "SELECT token_balance.note_completion(w.tableoid, w.ctid) FROM public.workflows AS w LIMIT 1" t
trapped "SELECT token_balance.note_status('x'::pg_catalog.text, w.status, '{completed}'::pg_catalog.text[], w.tableoid, w.ctid) FROM public.workflows AS w WHERE w.id OPERATOR(pg_catalog.=) 'w3' LIMIT 1" t
trapped "SELECT token_balance.attach('public.users'::pg_catalog.regclass, 'public.token_usage'::pg_catalog.regclass, 'public.workflows'::pg_catalog.regclass, busy_account => 'queue', late_usage => 'settle')" ''
psql -d "$db" -c "INSERT INTO users (id) VALUES ('cid')"
trapped "INSERT INTO public.token_usage VALUES ('w3', 'cid', 3) RETURNING 1" 1
# a charge that waits, since a serializable transaction made it
psql -d "$db" -c "INSERT INTO token_usage VALUES ('w9', 'cid', 4)"
trapped "BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO public.workflows VALUES ('w9', 'cid', 'completed'); COMMIT; SELECT q.tokens FROM token_balance.queue AS q" 4
trapped "SELECT token_balance.balance('cid')" '{"is_overdraft": false, "token_balance": 999993}'
trapped "SELECT token_balance.balance_at('cid', '2100-01-01')" 999993
trapped "SELECT s.amount FROM token_balance.statement('cid', '2000-01-01', '2100-01-01') AS s" $'-3\n-4'
trapped "SELECT token_balance.summary('cid') IS NULL" f
trapped 'SELECT o.user_id FROM token_balance.overdrawn AS o' ''
trapped "SELECT r.problem FROM token_balance.reconcile() AS r WHERE r.user_id OPERATOR(pg_catalog.=) 'cid'" ''
trapped "UPDATE public.users SET id = 'cyd' WHERE id OPERATOR(pg_catalog.=) 'cid' RETURNING 1" 1
trapped "SELECT token_balance.credit('cyd', 1) IS NULL" f
trapped "SELECT q.tokens FROM token_balance.queue AS q" ''
trapped 'SELECT token_balance.settle_pending() IS NULL' f
trapped 'SELECT token_balance.detach()' ''
trapped "SELECT token_balance.attach('public.users'::pg_catalog.regclass, 'public.token_usage'::pg_catalog.regclass, 'public.workflows'::pg_catalog.regclass, create_index => true)" ''
trapped 'SELECT token_balance.detach(drop_column => true)' ''
trapped "SELECT token_balance.attach('public.users'::pg_catalog.regclass, 'public.token_usage'::pg_catalog.regclass, usage_created_at => NULL, existing_usage => 'charge')" ''
trapped 'SELECT token_balance.detach()' ''
trapped 'DROP EXTENSION token_balance' ''
trapped 'CREATE EXTENSION token_balance SCHEMA public' ''
is 'it is attached' "$(value 'SELECT count(*) FROM token_balance.binding')" 1
echo "$checks checks"
exit "$failed"
