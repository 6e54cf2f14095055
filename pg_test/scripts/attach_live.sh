#!/usr/bin/env bash
# attach and detach ask for their locks while a session is idle in a transaction: a login behind them does not hang, and
# they go on as soon as that session is done. Before, all logins waited with them. (DESIGN K13)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
maintenance=${PGDATABASE:-postgres}
database=tb_attach_live
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$database" -c "$1"; }
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
until_is() { # QUERY EXPECTED
    for _ in $(seq 200); do
        [ "$(value "$1")" = "$2" ] && return 0
        sleep 0.05
    done
    echo "FAILED: $1 is not $2"
    return 1
}
clean() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $database WITH (FORCE)" 2>/dev/null; }
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $database"
psql -d "$database" <<'SQL'
CREATE SCHEMA nothing;
SET client_min_messages = warning;
CREATE EXTENSION token_balance SCHEMA nothing;
CREATE TABLE users (id text PRIMARY KEY, last_login timestamptz);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann'), ('bob');
SQL

# what does CALL WANTED: while it asks, everybody reads and writes; then it is done, and the binding is as wanted
asks() {
    mkfifo "$WORK/idle"
    psql -d "$database" <"$WORK/idle" >/dev/null &
    local idle=$!
    exec 3>"$WORK/idle"
    echo "BEGIN; SELECT * FROM users;" >&3
    until_is "SELECT count(*) FROM pg_stat_activity WHERE datname = '$database' AND state = 'idle in transaction'" 1
    psql -d "$database" -c "SET application_name = 'asking'" -c "SELECT $1" >/dev/null &
    local asking=$!
    until_is "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
        WHERE a.application_name = 'asking' AND l.relation = 'users'::regclass AND l.mode = 'ShareUpdateExclusiveLock'" 1
    for _ in $(seq 20); do
        psql -d "$database" -c "SET statement_timeout = '2s'" -c "UPDATE users SET last_login = now() WHERE id = 'bob'" \
            -c "INSERT INTO token_usage VALUES ('w', 'bob', 1)" || { echo "FAILED: a login hangs"; failed=1; }
    done
    is "$1 is still asking" "$(value "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asking' AND state = 'active'")" 1
    is "$1 waits for no lock" "$(value "SELECT count(*) FROM pg_locks WHERE NOT granted")" 0
    echo "COMMIT;" >&3
    exec 3>&-
    wait "$idle"
    wait "$asking"
    rm "$WORK/idle"
    is "$1 has done its work" "$(value 'SELECT count(*) FROM token_balance.binding WHERE detached_at IS NULL')" "$2"
}
asks "token_balance.attach('users', 'token_usage', 'workflows', existing_usage => 'charge')" 1
is "the balances" "$(value "SELECT string_agg(token_balance::text, ' ') FROM users")" "1000000 1000000"
asks "token_balance.detach()" 0
exit "$failed"
