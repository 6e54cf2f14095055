#!/usr/bin/env bash
# Measures what docs/operations.md says of sizes and of vacuum, on the server of PGHOST with the extension installed:
#   operations.sh [sizes] [hot] [archive]
# Each figure is of a database of its own, which is dropped again. No test: it takes minutes.
set -euo pipefail
: "${PG_BIN:?}" "${PGHOST:?}"
RUNS=${RUNS:-200000} USERS=${USERS:-10000} SETTLEMENTS=${SETTLEMENTS:-100000}
db=tb_bench_operations
export PGOPTIONS='-c client_min_messages=error'
psql() { PGUSER=postgres "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }

fresh() {
    psql -d postgres -c "DROP DATABASE IF EXISTS $db" -c "CREATE DATABASE $db"
}

# platform KEY: tables whose ids are of that type, attached; $RUNS runs of one usage row.
platform() {
    local user="('u' || i)" run="('run-' || r.i)" type=text
    if [ "$1" = uuid ]; then type=uuid user="md5('u' || i)::uuid" run="md5('w' || r.i)::uuid"; fi
    fresh
    psql -d "$db" <<SQL
CREATE TABLE users (id $type PRIMARY KEY, email text, name text, created_at timestamptz DEFAULT now());
CREATE TABLE token_usage (workflow_id $type, user_id $type, total_tokens integer);
CREATE TABLE workflows (id $type PRIMARY KEY, user_id $type, status text, n integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users SELECT $user, 'somebody-' || i || '@example.com', 'Some Body ' || i FROM generate_series(1, $USERS) i;
INSERT INTO workflows SELECT $run, u.id, 'running', r.i
    FROM (SELECT i, 1 + (hashint4(i) & 2147483647) % $USERS AS owner FROM generate_series(1, $RUNS) i) r
    JOIN (SELECT $user AS id, i AS owner FROM generate_series(1, $USERS) i) u USING (owner) ORDER BY r.i;
CREATE INDEX ON workflows (n);
CREATE EXTENSION token_balance;
INSERT INTO token_usage SELECT id, user_id, 1000 FROM workflows;
VACUUM ANALYZE;
SQL
}

sizes() {
    local key
    for key in ${KEYS:-text uuid}; do
        platform "$key"
        # In the order of the runs, in transactions of a thousand.
        psql -d "$db" -c "DO \$\$ BEGIN FOR i IN 0 .. ($RUNS - 1) / 1000 LOOP
            UPDATE workflows SET status = 'done' WHERE n BETWEEN i * 1000 + 1 AND i * 1000 + 1000; COMMIT; END LOOP; END \$\$"
        psql -d "$db" -F ' ' -c "SELECT '$key', c.relname, n, 'heap', pg_relation_size(c.oid) / n, 'indexes', pg_indexes_size(c.oid) / n, 'all', pg_total_relation_size(c.oid) / n
            FROM pg_class c, LATERAL (SELECT CASE relname WHEN 'ledger' THEN (SELECT count(*) FROM token_balance.ledger)
                ELSE (SELECT count(*) FROM token_balance.settlement) END AS n) t WHERE c.oid IN ('token_balance.ledger'::regclass, 'token_balance.settlement'::regclass) ORDER BY 2"
    done
}

# hot NAME SQL: $SETTLEMENTS completions one by one, of accounts at random, after SQL; HOLD=1: while a snapshot is open
hot() {
    platform text
    psql -d "$db" -c "$2" -c 'VACUUM FULL users' -c 'ANALYZE users' -c 'CREATE SEQUENCE next' -c 'SELECT pg_stat_reset()' -o /dev/null
    echo "UPDATE workflows SET status = 'done' WHERE n = (SELECT nextval('next'))" >"$db.pgbench"
    local before after holder=
    if [ -n "${HOLD:-}" ]; then
        psql -d "$db" -o /dev/null -c 'BEGIN ISOLATION LEVEL REPEATABLE READ' -c 'SELECT count(*) FROM users' -c 'SELECT pg_sleep(600)' 2>/dev/null &
        holder=$!
        sleep 1
    fi
    before=$(psql -d "$db" -c "SELECT pg_relation_size('users')")
    PGUSER=postgres "$PG_BIN/pgbench" -n -c 2 -j 2 -t $((SETTLEMENTS / 2)) -f "$db.pgbench" "$db" >/dev/null
    rm "$db.pgbench"
    if [ -n "$holder" ]; then
        psql -d postgres -o /dev/null -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$db' AND query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
        wait "$holder" || true
    fi
    after=$(psql -d "$db" -c "SELECT pg_relation_size('users')")
    sleep 2 # statistics come late on 14
    echo "$1: HOT $(psql -d "$db" -c "SELECT round(100.0 * n_tup_hot_upd / n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = 'users'") % of" \
        "$(psql -d "$db" -c "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'users'") updates, users $((before / 1024)) kB before, $((after / 1024)) kB after," \
        "its key $(psql -d "$db" -c "SELECT pg_relation_size('users_pkey') / 1024") kB, autovacuum came" \
        "$(psql -d "$db" -c "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relname = 'users'") times"
}

archive() {
    platform text
    psql -d "$db" -o /dev/null -c "UPDATE workflows SET status = 'done'" -c 'CREATE TABLE old (LIKE token_balance.ledger)' -c '\timing on' \
        -c "SELECT token_balance.archive_ledger(clock_timestamp(), 'old')"
    psql -d "$db" -c '\timing on' -c "SELECT count(*) FROM token_balance.reconcile()"
}

for what in "${@:-sizes}"; do
    case $what in
    sizes) sizes ;;
    hot)
        for fill in 100 95 90 80 70; do hot "fillfactor $fill" "ALTER TABLE users SET (fillfactor = $fill)"; done
        for fill in 100 90 70; do HOLD=1 hot "fillfactor $fill, a snapshot open all the time" "ALTER TABLE users SET (fillfactor = $fill)"; done
        hot 'fillfactor 90, an index on token_balance' 'ALTER TABLE users SET (fillfactor = 90); CREATE INDEX ON users (token_balance)'
        hot 'fillfactor 90, a partial index WHERE token_balance < 0' 'ALTER TABLE users SET (fillfactor = 90); CREATE INDEX ON users (id) WHERE token_balance < 0'
        ;;
    archive) archive ;;
    *) echo "unknown: $what" >&2 && exit 1 ;;
    esac
done
psql -d postgres -c "DROP DATABASE IF EXISTS $db"
