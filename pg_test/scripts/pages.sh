#!/usr/bin/env bash
# Runs the SQL of README.md, of the tutorial, of binding.md, reference.md and scaling.md, block after block, each page in a
# database of its own. An error fails. Where a ```text block follows a ```sql block, the output of the statements must be
# what it shows, and where a ```notice block does, what is told besides must be that. (A ```postgresql block is only to
# be read.) Pages that are there in Chinese, too, have the same
# commands and outputs there.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
# shellcheck source-path=SCRIPTDIR source=blocks.sh
source "$PROJECT/pg_test/scripts/blocks.sh"
pages=(README.md docs/tutorial.md docs/binding.md docs/reference.md docs/scaling.md)
in_both=(README docs/tutorial docs/binding docs/privileges)
maintenance=${PGDATABASE:-postgres}
db=tb_pages
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" -c 'DROP DATABASE IF EXISTS south' -c 'DROP DATABASE IF EXISTS north' 2>/dev/null
}
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
        if [ -e "${sql%.sql}.notice" ]; then
            compared=$((compared + 1))
            if ! diff -u --label "$page" --label psql "${sql%.sql}.notice" <(sed -E 's/^psql:[^ ]*: //' "${sql%.sql}.err" | sed '/^$/d'); then
                echo "FAILED: what $(basename "$sql") is told is not what $page shows"
                failed=1
            fi
        fi
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

# The reference has each function, procedure and view as the catalog has it. `id` stands for text, bigint and uuid, where a
# function is there for all three.
clean
psql -d "$maintenance" -c "CREATE DATABASE $db"
psql -d "$db" -c 'CREATE EXTENSION token_balance' 2>/dev/null
psql -At -d "$db" >"$WORK/signatures.catalog" <<'SQL'
WITH member AS (
  SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
  WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'token_balance'
), callable AS (
  SELECT p.oid, CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE '' END
      || CASE n.nspname WHEN 'token_balance' THEN 'token_balance.' ELSE '' END || p.proname AS name,
    regexp_replace(regexp_replace(pg_get_function_arguments(p.oid), '::[a-z ]+(\[\])?', '', 'g'), '\mIN ', '', 'g') AS arguments,
    coalesce(' -> ' || pg_get_function_result(p.oid), '') AS result
  FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
  JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
), by_id AS (
  SELECT name, regexp_replace(arguments, '^(workflow_id|user_id) (text|bigint|uuid)\M', '\1 id') AS arguments, result, count(*) AS count
  FROM callable GROUP BY 1, 2, 3
), signature AS (
  SELECT format('%s(%s)%s', name, arguments, result) AS line FROM by_id WHERE count IN (1, 3)
  UNION ALL
  SELECT format('not for text, bigint and uuid: %s(%s)', name, arguments) FROM by_id
  WHERE count <> CASE WHEN arguments ~ '^(workflow_id|user_id) id' THEN 3 ELSE 1 END
  UNION ALL
  SELECT format('VIEW token_balance.%s(%s)', c.relname,
    (SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
     FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
  FROM pg_class AS c JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid WHERE c.relkind = 'v'
)
SELECT replace(line, 'timestamp with time zone', 'timestamptz') FROM signature
SQL
awk '/^```signature$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$PROJECT/docs/reference.md" >"$WORK/signatures.page"
if diff -u --label reference.md --label catalog <(LC_ALL=C sort "$WORK/signatures.page") <(LC_ALL=C sort "$WORK/signatures.catalog"); then
    echo "reference.md: $(wc -l <"$WORK/signatures.page") signatures are those of the catalog"
else
    echo 'FAILED: the signatures of reference.md are not those of the catalog'
    failed=1
fi
tables=$(psql -At -d "$db" -c "SELECT 'token_balance.' || relname FROM pg_class
    WHERE relnamespace = 'token_balance'::regnamespace AND relkind = 'r' ORDER BY relname COLLATE \"C\"")
# shellcheck disable=SC2016 # the page has backticks
if ! diff -u --label reference.md --label catalog \
    <(sed -nE '/^## Tables/,/^## /s/^\| `(token_balance\.[a-z_]+)` \|.*/\1/p' "$PROJECT/docs/reference.md" | LC_ALL=C sort) <(echo "$tables"); then
    echo 'FAILED: the tables of reference.md are not those of the catalog'
    failed=1
fi

# Each SQLSTATE of the reference is that of the name beside it. (scripts/check_docs.py compares the names with the source.)
states=0
while read -r code name; do
    states=$((states + 1))
    case $name in
    # Not an error: no exception can be raised by its name.
    warning) expected=01000 got=$code ;;
    *)
        expected=$code
        got=$(psql -d "$db" -c '\set VERBOSITY sqlstate' -c "DO 'BEGIN RAISE $name; END'" 2>&1 | sed -nE 's/^ERROR: +([0-9A-Z]{5})$/\1/p') || true
        ;;
    esac
    if [ "$got" != "$expected" ]; then
        echo "FAILED: $name is '$got', not $code"
        failed=1
    fi
done < <(sed -nE 's/^\| ([0-9A-Z]{5}) \| `([a-z_]+)` \|.*/\1 \2/p' "$PROJECT/docs/reference.md")
[ "$states" -ge 20 ] || { echo "FAILED: only $states SQLSTATEs found in reference.md"; failed=1; }
echo "reference.md: $states SQLSTATEs are those of their names"
exit "$failed"
