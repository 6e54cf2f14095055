#!/usr/bin/env bash
# The documentation as a site, in target/docs, by mdBook; its links and anchors are checked.
#   docs.sh [--if-installed]   without mdBook: builds it first, or leaves the site out and exits with 77
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

SOURCE=target/docs-source

# Pages of the root move beside those of docs, README as the first one. What is no page of the site is no link there.
pages_for_the_site() {
    local page
    rm -rf "$SOURCE" target/docs
    mkdir -p "$SOURCE"
    cp docs/*.svg "$SOURCE"
    for page in *.md docs/*.md; do
        sed -E -e 's#\]\((\.\./)?README(\.zh-CN)?\.md#](index\2.md#g' -e 's#\]\((docs|\.\.)/([A-Za-z.-]+\.(md|svg))#](\2#g' \
            -e 's#\[([^][]*)\]\([^):#]*/[^):]*\)#\1#g' "$page" >"$SOURCE/$(basename "${page/#README/index}")"
    done
}

if [ -z "$(mdbook_program)" ]; then
    if [ "${1:-}" = --if-installed ]; then
        echo "mdBook is not installed: make docs builds it"
        exit 77
    fi
    "$ROOT/scripts/setup.sh" --docs
fi
python3 scripts/check_docs.py markdown .
pages_for_the_site
"$(mdbook_program)" build
python3 scripts/check_docs.py site target/docs
say "the site is in $ROOT/target/docs: open index.html"
