#!/usr/bin/env bash
# The dashboard of examples/dashboard: built, started on a cluster of its own, asked by HTTP (dashboard/api.py and
# operator_api.py), and its pages looked at in headless Chromium (dashboard/operator_page.py and page.py; screenshots are in
# target/dashboard). Where Chromium is missing and cannot be installed, that part alone is skipped.
set -euo pipefail
: "${ROOT:?}" "${PG_VERSION:?}" "${WORK:?}"
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib.sh
source "$ROOT/scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../../scripts/dashboard/service.sh
source "$ROOT/scripts/dashboard/service.sh"
use_server "$PG_VERSION"
clean_up_on_exit
tests=$ROOT/pg_test/once_per_run/dashboard

browser=yes
"$ROOT/scripts/setup.sh" --browser "$PG_VERSION" || browser=
have python3 || { echo "there is no Python to ask the service with" && exit 77; }

build_dashboard
(cd "$ROOT/examples/dashboard" && cargo test --quiet --locked --target-dir "$DASHBOARD_TARGET")

make_private_dir
export CLUSTER_HOME=$PRIVATE_DIR SOCKET=$PRIVATE_DIR DATA=$PRIVATE_DIR/data
init_cluster "$DATA"
start_cluster "$DATA" "$SOCKET" fsync=off
export PGHOST=$SOCKET PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
psql -f "$tests/fixture.sql" >"$WORK/fixture.log" 2>&1 || { cat "$WORK/fixture.log" && exit 1; }
reader_grants | psql
psql -c 'CREATE ROLE token_dashboard LOGIN IN ROLE token_reader'
operator_grants | psql

export PG_BIN DASHBOARD_PROGRAM PYTHONDONTWRITEBYTECODE=1
DASHBOARD_JWT_SECRET=$(new_secret)
export DASHBOARD_JWT_SECRET
python3 "$tests/api.py"
python3 "$tests/operator_api.py"

if [ -z "$browser" ]; then
    echo "the API is tested; the page is not: there is no Chromium with chromedriver, and it cannot be installed"
    exit 77
fi
export SCREENSHOTS=${CARGO_TARGET_DIR:-$ROOT/target}/dashboard
AXE=$(axe_script)
export AXE
mkdir -p "$SCREENSHOTS"
python3 "$tests/operator_page.py"
python3 "$tests/page.py"
