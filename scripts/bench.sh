#!/usr/bin/env bash
# The bench: builds a release, makes a private cluster with a workflow platform in it, measures the extension against
# other ways to do its work, prints a table; target/bench/ gets it as Markdown, with a chart and the figures.
#   PG=16             which PostgreSQL (default: 18)
#   ROWS="B1 B3"      only these rows        RUNS=5    how often each contender is run
#   FULL=1            20 million rows in B6  QUICK=1   a small smoke run
#   SHARED_BUFFERS    default 1GB; everything else is as PostgreSQL comes
# What is measured is in bench/run.sh. Let the machine do nothing else meanwhile.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

OUT="${CARGO_TARGET_DIR:-$ROOT/target}/bench"

install_release() {
    say "building a release for PostgreSQL $PG_VERSION"
    run_logged "$OUT/build.log" cargo pgrx install --release \
        --pg-config "$PG_CONFIG_PATH" --no-default-features --features "pg$PG_VERSION" ||
        die "the extension does not build"
}

# The clone may be closed to the server's user, so it gets a copy of what it reads.
start_bench_cluster() {
    make_private_dir
    CLUSTER_HOME=$PRIVATE_DIR
    cp -R "$ROOT/bench" "$PRIVATE_DIR/bench"
    chmod -R a+rX "$PRIVATE_DIR/bench"
    mkdir "$PRIVATE_DIR/out"
    if is_root; then chown "$DB_OS_USER:" "$PRIVATE_DIR/out"; fi
    init_cluster "$PRIVATE_DIR/data"
    start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" shared_buffers="${SHARED_BUFFERS:-1GB}"
}

# What the figures depend on.
machine() {
    local commit
    commit=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
    echo "Commit $commit, $(date -u +%Y-%m-%d). $(uname -sm), $(nproc) × $(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)," \
        "$(awk '$1 == "MemTotal:" { printf "%.0f GB", $2 / 1024 / 1024 }' /proc/meminfo); load $(cut -d ' ' -f 1 /proc/loadavg) at the start."
    in_server_env "$PG_BIN/psql" -X -At -c "SELECT 'PostgreSQL ' || current_setting('server_version') || '; ' || string_agg(name || ' = ' ||
        current_setting(name), ', ' ORDER BY name) || '; all other settings as they come.' FROM pg_settings
        WHERE name IN ('fsync', 'synchronous_commit', 'shared_buffers', 'full_page_writes', 'data_checksums')"
}

main() {
    local version=${PG:-18} status=0
    version=${version#pg}
    is_supported "$version" || die "PG=$PG is not one of ${SUPPORTED_VERSIONS[*]}"
    have python3 || die "the report needs python3"
    clean_up_on_exit
    "$ROOT/scripts/setup.sh" "$version"
    use_server "$version"
    lock_server "$version"
    mkdir -p "$OUT"
    install_release
    start_bench_cluster
    machine >"$OUT/machine.md"
    run_logged "$OUT/run.log" in_server_env ROWS="${ROWS:-}" RUNS="${RUNS:-}" FULL="${FULL:-0}" QUICK="${QUICK:-0}" \
        "$PRIVATE_DIR/bench/run.sh" "$PRIVATE_DIR/out/figures.tsv" || status=$?
    cp "$PRIVATE_DIR/server.log" "$OUT/"
    cp "$PRIVATE_DIR/out/figures.tsv" "$OUT/" 2>/dev/null || true
    [ "$status" = 0 ] || die "the bench failed; its log and figures so far are in $OUT"
    python3 "$ROOT/bench/report.py" "$OUT/figures.tsv" "$OUT" <"$OUT/machine.md"
    say "$OUT has bench.md, bench.svg and figures.tsv"
}

main "$@"
