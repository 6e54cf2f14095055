# shellcheck shell=bash
# The demo's cluster: its data stays between `make demo`, `make psql` and
# `make clean`; its server runs only while one of them needs it.

# One for each clone.
DEMO_DIR="$DEV_HOME/demo-$(printf '%s' "$ROOT" | cksum | cut -d ' ' -f 1)"

# Sets what is known of the server that the demo's cluster was made with.
# shellcheck disable=SC2034 # lib.sh reads them
use_demo_server() {
    PG_CONFIG_PATH=$(cat "$DEMO_DIR/pg_config" 2>/dev/null) || return 1
    [ -x "$PG_CONFIG_PATH" ] || return 1
    PG_VERSION=$(pg_major "$PG_CONFIG_PATH")
    PG_BIN=$("$PG_CONFIG_PATH" --bindir)
    PG_LIB=$("$PG_CONFIG_PATH" --libdir)
    CLUSTER_HOME=$DEMO_DIR
}

demo_is_running() {
    in_server_env "$PG_BIN/pg_ctl" -D "$DEMO_DIR/data" status >/dev/null 2>&1
}

create_demo_cluster() {
    remove_demo_cluster
    make_dev_home
    mkdir -m 700 "$DEMO_DIR"
    echo "$PG_CONFIG_PATH" >"$DEMO_DIR/pg_config"
    if is_root; then chown -R "$DB_OS_USER:" "$DEMO_DIR"; fi
    use_demo_server
    init_cluster "$DEMO_DIR/data"
}

start_demo_cluster() {
    make_private_dir
    start_cluster "$DEMO_DIR/data" "$PRIVATE_DIR"
    echo "$PRIVATE_DIR" >"$DEMO_DIR/socket"
}

remove_demo_cluster() {
    [ -d "$DEMO_DIR" ] || return 0
    if use_demo_server; then stop_cluster "$DEMO_DIR/data"; fi
    rm -rf "$DEMO_DIR"
}

# SQL comes in on standard input: the server's user may not be able to read the clone.
demo_psql() {
    in_server_env PGDATABASE=demo PGOPTIONS="-c client_min_messages=notice" \
        "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"
}
