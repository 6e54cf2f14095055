#!/usr/bin/env bash
# examples/monitoring on a cluster of its own, as the role that its README makes: the exporter is started with the
# configuration, and what it exports is held against the view, the alarms and the dashboard; the statements for pgwatch are
# run. Where the exporter cannot be installed, what needs it is skipped, and that alone. (DESIGN R6, R10)
set -euo pipefail
: "${ROOT:?}" "${PG_VERSION:?}" "${WORK:?}"
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib.sh
source "$ROOT/scripts/lib.sh"
use_server "$PG_VERSION"
"$ROOT/scripts/setup.sh" --monitoring "$PG_VERSION" || true
python3 -c 'import yaml' 2>/dev/null || { echo 'there is no Python that reads YAML' && exit 77; }

clean_up_on_exit
make_private_dir
export CLUSTER_HOME=$PRIVATE_DIR SOCKET=$PRIVATE_DIR DATA=$PRIVATE_DIR/data
init_cluster "$DATA"
settings=(fsync=off)
if [ -e "$("$PG_CONFIG_PATH" --pkglibdir)/pg_stat_statements.so" ]; then
    settings+=(shared_preload_libraries=pg_stat_statements pg_stat_statements.track=all)
fi
start_cluster "$DATA" "$SOCKET" "${settings[@]}"
export PGHOST=$SOCKET PGPORT=5432 PG_BIN PYTHONDONTWRITEBYTECODE=1
# Not in place of this shell, which has to clean up.
python3 "$ROOT/pg_test/once_per_run/monitoring/check.py" "$ROOT/examples/monitoring"
