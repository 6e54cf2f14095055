#!/usr/bin/env bash
# From a folder outside of the server (18), as container images mount extensions: extension_control_path and
# dynamic_library_path name it, and nothing of the extension is in the server's own folders. It is created and settles, also
# in new sessions; and a database that was at 0.2.0 when the server had that one itself is updated. (DESIGN U7)
set -euo pipefail
: "${ROOT:?}" "${WORK:?}" "${PG_VERSION:?}"
# shellcheck source-path=SCRIPTDIR/../../scripts
source "$ROOT/scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/pg_test/once_per_run/server_copy.sh"
if [ "$PG_VERSION" -lt 18 ]; then
    echo "PostgreSQL $PG_VERSION has no extension_control_path"
    exit 77
fi
use_server "$PG_VERSION"
clean_up_on_exit
version=$(project_version)
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
value() { in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d "$1" -f - <<<"$2" 2>&1; } # DATABASE SQL

installed_library=$("$PG_CONFIG_PATH" --pkglibdir)/$(library_file)
installed_extension=$("$PG_CONFIG_PATH" --sharedir)/extension
copy_server "$WORK/server"
remove_extension
make_private_dir
CLUSTER_HOME=$PRIVATE_DIR
folder="$PRIVATE_DIR/mounted"
mkdir -p "$folder/lib" "$folder/share/extension"
cp "$installed_library" "$folder/lib"
cp "$installed_extension"/token_balance{.control,"--$version.sql"} "$ROOT"/sql/token_balance--*--*.sql "$folder/share/extension"
chmod -R a+rX "$folder"
init_cluster "$PRIVATE_DIR/data"

# --- 0.2.0, in the server's own folders --------------------------------------------------

cp "$ROOT"/pg_test/upgrade/token_balance--0.2.0.{sql,control} "$share/extension"
cp "$installed_extension/token_balance.control" "$share/extension"
cp "$installed_library" "$pkglib/token_balance.so"
start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off
tables="SET client_min_messages = error;
    CREATE TABLE users (id text PRIMARY KEY);
    CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
    CREATE TABLE workflows (id text PRIMARY KEY, status text);
    CREATE INDEX ON token_usage (workflow_id);
    CREATE INDEX ON token_usage (user_id);
    INSERT INTO users VALUES ('ann');"
runs="INSERT INTO token_usage VALUES ('w1', 'ann', 7), ('w2', 'ann', 5), ('w3', 'ann', 3);
    INSERT INTO workflows VALUES ('w1', 'done'), ('w2', 'running'), ('w3', 'running');"
value postgres 'CREATE DATABASE old'
is '0.2.0 settles in the server'\''s own folders' "$(value old "$tables CREATE EXTENSION token_balance VERSION '0.2.0'; $runs
    SELECT token_balance FROM users")" 999993
stop_cluster "$PRIVATE_DIR/data"
remove_extension

# --- mounted -----------------------------------------------------------------------------

is 'nothing is left there' "$(find "$WORK/server" -type f -name '*token_balance*')" ''
start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off \
    "extension_control_path='$folder/share:\$system'" "dynamic_library_path='$folder/lib:\$libdir'"
value postgres 'CREATE DATABASE fresh'
is 'it is created, and a run is charged' "$(value fresh "$tables CREATE EXTENSION token_balance; $runs SELECT token_balance FROM users")" 999993
is 'a new session charges' "$(value fresh "UPDATE workflows SET status = 'done' WHERE id = 'w2'; SELECT token_balance FROM users")" 999988
is 'and so does one by the function' "$(value fresh "SELECT settle_workflow('w3') ->> 'new_balance'")" 999985
is 'everything is well' "$(value fresh "SELECT name, detail FROM token_balance.verify() WHERE NOT ok; SELECT * FROM token_balance.reconcile()")" ''
is 'the library is the mounted one' "$(value fresh "SELECT token_balance.balance('ann') ->> 'is_overdraft';
    SELECT DISTINCT m[1] FROM regexp_matches(pg_read_file('/proc/self/maps'), '\\d+ +(/\\S*/token_balance[^/]*[.]so)', 'g') AS m")" \
    "false
$folder/lib/$(library_file)"

# The old name has a folder in it, which is looked for in the server's own only.
is 'the library of 0.2.0 is gone' "$(value old "SELECT settle_workflow('w2')" | grep -c 'could not access file')" 1
is 'it is updated all the same' "$(value old "ALTER EXTENSION token_balance UPDATE; SELECT extversion FROM pg_extension WHERE extname = 'token_balance'")" "$version"
is 'what was charged stays charged' "$(value old "SELECT settle_workflow('w1') ->> 'status'")" already_settled
is 'and the rest is charged' "$(value old "UPDATE workflows SET status = 'done'; SELECT token_balance FROM users")" 999985
is 'everything is well there, too' "$(value old "SELECT name, detail FROM token_balance.verify() WHERE NOT ok; SELECT * FROM token_balance.reconcile()")" ''
is 'no internal error in the log' "$(grep -cE 'PANIC|panicked|XX000|TRAP|signal' "$PRIVATE_DIR/server.log")" 0
exit "$failed"
