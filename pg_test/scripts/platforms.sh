#!/usr/bin/env bash
# The tables of applications that people run (pg_test/platforms), each in a database of its own: whether suggest() finds
# the binding among its first three, and whether attach takes what is proposed. (DESIGN F30, F31)
#
# A file says what is expected in its head: `-- expects: ` and arguments, all of which one of the three calls has; or
# `-- expects a view: ` and a table from which one of the three would be.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
# What it is about is the same in all versions: the oldest and the newest say so.
case $("$PG_BIN/postgres" --version) in
*' 15.'* | *' 16.'* | *' 17.'*) echo 'seen on 14 and 18'; exit 77 ;;
esac
maintenance=${PGDATABASE:-postgres}
db=tb_platforms
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; }
trap clean EXIT
page_has() { [[ "$(<"$PROJECT/docs/platforms.md")" == *"$(<"$1")"* ]]; }
failed=0 platforms=0

# What the head of the file says of a step, in SQL; nothing if the platform has no such step.
step() { sed -n "s/^-- $1: //p" "$file"; }
run_step() { psql -d "$db" -v run="$run" -v account="$account" -o /dev/null <<<"SET client_min_messages = warning; $(step "$1")"; }
value() { psql -At -d "$db" -v run="$run" -v account="$account" <<<"$1"; }
# charged WHAT TOKENS: what the account has paid since it was bound.
charged() {
    local is
    is=$(value "SELECT $first - (token_balance.balance(:'account') ->> 'token_balance')::bigint")
    [ "$is" = "$2" ] || { echo "FAILED: $name: $1: $is charged, and should be $2"; failed=1; }
}
empty() { # WHAT SQL
    local is
    is=$(value "$2")
    [ -z "$is" ] || { echo "FAILED: $name: $1: $is"; failed=1; }
}
sweep() { psql -d "$db" -o /dev/null -c 'SELECT token_balance.settle_pending()'; }

# The account leaves for another database, where all that it has used is to be carried over, and is taken back. (DESIGN Z7, Z9)
leave_and_return() {
    local document receipt accounted
    accounted=$(value "SELECT sum(usage_tokens) FROM token_balance.settlement WHERE user_id = :'account'")
    document=$(value "SELECT token_balance.export_account(:'account', 'elsewhere')")
    run_step again 2>/dev/null
    sweep 2>/dev/null
    is=$(value "SELECT sum(tokens) FROM token_balance.usage_state() WHERE reason = 'account moved'")
    [ "$is" = "$accounted" ] || { echo "FAILED: $name: $is tokens are to be carried over, of $accounted"; failed=1; }
    receipt=$(psql -At -d "$db" -v document="$document" <<<"SET token_balance.database = 'elsewhere'; SELECT token_balance.refuse_account(:'document')")
    psql -d "$db" -o /dev/null -v receipt="$receipt" <<<"SELECT token_balance.take_back_account(:'receipt')"
    sweep
    charged 'taken back' "$paid"
    empty 'reconcile() when it is back' 'SELECT problem FROM token_balance.reconcile()'
}

# live CALL: bind it, and a life of one account: 100 tokens of a run, its end, once more; 20 that come late and 5 by an UPDATE; a
# refund; a move that is taken back; then detached, the platform's own migration, 7 tokens meanwhile, and attached again.
live() {
    local file_of_call=$1 account run first paid=100
    psql -d "$db" -c 'SET client_min_messages = warning' -f "$file_of_call" -o /dev/null
    account=$(psql -At -d "$db" -c "$(step account)")
    run=$(step run)
    [ -n "$run" ] || { echo "FAILED: $name has no life"; failed=1; return; }
    first=$(value "SELECT token_balance.balance(:'account') ->> 'token_balance'")
    run_step use
    run_step done
    charged 'a run that ends' 100
    run_step done
    run_step again
    charged 'that says so again' 100
    if [ -n "$(step late)" ]; then
        run_step late
        sweep
        paid=$((paid + 20))
        charged 'late usage' "$paid"
    fi
    run_step more
    sweep
    paid=$((paid + 5))
    charged 'updated usage' "$paid"
    value "SELECT token_balance.refund_workflow(:'run', 25)" >/dev/null
    paid=$((paid - 25))
    charged 'a refund' "$paid"
    is=$(value "SELECT s.it ->> 'token_balance' = (token_balance.balance(:'account') ->> 'token_balance') AND (s.it -> 'summary' ->> 'record_count')::integer > 0 FROM token_balance.summary(:'account') AS s (it)")
    [ "$is" = t ] || { echo "FAILED: $name: its summary"; failed=1; }
    empty 'usage that waits' "SELECT binding, tokens FROM token_balance.usage_state() WHERE state = 'waiting'"
    empty 'reconcile()' 'SELECT problem FROM token_balance.reconcile()'
    leave_and_return
    psql -d "$db" -o /dev/null -c 'SELECT token_balance.detach()'
    run_step migrate
    run_step away
    # The view stays.
    sed -n '/^SELECT token_balance.attach/,$p' "$file_of_call" >"$WORK/again.sql"
    psql -d "$db" -c 'SET client_min_messages = warning' -f "$WORK/again.sql" -o /dev/null
    charged 'attached again' "$paid"
    sweep
    charged 'what came meanwhile' $((paid + 7))
    empty 'verify()' "SELECT name, detail FROM token_balance.verify() WHERE NOT ok AND name NOT LIKE '%index' AND name NOT LIKE '%status%'"
    empty 'reconcile() in the end' 'SELECT problem FROM token_balance.reconcile()'
    echo "ok: $name lives"
}
for file in "$PROJECT"/pg_test/platforms/*.sql; do
    name=$(basename "$file" .sql)
    [ -z "${ONLY_PLATFORM:-}" ] || [ "$ONLY_PLATFORM" = "$name" ] || continue
    platforms=$((platforms + 1))
    clean
    psql -d "$maintenance" -c "CREATE DATABASE $db TEMPLATE template0"
    psql -d "$db" -c 'CREATE SCHEMA IF NOT EXISTS extension' -f "$file" \
        -c "SET client_min_messages = warning; CREATE EXTENSION token_balance SCHEMA extension"
    # As people see it.
    psql -At -d "$db" -c 'SELECT token_balance.suggest()' >"$WORK/$name.suggested"
    for rank in 1 2 3; do
        psql -At -d "$db" -c "SELECT call FROM token_balance.suggestions() WHERE rank = $rank" >"$WORK/$name.$rank.call"
    done
    wanted=0 chosen=
    while IFS= read -r expected; do
        wanted=$((wanted + 1))
        found=
        for rank in 1 2 3; do
            all=yes
            while IFS= read -r argument; do
                grep -qF -- "$argument" "$WORK/$name.$rank.call" || all=
            done < <(sed -E 's/ ([a-z_]+ =>)/\n\1/g' <<<"$expected")
            [ -z "$all" ] || found=${found:-$rank}
        done
        if [ -n "$found" ]; then
            echo "ok: $name: proposal $found: $expected"
            chosen=${chosen:-$found}
        else
            echo "FAILED: $name: not among the first three: $expected"
            failed=1
        fi
    done < <(sed -n 's/^-- expects: //p' "$file")
    while IFS= read -r table; do
        wanted=$((wanted + 1))
        if grep -qF -- "FROM $table AS u" "$WORK/$name".[123].call; then
            echo "ok: $name: a view of $table"
            for rank in 3 2 1; do
                if grep -qF -- "FROM $table AS u" "$WORK/$name.$rank.call"; then chosen=$rank; fi
            done
        else
            echo "FAILED: $name: no view of $table among the first three"
            failed=1
        fi
    done < <(sed -n 's/^-- expects a view: //p' "$file")
    while IFS= read -r nothing; do
        wanted=$((wanted + 1))
        if [ "$(psql -At -d "$db" -c 'SELECT count(*) FROM token_balance.suggestions()')" = 0 ]; then
            echo "ok: $name: nothing, $nothing"
        else
            echo "FAILED: $name: something is proposed where there is nothing, $nothing"
            failed=1
        fi
    done < <(sed -n 's/^-- expects nothing: //p' "$file")
    [ "$wanted" -gt 0 ] || { echo "FAILED: $name does not say what it expects"; failed=1; }
    [ "$failed" = 0 ] || cat "$WORK/$name.suggested"
    # Each call as it stands, and the whole as it is pasted from psql's screen.
    calls=$(psql -At -d "$db" -c 'SELECT count(call) FROM token_balance.suggestions()')
    for rank in $(psql -At -d "$db" -c 'SELECT rank FROM token_balance.suggestions() WHERE call IS NOT NULL'); do
        psql -At -d "$db" -c "SELECT call FROM token_balance.suggestions() WHERE rank = $rank" >"$WORK/call.sql"
        if ! { echo 'BEGIN; SET LOCAL client_min_messages = warning;'; cat "$WORK/call.sql"; echo 'ROLLBACK;'; } |
            psql -d "$db" -o /dev/null; then
            echo "FAILED: $name: attach refuses proposal $rank:"
            cat "$WORK/call.sql"
            failed=1
        fi
    done
    pasted=$(grep -c '^SELECT token_balance.attach' "$WORK/$name.suggested" || true)
    if [ -n "$chosen" ]; then
        # The page has the call that is bound here, word by word.
        if ! page_has "$WORK/$name.$chosen.call"; then
            echo "FAILED: $name: docs/platforms.md has not the call that is proposed:"
            cat "$WORK/$name.$chosen.call"
            failed=1
        fi
        live "$WORK/$name.$chosen.call"
    fi
    [ "$pasted" = "$calls" ] || { echo "FAILED: $name: $pasted calls on the screen, $calls in the rows"; failed=1; }
done
[ -n "${ONLY_PLATFORM:-}" ] || [ "$platforms" -ge 10 ] || { echo "only $platforms platforms"; exit 1; }
echo "$platforms platforms"
exit "$failed"
