#!/usr/bin/env bash
# The schedule of docs/recipes.md, run by pg_cron in a cluster of its own: late usage is charged without a call.
# pg_cron starts jobs at the full minute (its newer versions know seconds too), so this takes up to a minute.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
if [ "$("$PG_BIN/psql" -X -At -d "${PGDATABASE:-postgres}" -c "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_cron'")" = 0 ]; then
    echo "this server has no pg_cron (Debian: postgresql-15-cron)"
    exit 77
fi
page=$PROJECT/docs/recipes.md
if [ ! -e "$page" ]; then
    echo "docs/recipes.md is not in the copy that is tested"
    exit 77
fi
# A socket's path must be short.
sockets=$(mktemp -d)
export PGHOST=$sockets PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
data=$WORK/data
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -c "$1"; }
clean() {
    "$PG_BIN/pg_ctl" -D "$data" -m fast -w stop >/dev/null 2>&1 || true
    rm -rf "$sockets" "$data"
}
trap clean EXIT
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
rm -rf "$data"
"$PG_BIN/initdb" -D "$data" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
cat >>"$data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$sockets'
port = 5432
fsync = off
shared_preload_libraries = 'pg_cron'
cron.database_name = 'postgres'
cron.host = '$sockets'
CONF
"$PG_BIN/pg_ctl" -D "$data" -l "$WORK/server.log" -w start >/dev/null || { cat "$WORK/server.log"; exit 1; }

# The page's blocks for pg_cron and for the role that runs the jobs.
awk -v dir="$WORK" '
    /^```sql$/ { getline; file = /^-- pg_cron/ ? "schedule" : /^CREATE ROLE token_sweeper/ ? "role" : ""
                 file = file == "" ? "" : dir "/" file ".sql"; if (file != "") print > file; next }
    /^```/ { file = "" }
    file != "" { print > file }' "$page"

psql 2>/dev/null <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'ann', 'completed'), ('w3', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w3', 'ann', 1);
INSERT INTO token_usage VALUES ('w2', 'ann', 20, now() - interval '2 days');
CREATE EXTENSION pg_cron;
SQL
psql -f "$WORK/role.sql"
psql -c 'ALTER ROLE token_sweeper LOGIN' -c 'GRANT USAGE ON SCHEMA cron TO token_sweeper'
is 'nothing is charged before' "$(value 'SELECT count(*) FROM token_balance.settlement')" 0
psql -U token_sweeper -f "$WORK/schedule.sql" >/dev/null 2>&1
is 'the jobs of the page are scheduled' "$(value "SELECT string_agg(jobname || ' by ' || username, ', ' ORDER BY jobid) FROM cron.job")" \
    'settle-pending by token_sweeper, settle-backlog by token_sweeper'
# What the first job does not look at, the second one finds; nobody waits here for the night.
psql -U token_sweeper -c "SELECT cron.schedule('settle-backlog', '* * * * *', 'CALL token_balance.settle_backlog()')" >/dev/null
psql -U token_sweeper -c "SELECT cron.schedule('each-second', '1 seconds', \$\$SELECT token_balance.settle_pending(now() - interval '1 hour')\$\$)" \
    >/dev/null 2>&1 && echo 'this pg_cron knows seconds' || echo 'this pg_cron knows minutes only'
for _ in $(seq 150); do
    [ "$(value "SELECT count(DISTINCT command) FROM cron.job_run_details WHERE status = 'succeeded'")" -ge 2 ] && break
    sleep 0.5
done
is 'late usage is charged, that of the open run is not' "$(value 'SELECT token_balance FROM users')" 999880
is 'by both jobs, as the role that scheduled them' "$(value "SELECT string_agg(DISTINCT substring(command FROM 'settle_[a-z]+') || ' ' || username || ' ' || status, ', ')
    FROM cron.job_run_details WHERE status <> 'running'")" 'settle_backlog token_sweeper succeeded, settle_pending token_sweeper succeeded'
is 'the ledger names the role' "$(value "SELECT string_agg(DISTINCT actor, ', ') FROM token_balance.ledger")" token_sweeper
is 'nothing is charged twice' "$(value 'SELECT sum(charged_tokens) FROM token_balance.settlement')" 120
is 'reconcile() finds nothing' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
[ "$failed" = 0 ] || { value 'SELECT * FROM cron.job_run_details'; tail -n 50 "$WORK/server.log"; }
exit "$failed"
