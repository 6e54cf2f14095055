# shellcheck shell=bash
# Source it after scripts/lib.sh: a copy of the server to install into.

# Makes it in $1, and sets PG_BIN, pkglib and share to its folders. A server finds those
# relative to its programs, so a copy elsewhere is one of its own.
copy_server() {
    local dir
    pkglib=$("$PG_CONFIG_PATH" --pkglibdir)
    share=$("$PG_CONFIG_PATH" --sharedir)
    for dir in "${PG_BIN%/*}" "$share"; do
        [ ! -d "$1$dir" ] || continue
        mkdir -p "$1${dir%/*}"
        cp -a "$dir" "$1$dir"
    done
    PG_BIN=$1$PG_BIN
    pkglib=$1$pkglib
    share=$1$share
    [ "$("$PG_BIN/pg_config" --pkglibdir) $("$PG_BIN/pg_config" --sharedir)" = "$pkglib $share" ] ||
        die "the copy of the server does not use its own folders"
}

remove_extension() { rm -f "$pkglib/token_balance"*.so "$share/extension/token_balance"*; }

# The library's file, which has the version in its name; token_balance.so is what 0.1.0 and 0.2.0 ask for.
library_file() { echo "token_balance-$(project_version).so"; }
