#!/usr/bin/env bash
# docs/weights.md: its SQL in order, with the outputs that it shows, as the owner of the tables.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
page=$PROJECT/docs/weights.md
if [ ! -e "$page" ]; then
    echo "docs/weights.md is not in the copy that is tested"
    exit 77
fi
maintenance=${PGDATABASE:-postgres}
db=tb_weights
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() { psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; }
failed=0
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"
mkdir -p "$WORK/blocks"
rm -f "$WORK"/blocks/*
# 001.sql and 001.text
awk -v dir="$WORK/blocks" '
  /^```sql$/  { n++; file = sprintf("%s/%03d.sql", dir, n); next }
  /^```text$/ { file = sprintf("%s/%03d.text", dir, n); next }
  /^```/      { file = ""; next }
  file != ""  { print > file }
' "$page"
tidy() { sed -e 's/[[:space:]]*$//' -e '/^$/d'; }
cd "$PROJECT" # the page names a file of it
for sql in "$WORK"/blocks/*.sql; do
    psql -d "$db" -P footer=off -f "$sql" >"${sql%.sql}.out"
    text=${sql%.sql}.text
    [ -e "$text" ] || continue
    if diff -u --label weights.md --label psql <(tidy <"$text") <(tidy <"${sql%.sql}.out"); then
        echo "ok: the output of $(basename "$sql")"
    else
        echo "FAILED: the output of $(basename "$sql") is not what the page shows"
        failed=1
    fi
done
[ "$(find "$WORK/blocks" -name '*.text' | wc -l)" -ge 2 ] || { echo 'FAILED: the page shows no outputs' && failed=1; }
# A settlement asks for one workflow: that reaches the usage's index, and no price is read for the others.
psql -d "$db" -c "INSERT INTO token_usage SELECT 'w' || n, 'ann', 'large', 1, 0, 1, now() FROM generate_series(1, 20000) AS n" \
    -c 'ANALYZE token_usage'
plan=$(psql -At -d "$db" -c "EXPLAIN SELECT sum(total_tokens) FROM priced_usage WHERE workflow_id = 'w7'")
case $plan in
*'Index Scan using token_usage_workflow_id_idx'*) echo 'ok: one workflow is found by the index' ;;
*) printf 'FAILED: one workflow is not found by the index:\n%s\n' "$plan" && failed=1 ;;
esac
is_ok=$(psql -At -d "$db" -c "SELECT ok, detail FROM token_balance.verify() WHERE name = 'usage index'")
case $is_ok in
t*) echo 'ok: verify says so' ;;
*) echo "FAILED: verify: $is_ok" && failed=1 ;;
esac
# Nothing of a run is charged by another price than that of its time, and a settlement of the whole is that of its parts.
psql -d "$db" -c "INSERT INTO users VALUES ('bob')" -c "INSERT INTO token_usage VALUES ('parts', 'bob', 'large', 1, 0, 0, '2026-03-02')" >/dev/null
for _ in 1 2 3; do
    psql -At -d "$db" -c "SELECT settle_workflow('parts') -> 'tokens_used'" \
        -c "INSERT INTO token_usage VALUES ('parts', 'bob', 'large', 1, 0, 0, '2026-03-02')"
done >"$WORK/parts"
# 0.5, 1, 1.5 are 1, 1 and 2 tokens
if [ "$(paste -sd ' ' "$WORK/parts")" = '1 0 1' ]; then
    echo 'ok: parts of tokens add up'
else
    echo "FAILED: parts of tokens are charged as $(paste -sd ' ' "$WORK/parts"), not as 1 0 1" && failed=1
fi
exit "$failed"
