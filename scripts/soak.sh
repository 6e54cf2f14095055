#!/usr/bin/env bash
# The whole suite in its long form on one PostgreSQL, and then its figures:
#   soak.sh [VERSION]     default: the newest that is installed
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# figures TITLE LOG...: how many checks passed, and the lines that say how much was done.
figures() {
    local title=$1 log passed=0 lines
    shift
    printf '\n%s\n' "$title"
    for log in "$@"; do
        if [ ! -f "$LOGS/$log.log" ]; then
            echo "    $log: was not run"
            continue
        fi
        passed=$(grep -cE '^ok:' "$LOGS/$log.log" || true)
        lines=$(grep -E '[0-9]' "$LOGS/$log.log" | grep -vE '^(ok:|--|NOTICE|WARNING|DETAIL|HINT)' | tail -n "${FIGURES:-12}" || true)
        echo "    ${log#*-}: $passed checks passed, $(grep -c '^FAILED' "$LOGS/$log.log" || true) failed"
        if [ -n "$lines" ]; then printf '%s\n' "$lines" | sed 's/^/        /'; fi
    done
}

version=${1:-$(choose_version)}
version=${version#pg}
LOGS="${CARGO_TARGET_DIR:-$ROOT/target}/test-logs/pg$version"
status=0
"$ROOT/scripts/test.sh" --soak --assert "$version" || status=$?

printf '\nInterleavings\n    %d permutations in %d specs, %d of them as expected\n' \
    "$(cat "$ROOT"/pg_test/isolation/specs/*.spec | grep -c '^permutation')" \
    "$(find "$ROOT/pg_test/isolation/specs" -name '*.spec' | wc -l)" \
    "$(grep -cE '^ok +[0-9]+|\.\.\. ok( |$)' "$LOGS/isolation.log" || true)"
figures 'Model, races and deadlocks' scripts-client
figures 'Crashes' scripts-crash
figures 'Dump, upgrade, replicas' scripts-dump_restore scripts-pg_upgrade scripts-standby scripts-logical_replica scripts-prepared once-upgrade
figures 'Attackers' scripts-attackers scripts-hostile_names scripts-pgspot
figures 'Faults inside' scripts-faults
figures 'Boundaries' scripts-boundaries
figures 'Memory' scripts-memory
figures 'Mutations' once-mutations
FIGURES=120 figures 'Assert-enabled servers' once-assert
exit "$status"
