#!/usr/bin/env bash
# The links and anchors of the documentation, and the SQLSTATEs of its reference; the site, where mdBook is installed. And
# that the check sees what is wrong.
set -euo pipefail
: "${ROOT:?}" "${WORK:?}"
command -v python3 >/dev/null || { echo 'there is no python3'; exit 77; }
check() { python3 "$ROOT/scripts/check_docs.py" "$@"; }
failed=0
sees() { # WHAT CHECK COMMAND...: after the command in a copy, the check names it
    local what=$1 kind=$2 answer
    cp -R "$WORK/right" "$WORK/wrong"
    (cd "$WORK/wrong" && "${@:3}")
    answer=$(check "$kind" "$WORK/wrong") && { echo "FAILED: nothing is said of $what"; failed=1; }
    if grep -qF "$what" <<<"$answer"; then echo "ok: seen: $what"; else printf 'FAILED: %s is not in:\n%s\n' "$what" "$answer"; failed=1; fi
    rm -rf "$WORK/wrong"
}

check markdown "$ROOT" || failed=1
mkdir -p "$WORK/right/src" "$WORK/right/pg_test" "$WORK/right/examples/dashboard"
cp -R "$ROOT"/*.md "$ROOT/docs" "$WORK/right"
cp "$ROOT/examples/dashboard/README.md" "$WORK/right/examples/dashboard"
cp "$ROOT/src/error.rs" "$WORK/right/src"
cp "$ROOT/pg_test/README.md" "$WORK/right/pg_test"
# Links to the source and to files for other programs are no matter here.
sed -i -E 's#\]\(\.\./(src|sql|scripts|bench|pg_test|examples/[cm])[^)]*\)#]#' "$WORK"/right/docs/*.md
check markdown "$WORK/right" >/dev/null || { check markdown "$WORK/right"; failed=1; }
sees 'there is no nowhere.md' markdown sed -i '$a [x](nowhere.md)' docs/tutorial.md
sees 'there is no heading for binding.md#nowhere' markdown sed -i '$a [x](binding.md#nowhere)' docs/tutorial.md
sees 'there is no heading for #nowhere' markdown sed -i '$a [x](#nowhere)' docs/tutorial.md
sees 'another.md is not in it' markdown touch docs/another.md
sees 'raises null_value_not_allowed, which is not in the table' markdown sed -i '/^| 22004 /d' docs/reference.md
sees 'does not raise deadlock_detected' markdown sed -i 's/^\(| 40P01 .*\) of the server /\1 by the extension /' docs/reference.md
sees '22099 is not in the table' markdown sed -i 's/^\*\*Errors:\*\* 22004/**Errors:** 22099/' docs/reference.md
# Of a package, where what is in the sources alone is said to be there.
cp -R "$WORK/right" "$WORK/package"
rm -rf "$WORK/package/pg_test" "$WORK/package/src"
check package "$WORK/package" >/dev/null || { check package "$WORK/package"; failed=1; }
rm -rf "$WORK/right" && mv "$WORK/package" "$WORK/right"
sees 'there is no nowhere.md' package sed -i '$a [x](nowhere.md)' SECURITY.md
sees 'there is no heading for docs/binding.md#nowhere' package sed -i '$a [x](docs/binding.md#nowhere)' SECURITY.md
sees '../SECURITY.md leads out of the package' package sed -i '$a [x](../SECURITY.md)' SECURITY.md
sees 'pg_test/README.md is in no package' package sed -i 's/in the sources//' CONTRIBUTING.md
sees 'there is no docs/weights.md' package rm docs/weights.md

status=0
"$ROOT/scripts/docs.sh" --if-installed || status=$?
case $status in
0)
    rm -rf "$WORK/right"
    cp -R "$ROOT/target/docs" "$WORK/right"
    sees 'there is no nowhere.html' site sed -i 's#</main>#<a href="nowhere.html">x</a></main>#' tutorial.html
    sees 'there is no place for binding.html#nowhere' site sed -i 's#</main>#<a href="binding.html\#nowhere">x</a></main>#' tutorial.html
    ;;
77) echo 'the site is left out' ;;
*) failed=1 ;;
esac
exit "$failed"
