#!/usr/bin/env bash
# The applications of pg_test/stacks, each with its own driver or framework and in a database of its own. They call the
# Python of docs/recipes.md, which is put into modules, as it stands there.
set -euo pipefail
: "${ROOT:?}" "${PG_VERSION:?}" "${WORK:?}"
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../scripts/blocks.sh
source "$ROOT/pg_test/scripts/blocks.sh"
use_server "$PG_VERSION"
stacks=$ROOT/pg_test/stacks
failed=0 skipped=
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }

"$ROOT/scripts/setup.sh" --stacks "$PG_VERSION" || true
if ! has_venv stacks; then
    echo 'the Python packages of pg_test/stacks/requirements.txt are not here and cannot be installed'
    exit 77
fi

blocks_of "$ROOT/docs/recipes.md" "$WORK/blocks"
for recipe in "$WORK"/blocks/recipe_*.py; do
    recipe=$(basename "$recipe" .py)
    grep -rqw "$recipe" "$stacks" "$ROOT/pg_test/scripts/recipes.py" && continue
    echo "FAILED: no test uses $recipe of docs/recipes.md"
    failed=1
done

# in_stack NAME COMMAND...: in the folder of the application, and a new database.
in_stack() {
    local name=$1 begun=$SECONDS status=0
    shift
    echo "--- $name"
    psql -c "DROP DATABASE IF EXISTS tb_$name" -c "CREATE DATABASE tb_$name" 2>/dev/null
    (cd "$stacks/$name" && PGDATABASE=tb_$name PYTHONPATH="$WORK/blocks:$stacks" PYTHONDONTWRITEBYTECODE=1 \
        PYTHONWARNINGS=error::ResourceWarning timeout 120 "$@") || status=$?
    psql -c "DROP DATABASE IF EXISTS tb_$name WITH (FORCE)" 2>/dev/null
    [ "$status" = 0 ] || { echo "FAILED: $name, exit $status" && failed=1; }
    echo "$name took $((SECONDS - begun)) s"
}
PATH=$(venv_of stacks)/bin:$PATH

in_stack with_sqlalchemy python test.py
in_stack with_alembic python test.py
in_stack with_django ./test.sh

# The application's role owns its tables and is no superuser: what one has to do once, and a role that does all else.
as_owner() { # PROGRAM
    clean_owner
    psql -c 'CREATE ROLE tb_stack_app LOGIN' -c 'CREATE DATABASE tb_stack OWNER tb_stack_app'
    psql -d tb_stack -c 'CREATE SCHEMA extensions' -c 'CREATE EXTENSION token_balance SCHEMA extensions' 2>/dev/null
    psql -d tb_stack -c 'GRANT USAGE ON SCHEMA token_balance, extensions TO tb_stack_app' \
        -c 'GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach, token_balance.verify, token_balance.settle_pending,
            token_balance.reconcile, token_balance.credit(bigint, numeric, text, text, name) TO tb_stack_app'
    echo "--- $1"
    if ! (cd "$stacks/as_owner" && PGDATABASE=tb_stack PGUSER=tb_stack_app PYTHONPATH=$WORK/blocks PYTHONDONTWRITEBYTECODE=1 \
        PYTHONWARNINGS=error::DeprecationWarning:__main__ timeout 120 python "$1"); then
        echo "FAILED: $1"
        failed=1
    fi
    clean_owner
}
clean_owner() { psql -c 'DROP DATABASE IF EXISTS tb_stack' -c 'DROP ROLE IF EXISTS tb_stack_app' 2>/dev/null; }
for program in "$stacks"/as_owner/test_*.py; do as_owner "$(basename "$program")"; done

# Refuses to run as root. One connection to the server is shared by all.
start_bouncer() {
    cat >"$WORK/pgbouncer.ini" <<INI
[databases]
* = host=$PGHOST port=$PGPORT user=$PGUSER
[pgbouncer]
pool_mode = transaction
default_pool_size = 1
auth_type = any
unix_socket_dir = $WORK
listen_addr =
listen_port = 6432
pidfile = $WORK/pgbouncer.pid
logfile = $WORK/pgbouncer.log
INI
    as_db_user "$(pgbouncer_program)" -q -d "$WORK/pgbouncer.ini"
}
stop_bouncer() { [ ! -s "$WORK/pgbouncer.pid" ] || kill "$(cat "$WORK/pgbouncer.pid")" 2>/dev/null || true; }

if has_pgbouncer; then
    trap stop_bouncer EXIT
    start_bouncer || { cat "$WORK/pgbouncer.log" && exit 1; }
    BOUNCER="host=$WORK port=6432" in_stack with_pgbouncer python test.py
else
    skipped='all but with_pgbouncer: it is not here and cannot be installed'
fi

[ "$failed" = 0 ] || exit 1
[ -z "$skipped" ] || { echo "$skipped" && exit 77; }
