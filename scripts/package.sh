#!/usr/bin/env bash
# Packs a release for one PostgreSQL, for machines without Rust:
#   package.sh [VERSION]     default: the newest PostgreSQL that is installed
# Makes in target/package/pgNN a .deb for Debian's and Ubuntu's servers with its debug
# symbols in a second one, a .deb of the dashboard, an .rpm for the servers of PostgreSQL's
# yum repository, and a tar.gz for any other server of that version on this kind of machine;
# what crates are in them (CycloneDX), and SHA256SUMS. The same commit gives the same bytes.
# DEBFULLNAME and DEBEMAIL name the maintainer, if it is not the commit's author.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/scripts/dashboard/service.sh"
cd "$ROOT"

OUT=      # where the packages go
TREE=     # what is packed, and where debhelper works
DEB_NAME= # the binary package
NAME=     # the tar.gz without its suffix

# The version stands in Cargo.toml; these three have to repeat it.
check_versions() {
    python3 scripts/check_meta.py META.json "$VERSION" || die "META.json is not that of version $VERSION"
    grep -qF "## [$VERSION]" CHANGELOG.md || die "CHANGELOG.md has no section for $VERSION"
    grep -qxF "version = \"$VERSION\"" examples/dashboard/Cargo.toml ||
        die "examples/dashboard/Cargo.toml is not that of version $VERSION"
}

build() {
    say "building token_balance $VERSION for PostgreSQL $PG_VERSION"
    use_release_flags
    build_dashboard --release
    run_logged "$OUT/build.log" env PGRX_BUILD_FLAGS=--locked cargo pgrx package --pg-config "$PG_CONFIG_PATH" \
        --no-default-features --features "pg$PG_VERSION" --out-dir "$OUT/built" >/dev/null ||
        { tail -n 30 "$OUT/build.log" >&2 && die "the extension does not build"; }
}

# Where cargo-pgrx puts the files depends on the server; here it does not.
lay_out() {
    mkdir -p "$TREE/lib" "$TREE/extension" "$TREE/dashboard"
    install -m 644 "$OUT/built/$("$PG_CONFIG_PATH" --pkglibdir)/token_balance-$VERSION.so" "$TREE/lib"
    install -m 644 "$OUT/built/$("$PG_CONFIG_PATH" --sharedir)"/extension/token_balance* "$TREE/extension"
    install -m 755 "$DASHBOARD_TARGET/release/token_balance_dashboard" "$TREE/dashboard"
    # Its package has the page of the roles beside this one.
    sed 's#](\.\./\.\./docs/#](#g' examples/dashboard/README.md >"$TREE/dashboard/README.md"
    cp -R README*.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE docs packaging/debian "$TREE"
    # What the pages link to, where they link to it.
    mkdir -p "$TREE/sql" "$TREE/examples/dashboard"
    cp -R sql/examples "$TREE/sql"
    cp -R examples/{compose,cloudnativepg,monitoring} "$TREE/examples"
    cp examples/dashboard/README.md packaging/debian/token-balance-dashboard.{default,service} "$TREE/examples/dashboard"
    install -m 755 scripts/cluster.sh "$TREE"
    find "$TREE/docs" "$TREE/sql" "$TREE/examples" -type f -exec chmod 644 {} +
}

# --- the .deb ------------------------------------------------------------------

maintainer() {
    if [ -n "${DEBEMAIL:-}" ]; then
        echo "${DEBFULLNAME:-token_balance contributors} <$DEBEMAIL>"
    else
        git log -1 --format='%an <%ae>'
    fi
}

# Of both programs, beside the packages and in them.
write_bills_of_materials() {
    python3 scripts/sbom.py Cargo.toml --no-default-features --features "pg$PG_VERSION" >"$TREE/token_balance.cdx.json"
    python3 scripts/sbom.py examples/dashboard/Cargo.toml >"$TREE/token_balance_dashboard.cdx.json"
    cp "$TREE/token_balance.cdx.json" "$OUT/$NAME.cdx.json"
    cp "$TREE/token_balance_dashboard.cdx.json" "$OUT"
}

# crates CARGO_ARGUMENT...: those in a program with their licences, as a paragraph of a control file.
crates() {
    cargo tree --locked -e normal,no-proc-macro --prefix none --format '{p}: {l}' "$@" |
        sed -E '1d; s/ \(\*\)$//; s/^/ /' | sort -u
}

fill_in_debian_files() {
    local debian="$TREE/debian"
    sed -i -e "s/@PG@/$PG_VERSION/g" -e "s/@MAINTAINER@/$1/" "$debian/control" "$debian/install"
    crates --no-default-features --features "pg$PG_VERSION" >"$OUT/crates"
    crates --manifest-path examples/dashboard/Cargo.toml >"$OUT/dashboard-crates"
    sed -E 's/^$/./; s/^/ /' LICENSE >"$OUT/license"
    sed -i -e "/^@CRATES@$/{r $OUT/crates" -e 'd}' -e "/^@DASHBOARD_CRATES@$/{r $OUT/dashboard-crates" -e 'd}' \
        -e "/^@LICENSE@$/{r $OUT/license" -e 'd}' "$debian/copyright"
    cat >"$debian/changelog" <<END
token-balance ($VERSION-1) stable; urgency=medium

  * Release $VERSION; what changed is in the changelog of token_balance.

 -- $1  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
}

pack_deb() {
    say "packing $DEB_NAME $VERSION and the dashboard"
    fill_in_debian_files "$(maintainer)"
    (cd "$TREE" && run_logged "$OUT/dh.log" debian/rules binary >/dev/null) ||
        { cat "$OUT/dh.log" >&2 && die "debhelper failed"; }
}

# copy_documents FOLDER: what the extension says of itself, for a package that is no .deb.
copy_documents() {
    cp -R "$TREE"/{README*.md,CHANGELOG.md,CONTRIBUTING.md,SECURITY.md,LICENSE,docs,examples,sql,cluster.sh} \
        "$TREE/token_balance.cdx.json" "$OUT/crates" "$1"
}

# --- the tar.gz ----------------------------------------------------------------

# pack_tar ARCHIVE FOLDER...: with the order, the owners and the times of no machine.
pack_tar() {
    local archive=$1
    shift
    tar -C "$OUT" --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w \
        --mtime="@$SOURCE_DATE_EPOCH" -cf - "$@" | gzip -9n >"$OUT/$archive"
}

# The same files as in the .debs: library and program without their symbols, and the library's apart.
pack_tars() {
    local dir="$OUT/$NAME"
    say "packing $NAME.tar.gz"
    mkdir -p "$dir/bin" "$dir/lib" "$dir/share"
    cp "$TREE/debian/token-balance-dashboard/usr/bin/token_balance_dashboard" "$dir/bin"
    cp -d "$TREE/debian/$DEB_NAME/usr/lib/postgresql/$PG_VERSION/lib"/* "$dir/lib"
    cp -R "$TREE/extension" "$dir/share"
    copy_documents "$dir"
    cp "$TREE/token_balance_dashboard.cdx.json" "$OUT/dashboard-crates" "$dir"
    pack_tar "$NAME.tar.gz" "$NAME"
    # debug/.build-id/…, as debuggers look for it under /usr/lib
    mkdir "$OUT/$NAME-dbgsym"
    cp -R "$TREE/debian/.debhelper/$DEB_NAME/dbgsym-root/usr/lib/debug" "$OUT/$NAME-dbgsym"
    pack_tar "$NAME-dbgsym.tar.gz" "$NAME-dbgsym"
}

# --- the .rpm -------------------------------------------------------------------

# The same library and SQL as in the .deb. Its debug symbols are in the tar.gz of them.
pack_rpm() {
    local staged="$OUT/rpm/staged"
    say "packing token_balance_$PG_VERSION-$VERSION.rpm"
    mkdir -p "$staged/share" "$staged/doc"
    cp -a "$OUT/$NAME/lib" "$staged"
    cp -R "$OUT/$NAME/share/extension" "$staged/share"
    copy_documents "$staged/doc"
    chmod -R go-w "$staged"
    run_logged "$OUT/rpm.log" rpmbuild -bb --define "_topdir $OUT/rpm" --define "_rpmdir $OUT" \
        --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' --define '_buildhost reproducible' \
        --define 'use_source_date_epoch_as_buildtime 1' --define 'clamp_mtime_to_source_date_epoch 1' \
        --define 'debug_package %{nil}' --define '__os_install_post %{nil}' --define '_build_id_links none' \
        --define "pg $PG_VERSION" --define "release_version $VERSION" --define "staged $staged" \
        --define "maintainer $(maintainer)" packaging/rpm/token_balance.spec >/dev/null ||
        { tail -n 30 "$OUT/rpm.log" >&2 && die "rpmbuild failed"; }
}

main() {
    local version
    clean_up_on_exit
    version=${1:-$(choose_version)}
    version=${version#pg}
    "$ROOT/scripts/setup.sh" --packaging "$version"
    use_server "$version"
    VERSION=$(project_version)
    check_versions
    OUT="$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")/package/pg$version"
    TREE="$OUT/tree"
    DEB_NAME="postgresql-$version-token-balance"
    NAME="token_balance-$VERSION-pg$version-$(uname -s | tr '[:upper:]' '[:lower:]')-$(uname -m)"
    rm -rf "$OUT"
    mkdir -p "$OUT"
    build
    # Only now: build scripts would run again for another time.
    export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
    lay_out
    write_bills_of_materials
    pack_deb
    pack_tars
    pack_rpm
    (cd "$OUT" && sha256sum -- *.deb *.rpm *.tar.gz *.cdx.json >SHA256SUMS)
    say "packages:"
    ls -1 "$OUT"/*.deb "$OUT"/*.rpm "$OUT"/*.tar.gz
}

main "$@"
