#!/usr/bin/env bash
# The whole suite, or single tests of it:
#   test.sh [--lint] [--assert] [--soak] [--only GROUP:NAME,...]... [VERSION...]
# default: the newest PostgreSQL that is installed.
# Per version: the unit tests, then in private clusters the SQL regression
# tests, the isolation tests and the scripts of pg_test/; on the newest version of
# the run also the scripts of pg_test/once_per_run. A group that fails does not stop the
# next one; the last line counts them all. --soak: the scripts in their long form.
# Three lanes run side by side: this process builds, one version after the other, and is followed by a lane with the
# SQL of what is built, and one with the scripts; the output of these comes in one piece each. Single tests of one
# version are run one after the other, and seen at once.
# --only: just these, in the order of GROUPS_OF_TESTS, as in
# --only regress:settle,trigger,script:roles. A name without a group is of the group before it.
# --assert: also on servers that check their own assertions (pg_test/once_per_run/assert.sh).
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

LOGS="${CARGO_TARGET_DIR:-$ROOT/target}/test-logs"
CLIENT_TARGET="${CARGO_TARGET_DIR:-$ROOT/target}/client"
GROUPS_OF_TESTS='unit, regress, isolation, isolation_by_sql, script, client, once'
SCRIPT_TIMEOUT=900 # seconds: a script that hangs must not eat the whole run
RESULTS=           # a file: where|group|passed|failed|skipped|seconds
FAILURES=          # a file: what failed, and the first lines of why; shown last, as of a long log only its end may be kept
SOAK=              # set for the scripts' long form
ASSERT=            # set for the assert-enabled servers
CHOSEN=()          # GROUP:NAME of --only; empty: all tests
ONCE_ON=           # the version of the run that pg_test/once_per_run is for: the newest
LANE=              # which one this process is, if it is not the first
SIDE_BY_SIDE=      # set when there is more to run than single tests of one version, and no soak
OUTPUTS=()         # of what runs beside this process, by the index of BESIDE
declare -A LANES=() # the last process of each lane

# record WHERE GROUP PASSED FAILED SKIPPED START
record() {
    echo "$1|$2|$3|$4|$5|$((SECONDS - $6))" >>"$RESULTS"
    say "$1, $2: $3 passed, $4 failed, $5 skipped in $((SECONDS - $6)) s"
}

# remember_failure WHAT: for the end of the run, with the first lines of why, from standard input.
remember_failure() {
    local why
    why=$(cut -c1-200 | sed -n 1,16p)
    printf '%s\n%s\n' "--- $1" "$why" >>"$FAILURES"
}

# How many lines of a file match; no match is 0 and no error.
count() { grep -cE "$1" "$2" || true; }

# The sum of one counter of cargo's "test result:" lines.
cargo_count() {
    sed -nE "s/^test result: .*[ .]([0-9]+) $1.*/\1/p" "$2" | awk '{ n += $1 } END { print n + 0 }'
}

# --- what is run ---------------------------------------------------------------

# choose_tests GROUP:NAME,...: what --only asks for. A name that no test has ends the run before it begins,
# but for unit tests and programs of the client, which fail as tests that are not there.
choose_tests() {
    local name names group='' file
    IFS=, read -ra names <<<"$1"
    [ ${#names[@]} -gt 0 ] || die '--only wants GROUP:NAME'
    for name in "${names[@]}"; do
        case $name in *:*) group=${name%%:*} name=${name#*:} ;; esac
        [ -n "$name" ] || die "--only $1: a name is missing"
        case $group in
        unit | client) file= ;;
        regress) file=regress/sql/$name.sql ;;
        isolation | isolation_by_sql) file=isolation/specs/$name.spec ;;
        script | scripts) group=scripts file=scripts/$name.sh ;;
        once) file=once_per_run/$name.sh ;;
        *) die "--only $1: no group is called '$group', but $GROUPS_OF_TESTS" ;;
        esac
        [ -z "$file" ] || is_test "pg_test/$file" || die "--only $1: there is no test pg_test/$file"
        CHOSEN+=("$group:$name")
    done
}

# A script that is not executable is a part of the others.
is_test() { [ -f "$1" ] && { [[ $1 != *.sh ]] || [ -x "$1" ]; }; }

# The names that --only has of a group, one per line.
chosen() { printf '%s\n' "${CHOSEN[@]}" | sed -n "s/^$1://p"; }

runs_all() { [ ${#CHOSEN[@]} = 0 ]; }

# wanted GROUP...: all tests are run, or some of these groups. Programs of the client are run by scripts, or by name.
wanted() {
    local group
    if runs_all; then [ "$*" != client ]; return; fi
    for group in "$@"; do
        [ -z "$(chosen "$group")" ] || return 0
    done
    return 1
}

# Those that are wanted, one per line.
wanted_of() {
    local group
    for group in "$@"; do
        if wanted "$group"; then echo "$group"; fi
    done
}

# --- side by side ----------------------------------------------------------------

# beside LANE GROUP...: runs these on a cluster of their own beside all that follows, after what the lane had before.
beside() {
    local before=${LANES[$1]:-} output="$LOGS/pg$PG_VERSION/$1.out"
    say "PostgreSQL $PG_VERSION: ${*:2}, beside this"
    set -m
    (
        set +m
        LANE=$1 BESIDE=() CLEAN_CLUSTERS=() CLEAN_DIRS=()
        clean_up_on_exit
        if [ -n "$before" ]; then tail --pid="$before" -f /dev/null; fi
        on_cluster "${@:2}"
    ) >"$output" 2>&1 </dev/null &
    set +m
    LANES[$1]=$!
    BESIDE+=("$!")
    OUTPUTS+=("$output")
}

# Shows the output of what ran beside this and is done, in order; `show_beside all` waits for the rest.
show_beside() {
    local i status
    for i in "${!BESIDE[@]}"; do
        if [ "${1:-}" != all ] && kill -0 "${BESIDE[i]}" 2>/dev/null; then return; fi
        status=0
        wait "${BESIDE[i]}" || status=$?
        echo
        cat "${OUTPUTS[i]}"
        # Failed tests are counted where they are run. This is a lane that did not come to its end.
        [ "$status" = 0 ] || record "${OUTPUTS[i]#"$LOGS"/}" lane 0 1 0 "$SECONDS"
        echo
        unset "BESIDE[i]"
    done
}

# --- groups ------------------------------------------------------------------

run_lint() {
    local start=$SECONDS failed=0
    say "format and lint"
    if ! run_logged "$LOGS/lint.log" "$ROOT/scripts/lint.sh"; then
        failed=1
        tail -n 12 "$LOGS/lint.log" | remember_failure lint
    fi
    record source lint $((1 - failed)) "$failed" 0 "$start"
}

run_unit_tests() {
    local names name
    mapfile -t names < <(chosen unit)
    make_private_dir
    for name in "${names[@]:-}"; do run_unit "$name"; done
    remove_private_dir
}

# run_unit NAME: all unit tests with this in their name; all, if it is empty.
run_unit() {
    local start=$SECONDS log="$LOGS/pg$PG_VERSION/unit${1:+-$1}.log" status=0 passed failed
    local arguments=(${1:+"$1"} --pgdata "$PRIVATE_DIR/pgrx")
    say "PostgreSQL $PG_VERSION: cargo pgrx test${1:+ $1}"
    if is_root; then arguments+=(--runas "$DB_OS_USER"); fi
    run_logged "$log" debug_pgrx test "pg$PG_VERSION" "${arguments[@]}" || status=$?
    passed=$(cargo_count passed "$log")
    failed=$(cargo_count failed "$log")
    # Not built, crashed, or no test at all: none of them is a pass.
    if [ $((passed + failed)) = 0 ] || { [ "$status" != 0 ] && [ "$failed" = 0 ]; }; then failed=1; fi
    if [ "$failed" != 0 ]; then
        { grep -E '^test .* FAILED|^error|panicked at' "$log" || tail -n 12 "$log"; } |
            remember_failure "$PG_VERSION: unit"
    fi
    record "PostgreSQL $PG_VERSION" unit "$passed" "$failed" "$(cargo_count ignored "$log")" "$start"
}

# What users install: no test functions, no test feature.
install_extension() {
    local start=$SECONDS
    say "PostgreSQL $PG_VERSION: cargo pgrx install"
    if run_logged "$LOGS/pg$PG_VERSION/install.log" debug_pgrx install \
        --pg-config "$PG_CONFIG_PATH" --no-default-features --features "pg$PG_VERSION"; then
        say "installed in $((SECONDS - start)) s"
    else
        record "PostgreSQL $PG_VERSION" install 0 1 0 "$start"
        return 1
    fi
}

# The client that loads a server from many sessions; built once for all versions.
build_client() {
    local start=$SECONDS
    say "the client of pg_test"
    if ! run_logged "$LOGS/client-build.log" cargo build --quiet --release --locked \
        --manifest-path pg_test/client/Cargo.toml --target-dir "$CLIENT_TARGET"; then
        record client build 0 1 0 "$start"
    fi
}

# The clone may be closed to the server's user, so the tests run on a copy.
copy_project() {
    local item
    mkdir "$PRIVATE_DIR/project"
    for item in README.md README.zh-CN.md CHANGELOG.md Cargo.toml token_balance.control docs pg_test sql scripts; do
        if [ -e "$ROOT/$item" ]; then cp -R "$ROOT/$item" "$PRIVATE_DIR/project/"; fi
    done
    cp "$CLIENT_TARGET/release/token_balance_client" "$PRIVATE_DIR/project/client" 2>/dev/null || true
    chmod -R a+rX "$PRIVATE_DIR/project"
    if is_root; then chown -R "$DB_OS_USER:" "$PRIVATE_DIR/project"; fi
}

make_dir() {
    mkdir -p "$1"
    if is_root; then chown "$DB_OS_USER:" "$1"; fi
}

remove_private_dir() {
    stop_servers_below "$PRIVATE_DIR"
    rm -rf "$PRIVATE_DIR"
}

start_test_cluster() {
    CLUSTER_HOME="$PRIVATE_DIR"
    make_dir "$PRIVATE_DIR/c"
    init_cluster "$PRIVATE_DIR/c/data"
    # Durability is not under test; replicas and prepared transactions may be.
    start_cluster "$PRIVATE_DIR/c/data" "$PRIVATE_DIR/c" fsync=off wal_level=logical \
        max_prepared_transactions=10 max_connections=100
}

run_regress() { run_sql_group regress regress regress/pg_regress sql; }
run_isolation() { run_sql_group isolation isolation isolation/pg_isolation_regress specs; }
# With no row read or written but by SQL: the same sessions wait for the same, and get the same.
run_isolation_by_sql() {
    run_sql_group isolation_by_sql isolation isolation/pg_isolation_regress specs -c token_balance.direct=off
}

# run_sql_group NAME FOLDER TOOL SUBDIR [OPTION...]: pg_regress and its sibling, with options of their sessions. They
# run in the folder of their tests, which include what they share by a relative path: psql has the folder of the tool
# that starts it.
run_sql_group() {
    local name=$1 folder=$2 tool=$3 subdir=$4 options=${*:5} start=$SECONDS status=0 passed failed
    local input="$PRIVATE_DIR/project/pg_test/$folder" output="$PRIVATE_DIR/$name"
    local log="$LOGS/pg$PG_VERSION/$name.log" files=() tests=()
    mapfile -t files < <(find "$input/$subdir" -type f 2>/dev/null | sort)
    [ ${#files[@]} -gt 0 ] || return 0
    say "PostgreSQL $PG_VERSION: $name"
    if ! runs_all; then
        mapfile -t tests < <(chosen "$name")
    elif [ -f "$input/schedule" ]; then
        tests=("--schedule=$input/schedule")
    else
        mapfile -t tests < <(printf '%s\n' "${files[@]##*/}" | sed 's/\.[a-z]*$//')
    fi
    make_dir "$output"
    run_logged "$log" in_server_env PGOPTIONS="$options" env --chdir="$input" \
        "$PG_TEST_TOOLS/$tool" --bindir="$PG_BIN" \
        --inputdir="$input" --outputdir="$output" --dbname="${folder}_tb" \
        --host="$CLUSTER_SOCKET" --port=5432 --user=postgres "${tests[@]}" || status=$?
    passed=$(count '^ok +[0-9]+|\.\.\. ok( |$)' "$log")
    failed=$(count '^not ok +[0-9]+|\.\.\. (FAILED|failed)' "$log")
    if [ $((passed + failed)) = 0 ] || { [ "$status" != 0 ] && [ "$failed" = 0 ]; }; then failed=1; fi
    if [ "$failed" != 0 ]; then
        cp "$output"/regression.diffs "$LOGS/pg$PG_VERSION/$name.diffs" 2>/dev/null || true
        cp -R "$output"/results "$LOGS/pg$PG_VERSION/$name.results" 2>/dev/null || true
        head -n 400 "$output"/regression.diffs 2>/dev/null || true
        {
            grep -m 4 -E '^not ok|\.\.\. (FAILED|failed)' "$log" || true
            grep -E '^[-+]' "$output"/regression.diffs 2>/dev/null || tail -n 8 "$log"
        } | remember_failure "$PG_VERSION: $name"
    fi
    failed=$((failed + $(unscheduled "$input" "${files[@]}")))
    record "PostgreSQL $PG_VERSION" "$name" "$passed" "$failed" 0 "$start"
}

# How many test files no line of the schedule names: they would never run, and nobody would see.
unscheduled() {
    local input=$1 file name count=0
    shift
    for file in "$@"; do
        name=${file##*/}
        name=${name%.*}
        if [ -f "$input/schedule" ] && ! grep -qE "^test:(.* )?$name( |\$)" "$input/schedule"; then
            warn "$name is not in $(basename "$input")/schedule"
            count=$((count + 1))
        fi
    done
    echo "$count"
}

# scripts_of GROUP FOLDER: the names of its executable scripts, as far as they are wanted.
scripts_of() {
    local script name
    for script in pg_test/"$2"/*.sh; do
        name=$(basename "$script" .sh)
        if is_test "$script" && { runs_all || [[ " ${CHOSEN[*]} " == *" $1:$name "* ]]; }; then echo "$name"; fi
    done
}

# run_script_group NAME DIR RUNNER SCRIPT...
# Exit 0 is a pass, 77 a skip; everything else a failure.
run_script_group() {
    local group=$1 dir=$2 runner=$3
    local start=$SECONDS passed=0 failed=0 skipped=0 name log status begun took work
    say "PostgreSQL $PG_VERSION: $group"
    for name in "${@:4}"; do
        log="$LOGS/pg$PG_VERSION/$group-$name.log"
        work="$PRIVATE_DIR/w/$name"
        status=0
        begun=$SECONDS
        make_dir "$PRIVATE_DIR/w"
        make_dir "$work"
        run_logged "$log" "$runner" "$work" "$dir/$name.sh" >/dev/null || status=$?
        took="$((SECONDS - begun)) s"
        case $status in
        0) passed=$((passed + 1)) && echo "ok       $name ($took)" ;;
        77) skipped=$((skipped + 1)) && echo "skipped  $name ($took): $(tail -n 1 "$log")" ;;
        *)
            failed=$((failed + 1))
            echo "FAILED   $name ($took, exit $status)"
            tail -n 100 "$log"
            { grep -A 6 -E '^(FAILED|ERROR|error)' "$log" || tail -n 12 "$log"; } |
                remember_failure "$PG_VERSION: $group $name"
            ;;
        esac
        # What a script started and left behind must not live on.
        stop_servers_below "$work"
        show_beside
    done
    record "PostgreSQL $PG_VERSION" "$group" "$passed" "$failed" "$skipped" "$start"
}

# pg_test/scripts: on every version, as the server's user, on the copy.
run_scripts() {
    local names
    mapfile -t names < <(scripts_of scripts scripts)
    run_script_group scripts "$PRIVATE_DIR/project/pg_test/scripts" as_server_script "${names[@]}"
}

as_server_script() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    in_server_env WORK="$1" PROJECT="$PRIVATE_DIR/project" SOAK="$SOAK" \
        sh -c 'cd "$WORK" && exec "$@"' sh timeout -k 10 "$SCRIPT_TIMEOUT" "$2"
}

# Programs of the client that --only names, each in a database of its own and with ATTACH, where it is set, as options
# of attach. A name may have options: 'client:model --seed 7'. In a run of all tests it is scripts that run programs.
run_client() {
    local start=$SECONDS log passed=0 failed=0 programs program arguments
    mapfile -t programs < <(chosen client)
    for program in "${programs[@]}"; do
        read -ra arguments <<<"$program"
        log="$LOGS/pg$PG_VERSION/client-${arguments[0]}.log"
        say "PostgreSQL $PG_VERSION: client $program"
        in_server_env psql -qX -c 'DROP DATABASE IF EXISTS client' -c 'CREATE DATABASE client' 2>/dev/null
        if run_logged "$log" in_server_env PGDATABASE=client ATTACH="${ATTACH:-}" \
            "$PRIVATE_DIR/project/client" "${arguments[@]}"; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
    record "PostgreSQL $PG_VERSION" client "$passed" "$failed" 0 "$start"
}

# pg_test/once_per_run: on one version per run, as the caller, on the clone: what builds.
# Such a script gets the helpers by `source "$ROOT/scripts/lib.sh"` and
# `use_server "$PG_VERSION"`; the server's lock is held for it, the server is to
# stay as it is: what installs does so into a copy. It may build, and gets twice the time.
run_once() { # SCRIPT...
    run_script_group once "$ROOT/pg_test/once_per_run" as_caller_script "$@"
}

as_caller_script() (
    cd "$1" || exit
    exec timeout -k 10 $((2 * SCRIPT_TIMEOUT)) env -u RUST_BACKTRACE \
        ROOT="$ROOT" PROJECT_ROOT="$ROOT" PROJECT="$PRIVATE_DIR/project" WORK="$1" SOAK="$SOAK" ASSERT="$ASSERT" \
        PG_CONFIG="$PG_CONFIG_PATH" PG_VERSION="$PG_VERSION" PG_BIN="$PG_BIN" PG_LIB="$PG_LIB" \
        CLUSTER_HOME="$CLUSTER_HOME" CLUSTER_SOCKET="$CLUSTER_SOCKET" \
        PGHOST="$CLUSTER_SOCKET" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres "$2"
)

# --- the run -------------------------------------------------------------------

# on_cluster GROUP...: one after the other, in a cluster of their own; 'once NAME...' are some of a group.
on_cluster() {
    local group
    make_private_dir
    copy_project
    start_test_cluster
    # shellcheck disable=SC2086 # the group and its names
    for group in "$@"; do run_$group; done
    cp "$PRIVATE_DIR/c/server.log" "$LOGS/pg$PG_VERSION/server${LANE:+-$LANE}.log" 2>/dev/null || true
    stop_cluster "$PRIVATE_DIR/c/data"
    remove_private_dir
}

test_version() {
    local sql scripts once=()
    mapfile -t sql < <(wanted_of regress isolation)
    mapfile -t scripts < <(wanted_of scripts client)
    if [ "$1" = "$ONCE_ON" ]; then
        mapfile -t -O "${#sql[@]}" sql < <(wanted_of isolation_by_sql)
        mapfile -t once < <(scripts_of once once_per_run)
    fi
    use_server "$1"
    lock_server "$1" # what runs beside this holds it, too, and on
    mkdir -p "$LOGS/pg$1"
    rm -rf "${LOGS:?}/pg$1"/*
    if wanted unit; then run_unit_tests; fi
    if [ $((${#sql[@]} + ${#scripts[@]} + ${#once[@]})) -gt 0 ] && install_extension; then
        if [ -n "$SIDE_BY_SIDE" ]; then
            # It takes longest, and most of it is SQL.
            if [ "${once[0]:-}" = assert ]; then
                sql+=('once assert')
                once=("${once[@]:1}")
            fi
            if [ ${#sql[@]} -gt 0 ]; then beside sql "${sql[@]}"; fi
            if [ ${#scripts[@]} -gt 0 ]; then beside scripts "${scripts[@]}"; fi
            if [ ${#once[@]} -gt 0 ]; then on_cluster "once ${once[*]}"; fi
        else
            on_cluster "${sql[@]}" "${scripts[@]}" ${once:+"once ${once[*]}"}
        fi
    fi
    exec 9>&-
}

print_table() {
    local where group passed failed skipped seconds
    printf '\n%-14s %-16s %8s %8s %8s %9s\n' where group passed failed skipped seconds
    while IFS='|' read -r where group passed failed skipped seconds; do
        printf '%-14s %-16s %8s %8s %8s %9s\n' "$where" "$group" "$passed" "$failed" "$skipped" "$seconds"
    done < <(sort -s -t '|' -k 1,1 "$RESULTS")
}

print_total() {
    awk -F '|' '
        { passed += $3; failed += $4; skipped += $5 }
        END {
            printf "%d passed, %d failed", passed, failed
            if (skipped) printf ", %d skipped", skipped
            print ""
            exit failed > 0
        }' "$RESULTS"
}

main() {
    local lint='' setup=() versions version
    while [[ ${1:-} == --* ]]; do
        case $1 in
        --lint) lint=yes ;;
        --assert) ASSERT=yes setup=(--assert) ;;
        --soak) SOAK=yes SCRIPT_TIMEOUT=7200 ;;
        --only) choose_tests "${2:-}" && shift ;;
        *) die "unknown option $1" ;;
        esac
        shift
    done
    versions=("${@#pg}")
    [ ${#versions[@]} -gt 0 ] || versions=("$(choose_version)")
    ONCE_ON=$(printf '%s\n' "${versions[@]}" | sort -n | tail -n 1)
    # Five builds in a row: their incremental data would be most of target/.
    if [ ${#versions[@]} -gt 1 ]; then export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-0}"; fi
    say "PostgreSQL ${versions[*]}"
    "$ROOT/scripts/setup.sh" "${setup[@]}" "${versions[@]}"
    clean_up_on_exit
    RESULTS=$(mktemp)
    FAILURES=$(mktemp)
    CLEAN_DIRS+=("$RESULTS" "$FAILURES")
    # In a soak one after the other: its figures are those of a machine that does nothing else.
    if [ -z "$SOAK" ] && { runs_all || [ ${#versions[@]} -gt 1 ]; }; then SIDE_BY_SIDE=yes; fi
    mkdir -p "$LOGS"
    if wanted scripts client once; then build_client; fi
    for version in "${versions[@]}"; do
        test_version "$version"
        # Beside the tests of the first version.
        if [ -n "$lint" ]; then run_lint; fi
        lint=
        show_beside
    done
    show_beside all
    print_table
    cat "$FAILURES"
    say "$((SECONDS / 60)) min $((SECONDS % 60)) s in all; logs are in $LOGS"
    print_total
}

main "$@"
