#!/usr/bin/env bash
# docs/operations.md: every command of it, SQL and shell, in order, in a database that the page could have been written
# in; where the page shows an output, it must be that (DESIGN V20).
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
page=$PROJECT/docs/operations.md
maintenance=${PGDATABASE:-postgres}
db=tb_operations
PATH=$PG_BIN:$PATH
export PGOPTIONS='-c timezone=UTC'
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$db" -c "$1"; }
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" -c 'DROP DATABASE IF EXISTS shop_restored' \
        -c 'DROP ROLE IF EXISTS token_monitor, tb_operations_monitor' 2>/dev/null
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"

# 001.sql, 001.text, 002.sh: the blocks in the order of the page
mkdir -p "$WORK/blocks"
rm -f "$WORK"/blocks/*
awk -v dir="$WORK/blocks" '
  /^```sql$/  { n++; file = sprintf("%s/%03d.sql", dir, n); next }
  /^```sh$/   { n++; file = sprintf("%s/%03d.sh", dir, n); next }
  /^```text$/ { file = sprintf("%s/%03d.text", dir, n); printf "" > file; next }
  /^```/      { file = (file == "" ? "-" : ""); next }
  file != "" && file != "-" { print > file }
' "$page"

# A platform with a past: what was charged long ago, what is new, one run that nobody settled, one overdrawn account.
psql -d "$db" <<'SQL' 2>/dev/null
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE TABLE app.users (id text PRIMARY KEY, email text);
CREATE TABLE app.token_usage (workflow_id text, user_id text, model text, stage text, prompt_tokens integer, completion_tokens integer,
    total_tokens integer, created_at timestamptz DEFAULT now());
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status text, completed_at timestamptz);
CREATE INDEX ON app.token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON app.token_usage (user_id, created_at);
CREATE TABLE app.part_usage (workflow_id text, user_id text, total_tokens integer, created_at timestamptz) PARTITION BY RANGE (created_at);
CREATE TABLE app.part_usage_2024 PARTITION OF app.part_usage FOR VALUES FROM ('2024-01-01 UTC') TO ('2025-01-01 UTC');
INSERT INTO app.part_usage VALUES ('p1', 'ann', 5, '2024-03-01 UTC'), ('p1', 'ann', 6, '2024-03-01 UTC');
INSERT INTO app.users VALUES ('ann'), ('bob'), ('cid');
CREATE EXTENSION token_balance;
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows') \g /dev/null
SQL
[ "$(value 'SELECT count(*) FROM token_balance.binding')" = 1 ] || { echo 'not attached'; exit 1; }
psql -d "$db" <<'SQL'
INSERT INTO app.token_usage SELECT w, u, 'large', s, 40, 10, 50, '2024-03-01 UTC'
FROM unnest('{old1,old2}'::text[]) AS w, unnest('{ann,bob}'::text[]) AS u, unnest('{draft,draft,check}'::text[]) AS s;
INSERT INTO app.workflows VALUES ('old1', 'ann', 'running', '2024-03-02 UTC'), ('old2', 'ann', 'running', '2024-03-03 UTC');
UPDATE app.workflows SET status = 'completed' WHERE id = 'old1';
UPDATE app.workflows SET status = 'completed' WHERE id = 'old2';
SELECT token_balance.credit('ann', 1000, 'pay-1', 'card') \g /dev/null
-- of long ago
ALTER TABLE token_balance.ledger DISABLE TRIGGER USER;
UPDATE token_balance.ledger SET created_at = '2024-03-02 UTC'::timestamptz + interval '1 s' * entry_id;
ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER owner_only, ENABLE ALWAYS TRIGGER append_only_rows, ENABLE ALWAYS TRIGGER append_only_truncate;
INSERT INTO app.token_usage (workflow_id, user_id, model, total_tokens) VALUES ('new1', 'ann', 'large', 70), ('new2', 'cid', 'large', 1500000);
INSERT INTO app.workflows VALUES ('new1', 'ann', 'completed', now()), ('new2', 'cid', 'completed', now());
INSERT INTO app.token_usage (workflow_id, user_id, model, total_tokens) VALUES ('new1', 'ann', 'large', 7);
SQL

tidy() { sed -e 's/[[:space:]]*$//' -e '/^$/d'; }
ran=0 compared=0
for block in "$WORK"/blocks/*.sql "$WORK"/blocks/*.sh; do echo "$block"; done | sort >"$WORK/order"
while read -r block; do
    name=$(basename "$block")
    case $block in
    *.sql) run=(psql -d "$db" -P footer=off -P null= -f "$block") ;;
    *.sh) run=(env PGDATABASE="$db" bash -euo pipefail -c "cd '$WORK' && . '$block'") ;;
    esac
    if ! "${run[@]}" >"${block%.*}.out" 2>"${block%.*}.err" </dev/null; then
        echo "FAILED: $name"
        cat "$block" "${block%.*}.err"
        exit 1
    fi
    ran=$((ran + 1))
    text=${block%.*}.text
    [ -e "$text" ] || continue
    compared=$((compared + 1))
    if diff -u --label operations.md --label psql <(tidy <"$text") <(tidy <"${block%.*}.out"); then
        echo "ok: the output of $name"
    else
        echo "FAILED: the output of $name is not what the page shows"
        failed=1
    fi
done <"$WORK/order"
[ "$ran" -ge 14 ] && [ "$compared" -ge 4 ] || { echo "only $ran blocks run, $compared outputs compared"; exit 1; }

# What the page says beside its commands.
is 'late usage is charged after the usage was archived' "$(value "INSERT INTO app.token_usage (workflow_id, user_id, total_tokens) VALUES ('old1', 'bob', 3); SELECT settle_workflow('old1') -> 'tokens_used'")" 3
is 'a partition that is gone is noted' "$(value "SELECT row_count, tokens FROM token_balance.archived WHERE archive = 'app.part_usage_2024'")" '2|11'
is 'the restored database agrees with its ledger' "$(psql -At -d shop_restored -c 'SELECT count(*) FROM token_balance.reconcile()')" 0
is 'a dump carries no storage settings of the extension' "$(psql -At -d shop_restored -c "SELECT count(*) FROM pg_class WHERE relnamespace = 'token_balance'::regnamespace AND reloptions IS NOT NULL")" 0
is 'but those of users' "$(psql -At -d shop_restored -c "SELECT reloptions FROM pg_class WHERE oid = 'app.users'::regclass")" '{fillfactor=90,autovacuum_vacuum_scale_factor=0.05}'
is 'the archive can be asked' "$(value "SELECT count(*) FROM app.ledger_archive_2024")" 5
is 'the archived time is refused' "$(value "SELECT token_balance.balance_at('ann', '2024-01-05')" 2>&1 | grep -c 'does not reach back')" 1
value 'CREATE ROLE tb_operations_monitor LOGIN IN ROLE token_monitor'
for query in 'SELECT count(*) FROM token_balance.verify()' 'SELECT count(*) FROM token_balance.reconcile()' 'SELECT count(*) FROM token_balance.overdrawn' \
    'SELECT count(*) FROM token_balance.ledger'; do
    is "the monitoring role: $query" "$(psql -At -d "$db" -U tb_operations_monitor -c "$query" >/dev/null 2>&1 && echo answered)" answered
done
is 'the monitoring role changes nothing' "$(psql -At -d "$db" -U tb_operations_monitor -c "SELECT settle_workflow('new1')" 2>&1 | grep -c 'permission denied')" 1
# The warnings of the page are those of the extension.
warnings=$(psql -d "$db" 2>&1 <<'SQL'
INSERT INTO app.token_usage (workflow_id, user_id, total_tokens) VALUES ('bad1', 'zoe', 1), ('bad2', 'bob', 2000000000), ('bad2', 'bob', 2000000000);
INSERT INTO app.workflows VALUES ('bad1', 'zoe', 'completed'), ('bad2', 'bob', 'completed');
SQL
)
# shellcheck disable=SC2016 # the page has backticks
while read -r message; do
    pattern=${message//…/.*}
    is "in the page: $message" "$(grep -c "WARNING:  $pattern" <<<"$warnings")" 1
done < <(sed -nE 's/^\| (23503|22003) \| `(usage of|charge of)([^`]*)` \|.*/\2\3/p' "$page")
is 'both bad charges are on the page' "$(grep -cE '^\| (23503|22003) \| `(usage|charge) of' "$page")" 2
exit "$failed"
