#!/usr/bin/env bash
# token_balance.stat in a cluster of its own: whose counters they are, what a prepared transaction does to them, that each
# database has its own, that they begin anew with the server and after a crash, and what a standby says. (DESIGN R7, R8, R10)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/primary_and_standby.sh"
export PGPORT=$primary
value() { psql -At -c "$1"; }
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}

start_primary 'max_prepared_transactions = 2' 'restart_after_crash = on'
if [ "$(value "SHOW server_version_num")" -ge 170000 ]; then is_shared=yes; else is_shared=; fi
tables="CREATE TABLE users (id text PRIMARY KEY); CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text); CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'); CREATE EXTENSION token_balance"
psql -c "$tables" 2>/dev/null
run() { # ID TOKENS: a run that completes
    echo "INSERT INTO token_usage VALUES ('$1', 'ann', $2); INSERT INTO workflows VALUES ('$1', 'ann', 'completed');"
}
counted="SELECT scope, settled_by_trigger, charges, tokens_charged FROM token_balance.stat"

# Of one session, whatever the version.
is 'a session sees what it has counted' "$({ run w1 5; echo "$counted"; } | psql -At | cut -d '|' -f 2-)" '1|1|5'
value "$(run w2 6)" >/dev/null
if [ -n "$is_shared" ]; then
    is 'another one sees it, too' "$(value "$counted")" 'server|2|2|11'
else
    is 'each session has its own' "$(value "$counted")" 'session|0|0|0'
fi
if [ -z "$is_shared" ]; then
    echo 'before 17 the rest has nothing to look at'
    exit "$failed"
fi

# Many at once: none is lost.
for session in 1 2 3; do
    for number in $(seq 40); do run "s$session-$number" 1; done | psql >/dev/null &
done
wait
is 'sessions side by side lose none' "$(value "$counted")" 'server|122|122|131'

psql >/dev/null <<SQL
BEGIN; $(run p1 7) PREPARE TRANSACTION 'p';
SQL
is 'a prepared transaction counts' "$(value "$counted")" 'server|123|123|138'
value "COMMIT PREPARED 'p'" >/dev/null
is 'and its commit does not count again' "$(value "$counted")" 'server|123|123|138'

value 'CREATE DATABASE other' >/dev/null
psql -d other -c "$tables" 2>/dev/null
is 'each database has its own' "$(psql -At -d other -c "$counted")" 'server|0|0|0'

value 'CREATE ROLE watcher LOGIN IN ROLE pg_monitor; GRANT USAGE ON SCHEMA token_balance TO watcher' >/dev/null
is 'pg_monitor reads it' "$(PGUSER=watcher value "$counted")" 'server|123|123|138'

# A standby: its server's own counters, which nothing adds to.
start_standby
is 'a standby answers' "$(PGPORT=$standby value 'SELECT scope, charges, bindings FROM token_balance.stat')" 'server|0|1'
stop standby fast

since=$(value 'SELECT since FROM token_balance.stat')
stop primary fast
start primary
is 'a restart begins anew' "$(value "$counted")" 'server|0|0|0'
is 'and since says so' "$(value "SELECT since > '$since' FROM token_balance.stat")" t

# A backend that is killed: the server recovers, and forgets.
value "$(run c1 3)" >/dev/null
is 'it counts again' "$(value "$counted")" 'server|1|1|3'
since=$(value 'SELECT since FROM token_balance.stat')
kill_one() {
    local pid
    psql -c "SET application_name = 'killed'" -c 'SELECT pg_sleep(30)' >/dev/null 2>&1 &
    for _ in $(seq 100); do
        pid=$(value "SELECT pid FROM pg_stat_activity WHERE application_name = 'killed'" 2>/dev/null) || true
        [ -z "$pid" ] || break
        sleep 0.1
    done
    kill -KILL "$pid"
    wait || true
}
kill_one
for _ in $(seq 100); do
    value 'SELECT 1' >/dev/null 2>&1 && break
    sleep 0.1
done
is 'a crash begins anew' "$(value "$counted")" 'server|0|0|0'
is 'and since says so, though the postmaster is the same' "$(value "SELECT since > '$since' FROM token_balance.stat")" t
exit "$failed"
