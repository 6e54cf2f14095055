#!/usr/bin/env bash
# What a completion costs where accounts are split over 1, 2 and 3 databases, each on a server of its own on this machine
# (docs/scaling.md): CPU time of all processes of the servers, per completion, and completions per second. Then the same of
# one database from which an account has moved: each charge looks for moves there. "-" is without the extension.
#   bench/databases.sh [COMPLETIONS] [ROUNDS]     with PG_BIN of a server that has a release of the extension
set -euo pipefail
: "${PG_BIN:?the folder with pgbench of a server that has the extension}"
completions=${1:-30000} rounds=${2:-3} clients=6
work=$(mktemp -d)
export PGHOST=$work PGUSER=postgres PGDATABASE=postgres
clean() {
    for data in "$work"/data*; do "$PG_BIN/pg_ctl" -D "$data" -m immediate stop >/dev/null 2>&1 || true; done
    rm -rf "$work"
}
trap clean EXIT
on() { "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -p "543$1" "${@:2}"; }

# The CPU time of a server, in milliseconds: of its postmaster, of its children that have ended, and of those that live.
cpu() {
    local postmaster tick
    postmaster=$(head -n 1 "$work/data$1/postmaster.pid")
    tick=$((1000 / $(getconf CLK_TCK)))
    { cat "/proc/$postmaster/stat"; cat $(pgrep -P "$postmaster" | sed 's|.*|/proc/&/stat|') 2>/dev/null; } |
        sed 's/.*) //' | awk -v tick="$tick" '{ sum += $12 + $13 + (NR == 1 ? $14 + $15 : 0) } END { print sum * tick }'
}

# run DATABASES WITH: one row of the table.
run() {
    local databases=$1 with=$2 n per before=0 after=0 began took
    per=$((completions / databases / (clients / databases)))
    for n in $(seq 0 $((databases - 1))); do
        "$PG_BIN/initdb" -D "$work/data$n" -U postgres -A trust --no-sync >/dev/null
        printf "listen_addresses = ''\nunix_socket_directories = '%s'\nport = 543%s\nfsync = off\nautovacuum = off\nshared_buffers = 256MB\nmax_wal_size = 4GB\n" \
            "$work" "$n" >>"$work/data$n/postgresql.conf"
        "$PG_BIN/pg_ctl" -D "$work/data$n" -l "$work/log$n" -w start >/dev/null
        on "$n" -v per="$per" -v clients=$((clients / databases)) 2>/dev/null <<SQL
CREATE TABLE users (id bigint PRIMARY KEY, name text, balance bigint NOT NULL DEFAULT 0);
CREATE TABLE token_usage (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, workflow_id bigint, user_id bigint, total_tokens integer);
CREATE TABLE workflows (id bigint PRIMARY KEY, user_id bigint, status text);
INSERT INTO users SELECT g, 'user ' || g FROM generate_series(0, 999) AS g;
INSERT INTO workflows SELECT g, g % 1000, 'running' FROM generate_series(1, :per * :clients) AS g;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
$([ "$with" = '-' ] || echo 'CREATE EXTENSION token_balance;')
INSERT INTO token_usage (workflow_id, user_id, total_tokens) SELECT g, g % 1000, 100 + p FROM generate_series(1, :per * :clients) AS g, generate_series(1, 5) AS p;
$([ "$with" != 'moves' ] || echo "INSERT INTO users VALUES (5000); SELECT token_balance.export_account(5000, 'elsewhere') IS NULL \\g /dev/null")
VACUUM ANALYZE;
CHECKPOINT;
SQL
    done
    printf '%s\n' '\set i :i + 1' '\set id :client_id * :per + :i' "UPDATE workflows SET status = 'completed' WHERE id = :id;" >"$work/completion.sql"
    for n in $(seq 0 $((databases - 1))); do before=$((before + $(cpu "$n"))); done
    began=$(date +%s%N)
    for n in $(seq 0 $((databases - 1))); do
        "$PG_BIN/pgbench" -n -p "543$n" -M prepared -c $((clients / databases)) -j 1 -t "$per" -D i=0 -D per="$per" -f "$work/completion.sql" >/dev/null 2>&1 &
    done
    wait
    took=$(($(date +%s%N) - began))
    for n in $(seq 0 $((databases - 1))); do
        after=$((after + $(cpu "$n")))
        [ "$with" = '-' ] || [ "$(on "$n" -c 'SELECT count(*) FROM token_balance.settlement')" = "$((per * clients / databases))" ] || { echo "not all is settled" >&2; exit 1; }
        "$PG_BIN/pg_ctl" -D "$work/data$n" -m immediate -w stop >/dev/null
        rm -rf "$work/data$n"
    done
    awk -v d="$databases" -v w="$with" -v ms=$((after - before)) -v n=$((per * clients)) -v ns="$took" \
        'BEGIN { printf "%s|%s|%.0f|%.0f\n", d, w, ms * 1000 / n, n * 1e9 / ns }' | tee -a "$work/rows" | sed 's/|/ /g' >&2
}

for _ in $(seq "$rounds"); do
    run 1 -
    run 1 settles
    run 2 settles
    run 3 settles
    run 1 moves
done
# the median of the rounds
echo 'databases  with       CPU µs per completion  completions per second'
sort -t '|' -k 1,2 -k 3,3n "$work/rows" | awk -F '|' '
    { key = $1 "|" $2; if (!(key in n)) order[++count] = key; n[key]++; cpu[key, n[key]] = $3; rate[key, n[key]] = $4 }
    END { for (i = 1; i <= count; i++) { split(order[i], part, "|"); m = int((n[order[i]] + 1) / 2)
        printf "%9s  %-9s  %21s  %22s\n", part[1], part[2], cpu[order[i], m], rate[order[i], m] } }'
