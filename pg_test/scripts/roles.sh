#!/usr/bin/env bash
# The GRANT block of docs/privileges.md, applied as it stands; then one login per role, and what each may and may not do.
# (DESIGN O9, O10)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_roles
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" \
        -c 'DROP ROLE IF EXISTS tb_login_app, tb_login_billing, tb_login_reader, tb_login_owner, tb_login_nobody' \
        -c 'DROP ROLE IF EXISTS token_app, token_billing, token_reader' 2>/dev/null
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"

# The block is the one that says so in its first line.
awk '/^```sql$/ { inside = 1; text = ""; next } /^```/ { if (inside && text ~ /^-- roles:/) printf "%s", text; inside = 0; next }
     inside { text = text $0 "\n" }' "$PROJECT/docs/privileges.md" >"$WORK/grants.sql"
is 'the page has one GRANT block' "$(grep -c '^-- roles:' "$WORK/grants.sql")" 1

psql -d "$db" 2>/dev/null <<'SQL'
CREATE ROLE tb_login_owner LOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO tb_login_owner;
SET ROLE tb_login_owner;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
INSERT INTO users VALUES ('ann');
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'ann', 'running'), ('w3', 'ann', 'running');
INSERT INTO token_usage VALUES ('w1', 'ann', 100), ('w2', 'ann', 20), ('w3', 'ann', 3);
SQL
psql -d "$db" -f "$WORK/grants.sql"
psql -d "$db" <<'SQL'
CREATE ROLE tb_login_app LOGIN IN ROLE token_app;
CREATE ROLE tb_login_billing LOGIN IN ROLE token_billing;
CREATE ROLE tb_login_reader LOGIN IN ROLE token_reader;
CREATE ROLE tb_login_nobody LOGIN;
SQL

# as ROLE STATEMENT: what a connection of that role gets; the SQLSTATE for an error
as() { psql -At -d "$db" -U "tb_login_$1" -v VERBOSITY=sqlstate -c "$2" 2>&1 | sed 's/^ERROR: *//' || true; }
may() { is "$1 may: $2" "$(as "$1" "$2")" "$3"; }
may_not() { is "$1 may not: $2" "$(as "$1" "$2")" 42501; }

is 'a connection is the role itself' "$(as app 'SELECT session_user')" tb_login_app

settle="SELECT settle_workflow('w1') ->> 'tokens_used'"
settle_many="SELECT sum(charged_tokens) FROM token_balance.settle_workflows('{w3}')"
balance="SELECT token_balance.balance('ann') ->> 'token_balance'"
summary="SELECT token_balance.summary('ann') ->> 'token_balance'"
statement="SELECT count(*) FROM token_balance.statement('ann')"
balance_at="SELECT token_balance.balance_at('ann', '2020-01-01')"
credit="SELECT token_balance.credit('ann', 7) ->> 'new_balance'"
refund="SELECT token_balance.refund_workflow('w1', 10) ->> 'amount'"
correct="SELECT token_balance.correct_workflow('w1') ->> 'amount'"
overdrawn='SELECT count(*) FROM token_balance.overdrawn'
administration=(
    'SELECT token_balance.settle_pending()'
    'CALL token_balance.settle_backlog()'
    'SELECT count(*) FROM token_balance.reconcile()'
    'SELECT count(*) FROM token_balance.verify()'
    'SELECT token_balance.detach()'
    "SELECT token_balance.attach('users', 'token_usage')"
    'SELECT count(*) FROM token_balance.ledger'
    'SELECT count(*) FROM token_balance.settlement'
    'SELECT count(*) FROM token_balance.binding'
    "INSERT INTO token_balance.ledger (user_id, kind, amount, previous_balance, new_balance, actor) VALUES ('ann', 'credit', 1, 0, 1, 'me')"
    'UPDATE token_balance.settlement SET usage_tokens = 0'
    'UPDATE users SET token_balance = 0'
    'SELECT token_balance FROM users'
)

may app "$settle" 100
may app "SELECT settle_workflow('w2') ->> 'tokens_used'" 20
may app "$balance" 999880
may app "$summary" 999880
may app "$statement" 2
for one in "$settle_many" "$credit" "$refund" "$correct" "$balance_at" "$overdrawn" "${administration[@]}"; do may_not app "$one"; done

may billing "$credit" 999887
may billing "$refund" 10
may billing "$correct" 0
may billing "$statement" 4
may billing "$balance" 999897
may billing "$balance_at" 1000000
for one in "$settle" "$settle_many" "$summary" "$overdrawn" "${administration[@]}"; do may_not billing "$one"; done

may reader "$balance" 999897
may reader "$summary" 999897
may reader "$statement" 4
may reader "$balance_at" 1000000
may reader "$overdrawn" 0
may reader 'SELECT count(*) FROM token_balance.overdrawn_accounts()' 0
for one in "$settle" "$settle_many" "$credit" "$refund" "$correct" "${administration[@]}"; do may_not reader "$one"; done

for one in "$settle" "$balance" "$summary" "$statement" "$credit" "$refund" "$correct" "$balance_at" "$overdrawn" "${administration[@]}"; do may_not nobody "$one"; done

# What attach granted to the owner of the users table, and no more.
may owner "$settle" 0
may owner "$settle_many" 3
may owner "$balance" 999894
may owner "$summary" 999894
may owner "$statement" 5
for one in "$credit" "$refund" "$balance_at" "$overdrawn" "$correct" 'SELECT token_balance.settle_pending()' \
    'CALL token_balance.settle_backlog()' 'SELECT count(*) FROM token_balance.reconcile()'; do may_not owner "$one"; done

# Who called is in the ledger, though the charge ran as the owner of the tables.
is 'the ledger names the caller' "$(value 'SELECT string_agg(DISTINCT actor, $$,$$ ORDER BY actor) FROM token_balance.ledger')" \
    tb_login_app,tb_login_billing,tb_login_owner
# Functions of the schema are of no use without USAGE on it.
value 'REVOKE USAGE ON SCHEMA token_balance FROM token_app'
may_not app "$balance"
may app "$settle" 0
is 'nothing was changed by those who may not' "$(value 'SELECT count(*) FROM token_balance.reconcile()')" 0
exit "$failed"
