#!/usr/bin/env bash
# The bench: a small run of it measures every row, finds the money right, and its report has a line for each row and a
# chart. What it measures is not looked at: the machine does other things meanwhile.
# shellcheck source=scripts/lib.sh
source "${ROOT:?}/scripts/lib.sh"
# shellcheck source=bench/cluster.sh
source "$ROOT/bench/cluster.sh"
: "${WORK:?}" "${PG_VERSION:?}"
if [ ! -r /proc/self/schedstat ]; then
    echo 'no /proc/self/schedstat here'
    exit 77
fi
if ! have python3; then
    echo 'no python3 here'
    exit 77
fi
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean_up_on_exit
use_server "$PG_VERSION"
start_bench_cluster fsync=off

run_bench "$WORK/run.log" "$WORK/figures.tsv" QUICK=1
echo 'A machine.' | python3 "$ROOT/bench/report.py" "$WORK/figures.tsv" "$WORK" >"$WORK/printed.md"
cat "$WORK/printed.md"
is 'every row has its lines' "$(sed -n '/contender/,$p' "$WORK/printed.md" | grep -oE '^\| B[0-9]' | uniq | tr -d '| \n')" B1B2B3B4B5B6B7B8
# one in B1 to B4, in B6 and in B8, two in B5, four in B7
is 'every target is reached or not' "$(grep -cE '\| (yes|\*\*no\*\*) +\|$' "$WORK/printed.md")" 12
is 'the file is what was printed' "$(diff "$WORK/printed.md" "$WORK/bench.md")" ''
is 'the chart is XML' "$(python3 -c 'import sys, xml.dom.minidom as dom; print(dom.parse(sys.argv[1]).documentElement.tagName)' "$WORK/bench.svg")" svg

# Wrong money is no figure.
in_server_env "$PG_BIN/psql" -X -q -d base_twin -c 'UPDATE app.users SET token_balance = token_balance - 1'
status=0
run_bench "$WORK/wrong.log" "$WORK/wrong.tsv" QUICK=1 ROWS=B1 >/dev/null || status=$?
is 'a contender that takes too much ends the bench' "$status $(grep -c 'the money is wrong' "$WORK/wrong.log")" '1 1'
is 'and gives no figure' "$(grep -c settlement "$WORK/wrong.tsv")" 0
exit "$failed"
