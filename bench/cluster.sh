# shellcheck shell=bash
# The bench's private cluster. For scripts that have sourced scripts/lib.sh and chosen a server with use_server.

# start_bench_cluster [SETTING=VALUE ...]: the clone may be closed to the server's user, so that gets a copy of what it
# reads (bench/, and the folder that PGLEDGER names) and a folder for what it writes.
start_bench_cluster() {
    make_private_dir
    # shellcheck disable=SC2034 # lib.sh reads it
    CLUSTER_HOME=$PRIVATE_DIR
    cp -R "$ROOT/bench" "$PRIVATE_DIR/bench"
    if [ -n "${PGLEDGER:-}" ]; then
        mkdir "$PRIVATE_DIR/pgledger"
        cp -R "$PGLEDGER/pgledger.sql" "$PGLEDGER/vendor" "$PRIVATE_DIR/pgledger" ||
            die "PGLEDGER=$PGLEDGER is no copy of pgledger"
        chmod -R a+rX "$PRIVATE_DIR/pgledger"
    fi
    chmod -R a+rX "$PRIVATE_DIR/bench"
    mkdir "$PRIVATE_DIR/out"
    if is_root; then chown "$DB_OS_USER:" "$PRIVATE_DIR/out"; fi
    init_cluster "$PRIVATE_DIR/data"
    start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" "$@"
}

# run_bench LOG FIGURES [NAME=VALUE ...]: measures; run.sh tells the names. The figures are copied also when it fails.
run_bench() {
    local log=$1 figures=$2 status=0
    shift 2
    if [ -d "$PRIVATE_DIR/pgledger" ]; then set -- PGLEDGER="$PRIVATE_DIR/pgledger" "$@"; fi
    run_logged "$log" in_server_env "$@" "$PRIVATE_DIR/bench/run.sh" "$PRIVATE_DIR/out/figures.tsv" || status=$?
    cp "$PRIVATE_DIR/out/figures.tsv" "$figures" 2>/dev/null || true
    return "$status"
}
