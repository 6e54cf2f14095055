#!/usr/bin/env bash
# A settlement of more runs than a transaction locks loses one of them to another session, and leaves no trace of it in
# the WAL: what is decoded of `settlement` has the row once, a subscriber of the table goes on, and so do the indexes.
# (DESIGN P17)
set -euo pipefail
: "${PG_BIN:?}"
maintenance=${PGDATABASE:-postgres}
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$1" -c "$2"; }
if [ "$(value "$maintenance" 'SHOW wal_level')" != logical ]; then
    echo "wal_level is not logical"
    exit 77
fi
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
slots="slot_name IN ('tb_spec_sub', 'tb_spec_text')"
clean() {
    psql -d tb_spec_subscriber -c 'ALTER SUBSCRIPTION tb_spec_sub DISABLE' -c 'ALTER SUBSCRIPTION tb_spec_sub SET (slot_name = NONE)' -c 'DROP SUBSCRIPTION tb_spec_sub' 2>/dev/null || true
    for _ in $(seq 50); do
        psql -d "$maintenance" -c "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE $slots AND NOT active" >/dev/null 2>&1 || true
        [ "$(value "$maintenance" "SELECT count(*) FROM pg_replication_slots WHERE $slots")" = 0 ] && break
        sleep 0.1
    done
    psql -d "$maintenance" -c 'DROP DATABASE IF EXISTS tb_spec_publisher' -c 'DROP DATABASE IF EXISTS tb_spec_subscriber' 2>/dev/null
}
clean
trap clean EXIT
psql -d "$maintenance" -c 'CREATE DATABASE tb_spec_publisher' -c 'CREATE DATABASE tb_spec_subscriber'
for db in tb_spec_publisher tb_spec_subscriber; do
    psql -d "$db" 2>/dev/null <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE EXTENSION token_balance SCHEMA public;
SQL
done
runs=1200
# Completed with the triggers off: nobody has settled them.
psql -d tb_spec_publisher <<SQL
INSERT INTO users VALUES ('ann'), ('bob');
SET session_replication_role = replica;
INSERT INTO workflows SELECT 'w' || g, 'completed' FROM generate_series(1, $runs) AS g;
INSERT INTO token_usage SELECT 'w' || g, 'ann', 10 FROM generate_series(1, $runs) AS g;
CREATE PUBLICATION tb_spec FOR TABLE token_balance.settlement;
SELECT 1 FROM pg_create_logical_replication_slot('tb_spec_text', 'test_decoding') \g /dev/null
SELECT 1 FROM pg_create_logical_replication_slot('tb_spec_sub', 'pgoutput') \g /dev/null
SQL
# Locks are taken in the order of this hash, as an unsigned number: the last run is one without a lock.
lost=$(value tb_spec_publisher "SELECT id FROM (SELECT 'w' || g AS id FROM generate_series(1, $runs) AS g) AS q CROSS JOIN LATERAL (SELECT hashtextextended(id COLLATE \"C\", 0) AS h) AS h ORDER BY (h < 0) DESC, h DESC LIMIT 1")

wait_for() { # DATABASE QUERY EXPECTED
    for _ in $(seq 300); do
        [ "$(value "$1" "$2")" = "$3" ] && return 0
        sleep 0.1
    done
    echo "FAILED: never came: $2 = $3"
    failed=1
}
waiting="SELECT count(*) FROM pg_stat_activity WHERE datname = 'tb_spec_publisher' AND state = 'active' AND wait_event_type = 'Lock'"

# The first session settles the run and stays open until the other one waits for it.
mkfifo first
psql -d tb_spec_publisher -At <first >first.out 2>&1 &
first=$!
exec 3>first
echo "BEGIN; SELECT settle_workflow('$lost') ->> 'tokens_used';" >&3
wait_for tb_spec_publisher "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tb_spec_publisher' AND state = 'idle in transaction'" 1
# Keeps rows that are deleted, for the check of the indexes.
mkfifo old
psql -d tb_spec_publisher -At <old >/dev/null 2>&1 3>&- &
old=$!
exec 4>old
echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_am;" >&4
wait_for tb_spec_publisher "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tb_spec_publisher' AND state = 'idle in transaction'" 2
psql -d tb_spec_publisher -At -c "SELECT count(*), sum(charged_tokens) FROM token_balance.settle_workflows((SELECT array_agg('w' || g ORDER BY g) FROM generate_series(1, $runs) AS g))" >second.out 2>&1 3>&- 4>&- &
second=$!
wait_for tb_spec_publisher "$waiting" 1
printf 'COMMIT;\n\\q\n' >&3
exec 3>&-
wait "$first"
wait "$second" || { echo "FAILED: the second settlement failed"; failed=1; }
is 'the first settled the run' "$(cat first.out)" 10
is 'the second settled all the others' "$(cat second.out)" "$((runs - 1))|$(((runs - 1) * 10))"
is 'each token left the balance once' "$(value tb_spec_publisher "SELECT 1000000 - token_balance FROM users WHERE id = 'ann'")" "$((runs * 10))"
is 'reconcile finds nothing' "$(value tb_spec_publisher 'SELECT count(*) FROM token_balance.reconcile()')" 0

decoded="pg_logical_slot_peek_changes('tb_spec_text', NULL, NULL, 'skip-empty-xacts', '1') WHERE data LIKE 'table token_balance.settlement:%'"
is 'decoded changes of settlement' "$(value tb_spec_publisher "SELECT string_agg(what || ' ' || count, ', ' ORDER BY what) FROM (SELECT split_part(data, ':', 2) AS what, count(*) FROM $decoded GROUP BY 1) AS c")" " INSERT $runs"
is 'decoded changes of the run that both settled' "$(value tb_spec_publisher "SELECT string_agg(split_part(data, ':', 2), ',') FROM $decoded AND data LIKE '%''$lost''%'")" ' INSERT'

# Every row of the table has its index entry, also one that only the old snapshot would keep.
if psql -d tb_spec_publisher -c 'CREATE EXTENSION amcheck' 2>/dev/null; then
    checked=$(value tb_spec_publisher "SELECT bt_index_parent_check('token_balance.settlement_pkey', true)" 2>&1) || true
    is 'the index has all rows' "$checked" ''
fi
printf 'COMMIT;\n\\q\n' >&4
exec 4>&-
wait "$old"

# The publisher is in the same cluster: a subscription that made its own slot would wait for itself.
psql -d tb_spec_subscriber -c "CREATE SUBSCRIPTION tb_spec_sub CONNECTION 'dbname=tb_spec_publisher host=${PGHOST:-} port=${PGPORT:-5432} user=${PGUSER:-postgres}' PUBLICATION tb_spec WITH (create_slot = false, slot_name = tb_spec_sub, copy_data = false)" 2>/dev/null
wait_for tb_spec_subscriber 'SELECT count(*) FROM token_balance.settlement' "$runs"
psql -d tb_spec_publisher -c "INSERT INTO token_usage VALUES ('later', 'bob', 5)" -c "INSERT INTO workflows VALUES ('later', 'completed')"
wait_for tb_spec_subscriber "SELECT count(*) FROM token_balance.settlement WHERE workflow_id = 'later'" 1
same="SELECT md5(string_agg(s::text, ',' ORDER BY workflow_id, user_id)) FROM token_balance.settlement AS s"
is 'the subscriber has what the publisher has' "$(value tb_spec_subscriber "$same")" "$(value tb_spec_publisher "$same")"
exit "$failed"
