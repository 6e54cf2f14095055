#!/usr/bin/env bash
# docs/recipes.md: its SQL in order with the outputs that it shows, and its Python for psycopg and SQLAlchemy against this
# cluster, both taken out of the page. Blocks of pg_cron have a script of their own; once_per_run/stacks.sh has the other
# Python.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
page=$PROJECT/docs/recipes.md
if [ ! -e "$page" ]; then
    echo "docs/recipes.md is not in the copy that is tested"
    exit 77
fi
# shellcheck source-path=SCRIPTDIR source=blocks.sh
source "$PROJECT/pg_test/scripts/blocks.sh"
maintenance=${PGDATABASE:-postgres}
db=tb_recipes
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" -c 'DROP ROLE IF EXISTS token_sweeper, tb_recipes_sweeper' 2>/dev/null
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"

blocks_of "$page" "$WORK/blocks"
tidy() { sed -e 's/[[:space:]]*$//' -e '/^$/d'; }

# Grants need the extension, which the page installs later: the role block is kept for then.
ran=0 later=()
run() { # FILE
    if ! psql -d "$db" -P footer=off -f "$1" >"${1%.sql}.out" 2>"${1%.sql}.err"; then
        echo "FAILED: $(basename "$1")"
        cat "$1" "${1%.sql}.err"
        exit 1
    fi
    ran=$((ran + 1))
    local text=${1%.sql}.text
    [ -e "$text" ] || return 0
    if diff -u --label recipes.md --label psql <(tidy <"$text") <(tidy <"${1%.sql}.out"); then
        echo "ok: the output of $(basename "$1")"
    else
        echo "FAILED: the output of $(basename "$1") is not what the page shows"
        failed=1
    fi
}
for sql in "$WORK"/blocks/*.sql; do
    first=$(head -n 1 "$sql")
    case $first in
    '-- pg_cron') continue ;;
    'CREATE ROLE '*) later+=("$sql") && continue ;;
    '-- the takeover')
        # What the old trigger did with the rest of usage is known from here on.
        is 'by hand: all that completed is charged once' \
            "$(value "SELECT sum(2000000 - b) FROM (SELECT sum(token_balance) AS b FROM shop.users) t")" 51200
        is 'by hand: again charges the late usage only' \
            "$(echo "BEGIN; SELECT shop.settle_by_hand('w1'); SELECT shop.settle_by_hand('w1'); ROLLBACK;" | psql -At -d "$db" | xargs)" '4 0'
        is 'by hand: a run of an unknown account completes' "$(psql -At -d "$db" 2>&1 <<'SQL' | grep -cE '^WARNING|^completed$|^0$'
BEGIN;
INSERT INTO shop.workflows VALUES ('w9', 'zoe', 'running');
INSERT INTO shop.token_usage VALUES ('w9', 'zoe', 5);
UPDATE shop.workflows SET status = 'completed' WHERE id = 'w9' RETURNING status;
SELECT count(*) FROM shop.workflow_settlement WHERE workflow_id = 'w9';
ROLLBACK;
SQL
        )" 3
        ;;
    esac
    run "$sql"
done
for sql in "${later[@]}"; do run "$sql"; done
[ "$ran" -ge 6 ] || { echo "only $ran SQL blocks found"; exit 1; }

# Each row of usage is charged once, whoever did it: all but the 7000 from before.
is 'takeover: charged by hand and by the extension together' \
    "$(value 'SELECT 2000000 - sum(token_balance) FROM shop.users')" \
    "$(value 'SELECT sum(total_tokens) - 7000 FROM shop.token_usage')"
is 'takeover: for each account' "$(value "SELECT count(*) FROM shop.users u WHERE 1000000 - token_balance <>
    (SELECT sum(total_tokens) FROM shop.token_usage t WHERE t.user_id = u.id AND workflow_id <> 'w0')")" 0
is 'takeover: nothing is left to charge' \
    "$(value "SELECT sum((settle_workflow(id) ->> 'tokens_used')::bigint) FROM shop.workflows")" 0
is 'takeover: the extension charged what the old trigger had not' \
    "$(value 'SELECT sum(charged_tokens) FROM token_balance.settlement')" 634
is 'takeover: the ledger begins with the balance that was there' \
    "$(value "SELECT previous_balance FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id LIMIT 1")" 949000
is 'takeover: the column is as it was' \
    "$(value "SELECT data_type FROM information_schema.columns WHERE table_schema = 'shop' AND column_name = 'token_balance'")" bigint
bad="SELECT string_agg(name, ', ') FROM token_balance.verify() WHERE NOT ok"
is 'takeover: verify() misses the index of summaries alone' "$(value "$bad")" 'summary index'
value "$(value 'SELECT hint FROM token_balance.verify() WHERE NOT ok')"
is 'takeover: verify() finds nothing' "$(value "$bad")" ''
value 'CREATE ROLE tb_recipes_sweeper LOGIN IN ROLE token_sweeper'
value "INSERT INTO shop.token_usage VALUES ('w3', 'ann', 100), ('w2', 'bob', 9)"
is 'the sweeper settles what is pending' \
    "$(psql -At -d "$db" -U tb_recipes_sweeper -c "SELECT token_balance.settle_pending(max_workflows => 1) ->> 'more'")" true
is 'the sweeper settles the backlog' \
    "$(psql -At -d "$db" -U tb_recipes_sweeper -c 'CALL token_balance.settle_backlog()' 2>/dev/null && value 'SELECT sum(charged_tokens) FROM token_balance.settlement')" 743

# --- Python ---------------------------------------------------------------------

python=
if ! command -v python3 >/dev/null; then
    echo 'skipped: the Python of the page, there is no python3'
elif ! python3 -m venv "$WORK/venv" >"$WORK/pip.log" 2>&1; then
    echo "skipped: the Python of the page, python3 -m venv fails: $(tail -n 1 "$WORK/pip.log")"
elif ! timeout 120 "$WORK/venv/bin/pip" install -q --disable-pip-version-check 'psycopg[binary]' >"$WORK/pip.log" 2>&1; then
    echo "skipped: the Python of the page, pip cannot install psycopg: $(tail -n 1 "$WORK/pip.log")"
else
    python=$WORK/venv/bin/python
    # One without the other is half a test, and better than none.
    timeout 120 "$WORK/venv/bin/pip" install -q --disable-pip-version-check sqlalchemy >"$WORK/pip.log" 2>&1 ||
        echo "skipped: SQLAlchemy, pip cannot install it: $(tail -n 1 "$WORK/pip.log")"
fi
if [ -n "$python" ]; then
    value "INSERT INTO shop.users VALUES ('eve'), ('fay')"
    value "INSERT INTO shop.workflows VALUES ('p1', 'eve', 'running'), ('p2', 'fay', 'running'), ('p3', 'eve', 'running')"
    value "INSERT INTO shop.token_usage VALUES ('p1', 'eve', 100), ('p2', 'fay', 20)"
    if ! PGDATABASE=$db PYTHONPATH=$WORK/blocks PYTHONDONTWRITEBYTECODE=1 timeout 120 "$python" \
        "$PROJECT/pg_test/scripts/recipes.py"; then
        echo 'FAILED: recipes.py'
        failed=1
    fi
fi
is 'all adds up in the end' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
exit "$failed"
