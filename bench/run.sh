#!/usr/bin/env bash
# Measures everything on one server and writes a line a figure to a file:
#   run.sh FILE      row, case, contender, figure (tab-separated); report.py makes tables of it
# The server is that of PGHOST, with the extension installed and nothing else going on; PG_BIN has its programs.
#   ROWS="B1 B3"     only these rows
#   RUNS=5           how often each contender is run; they take turns
#   FULL=1           the largest table of B6 has 20 million rows
#   QUICK=1          small tables and short runs: a test of the bench, not of the speed
# Each run is in a database of its own, a copy of a template, so that every contender finds the same tables.
# A run whose money is wrong is no figure: it ends the bench.
set -euo pipefail
: "${PG_BIN:?}" "${PGHOST:?}"
RESULTS=${1:?"file for the figures"}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PGOPTIONS='-c client_min_messages=error'

ROWS=${ROWS:-B1 B2 B3 B4 B5 B6 B7 B8}
if [ "${QUICK:-0}" = 1 ]; then
    RUNS=${RUNS:-1} USERS=200 WORKFLOWS=4000 BULK=1000 SETTLEMENTS=500 WARM_UP=100 CLIENTS_FOR=(-t 50)
    SIZES=(1000 2000) PASSES=1 ACCOUNT_ROWS=20000 TAX_ROWS=200 TAX_COPIES=1 TAX_PAIRS=2
else
    RUNS=${RUNS:-5} USERS=10000 WORKFLOWS=200000 BULK=100000 SETTLEMENTS=20000 WARM_UP=1000 CLIENTS_FOR=(-T 8)
    SIZES=(1000 100000 200000) PASSES=10 ACCOUNT_ROWS=1000000 TAX_ROWS=10000 TAX_COPIES=4 TAX_PAIRS=10
    if [ "${FULL:-0}" = 1 ]; then SIZES[2]=2000000; fi
fi

say() { printf '==> %s\n' "$*"; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# psql as the owner of the cluster, and as the application's role.
admin() { PGUSER=postgres "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }
app() { PGUSER=app PGOPTIONS="$PGOPTIONS -c search_path=app,public" "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }

# figure ROW CASE CONTENDER VALUE
figure() {
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$RESULTS"
    echo "    $1 $2, $3: $4"
}

# size ROW NUMBER: of what the row's title tells.
size() { printf '%s\tsize\t-\t%s\n' "$@" >>"$RESULTS"; }

# --- databases -------------------------------------------------------------------

has_database() { [ -n "$(admin -d postgres -c "SELECT 1 FROM pg_database WHERE datname = '$1'")" ]; }

# copy TEMPLATE DATABASE: a fresh copy, in memory as far as the server has room, with nothing left to be written.
copy() {
    local strategy=
    if [ "$(admin -d postgres -c 'SHOW server_version_num')" -ge 150000 ]; then strategy='STRATEGY file_copy'; fi
    drop "$2"
    admin -d postgres -c "CREATE DATABASE \"$2\" TEMPLATE \"$1\" $strategy"
    admin -d "$2" -o /dev/null -c "SELECT sum(pg_prewarm(c.oid)) FROM pg_class AS c
        WHERE c.relkind IN ('r', 'i') AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        AND NOT c.relisshared AND c.relpersistence = 'p'" -c CHECKPOINT
}

drop() { admin -d postgres -c "DROP DATABASE IF EXISTS \"$1\""; }

# platform DATABASE WORKFLOWS ACCOUNTS STATUS: made once.
platform() {
    has_database "$1" && return
    say "loading $1: $USERS users, $2 workflows of $3 accounts, $(($2 * 10)) usage rows"
    admin -d postgres -c "CREATE DATABASE \"$1\""
    admin -d "$1" -f "$HERE/schema.sql"
    admin -d "$1" -v users="$USERS" -v workflows="$2" -v accounts="$3" -v status="$4" -f "$HERE/load.sql"
}

# with PLATFORM CONTENDER: its template, made once. The floor and the application side need nothing in the database.
with() {
    template=$1
    case $2 in
    twin | extension)
        template=${1}_$2
        has_database "$template" && return
        copy "$1" "$template"
        admin -d "$template" -f "$HERE/$2.sql"
        ;;
    esac
}

# fresh PLATFORM CONTENDER: the database "run" is a copy with the contender in it.
fresh() {
    with "$1" "$2"
    copy "$template" run
}

# --- measuring ---------------------------------------------------------------------

# measure DATABASE WARM_UP WORK [psql arguments]: queries that answer the statements to be run. Sets ms and cpu (µs).
measure() {
    local database=$1 warm_up=$2 work=$3 answer
    shift 3
    answer=$(app -d "$database" -v warm_up="$warm_up" -v work="$work" "$@" -f "$HERE/measure.sql") || die "$work"
    IFS='|' read -r ms cpu <<<"$answer"
}

# clients NUMBER SCRIPT ACCOUNTS: pgbench on "run". Sets tps and completed.
clients() {
    local log
    log=$(PGUSER=app PGOPTIONS="$PGOPTIONS -c search_path=app,public" "$PG_BIN/pgbench" -n -M prepared \
        -c "$1" -j 2 "${CLIENTS_FOR[@]}" -f "$HERE/$2" -D i=0 -D clients="$1" -D workflows="$WORKFLOWS" \
        -D accounts="$3" run 2>&1) || die "$log"
    tps=$(sed -nE 's/^tps = ([0-9.]+).*/\1/p' <<<"$log")
    completed=$(sed -nE 's/^number of transactions actually processed: ([0-9]+).*/\1/p' <<<"$log")
    if [ "$completed" -gt "$WORKFLOWS" ]; then die "there were too few workflows for $completed completions"; fi
}

# The statements that settle the workflows of two steps' range, 500 each: workflows_by FUNCTION FROM TO WORKFLOWS
settling() {
    cat <<SQL
SELECT format('SELECT count($1(bench.workflow(step, $4))) FROM generate_series(%s::bigint, %s) AS step', first, least(first + 499, $3))
FROM generate_series($2::bigint, $3, 500) AS first
SQL
}

settle_function() { if [ "$1" = twin ]; then echo twin.settle; else echo settle_workflow; fi; }

# right CONTENDER SETTLED: the money in "run" adds up.
right() {
    local ledger problems
    case $1 in
    twin) ledger=twin ;;
    extension) ledger=token_balance ;;
    *) return 0 ;; # they keep no ledger
    esac
    problems=$(admin -d run -v ledger="$ledger" -v settled="$2" -f "$HERE/check.sql")
    if [ "$1" = extension ]; then
        problems+=$(admin -d run -c 'SELECT * FROM token_balance.reconcile() LIMIT 3')
    fi
    [ -z "$problems" ] || die "$1: the money is wrong: $problems"
}

# What of the completed workflows' usage the application failed to deduct.
lost_tokens() {
    admin -d run -c "SELECT round(100 * (1 - (SELECT sum(100000000 - token_balance) FROM app.users)
        / (SELECT sum(u.total_tokens) FROM app.token_usage AS u JOIN app.workflows AS w ON w.id = u.workflow_id
           WHERE w.status = 'completed')::numeric), 2)"
}

# --- the rows ------------------------------------------------------------------------

B1() {
    local run contender settle
    size B1 "$SETTLEMENTS"
    platform base "$WORKFLOWS" "$USERS" running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in twin extension; do
            fresh base "$contender"
            settle=$(settle_function "$contender")
            measure run "$(settling "$settle" 1 "$WARM_UP" "$WORKFLOWS")" \
                "$(settling "$settle" $((WARM_UP + 1)) $((WARM_UP + SETTLEMENTS)) "$WORKFLOWS")"
            right "$contender" $((WARM_UP + SETTLEMENTS))
            figure B1 settlement "$contender" "$(awk "BEGIN { printf \"%.2f\", $cpu / $SETTLEMENTS }")"
        done
    done
}

B2() {
    local run contender
    platform base "$WORKFLOWS" "$USERS" running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in floor application twin extension; do
            fresh base "$contender"
            if [ "$contender" = application ]; then
                clients 4 application.pgbench "$USERS"
                figure B2 lost "$contender" "$(lost_tokens)"
            else
                clients 4 complete.pgbench "$USERS"
            fi
            right "$contender" "$completed"
            figure B2 completions "$contender" "$tps"
        done
    done
}

B3() {
    local run contender
    size B3 "$BULK"
    platform base "$WORKFLOWS" "$USERS" running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in floor twin extension; do
            fresh base "$contender"
            measure run "SELECT 'UPDATE workflows SET status = ''completed'' WHERE number > $((WORKFLOWS - 10))'" \
                "SELECT 'UPDATE workflows SET status = ''completed'' WHERE number <= $BULK'"
            right "$contender" $((BULK + 10))
            figure B3 bulk "$contender" "$ms"
        done
    done
}

# The backend's own memory while a statement runs, in kB a line: the sample of memory of PID's.
sample_memory() {
    local pid
    until pid=$(admin -d postgres -c "SELECT pid FROM pg_stat_activity WHERE application_name = 'bench backlog'") && [ -n "$pid" ]; do
        sleep 0.05
    done
    while awk '$1 == "RssAnon:" { print $2 }' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
}

B4() {
    local run contender samples sampler work
    size B4 "$BULK"
    platform backlog "$BULK" "$USERS" completed
    samples=$(mktemp)
    for ((run = 1; run <= RUNS; run++)); do
        for contender in loop backlog; do
            fresh backlog extension
            # As many commits either way.
            # shellcheck disable=SC2016 # dollar quotes of SQL
            work='SELECT $$CALL token_balance.settle_backlog(batch_size => 10000)$$'
            if [ "$contender" = loop ]; then
                # shellcheck disable=SC2016
                work='SELECT $$DO $do$ DECLARE workflow text; done integer := 0; BEGIN
                    FOR workflow IN SELECT id FROM workflows LOOP
                        PERFORM settle_workflow(workflow);
                        done := done + 1;
                        IF done % 10000 = 0 THEN COMMIT; END IF;
                    END LOOP;
                END $do$ $$'
            fi
            sample_memory >"$samples" &
            sampler=$!
            PGAPPNAME='bench backlog' measure run "$(settling settle_workflow 1 10 "$BULK")" "$work"
            # It may still be looking for a session that was over too soon.
            kill "$sampler" 2>/dev/null || true
            wait "$sampler" 2>/dev/null || true
            right extension "$BULK"
            figure B4 backlog "$contender" "$ms"
            # The second half against the first: memory that grows with the work shows.
            figure B4 memory "$contender" "$(awk '{ kb[NR] = $1 } END {
                for (i = 1; i <= NR; i++) { half = i * 2 > NR; if (kb[i] > peak[half]) peak[half] = kb[i] }
                printf "%d %d", peak[0], peak[1] }' "$samples")"
        done
    done
    rm "$samples"
}

# attach_again DATABASE OPTION: what attach may be told.
attach_again() {
    admin -d "$1" -o /dev/null -c 'SELECT token_balance.detach()' -c "SELECT token_balance.attach('app.users',
        'app.token_usage', 'app.workflows', existing_usage => 'charge', $2)"
}

B5() {
    local run contender
    platform hot "$WORKFLOWS" 1 running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in floor application twin extension queue; do
            case $contender in
            application)
                fresh hot "$contender"
                clients 16 application.pgbench 1
                figure B5 lost "$contender" "$(lost_tokens)"
                ;;
            queue)
                fresh hot extension
                attach_again run "busy_account => 'queue'"
                clients 16 complete.pgbench 1
                figure B5 queued queue "$(admin -d run -c "SELECT $completed - count(*) FROM token_balance.ledger")"
                admin -d run -c 'SELECT token_balance.settle_pending()' >/dev/null
                right extension "$completed"
                ;;
            *)
                fresh hot "$contender"
                clients 16 complete.pgbench 1
                right "$contender" "$completed"
                ;;
            esac
            figure B5 completions "$contender" "$tps"
        done
    done
}

# Settling all of SIZES[0] workflows and taking it back, so that a small table too gives a time that can be told:
# passes NUMBER SIZE
passes() {
    cat <<SQL
SELECT statement FROM generate_series(1, $1) AS pass, (
    SELECT 1, 'BEGIN' UNION ALL
    SELECT 2, settling FROM ($(settling settle_workflow 1 "${SIZES[0]}" "$2")) AS settling (settling) UNION ALL
    SELECT 3, 'ROLLBACK') AS steps (step, statement)
ORDER BY pass, step
SQL
}

B6() {
    local run size
    for size in "${SIZES[@]}"; do
        platform "size_$size" "$size" "$USERS" running
    done
    for ((run = 1; run <= RUNS; run++)); do
        for size in "${SIZES[@]}"; do
            fresh "size_$size" extension
            measure run "$(passes 1 "$size")" "$(passes "$PASSES" "$size")"
            echo "$(settling settle_workflow 1 "${SIZES[0]}" "$size") \\gexec" | app -d run -o /dev/null
            right extension "${SIZES[0]}"
            figure B6 "$((size * 10))" extension "$(awk "BEGIN { printf \"%.2f\", $ms * 1000 / (${SIZES[0]} * $PASSES) }")"
        done
    done
}

# tax CASE DATABASE REPETITION: one sample of a statement that settles nothing. Sets cpu.
tax() {
    local first=$((($3 - 1) * TAX_ROWS)) statement
    case $1 in
    insert)
        statement="DO \$\$ BEGIN FOR i IN 1..$TAX_ROWS LOOP
            INSERT INTO token_usage (workflow_id, user_id, stage, model, prompt_tokens, completion_tokens, total_tokens, created_at)
            VALUES ('run-' || $first + i, 'user-' || i % $USERS, 'draft', 'large', 500, 100, 600, now());
        END LOOP; END \$\$"
        ;;
    'insert of many')
        statement="INSERT INTO token_usage (workflow_id, user_id, stage, model, prompt_tokens, completion_tokens, total_tokens, created_at)
            SELECT 'run-' || $first + i, 'user-' || i % $USERS, 'draft', 'large', 500, 100, 600, now() FROM generate_series(1, $TAX_ROWS) AS i"
        ;;
    update)
        statement="DO \$\$ BEGIN FOR i IN 1..$TAX_ROWS LOOP
            UPDATE workflows SET progress = progress + 1 WHERE id = 'run-' || $first + i;
        END LOOP; END \$\$"
        ;;
    'update of many')
        # Not the rows of the case above: each is updated once.
        first=$((WORKFLOWS / 2 + first))
        statement="UPDATE workflows SET progress = progress + 1 WHERE number > $first AND number <= $((first + TAX_ROWS))"
        ;;
    esac
    measure "$2" 'SELECT 1 WHERE false' "SELECT :'statement'" -v statement="$statement"
}

# A hundredth is looked for: they take turns, a short time each, and one of them is without the extension once more,
# which shows how much two equal things differ here.
B7() {
    local copies repetition case database databases=(without again with late)
    platform base "$WORKFLOWS" "$USERS" running
    with base extension
    for ((copies = 1; copies <= TAX_COPIES; copies++)); do
        copy base without
        copy base again
        copy base_extension with
        copy base_extension late
        attach_again late "late_usage => 'settle'"
        for database in "${databases[@]}"; do
            # Its own visits would come to one and not to the other.
            admin -d "$database" -c 'ALTER TABLE app.token_usage SET (autovacuum_enabled = off)' \
                -c 'ALTER TABLE app.workflows SET (autovacuum_enabled = off)'
        done
        for ((repetition = 1; repetition <= TAX_PAIRS; repetition++)); do
            for case in insert 'insert of many' update 'update of many'; do
                for database in "${databases[@]}"; do
                    tax "$case" "$database" "$repetition"
                    figure B7 "$case" "$database" "$(awk "BEGIN { printf \"%.3f\", $cpu / $TAX_ROWS }")"
                done
                databases=("${databases[@]:1}" "${databases[0]}") # nobody is always first
            done
        done
        for database in "${databases[@]}"; do drop "$database"; done
    done
}

B8() {
    local run answer
    size B8 $((ACCOUNT_ROWS / 10))
    if ! has_database account; then
        say "loading account: one with $((ACCOUNT_ROWS / 10)) usage rows of $ACCOUNT_ROWS"
        admin -d postgres -c 'CREATE DATABASE account'
        admin -d account -f "$HERE/schema.sql"
        admin -d account -v users="$USERS" -v rows="$ACCOUNT_ROWS" -f "$HERE/account.sql"
    fi
    fresh account extension
    answer=$(app -d run -c "SELECT token_balance.summary('user-1') #>> '{summary,total_tokens}' = sum(total_tokens)::text
        FROM token_usage WHERE user_id = 'user-1'")
    [ "$answer" = t ] || die "summary and queries differ"
    for ((run = 1; run <= RUNS; run++)); do
        summary="SELECT 'SELECT token_balance.summary(''user-1'')'"
        measure run "$summary" "$summary"
        figure B8 dashboard extension "$ms"
        queries="SELECT query FROM (SELECT regexp_split_to_table(:'queries', ';\\n*')) AS q (query) WHERE query <> ''"
        measure run "$queries" "$queries" -v queries="$(grep -v '^--' "$HERE/account_queries.sql")"
        figure B8 dashboard queries "$ms"
    done
}

# --- the run ---------------------------------------------------------------------------

if [ ! -r /proc/self/schedstat ]; then die "there is no /proc/self/schedstat here: CPU time cannot be told"; fi
: >"$RESULTS"
admin -d postgres -c "DO \$\$ BEGIN IF to_regrole('app') IS NULL THEN CREATE ROLE app LOGIN; END IF; END \$\$"
for row in $ROWS; do
    [[ $row =~ ^B[1-8]$ ]] || die "ROWS has $row; there are B1 to B8"
    say "$row"
    "$row"
done
