#!/usr/bin/env bash
# The bench: a small run of it measures every row, finds the money right, and its report has a line for each row and a
# chart. What it measures is not looked at: the machine does other things meanwhile. A few functions of our own stand in
# for pgledger.
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

# stand_in FOLDER TOO_LITTLE: a ledger with the functions and views of pgledger's that the bench calls, which gives the
# account that receives so many tokens less than it should.
stand_in() {
    mkdir -p "$1/vendor/ids"
    echo 'CREATE SEQUENCE next_id;' >"$1/vendor/ids/ids.sql"
    cat >"$1/pgledger.sql" <<SQL
CREATE TABLE account (id text PRIMARY KEY, name text, currency text, balance numeric NOT NULL DEFAULT 0);
CREATE TABLE entry (account_id text, amount numeric, transfer text, metadata jsonb);
CREATE VIEW pgledger_accounts_view AS SELECT id, balance FROM account;
CREATE VIEW pgledger_entries_view AS SELECT account_id, amount FROM entry;
CREATE VIEW pgledger_transfers_view AS SELECT DISTINCT transfer AS id FROM entry;
CREATE FUNCTION pgledger_create_account(name text, currency text) RETURNS SETOF account LANGUAGE sql AS
    'INSERT INTO account VALUES (''a'' || nextval(''next_id''), name, currency) RETURNING *';
CREATE FUNCTION pgledger_create_transfer(giver text, taker text, amount numeric, event_at timestamptz = NULL, metadata jsonb = NULL)
RETURNS TABLE (id text) LANGUAGE plpgsql AS \$\$
DECLARE
    number text := nextval('next_id');
BEGIN
    INSERT INTO entry VALUES (giver, -amount, number, metadata), (taker, amount - $2, number, metadata);
    UPDATE account SET balance = balance - amount WHERE account.id = giver;
    UPDATE account SET balance = balance + amount - $2 WHERE account.id = taker;
    RETURN QUERY SELECT number;
END \$\$;
SQL
}

is 'percentiles are of the right ranks' "$(seq 1 2000 | awk -f "$ROOT/bench/percentiles.awk")" '1.000 1.980 1.998'
is 'and of so few there is no tenth of a hundredth' "$(seq 1 10 | awk -f "$ROOT/bench/percentiles.awk")" '0.005 0.010 0.010'

clean_up_on_exit
use_server "$PG_VERSION"
stand_in "$WORK/pgledger" 0
PGLEDGER=$WORK/pgledger start_bench_cluster fsync=off
query() { in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"; }

# B11 leaves no databases but its own, and B10's are looked at below.
run_bench "$WORK/run.log" "$WORK/figures.tsv" QUICK=1 ROWS='B1 B2 B3 B4 B5 B6 B7 B8 B9 B11 B10'
echo 'A machine.' | python3 "$ROOT/bench/report.py" "$WORK/figures.tsv" "$WORK" >"$WORK/printed.md"
cat "$WORK/printed.md"
is 'every row has its lines' "$(sed -n '/contender/,$p' "$WORK/printed.md" | grep -oE '^\| B[0-9]+' | uniq | tr -d '| \n')" \
    B1B2B3B4B5B6B7B8B9B10B11
# one in B1, B2, B3, B5, B6 and B8, four in B7
is 'every target is reached or not' "$(grep -cE '\| (yes|\*\*no\*\*) +\|$' "$WORK/printed.md")" 10
is 'the peers are among the contenders' "$(awk -F '\t' '$1 == "B9" { print $3 }' "$WORK/figures.tsv" | xargs)" \
    'floor twin extension litellm pgledger'
is 'and have latencies' "$(awk -F '\t' '$1 == "B10" && $2 ~ /p99.9/ && $4 > 0 { print $3 }' "$WORK/figures.tsv" | xargs)" \
    'floor twin extension queue litellm pgledger'
is 'all of them in one table, a line a contender' \
    "$(sed -n '/^| latencies of B10/,/^$/p' "$WORK/printed.md" | grep -c '^| [a-zA-Z]')" 7 # and its head
# The sum of 1 / k² for k up to 1,000 is 1.643935: of 4,000 workflows the first account has 2433, the second 608
is "the accounts are drawn by Zipf's law" "$(query -d zipf_2 -c "SELECT count(*) FROM app.workflows
    WHERE user_id IN ('user-1', 'user-2') GROUP BY user_id ORDER BY user_id" | xargs)" '2433 608'
is 'nobody waits for the standby that is gone' "$(query -c 'SHOW synchronous_standby_names')" ''
is 'the file is what was printed' "$(diff "$WORK/printed.md" "$WORK/bench.md")" ''
is 'the chart is XML' "$(python3 -c 'import sys, xml.dom.minidom as dom; print(dom.parse(sys.argv[1]).documentElement.tagName)' "$WORK/bench.svg")" svg

# Wrong money is no figure.
wrong() { # ROW CONTENDER FIGURES: of those that were before it
    local status=0
    run_bench "$WORK/wrong.log" "$WORK/wrong.tsv" QUICK=1 ROWS="$1" >/dev/null || status=$?
    is "$2: wrong money ends the bench" "$status $(grep -c "error: $2: the money is wrong" "$WORK/wrong.log")" '1 1'
    is 'and gives no figure' "$(awk -F '\t' '$2 != "size" { print $3 }' "$WORK/wrong.tsv" | xargs)" "$3"
}
stand_in "$PRIVATE_DIR/pgledger" 1
wrong B9 pgledger 'floor twin extension litellm'
rm -r "$PRIVATE_DIR/pgledger"
query -d base_litellm -c 'UPDATE app."LiteLLM_TeamTable" SET spend = spend + 1 WHERE team_id = '"'team-1'"
wrong B9 litellm 'floor twin extension'
is 'without a folder pgledger is left out, and that is said' "$(grep -c 'B9 and B10 are without pgledger' "$WORK/wrong.log")" 1
query -d base_twin -c 'UPDATE app.users SET token_balance = token_balance - 1'
wrong B1 twin ''
exit "$failed"
