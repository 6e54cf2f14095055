#!/usr/bin/env bash
# The tables of applications that people run (pg_test/platforms), each in a database of its own: whether suggest() finds
# the binding among its first three, and whether attach takes what is proposed. (DESIGN F30, F31)
#
# A file says what is expected in its head: `-- expects: ` and arguments, all of which one of the three calls has; or
# `-- expects a view: ` and a table from which one of the three would be.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_platforms
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; }
trap clean EXIT
page_has() { [[ "$(<"$PROJECT/docs/platforms.md")" == *"$(<"$1")"* ]]; }
failed=0 platforms=0
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
    life=$(sed -n 's/^-- life: //p' "$file")
    if [ -n "$life" ] && [ -n "$chosen" ]; then
        # The page has the call that is bound here, word by word.
        if ! page_has "$WORK/$name.$chosen.call"; then
            echo "FAILED: $name: docs/platforms.md has not the call that is proposed:"
            cat "$WORK/$name.$chosen.call"
            failed=1
        fi
        psql -d "$db" -c 'SET client_min_messages = warning' -f "$WORK/$name.$chosen.call" -o /dev/null
        is=$(psql -At -d "$db" -c "$life" | tail -n 1)
        should=$(sed -n 's/^-- gives: //p' "$file")
        if [ "$is" = "$should" ]; then
            echo "ok: $name lives: $is"
        else
            echo "FAILED: $name lives: $is, and should be $should"
            failed=1
        fi
    fi
    [ "$pasted" = "$calls" ] || { echo "FAILED: $name: $pasted calls on the screen, $calls in the rows"; failed=1; }
done
[ -n "${ONLY_PLATFORM:-}" ] || [ "$platforms" -ge 10 ] || { echo "only $platforms platforms"; exit 1; }
echo "$platforms platforms"
exit "$failed"
