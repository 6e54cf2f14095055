# shellcheck shell=bash
# The service of examples/dashboard, as scripts/dashboard.sh shows it and pg_test/once_per_run/dashboard.sh tests it.

# shellcheck disable=SC2034 # for those who source this
DASHBOARD_TARGET="${CARGO_TARGET_DIR:-$ROOT/target}/dashboard/build"
DASHBOARD_PROGRAM="$DASHBOARD_TARGET/debug/token_balance_dashboard"

# build_dashboard [CARGO_ARGUMENT...]
build_dashboard() {
    say "building the dashboard"
    (cd "$ROOT/examples/dashboard" && cargo build --quiet --locked --target-dir "$DASHBOARD_TARGET" "$@") ||
        die "the dashboard does not build"
}

# start_dashboard PROGRAM DATABASE: on the cluster's socket, beside this script, in a process group of its own; CHILD is
# it, and stop_child or clean_up ends it.
start_dashboard() {
    set -m
    env PGHOST="$CLUSTER_SOCKET" PGPORT=5432 PGUSER=token_dashboard PGDATABASE="$2" "$1" 9>&- &
    CHILD=$!
    set +m
}

# A page's block of roles: the first line says that it is that.
grants_of() {
    awk '/^```sql$/ { inside = 1; text = ""; next }
        /^```/ { if (inside && text ~ /^-- roles:/) printf "%s", text; inside = 0; next }
        inside { text = text $0 "\n" }' "$1"
}
reader_grants() { grants_of "$ROOT/docs/privileges.md"; }
operator_grants() { grants_of "$ROOT/examples/dashboard/README.md"; }

new_secret() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
