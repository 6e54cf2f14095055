#!/usr/bin/env bash
# Updates from each version that pg_test/upgrade has: the updated database's catalog is that of a fresh one, to the last
# detail; balances, ledger, grants and sessions go on, also one that is completing runs meanwhile; a dump, of the old one or
# of the updated, restores; and until it is updated, the new library works in the old database by the old name.
set -euo pipefail
: "${ROOT:?}" "${WORK:?}" "${PG_VERSION:?}"
# shellcheck source-path=SCRIPTDIR/../../scripts
source "$ROOT/scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/pg_test/once_per_run/server_copy.sh"
use_server "$PG_VERSION"
clean_up_on_exit
version=$(project_version)
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
has() { # WHAT TEXT LINE
    if grep -qE -- "$3" <<<"$2"; then echo "ok: $1"; else echo "FAILED: $1: no '$3' in '$2'"; failed=1; fi
}
psql() { in_server_env "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$1" -f - <<<"$2" 2>&1; } # DATABASE SQL
as() { value "$2" "SET ROLE $1; $3"; }      # ROLE DATABASE SQL

# --- a server with all versions ---------------------------------------------------------

installed_library=$("$PG_CONFIG_PATH" --pkglibdir)/$(library_file)
installed_extension=$("$PG_CONFIG_PATH" --sharedir)/extension
copy_server "$WORK/server"
remove_extension
cp "$installed_extension"/token_balance{.control,"--$version.sql"} "$ROOT"/sql/token_balance--*--*.sql \
    "$ROOT"/pg_test/upgrade/token_balance--*.{sql,control} "$share/extension"
c_functions() { sed -nE "s/.*'MODULE_PATHNAME', '(\w+)'.*/\1/p" "$1" | sort -u; }
new_functions() { # OLD: those that the library of that version has not
    comm -13 <(c_functions "$ROOT/pg_test/upgrade/token_balance--$1.sql") \
        <(c_functions "$share/extension/token_balance--$version.sql")
}
# install_older OLD: the library as a package of that version had it. An older library is today's without the functions
# that are new (their names begin with another letter), and it answers so that one can tell.
install_older() {
    remove_libraries
    { new_functions "$1" | sed -E 's/(.)(.*)/s\/\1\2\/_\2\/g/' && echo 's/already_settled/ALREADY_settled/g'; } >"$WORK/older.sed"
    LC_ALL=C sed -f "$WORK/older.sed" "$installed_library" >"$pkglib/token_balance.so"
    chmod 755 "$pkglib/token_balance.so"
}
# install_package: as a package manager does: the new files take the old one's place. The library has two names.
install_package() {
    cp "$installed_library" "$pkglib"
    ln "$pkglib/$(library_file)" "$pkglib/new.so"
    mv "$pkglib/new.so" "$pkglib/token_balance.so"
}
remove_libraries() { rm -f "$pkglib/token_balance"*.so; }
has '0.1.0 has not all C functions' "$(new_functions 0.1.0)" '^note_completion_wrapper$'
make_private_dir
CLUSTER_HOME=$PRIVATE_DIR
init_cluster "$PRIVATE_DIR/data"
start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off

psql <<'SQL'
CREATE ROLE app_owner;
CREATE ROLE app;
CREATE ROLE deployer;
CREATE ROLE dba SUPERUSER;
SQL

# new_database NAME VERSION: the same application and the same history in each.
new_database() {
    psql -c "CREATE DATABASE $1"
    psql -d "$1" -v version="$2" >/dev/null <<'SQL'
SET client_min_messages = error;
CREATE SCHEMA app AUTHORIZATION app_owner;
GRANT USAGE ON SCHEMA app TO app, deployer;
SET ROLE app_owner;
CREATE TABLE app.users (id text PRIMARY KEY);
CREATE TABLE app.token_usage (workflow_id text, user_id text, total_tokens integer, model text,
    created_at timestamptz DEFAULT now());
CREATE INDEX ON app.token_usage (workflow_id);
CREATE INDEX ON app.token_usage (user_id, created_at);
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status text DEFAULT 'running');
GRANT SELECT, INSERT, UPDATE ON app.workflows, app.token_usage TO app;
INSERT INTO app.users SELECT 'u' || n FROM generate_series(1, 20) AS n;
INSERT INTO app.token_usage VALUES ('w0', 'u1', 5000);
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA app VERSION :'version';
-- by the name alone: the arguments are those of the version
SELECT format('GRANT EXECUTE ON FUNCTION %s TO app', oid::regprocedure) FROM pg_proc
WHERE pronamespace = 'app'::regnamespace AND proname = 'settle_workflow' AND proargtypes[0] = 'text'::regtype \gexec
GRANT EXECUTE ON FUNCTION token_balance.attach TO deployer WITH GRANT OPTION;
GRANT USAGE ON SCHEMA token_balance TO deployer;
SET ROLE app;
INSERT INTO app.workflows SELECT 'w' || n, 'u' || n % 20 + 1 FROM generate_series(1, 40) AS n;
INSERT INTO app.token_usage SELECT id, user_id, 10 + length(id) FROM app.workflows;
UPDATE app.workflows SET status = 'completed' WHERE id IN ('w1', 'w2', 'w3', 'w4', 'w5');
SELECT app.settle_workflow('w6');
RESET ROLE;
UPDATE app.users SET token_balance = token_balance + 100 WHERE id = 'u3';
SQL
}
catalog() { psql -At -d "$1" -f - <"$ROOT/pg_test/upgrade/catalog.sql"; }
digest() { # DATABASE: what must stay, in the columns of 0.1.0
    value "$1" "SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
        SELECT concat_ws(' ', 'l', user_id, entry_id, kind, amount, previous_balance, new_balance, workflow_id, reference, note, actor, created_at)
        FROM token_balance.ledger UNION ALL
        SELECT concat_ws(' ', 's', workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens, first_settled_at, last_settled_at)
        FROM token_balance.settlement UNION ALL
        SELECT u::text FROM app.users AS u UNION ALL SELECT w::text FROM app.workflows AS w) AS t (x)"
}
# healthy DATABASE: everything adds up, and it charges
healthy() {
    is "$1: verify() finds nothing" "$(value "$1" "SELECT name, detail FROM token_balance.verify() WHERE NOT ok")" ''
    is "$1: reconcile() finds nothing but what is open" "$(value "$1" "SELECT * FROM token_balance.reconcile() WHERE problem <> 'unsettled usage'")" ''
    is "$1: settled stays settled" "$(as app "$1" "SELECT app.settle_workflow('w1') ->> 'status'")" already_settled
    as app "$1" "UPDATE app.workflows SET status = 'completed' WHERE id IN ('w30', 'w31')"
    is "$1: the trigger charges" "$(value "$1" "SELECT sum(charged_tokens) FROM token_balance.settlement WHERE workflow_id IN ('w30', 'w31')")" 26
    is "$1: everything is charged in the end" \
        "$(as app "$1" "UPDATE app.workflows SET status = 'done'"
        value "$1" "SELECT sum(total_tokens) - 5000 - (SELECT sum(charged_tokens) FROM token_balance.settlement) FROM app.token_usage")" 0
    is "$1: reconcile() finds nothing" "$(value "$1" "SELECT * FROM token_balance.reconcile()")" ''
}

version_of() { value "$1" "SELECT extversion FROM pg_extension WHERE extname = 'token_balance'"; }
attach_of() { value "$1" "SELECT 'token_balance.attach'::regproc::regprocedure"; }
# ask SQL: what the session that stays open answers, in one line
ask() {
    printf '%s\n;\n\\echo .\n' "$1" >&"${OPEN[1]}"
    answer=
    local line
    while IFS= read -r line <&"${OPEN[0]}" && [ "$line" != . ]; do answer+=${answer:+ }$line; done
}
waiting() { value postgres "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$1' AND wait_event_type = 'Lock'"; }
waits() { # WHAT APPLICATION
    for _ in $(seq 100); do
        [ "$(waiting "$2")" = 0 ] || break
        sleep 0.1
    done
    is "$1" "$(waiting "$2")" 1
}
sleeps() { # DATABASE: until a session of it holds what it was to hold
    for _ in $(seq 100); do
        [ "$(value "$1" "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")" = 0 ] || break
        sleep 0.1
    done
}
restore() { psql -v ON_ERROR_STOP=0 -d "$1" -f - <"$2" 2>&1 | grep -E '^psql:.*(ERROR|FATAL)' | sed 's/^psql:[^ ]* *//'; }

# One database of the old version and one of today's, with the same history.
check_update() { # OLD
    local old=$1 db="old_${1//./_}" fresh="fresh_${1//./_}" kept kept_entries last entries update status input new amounts
    local holder midst refused
    echo "-- from $old"
    install_older "$old"
    new_database "$db" "$old"
    for new in $(new_functions "$old" | head -n 1); do
        has 'the old library has not what is new' "$(value "$db" "CREATE FUNCTION pg_temp.n() RETURNS void LANGUAGE c AS '\$libdir/token_balance', '$new'")" 'could not find function'
    done

    # A session that stays open, with the library that it began with.
    coproc OPEN { psql -v ON_ERROR_STOP=0 -At -d "$db" 2>&1; }
    ask 'SET ROLE app'
    ask "UPDATE app.workflows SET status = 'completed' WHERE id = 'w7'"
    ask "PREPARE settle AS SELECT app.settle_workflow(\$1) ->> 'status'"
    ask "EXECUTE settle('w8')"
    is 'a session settles' "$answer" settled
    ask "EXECUTE settle('w8')"
    is 'with the old library' "$answer" ALREADY_settled

    # And one that is in the midst of settling when the extension is updated: it waits for an account.
    psql -d "$db" -c "SET application_name = 'holder'" -c 'BEGIN' -c "SELECT FROM app.users WHERE id = 'u20' FOR UPDATE" \
        -c 'SELECT pg_sleep(600)' >/dev/null 2>&1 &
    holder=$!
    sleeps "$db"
    psql -At -d "$db" -c 'SET ROLE app' -c "SELECT app.settle_workflow('w8') ->> 'status'" -c "SET application_name = 'settles'" \
        -c "SELECT app.settle_workflow('w19') ->> 'status'" >"$WORK/midst.log" 2>&1 &
    midst=$!
    waits 'a settlement waits for an account' settles

    install_package
    new_database "$fresh" "$version"
    is "the old one is $old" "$(version_of "$db")" "$old"
    is 'a new session has the new library, by its old name' "$(as app "$db" "SELECT app.settle_workflow('w8') ->> 'status'")" already_settled
    as app "$db" "UPDATE app.workflows SET status = 'completed' WHERE id = 'w14'"
    is 'which settles in the old catalog' "$(value "$db" "SELECT count(*), sum(charged_tokens) FROM token_balance.settlement WHERE charged_tokens > 0")" '9|109'
    # Or the comparison below would see nothing.
    diff <(catalog "$db") <(catalog "$fresh") >"$WORK/before.diff" || true
    has 'the catalogs differ before' "$(cat "$WORK/before.diff")" '^< extension\|'
    has 'in the library of the functions, too' "$(cat "$WORK/before.diff")" "^> .*\\\$libdir/token_balance-$version'"

    in_server_env "$PG_BIN/pg_dump" "$db" >"$WORK/$old.sql"
    # All that a role is granted by attach or above has an argument more by now, but for settle_workflow.
    refused=$(sed -nE 's/^GRANT .* ON FUNCTION ([a-z_.]+)\(.*/ERROR:  function \1/p' "$WORK/$old.sql" | grep -v 'settle_workflow$' | sort -u)
    kept=$(digest "$db")

    # The open session, in the middle of a transaction.
    ask 'BEGIN'
    ask "UPDATE app.workflows SET status = 'completed' WHERE id = 'w9'"
    last=$(value "$db" 'SELECT max(created_at) FROM token_balance.ledger')
    entries="SELECT md5(string_agg(concat_ws('|', user_id, entry_id, kind, amount, previous_balance, new_balance, workflow_id, actor, created_at),
        ';' ORDER BY user_id, entry_id)) FROM token_balance.ledger WHERE created_at <= '$last'"
    kept_entries=$(value "$db" "$entries")
    psql -d "$db" -c 'SET ROLE dba' -c "SET application_name = 'update'" -c 'ALTER EXTENSION token_balance UPDATE' >"$WORK/update.log" 2>&1 &
    update=$!
    # It asks for the lock again and again, so that nobody waits behind it.
    sleep 1
    is 'the update waits for the open transaction' "$(value postgres "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'update' AND state = 'active'")" 1
    ask "UPDATE app.workflows SET status = 'completed' WHERE id = 'w10'"
    is 'which can go on' "$answer" ''
    ask 'COMMIT'
    # It waits for what settles, too: it changes the settlements' table.
    value postgres "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holder'" >/dev/null
    status=0
    wait "$update" || status=$?
    wait "$midst" "$holder" || true
    is 'the update is made' "$status $(cat "$WORK/update.log")" '0 '
    is 'what was in the midst of settling goes on' "$(tr '\n' ' ' <"$WORK/midst.log")" 'ALREADY_settled settled '
    is 'and is in the ledger as what it is' \
        "$(value "$db" "SELECT kind, workflow_id, amount, actor FROM token_balance.ledger WHERE user_id = 'u20'")" 'settlement|w19|-13|app'
    is 'it is today'\''s version' "$(version_of "$db")" "$version"
    ask "UPDATE app.workflows SET status = 'completed' WHERE id IN ('w11', 'w12')"
    is 'the session completes, by functions that its old library may not have' "$answer" ''
    ask "EXECUTE settle('w13')"
    is 'the session settles by its prepared statement' "$answer" settled
    ask "EXECUTE settle('w13')"
    is 'with the new library' "$answer" already_settled
    ask "SELECT count(*), sum(charged_tokens) FROM app.token_usage JOIN token_balance.settlement USING (workflow_id)"
    has 'but has no more rights than before' "$answer" 'permission denied'
    input=${OPEN[1]}
    exec {input}>&-
    wait "$OPEN_PID" 2>/dev/null || true
    is 'what the session settled is charged' "$(value "$db" "SELECT count(*), sum(charged_tokens) FROM token_balance.settlement WHERE workflow_id ~ '^w(7|8|9|1[0-3])\$'")" '7|88'
    is 'the ledger from before is as it was' "$(value "$db" "$entries")" "$kept_entries"

    # The same as a fresh one.
    as app "$fresh" "UPDATE app.workflows SET status = 'completed' WHERE id IN ('w7', 'w9', 'w10', 'w11', 'w12', 'w14'); SELECT app.settle_workflow('w8'), app.settle_workflow('w13'), app.settle_workflow('w19')" >/dev/null
    catalog "$db" >"$WORK/old.catalog"
    catalog "$fresh" >"$WORK/fresh.catalog"
    echo "the catalog has $(wc -l <"$WORK/fresh.catalog") lines"
    is 'the catalog is that of a fresh one' "$(diff "$WORK/old.catalog" "$WORK/fresh.catalog")" ''
    is 'all functions are of the new library' \
        "$(value "$db" "SELECT DISTINCT probin FROM pg_proc WHERE probin LIKE '%token_balance%'")" "\$libdir/token_balance-$version"
    amounts="SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (
        SELECT concat_ws(' ', user_id, kind, amount, previous_balance, new_balance, workflow_id) FROM token_balance.ledger UNION ALL
        SELECT concat_ws(' ', workflow_id, user_id, usage_tokens, charged_tokens, refunded_tokens) FROM token_balance.settlement UNION ALL
        SELECT u::text FROM app.users AS u) AS t (x)"
    is 'and so are balances, ledger and settlements' "$(value "$db" "$amounts")" "$(value "$fresh" "$amounts")"
    is 'the owner of the tables may call what is new' "$(as app_owner "$db" "SELECT token_balance.summary('u2') ->> 'token_balance'")" \
        "$(value "$db" "SELECT token_balance FROM app.users WHERE id = 'u2'")"
    is 'who was granted attach may grant it' "$(as deployer "$db" 'GRANT EXECUTE ON FUNCTION token_balance.attach TO app' && echo granted)" granted
    is 'an update to the same version' "$(value "$db" 'SET client_min_messages = error; ALTER EXTENSION token_balance UPDATE' && echo made)" made

    # Dumps, of the old one and of the updated.
    in_server_env "$PG_BIN/pg_dump" "$db" >"$WORK/updated.sql"
    psql -c "CREATE DATABASE updated_$db" -c "CREATE DATABASE restored_$db"
    is 'the dump of the updated one is restored' "$(restore "updated_$db" "$WORK/updated.sql")" ''
    is "a dump of $old is restored, but for grants on functions that have an argument more by now" \
        "$(restore "restored_$db" "$WORK/$old.sql" | cut -d '(' -f 1 | sort -u)" "$refused"
    is 'with all that was in it' "$(digest "restored_$db")" "$kept"
    is 'and so is the other' "$(digest "updated_$db")" "$(digest "$db")"
    is 'with what the roles may' "$(as deployer "updated_$db" 'GRANT EXECUTE ON FUNCTION token_balance.attach TO app' && echo granted)" granted
    # An older dump says nothing of a search_path: verify() does, and its hint mends it.
    has 'no search_path was chosen for the restored one' "$(value "restored_$db" "SELECT detail FROM token_balance.verify() WHERE NOT ok AND name = 'search_path'")" 'none was chosen$'
    value "restored_$db" "$(value "restored_$db" "SELECT regexp_replace(hint, '^Call (.*)\.\$', 'SELECT \1') FROM token_balance.verify() WHERE NOT ok AND name = 'search_path'")" >/dev/null
    for database in "$db" "updated_$db" "restored_$db" "$fresh"; do healthy "$database"; done
}

for old in "$ROOT"/pg_test/upgrade/token_balance--*.control; do
    old=${old##*/token_balance--}
    check_update "${old%.control}"
done

# --- other bindings --------------------------------------------------------------------------

psql -c 'CREATE DATABASE unbound' -c 'CREATE DATABASE gone' -c 'CREATE DATABASE partitioned' -c 'CREATE DATABASE unusual'
update() { value "$1" 'ALTER EXTENSION token_balance UPDATE'; }
value unbound "SET client_min_messages = error; CREATE EXTENSION token_balance VERSION '0.1.0'"
is 'nothing is bound: updated' "$(update unbound; version_of unbound)" "$version"

tables='SET client_min_messages = error; CREATE TABLE users (id text PRIMARY KEY); CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);'
value gone "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); CREATE EXTENSION token_balance VERSION '0.1.0'; DROP TABLE workflows"
has 'a bound table is gone: a warning' "$(update gone)" 'WARNING:  workflow table public.workflows does not exist'
is 'a bound table is gone: updated' "$(version_of gone)" "$version"

value partitioned "$tables CREATE TABLE workflows (id text, status text, day date) PARTITION BY LIST (day);
    CREATE TABLE workflows_1 PARTITION OF workflows DEFAULT; INSERT INTO users VALUES ('ann');
    CREATE EXTENSION token_balance VERSION '0.1.0';
    INSERT INTO workflows VALUES ('w1', 'running', now()); INSERT INTO token_usage VALUES ('w1', 'ann', 7)"
value partitioned 'ALTER TABLE token_usage ADD COLUMN created_at text'
is 'partitions: updated' "$(update partitioned)" ''
is 'partitions: the triggers are today'\''s' "$(value partitioned "UPDATE workflows SET status = 'done';
    SELECT token_balance FROM users;
    SELECT count(DISTINCT tgname) FROM pg_trigger WHERE tgrelid = 'workflows_1'::regclass AND tgqual LIKE '%' || 'token_balance.note_usual_status'::regproc::oid || '%'")" '999993
2'
is 'a column that is of no use to summary is left out' "$(value partitioned 'SELECT usage_model, usage_created_at FROM token_balance.binding')" 'model|'
is 'and summary answers' "$(value partitioned "SELECT token_balance.summary('ann') ->> 'token_balance'")" 999993

value >/dev/null unusual "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); CREATE EXTENSION token_balance VERSION '0.1.0';
    SELECT token_balance.detach(true);
    SELECT token_balance.attach(users => 'users', usage => 'token_usage', workflows => 'workflows', initial_balance => 5000000000, balance_type => 'bigint');
    ALTER TABLE workflows ENABLE ALWAYS TRIGGER token_balance_completed_update"
is 'a bigint balance, a trigger that fires always: updated' "$(update unusual)" ''
is 'the type is known, the trigger still fires always' "$(value unusual "SELECT balance_type FROM token_balance.binding;
    SELECT string_agg(format('%s %s', tgname, tgenabled), ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'workflows'::regclass")" \
    'bigint
00_token_balance_workflow_id O, token_balance_completed_insert O, token_balance_completed_update A'

# Functions that have an argument more take the place of others: with their grants, and with the view that reads one.
psql -c 'CREATE DATABASE granted'
value >/dev/null granted "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); CREATE EXTENSION token_balance VERSION '0.2.0'; INSERT INTO users VALUES ('ann', -5);
    GRANT USAGE ON SCHEMA token_balance TO PUBLIC;
    GRANT SELECT ON token_balance.overdrawn TO app;
    GRANT EXECUTE ON FUNCTION token_balance.overdrawn_accounts TO app;
    GRANT EXECUTE ON PROCEDURE token_balance.settle_backlog TO app;
    GRANT EXECUTE ON FUNCTION token_balance.balance TO PUBLIC;
    GRANT EXECUTE ON FUNCTION token_balance.credit TO deployer WITH GRANT OPTION;
    CREATE VIEW in_debt AS SELECT user_id FROM token_balance.overdrawn;
    CREATE VIEW of_ann AS SELECT token_balance.balance('ann')"
has 'what depends on a function that is another one is named' "$(update granted)" 'view public.of_ann depends on function token_balance.balance\(text\)'
is 'and nothing is changed' "$(version_of granted)" 0.2.0
value granted 'DROP VIEW of_ann; ALTER EXTENSION token_balance DROP VIEW token_balance.overdrawn' >/dev/null
has 'a view of that name that is not the extension'"'"'s is not replaced' "$(update granted)" 'view token_balance.overdrawn is not a member of extension'
value granted 'ALTER EXTENSION token_balance ADD VIEW token_balance.overdrawn' >/dev/null
is 'without it, it is updated' "$(update granted; version_of granted)" "$version"
is 'the grants are there' "$(as app granted "SELECT user_id FROM token_balance.overdrawn; SELECT token_balance.balance('ann') ->> 'token_balance'; CALL token_balance.settle_backlog()")" 'ann
-5'
is 'with the option to grant them on' "$(as deployer granted 'GRANT EXECUTE ON FUNCTION token_balance.credit(text, numeric, text, text, name), token_balance.credit(bigint, numeric, text, text, name),
    token_balance.credit(uuid, numeric, text, text, name) TO app' && echo granted)" granted
has 'who may ask by text may ask by number' "$(as app granted 'SELECT token_balance.balance(1)' 2>&1 || true)" 'account "1" does not exist'
has 'and no others' "$(as app granted 'SELECT token_balance.reconcile()' || true)" 'permission denied'
is 'what reads the view goes on' "$(value granted 'SELECT user_id FROM in_debt')" ann

psql -c 'CREATE DATABASE late'
value >/dev/null late "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); CREATE EXTENSION token_balance VERSION '0.2.0';
    SELECT token_balance.attach('users', 'token_usage', 'workflows', late_usage => 'settle');
    INSERT INTO users VALUES ('ann'); INSERT INTO workflows VALUES ('w1', 'completed'), ('w2', 'completed')"
# (DESIGN T41)
conditions="SELECT substring(pg_get_triggerdef(oid) FROM 'note_.*tableoid') FROM pg_trigger WHERE tgrelid = 'workflows'::regclass AND tgname = 'token_balance_completed_update'"
is 'a condition is what the older catalog has functions for' "$(value late "$conditions")" \
    "note_status(old.status, new.status, '{completed,succeeded,success,finished,done}'::text[], new.tableoid"
is 'late usage at once: updated' "$(update late)" ''
is 'and is today'\''s after the update' "$(value late "$conditions")" 'note_usual_status(old.status, new.status, new.tableoid'
is 'late usage at once: a statement is settled as one' "$(value late "INSERT INTO token_usage VALUES ('w1', 'ann', 3), ('w2', 'ann', 4), ('w1', 'ann', 5);
    SELECT token_balance FROM users;
    SELECT string_agg(workflow_id || ' ' || amount, ', ' ORDER BY entry_id) FROM token_balance.ledger")" '999988
w1 -8, w2 -4'

psql -c 'CREATE DATABASE refunded'
value >/dev/null refunded "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); CREATE EXTENSION token_balance VERSION '0.2.0';
    INSERT INTO users VALUES ('ann'); INSERT INTO token_usage VALUES ('w1', 'ann', 7); INSERT INTO workflows VALUES ('w1', 'completed');
    SELECT token_balance.refund_workflow('w1', 3, 'ticket'), token_balance.credit('ann', 5, 'paid')"
is 'references: updated' "$(update refunded)" ''
is 'a refund and a credit are made once' "$(value refunded "SELECT token_balance.refund_workflow('w1', 3, 'ticket') -> 'replayed', token_balance.credit('ann', 5, 'paid') -> 'replayed';
    SELECT token_balance.refund_workflow('w1', reference => 'rest') -> 'amount'; SELECT token_balance FROM users")" 'true|true
4
1000005'

psql -c 'CREATE DATABASE set_before'
value >/dev/null set_before "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text, is_over boolean); CREATE EXTENSION token_balance VERSION '0.1.0';
    CREATE FUNCTION finish() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.is_over THEN NEW.status := \$\$done\$\$; END IF; RETURN NEW; END';
    CREATE TRIGGER finish BEFORE UPDATE ON workflows FOR EACH ROW EXECUTE FUNCTION finish();
    INSERT INTO users VALUES ('ann'); INSERT INTO workflows VALUES ('w1', 'running'); INSERT INTO token_usage VALUES ('w1', 'ann', 7)"
is 'a BEFORE trigger: updated' "$(update set_before)" ''
is 'a BEFORE trigger completes a run' "$(value set_before "UPDATE workflows SET is_over = true; SELECT token_balance FROM users;
    SELECT name FROM token_balance.verify() WHERE NOT ok AND name LIKE 'trigger %'")" 999993

# Or what such a session keeps in memory would be there twice.
psql -c 'CREATE DATABASE two_names'
value >/dev/null two_names "$tables CREATE TABLE workflows (id text PRIMARY KEY, status text); INSERT INTO users VALUES ('ann'); CREATE EXTENSION token_balance VERSION '0.2.0'"
is 'both names are one library to a session' "$(value two_names "SELECT token_balance.balance('ann'); ALTER EXTENSION token_balance UPDATE; SELECT token_balance.balance('ann');
    SELECT count(DISTINCT m[1]) FROM regexp_matches(pg_read_file('/proc/self/maps'), '(\d+) +/\S*/token_balance[^/]*[.]so', 'g') AS m" | tail -n 1)" 1

is 'no internal error in the log' "$(grep -cE 'PANIC|panicked|XX000|TRAP|signal' "$PRIVATE_DIR/server.log")" 0
exit "$failed"
