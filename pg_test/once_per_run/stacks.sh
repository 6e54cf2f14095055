#!/usr/bin/env bash
# The extension under what applications are written with: each program of stacks/ is a small application of its own, in
# its own database, as a role that owns its tables and is no superuser.
set -euo pipefail
: "${ROOT:?}" "${PG_BIN:?}" "${WORK:?}"
stacks=$ROOT/pg_test/once_per_run/stacks
# The versions that these programs were written for.
packages=('psycopg[binary]~=3.2' 'asyncpg>=0.30,<1' 'sqlalchemy[asyncio]~=2.0' 'pydantic~=2.10' 'alembic~=1.14' 'django~=5.2')
command -v python3 >/dev/null || { echo 'there is no Python' && exit 77; }
if ! { python3 -m venv "$WORK/venv" && timeout 300 "$WORK/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}"; } \
    >"$WORK/pip.log" 2>&1; then
    echo "pip cannot install the packages: $(tail -n 1 "$WORK/pip.log")"
    exit 77
fi
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
maintenance=$PGDATABASE
export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=error::DeprecationWarning:__main__
# The Python of docs/recipes.md that they use: recipe_NAME.py.
mkdir -p "$WORK/recipes"
awk -v dir="$WORK/recipes" '
    /^```python$/ { getline; name = $0; sub(/^# recipe: /, "", name); file = sprintf("%s/recipe_%s.py", dir, name); next }
    /^```/        { file = "" }
    file != ""    { print > file }' "$ROOT/docs/recipes.md"
export PYTHONPATH=$WORK/recipes
failed=0
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS tb_stack" -c 'DROP ROLE IF EXISTS tb_stack_app' 2>/dev/null
}
trap clean EXIT
for program in "$stacks"/test_*.py; do
    clean
    psql -d "$maintenance" -c 'CREATE ROLE tb_stack_app LOGIN' -c 'CREATE DATABASE tb_stack OWNER tb_stack_app'
    # What a superuser does once; the application's own role does all else.
    psql -d tb_stack -c 'CREATE SCHEMA extensions' -c 'CREATE EXTENSION token_balance SCHEMA extensions' 2>/dev/null
    psql -d tb_stack -c 'GRANT USAGE ON SCHEMA token_balance, extensions TO tb_stack_app' \
        -c 'GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach, token_balance.verify, token_balance.settle_pending,
            token_balance.reconcile, token_balance.credit(bigint, numeric, text, text, name) TO tb_stack_app'
    echo "--- $(basename "$program")"
    if ! PGDATABASE=tb_stack PGUSER=tb_stack_app timeout 300 "$WORK/venv/bin/python" "$program"; then
        echo "FAILED: $(basename "$program")"
        failed=1
    fi
done
exit "$failed"
