#!/usr/bin/env bash
# Crashes with fsync on, in a cluster of its own: a backend, or the postmaster (every second time with all its
# processes at once), is killed with SIGKILL while sessions settle, and one takes settled usage to an archive, in batches.
# After each restart: every settlement and credit whose commit was acknowledged is there, none is there twice, usage and
# archive are what was written, and the invariants hold. In a soak 20 cycles of each kind; CYCLES=n for others, SEED=n
# for another run's random choices (DESIGN E1, E2, Y1).
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/invariants.sh"
cycles=${CYCLES:-$([ -n "${SOAK:-}" ] && echo 20 || echo 3)} seed=${SEED:-$((RANDOM % 10000))} workers=4 batch=800
RANDOM=$seed
# A socket's path must be short.
sockets=$(mktemp -d)
export PGHOST=$sockets PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
data=$WORK/data
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -c "$1"; }
start() {
    for _ in $(seq 60); do # until the last process of the one before is gone
        "$PG_BIN/pg_ctl" -D "$data" -l "$WORK/server.log" -w -t 60 start >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 30 "$WORK/server.log"
    exit 1
}
clean() {
    local worker
    for worker in "${load[@]}"; do kill "$worker" 2>/dev/null || true; done
    "$PG_BIN/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$sockets" "$data"
}
load=()
trap clean EXIT
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}

rm -rf "$data" "$WORK"/acknowledged* "$WORK"/*.sql "$WORK"/*.log
"$PG_BIN/initdb" -D "$data" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$sockets'
port = 5432
fsync = on
CONF
start
psql 2>/dev/null <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text NOT NULL, user_id text NOT NULL REFERENCES users, total_tokens integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, status text NOT NULL DEFAULT 'running');
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users SELECT 'a' || g FROM generate_series(0, 15) AS g UNION ALL SELECT 'z'; -- z: credits, last in the order of accounts
CREATE EXTENSION token_balance SCHEMA public;
CREATE TABLE acknowledged (id text);
CREATE TABLE old_usage (LIKE token_usage, PRIMARY KEY (id));
CREATE VIEW written AS TABLE token_usage UNION ALL TABLE old_usage;
SQL
see_ledger
echo "fsync is $(value 'SHOW fsync'), synchronous_commit is $(value 'SHOW synchronous_commit'), seed $seed, $cycles cycles of each kind"
touch "$WORK/acknowledged"

# What a session does, by workflow: settle by the trigger; by the function; usage, completion and function in one
# transaction; function with a credit. Each can be done again, as a client does that got no answer. The echo is
# reached when the commit was acknowledged.
workload() {
    psql -At -v "seed=$1" <<'SQL'
SELECT CASE substring(id FROM 2)::integer % 4
    WHEN 0 THEN format(E'UPDATE workflows SET status = ''completed'' WHERE id = %1$L;\n\\echo %1$s', id)
    WHEN 1 THEN format(E'SELECT settle_workflow(%1$L) \\g /dev/null\n\\echo %1$s', id)
    WHEN 2 THEN format(E'BEGIN;\nINSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT %1$L, ''a'' || g, 40'
        ' FROM generate_series(3, 5) AS g WHERE NOT EXISTS (SELECT FROM written WHERE workflow_id = %1$L);\n'
        'UPDATE workflows SET status = ''completed'' WHERE id = %1$L;\n'
        'SELECT settle_workflow(%1$L) \\g /dev/null\nCOMMIT;\n\\echo %1$s', id)
    ELSE format(E'BEGIN;\nSELECT settle_workflow(%1$L), token_balance.credit(''z'', 9, %1$L) \\g /dev/null\nCOMMIT;\n\\echo %1$s', id)
END
FROM workflows WHERE id NOT IN (SELECT id FROM acknowledged) ORDER BY md5(id || :'seed');
SQL
}

# What the session that archives does: batch after batch, each a transaction of its own.
seq 20000 | sed "s|.*|SELECT token_balance.archive_usage(clock_timestamp(), 'old_usage', max_workflows => 20) \\\\g /dev/null|" >"$WORK/archiver.sql"

# New workflows, then the sessions. All have all that was not acknowledged, each in an order of its own but for the
# workflows of kind 2, of which each session has its own: two that insert usage would both do it.
begin_load() {
    local worker list
    psql <<SQL
TRUNCATE acknowledged;
\copy acknowledged FROM '$WORK/acknowledged'
INSERT INTO workflows SELECT 'w' || g FROM generate_series($1 * $batch, ($1 + 1) * $batch - 1) AS g;
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT 'w' || g, 'a' || (g * 7 + p * 3 + $seed) % 16, 1 + (g * 31 + p) % 100
FROM generate_series($1 * $batch, ($1 + 1) * $batch - 1) AS g, generate_series(1, 3) AS p WHERE g % 4 <> 2;
SQL
    # It may meet one that settles, and tries again.
    PGAPPNAME=load "$PG_BIN/psql" -X -q -At -v VERBOSITY=sqlstate -f "$WORK/archiver.sql" >/dev/null 2>"$WORK/archiver.log" &
    load=($!)
    for worker in $(seq $workers); do
        list=$WORK/worker$worker.sql
        workload "$RANDOM" >"$list"
        awk -v worker="$worker" -v workers=$workers '
            /^BEGIN;$/ { block = $0; next }
            block != "" { block = block "\n" $0; if (!/^\\echo/) next; $0 = block; block = "" }
            { n = split($0, parts, /\\echo w/); id = parts[n]; if (id % 4 == 2 && int(id / 4) % workers != worker - 1) next; print }
        ' RS='\n' "$list" >"$list.own"
        PGAPPNAME=load "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -f "$list.own" >"$WORK/acknowledged$worker" 2>"$WORK/worker$worker.log" &
        load+=($!)
    done
}

# The crash comes at some point of the work, not of the clock: a quick machine would have finished. A batch gives about
# 2,400 settlements. Some usage was archived by then.
wait_until_settled() { # ROWS, MORE-THAN-SO-MANY-ARCHIVED
    for _ in $(seq 600); do
        [ "$(value "SELECT (SELECT count(*) FROM token_balance.settlement) >= $1 AND (SELECT count(*) FROM old_usage) > $2")" = t ] && return
        sleep 0.02
    done
}

check() { # WHAT
    local worker new
    for worker in "${load[@]}"; do wait "$worker" 2>/dev/null || true; done
    load=()
    new=$(cat "$WORK"/acknowledged[0-9]* | sort -u | wc -l)
    cat "$WORK"/acknowledged[0-9]* >>"$WORK/acknowledged"
    sort -u -o "$WORK/acknowledged" "$WORK/acknowledged"
    total=$(wc -l <"$WORK/acknowledged")
    # a session may have lost its connection, and nothing else; that which archives tries again
    is "$1: no session had another error" "$(cat "$WORK"/worker*.log | grep -E 'ERROR|FATAL|PANIC' | grep -cvE 'terminating connection|recovery mode|shutting down|not yet accepting|starting up')" 0
    is "$1: the archiver had another error" "$(grep -E 'ERROR|FATAL|PANIC' "$WORK/archiver.log" | grep -cvE '40001|40P01|57P0[123]')" 0
    is "$1: $new acknowledged, $total in all; lost" "$(psql -At <<SQL
CREATE TEMP TABLE told (id text);
\copy told FROM '$WORK/acknowledged'
SELECT count(*) FROM told AS t
WHERE (SELECT coalesce(sum(total_tokens), 0) FROM written WHERE workflow_id = t.id)
    <> (SELECT coalesce(sum(charged_tokens), -1) FROM token_balance.settlement WHERE workflow_id = t.id)
OR (substring(id FROM 2)::integer % 4 = 3 AND NOT EXISTS (SELECT FROM token_balance.ledger WHERE kind = 'credit' AND user_id = 'z' AND reference = t.id))
OR (substring(id FROM 2)::integer % 4 IN (0, 2) AND NOT EXISTS (SELECT FROM workflows AS w WHERE w.id = t.id AND w.status = 'completed'));
SQL
)" 0
    is "$1: charged or credited twice" "$(value "SELECT count(*) FROM (SELECT FROM (SELECT user_id, kind, coalesce(workflow_id, reference) AS what FROM token_balance.ledger
        UNION ALL SELECT user_id, 'settlement', workflow_id FROM token_balance.queue) AS e GROUP BY user_id, kind, what HAVING count(*) > 1) AS t")" 0
    is "$1: usage and archive are not what was written" "$(value "SELECT count(*) FROM workflows AS w,
        LATERAL (SELECT substring(w.id FROM 2)::integer AS g) AS n,
        LATERAL (SELECT count(*) AS rows, coalesce(sum(u.total_tokens), 0) AS tokens FROM written AS u WHERE u.workflow_id = w.id) AS u
        WHERE CASE WHEN g % 4 = 2 THEN (u.rows, u.tokens) NOT IN ((0, 0), (3, 120)) ELSE (u.rows, u.tokens)
            <> (3, (SELECT sum(1 + (g * 31 + p) % 100) FROM generate_series(1, 3) AS p)) END")" 0
    is "$1: usage that is in the archive, too" "$(value 'SELECT count(*) FROM token_usage JOIN old_usage USING (id)')" 0
    is "$1: the law, and what is archived" "$(value "$law")" "t t t"
    is "$1: what breaks an invariant" "$(what_breaks)" nothing
}

# What is in a state, less what is archived and what shrank, is the usage; and the archive has what is archived.
law="SELECT concat_ws(' ',
    sum(CASE WHEN state IN ('archived', 'shrunk') THEN -tokens ELSE tokens END) = (SELECT coalesce(sum(total_tokens), 0) FROM token_usage),
    coalesce(sum(tokens) FILTER (WHERE state = 'archived'), 0) = (SELECT coalesce(sum(total_tokens), 0) FROM old_usage),
    (SELECT coalesce(sum(a.row_count), 0) FROM token_balance.archived AS a) = (SELECT count(*) FROM old_usage))
FROM token_balance.usage_state()"

round=0
in_flight=0
for kind in backend postmaster; do
    # the second half with charges that may wait in the queue
    if [ $kind = postmaster ]; then
        psql -c "SELECT token_balance.attach('users', 'token_usage', 'workflows', busy_account => 'queue')" >/dev/null 2>&1
        is 'the queue is in use' "$(value 'SELECT busy_account FROM token_balance.binding')" queue
    fi
    for cycle in $(seq "$cycles"); do
        settled=$(value 'SELECT count(*) FROM token_balance.settlement') archived=$(value 'SELECT count(*) FROM old_usage')
        begin_load $round
        round=$((round + 1))
        wait_until_settled $((settled + RANDOM % 900 + 100)) "$archived"
        see_ledger
        postmaster=$(head -n 1 "$data/postmaster.pid")
        if [ $kind = backend ]; then
            victim=$(value "SELECT pid FROM pg_stat_activity WHERE application_name = 'load' ORDER BY state <> 'active', md5(pid::text || $RANDOM) LIMIT 1")
            what="cycle $cycle, backend"
            victims=("$victim")
        elif [ $((cycle % 2)) = 1 ]; then
            what="cycle $cycle, postmaster"
            victims=("$postmaster")
        else
            what="cycle $cycle, all processes"
            mapfile -t victims < <(echo "$postmaster"; pgrep -P "$postmaster")
        fi
        running=0
        for worker in "${load[@]}"; do if kill -0 "$worker" 2>/dev/null; then running=$((running + 1)); fi; done
        if [ -n "${victims[0]}" ]; then kill -9 "${victims[@]}"; fi
        is "$what: sessions in the middle of their work" "$running" $((workers + 1))
        in_flight=$((in_flight + running))
        for worker in "${load[@]}"; do wait "$worker" 2>/dev/null || true; done
        if [ $kind = backend ]; then
            for _ in $(seq 300); do
                [ "$("$PG_BIN/psql" -X -At -c 'SELECT 1' 2>/dev/null)" = 1 ] && break
                sleep 0.1
            done
        else
            start
        fi
        check "$what"
    done
done
is 'crashes that the server recovered from' "$(grep -cE 'automatic recovery in progress' "$WORK/server.log")" $((2 * cycles))

echo '-- and what is left'
echo "$(value "SELECT count(DISTINCT workflow_id) FROM token_balance.settlement") settled, $total acknowledged: of the others nobody was told"
psql -c "UPDATE workflows SET status = 'completed'"
echo "$(value 'SELECT count(*) FROM token_balance.queue') charges in the queue"
archived=$(value 'SELECT count(*) FROM old_usage')
psql -c 'SELECT token_balance.settle_pending()' >/dev/null
is 'none is left there' "$(value 'SELECT count(*) FROM token_balance.queue')" 0
is 'all usage charged once' "$(value 'SELECT sum(total_tokens) - (SELECT sum(charged_tokens) FROM token_balance.settlement) FROM written')" 0
is "usage was archived beside the load ($archived rows)" $((archived > 0)) 1
psql -c "SELECT token_balance.archive_usage(clock_timestamp(), 'old_usage')" >/dev/null
is 'all of it is archived' "$(value 'SELECT count(*) FROM token_usage')" 0
is 'the law, and what is archived' "$(value "$law")" "t t t"
is 'nothing is charged for it again' "$(value "SELECT token_balance.settle_pending() ->> 'tokens_used'")" 0
is 'what breaks an invariant' "$(what_breaks)" nothing
is 'no internal error in the log' "$(grep -cE 'PANIC|panicked|XX000|TRAP' "$WORK/server.log")" 0
echo "$((2 * cycles)) crashes, $in_flight sessions cut off, $total settlements acknowledged, $(value 'SELECT count(*) FROM token_balance.ledger') ledger entries"
exit "$failed"
