#!/usr/bin/env bash
# pg_upgrade into a cluster of the same version: the binding points at the right tables, the chain goes on.
# (DESIGN B16, D12)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
# A socket's path must be short, and the new cluster's is made in the working folder.
sockets=$(mktemp -d)
export PGHOST=$sockets PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
cd "$WORK"
rm -rf old new
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -c "$1"; }
stop() { "$PG_BIN/pg_ctl" -D "$WORK/$1" -m fast -w stop >/dev/null 2>&1 || true; }
start() { "$PG_BIN/pg_ctl" -D "$WORK/$1" -l "$WORK/$1.log" -w -o "-k $sockets -p 5432 -c listen_addresses='' -c fsync=off" start >/dev/null; }
clean() {
    stop old
    stop new
    rm -rf "$sockets" "$WORK/old" "$WORK/new"
}
trap clean EXIT
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
for cluster in old new; do
    "$PG_BIN/initdb" -D "$WORK/$cluster" -U postgres -A trust --locale=C --encoding=UTF8 --no-sync >/dev/null
done
start old
psql 2>/dev/null <<'SQL'
CREATE ROLE app_owner;
CREATE SCHEMA app AUTHORIZATION app_owner;
SET ROLE app_owner;
CREATE TABLE app.users (id text PRIMARY KEY);
CREATE TABLE app.token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE INDEX ON app.token_usage (workflow_id);
CREATE INDEX ON app.token_usage (user_id);
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO app.users VALUES ('ann'), ('bob');
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA app;
INSERT INTO app.token_usage VALUES ('w1', 'ann', 10), ('w2', 'bob', 20);
INSERT INTO app.workflows VALUES ('w1', 'ann', 'completed'), ('w2', 'bob', 'running');
ALTER TABLE app.token_usage RENAME total_tokens TO tokens;
ALTER TABLE app.token_usage ADD total_tokens integer DEFAULT 7777;
SQL
stop old
if ! "$PG_BIN/pg_upgrade" -b "$PG_BIN" -B "$PG_BIN" -d "$WORK/old" -D "$WORK/new" -U postgres -s "$sockets" >"$WORK/pg_upgrade.log" 2>&1; then
    cat "$WORK/pg_upgrade.log"
    exit 1
fi
start new
is 'still bound' "$(value 'SELECT users::text || usage::text || workflows::text FROM token_balance.binding')" 'app.usersapp.token_usageapp.workflows'
is 'a renamed column is bound still' "$(value "SELECT detail LIKE '%usage_tokens is \"tokens\", which was \"total_tokens\"' FROM token_balance.verify() WHERE name = 'binding'")" t
value 'SELECT token_balance.attach_again()' >/dev/null
is 'verify() finds nothing' "$(value "SELECT coalesce(string_agg(name, ', '), '') FROM token_balance.verify() WHERE NOT ok")" ''
is 'settled stays settled' "$(value "SELECT app.settle_workflow('w1') ->> 'status'")" already_settled
value "UPDATE app.workflows SET status = 'completed' WHERE id = 'w2'"
is 'the trigger charges' "$(value "SELECT token_balance FROM app.users WHERE id = 'bob'")" 999980
is 'the entry is the next one of its account' "$(value "SELECT entry_id = (SELECT count(*) FROM token_balance.ledger AS o WHERE o.user_id = l.user_id AND o.entry_id <= l.entry_id) FROM token_balance.ledger AS l WHERE workflow_id = 'w2'")" t
is 'the owner calls settle_workflow' "$(value "SET ROLE app_owner; SELECT app.settle_workflow('w2') ->> 'status'")" already_settled
is 'the ledger refuses' "$(psql -c 'DELETE FROM token_balance.ledger' >/dev/null 2>&1 && echo deleted || echo refused)" refused
value 'SELECT token_balance.detach()' >/dev/null
is 'the extension can be dropped' "$(psql -c 'DROP EXTENSION token_balance' && echo yes)" yes
exit "$failed"
