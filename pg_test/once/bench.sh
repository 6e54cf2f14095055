#!/usr/bin/env bash
# The bench: a small run of it measures every row, finds the money right, and its report has a line for each row and a
# chart. In a cluster of its own: it makes databases and roles. What it measures is not looked at.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
if [ ! -r /proc/self/schedstat ]; then
    echo 'no /proc/self/schedstat here'
    exit 77
fi
if ! command -v python3 >/dev/null; then
    echo 'no python3 here'
    exit 77
fi
sockets=$(mktemp -d) # a socket's path must be short
export PGHOST=$sockets PGPORT=5432
clean() {
    "$PG_BIN/pg_ctl" -D "$WORK/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$sockets" "$WORK/data"
}
trap clean EXIT
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
"$PG_BIN/initdb" -D "$WORK/data" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
"$PG_BIN/pg_ctl" -D "$WORK/data" -l "$WORK/server.log" -w \
    -o "-c listen_addresses='' -c unix_socket_directories='$sockets' -c fsync=off" start >/dev/null ||
    { cat "$WORK/server.log"; exit 1; }

QUICK=1 "$PROJECT/bench/run.sh" "$WORK/figures.tsv"
echo 'A machine.' | python3 "$PROJECT/bench/report.py" "$WORK/figures.tsv" "$WORK" >"$WORK/printed.md"
cat "$WORK/printed.md"
is 'every row has its lines' "$(grep -oE '^\| B[0-9]' "$WORK/printed.md" | uniq | tr -d '| \n')" B1B2B3B4B5B6B7B8
# 1 in B1 to B4, 2 in B5 if there is a queue, 1 in B6, 4 in B7, 1 in B8
is 'every target is reached or not' "$(grep -cE '\| (yes|\*\*no\*\*) +\|$' "$WORK/printed.md")" \
    "$(if grep -q queue "$WORK/figures.tsv"; then echo 12; else echo 10; fi)"
is 'the file is what was printed' "$(diff "$WORK/printed.md" "$WORK/bench.md")" ''
is 'the chart is XML' "$(python3 -c 'import sys, xml.dom.minidom as dom; print(dom.parse(sys.argv[1]).documentElement.tagName)' "$WORK/bench.svg")" svg

# Wrong money is no figure.
"$PG_BIN/psql" -X -q -U postgres -d base_twin -c 'UPDATE app.users SET token_balance = token_balance - 1'
status=0
ROWS=B1 QUICK=1 "$PROJECT/bench/run.sh" "$WORK/wrong.tsv" >"$WORK/wrong.log" 2>&1 || status=$?
is 'a contender that takes too much ends the bench' "$status $(grep -c 'the money is wrong' "$WORK/wrong.log")" '1 1'
is 'and gives no figure' "$(wc -l <"$WORK/wrong.tsv")" 0
exit "$failed"
