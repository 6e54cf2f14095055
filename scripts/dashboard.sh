#!/usr/bin/env bash
# The dashboard on the demo's database: what users of the platform see, and what its operators do. Makes the demo if there
# is none, starts its cluster and the service, and prints a link for a user in credit, for one who is overdrawn, for an
# operator and for a cashier. Ctrl-C ends it.
#   DASHBOARD_ADDRESS=127.0.0.1:8080    where to serve
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/demo/cluster.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/dashboard/service.sh"

export DASHBOARD_ADDRESS="${DASHBOARD_ADDRESS:-127.0.0.1:8080}"
export DASHBOARD_OPERATOR_PGUSER=token_desk
# A new one each time: the links of the last time do not hold any more.
DASHBOARD_JWT_SECRET=$(new_secret)
export DASHBOARD_JWT_SECRET

start_database() {
    if ! use_demo_server; then
        "$ROOT/scripts/demo.sh"
        use_demo_server
    fi
    if demo_is_running; then
        CLUSTER_SOCKET=$(cat "$DEMO_DIR/socket")
    else
        start_demo_cluster
    fi
    [ -n "$(demo_psql -At -c "SELECT 1 FROM pg_extension WHERE extname = 'token_balance'")" ] ||
        die "the demo did not come to its end: run \`make demo\` again"
    if [ -z "$(demo_psql -At -c "SELECT 1 FROM pg_roles WHERE rolname = 'token_reader'")" ]; then
        reader_grants | demo_psql
    fi
    if [ -z "$(demo_psql -At -c "SELECT 1 FROM pg_roles WHERE rolname = 'token_desk'")" ]; then
        operator_grants | demo_psql
    fi
    say "dating the demo's entries back, one run a day: a chart of one minute shows nothing"
    demo_psql <"$ROOT/scripts/dashboard/database.sql"
}

print_links() {
    local state id email
    while IFS='|' read -r state id email; do
        printf '\n  %s, %s:\n  http://%s/#token=%s\n' "$email" "$state" "$DASHBOARD_ADDRESS" "$("$DASHBOARD_PROGRAM" token "$id")"
    done < <(demo_psql -At <"$ROOT/scripts/dashboard/users.sql")
    printf '\n  an operator, who looks:\n  http://%s/operator#token=%s\n' "$DASHBOARD_ADDRESS" "$("$DASHBOARD_PROGRAM" operator olga)"
    printf '\n  a cashier, who also credits and refunds:\n  http://%s/operator#token=%s\n' "$DASHBOARD_ADDRESS" "$("$DASHBOARD_PROGRAM" cashier cora)"
    printf '\nThe links hold for 12 hours, or until this ends. To see a page change while you look at it, in another shell:\n'
    printf '  make psql\n'
    printf '  SELECT token_balance.credit(user_id, 1 - token_balance) FROM token_balance.overdrawn ORDER BY token_balance LIMIT 1;\n\n'
}

clean_up_on_exit
start_database
# shellcheck disable=SC2119 # no arguments of its own
build_dashboard
say "the dashboard, until Ctrl-C"
print_links
start_dashboard "$DASHBOARD_PROGRAM" demo
wait "$CHILD"
