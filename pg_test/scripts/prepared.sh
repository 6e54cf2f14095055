#!/usr/bin/env bash
# Two-phase commit: a settlement that is prepared keeps its workflow and its accounts locked, and is charged once.
# (DESIGN E1, N3, P3)
set -euo pipefail
: "${PG_BIN:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_prepared
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
if [ "$(psql -At -d "$maintenance" -c 'SHOW max_prepared_transactions')" = 0 ]; then
    echo "max_prepared_transactions is 0"
    exit 77
fi
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean() {
    psql -d "$db" -c "ROLLBACK PREPARED 'tb_one'" 2>/dev/null || true
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null
}
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"
psql -d "$db" 2>/dev/null <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w2', 'ann', 20);
BEGIN;
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
PREPARE TRANSACTION 'tb_one';
SQL
settle() { psql -At -d "$db" -v VERBOSITY=sqlstate -c "SET lock_timeout = '300ms'" -c "SELECT settle_workflow('$1') ->> 'tokens_used'" 2>&1 || true; }
is 'prepared: the workflow is locked' "$(settle w1)" 'ERROR:  55P03'
is 'prepared: the account is locked' "$(settle w2)" 'ERROR:  55P03'
is 'prepared: detach says how such a one ends' \
    "$(psql -At -d "$db" -c "SET lock_timeout = '300ms'" -c 'SELECT token_balance.detach()' 2>&1 | grep -c 'In the way: a prepared transaction\|ROLLBACK PREPARED')" 2
is 'prepared: nothing is charged yet' "$(value 'SELECT token_balance FROM users')" 1000000
psql -d "$db" -c "COMMIT PREPARED 'tb_one'"
is 'committed: charged' "$(value 'SELECT token_balance FROM users')" 999900
is 'committed: nothing left of it' "$(settle w1)" 0
is 'committed: the other goes on' "$(settle w2)" 20
psql -d "$db" <<'SQL'
INSERT INTO token_usage VALUES ('w1', 'ann', 3);
BEGIN;
SELECT settle_workflow('w1') AS s \gset
PREPARE TRANSACTION 'tb_one';
ROLLBACK PREPARED 'tb_one';
SQL
is 'rolled back: not charged' "$(value 'SELECT token_balance FROM users')" 999880
is 'rolled back: the next one takes it' "$(settle w1)" 3
crossing=$(psql -d "$db" -v VERBOSITY=sqlstate -c BEGIN -c 'UPDATE users SET token_balance = -1' \
    -c "PREPARE TRANSACTION 'tb_one'" 2>&1 || true)
is 'across zero: the server does not prepare what has notified' "$crossing" 'ERROR:  0A000'
exit "$failed"
