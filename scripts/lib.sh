# shellcheck shell=bash
# What the scripts share: where things are, who runs them, private clusters.
# Source it; it turns on strict mode for its caller.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SUPPORTED_VERSIONS=(14 15 16 17 18)

# The releases that are fetched for a version that the machine lacks.
declare -A FETCHED_RELEASE=(
    [14]=14.23.0 [15]=15.19.0 [16]=16.15.0 [17]=17.11.0 [18]=18.6.0
)

say() { printf '==> %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# rustup puts cargo and cargo-pgrx there, but not every shell has it on its path.
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
export PATH
# pgrx's test framework reads it and panics without it.
export USER="${USER:-$(id -un)}"
# Advice of pip's that nobody here can act on.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# PostgreSQL refuses to run as root, so root hands everything of the server to
# this user; anybody else runs it all alone.
if is_root; then DB_OS_USER=postgres; else DB_OS_USER=$(id -un); fi

# Fetched servers and the demo's cluster. Not inside the clone: a clone under
# /root cannot be entered by the user that runs the server.
default_dev_home() {
    if is_root; then
        echo /opt/token_balance-dev
    else
        echo "${XDG_CACHE_HOME:-$HOME/.cache}/token_balance"
    fi
}
DEV_HOME="${TOKEN_BALANCE_DEV_HOME:-$(default_dev_home)}"

make_dev_home() {
    mkdir -p "$DEV_HOME"
    if is_root; then chmod 755 "$DEV_HOME"; fi
}

# Cargo.toml's pin is the one place where pgrx's version stands.
pgrx_version() {
    local version
    version=$(sed -nE 's/^pgrx *= *[^"]*"=?([0-9][0-9.]*)".*/\1/p' "$ROOT/Cargo.toml" | head -n 1)
    [ -n "$version" ] || die "Cargo.toml does not pin pgrx"
    echo "$version"
}

# The version of the extension stands there too.
project_version() { sed -nE 's/^version *= *"([^"]+)".*/\1/p' "$ROOT/Cargo.toml" | head -n 1; }

has_cargo_pgrx() {
    [ "$(cargo pgrx --version 2>/dev/null)" = "cargo-pgrx $(pgrx_version)" ]
}

# What a release is built with, for all who build one, so that they share what is
# built: neither panics nor debug symbols name folders of this machine. Cargo joins
# this variable's flags with those that `cargo pgrx` needs; RUSTFLAGS would replace them.
# After use_server: the server's headers have a folder, too.
use_release_flags() {
    local triple target rust c dir
    triple=$(rustc -vV | sed -n 's/^host: //p')
    triple=${triple//-/_}
    target=$(realpath -m "${CARGO_TARGET_DIR:-$ROOT/target}")
    rust="--remap-path-prefix=$ROOT=/token_balance --remap-path-prefix=$(rustc --print sysroot)=/rust"
    rust+=" --remap-path-prefix=$target=/target"
    c="-ffile-prefix-map=$target=/target" # pgrx has a little C, compiled as the server was
    c+=" -ffile-prefix-map=$("$PG_CONFIG_PATH" --includedir-server)=/postgresql"
    # The folders below are named for the registry that the crates come from.
    cargo fetch --quiet --locked --manifest-path "$ROOT/Cargo.toml"
    for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
        rust+=" --remap-path-prefix=${dir%/}=/crates"
        c+=" -ffile-prefix-map=${dir%/}=/crates"
    done
    export "CARGO_TARGET_${triple^^}_RUSTFLAGS=$rust" CFLAGS="${CFLAGS:+$CFLAGS }$c"
}

# debug_pgrx ARGUMENT...: cargo pgrx for the tests. The unit tests' program and the library share all that they depend on:
# the linker's flag that would part them is given by build.rs, and with --examples, of which the crate has none, cargo
# counts the features that the tests' own dependencies ask of others in each build.
debug_pgrx() { CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 PGRX_BUILD_FLAGS=--examples cargo pgrx "$@"; }

# install_release LOG: a release into the server that use_server chose.
install_release() {
    mkdir -p "$(dirname "$1")"
    say "building a release for PostgreSQL $PG_VERSION"
    use_release_flags
    run_logged "$1" cargo pgrx install --release \
        --pg-config "$PG_CONFIG_PATH" --no-default-features --features "pg$PG_VERSION" ||
        die "the extension does not build"
}

# --- servers ---------------------------------------------------------------

is_supported() { [[ " ${SUPPORTED_VERSIONS[*]} " == *" $1 "* ]]; }

# The major version of a pg_config.
pg_major() { "$1" --version 2>/dev/null | sed -nE 's/^PostgreSQL ([0-9]+).*/\1/p'; }

# Why this pg_config cannot serve version $2; says nothing when it can.
unusable_because() {
    local pg_config=$1 version=$2 dir
    [ -x "$pg_config" ] || { echo "$pg_config cannot be run"; return; }
    [ "$(pg_major "$pg_config")" = "$version" ] ||
        { echo "$pg_config is not of PostgreSQL $version"; return; }
    [ -f "$("$pg_config" --includedir-server)/postgres.h" ] ||
        { echo "$pg_config has no server headers"; return; }
    [ -x "$("$pg_config" --bindir)/postgres" ] ||
        { echo "$pg_config has no server"; return; }
    # The extension has to be installed there.
    for dir in "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)/extension"; do
        [ -w "$dir" ] || { echo "$dir is not writable"; return; }
    done
    as_db_user test -x "$("$pg_config" --bindir)/postgres" ||
        echo "$pg_config is out of reach for the user $DB_OS_USER"
}

# The pg_config that `cargo pgrx` has for a version, if any.
registered_pg_config() {
    local config="${PGRX_HOME:-$HOME/.pgrx}/config.toml"
    [ -f "$config" ] || return 0
    sed -nE "s/^pg$1 *= *[\"'](.*)[\"'] *\$/\1/p" "$config" | head -n 1
}

# The pg_config that the caller asks for: PG_CONFIG_16, or PG_CONFIG when it is
# of that version.
requested_pg_config() {
    local variable="PG_CONFIG_$1"
    if [ -n "${!variable:-}" ]; then
        echo "${!variable}"
    elif [ -n "${PG_CONFIG:-}" ] && [ "$(pg_major "$PG_CONFIG")" = "$1" ]; then
        echo "$PG_CONFIG"
    fi
}

# The server of a version that is already here: the caller's, the one that
# pgrx knows, the system's, the one fetched before. Prints nothing if none is.
installed_pg_config() {
    local version=$1 candidate reason
    candidate=$(requested_pg_config "$version")
    if [ -n "$candidate" ]; then
        reason=$(unusable_because "$candidate" "$version")
        [ -z "$reason" ] || die "$reason"
        echo "$candidate"
        return
    fi
    for candidate in "$(registered_pg_config "$version")" \
        "/usr/lib/postgresql/$version/bin/pg_config" \
        "/usr/pgsql-$version/bin/pg_config" \
        "$(fetched_pg_config "$version")"; do
        [ -n "$candidate" ] || continue
        if [ -z "$(unusable_because "$candidate" "$version")" ]; then
            echo "$candidate"
            return
        fi
    done
}

fetched_pg_config() {
    echo "$DEV_HOME/postgresql-${FETCHED_RELEASE[$1]}/bin/pg_config"
}

# The servers that check their own assertions, for pg_test/once_per_run/assert.sh: the newest version, and
# one that does much in another way.
# shellcheck disable=SC2034 # used by setup.sh and assert.sh
ASSERT_VERSIONS=(18 15)

# The newest one of a version that scripts/assert_server.sh has built. Prints nothing if none is.
assert_pg_config() {
    { compgen -G "$DEV_HOME/postgresql-$1.*-assert/bin/pg_config" || true; } | sort -V | tail -n 1
}

# The mirror of Debian that this machine installs from. apt knows it by its lists.
# shellcheck disable=SC2016 # apt expands it
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
        head -n 1
}

# The version to work on when the caller names none.
choose_version() {
    local i version
    if [ -n "${PG:-}" ]; then
        is_supported "${PG#pg}" || die "PG=$PG is not one of ${SUPPORTED_VERSIONS[*]}"
        echo "${PG#pg}"
        return
    fi
    if [ -n "${PG_CONFIG:-}" ]; then
        version=$(pg_major "$PG_CONFIG")
        is_supported "${version:-none}" ||
            die "PG_CONFIG=$PG_CONFIG is not of PostgreSQL ${SUPPORTED_VERSIONS[*]}"
        echo "$version"
        return
    fi
    for ((i = ${#SUPPORTED_VERSIONS[@]} - 1; i >= 0; i--)); do
        version=${SUPPORTED_VERSIONS[i]}
        if [ -n "$(installed_pg_config "$version")" ]; then
            echo "$version"
            return
        fi
    done
    echo "${SUPPORTED_VERSIONS[-1]}"
}

# Sets what the rest needs to know of one server.
use_server() {
    local pg_config
    pg_config=$(registered_pg_config "$1")
    [ -n "$pg_config" ] || die "PostgreSQL $1 is not set up: run scripts/setup.sh $1"
    use_pg_config "$1" "$pg_config"
}

use_pg_config() { # VERSION PG_CONFIG
    PG_VERSION=$1
    PG_CONFIG_PATH=$2
    PG_BIN=$("$PG_CONFIG_PATH" --bindir)
    PG_LIB=$("$PG_CONFIG_PATH" --libdir)
    # The regression tools stand beside pgxs in every packaging.
    # shellcheck disable=SC2034 # used by test.sh
    PG_TEST_TOOLS=$(dirname "$("$PG_CONFIG_PATH" --pgxs)")/../test
}

# Two runs on one server would install over each other's library.
lock_server() {
    make_dev_home
    exec 9>"$DEV_HOME/.lock-$1"
    if ! flock -n 9; then
        say "waiting for another run that uses PostgreSQL $1"
        flock 9
    fi
}

# --- Python packages: pg_test/stacks, scripts/lint.sh -----------------------------

# venv_of NAME: the folder with the packages that its file pins; other pins are another folder.
venv_of() { echo "$DEV_HOME/$1-$(sha256sum <"$(requirements_of "$1")" | cut -c 1-12)"; }

requirements_of() {
    case $1 in
    stacks) echo "$ROOT/pg_test/stacks/requirements.txt" ;;
    lint) echo "$ROOT/scripts/lint.requirements.txt" ;;
    esac
}

# has_venv NAME: it is whole, and the Python that it was made with is still there.
has_venv() { [ -e "$(venv_of "$1")/complete" ] && "$(venv_of "$1")/bin/python" -c '' 2>/dev/null; }

# One that the user has, else that of setup.sh --docs.
mdbook_program() { command -v mdbook || { [ ! -x "$DEV_HOME/bin/mdbook" ] || echo "$DEV_HOME/bin/mdbook"; }; }

# Debian has it where only root looks.
pgbouncer_program() { PATH="$PATH:/usr/sbin" command -v pgbouncer; }
has_pgbouncer() { pgbouncer_program >/dev/null; }

has_sql_exporter() { have prometheus-sql-exporter; }

# --- the rules of accessibility that the dashboard's pages are held to ------------

# axe-core is a script; this package for Python carries it, so that no Node.js is needed.
AXE_PACKAGE=axe-playwright-python==0.1.8
axe_script() { echo "$DEV_HOME/axe-${AXE_PACKAGE##*=}/axe.min.js"; }

# --- who runs what ---------------------------------------------------------

as_db_user() {
    if is_root; then runuser -u "$DB_OS_USER" -- "$@"; else "$@"; fi
}

# Runs a command on the chosen server's side: as the server's user and in a
# clean environment. The caller's PG* variables would lead to another cluster,
# and RUST_BACKTRACE would add lines to the DETAIL of the errors under test.
in_server_env() {
    local libraries=()
    # Debian's programs find their libraries by themselves; a fetched server's
    # regression tools do not.
    case $PG_LIB in "$DEV_HOME"/*) libraries=(LD_LIBRARY_PATH="$PG_LIB") ;; esac
    as_db_user env -i \
        PATH="$PG_BIN:/usr/local/bin:/usr/bin:/bin" HOME="${CLUSTER_HOME:-/tmp}" \
        USER="$DB_OS_USER" LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        "${libraries[@]}" \
        PGHOST="${CLUSTER_SOCKET:-}" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres \
        PG_BIN="$PG_BIN" PG_VERSION="$PG_VERSION" \
        "$@"
}

# --- what is stopped and removed on the way out ------------------------------

CLEAN_CLUSTERS=() # data directories of servers that this script started
CLEAN_DIRS=()
CHILD=
BESIDE=() # what runs beside this script and cleans up behind itself: process groups

# Stopped by its data directory: never by name, so no other server is hit.
stop_cluster() {
    as_db_user test -f "$1/postmaster.pid" || return 0
    in_server_env "$PG_BIN/pg_ctl" -D "$1" -m "${2:-fast}" -w -t 30 stop >/dev/null 2>&1 ||
        in_server_env "$PG_BIN/pg_ctl" -D "$1" -m immediate -w stop >/dev/null 2>&1 ||
        warn "the server in $1 did not stop"
}

# Stops every server whose data is below $1, whoever started it there.
stop_servers_below() {
    local pid_file
    while read -r pid_file; do
        stop_cluster "$(dirname "$pid_file")" immediate
    done < <(find "$1" -name postmaster.pid 2>/dev/null)
}

# Ends the command that runs beside this script, with its process group.
stop_child() {
    [ -n "$CHILD" ] || return 0
    kill -TERM -- "-$CHILD" 2>/dev/null || true
    wait "$CHILD" 2>/dev/null || true
    CHILD=
}

stop_beside() {
    local group
    for group in "${BESIDE[@]}"; do kill -TERM -- "-$group" 2>/dev/null; done
    for group in "${BESIDE[@]}"; do wait "$group" 2>/dev/null; done
}

clean_up() {
    local status=$? item
    trap - EXIT INT TERM
    set +e
    stop_child
    stop_beside
    for item in "${CLEAN_CLUSTERS[@]}"; do stop_cluster "$item"; done
    for item in "${CLEAN_DIRS[@]}"; do
        stop_servers_below "$item"
        rm -rf "$item"
    done
    exit "$status"
}

clean_up_on_exit() {
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# A folder of its own for the server's user, closed to everybody else, in /tmp:
# a socket's path may not be longer than some 100 bytes. Sets PRIVATE_DIR.
make_private_dir() {
    PRIVATE_DIR=$(mktemp -d /tmp/tb.XXXXXX)
    CLEAN_DIRS+=("$PRIVATE_DIR")
    chmod 700 "$PRIVATE_DIR"
    if is_root; then chown "$DB_OS_USER:" "$PRIVATE_DIR"; fi
}

# Runs a long command with its output shown and logged. It gets a process group
# of its own (what `set -m` is for here), so that an interrupt is acted on at
# once and ends all of it.
run_logged() {
    local log=$1 status=0
    shift
    set -m
    ("$@" 2>&1 | tee "$log") </dev/null 9>&- &
    CHILD=$!
    set +m
    wait "$CHILD" || status=$?
    CHILD=
    return "$status"
}

# --- private clusters --------------------------------------------------------

# Makes a cluster in $1. The superuser has one name whoever runs it, so that
# expected output is the same; nothing but the private socket reaches it.
init_cluster() {
    in_server_env "$PG_BIN/initdb" -D "$1" -U postgres -A trust --locale=C --encoding=UTF8 \
        --no-sync >/dev/null
}

# Starts the cluster in $1 with its socket in $2; further arguments are settings.
start_cluster() {
    local data=$1 socket=$2 setting options
    shift 2
    options="-c listen_addresses='' -c unix_socket_directories='$socket' -p 5432"
    for setting in "$@"; do options+=" -c $setting"; done
    CLEAN_CLUSTERS+=("$data")
    CLUSTER_SOCKET=$socket
    if ! in_server_env "$PG_BIN/pg_ctl" -D "$data" -l "$(dirname "$data")/server.log" -w -t 60 \
        -o "$options" start >/dev/null 9>&-; then
        as_db_user tail -n 20 "$(dirname "$data")/server.log" >&2 || true
        die "the private cluster in $data did not start"
    fi
}
