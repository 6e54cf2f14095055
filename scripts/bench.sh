#!/usr/bin/env bash
# The bench: builds a release, makes a private cluster with a workflow platform in it, measures the extension against
# other ways to do its work, prints a table; target/bench/ gets it as Markdown, with a chart and the figures.
#   PG=16             which PostgreSQL (default: 18)
#   ROWS="B1 B3"      only these rows        RUNS=5    how often each contender is run
#   FULL=1            20 million rows in B6  QUICK=1   a small smoke run
#   PGLEDGER=FOLDER   a copy of github.com/pgr0ss/pgledger, measured beside     RATE=1000   offered in B10
#   SHARED_BUFFERS    default 1GB; everything else is as PostgreSQL comes
# What is measured is in bench/run.sh. Let the machine do nothing else meanwhile.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/bench/cluster.sh"
cd "$ROOT"

OUT="${CARGO_TARGET_DIR:-$ROOT/target}/bench"

# What the figures depend on.
machine() {
    local commit
    commit=$(git -C "$ROOT" describe --always --dirty 2>/dev/null || echo unknown)
    echo "Commit $commit, $(date -u +%Y-%m-%d). $(uname -sm), $(nproc) × $(sed -nE 's/^model name\s*: //p' /proc/cpuinfo | head -n 1)," \
        "$(awk '$1 == "MemTotal:" { printf "%.0f GB", $2 / 1024 / 1024 }' /proc/meminfo); load $(cut -d ' ' -f 1 /proc/loadavg) at the start."
    in_server_env "$PG_BIN/psql" -X -At -c "SELECT 'PostgreSQL ' || current_setting('server_version') || '; ' || string_agg(name || ' = ' ||
        current_setting(name), ', ' ORDER BY name) || '; all other settings as they come.' FROM pg_settings
        WHERE name IN ('fsync', 'synchronous_commit', 'shared_buffers', 'full_page_writes', 'data_checksums')"
    if [ -n "${PGLEDGER:-}" ]; then
        echo "pgledger.sql is that of SHA-256 $(sha256sum <"$PGLEDGER/pgledger.sql" | cut -c 1-12)."
    fi
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
    install_release "$OUT/build.log"
    start_bench_cluster shared_buffers="${SHARED_BUFFERS:-1GB}"
    machine >"$OUT/machine.md"
    run_bench "$OUT/run.log" "$OUT/figures.tsv" \
        ROWS="${ROWS:-}" RUNS="${RUNS:-}" FULL="${FULL:-0}" QUICK="${QUICK:-0}" RATE="${RATE:-}" || status=$?
    cp "$PRIVATE_DIR/server.log" "$OUT/"
    [ "$status" = 0 ] || die "the bench failed; its log and the figures so far are in $OUT"
    python3 "$ROOT/bench/report.py" "$OUT/figures.tsv" "$OUT" <"$OUT/machine.md"
    say "$OUT has bench.md, bench.svg and figures.tsv"
}

main "$@"
