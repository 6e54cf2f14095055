#!/usr/bin/env bash
# Boundaries: nothing, null, zero and negative usage; sums and balances at the very edge of their types and past it;
# a million usage rows, 10,000 accounts, ids of 1,000 and 10,000 characters; a statement that completes more workflows
# than the lock table would hold.
set -euo pipefail
: "${PG_BIN:?}"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/invariants.sh"
maintenance=${PGDATABASE:-postgres}
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() { psql -d "$maintenance" -c 'DROP DATABASE IF EXISTS tb_boundaries' 2>/dev/null; }
clean
trap clean EXIT
psql -d "$maintenance" -c 'CREATE DATABASE tb_boundaries'
export PGDATABASE=tb_boundaries
# Warnings are looked at where they are expected.
export PGOPTIONS='-c client_min_messages=error'
value() { psql -At -c "$1"; }
sqlstate() { psql -At -v VERBOSITY=sqlstate -c "$1" 2>&1 | sed 's/^ERROR:  //'; }
warnings() { PGOPTIONS='' psql -At -c "$1" 2>&1 | sed -n 's/^WARNING:  //p'; }
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '${2:0:400}', expected '${3:0:400}'"; failed=1; fi
}
holds() { is "$1: what breaks an invariant" "$(what_breaks)" nothing; }
tables() { # TYPE OF TOKENS, TYPE OF BALANCE
    psql <<SQL
DROP EXTENSION IF EXISTS token_balance CASCADE;
DROP TABLE IF EXISTS token_usage, workflows, users, seen_ledger;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens $1);
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
INSERT INTO users VALUES ('ann'), ('bob');
CREATE EXTENSION token_balance SCHEMA public;
ALTER TABLE users ALTER token_balance TYPE $2;
SQL
    see_ledger
}
use() { psql -c "INSERT INTO token_usage VALUES ('$1', '$2', $3)"; } # WORKFLOW ACCOUNT TOKENS
completed() { psql -At -c "INSERT INTO workflows VALUES ('$1', 'ann', 'completed')" -c "SELECT token_balance FROM users WHERE id = 'ann'"; }
settled() { value "SELECT (settle_workflow('$1') ->> 'tokens_used') || ' ' || (settle_workflow('$1') ->> 'status')"; }

echo '-- nothing, null, zero, negative'
tables integer integer
is 'a workflow without usage completes and costs nothing' "$(completed empty)" 1000000
is 'it has no usage' "$(settled empty)" '0 no_usage'
is 'the null id is an error' "$(sqlstate 'SELECT settle_workflow(NULL::text)')" 22004
is 'the empty id is one like any other: unknown here' "$(sqlstate "SELECT settle_workflow('')")" P0002
use '' ann 7
is 'and known with usage' "$(settled '')" '7 already_settled'
use void ann NULL
use void ann 0
is 'null and zero tokens cost nothing' "$(settled void)" '0 already_settled'
is 'nor does the completion' "$(completed void)" 999993
psql -c "INSERT INTO token_usage VALUES ('nobody', NULL, 50)"
is 'usage without an account is nobody'\''s' "$(settled nobody)" '0 already_settled'
use minus ann -50
is 'a negative sum charges and gives nothing' "$(completed minus)" 999993
use minus ann 50
is 'nor does one of zero' "$(settled minus)" '0 already_settled'
use minus ann 3
is 'what takes it above zero is charged' "$(settled minus)" '3 already_settled'
use minus ann -2
is 'a sum that shrank gives nothing back' "$(settled minus)" '0 already_settled'
is 'and is reported' "$(value 'SELECT problem, workflow_id, expected, found FROM token_balance.reconcile()')" 'usage shrank|minus|3|1'
use minus ann 4
is 'later usage is charged as far as it takes the sum above' "$(settled minus)" '2 already_settled'
holds 'nothing, null, zero, negative'

echo '-- the very edge of integer'
psql -c "UPDATE users SET token_balance = -2147483600"
use deep ann 48
is 'a charge to the smallest integer' "$(completed deep)" -2147483648
use deeper ann 1
is 'one more: 22003 in the function' "$(sqlstate "SELECT settle_workflow('deeper')")" 22003
is 'a warning in the trigger' "$(warnings "INSERT INTO workflows VALUES ('deeper', 'ann', 'completed')")" \
    'charge of workflow "deeper" is out of range for the balance of account "ann"'
is 'where the row is completed' "$(value "SELECT status FROM workflows WHERE id = 'deeper'")" completed
is 'and the usage left' "$(value 'SELECT problem, workflow_id, expected, found FROM token_balance.reconcile()')" 'unsettled usage|deeper|1|0'
is 'that a refund of another makes room for' "$(value "SELECT token_balance.refund_workflow('deep', 1) ->> 'success'") $(settled deeper)" 'true 1 already_settled'
psql -c "UPDATE users SET token_balance = 2147483600"
is 'a credit to the largest integer' "$(value "SELECT token_balance.credit('ann', 47) ->> 'new_balance'")" 2147483647
is 'one more is 22003' "$(sqlstate "SELECT token_balance.credit('ann', 1)")" 22003
is 'so is a refund' "$(sqlstate "SELECT token_balance.refund_workflow('deep', 1)")" 22003
is 'from one end to the other by hand' "$(value "UPDATE users SET token_balance = -2147483648; SELECT amount FROM token_balance.ledger WHERE user_id = 'ann' ORDER BY entry_id DESC LIMIT 1")" -4294967295
holds 'integer'

echo '-- the very edge of bigint'
tables bigint bigint
psql -c "UPDATE users SET token_balance = 0"
use most ann 9223372036854775807
is 'a charge of the largest bigint' "$(completed most)" -9223372036854775807
use one ann 1
is 'to the smallest bigint' "$(settled one)" '1 already_settled'
is 'read by balance()' "$(value "SELECT token_balance.balance('ann')")" '{"is_overdraft": true, "token_balance": -9223372036854775808}'
use most ann 1
is 'a sum past bigint: 22003 in the function' "$(sqlstate "SELECT settle_workflow('most')")" 22003
is 'a refund of all of it' "$(value "SELECT token_balance.refund_workflow('most') ->> 'amount'")" 9223372036854775807
is 'the sum past bigint still is' "$(sqlstate "SELECT settle_workflow('most')")" 22003
psql -c "DELETE FROM token_usage WHERE workflow_id = 'most' AND total_tokens = 1"
for _ in 1 2 3; do use many ann 9223372036854775807; done
use many bob 5
is 'three times the largest: 22003 in the function' "$(sqlstate "SELECT settle_workflow('many')")" 22003
is 'and nobody is charged' "$(value "SELECT token_balance FROM users WHERE id = 'bob'")" 0
is 'a warning in the trigger' "$(warnings "INSERT INTO workflows VALUES ('many', 'ann', 'completed')")" \
    'charge of workflow "many" is out of range for the balance of account "ann"'
is 'and the other account pays' "$(value "SELECT status, token_balance FROM workflows AS w, users AS u WHERE w.id = 'many' AND u.id = 'bob'")" 'completed|-5'
is 'the rest is reported exactly' "$(value 'SELECT problem, workflow_id, expected, found FROM token_balance.reconcile()')" 'unsettled usage|many|27670116110564327421|0'
is 'a sweep warns and goes on' "$(warnings 'SELECT token_balance.settle_pending()' | head -n 1)" 'charge of workflow "many" is out of range for the balance of account "ann"'
psql -c "DELETE FROM token_usage WHERE workflow_id = 'many' AND user_id = 'ann'"
psql -c "UPDATE users SET token_balance = 9223372036854775800 WHERE id = 'bob'"
is 'a credit to the largest bigint' "$(value "SELECT token_balance.credit('bob', 7) ->> 'new_balance'")" 9223372036854775807
is 'one more is 22003' "$(sqlstate "SELECT token_balance.credit('bob', 1)")" 22003
is 'a credit past bigint is 22003' "$(sqlstate "SELECT token_balance.credit('bob', 9223372036854775808)")" 22003
is 'so is a refund past it' "$(sqlstate "SELECT token_balance.refund_workflow('most', 9223372036854775808)")" 22003
is 'from one end to the other by hand is past the ledger'\''s bigint: 22003' "$(sqlstate "UPDATE users SET token_balance = -9223372036854775808 WHERE id = 'bob'")" 22003
is 'an amount of the smallest bigint is none' "$(sqlstate "SELECT token_balance.credit('bob', -9223372036854775808)")" 22023
holds 'bigint'

echo '-- 10,000 accounts in one workflow'
tables integer integer
psql <<'SQL'
INSERT INTO users SELECT 'u' || g FROM generate_series(1, 10000) AS g;
INSERT INTO token_usage SELECT 'wide', 'u' || g, g % 100 FROM generate_series(1, 10000) AS g, generate_series(1, 2);
SQL
begun=$(date +%s%N)
is 'the completion charges each' "$(value "INSERT INTO workflows VALUES ('wide', NULL, 'completed'); SELECT count(*), sum(1000000 - token_balance) FROM users")" '10002|990000'
echo "took $((($(date +%s%N) - begun) / 1000000)) ms"
use wide u1 1
use wide u10000 1
is 'a late one is charged to those whom it names' "$(value "SELECT jsonb_agg(c -> 'user_id') FROM jsonb_array_elements(settle_workflow('wide') -> 'charges') AS c")" '["u1", "u10000"]'
is 'a refund gives each its share back' "$(value "SELECT jsonb_array_length(token_balance.refund_workflow('wide') -> 'refunds'), (SELECT sum(1000000 - token_balance) FROM users)")" '9901|990002'
is 'all of it' "$(value 'SELECT sum(1000000 - token_balance) FROM users')" 0
holds '10,000 accounts'

echo '-- a workflow with 1,000,000 usage rows'
psql -c "INSERT INTO token_usage SELECT 'long', CASE g % 4 WHEN 0 THEN 'ann' ELSE 'bob' END, g % 7 FROM generate_series(1, 1000000) AS g"
begun=$(date +%s%N)
psql -c "INSERT INTO workflows VALUES ('long', 'ann', 'completed')"
echo "took $((($(date +%s%N) - begun) / 1000000)) ms"
is 'each account pays its part' "$(value "SELECT sum(total_tokens) FILTER (WHERE user_id = 'ann') - (SELECT 1000000 - token_balance FROM users WHERE id = 'ann'),
    sum(total_tokens) FILTER (WHERE user_id = 'bob') - (SELECT 1000000 - token_balance FROM users WHERE id = 'bob') FROM token_usage WHERE workflow_id = 'long'")" '0|0'
is 'and pays once' "$(settled long)" '0 already_settled'
holds '1,000,000 usage rows'

echo '-- long ids'
tables integer integer
psql -c 'ALTER TABLE workflows DROP CONSTRAINT workflows_pkey' -c 'DROP INDEX token_usage_workflow_id_user_id_total_tokens_idx' -c 'CREATE INDEX ON token_usage USING hash (workflow_id)'
# ids that no compression makes short: hexadecimal digits without a pattern
for id in \
    "1,000 characters|(SELECT substr(string_agg(md5(g::text), ''), 1, 1000) FROM generate_series(1, 40) AS g)" \
    "1,000 characters of two bytes|(SELECT translate(substr(string_agg(md5(g::text), ''), 1, 1000), '0123456789abcdef', 'абвгдежзийклмноп') FROM generate_series(41, 80) AS g)" \
    "10,000 characters|(SELECT repeat('0123456789', 1000))"; do
    what=${id%%|*} sql=${id#*|}
    psql -c "INSERT INTO users SELECT 'u' || $sql" -c "INSERT INTO token_usage SELECT 'w' || $sql, 'u' || $sql, 1000030"
    is "$what: a completion" "$(sqlstate "INSERT INTO workflows SELECT 'w' || $sql, NULL, 'completed'")" ''
    is "$what: the balance" "$(sqlstate "SELECT token_balance.balance('u' || $sql) ->> 'token_balance'")" -30
    is "$what: the answer names the id" "$(sqlstate "SELECT settle_workflow('w' || $sql) ->> 'workflow_id' = 'w' || $sql")" t
    is "$what: a refund, a credit" "$(sqlstate "SELECT token_balance.refund_workflow('w' || $sql, 20, repeat('r', 255)) ->> 'amount', token_balance.credit('u' || $sql, 20, 'c') ->> 'new_balance'")" '20|10'
    is "$what: the statement" "$(sqlstate "SELECT string_agg(amount::text, ' ') FROM token_balance.statement('u' || $sql)")" '-1000030 20 20'
    # the payload of a notification is limited to 8,000 bytes; an id that does not fit is left out
    "$PG_BIN/psql" -X -q -At -c 'LISTEN token_balance' -c "UPDATE users SET token_balance = -8 WHERE id = 'u' || $sql" >"${WORK:-/tmp}/notified" 2>&1 || true
    case $what in
    10,000*) expected='"user_id":null,"previous_balance":10,"token_balance":-8' ;;
    *) expected="\"user_id\":\"u$(value "SELECT $sql")\",\"previous_balance\":10,\"token_balance\":-8" ;;
    esac
    is "$what: the notification" "$(grep -cF "$expected" "${WORK:-/tmp}/notified")" 1
done
rm -f "${WORK:-/tmp}/notified"
is 'an unknown id of 10,000 characters' "$(sqlstate "SELECT settle_workflow(repeat('x', 10000))")" P0002
is 'overdrawn lists them' "$(value 'SELECT count(*) FROM token_balance.overdrawn')" 3
holds 'long ids'

echo '-- 20,000 workflows completed by one statement'
tables integer integer
psql <<'SQL'
INSERT INTO users SELECT 'u' || g FROM generate_series(0, 99) AS g;
INSERT INTO workflows SELECT 'w' || g, 'u' || g % 100, 'running' FROM generate_series(1, 20000) AS g;
INSERT INTO token_usage SELECT id, user_id, 5 FROM workflows;
SQL
echo "the lock table holds $(value "SELECT current_setting('max_locks_per_transaction')::bigint * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)")"
begun=$(date +%s%N)
is 'no error' "$(sqlstate "UPDATE workflows SET status = 'completed'")" ''
echo "took $((($(date +%s%N) - begun) / 1000000)) ms"
is 'each is charged once' "$(value 'SELECT count(*), sum(amount) FROM token_balance.ledger')" '20000|-100000'
holds '20,000 workflows'
echo '   and where the workflow'\''s row says who pays'
psql <<'SQL'
SELECT token_balance.detach() \g /dev/null
TRUNCATE workflows, token_usage;
ALTER TABLE token_usage DROP user_id;
CREATE INDEX ON token_usage (workflow_id) INCLUDE (total_tokens);
SELECT token_balance.attach('users', 'token_usage', 'workflows', usage_user => NULL) \g /dev/null
INSERT INTO workflows SELECT 'x' || g, 'u' || g % 100, 'running' FROM generate_series(1, 20000) AS g;
INSERT INTO token_usage SELECT id, 5 FROM workflows;
SQL
is 'no error' "$(sqlstate "UPDATE workflows SET status = 'completed'")" ''
is 'each is charged once' "$(value "SELECT count(*), sum(amount) FROM token_balance.ledger WHERE workflow_id LIKE 'x%'")" '20000|-100000'
exit "$failed"
