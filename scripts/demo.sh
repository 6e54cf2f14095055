#!/usr/bin/env bash
# The main job, shown: builds a release, makes a private cluster with a small
# workflow platform in it, completes its workflows, reports what was charged and
# follows one account on: credit, refund, statement, summary.
#   TRACE=file.csv    settle the requests of a trace in place of made-up usage
#   PG=16             which PostgreSQL (default: the newest that is installed)
# Fails when a total disagrees or reconcile() finds something. Its cluster stays
# for psql.sh; clean.sh removes it.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/demo/cluster.sh"

SQL="$ROOT/scripts/demo"
TRACE_FILE=          # the trace, checked and without its header
TRACE_TOTALS=(0 0 0) # rows, context and generated tokens, added up from the file

# --- the trace -------------------------------------------------------------------

# Before anything is built: a bad file should not cost minutes.
check_trace() {
    [ -n "${TRACE:-}" ] || return 0
    [ -e "$TRACE" ] || die "TRACE=$TRACE: no such file"
    [ -f "$TRACE" ] || die "TRACE=$TRACE is not a file"
    [ -r "$TRACE" ] || die "TRACE=$TRACE cannot be read"
    TRACE_FILE=$(mktemp /tmp/tb.XXXXXX)
    CLEAN_DIRS+=("$TRACE_FILE")
    awk -f "$SQL/check_trace.awk" -v name="$TRACE" "$TRACE" >"$TRACE_FILE" ||
        die "TRACE wants a CSV file with the columns TIMESTAMP,ContextTokens,GeneratedTokens"
    read -ra TRACE_TOTALS <<<"$(awk -F , '
        { context += $2; generated += $3 }
        END { printf "%d %.0f %.0f\n", NR, context, generated }' "$TRACE_FILE")"
}

# --- the steps -------------------------------------------------------------------

run_sql() {
    local file=$1
    shift
    demo_psql "$@" -f - <"$SQL/$file"
}

load_platform() {
    say "a workflow platform: users, workflows, token_usage"
    in_server_env "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -c 'CREATE DATABASE demo'
    run_sql schema.sql
    if [ -n "$TRACE_FILE" ]; then
        demo_psql -c '\copy demo.trace (happened_at, context_tokens, generated_tokens) FROM pstdin (FORMAT csv)' \
            <"$TRACE_FILE" || die "TRACE=$TRACE does not load"
        run_sql users_of_trace.sql
    else
        run_sql users.sql
    fi
}

load_usage() {
    say "new runs and their usage"
    if [ -n "$TRACE_FILE" ]; then run_sql usage_of_trace.sql; else run_sql usage.sql; fi
    run_sql summary.sql
}

# Several processes complete the same runs and call the function for them as
# well, again and again, as retries do.
race() {
    local way='4 clients racing over the same runs' runs
    runs=$(demo_psql -At -c "SELECT count(*) FROM demo.run WHERE way = 'race'")
    demo_psql -c "SELECT demo.start('$way')" >/dev/null
    if ! in_server_env PGDATABASE=demo PGOPTIONS='-c role=platform' "$PG_BIN/pgbench" \
        -n -c 4 -j 2 -t "$((runs / 2 + 1))" -D "runs=$runs" --random-seed=1 -f - \
        <"$SQL/race.pgbench" >"$DEMO_DIR/race.log" 2>&1; then
        cat "$DEMO_DIR/race.log" >&2
        die "a client of the race failed"
    fi
    demo_psql -c "SELECT demo.finish('$way')" >/dev/null
}

complete_runs() {
    say "completing every run, in four ways"
    run_sql ways.sql
    race
    run_sql complete.sql
}

report() {
    say "report"
    run_sql report.sql -v "traced=$([ -n "$TRACE_FILE" ] && echo true || echo false)" -v "file_rows=${TRACE_TOTALS[0]}" \
        -v "file_context=${TRACE_TOTALS[1]}" -v "file_generated=${TRACE_TOTALS[2]}"
    say "an account afterwards: late usage, credit, refund, statement, summary"
    run_sql account.sql
    say "totals and checks"
    run_sql checks.sql
}

main() {
    local version
    clean_up_on_exit
    check_trace
    cd "$ROOT" # only now: TRACE is relative to where the caller is
    version=$(choose_version)
    "$ROOT/scripts/setup.sh" "$version"
    use_server "$version"
    lock_server "$version"
    install_release "${CARGO_TARGET_DIR:-$ROOT/target}/demo-build.log"
    create_demo_cluster
    start_demo_cluster
    load_platform
    say "CREATE EXTENSION token_balance"
    run_sql extension.sql
    load_usage
    complete_runs
    report
    say "make psql opens this database, make clean removes it"
}

main "$@"
