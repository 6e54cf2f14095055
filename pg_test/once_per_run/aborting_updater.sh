#!/usr/bin/env bash
# A session is stopped by a debugger while it aborts an update of an account's row: marked as aborted, and still in the list
# of those that run. A plain UPDATE of a row that others have locked fails then with XX000; who charges waits, and goes on when
# the other one does (src/postgres/direct/updater.rs). (DESIGN P21)
set -euo pipefail
: "${ROOT:?}" "${PG_VERSION:?}" "${WORK:?}"
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib.sh
source "$ROOT/scripts/lib.sh"
use_server "$PG_VERSION"
have gdb || { echo 'there is no gdb' && exit 77; }
clean_up_on_exit
make_private_dir
CLUSTER_HOME=$PRIVATE_DIR
init_cluster "$PRIVATE_DIR/data"
start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off
failed=0
query() { in_server_env "$PG_BIN/psql" -XAtq -v ON_ERROR_STOP=1 -d postgres -c "$1"; }
is() { # WHAT FOUND EXPECTED
    if [ "$2" = "$3" ]; then
        echo "ok: $1"
    else
        printf 'FAILED: %s\nfound:    %s\nexpected: %s\n' "$@"
        failed=1
    fi
}
# await WHAT SQL: until it says t.
await() {
    local _
    for _ in $(seq 100); do
        if [ "$(query "$2")" = t ]; then return; fi
        sleep 0.1
    done
    die "after 10 s: not $1"
}
# waits NAME: whether the session of that name waits for another one's end.
waits() { echo "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$1' AND wait_event_type = 'Lock')"; }
is_idle() { echo "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = '$1' AND state = 'idle in transaction')"; }

query "SET client_min_messages = warning;
    CREATE TABLE users (id text PRIMARY KEY, name text);
    CREATE TABLE token_usage (workflow_id text, user_id text REFERENCES users, total_tokens integer);
    CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
    CREATE TABLE workflows (id text PRIMARY KEY, status text);
    INSERT INTO users VALUES ('ann');
    CREATE EXTENSION token_balance;
    INSERT INTO workflows VALUES ('w1', 'running')"

# session NAME DESCRIPTOR: a session that reads its statements from the descriptor.
session() {
    mkfifo "$WORK/$1.in"
    in_server_env PGAPPNAME="$1" "$PG_BIN/psql" -XAtq -d postgres <"$WORK/$1.in" >"$WORK/$1.out" 2>&1 &
    eval "exec $2>\"\$WORK/$1.in\""
}
session payer 5
session other 6
session plain 7
echo 'BEGIN; SELECT FROM users FOR KEY SHARE;' >&7
await 'the account is locked' "$(is_idle plain)"
echo "BEGIN; INSERT INTO token_usage VALUES ('w1', 'ann', 5);" >&5
await 'the payer has used tokens' "$(is_idle payer)"
echo "BEGIN; SAVEPOINT a; UPDATE users SET name = 'b';" >&6
await 'the other one has updated the account' "$(is_idle other)"
# It lets go when there is this file.
gdb -q -batch -p "$(query "SELECT pid FROM pg_stat_activity WHERE application_name = 'other'")" \
    -ex 'break XidCacheRemoveRunningXids' -ex "shell touch $WORK/attached" -ex 'continue' \
    -ex "shell touch $WORK/stopped; until [ -e $WORK/go ]; do sleep 0.1; done" -ex 'detach' >"$WORK/gdb.log" 2>&1 &
debugger=$!
await_file() {
    local _
    for _ in $(seq 300); do
        if [ -e "$WORK/$1" ]; then return; fi
        kill -0 "$debugger" 2>/dev/null || break
        sleep 0.1
    done
    touch "$WORK/go"
    tail -n 3 "$WORK/gdb.log"
    echo "the debugger has not $1 the session"
    exit 77
}
await_file attached
echo 'ROLLBACK TO a;' >&6
await_file stopped
# What this is about. A server that has it mended has the plain one wait, too.
echo "SET lock_timeout = '5s'; UPDATE users SET name = 'c'; ROLLBACK;" >&7
await 'the plain update is over' "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'plain' AND state = 'idle')"
grep -qF 'more than one updating member' "$WORK/plain.out" || echo "a plain UPDATE waits here: $(cat "$WORK/plain.out")"
echo "UPDATE workflows SET status = 'done'; COMMIT;" >&5
await 'the payer waits' "$(waits payer)"
is 'who charges waits for one who aborts' "$(query 'SELECT token_balance FROM users')" 1000000
touch "$WORK/go"
wait "$debugger"
await 'the run is settled' "SELECT EXISTS (SELECT FROM token_balance.settlement)"
echo 'COMMIT;' >&6
exec 5>&- 6>&- 7>&-
is 'and charges then' "$(query 'SELECT token_balance FROM users')" 999995
is 'nobody was told of an error' "$(cat "$WORK/payer.out" "$WORK/other.out")" ''
is 'reconcile finds nothing' "$(query 'SELECT count(*) FROM token_balance.reconcile()')" 0
exit "$failed"
