#!/usr/bin/env bash
# Three databases, each on a server of its own, and a router that knows where each account is. Sessions write usage, end
# runs and give credits wherever the router sends them, while accounts are moved back and forth, or taken back on the
# way. In each move one of the two servers is killed, with all its processes at once, beside one of the steps: each step of
# them in turn. At the end the law holds on the sum of the three: all that was used was charged, once, to whom it belongs;
# each account is open in one database, with the balance that it should have; and nothing is wrong in any of them. In a soak
# 300 moves; MOVES=n for others, SEED=n for another run's random choices (DESIGN Z3, Z4, Z6, Z7, Z8, Z9, Y1).
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
moves=${MOVES:-$([ -n "${SOAK:-}" ] && echo 300 || echo 14)} seed=${SEED:-$((RANDOM % 10000))} accounts=8 workers=2
RANDOM=$seed
# A socket's path must be short.
sockets=$(mktemp -d)
export PGHOST=$sockets PGUSER=postgres PGDATABASE=postgres
failed=0
load=()
clean() {
    local pid n
    touch "$WORK/stop"
    for pid in "${load[@]}"; do kill "$pid" 2>/dev/null || true; done
    for n in 0 1 2; do "$PG_BIN/pg_ctl" -D "$WORK/data$n" -m immediate -w stop >/dev/null 2>&1 || true; done
    rm -rf "$sockets" "$WORK"/data?
}
trap clean EXIT
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
# on DATABASE [ARGUMENT...]: psql there.
on() { PGOPTIONS='-c client_min_messages=error' "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -p "543$1" "${@:2}"; }
start() {
    for _ in $(seq 100); do # until the last process of the one before is gone
        "$PG_BIN/pg_ctl" -D "$WORK/data$1" -l "$WORK/server$1.log" -w -t 60 start >/dev/null 2>&1 && return
        sleep 0.1
    done
    tail -n 30 "$WORK/server$1.log"
    exit 1
}
crash() {
    "$PG_BIN/pg_ctl" -D "$WORK/data$1" -m immediate -w stop >/dev/null 2>&1 || true
    start "$1"
    echo "$1" >>"$WORK/crashes"
}
# again LOG COMMAND...: until it is done, as an application does that has lost its connection, or is told to try again.
# Anything else ends it, and fails the test.
again() {
    local log=$1
    until "${@:2}" 2>"$log.once"; do
        if grep -E 'ERROR' "$log.once" | grep -qvE 'could not serialize|deadlock detected|terminating connection'; then
            cat "$log.once" >>"$log"
            return 1
        fi
        sleep 0.05
    done
}

rm -rf "$WORK"/data? "$WORK"/router "$WORK"/*.log "$WORK"/*.once "$WORK"/runs* "$WORK"/credits* "$WORK"/crashes "$WORK/stop"
mkdir "$WORK/router"
touch "$WORK/crashes"
"$PG_BIN/initdb" -D "$WORK/data0" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
# What a killed process has written, the kernel has: that is enough for these crashes.
printf "listen_addresses = ''\nunix_socket_directories = '%s'\nfsync = off\nmax_connections = 20\nshared_buffers = 16MB\n" "$sockets" >>"$WORK/data0/postgresql.conf"
cp -R "$WORK/data0" "$WORK/data1"
cp -R "$WORK/data0" "$WORK/data2"
for n in 0 1 2; do
    echo "port = 543$n" >>"$WORK/data$n/postgresql.conf"
    start "$n"
    on "$n" <<SQL
ALTER DATABASE postgres SET token_balance.database = 'd$n';
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (id text PRIMARY KEY, workflow_id text NOT NULL, user_id text NOT NULL, total_tokens integer NOT NULL);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text NOT NULL, status text NOT NULL);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (user_id);
CREATE EXTENSION token_balance SCHEMA public;
SQL
done
for a in $(seq 0 $((accounts - 1))); do
    on $((a % 3)) -c "INSERT INTO users VALUES ('a$a')"
    echo $((a % 3)) >"$WORK/router/a$a"
done
echo "seed $seed: $moves moves of $accounts accounts, $workers sessions"

# A session of the application. A run that was begun in a database is written there until that is known to be done: its
# usage has ids, so that it may be written twice. It is ended, and a credit is given, wherever the account is by then.
work() {
    local n=0 account run tokens to
    RANDOM=$((seed + $1))
    while [ ! -e "$WORK/stop" ]; do
        n=$((n + 1)) account=a$((RANDOM % accounts)) run=r$1-$n tokens=$((1 + RANDOM % 100))
        to=$(cat "$WORK/router/$account")
        again "$WORK/worker$1.log" on "$to" -c "INSERT INTO token_usage VALUES ('$run-1', '$run', '$account', $tokens), ('$run-2', '$run', '$account', 1) ON CONFLICT DO NOTHING;
            INSERT INTO workflows VALUES ('$run', '$account', 'running') ON CONFLICT DO NOTHING" || return
        echo "$account $((tokens + 1))" >>"$WORK/runs$1"
        on "$(cat "$WORK/router/$account")" -c "UPDATE workflows SET status = 'completed' WHERE id = '$run'" 2>/dev/null || true
        if [ $((n % 4)) = 0 ]; then
            until on "$(cat "$WORK/router/$account")" -c "SELECT token_balance.credit('$account', 7, '$run')" >/dev/null 2>"$WORK/credit$1.once"; do
                if grep ERROR "$WORK/credit$1.once" | grep -qvE 'has moved to|does not exist|could not serialize|deadlock detected|terminating connection'; then
                    cat "$WORK/credit$1.once" >>"$WORK/worker$1.log"
                    return
                fi
                sleep 0.01
            done
            echo "$account 7" >>"$WORK/credits$1"
        fi
    done
}

# carry FROM TO ACCOUNT: its usage and runs. Rows that come in meanwhile stay, for the next time.
copy_out() {
    on "$1" <<SQL
BEGIN ISOLATION LEVEL REPEATABLE READ;
\copy (SELECT * FROM token_usage WHERE user_id = '$2') TO '$WORK/usage.copy'
\copy (SELECT * FROM workflows WHERE user_id = '$2') TO '$WORK/workflows.copy'
COMMIT;
SQL
}
# with_carried DATABASE STATEMENTS: with what was copied out as temporary tables.
with_carried() {
    on "$1" <<SQL
BEGIN;
CREATE TEMP TABLE carried_usage (LIKE token_usage) ON COMMIT DROP;
CREATE TEMP TABLE carried_workflows (LIKE workflows) ON COMMIT DROP;
\copy carried_usage FROM '$WORK/usage.copy'
\copy carried_workflows FROM '$WORK/workflows.copy'
$2
COMMIT;
SQL
}
copy_in() {
    with_carried "$1" "INSERT INTO token_usage TABLE carried_usage ON CONFLICT DO NOTHING;
        INSERT INTO workflows AS w TABLE carried_workflows ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status WHERE w.status <> 'completed';"
}
delete_carried() {
    with_carried "$1" "DELETE FROM token_usage USING carried_usage AS c WHERE token_usage.id = c.id;
        DELETE FROM workflows USING carried_workflows AS c WHERE workflows.id = c.id;"
}
export_to() { on "$1" -c "SELECT token_balance.export_account('$3', 'd$2')" >"$WORK/document"; }
import_at() {
    on "$1" -v document="$(cat "$WORK/document")" >"$WORK/receipt" <<SQL
BEGIN;
INSERT INTO users VALUES ('$2') ON CONFLICT DO NOTHING;
SELECT token_balance.import_account(:'document');
COMMIT;
SQL
}
refuse_at() { on "$1" -v document="$(cat "$WORK/document")" >"$WORK/receipt" <<<"SELECT token_balance.refuse_account(:'document');"; }
end_by() { on "$1" -v receipt="$(cat "$WORK/receipt")" >/dev/null <<<"SELECT token_balance.$2(:'receipt');"; }

# step PLACE COMMAND...: a step of the move, beside which one of the servers may be killed.
step() {
    local killing=
    if [ "$1" = "$crash_at" ]; then
        (sleep "0.0$((RANDOM % 5))"; crash "$victim") &
        killing=$!
    fi
    again "$WORK/mover.log" "${@:2}" || return
    [ -z "$killing" ] || wait "$killing"
}
move() { # NUMBER
    local account from to
    account=a$((RANDOM % accounts))
    from=$(cat "$WORK/router/$account") to=$(((from + 1 + RANDOM % 2) % 3))
    crash_at=$(($1 % 7))
    if [ $((RANDOM % 2)) = 0 ]; then victim=$from; else victim=$to; fi
    step 0 export_to "$from" "$to" "$account" || return
    if [ $(($1 % 5)) = 4 ]; then
        step 1 refuse_at "$to" && step 2 end_by "$from" take_back_account
        return
    fi
    step 1 import_at "$to" "$account" || return
    echo "$to" >"$WORK/router/$account.new"
    mv "$WORK/router/$account.new" "$WORK/router/$account"
    step 3 copy_out "$from" "$account" && step 4 copy_in "$to" && step 5 end_by "$from" confirm_export && step 6 delete_carried "$from"
}

for worker in $(seq $workers); do
    work "$worker" &
    load+=($!)
done
for n in $(seq 0 $((moves - 1))); do move "$n" || break; done
touch "$WORK/stop"
for pid in "${load[@]}"; do wait "$pid" || true; done
load=()
is "the moves were made" "$(cat "$WORK/mover.log" 2>/dev/null)" ''
is "the sessions had no other error" "$(cat "$WORK"/worker*.log 2>/dev/null)" ''

# What is left at home is carried over, and all runs end.
for a in $(seq 0 $((accounts - 1))); do
    to=$(cat "$WORK/router/a$a")
    for n in 0 1 2; do
        [ "$n" != "$to" ] || continue
        copy_out "$n" "a$a"
        copy_in "$to"
        delete_carried "$n"
    done
done
for n in 0 1 2; do
    on "$n" -c "UPDATE workflows SET status = 'completed' WHERE status <> 'completed'; SELECT token_balance.settle_pending()" >/dev/null
    is "d$n: nothing is wrong" "$(on "$n" -c 'SELECT * FROM token_balance.reconcile()')" ''
    is "d$n: all is charged" "$(on "$n" -c "SELECT * FROM token_balance.usage_state() WHERE state <> 'charged'")" ''
    on "$n" -c "SELECT 'used', user_id, sum(total_tokens) FROM token_usage GROUP BY 2 UNION ALL
        SELECT 'charged', user_id, sum(charged_tokens) FROM token_balance.settlement GROUP BY 2 UNION ALL
        SELECT 'credited', user_id, sum(amount) FROM token_balance.ledger WHERE kind = 'credit' GROUP BY 2 UNION ALL
        SELECT 'balance', id, token_balance FROM users WHERE id NOT IN (SELECT user_id FROM token_balance.account_move WHERE state IN ('sent', 'confirmed')) UNION ALL
        SELECT 'twice', user_id, count(*) FROM (SELECT FROM token_balance.ledger WHERE kind = 'settlement' GROUP BY user_id, workflow_id HAVING count(*) > 1) AS t, (SELECT '-' AS user_id) AS u GROUP BY 2" >>"$WORK/found"
done
# used, charged, credited, and the balances: of each account the same, in one database
awk -F '|' '{ seen[$1 " " $2]++; sum[$1 " " $2] += $3 } END { for (key in sum) print key, sum[key], seen[key] }' "$WORK/found" | sort >"$WORK/found.sums"
cat "$WORK"/runs* | awk '{ used[$1] += $2 } END { for (a in used) { print "used", a, used[a], 1; print "charged", a, used[a], 1 } }' >"$WORK/expected"
cat "$WORK"/credits* | awk '{ given[$1] += $2 } END { for (a in given) print "credited", a, given[a], 1 }' >>"$WORK/expected"
{ cat "$WORK"/runs* | awk '{ print $1, -$2 }'; cat "$WORK"/credits*; } |
    awk '{ change[$1] += $2 } END { for (a in change) print "balance", a, 1000000 + change[a], 1 }' >>"$WORK/expected"
is "used, charged, credited and balances on the sum of the three" "$(cat "$WORK/found.sums")" "$(sort "$WORK/expected")"
is "accounts of which something is known" "$(grep -c ^balance "$WORK/found.sums")" "$accounts"

# The three asked together say the same; and a database that was restored to a time before an account came to it is found.
cluster() { PSQL="$PG_BIN/psql" "$PROJECT/scripts/cluster.sh" "$1" port=5430 port=5431 port=5432; }
is "cluster.sh reconcile finds nothing" "$(cluster reconcile)" $'problems: none\nmoves that do not agree: none'
is "cluster.sh state adds up" "$(cluster state | awk '$1 == "all" { print $2, $NF }')" \
    "$(awk '{ s[$1] += $3 } END { print "charged", s["charged"] }' "$WORK/found.sums")"$'\n'"$(awk -v n="$(for n in 0 1 2; do on "$n" -c 'SELECT count(*) FROM users'; done | awk '{ s += $1 } END { print s }')" '$1 == "balance" { s += $3 } END { print n, s }' "$WORK/found.sums")"
is "cluster.sh verify" "$(cluster verify)" 'checks that fail: none'
is "cluster.sh overdrawn" "$(cluster overdrawn)" 'overdrawn accounts: none'
is "cluster.sh refuses two databases of one name" "$(PSQL="$PG_BIN/psql" "$PROJECT/scripts/cluster.sh" reconcile port=5430 port=5430 2>&1 || echo "exit code $?")" \
    $'cluster.sh: more than one of these databases is d0: each needs a token_balance.database of its own\nexit code 2'
is "cluster.sh says of each database that it cannot be asked" "$(PSQL="$PG_BIN/psql" "$PROJECT/scripts/cluster.sh" overdrawn port=5430 'port=5430 dbname=gone' 'port=5430 dbname=lost' 2>&1 | grep '^cluster.sh'; echo "exit code ${PIPESTATUS[0]}")" \
    $'cluster.sh: cannot ask port=5430 dbname=gone\ncluster.sh: cannot ask port=5430 dbname=lost\nexit code 2'
on 1 -c "DELETE FROM token_balance.account_move WHERE direction = 'in' AND state = 'imported'"
is "cluster.sh reconcile finds moves that one side has forgotten" "$(cluster reconcile | grep -c 'left here, and d1 does not know that it came')" \
    "$(for n in 0 2; do on "$n" -c "SELECT count(*) FROM token_balance.account_move WHERE direction = 'out' AND database = 'd1' AND state IN ('confirmed', 'returned')"; done | awk '{ s += $1 } END { print s }')"
crashes=$(wc -l <"$WORK/crashes")
is "each crash was one" "$([ "$crashes" -ge $((moves * 5 / 7)) ] && echo enough)" enough
echo "$(cat "$WORK"/runs* | wc -l) runs and $(cat "$WORK"/credits* | wc -l) credits beside $moves moves and $crashes crashes"
exit "$failed"
