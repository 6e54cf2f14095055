#!/usr/bin/env bash
# A psql shell in the demo's database. Starts the server if it is not running,
# and stops it again when the shell ends.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/demo/cluster.sh"

use_demo_server || die "there is no demo cluster yet: run \`make demo\` first"
if demo_is_running; then
    CLUSTER_SOCKET=$(cat "$DEMO_DIR/socket")
else
    clean_up_on_exit
    start_demo_cluster
fi
# An interrupt is psql's to handle: it cancels the query and not the shell.
trap '' INT
in_server_env PGDATABASE=demo "$PG_BIN/psql" "$@"
