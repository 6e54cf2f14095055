# shellcheck shell=bash
# Source it: a primary, and a standby that streams from it, in servers of the script's own. Both end with the script.
: "${PG_BIN:?}" "${WORK:?}"
# A socket's path must be short.
sockets=$(mktemp -d)
export PGHOST=$sockets PGUSER=postgres PGDATABASE=postgres
primary=5432 standby=5433
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
start() { "$PG_BIN/pg_ctl" -D "$WORK/$1" -l "$WORK/$1.log" -w start >/dev/null || { cat "$WORK/$1.log"; exit 1; }; }
stop() { "$PG_BIN/pg_ctl" -D "$WORK/$1" -m "$2" -w stop >/dev/null 2>&1 || true; }
clean() {
    stop standby immediate
    stop primary immediate
    rm -rf "$sockets" "$WORK/primary" "$WORK/standby"
}
trap clean EXIT

# start_primary [SETTING...]: with these settings besides.
start_primary() {
    rm -rf "$WORK/primary" "$WORK/standby"
    "$PG_BIN/initdb" -D "$WORK/primary" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
    cat >>"$WORK/primary/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$sockets'
port = $primary
fsync = off
wal_level = replica
CONF
    printf '%s\n' "$@" >>"$WORK/primary/postgresql.conf"
    start primary
}

# A copy of the primary as it is now.
start_standby() {
    "$PG_BIN/pg_basebackup" -D "$WORK/standby" -p $primary -R -X stream -c fast --no-sync
    echo "port = $standby" >>"$WORK/standby/postgresql.conf"
    start standby
}
