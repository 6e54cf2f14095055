#!/usr/bin/env bash
# Builds a PostgreSQL that checks its own assertions, from Debian's source package:
#   assert_server.sh VERSION
# It goes beside the fetched servers and is for the tests alone (pg_test/once_per_run/assert.sh). The
# machine's apt configuration stays as it is: the sources are asked for with lists of their own.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Where Debian has the source package. The newest version of these suites is taken.
declare -A SUITES=([15]="bookworm" [18]="forky sid")

# What its releases are signed with.
debian_keys() { compgen -G '/usr/share/keyrings/debian-archive-keyring.*' | head -n 1; }

# private_apt COMMAND…: apt-get with its lists, caches and sources below $staging.
private_apt() {
    apt-get -o Dir::Etc::SourceList="$staging/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$staging/apt/state" -o Dir::Cache="$staging/apt/cache" \
        -o APT::Sandbox::User="$(id -un)" -qq "$@"
}

# Leaves the unpacked source, with Debian's patches, in $staging/source. apt has checked the
# signature of the suite and by it the sum of each file.
fetch_source() {
    local mirror keys suite
    mirror=$(debian_mirror)
    keys=$(debian_keys)
    [ -n "$mirror" ] || die "apt knows no mirror of Debian"
    [ -n "$keys" ] || die "the keys of Debian's archive are missing (debian-archive-keyring)"
    mkdir -p "$staging/apt/state/lists/partial" "$staging/apt/cache/archives/partial"
    for suite in ${SUITES[$version]}; do
        echo "deb-src [signed-by=$keys] $mirror $suite main"
    done >"$staging/apt/sources.list"
    cd "$staging"
    private_apt update
    private_apt source --download-only "postgresql-$version"
    dpkg-source --extract postgresql-"$version"_*.dsc source
}

# Only what the tests use: no compression, no line editing, no TLS, no documentation. ICU for
# nondeterministic collations. -O1, since the build is a good part of the time that this takes.
build_server() {
    mkdir "$staging/build"
    cd "$staging/build"
    ../source/configure --quiet --prefix="$dest" --enable-cassert --enable-debug --with-icu \
        --without-readline --without-zlib CFLAGS=-O1
    make --silent -j"$(nproc)" all
    make --silent -C contrib/amcheck all
    make --silent install DESTDIR="$staging/installed"
    make --silent -C contrib/amcheck install DESTDIR="$staging/installed"
}

# Moved into place as a whole: half a server would pass for one.
build() {
    local release dest
    fetch_source
    release=$(sed -nE 's/^Version: ([0-9]+:)?([0-9.]+).*/\2/p' "$staging"/postgresql-*.dsc | head -n 1)
    dest="$DEV_HOME/postgresql-$release-assert"
    build_server
    chmod -R a+rX "$staging/installed$dest"
    # Another run may have been faster; its copy is as good.
    mv -T "$staging/installed$dest" "$dest" 2>/dev/null || [ -x "$dest/bin/pg_config" ]
}

version=${1:-none}
[ -n "${SUITES[$version]:-}" ] || die "there is no assert-enabled PostgreSQL $version"
[ -z "$(assert_pg_config "$version")" ] || exit 0
make_dev_home
clean_up_on_exit
begun=$SECONDS
status=0
say "building an assert-enabled PostgreSQL $version (some minutes)"
staging=$(mktemp -d "$DEV_HOME/.fetch-assert-$version.XXXXXX")
CLEAN_DIRS+=("$staging")
# Not as a condition, where `set -e` would do nothing; in a group of its own, to be ended as one.
set -m
(build) >"$staging/log" 2>&1 </dev/null 9>&- &
CHILD=$!
set +m
wait "$CHILD" || status=$?
CHILD=
if [ "$status" != 0 ]; then
    tail -n 30 "$staging/log" >&2
    die "the assert-enabled PostgreSQL $version was not built"
fi
say "built $(assert_pg_config "$version") in $((SECONDS - begun)) s"
