#!/usr/bin/env bash
# Runs the SQL of README.md, of the tutorial, of binding.md and of reference.md, block after block, each page in a
# database of its own. An error fails. Where a ```text block follows a ```sql block, the output of the statements must be
# what it shows. (A ```postgresql block is only to be read.) Pages that are there in Chinese, too, have the same
# commands and outputs there.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
# shellcheck source-path=SCRIPTDIR source=blocks.sh
source "$PROJECT/pg_test/scripts/blocks.sh"
pages=(README.md docs/tutorial.md docs/binding.md docs/reference.md)
in_both=(README docs/tutorial docs/binding docs/privileges)
maintenance=${PGDATABASE:-postgres}
db=tb_pages
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; }
trap clean EXIT
failed=0

fenced() { awk '/^```/ { is_block = !is_block } is_block' "$1"; }
for page in "${in_both[@]}"; do
    if ! diff --label "$page.md" --label "$page.zh-CN.md" -u <(fenced "$PROJECT/$page.md") <(fenced "$PROJECT/$page.zh-CN.md"); then
        echo "FAILED: $page.md and $page.zh-CN.md have not the same commands"
        failed=1
    fi
done

# Trailing blanks and blank lines are no matter.
tidy() { sed -e 's/[[:space:]]*$//' -e '/^$/d'; }
# attach and detach answer an empty row each: the pages do not show those.
without_empty_answers() { awk '/^ (attach|detach) $/ { skip = 3 } skip > 0 { skip--; next } { print }'; }

for page in "${pages[@]}"; do
    clean
    psql -d "$maintenance" -c "CREATE DATABASE $db"
    blocks_of "$PROJECT/$page" "$WORK/blocks"
    ran=0 compared=0
    for sql in "$WORK"/blocks/*.sql; do
        out=${sql%.sql}.out text=${sql%.sql}.text
        if ! psql -d "$db" -P footer=off -f "$sql" >"$out" 2>"${sql%.sql}.err"; then
            echo "FAILED: $page, $(basename "$sql")"
            cat "$sql" "${sql%.sql}.err"
            exit 1
        fi
        ran=$((ran + 1))
        [ -e "$text" ] || continue
        compared=$((compared + 1))
        if ! diff -u --label "$page" --label psql <(tidy <"$text") <(without_empty_answers <"$out" | tidy); then
            echo "FAILED: the output of $(basename "$sql") is not what $page shows"
            failed=1
        fi
    done
    [ "$compared" -ge 2 ] || { echo "FAILED: only $compared outputs found in $page"; failed=1; }
    echo "$page: $ran SQL blocks run, $compared outputs compared"
done
exit "$failed"
