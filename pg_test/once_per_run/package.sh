#!/usr/bin/env bash
# META.json; and the packages: what they say of themselves, that nothing in them names this machine, that the same
# sources give the same bytes, and that each one installs into a copy of the server that never saw the extension, settles
# there, and shows the balance by its dashboard.
set -euo pipefail
: "${ROOT:?}" "${WORK:?}" "${PG_VERSION:?}"
# shellcheck source-path=SCRIPTDIR/../../scripts
source "$ROOT/scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$ROOT/pg_test/once_per_run/server_copy.sh"
# shellcheck source-path=SCRIPTDIR/../../scripts
source "$ROOT/scripts/dashboard/service.sh"
use_server "$PG_VERSION"
clean_up_on_exit
version=$(project_version)
target=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
packages="$target/package/pg$PG_VERSION"
name="postgresql-$PG_VERSION-token-balance"
libraries="usr/lib/postgresql/$PG_VERSION/lib"
library="$libraries/$(library_file)"
extension="usr/share/postgresql/$PG_VERSION/extension"
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}

if ! have dpkg-deb || ! "$ROOT/scripts/setup.sh" --packaging "$PG_VERSION" >"$WORK/setup.log" 2>&1; then
    echo "no .deb can be made here: $(tail -n 1 "$WORK/setup.log" 2>/dev/null)"
    exit 77
fi

# --- META.json -------------------------------------------------------------------

check_meta() { python3 "$ROOT/scripts/check_meta.py" "$1/META.json" "${2:-$version}" 2>&1; }
without() { # FIELD
    python3 -c 'import json, sys
meta = json.load(open(sys.argv[1]))
del meta[sys.argv[2]]
json.dump(meta, open("META.json", "w"))' "$ROOT/META.json" "$1"
}
is 'META.json is what PGXN asks for' "$(check_meta "$ROOT")" ''
mkdir "$WORK/meta"
cd "$WORK/meta"
ln -s "$ROOT/src" "$ROOT/README.md" .
for field in name version abstract maintainer license provides meta-spec; do
    without "$field"
    is "META.json without $field is refused" "$(check_meta . | grep -cF ": $field is missing")" 1
done
is 'META.json of another version is refused' "$(check_meta "$ROOT" 9.9.9 | grep -cF 'not 9.9.9')" 2
cd "$WORK"

# --- what is packed ----------------------------------------------------------------

"$ROOT/scripts/package.sh" "$PG_VERSION"
deb=$(ls "$packages/$name"_*.deb)
symbols=$(ls "$packages/$name"-dbgsym_*.deb)
dashboard=$(ls "$packages"/token-balance-dashboard_*.deb)
archive=$(find "$packages" -maxdepth 1 -name "token_balance-$version-pg$PG_VERSION-*.tar.gz" ! -name '*-dbgsym.tar.gz')
field() { dpkg-deb --field "$deb" "$1"; }

is 'version' "$(field Version)" "$version-1"
is 'architecture' "$(field Architecture)" "$(dpkg --print-architecture)"
is 'the server is a dependency' "$(field Depends | tr ',' '\n' | grep -cxE " *postgresql-$PG_VERSION")" 1
is 'and the C library of a version' "$(field Depends | grep -cE 'libc6 \(>= [0-9.]+\)')" 1
is 'debug symbols' "$(dpkg-deb --field "$symbols" Depends)" "$name (= $version-1)"
mkdir "$WORK/deb" "$WORK/dashboard" "$WORK/dbgsym" "$WORK/tar" "$WORK/control"
dpkg-deb -x "$deb" "$WORK/deb"
dpkg-deb -x "$dashboard" "$WORK/dashboard"
dpkg-deb -x "$symbols" "$WORK/dbgsym"
dpkg-deb -e "$deb" "$WORK/control"
tar -xzf "$archive" -C "$WORK/tar" --strip-components=1
is 'md5sums' "$(cd "$WORK/deb" && md5sum --quiet -c "$WORK/control/md5sums" 2>&1)" ''
is 'files of the server' "$(cd "$WORK/deb" && find . -type f ! -path './usr/share/doc/*' -printf '%P %m\n' | sort)" \
    "$({
        echo "$library 644"
        echo "$libraries/token_balance.so 644"
        echo "$extension/token_balance--$version.sql 644"
        echo "$extension/token_balance.control 644"
        for script in "$ROOT"/sql/token_balance--*--*.sql; do
            if [ -e "$script" ]; then echo "$extension/${script##*/} 644"; fi
        done
    } | sort)"
is 'files of the dashboard' \
    "$(cd "$WORK/dashboard" && find . -type f ! -path './usr/share/doc/*' -printf '%m %P\n' | sort | tr '\n' ' ')" \
    '600 etc/default/token-balance-dashboard 644 lib/systemd/system/token-balance-dashboard.service 755 usr/bin/token_balance_dashboard '
is 'the dashboard needs no server beside it' "$(dpkg-deb --field "$dashboard" Depends | grep -c postgresql)" 0
is 'files of its documentation' \
    "$(cd "$WORK/deb/usr/share/doc/$name" && find . -maxdepth 1 '(' -name copyright -o -iname 'changelog*' -o -name 'README.md*' ')' | sort | tr '\n' ' ')" \
    './CHANGELOG.md ./README.md ./changelog.Debian.gz ./changelog.gz ./copyright '
is 'the defaults file names all that the dashboard reads' \
    "$(grep -ohE '\bDASHBOARD_[A-Z_]+|\bPG[A-Z]+' "$WORK/dashboard/etc/default/token-balance-dashboard" | sort -u)" \
    "$(grep -ohE '"(DASHBOARD_[A-Z_]+|PG[A-Z]+)"' "$ROOT/examples/dashboard/src/config.rs" | tr -d '"' | sort -u | grep -vx PGSSLMODE)"
is "tar.gz: the dashboard's page, unit and defaults file" "$(ls "$WORK/tar/examples/dashboard" | tr '\n' ' ')" \
    'README.md token-balance-dashboard.default token-balance-dashboard.service '
for file in etc/default/token-balance-dashboard lib/systemd/system/token-balance-dashboard.service; do
    case $file in etc/*) beside=default ;; *) beside=service ;; esac
    is "tar.gz: the same $beside" "$(cmp "$WORK/dashboard/$file" "$WORK/tar/examples/dashboard/token-balance-dashboard.$beside" && echo same)" same
done
is 'the licence of pgrx is named' "$(grep -cE '^ pgrx v[0-9.]+: MIT$' "$WORK/deb/usr/share/doc/$name/copyright")" 1
for dir in "deb/$libraries" tar/lib; do
    is "$dir: one library, with the name that older versions ask for" \
        "$([ "$WORK/$dir/$(library_file)" -ef "$WORK/$dir/token_balance.so" ] && echo one)" one
done
is 'tar.gz: the same library' "$(cmp "$WORK/tar/lib/$(library_file)" "$WORK/deb/$library" && echo same)" same
is 'and of axum, in the dashboard' "$(grep -cE '^ axum v[0-9.]+: MIT$' "$WORK/dashboard/usr/share/doc/token-balance-dashboard/copyright")" 1
is 'tar.gz: the same dashboard' "$(cmp "$WORK/tar/bin/token_balance_dashboard" "$WORK/dashboard/usr/bin/token_balance_dashboard" && echo same)" same
is 'tar.gz: the same SQL' "$(diff -r "$WORK/tar/share/extension" "$WORK/deb/$extension" && echo same)" same

# --- the .rpm ------------------------------------------------------------------------

# The dependency on the server's package is left out where there is none: no repository of such packages is here.
rpm=$(ls "$packages"/*.rpm)
is 'rpm: name' "$(rpm -qp --queryformat '%{NAME}-%{VERSION}.%{ARCH}' "$rpm")" "token_balance_$PG_VERSION-$version.$(uname -m)"
is 'rpm: the server is a dependency' "$(rpm -qp --requires "$rpm" | grep -cx "postgresql$PG_VERSION-server")" 1
is 'rpm: and the C library of the version that the .deb asks for' \
    "$(rpm -qp --requires "$rpm" | sed -nE 's/^libc\.so\.6\(GLIBC_([0-9.]+)\)\(64bit\)$/\1/p' | sort -V | tail -n 1)" \
    "$(field Depends | sed -nE 's/.*libc6 \(>= ([0-9.]+)\).*/\1/p')"
mkdir "$WORK/rpm"
if is_root; then
    rpm --root "$WORK/rpm" --dbpath /rpmdb --nodeps --install "$rpm" 2>&1
    is 'rpm: nothing has changed since it was installed' "$(rpm --root "$WORK/rpm" --dbpath /rpmdb --nodeps --verify "token_balance_$PG_VERSION")" ''
else
    (cd "$WORK/rpm" && rpm2cpio "$rpm" | cpio --quiet -idm)
fi
rpm_libraries="usr/pgsql-$PG_VERSION/lib"
rpm_extension="usr/pgsql-$PG_VERSION/share/extension"
is 'rpm: the same library, by both names' \
    "$(cmp "$WORK/rpm/$rpm_libraries/$(library_file)" "$WORK/deb/$library" && [ "$WORK/rpm/$rpm_libraries/$(library_file)" -ef "$WORK/rpm/$rpm_libraries/token_balance.so" ] && echo same)" same
is 'rpm: the same SQL' "$(diff -r "$WORK/rpm/$rpm_extension" "$WORK/deb/$extension" && echo same)" same
is 'rpm: nothing else' "$(rpm -qpl "$rpm" | grep -vcE "^/($rpm_libraries|$rpm_extension|usr/share/doc/token_balance_$PG_VERSION)(/|\$)")" 0

# --- their pages -------------------------------------------------------------------------

# Each link leads to what is in the package: scripts/check_docs.py names what may be in the sources alone.
for dir in "deb/usr/share/doc/$name" tar "rpm/usr/share/doc/token_balance_$PG_VERSION" dashboard/usr/share/doc/token-balance-dashboard; do
    links=$(python3 "$ROOT/scripts/check_docs.py" package "$WORK/$dir") && is_whole=yes || is_whole=no
    is "$dir: all links lead to what is there (${links%%$'\n'*})" "$is_whole$(grep FAILED <<<"$links")" yes
done
for dir in "deb/usr/share/doc/$name" tar "rpm/usr/share/doc/token_balance_$PG_VERSION"; do
    is "$dir: the script for several databases" "$(stat -c %a "$WORK/$dir/cluster.sh")" 755
    is "$dir: the SQL of the pages" "$(diff -r "$WORK/$dir/sql/examples" "$ROOT/sql/examples" && echo same)" same
done

# --- what is in them -------------------------------------------------------------------

is 'SHA256SUMS' "$(cd "$packages" && sha256sum --quiet -c SHA256SUMS 2>&1)" ''
is 'SHA256SUMS has all of them' "$(wc -l <"$packages/SHA256SUMS")" "$(find "$packages" -maxdepth 1 -regex '.*[.]\(deb\|rpm\|gz\|json\)' | wc -l)"
# The crates that cargo says are in the program, but for its own.
names_of_bill() { python3 -c 'import json, sys
for it in json.load(open(sys.argv[1]))["components"]: print(it["name"], "v" + it["version"])' "$1" | sort -u; }
bill=$(ls "$packages/token_balance-$version"*.cdx.json)
is 'the bill of materials has the crates of the program' "$(names_of_bill "$bill")" \
    "$(cd "$ROOT" && cargo tree --locked -e normal,no-proc-macro --prefix none --format '{p}' --no-default-features --features "pg$PG_VERSION" |
        sed '1d; s/ (.*//' | sort -u)"
is 'with their checksums' "$(python3 -c 'import json, sys
print(sum("hashes" not in it or "licenses" not in it for it in json.load(open(sys.argv[1]))["components"]))' "$bill")" 0
for dir in "deb/usr/share/doc/$name" tar rpm/usr/share/doc/token_balance_"$PG_VERSION"; do
    is "$dir: the bill of materials" "$({ zcat "$WORK/$dir"/token_balance.cdx.json.gz || cat "$WORK/$dir/token_balance.cdx.json"; } 2>/dev/null | cmp - "$bill" && echo same)" same
done

# --- the library ---------------------------------------------------------------------

build_id() { readelf -n "$1" 2>/dev/null | sed -n 's/^ *Build ID: //p'; }
debug=$(find "$WORK/dbgsym" -name '*.debug')
# Debug sections are compressed; a grep would find nothing in them.
objcopy --decompress-debug-sections "$debug" "$WORK/dbgsym/plain"
is 'no RPATH, no RUNPATH' "$(readelf -d "$WORK/deb/$library" | grep -cE 'RPATH|RUNPATH')" 0
is 'no debug sections' "$(readelf -SW "$WORK/deb/$library" | grep -cF '.debug_')" 0
is 'the symbols are those of the library' "$(build_id "$debug")" "$(build_id "$WORK/deb/$library")"
is 'lines of the sources are in them' "$(grep -qaF 'charge.rs' "$WORK/dbgsym/plain" && echo yes)" yes

find "$WORK/deb" "$WORK/dashboard" "$WORK/tar" -type f -name '*.gz' -exec gunzip {} +
for path in "$ROOT/" "$target/" "$DEV_HOME/" "$HOME/" "${CARGO_HOME:-$HOME/.cargo}/" "$WORK/"; do
    is "no file names $path" "$(grep -rlaF "$path" "$WORK/deb" "$WORK/dashboard" "$WORK/tar" "$WORK/rpm/usr" "$bill" "$WORK/control" "$WORK/dbgsym/plain")" ''
done

# --- the same bytes again ------------------------------------------------------------

mkdir "$WORK/first"
cp "$packages"/*.deb "$packages"/*.rpm "$packages"/*.tar.gz "$packages"/*.cdx.json "$packages/SHA256SUMS" "$WORK/first"
"$ROOT/scripts/package.sh" "$PG_VERSION" >/dev/null
for file in "$WORK"/first/*; do
    is "${file##*/}: the same bytes again" "$(cmp "$file" "$packages/${file##*/}" && echo same)" same
done

# --- a server that never saw it --------------------------------------------------------

copy_server "$WORK/server"
# Refused with `extension "token_balance" is not available`, or the test would be of the old files.
is_not_there() {
    in_server_env "$PG_BIN/psql" -X -q -d template1 -c 'BEGIN; CREATE EXTENSION token_balance' 2>&1 | grep -cE 'is not available|could not open extension control file'
}

# What the program answers to ann, set up as the tutorial says it.
balance_by() { # PROGRAM
    local log="$PRIVATE_DIR/dashboard.log" url
    { reader_grants && echo 'CREATE ROLE token_dashboard LOGIN IN ROLE token_reader'; } |
        in_server_env "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1
    local -x DASHBOARD_JWT_SECRET DASHBOARD_ADDRESS=127.0.0.1:0
    DASHBOARD_JWT_SECRET=$(new_secret)
    start_dashboard "$1" postgres >"$log" 2>&1
    for _ in {1..100}; do
        url=$(sed -n 's/^serving //p' "$log")
        [ -z "$url" ] || break
        sleep 0.1
    done
    python3 -c 'import sys, urllib.request as r
print(r.urlopen(r.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]}), timeout=30).read().decode())' \
        "${url}api/v1/token-usage/balance" "$("$1" token ann)" 2>&1 || cat "$log"
    stop_child
}

# As docs/installing.md says it: the files go to the server's, or its settings name the folder that was unpacked, in which
# the server can write nothing.
put_there() { # WHAT LIBRARY SCRIPTS
    if [ "$1" != mounted ]; then
        cp -d --remove-destination "$WORK/$1/$2"/* "$pkglib"
        cp -R "$WORK/$1/$3/." "$share/extension"
        return
    fi
    mkdir "$PRIVATE_DIR/mounted"
    tar -xzf "$archive" -C "$PRIVATE_DIR/mounted" --strip-components=1
    chmod -R a+rX,a-w "$PRIVATE_DIR/mounted"
    in_server_env "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 <<SQL
ALTER SYSTEM SET extension_control_path = '$PRIVATE_DIR/mounted/share:\$system';
ALTER SYSTEM SET dynamic_library_path = '$PRIVATE_DIR/mounted/lib:\$libdir';
SELECT pg_reload_conf() \g /dev/null
SQL
    # The reload reaches a session that begins after the postmaster has read it.
    for _ in {1..100}; do
        [ "$(is_not_there)" = 1 ] || break
        sleep 0.1
    done
}

settles() { # WHAT LIBRARY SCRIPTS DASHBOARD
    make_private_dir
    CLUSTER_HOME=$PRIVATE_DIR
    init_cluster "$PRIVATE_DIR/data"
    start_cluster "$PRIVATE_DIR/data" "$PRIVATE_DIR" fsync=off
    remove_extension
    is "$1: not there before" "$(is_not_there)" 1
    put_there "$1" "$2" "$3"
    is "$1: settles" "$(in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 2>&1 <<'SQL'
SET client_min_messages = error;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id);
CREATE INDEX ON token_usage (user_id);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance;
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'bob', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 1200), ('w1', 'ann', 300), ('w2', 'bob', 2000000);
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
SELECT settle_workflow('w2') ->> 'is_overdraft';
SELECT id, token_balance FROM users ORDER BY id;
SELECT extversion FROM pg_extension WHERE extname = 'token_balance';
SELECT 'verify', name, detail FROM token_balance.verify() WHERE NOT ok;
SELECT 'reconcile', * FROM token_balance.reconcile();
SQL
)" "true
ann|998500
bob|-1000000
$version"
    is "$1: the dashboard shows it" "$(balance_by "$4" | tr -d ' ')" '{"is_overdraft":false,"token_balance":998500}'
    # As docs/operations.md says it of files that went before the extension.
    remove_extension
    [ "$1" != mounted ] || rm -rf "$PRIVATE_DIR/mounted"
    for write in "INSERT INTO workflows VALUES ('w3', 'ann', 'running')" "UPDATE workflows SET status = 'running' WHERE id = 'w1'" \
        "UPDATE users SET token_balance = 5 WHERE id = 'ann'" 'SELECT token_balance.detach()'; do
        is "$1: without its files: $write" \
            "$(in_server_env "$PG_BIN/psql" -X -q -At -v VERBOSITY=sqlstate -c "$write" 2>&1)" 'ERROR:  58P01'
    done
    is "$1: and it can be dropped all the same" "$(in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 2>&1 <<'SQL'
SET client_min_messages = error;
DROP EXTENSION token_balance CASCADE;
INSERT INTO workflows VALUES ('w3', 'ann', 'completed');
UPDATE users SET token_balance = token_balance + 1 WHERE id = 'ann' RETURNING token_balance;
SELECT rolname FROM pg_roles WHERE rolname = 'token_reader';
SQL
)" '998501
token_reader'
    is "$1: no internal error in the log" "$(grep -cE 'PANIC|panicked|XX000|TRAP' "$PRIVATE_DIR/server.log")" 0
    stop_cluster "$PRIVATE_DIR/data"
}
settles deb "$libraries" "$extension" "$WORK/dashboard/usr/bin/token_balance_dashboard"
settles rpm "$rpm_libraries" "$rpm_extension" "$WORK/dashboard/usr/bin/token_balance_dashboard"
settles tar lib share/extension "$WORK/tar/bin/token_balance_dashboard"
if [ "$PG_VERSION" -ge 18 ]; then settles mounted '' '' "$WORK/tar/bin/token_balance_dashboard"; fi
exit "$failed"
