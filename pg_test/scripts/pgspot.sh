#!/usr/bin/env bash
# pgspot, a checker for search-path holes in extension scripts, over the scripts that install and update: no error.
# (DESIGN O12)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' "$PROJECT/Cargo.toml" | head -n 1)
script="$("$PG_BIN/pg_config" --sharedir)/extension/token_balance--$version.sql"
if [ ! -r "$script" ]; then
    echo "FAILED: there is no $script"
    exit 1
fi
if ! command -v python3 >/dev/null; then
    echo 'python3 is not installed'
    exit 77
fi
if ! { python3 -m venv "$WORK/venv" && timeout 120 "$WORK/venv/bin/pip" install --quiet --disable-pip-version-check 'pgspot==0.9.4'; } >"$WORK/pip.log" 2>&1; then
    echo "pip cannot install pgspot: $(tail -n 1 "$WORK/pip.log")"
    exit 77
fi
# The update gives a view that is there another function to call, and keeps its grants: CREATE OR REPLACE, which pgspot cannot
# tell from one that takes over a stranger's view. The server refuses that in a script (recordDependencyOnCurrentExtension).
known='PS015: Unsafe view creation: token_balance.overdrawn at line '
failed=0
for file in "$script" "$PROJECT"/sql/token_balance--*--*.sql; do
    status=0
    "$WORK/venv/bin/pgspot" "$file" >"$WORK/pgspot.out" 2>&1 || status=$?
    summary=$(grep -oE 'Errors: [0-9]+ Warnings: [0-9]+ Unknown: [0-9]+' "$WORK/pgspot.out" || true)
    echo "${file##*/}, $(wc -l <"$file") lines: ${summary:-pgspot exit $status}"
    expected=0
    case "$file" in *--0.2.0--*) expected=$(grep -c "^$known[0-9]*\$" "$WORK/pgspot.out" || true) ;; esac
    case "$summary" in
    'Errors: 0 '* | "Errors: $expected "*) ;;
    *)
        cat "$WORK/pgspot.out"
        failed=1
        ;;
    esac
done
exit "$failed"
