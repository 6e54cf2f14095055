#!/usr/bin/env bash
# Measures everything on one server and writes a line a figure to a file:
#   run.sh FILE      row, case, contender, figure (tab-separated); report.py makes tables of it
# The server is that of PGHOST, with the extension installed and nothing else going on; PG_BIN has its programs.
#   ROWS="B1 B3"     only these rows
#   RUNS=5           how often each contender is run; they take turns
#   FULL=1           the largest table of B6 has 20 million rows
#   QUICK=1          small tables and short runs: a test of the bench, not of the speed
#   RATE=1000        B10: completions a second that are offered
#   PGLEDGER=FOLDER  a copy of github.com/pgr0ss/pgledger, which then takes part in B9 and B10
# Each run is in a database of its own, a copy of a template, so that every contender finds the same tables.
# A run whose money is wrong is no figure: it ends the bench.
set -euo pipefail
: "${PG_BIN:?}" "${PGHOST:?}"
RESULTS=${1:?"file for the figures"}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PGOPTIONS='-c client_min_messages=error'

ROWS=${ROWS:-B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11}
RATE=${RATE:-1000}
if [ "${QUICK:-0}" = 1 ]; then
    RUNS=${RUNS:-1} USERS=200 WORKFLOWS=4000 BULK=1000 SETTLEMENTS=500 WARM_UP=100 CLIENTS_FOR=(-t 50)
    SIZES=(1000 2000) PASSES=1 ACCOUNT_ROWS=20000 TAX_ROWS=200 TAX_COPIES=1 TAX_PAIRS=2
    ZIPF=(2) ZIPF_USERS=1000 ZIPF_WORKFLOWS=4000 OFFERED_FOR=(-t 10) FILLS_CACHES=0
else
    RUNS=${RUNS:-5} USERS=10000 WORKFLOWS=200000 BULK=100000 SETTLEMENTS=20000 WARM_UP=1000 CLIENTS_FOR=(-T 8)
    SIZES=(1000 100000 200000) PASSES=10 ACCOUNT_ROWS=1000000 TAX_ROWS=10000 TAX_COPIES=4 TAX_PAIRS=10
    if [ "${FULL:-0}" = 1 ]; then SIZES[2]=2000000; fi
    # In its first seconds a client fills its caches: B10 leaves them out.
    ZIPF=(0 1 2) ZIPF_USERS=100000 ZIPF_WORKFLOWS=50000 OFFERED_FOR=(-T 17) FILLS_CACHES=2
fi
# Each run of B10 takes long, and has thousands of figures of its own.
ZIPF_RUNS=$((RUNS < 3 ? RUNS : 3)) ZIPF_CLIENTS=16

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

# platform DATABASE WORKFLOWS ACCOUNTS STATUS [EXPONENT]: made once. Each account has as many workflows as the others,
# or, with an exponent, as Zipf's law gives it.
platform() {
    local account="n::bigint * 31 % $3 + 1" draw=()
    has_database "$1" && return
    say "loading $1: $USERS users, $2 workflows of $3 accounts, $(($2 * 10)) usage rows"
    admin -d postgres -c "CREATE DATABASE \"$1\""
    admin -d "$1" -f "$HERE/schema.sql"
    if [ -n "${5:-}" ]; then
        draw=(-v accounts="$3" -v exponent="$5" -f "$HERE/zipf.sql")
        account='(SELECT d.account FROM draw AS d WHERE d.workflow = n)'
    fi
    admin -d "$1" -v users="$USERS" -v workflows="$2" -v status="$4" -v account="$account" "${draw[@]}" -f "$HERE/load.sql"
}

# with PLATFORM CONTENDER: its template, made once. The floor and the application side need nothing in the database.
with() {
    template=$1
    case $2 in
    twin | extension | litellm)
        template=${1}_$2
        has_database "$template" && return
        copy "$1" "$template"
        admin -d "$template" -o /dev/null -f "$HERE/$2.sql"
        ;;
    pgledger)
        template=${1}_$2
        has_database "$template" && return
        copy "$1" "$template"
        app -d "$template" -o /dev/null "${PGLEDGER_SQL[@]/#/-f}" -f "$HERE/pgledger.sql"
        admin -d "$template" -c 'VACUUM (FREEZE, ANALYZE)'
        ;;
    esac
}

# fresh PLATFORM CONTENDER: the database "run" is a copy with the contender in it.
fresh() {
    if [ "$2" = queue ]; then
        fresh "$1" extension
        attach_again run "busy_account => 'queue'"
        return
    fi
    with "$1" "$2"
    copy "$template" run
}

# attach_again DATABASE OPTION: what attach may be told.
attach_again() {
    admin -d "$1" -o /dev/null -c 'SELECT token_balance.detach()' -c "SELECT token_balance.attach('app.users',
        'app.token_usage', 'app.workflows', existing_usage => 'charge', $2)"
}

# --- measuring ---------------------------------------------------------------------

# measure DATABASE WARM_UP WORK [psql arguments]: queries that answer the statements to be run. Sets ms and cpu (µs).
measure() {
    local database=$1 warm_up=$2 work=$3 answer
    shift 3
    answer=$(app -d "$database" -v warm_up="$warm_up" -v work="$work" "$@" -f "$HERE/measure.sql") || die "$work"
    IFS='|' read -r ms cpu <<<"$answer"
}

# pgbench_run NUMBER SCRIPT ACCOUNTS OPTION ...: pgbench on "run" with so many clients. Sets tps and completed.
pgbench_run() {
    local number=$1 script=$2 accounts=$3 log
    shift 3
    log=$(PGUSER=app PGOPTIONS="$PGOPTIONS -c search_path=app,public" "$PG_BIN/pgbench" -n -M prepared \
        -c "$number" -j 2 "$@" -f "$HERE/$script" -D i=0 -D clients="$number" -D workflows="$WORKFLOWS" \
        -D accounts="$accounts" run 2>&1) || die "$log"
    if grep -qE '^number of failed transactions: [1-9]' <<<"$log"; then die "$log"; fi
    tps=$(sed -nE 's/^tps = ([0-9.]+).*/\1/p' <<<"$log")
    completed=$(sed -nE 's/^number of transactions actually processed: ([0-9]+).*/\1/p' <<<"$log")
    if [ "$completed" -gt "$WORKFLOWS" ]; then die "there were too few workflows for $completed completions"; fi
}

# clients NUMBER SCRIPT ACCOUNTS: as many completions as they can make. Sets tps and completed.
clients() { pgbench_run "$@" "${CLIENTS_FOR[@]}"; }

# offered SCRIPT ACCOUNTS: $RATE completions a second, at random moments, whatever the server makes of them. Sets tps,
# completed, and percentiles of the latencies in ms. A latency counts from the moment at which the completion was due.
offered() {
    local logs start
    logs=$(mktemp -d)
    start=$(date +%s)
    pgbench_run "$ZIPF_CLIENTS" "$1" "$2" "${OFFERED_FOR[@]}" --rate="$RATE" --log --log-prefix="$logs/pgbench"
    # client, number, latency in µs, script, seconds and µs of the end, lag
    read -r p50 p99 p999 < <(awk -v from=$((start + FILLS_CACHES)) '$5 >= from { print $3 }' "$logs"/* |
        sort -n | awk -f "$HERE/percentiles.awk")
    rm -r "$logs"
}

# The script with which a contender completes a workflow.
script() {
    case $1 in
    application | litellm | pgledger) echo "$1.pgbench" ;;
    *) echo complete.pgbench ;; # a trigger does the rest, or nobody
    esac
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
    local problems
    case $1 in
    twin) problems=$(admin -d run -v ledger=twin -v settled="$2" -f "$HERE/check.sql") ;;
    extension | queue)
        if [ "$1" = queue ]; then admin -d run -o /dev/null -c 'SELECT token_balance.settle_pending()'; fi
        problems=$(admin -d run -v ledger=token_balance -v settled="$2" -f "$HERE/check.sql")
        problems+=$(admin -d run -c 'SELECT * FROM token_balance.reconcile() LIMIT 3')
        ;;
    litellm | pgledger) problems=$(admin -d run -v settled="$2" -f "$HERE/check_$1.sql") ;;
    *) return 0 ;; # they keep no ledger
    esac
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
            clients 4 "$(script "$contender")" "$USERS"
            if [ "$contender" = application ]; then figure B2 lost "$contender" "$(lost_tokens)"; fi
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
            figure B3 cpu "$contender" "$(awk "BEGIN { printf \"%.2f\", $cpu / $BULK }")"
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
            figure B4 cpu "$contender" "$(awk "BEGIN { printf \"%.2f\", $cpu / $BULK }")"
            # The second half against the first: memory that grows with the work shows.
            figure B4 memory "$contender" "$(awk '{ kb[NR] = $1 } END {
                for (i = 1; i <= NR; i++) { half = i * 2 > NR; if (kb[i] > peak[half]) peak[half] = kb[i] }
                printf "%d %d", peak[0], peak[1] }' "$samples")"
        done
    done
    rm "$samples"
}

B5() {
    local run contender
    platform hot "$WORKFLOWS" 1 running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in floor application twin extension queue; do
            fresh hot "$contender"
            clients 16 "$(script "$contender")" 1
            case $contender in
            application) figure B5 lost "$contender" "$(lost_tokens)" ;;
            queue)
                figure B5 queued "$contender" "$(admin -d run -c "SELECT $completed - count(*) FROM token_balance.ledger")"
                ;;
            esac
            right "$contender" "$completed"
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

B9() {
    local run contender
    platform base "$WORKFLOWS" "$USERS" running
    for ((run = 1; run <= RUNS; run++)); do
        for contender in floor twin extension "${PEERS[@]}"; do
            fresh base "$contender"
            clients 4 "$(script "$contender")" "$USERS"
            right "$contender" "$completed"
            figure B9 completions "$contender" "$tps"
        done
    done
}

B10() {
    local run exponent contender WORKFLOWS=$ZIPF_WORKFLOWS USERS=$ZIPF_USERS p50 p99 p999
    size B10 "$RATE"
    for exponent in "${ZIPF[@]}"; do
        platform "zipf_$exponent" "$WORKFLOWS" "$USERS" running "$exponent"
        for ((run = 1; run <= ZIPF_RUNS; run++)); do
            for contender in floor twin extension queue "${PEERS[@]}"; do
                fresh "zipf_$exponent" "$contender"
                offered "$(script "$contender")" "$USERS"
                right "$contender" "$completed"
                figure B10 "Zipf $exponent p50" "$contender" "$p50"
                figure B10 "Zipf $exponent p99" "$contender" "$p99"
                figure B10 "Zipf $exponent p99.9" "$contender" "$p999"
                figure B10 "Zipf $exponent reached" "$contender" "$tps"
            done
        done
    done
}

# A copy of the whole server, in a folder beside the figures, which follows it. From now on commits wait until it has
# them on disk.
start_standby() {
    local setting options sync=()
    STANDBY=$(cd "$(dirname "$RESULTS")" && pwd)/standby
    trap stop_standby EXIT
    if [ "$(admin -d postgres -c 'SHOW fsync')" = off ]; then sync=(--no-sync); fi
    PGUSER=postgres "$PG_BIN/pg_basebackup" -D "$STANDBY" --checkpoint=fast --write-recovery-conf "${sync[@]}"
    options="-c listen_addresses='' -c unix_socket_directories='$STANDBY' -p ${PGPORT:-5432}"
    for setting in fsync shared_buffers; do options+=" -c $setting=$(admin -d postgres -c "SHOW $setting")"; done
    "$PG_BIN/pg_ctl" -D "$STANDBY" -l "$STANDBY/server.log" -o "$options" -w start >/dev/null ||
        die "$(tail "$STANDBY/server.log")"
    admin -d postgres -o /dev/null -c "ALTER SYSTEM SET synchronous_standby_names = '*'" -c 'SELECT pg_reload_conf()'
}

stop_standby() {
    trap - EXIT
    # First nobody may wait for it any more.
    admin -d postgres -o /dev/null -c 'ALTER SYSTEM RESET synchronous_standby_names' \
        -c 'SELECT pg_reload_conf()' || true
    "$PG_BIN/pg_ctl" -D "$STANDBY" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$STANDBY"
}

# Commits wait for the standby, and it has done all that was written so far.
await_standby() {
    local written tries
    written=$(admin -d postgres -c 'SELECT pg_current_wal_flush_lsn()')
    for ((tries = 0; tries < 1200; tries++)); do
        if [ "$(admin -d postgres -c 'SELECT sync_state FROM pg_stat_replication')" = sync ] &&
            [ "$(PGHOST=$STANDBY admin -d postgres -c "SELECT pg_last_wal_replay_lsn() >= '$written'")" = t ]; then
            return
        fi
        sleep 0.05
    done
    die "the standby does not follow"
}

# What a commit pays for a standby that must have it on disk, too; here it is one of the same machine. The money is
# looked at on the standby.
B11() {
    local run contender database contenders=(floor twin extension)
    [ "$(admin -d postgres -c 'SHOW synchronous_commit')" = on ] || die "B11 wants synchronous_commit = on"
    platform base "$WORKFLOWS" "$USERS" running
    for contender in "${contenders[@]}"; do with base "$contender"; done
    # The standby begins as a copy of all that there is.
    for database in $(admin -d postgres -c "SELECT datname FROM pg_database WHERE NOT datistemplate
        AND datname NOT IN ('postgres', 'base', 'base_twin', 'base_extension')"); do drop "$database"; done
    start_standby
    for ((run = 1; run <= RUNS; run++)); do
        for contender in "${contenders[@]}"; do
            fresh base "$contender"
            await_standby
            clients 4 "$(script "$contender")" "$USERS"
            await_standby
            PGHOST=$STANDBY right "$contender" "$completed"
            figure B11 completions "$contender" "$tps"
        done
    done
    stop_standby
}

# --- the run ---------------------------------------------------------------------------

if [ ! -r /proc/self/schedstat ]; then die "there is no /proc/self/schedstat here: CPU time cannot be told"; fi
: >"$RESULTS"
admin -d postgres -c "DO \$\$ BEGIN IF to_regrole('app') IS NULL THEN CREATE ROLE app LOGIN; END IF; END \$\$"
PEERS=(litellm) PGLEDGER_SQL=()
if [ -n "${PGLEDGER:-}" ]; then
    # As its page says: first the functions of others that it brings along.
    PGLEDGER_SQL=("$PGLEDGER"/vendor/*/*.sql "$PGLEDGER/pgledger.sql")
    for file in "${PGLEDGER_SQL[@]}"; do [ -r "$file" ] || die "PGLEDGER: there is no $file"; done
    PEERS+=(pgledger)
elif [[ " $ROWS " =~ ' B9 '|' B10 ' ]]; then
    say 'PGLEDGER names no folder: B9 and B10 are without pgledger'
fi
for row in $ROWS; do
    [[ $row =~ ^B([1-9]|10|11)$ ]] || die "ROWS has $row; there are B1 to B11"
    say "$row"
    "$row"
done
