#!/usr/bin/env bash
# A backend that is ended in the midst of a settlement ends alone; and what is invalidated while rows are looked for, by
# indexes that are made anew and tables that are altered under load, ends none. (DESIGN K8, K15)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_backend_ends
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean() {
    # shellcheck disable=SC2046 # a number each
    kill $(jobs -p) 2>/dev/null || true
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db WITH (FORCE)" 2>/dev/null || true
}
clean
trap clean EXIT
# Another one after each crash: the server then starts all its processes anew.
checkpointer() { value "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"; }
until_waiting() { # NAME: until the session of that application waits for a lock; for ten seconds
    for _ in $(seq 200); do
        [ "$(value "SELECT count(*) FROM pg_stat_activity WHERE application_name = '$1' AND wait_event_type = 'Lock'")" = 0 ] || return 0
        sleep 0.05
    done
}
psql -d "$maintenance" -c "CREATE DATABASE $db"
psql -d "$db" >/dev/null 2>&1 <<'SQL'
CREATE TABLE users (id text PRIMARY KEY, name text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX token_usage_workflow ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users SELECT 'u' || n FROM generate_series(1, 5) AS n;
INSERT INTO workflows SELECT 'w' || n, 'running' FROM generate_series(1, 40) AS n;
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO token_usage SELECT 'w' || n, 'u' || n % 5 + 1, 10 FROM generate_series(1, 40) AS n;
SQL

# w1 is of u2, which is charged, and w2 of u3, which is waited for: the ledger is open for both.
begun=$(checkpointer)
for direct in on off; do
    { echo "BEGIN; UPDATE users SET name = 'x' WHERE id = 'u3'; SELECT pg_sleep(3);"; } | psql -d "$db" >/dev/null &
    sleep 0.3
    PGAPPNAME=ended PGOPTIONS="-c token_balance.direct=$direct" psql -d "$db" \
        -c "UPDATE workflows SET status = 'completed' WHERE id IN ('w1', 'w2')" >"$WORK/ended" 2>&1 &
    until_waiting ended
    value "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ended'" >/dev/null
    wait
    is "direct = $direct: it was ended" "$(grep -c 'terminating connection due to administrator command' "$WORK/ended")" 1
    is "direct = $direct: and no other one" "$(checkpointer)" "$begun"
    is "direct = $direct: nothing is charged" "$(value 'SELECT count(*) FROM token_balance.ledger')" 0
done

# Each session settles runs of its own and of all accounts, so that nothing but the accounts is waited for.
settling() { # SESSION
    local n
    for n in $(seq "${ROUNDS:-250}"); do
        echo "INSERT INTO token_usage VALUES ('w$(($1 * 10 + n % 10 + 1))', 'u$((n % 5 + 1))', 1);"
        echo "SELECT count(settle_workflow('w$(($1 * 10 + n % 10 + 1))'));"
    done
}
sessions=()
for session in 0 1 2; do
    settling "$session" | psql -d "$db" >"$WORK/settling$session" 2>&1 &
    sessions+=($!)
done
rounds=0
while kill -0 "${sessions[@]}" 2>/dev/null; do
    psql -d "$db" >/dev/null 2>&1 <<'SQL' || true
REINDEX TABLE CONCURRENTLY users;
REINDEX INDEX CONCURRENTLY token_balance.settlement_pkey;
ALTER TABLE users SET (autovacuum_vacuum_threshold = 50);
REINDEX INDEX CONCURRENTLY token_balance.ledger_pkey;
REINDEX TABLE CONCURRENTLY token_usage;
ANALYZE users;
SQL
    rounds=$((rounds + 1))
    [ "$rounds" -lt 500 ] || break
done
for session in "${sessions[@]}"; do wait "$session" || true; done
is 'indexes made anew under load: no backend ended' "$(checkpointer)" "$begun"
is 'no settlement failed' "$(cat "$WORK"/settling? | grep -c ERROR || true)" 0
value 'SELECT count(*) FROM token_balance.settle_workflows((SELECT array_agg(id) FROM workflows))' >/dev/null
is 'all is charged' "$(value 'SELECT sum(1000000 - token_balance) = (SELECT sum(total_tokens) FROM token_usage) FROM users')" t
is 'and all is right' "$(value 'SELECT * FROM token_balance.reconcile()')" ''
echo "rounds of DDL: $rounds"
exit "$failed"
