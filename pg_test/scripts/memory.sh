#!/usr/bin/env bash
# Memory: 50,000 settlements in one backend (in a soak 200,000) after 5,000 to warm up grow its resident set by less than
# 5 MB per 200,000; and its plans survive DDL on every bound table, a DROP EXTENSION and a new one, without a
# reconnect, whether another session does it or the same. In a cluster of its own with few shared buffers, since those
# that a backend has touched count as resident (DESIGN K12, W1).
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
if ! grep -q '^VmRSS:' /proc/self/status 2>/dev/null; then
    echo 'no /proc/PID/status here'
    exit 77
fi
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/invariants.sh"
many=50000 warm=5000
if [ -n "${SOAK:-}" ]; then many=200000; fi
limit=$((5 * 1024 * many / 200000)) # kB
# A socket's path must be short.
sockets=$(mktemp -d)
export PGHOST=$sockets PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
data=$WORK/data
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -c "$1"; }
clean() {
    "$PG_BIN/pg_ctl" -D "$data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$sockets" "$data"
}
trap clean EXIT
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
rm -rf "$data"
"$PG_BIN/initdb" -D "$data" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$sockets'
port = 5432
fsync = off
shared_buffers = 8MB
wal_buffers = 1MB
autovacuum = off
CONF
"$PG_BIN/pg_ctl" -D "$data" -l "$WORK/server.log" -w start >/dev/null || { cat "$WORK/server.log"; exit 1; }

# One session for all of it: a psql that reads statements from a pipe.
coproc SESSION { exec "$PG_BIN/psql" -X -q -At 2>&1; }
ask() { # SQL, which answers one line
    local line
    printf '%s\n;\n\\echo .\n' "$1" >&"${SESSION[1]}"
    answer=
    while IFS= read -r line <&"${SESSION[0]}" && [ "$line" != . ]; do answer+=${answer:+ }$line; done
}
resident() { awk '$1 == "VmRSS:" { all = $2 } $1 == "RssAnon:" { own = $2 } END { print all, own }' "/proc/$pid/status"; }

ask "SET client_min_messages = error;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users SELECT 'u' || g FROM generate_series(0, 999) AS g;
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO token_usage SELECT 'w' || g, 'u' || g % 1000, 10 FROM generate_series(1, $((many + warm))) AS g;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
VACUUM ANALYZE token_usage, users;"
is 'set up' "$answer" ''
ask 'SELECT pg_backend_pid()'
pid=$answer
settle() { # FROM TO: half by the function, half by the trigger; 500 a statement
    ask "DO \$\$ BEGIN
    FOR i IN $1..$2 - 1 BY 500 LOOP
        IF i / 500 % 2 = 0 THEN
            PERFORM count(settle_workflow('w' || g)) FROM generate_series(i + 1, i + 500) AS g;
        ELSE
            INSERT INTO workflows SELECT 'w' || g, 'completed' FROM generate_series(i + 1, i + 500) AS g;
        END IF;
        COMMIT;
    END LOOP;
END \$\$;"
    [ -z "$answer" ] || { echo "FAILED: $answer"; exit 1; }
}
# 8 MB are 1,024 buffers: the backend has touched them all when the table was loaded and the warm-up is done
settle 0 $warm
read -r before before_own <<<"$(resident)"
see_ledger
echo "after $warm settlements: $before kB resident, of it $before_own kB its own"
step=$((many / 5))
for part in 1 2 3 4 5; do
    settle $((warm + (part - 1) * step)) $((warm + part * step))
    read -r now now_own <<<"$(resident)"
    echo "after $((part * step)) more: $((now - before)) kB grown, of it $((now_own - before_own)) kB its own"
done
is "$many settlements grow the resident set by $((now - before)) kB, less than $limit kB" "$((now - before < limit))" 1
# the measure sees it where memory is kept
ask "SELECT format('PREPARE p%s AS SELECT * FROM users WHERE id = \$1', g) FROM generate_series(1, 1000) AS g \\gexec"
read -r leaked _ <<<"$(resident)"
is "1,000 prepared statements grow it by $((leaked - now)) kB" "$((leaked - now > 1024))" 1
ask 'DEALLOCATE ALL'
is 'each was charged once' "$(value 'SELECT count(*), sum(amount) FROM token_balance.ledger')" "$((many + warm))|-$(((many + warm) * 10))"
is 'what breaks an invariant' "$(what_breaks)" nothing

echo '-- a backlog of any size'
# A procedure's memory is that of the whole call: what a run leaves there would add up. Its cursor may spill early.
ask "SET work_mem = '64kB'; SET client_min_messages = error"
peak_of_backlog() { # NAME COUNT: the peak of the resident set in kB, from where it stands
    ask "SET session_replication_role = replica;
INSERT INTO workflows SELECT '$1' || g, 'completed' FROM generate_series(1, $2) AS g;
INSERT INTO token_usage SELECT '$1' || g, 'u' || g % 1000, 10 FROM generate_series(1, $2) AS g;
SET session_replication_role = origin; CHECKPOINT;"
    echo 5 >"/proc/$pid/clear_refs"
    ask 'CALL token_balance.settle_backlog(500)'
    [ -z "$answer" ] || { echo "FAILED: $answer"; exit 1; }
    peak=$(awk '$1 == "VmHWM:" { print $2 }' "/proc/$pid/status")
}
peak_of_backlog first $((many / 5)) # all that is touched once
peak_of_backlog small 5000
small=$peak
peak_of_backlog large "$many"
is "a backlog of $many runs peaks $((peak - small)) kB over one of 5,000, less than 1,000 kB" "$((peak - small < 1000))" 1
is 'all of it is settled' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0

echo '-- plans survive DDL'
# Smaller tables, so that an ALTER TYPE is quick.
ask "DROP EXTENSION token_balance CASCADE; DROP TABLE users, token_usage, workflows, seen_ledger;
CREATE ROLE other; GRANT CREATE, USAGE ON SCHEMA public TO other;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id);
GRANT SELECT ON token_usage, workflows TO other;
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA public;"
is 'another set of tables' "$answer" ''
number=0 users=users usage=token_usage workflows=workflows spent=0
# All that uses plans: function, trigger, batch, late usage, credit, refund, balance, statement, summary, reconcile.
works() { # WHAT
    number=$((number + 1))
    ask "INSERT INTO $usage (workflow_id, user_id, total_tokens) VALUES ('f$number', 'ann', 3), ('t$number', 'ann', 4), ('b$number', 'ann', 5);
SELECT settle_workflow('f$number') ->> 'tokens_used';
INSERT INTO $workflows (id, user_id, status) VALUES ('t$number', 'ann', 'running');
UPDATE $workflows SET status = 'completed' WHERE id = 't$number';
SELECT sum(charged_tokens) FROM token_balance.settle_workflows('{b$number,t$number}');
INSERT INTO $usage (workflow_id, user_id, total_tokens) VALUES ('t$number', 'ann', 6);
SELECT token_balance.settle_pending() ->> 'tokens_used';
SELECT token_balance.refund_workflow('f$number', 1) ->> 'amount';
SELECT token_balance.credit('bob', 2, 'c$number') ->> 'amount';
SELECT count(*) FROM token_balance.statement('bob') WHERE reference = 'c$number';
SELECT (token_balance.summary('ann') #>> '{summary,record_count}')::integer > 0;
SELECT token_balance.balance('ann') ->> 'token_balance';
SELECT count(*) FROM token_balance.reconcile();"
    spent=$((spent + 17))
    is "$1" "$answer" "3 5 6 1 2 1 t $((1000000 - spent)) 0"
}
works 'before any'
elsewhere() { answer=$(PGOPTIONS='-c client_min_messages=error' psql -At <<<"$1" 2>&1 | tr -d '\n' || true); }
ddl() { # WHAT SQL: in another session or in this one
    $where "$2"
    [ -z "$answer" ] || { echo "FAILED: $1: $answer"; failed=1; }
    works "$by: $1"
}
for where in elsewhere ask; do
    if [ $where = ask ]; then by='the same session' suffix=2; else by='another session' suffix=1; fi
    for table in users usage workflows; do
        ddl "ADD COLUMN to $table" "ALTER TABLE ${!table} ADD COLUMN extra$suffix integer DEFAULT 1"
        ddl "DROP COLUMN of $table" "ALTER TABLE ${!table} DROP COLUMN extra$suffix"
        old=${!table}
        declare "$table=${table}_$suffix"
        ddl "RENAME of $table" "ALTER TABLE $old RENAME TO ${!table}"
        works "$by: and once more"
        ddl "OWNER of $table" "ALTER TABLE ${!table} OWNER TO $([ $suffix = 1 ] && echo other || echo postgres)"
    done
    if [ $suffix = 1 ]; then
        ddl 'ALTER TYPE of the balance' "ALTER TABLE $users ALTER token_balance TYPE bigint"
        ddl 'ALTER TYPE of the tokens' "ALTER TABLE $usage ALTER total_tokens TYPE bigint"
        ddl 'ALTER TYPE of the keys' "ALTER TABLE $usage ALTER workflow_id TYPE varchar(100), ALTER user_id TYPE varchar(100)"
    else
        ddl 'ALTER TYPE of the balance' "ALTER TABLE $users ALTER token_balance TYPE numeric"
        ddl 'ALTER TYPE of the tokens' "ALTER TABLE $usage ALTER total_tokens TYPE integer"
        ddl 'ALTER TYPE of the keys' "ALTER TABLE $usage ALTER workflow_id TYPE text, ALTER user_id TYPE text"
    fi
    ddl 'an index created' "CREATE INDEX made ON $usage (workflow_id) INCLUDE (user_id, total_tokens)"
    ddl 'an index dropped' 'DROP INDEX made'
    ddl 'ANALYZE' "ANALYZE $users, $usage, $workflows"
    ddl 'VACUUM FULL' "VACUUM FULL $usage"
    ddl 'detach, attach' "SELECT token_balance.detach();
SELECT token_balance.attach('$users', '$usage', '$workflows')"
    ddl 'the tables moved to another schema' "CREATE SCHEMA app$suffix; ALTER TABLE $users SET SCHEMA app$suffix; ALTER TABLE $usage SET SCHEMA app$suffix; ALTER TABLE $workflows SET SCHEMA app$suffix;
ALTER TABLE app$suffix.$users SET SCHEMA public; ALTER TABLE app$suffix.$usage SET SCHEMA public; ALTER TABLE app$suffix.$workflows SET SCHEMA public"
    ddl 'DROP EXTENSION CASCADE, CREATE EXTENSION, attach' "DROP EXTENSION token_balance CASCADE; CREATE EXTENSION token_balance SCHEMA public;
SELECT token_balance.attach('$users', '$usage', '$workflows')"
done
ask 'SELECT pg_backend_pid()'
is 'it was one backend' "$answer" "$pid"
is 'no internal error in the log' "$(grep -cE 'PANIC|panicked|XX000|TRAP' "$WORK/server.log")" 0
exit "$failed"
