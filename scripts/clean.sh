#!/usr/bin/env bash
# clean.sh [--all]: stops and removes the demo's cluster and the test logs;
# --all removes the build and the fetched servers as well.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/demo/cluster.sh"
cd "$ROOT"

remove_fetched_servers() {
    local version
    for version in "${SUPPORTED_VERSIONS[@]}"; do
        rm -rf "$(dirname "$(dirname "$(fetched_pg_config "$version")")")"
    done
    rm -rf "$DEV_HOME/bin/mdbook" "$DEV_HOME"/.crates*
    rmdir "$DEV_HOME/bin" 2>/dev/null || true
    rm -rf "$DEV_HOME"/postgresql-*-assert "$DEV_HOME"/.fetch-* "$DEV_HOME"/.lock-*
    rmdir "$DEV_HOME" 2>/dev/null || true
}

remove_demo_cluster
rm -rf "${CARGO_TARGET_DIR:-$ROOT/target}/test-logs"
if [ "${1:-}" = --all ]; then
    cargo clean
    remove_fetched_servers
fi
