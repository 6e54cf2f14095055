#!/usr/bin/env bash
# Faults inside: the statements of a settlement, a completion, a sweep, a credit, a refund, an attach and a detach are
# made to fail, one at a time. After each: the error is the one that was made, nothing was changed, the same connection
# does it properly once the fault is gone, and neither the client nor the server's log has an internal error.
# Locks are held by prepared transactions, so one connection sees all of it.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PG_VERSION:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_faults
psql() { "$PG_BIN/psql" -X -q "$@"; }
if [ "$(psql -At -d "$maintenance" -c 'SHOW max_prepared_transactions')" = 0 ]; then
    echo 'max_prepared_transactions is 0'
    exit 77
fi
clean() {
    psql -d "$db" -c "ROLLBACK PREPARED 'tb_fault'" 2>/dev/null || true
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null
}
clean
trap clean EXIT
data=$(psql -At -d "$maintenance" -c 'SHOW data_directory')
log=$(readlink "/proc/$(head -n 1 "$data/postmaster.pid")/fd/2" || true)
if [ ! -r "$log" ]; then
    echo "the server's log cannot be read"
    exit 77
fi
log_before=$(stat -c %s "$log")
psql -v ON_ERROR_STOP=1 -d "$maintenance" -c "CREATE DATABASE $db"
psql -v ON_ERROR_STOP=1 -d "$db" 2>/dev/null <<'SQL'
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
-- An index that orders by this is kept without an executor (src/direct): a fault in the middle of that.
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
CREATE TABLE note.case (n serial, name text, wanted text, got text, before text, after text, again text, problems text, pid integer);
SQL

cases=0
# fault NAME INJECT REMOVE DO SQLSTATE [PREPARE [AFTERWARDS]]: one case of the script; :w and :a are a workflow of its own and its account
fault() {
    cases=$((cases + 1))
    cat >>"$WORK/faults.sql" <<SQL
\\set w w$cases
\\set a a$cases
SET lock_timeout = '5s'; SET statement_timeout = '5s';
INSERT INTO users VALUES (:'a');
INSERT INTO workflows VALUES (:'w', :'a', 'running');
INSERT INTO token_usage VALUES (:'w', :'a', 10);
${6:-}
SELECT note.state() AS before \\gset
$2
$4
\\set got :SQLSTATE
ROLLBACK;
SET lock_timeout = '5s'; SET statement_timeout = '5s'; RESET tb.fault;
$3
SELECT note.state() AS after \\gset
$4
\\set again :SQLSTATE
COMMIT;
${7:-}
INSERT INTO note.case (name, wanted, got, before, after, again, problems, pid) SELECT \$name\$$1\$name\$, '$5', :'got', :'before', :'after', :'again',
    (SELECT string_agg(DISTINCT r.problem, ',') FROM token_balance.reconcile() AS r), pg_backend_pid();
SQL
}
check() { echo "ALTER TABLE $1 ADD CONSTRAINT fault CHECK (false) NOT VALID;"; }
no_check() { echo "ALTER TABLE $1 DROP CONSTRAINT fault;"; }
trigger() { echo "CREATE TRIGGER a_fault BEFORE $2 ON $1 FOR EACH ROW EXECUTE FUNCTION fault('$3');"; }
no_trigger() { echo "DROP TRIGGER a_fault ON $1;"; }
locked() { echo "BEGIN; $1; PREPARE TRANSACTION 'tb_fault'; SET $2 = '40ms';"; }
unlocked="ROLLBACK PREPARED 'tb_fault';"
ledger=token_balance.ledger
settlement=token_balance.settlement
{
    echo '\set VERBOSITY verbose'
    echo 'SET log_error_verbosity = verbose;'
} >"$WORK/faults.sql"

declare -A action=(
    [settle]="SELECT settle_workflow(:'w');"
    [complete]="UPDATE workflows SET status = 'completed' WHERE id = :'w';"
    [deferred]="BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE workflows SET status = 'completed' WHERE id = :'w'; COMMIT;"
    [many]="SELECT * FROM token_balance.settle_workflows(ARRAY[:'w']);"
    [sweep]='SELECT token_balance.settle_pending();'
    [backlog]='CALL token_balance.settle_backlog();'
    [credit]="SELECT token_balance.credit(:'a', 5, 'c' || :'w', 'note');"
    [refund]="SELECT token_balance.refund_workflow(:'w', 5, 'r' || :'w');"
    [late]="SELECT settle_workflow(:'w');"
    [rename]="UPDATE users SET id = 'renamed ' || id WHERE id = :'a';"
)
# Completed while the trigger was off; or settled before.
missed="ALTER TABLE workflows DISABLE TRIGGER USER; UPDATE workflows SET status = 'completed' WHERE id = :'w'; ALTER TABLE workflows ENABLE TRIGGER USER;"
declare -A before=([sweep]=$missed [backlog]=$missed [refund]="SELECT settle_workflow(:'w');"
    [late]="SELECT settle_workflow(:'w'); INSERT INTO token_usage VALUES (:'w', :'a', 4);"
    [rename]="SELECT settle_workflow(:'w');")
declare -A after=([rename]="UPDATE token_usage SET user_id = 'renamed ' || user_id WHERE user_id = :'a';")

one() { # ACTION NAME INJECT REMOVE SQLSTATE
    fault "$1: $2" "$3" "$4" "${action[$1]}" "$5" "${before[$1]:-}" "${after[$1]:-}"
}
for what in settle complete deferred many sweep backlog credit refund late rename; do
    # each write
    for table in users $ledger; do
        one $what "$table refuses" "$(check "$table")" "$(no_check "$table")" 23514
        event=INSERT
        if [ "$table" = users ]; then event=UPDATE; fi
        one $what "$table, cancelled" "$(trigger "$table" $event cancel)" "$(no_trigger "$table")" 57014
    done
    if [ $what != credit ]; then
        one $what "$settlement refuses" "$(check $settlement)" "$(no_check $settlement)" 23514
        one $what "$settlement, cancelled" "$(trigger $settlement 'INSERT OR UPDATE' cancel)" "$(no_trigger $settlement)" 57014
    fi
    case $what in settle | complete | credit)
        for kind in raise:PT402 divide:22012 overflow:22003; do
            one $what "users, a trigger: ${kind%:*}" "$(trigger users UPDATE "${kind%:*}")" "$(no_trigger users)" "${kind#*:}"
        done
        one $what 'users, a trigger that suppresses the change' "$(trigger users UPDATE suppress)" "$(no_trigger users)" 27000
        one $what 'ledger, statement_timeout' "$(trigger $ledger INSERT sleep) SET statement_timeout = '60ms';" "$(no_trigger $ledger)" 57014 ;;
    esac
    # each table and row that it waits for
    case $what in
        complete | deferred) waits=("token_usage ACCESS EXCLUSIVE" "$settlement ACCESS EXCLUSIVE" "$settlement SHARE" "users SHARE" "$ledger SHARE") ;;
        credit) waits=("users SHARE" "$ledger ACCESS EXCLUSIVE" "$ledger SHARE") ;;
        refund) waits=("$settlement ACCESS EXCLUSIVE" "$settlement SHARE" "users SHARE" "$ledger ACCESS EXCLUSIVE" "$ledger SHARE") ;;
        rename) waits=("$ledger SHARE" "$settlement SHARE") ;;
        *) waits=("token_usage ACCESS EXCLUSIVE" "$settlement ACCESS EXCLUSIVE" "$settlement SHARE" "users SHARE" "$ledger SHARE") ;;
    esac
    case $what in sweep | backlog) waits+=('workflows ACCESS EXCLUSIVE') ;; esac
    for wait in "${waits[@]}"; do
        one $what "waits for ${wait%% *} (${wait#* }), lock_timeout" "$(locked "LOCK TABLE ${wait%% *} IN ${wait#* } MODE" lock_timeout)" "$unlocked" 55P03
    done
    # The server stops the clock of statement_timeout before a commit.
    if [ $what = deferred ]; then limit=lock_timeout state=55P03; else limit=statement_timeout state=57014; fi
    one $what "waits for the account, $limit" "$(locked "SELECT 1 FROM users WHERE id = :'a' FOR UPDATE" $limit)" "$unlocked" $state
done
one settle 'waits for the same workflow' "$(locked "SELECT settle_workflow(:'w')" lock_timeout)" "$unlocked" 55P03
one complete 'waits for the same workflow' "$(locked "SELECT settle_workflow(:'w')" statement_timeout)" "$unlocked" 57014
one credit 'waits for the same reference' "$(locked "SELECT token_balance.credit(:'a', 1, 'c' || :'w')" lock_timeout)" "$unlocked" 55P03
fault 'settle: an id that the workflow table must know' "$(locked 'LOCK TABLE workflows IN ACCESS EXCLUSIVE MODE' lock_timeout)" "$unlocked" \
    "SELECT settle_workflow(:'w');" 55P03 "DELETE FROM token_usage WHERE workflow_id = :'w';"
# in the middle of what is written without an executor: an index's own code, a row that somebody else has not committed
for what in settle complete many credit late; do
    for index in "$settlement (usage_tokens" "$ledger (amount"; do
        case "$what $index" in "credit $settlement"* | "late $settlement"*) continue ;; esac
        for kind in raise:PT402 divide:22012; do
            one $what "${index% (*}, an index: ${kind%:*}" "CREATE INDEX fault ON $index fault_ops); SET tb.in_index = '${kind%:*}';" \
                'RESET tb.in_index; DROP INDEX token_balance.fault;' "${kind#*:}"
        done
    done
done
for what in settle complete many; do
    one $what 'waits for a settlement without its lock' \
        "$(locked "INSERT INTO $settlement (workflow_id, user_id, usage_tokens) VALUES (:'w', :'a', 0)" lock_timeout)" "$unlocked" 55P03
done
# out of range, by what is called directly
low="UPDATE users SET token_balance = -2147483645 WHERE id = :'a';"
high="UPDATE users SET token_balance = 2147483645 WHERE id = :'a';"
fault 'settle: out of range' '' '' "${action[settle]}" 22003 "$low" "UPDATE users SET token_balance = 0 WHERE id = :'a'; SELECT settle_workflow(:'w');"
fault 'credit: out of range' '' '' "${action[credit]}" 22003 "$high"
fault 'refund: out of range' '' '' "${action[refund]}" 22003 "SELECT settle_workflow(:'w'); $high"
# a bad charge gives its claim back, and that fails
fixed="UPDATE users SET token_balance = 0 WHERE id = :'a'; SELECT settle_workflow(:'w');"
fault 'complete: forgetting a first claim' "$(trigger $settlement DELETE raise)" "$(no_trigger $settlement)" "${action[complete]}" PT402 "$low" "$fixed"
fault 'complete: releasing a later claim' \
    "CREATE TRIGGER a_fault BEFORE UPDATE ON $settlement FOR EACH ROW WHEN (NEW.usage_tokens < OLD.usage_tokens) EXECUTE FUNCTION fault('raise');" \
    "$(no_trigger $settlement)" "${action[complete]}" PT402 "SELECT settle_workflow(:'w'); INSERT INTO token_usage VALUES (:'w', :'a', 4); $low" "$fixed"
fault 'backlog: taking back an exemption' "$(trigger $settlement UPDATE raise)" "$(no_trigger $settlement)" 'CALL token_balance.settle_backlog(existing => true);' PT402 \
    "SELECT token_balance.detach(); SELECT token_balance.attach('users', 'token_usage', 'workflows'); $missed"
# reading
for table in users token_usage $settlement $ledger; do
    case $table in
        users) reads=("SELECT token_balance.balance(:'a');" "SELECT token_balance.summary(:'a');" 'SELECT count(*) FROM token_balance.overdrawn_accounts();' 'SELECT count(*) FROM token_balance.reconcile();') ;;
        token_usage) reads=("SELECT token_balance.summary(:'a');" 'SELECT count(*) FROM token_balance.reconcile();') ;;
        "$settlement") reads=('SELECT count(*) FROM token_balance.reconcile();') ;;
        *) reads=("SELECT count(*) FROM token_balance.statement(:'a');" "SELECT token_balance.balance_at(:'a', now());" 'SELECT count(*) FROM token_balance.reconcile();' 'SELECT count(*) FROM token_balance.verify();') ;;
    esac
    for read in "${reads[@]}"; do
        fault "reading $table: $read" "$(locked "LOCK TABLE $table IN ACCESS EXCLUSIVE MODE" lock_timeout)" "$unlocked" "$read" 55P03
    done
done
# attach and detach: each DDL statement, each write, each lock
detached="SELECT token_balance.detach(drop_column => true); DROP INDEX IF EXISTS token_usage_workflow_id_user_id_total_tokens_idx;"
attach="SELECT token_balance.attach('users', 'token_usage', 'workflows', create_index => true);"
for tag in 'ALTER TABLE' COMMENT 'CREATE TRIGGER' 'CREATE INDEX' GRANT; do
    fault "attach: $tag" "SET tb.fault = '$tag';" 'SELECT 1;' "$attach" PT402 "$detached"
done
for tag in 'DROP TRIGGER' 'ALTER TABLE'; do
    fault "detach: $tag" "SET tb.fault = '$tag';" 'SELECT 1;' 'SELECT token_balance.detach(drop_column => true);' PT402 '' "$attach"
done
fault 'detach: the binding' "$(trigger token_balance.binding DELETE raise)" "$(no_trigger token_balance.binding)" 'SELECT token_balance.detach();' PT402 '' "$attach"
fault 'attach: the binding' "$(check token_balance.binding)" "$(no_check token_balance.binding)" "$attach" 23514 "$detached"
fault 'attach: exempting' "$(check $settlement)" "$(no_check $settlement)" "$attach" 23514 "$detached"
fault 'attach: changes meanwhile' "$(check $ledger)" "$(no_check $ledger)" "$attach" 23514 "SELECT token_balance.credit(:'a', 5); $detached"
fault 'attach: balances that are missing' "$(trigger users UPDATE cancel)" "$(no_trigger users)" "$attach" 57014 \
    "$detached ALTER TABLE users ADD token_balance integer;"
for wait in 'users ROW EXCLUSIVE' 'token_usage ACCESS EXCLUSIVE' 'workflows ROW EXCLUSIVE' "$settlement SHARE"; do
    fault "attach: waits for ${wait%% *}" "$(locked "LOCK TABLE ${wait%% *} IN ${wait#* } MODE" lock_timeout)" "$unlocked" "$attach" 55P03 "$detached"
done
fault 'detach: waits for users' "$(locked 'LOCK TABLE users IN ROW EXCLUSIVE MODE' statement_timeout)" "$unlocked" 'SELECT token_balance.detach(drop_column => true);' 57014 '' "$attach"

PGOPTIONS='-c client_min_messages=warning' psql -d "$db" -f "$WORK/faults.sql" >"$WORK/faults.out" 2>&1 || true
failed=0
report() { # WHAT TEXT
    if [ -n "$2" ]; then echo "FAILED: $1:"; head -30 <<<"$2"; failed=1; else echo "ok: $1"; fi
}
query() { psql -At -d "$db" -c "$1"; }
report 'all cases ran, on one connection' "$(query "SELECT 'cases: ' || count(*) || ', connections: ' || count(DISTINCT pid) FROM note.case HAVING count(*) <> $cases OR count(DISTINCT pid) <> 1")"
report 'the error is the fault' "$(query "SELECT n || ' ' || name || ': ' || got || ', not ' || wanted FROM note.case WHERE got <> wanted ORDER BY n")"
report 'nothing was changed' "$(query 'SELECT n || $$ $$ || name FROM note.case WHERE before <> after ORDER BY n')"
report 'the same connection then does it' "$(query "SELECT n || ' ' || name || ': ' || again FROM note.case WHERE again NOT IN ('00000', CASE WHEN name LIKE '%: out of range' THEN '22003' ELSE '' END) ORDER BY n")"
report 'reconcile() is empty after each' "$(query 'SELECT n || $$ $$ || name || $$: $$ || problems FROM note.case WHERE problems IS NOT NULL ORDER BY n LIMIT 10')"
report 'no internal error at the client' "$(grep -v LOCATION: "$WORK/faults.out" | grep -iE 'XX000|panic|internal error|server closed' || true)"
report "none in the server's log" "$(tail -c "+$((log_before + 1))" "$log" | grep -v LOCATION: | grep -iE 'XX000|panic|internal error|terminated by signal' || true)"
echo "$cases faults: $(query "SELECT string_agg(wanted || ' ' || n, ', ' ORDER BY wanted) FROM (SELECT wanted, count(*) AS n FROM note.case GROUP BY 1) AS t")"
exit "$failed"
