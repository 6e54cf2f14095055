#!/usr/bin/env bash
# On PostgreSQL that checks its own assertions (scripts/assert_server.sh), 18 and 15: the regress and the isolation
# suite, the same with parallel plans forced wherever they may be, statements with the caches thrown away at each
# chance, and loads from many sessions. Then amcheck reads every table and B-tree, and the server's log must tell of
# no assertion, no crash and no internal error.
# It runs in `make test-all` and, in its long form, in `make soak`; by hand with ASSERT=yes. ASSERT_ONLY=15 for one.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR/../../scripts
source "${ROOT:?}/scripts/lib.sh"
: "${WORK:?}" "${PROJECT:?}"
[ -n "${ASSERT:-}" ] || { echo 'runs in make test-all and make soak' && exit 77; }
clean_up_on_exit
target="${CARGO_TARGET_DIR:-$ROOT/target}"
failed=0

passed() { echo "ok: $PG_VERSION: $1"; }
failed() { # WHAT FILE: its last lines say why
    echo "FAILED: $PG_VERSION: $1"
    tail -n 60 "$2"
    failed=1
}

# --- the extension on that server ----------------------------------------------------------------

# What does not depend on a server is that of the suite's own build, by links. Where that cannot be, or where the
# flags are others, cargo builds it again.
take_dependencies() {
    [ ! -d "$build/debug" ] && [ -d "$target/debug/deps" ] || return 0
    mkdir -p "$build/debug"
    cp -al "$target/debug/deps" "$target/debug/build" "$build/debug/" 2>/dev/null || return 0
    cp -a "$target/debug/.fingerprint" "$build/debug/"
    rm -rf "$build"/debug/{deps,build,.fingerprint}/*{pgrx,token_balance}*
}

# Built against its headers in a folder that stays, so that the next run builds only what changed.
install_there() {
    local begun=$SECONDS
    take_dependencies
    if ! CARGO_TARGET_DIR="$build" CARGO_INCREMENTAL=1 debug_pgrx install \
        --manifest-path "$ROOT/Cargo.toml" --pg-config "$PG_CONFIG_PATH" \
        --no-default-features --features "pg$PG_VERSION" >"$WORK/build.log" 2>&1; then
        failed 'the extension is not built' "$WORK/build.log"
        return 1
    fi
    echo "$PG_VERSION: $("$PG_CONFIG_PATH" --version), assert-enabled; the extension built in $((SECONDS - begun)) s"
}

make_dir() {
    mkdir -p "$1"
    if is_root; then chown "$DB_OS_USER:" "$1"; fi
}

# Each line of the log says its session and its SQLSTATE.
start_server() {
    make_private_dir
    CLUSTER_HOME=$PRIVATE_DIR
    server_log="$PRIVATE_DIR/server.log"
    log_read=0
    init_cluster "$PRIVATE_DIR/data"
    start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off wal_level=logical \
        max_prepared_transactions=10 max_connections=100 log_line_prefix=%p:%e:
    [ "$(psql postgres 'SHOW debug_assertions')" = on ] || die "the server in $PG_BIN has no assertions"
}

psql() { # DATABASE SQL
    in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$1" -f - <<<"$2"
}

# --- what is asked of it --------------------------------------------------------------------------

# Signals of a fault; the scripts kill servers on purpose, by others.
BAD_LINES='TRAP:|PANIC|panicked|terminated by signal (4|6|7|8|11):|^[0-9]+:XX000:'

# The log without one fault of the server's own, which plain UPDATEs of a plain table show as well, and which the client
# takes for a race (is_multixact_race in client/src/database.rs): an updater that has aborted and not yet left the list
# of those that run is no conflict to DoesMultiXactIdConflict, and a member to MultiXactIdExpand. A retry succeeds.
without_multixact_race() {
    awk -F: '
        /^[0-9]+:XX000:ERROR: +new multixact has more than one updating member/ { pid = $1; next }
        $1 == pid && $2 == "XX000" && $3 != "ERROR" { next }
        { pid = ""; print }'
}

# The first assertion's backtrace. The server names only its own functions; ours by their address.
backtrace() {
    local line library address
    echo 'the backtrace of the first, without frames of libraries:'
    while read -r line; do
        if [[ $line =~ ^(/.*token_balance.*\.so)\(\+(0x[0-9a-f]+)\) ]]; then
            library=${BASH_REMATCH[1]} address=${BASH_REMATCH[2]}
            addr2line -Cfps -e "$library" "$address" 2>/dev/null || echo "$line"
        else
            echo "$line"
        fi
    done < <(awk '/TRAP:/ { found = 1; next } found && /^[0-9]+:[0-9A-Z]+:/ { exit } found' "$WORK/new.log") |
        grep -vE '^<?(core|std|alloc|pgrx|pgrx_pg_sys|cee_scape)::|^__rust_try' || true
}

# A crash ends all sessions; the server comes back by itself.
await_server() {
    for _ in $(seq 60); do
        if psql postgres '' >/dev/null 2>&1; then return; fi
        sleep 1
    done
    die "the server of $PG_BIN does not come back"
}

# read_log PART: what the server's log tells of since the last part.
read_log() {
    local part=$1 size
    size=$(stat -c %s "$server_log")
    tail -c "+$((log_read + 1))" "$server_log" | head -c "$((size - log_read))" |
        without_multixact_race >"$WORK/new.log"
    log_read=$size
    if grep -qaE "$BAD_LINES" "$WORK/new.log"; then
        grep -aE "$BAD_LINES|Failed process was running" "$WORK/new.log" | head -n 10 >"$WORK/bad.log"
        backtrace >>"$WORK/bad.log"
        failed "$part: the server's log" "$WORK/bad.log"
        await_server
    else
        passed "$part: no assertion, crash or internal error in $(wc -l <"$WORK/new.log") lines of log"
    fi
}

# suite TITLE FOLDER TOOL OPTIONS [TEST…]: the tests of a folder, all of its schedule if none is named. OPTIONS are
# settings of the sessions.
suite() {
    local title=$1 folder=$2 tool=$3 options=$4 begun=$SECONDS status=0 count
    shift 4
    local input="$PROJECT/pg_test/$folder" output="$PRIVATE_DIR/output"
    rm -rf "$output"
    make_dir "$output"
    [ $# -gt 0 ] || set -- "--schedule=$input/schedule"
    in_server_env PGOPTIONS="$options" env --chdir="$input" timeout -k 10 "$PART_TIMEOUT" "$PG_TEST_TOOLS/$tool" \
        --bindir="$PG_BIN" --inputdir="$input" --outputdir="$output" --dbname=tb_assert \
        --host="$CLUSTER_SOCKET" --port=5432 --user=postgres "$@" >"$WORK/suite.log" 2>&1 || status=$?
    count=$(grep -cE '^ok +[0-9]+|\.\.\. ok( |$)' "$WORK/suite.log" || true)
    if [ "$status" = 0 ] && [ "$count" -gt 0 ]; then
        passed "$title: $count files"
        echo "$PG_VERSION: $title: $count files in $((SECONDS - begun)) s"
    else
        grep -E '^not ok|FAILED|failed' "$WORK/suite.log" >"$WORK/why.log" || tail -n 20 "$WORK/suite.log" >"$WORK/why.log"
        head -n 40 "$output/regression.diffs" >>"$WORK/why.log" 2>/dev/null || true
        failed "$title: status $status after $((SECONDS - begun)) s" "$WORK/why.log"
    fi
    read_log "$title"
}

# load PROGRAM SIZE-OF-THE-SHORT-FORM [ATTACH]: a program of pg_test/client, then amcheck on what it left.
load() {
    local program=$1 size=(--size "$2") title="$1${3:+ with both options}" status=0 begun=$SECONDS
    if [ -n "${SOAK:-}" ]; then size=(); fi
    psql postgres 'DROP DATABASE IF EXISTS tb_load WITH (FORCE)' 2>/dev/null
    psql postgres 'CREATE DATABASE tb_load'
    in_server_env PGDATABASE=tb_load ATTACH="${3:-}" timeout -k 10 "$PART_TIMEOUT" \
        "$PROJECT/client" "$program" "${size[@]}" >"$WORK/load.log" 2>&1 || status=$?
    if [ "$status" = 0 ]; then
        passed "$title"
        sed "s/^/$PG_VERSION: /; \$s/\$/ ($((SECONDS - begun)) s)/" "$WORK/load.log"
    else
        failed "$title: status $status" "$WORK/load.log"
    fi
    amcheck tb_load "$title"
    read_log "$title"
}

# scripts NAME…: scripts of the suite, which run servers of their own beside this one, or make it fail inside.
scripts() {
    local name work status begun
    make_dir "$PRIVATE_DIR/w"
    for name in "$@"; do
        work="$PRIVATE_DIR/w/$name" status=0 begun=$SECONDS
        make_dir "$work"
        # shellcheck disable=SC2016 # expanded by the inner shell
        in_server_env WORK="$work" PROJECT="$PROJECT" SOAK='' sh -c 'cd "$WORK" && exec "$@"' sh \
            timeout -k 10 "$PART_TIMEOUT" "$PROJECT/pg_test/scripts/$name.sh" >"$WORK/script.log" 2>&1 || status=$?
        if [ "$status" = 0 ]; then
            passed "scripts/$name.sh"
            echo "$PG_VERSION: scripts/$name.sh in $((SECONDS - begun)) s"
        else
            failed "scripts/$name.sh: status $status" "$WORK/script.log"
        fi
        stop_servers_below "$work"
        # Each server of its own has a log of its own.
        if grep -raE --include='*.log' "$BAD_LINES" "$work" >"$WORK/bad.log"; then
            failed "scripts/$name.sh: a server's log" "$WORK/bad.log"
        fi
        read_log "scripts/$name.sh"
    done
}

# Heap and B-trees of a database, catalogs and all: each heap row is in each index, each index entry is found from the
# root, and, where the server can tell, no unique index has a key twice. verify_heapam returns what is wrong.
amcheck() { # DATABASE PART
    local unique=''
    if [ "$PG_VERSION" -ge 17 ]; then unique=', checkunique => true'; fi
    if psql "$1" "SET client_min_messages = warning;
        CREATE EXTENSION IF NOT EXISTS amcheck;
        CREATE TEMPORARY TABLE checked AS
        SELECT i.indexrelid, bt_index_parent_check(i.indexrelid, heapallindexed => true, rootdescend => true$unique)::text
        FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid JOIN pg_am AS a ON a.oid = c.relam
        WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisvalid;
        CREATE TEMPORARY TABLE wrong AS
        SELECT c.oid::regclass, v.* FROM pg_class AS c, verify_heapam(c.oid) AS v
        WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence <> 't';
        SELECT 'wrong: ' || w::text FROM wrong AS w;
        SELECT format('%s B-trees and %s tables, no fault',
            (SELECT count(*) FROM checked),
            (SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'm', 't') AND relpersistence <> 't'))
        WHERE NOT EXISTS (SELECT FROM wrong)" >"$WORK/amcheck.log" 2>&1 && ! grep -q 'wrong: ' "$WORK/amcheck.log"; then
        passed "$2: amcheck"
        echo "$PG_VERSION: amcheck after $2: $(cat "$WORK/amcheck.log")"
    else
        failed "$2: amcheck" "$WORK/amcheck.log"
    fi
}

run_loads() {
    local both="busy_account => 'queue', late_usage => 'settle'"
    load mixed 5
    load mixed 5 "$both"
    load bulk 5
    load deadlock 1000
    load model 500
    load layout 3
    load chaos 5
    load chaos 5 "$both"
    load sweep 2000
    load late 1
    load speculative 1
}

# Under debug_discard_caches = 1 a backend's caches, ours among them, are thrown away at each chance: the statements that
# matter, a few of them, since each takes some hundred times as long. What hangs there ends by its timeout.
settle_without_caches() {
    local begun=$SECONDS title='statements without caches' got
    psql postgres 'DROP DATABASE IF EXISTS tb_discard WITH (FORCE)' 2>/dev/null
    psql postgres 'CREATE DATABASE tb_discard'
    got=$(psql tb_discard "SET client_min_messages = error;
        CREATE TABLE users (id text PRIMARY KEY);
        CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
        CREATE TABLE workflows (id text PRIMARY KEY, status text);
        CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
        INSERT INTO users VALUES ('ann'), ('bob');
        CREATE EXTENSION token_balance SCHEMA public;
        INSERT INTO workflows SELECT 'w' || n FROM generate_series(1, 4) AS n;
        INSERT INTO token_usage VALUES ('w1', 'ann', 10), ('w2', 'bob', 200), ('w2', 'ann', 20), ('w3', 'ann', 3);
        SET statement_timeout = '$STATEMENT_TIMEOUT';
        SET debug_discard_caches = 1;
        SELECT settle_workflow('w1') ->> 'new_balance';
        UPDATE workflows SET status = 'done' WHERE id IN ('w2', 'w3');
        BEGIN ISOLATION LEVEL REPEATABLE READ;
        SELECT settle_workflow('w2') ->> 'status';
        COMMIT;
        RESET debug_discard_caches;
        SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users;
        SELECT count(*) FROM token_balance.reconcile()" 2>&1) || true
    if [ "$got" = $'999990\nalready_settled\nann 999967, bob 999800\n0' ]; then
        passed "$title"
        echo "$PG_VERSION: $title in $((SECONDS - begun)) s"
    else
        echo "$got" >"$WORK/got.log"
        failed "$title" "$WORK/got.log"
    fi
    read_log "$title"
}

# The regress files but those that settle hundreds of runs, which would take hours: a run takes seconds.
names_without_bulk() {
    sed -nE 's/^test: //p' "$PROJECT/pg_test/regress/schedule" |
        grep -vxE 'archive|attach_options|bulk|once_per_statement|reconcile|sweep'
}

run_suites() {
    local parallel=debug_parallel_query names
    if [ "$PG_VERSION" -lt 16 ]; then parallel=force_parallel_mode; fi
    suite isolation isolation isolation/pg_isolation_regress ''
    suite regress regress regress/pg_regress ''
    amcheck tb_assert regress
    suite 'regress with parallel plans' regress regress/pg_regress "-c $parallel=regress"
    settle_without_caches
    if [ -n "${SOAK:-}" ]; then
        mapfile -t names < <(names_without_bulk)
        suite 'regress without caches' regress regress/pg_regress \
            "-c debug_discard_caches=1 -c statement_timeout=$STATEMENT_TIMEOUT" "${names[@]}"
    fi
}

# The attackers are left out: they give a domain a check that is immutable by name only, and its subtransactions, run
# while the server loads the domain into its type cache, fail an assertion of that cache.
run_scripts() {
    scripts faults prepared standby logical_replica
    if [ -n "${SOAK:-}" ]; then scripts shapes boundaries hostile_names crash; fi
}

# One version, in a process of its own.
test_server() {
    use_pg_config "$1" "$(assert_pg_config "$1")"
    build="$target/assert/$1"
    lock_server "$1-assert"
    if install_there; then
        start_server
        run_loads
        run_suites
        run_scripts
    fi
    exit "$failed"
}

# All versions side by side: much of the time is spent waiting, by the isolation suite for one.
test_servers() {
    local version log status=0 versions=() running=()
    for version in ${ASSERT_ONLY:-"${ASSERT_VERSIONS[@]}"}; do
        if [ -n "$(assert_pg_config "$version")" ]; then
            versions+=("$version")
        else
            echo "no assert-enabled PostgreSQL $version is here: scripts/setup.sh --assert builds it, where it can"
        fi
    done
    [ ${#versions[@]} -gt 0 ] || exit 77
    for version in "${versions[@]}"; do
        mkdir -p "$WORK/$version"
        WORK="$WORK/$version" "$0" "$version" >"$WORK/$version.log" 2>&1 &
        running+=("$!")
    done
    for version in "${versions[@]}"; do
        wait "${running[0]}" || status=1
        running=("${running[@]:1}")
        cat "$WORK/$version.log"
    done
    exit "$status"
}

if [ -n "${SOAK:-}" ]; then PART_TIMEOUT=12000 STATEMENT_TIMEOUT=900s; else PART_TIMEOUT=900 STATEMENT_TIMEOUT=240s; fi
if [ $# -gt 0 ]; then test_server "$1"; else test_servers; fi
