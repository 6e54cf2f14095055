#!/usr/bin/env bash
# Measures what docs/operations.md says of sizes and of vacuum, on the server of PGHOST with the extension installed:
#   operations.sh [sizes] [hot] [archive] [retention] [year]
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

# What archiving costs: ROWS usage rows of a tenth as many runs, against the plain statement that moves them; then completions
# one by one, with nothing beside them and with the same archived beside them in batches.
retention() {
    local rows=${ROWS:-1000000} runs=$((${ROWS:-1000000} / 10))
    RUNS=$((runs * 2)) platform text
    psql -d "$db" -o /dev/null <<SQL
ALTER TABLE token_usage ADD created_at timestamptz DEFAULT now();
SELECT token_balance.attach('users', 'token_usage', 'workflows');
TRUNCATE token_usage;
INSERT INTO token_usage SELECT w.id, w.user_id, 30, '2026-01-01Z'::timestamptz + w.n * interval '1 second'
    FROM workflows w, generate_series(1, 10) WHERE w.n <= $runs;
INSERT INTO token_usage SELECT w.id, w.user_id, 30, now() FROM workflows w WHERE w.n > $runs;
UPDATE workflows SET status = 'done' WHERE n <= $runs;
CREATE TABLE old (LIKE token_usage);
SQL
    local go round
    # shellcheck disable=SC2016
    for round in 1 2 3; do
        for go in "WITH gone AS (DELETE FROM token_usage WHERE created_at < '2026-06-01Z' RETURNING *) INSERT INTO old SELECT * FROM gone" \
            "SELECT token_balance.archive_usage('2026-06-01Z', 'old')"; do
            psql -d "$db" -c 'VACUUM ANALYZE' -c CHECKPOINT
            echo "$round: ${go%% *} $(psql -d "$db" -o /dev/null -c BEGIN -c '\timing on' -c "$go" -c '\timing off' -c ROLLBACK | head -1)"
        done
    done
    psql -d "$db" -c 'VACUUM ANALYZE' -o /dev/null -c 'CREATE SEQUENCE next' -c "SELECT setval('next', $runs)"
    echo "UPDATE workflows SET status = 'done' WHERE n = (SELECT nextval('next'))" >"$db.pgbench"
    local beside
    for beside in nothing statement archive nothing statement archive; do
        psql -d "$db" -c 'VACUUM' -c CHECKPOINT
        local archiver=
        # shellcheck disable=SC2016
        case $beside in
        archive) go="CALL token_balance.archive(now() - '2026-06-01Z', 'old', batch_size => ${BATCH:-1000})" ;;
        statement) go='DO $$ DECLARE i integer; BEGIN FOR i IN 0 .. 99 LOOP WITH gone AS (DELETE FROM token_usage
            WHERE workflow_id = ANY (ARRAY(SELECT id FROM workflows WHERE n > i * '"$((runs / 100))"' AND n <= (i + 1) * '"$((runs / 100))"'))
            RETURNING *) INSERT INTO old SELECT * FROM gone; COMMIT; END LOOP; END $$' ;;
        esac
        if [ "$beside" != nothing ]; then
            psql -d "$db" -c "$go" 2>/dev/null &
            archiver=$!
        fi
        PGUSER=postgres "$PG_BIN/pgbench" -n -c 1 -t $((SETTLEMENTS / 10)) -l --log-prefix="$db" -f "$db.pgbench" "$db" >/dev/null 2>&1
        if [ -n "$archiver" ]; then
            ! kill -0 "$archiver" 2>/dev/null || echo 'it was at work to the end'
            wait "$archiver"
        fi
        sort -n -k 3 "$db".*[0-9] | awk -v what="$beside" '{ t[NR] = $3; sum += $3 }
            END { printf "beside %s: mean %d, median %d, p99 %d, longest %d microseconds\n", what, sum / NR, t[int(NR / 2)], t[int(NR * 0.99)], t[NR] }'
        rm -f "$db".*[0-9]
        psql -d "$db" -c "INSERT INTO token_usage SELECT * FROM old" -c 'TRUNCATE old'
    done
    rm "$db.pgbench"
}

# A year of a platform, compressed: YEAR_RUNS runs in 365 days that follow one another at once, with a retention of 30 of them.
# Each day ends with the archiving of what is older, and a VACUUM, for autovacuum has no time in between: in a day of 24 hours
# it comes for as many dead rows by itself, with the settings that are made here. Every tenth day a line: day, runs so far,
# megabytes of each table and of its indexes after the VACUUM, the dead rows before it, and how long archiving took.
year() {
    local runs=${YEAR_RUNS:-10000000} per_day day
    per_day=$((runs / 365))
    fresh
    psql -d "$db" <<SQL
CREATE TABLE users (id text PRIMARY KEY, email text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT clock_timestamp());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (created_at);
ALTER TABLE users SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE token_usage SET (autovacuum_vacuum_scale_factor = 0.02);
INSERT INTO users SELECT 'u' || i, 'somebody-' || i || '@example.com' FROM generate_series(1, $USERS) i;
CREATE EXTENSION token_balance;
ALTER TABLE token_balance.ledger SET (autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE token_balance.settlement SET (autovacuum_vacuum_scale_factor = 0.02);
CREATE TABLE old_ledger (LIKE token_balance.ledger);
CREATE TABLE days (day integer PRIMARY KEY, began timestamptz, archived interval, dead text);
SQL
    echo 'day runs settlement+indexes ledger+indexes archived+alias users+indexes usage+indexes dead_settlements+entries seconds_to_archive'
    for day in $(seq 365); do
        psql -d "$db" <<SQL
INSERT INTO days VALUES ($day, clock_timestamp());
INSERT INTO token_usage SELECT 'run-' || $day || '-' || i, 'u' || 1 + (hashint4(i * 367 + $day) & 2147483647) % $USERS, 1000 FROM generate_series(1, $per_day) i;
INSERT INTO workflows SELECT u.workflow_id, u.user_id, 'running' FROM token_usage u WHERE u.created_at >= (SELECT began FROM days WHERE day = $day);
UPDATE workflows SET status = 'done' WHERE id LIKE 'run-$day-%' AND status = 'running';
DELETE FROM workflows WHERE id LIKE 'run-' || $day - 30 || '-%';
SQL
        if [ "$day" -gt 30 ]; then
            psql -d "$db" 2>/dev/null <<SQL
SELECT clock_timestamp() AS began \gset
SELECT clock_timestamp() - began AS keep FROM days WHERE day = $day - 30 \gset
CALL token_balance.archive(:'keep', ledger_archive => 'old_ledger', batch_size => 10000);
UPDATE days SET archived = clock_timestamp() - :'began' WHERE day = $day;
TRUNCATE old_ledger;
SQL
        fi
        psql -d "$db" -c "UPDATE days SET dead = (SELECT pg_stat_get_dead_tuples('token_balance.settlement'::regclass) || '+' ||
            pg_stat_get_dead_tuples('token_balance.ledger'::regclass)) WHERE day = $day" \
            -c 'VACUUM token_balance.settlement, token_balance.ledger, users, token_usage, workflows'
        if [ $((day % 10)) = 0 ] || [ "$day" = 365 ]; then
            psql -d "$db" -F ' ' <<SQL
SELECT $day, $day * $per_day, s.mb, l.mb, round((pg_total_relation_size('token_balance.archived') + pg_total_relation_size('token_balance.workflow_alias')) / 1e6, 1),
  u.mb, t.mb, (SELECT dead || ' ' || round(extract(epoch FROM archived), 1) FROM days WHERE day = $day)
FROM (SELECT round(pg_table_size('token_balance.settlement') / 1e6) || '+' || round(pg_indexes_size('token_balance.settlement') / 1e6) AS mb) s,
  (SELECT round(pg_table_size('token_balance.ledger') / 1e6) || '+' || round(pg_indexes_size('token_balance.ledger') / 1e6) AS mb) l,
  (SELECT round(pg_table_size('users') / 1e6) || '+' || round(pg_indexes_size('users') / 1e6) AS mb) u,
  (SELECT round(pg_table_size('token_usage') / 1e6) || '+' || round(pg_indexes_size('token_usage') / 1e6) AS mb) t
SQL
        fi
    done
    psql -d "$db" -F ' ' -c "SELECT 'problems', count(*) FROM token_balance.reconcile()" -c "SELECT 'settlements', count(*) FROM token_balance.settlement" \
        -c "SELECT 'entries', count(*) FROM token_balance.ledger" -c "SELECT kind, row_count, tokens FROM token_balance.archived ORDER BY kind" \
        -c "SELECT 'charged in all', sum(1000000 - token_balance) FROM users"
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
    retention) retention ;;
    year) year ;;
    *) echo "unknown: $what" >&2 && exit 1 ;;
    esac
done
psql -d postgres -c "DROP DATABASE IF EXISTS $db"
