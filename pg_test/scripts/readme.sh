#!/usr/bin/env bash
# Runs the SQL of README.md and README.zh-CN.md, block after block, in a
# database of its own. An error fails. Where a ```text block follows a ```sql
# block, the output of the last statements must be what it shows. Both pages
# have the same commands.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
blocks_of() { awk '/^```/ { is_block = !is_block } is_block' "$1"; }
if [ $# = 0 ]; then
    if ! diff <(blocks_of "$PROJECT/README.md") <(blocks_of "$PROJECT/README.zh-CN.md"); then
        echo 'FAILED: the two pages have not the same commands'
        exit 1
    fi
    "$0" "$PROJECT/README.md"
    "$0" "$PROJECT/README.zh-CN.md"
    exit
fi
readme=$1
page=$(basename "$readme")
db=tb_readme
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }

# The page makes roles, and roles belong to the cluster.
clean() { psql -d "${PGDATABASE:-postgres}" -c "DROP DATABASE IF EXISTS $db" -c 'DROP ROLE IF EXISTS token_app, token_billing, token_reader' 2>/dev/null; }
clean
trap clean EXIT
psql -d "${PGDATABASE:-postgres}" -c "CREATE DATABASE $db"

# 001.sql, 001.text: the blocks in the order of the page
mkdir -p "$WORK/blocks"
rm -f "$WORK"/blocks/*
awk -v dir="$WORK/blocks" '
  /^```sql$/  { n++; file = sprintf("%s/%03d.sql", dir, n); next }
  /^```text$/ { file = sprintf("%s/%03d.text", dir, n); printf "" > file; next }
  /^```/      { file = (file == "" ? "-" : ""); next }
  file != "" && file != "-" { print > file }
' "$readme"

# Trailing blanks and blank lines are no matter.
tidy() { sed -e 's/[[:space:]]*$//' -e '/^$/d' "$1"; }

failed=0 blocks=0 compared=0
for sql in "$WORK"/blocks/*.sql; do
    blocks=$((blocks + 1))
    out=${sql%.sql}.out
    if ! psql -d "$db" -P footer=off -f "$sql" >"$out" 2>"${sql%.sql}.err"; then
        echo "FAILED: $(basename "$sql")"
        cat "$sql" "${sql%.sql}.err"
        exit 1
    fi
    text=${sql%.sql}.text
    if [ -e "$text" ]; then
        compared=$((compared + 1))
        # attach and detach answer an empty row each: the page does not show those
        if ! diff -u --label "$page" --label psql <(tidy "$text") <(awk '
                /^ (attach|detach) $/ { skip = 3 } skip > 0 { skip--; next } { print }' "$out" | sed -e 's/[[:space:]]*$//' -e '/^$/d'); then
            echo "FAILED: the output of $(basename "$sql") is not what $page shows"
            failed=1
        fi
    fi
done
[ "$blocks" -gt 5 ] || { echo "only $blocks SQL blocks found"; exit 1; }
echo "$page: $blocks SQL blocks run, $compared outputs compared"
exit "$failed"
