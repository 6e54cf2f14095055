#!/usr/bin/env bash
# A physical standby, streaming: everything that reads works there and answers as the primary does; everything that
# writes gets the server's own error. After its promotion settling goes on, and the ledger's chain is whole.
# (DESIGN D12)
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/invariants.sh"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/primary_and_standby.sh"
value() { psql -At -p "$1" -c "$2"; }
sqlstate() { # PORT SQL: the SQLSTATE of its error, or what it answered
    psql -At -p "$1" -v VERBOSITY=sqlstate -c "$2" 2>&1 | sed 's/^ERROR:  //'
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
catch_up() {
    local lsn
    lsn=$(value $primary 'SELECT pg_current_wal_flush_lsn()')
    for _ in $(seq 300); do
        [ "$(value $standby "SELECT pg_last_wal_replay_lsn() >= '$lsn'")" = t ] && return
        sleep 0.1
    done
    echo 'the standby does not catch up'
    exit 1
}

start_primary 'max_wal_senders = 4'
psql -p $primary 2>/dev/null <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer, model text, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON token_usage (user_id, created_at);
INSERT INTO users SELECT 'u' || g FROM generate_series(1, 20) AS g;
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO workflows SELECT 'w' || g, 'u' || g % 20 + 1, 'running' FROM generate_series(1, 400) AS g;
INSERT INTO token_usage SELECT id, user_id, 10 + length(id), 'large' FROM workflows;
UPDATE workflows SET status = 'completed' WHERE id < 'w2';
SQL
see_ledger -p $primary
start_standby

echo '-- what the primary does after the copy was taken comes over'
psql -p $primary >/dev/null <<'SQL'
UPDATE workflows SET status = 'completed' WHERE id LIKE 'w2%';
SELECT settle_workflow('w30');
SELECT token_balance.credit('u1', 500, 'payment-1');
SELECT token_balance.refund_workflow('w30', 5, 'ticket-1');
UPDATE users SET token_balance = -7 WHERE id = 'u9';
INSERT INTO token_usage VALUES ('w1', 'u2', 1000, 'small');
SQL
catch_up
is 'the standby is in recovery and streams' "$(value $standby 'SELECT pg_is_in_recovery()')$(value $primary 'SELECT state FROM pg_stat_replication')" tstreaming
answers() { # WHAT QUERY: the same on both, and not empty
    local got
    got=$(sqlstate $standby "$2")
    is "$1 answers as on the primary" "$got" "$(sqlstate $primary "$2")"
    [[ -n $got && ! $got =~ ^[0-9A-Z]{5}$ ]] || { echo "FAILED: $1 answers nothing but '$got'"; failed=1; }
}
answers 'balance()' "SELECT jsonb_agg(token_balance.balance(id) ORDER BY id) FROM users"
answers 'summary()' "SELECT md5(token_balance.summary('u2')::text), token_balance.summary('u2') -> 'summary'"
answers 'statement()' "SELECT md5(string_agg(s::text, '|')), count(*) FROM users, LATERAL token_balance.statement(id) AS s WHERE id < 'u2'"
answers 'balance_at()' "SELECT token_balance.balance_at('u1', now()), token_balance.balance_at('u1', now() - interval '1 day')"
answers 'verify()' "SELECT count(*), count(*) FILTER (WHERE NOT ok) FROM token_balance.verify()"
answers 'reconcile()' 'SELECT problem, user_id, workflow_id, expected, found FROM token_balance.reconcile()'
answers 'overdrawn' 'SELECT * FROM token_balance.overdrawn'
answers 'overdrawn_accounts()' 'SELECT * FROM token_balance.overdrawn_accounts()'
is 'reconcile() there sees the late usage' "$(value $standby 'SELECT problem, workflow_id, expected, found FROM token_balance.reconcile()')" 'unsettled usage|w1|1012|12'

echo '-- what writes: 25006, the error of the server'
refused() { is "$1 is refused" "$(sqlstate $standby "$2")" 25006; }
refused 'settle_workflow' "SELECT settle_workflow('w31')"
refused 'settle_workflow of late usage' "SELECT settle_workflow('w1')"
refused 'settle_workflow of what is settled' "SELECT settle_workflow('w2')"
refused 'settle_workflows' "SELECT * FROM token_balance.settle_workflows('{w31,w32}')"
refused 'settle_pending' 'SELECT token_balance.settle_pending()'
refused 'settle_backlog' 'CALL token_balance.settle_backlog()'
refused 'credit' "SELECT token_balance.credit('u1', 5)"
refused 'refund_workflow' "SELECT token_balance.refund_workflow('w30')"
refused 'detach' 'SELECT token_balance.detach()'
refused 'attach, with a binding' "SELECT token_balance.attach('users', 'token_usage', 'workflows')"
refused 'a completion' "UPDATE workflows SET status = 'completed' WHERE id = 'w31'"
refused 'a change by hand' "UPDATE users SET token_balance = 0"
is 'its message is in the server'\''s words' "$(psql -p $standby -c "SELECT settle_workflow('w31')" 2>&1 | head -n 1)" \
    'ERROR:  cannot execute settle_workflow() in a read-only transaction'
# one session: errors between reads
is 'the session goes on' "$("$PG_BIN/psql" -X -q -At -p $standby -c "SELECT settle_workflow('w31')" -c "SELECT token_balance.balance('u9') ->> 'token_balance'" \
    -c "SELECT token_balance.credit('u9', 1)" -c "SELECT token_balance.balance('u9') ->> 'token_balance'" 2>/dev/null | tr '\n' ' ')" '-7 -7 '

echo '-- the primary is lost, the standby promoted'
see_ledger -p $primary
digest="SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (SELECT l::text FROM token_balance.ledger l UNION ALL SELECT s::text FROM token_balance.settlement s UNION ALL SELECT u::text FROM users u) t (x)"
catch_up
before=$(value $primary "$digest")
stop primary immediate
"$PG_BIN/pg_ctl" -D "$WORK/standby" -w promote >/dev/null
is 'nothing is lost' "$(value $standby "$digest")" "$before"
is 'settled stays settled' "$(value $standby "SELECT settle_workflow('w30') ->> 'status'")" already_settled
is 'credited stays credited' "$(value $standby "SELECT token_balance.credit('u1', 500, 'payment-1') ->> 'replayed'")" true
is 'late usage is charged' "$(value $standby "SELECT settle_workflow('w1') ->> 'tokens_used'")" 1000
psql -p $standby >/dev/null -c "UPDATE workflows SET status = 'completed'" -c "SELECT token_balance.refund_workflow('w31', 1)"
is 'the entry is the next one of its account' "$(value $standby "SELECT bool_and(entry_id = (SELECT count(*) FROM token_balance.ledger AS o WHERE o.user_id = l.user_id AND o.entry_id <= l.entry_id)) FROM token_balance.ledger AS l WHERE workflow_id = 'w31'")" t
is 'all usage charged once' "$(value $standby 'SELECT sum(total_tokens) - (SELECT sum(charged_tokens) FROM token_balance.settlement) FROM token_usage')" 0
is 'what breaks an invariant' "$(what_breaks -p $standby)" nothing
is 'verify() finds nothing' "$(value $standby "SELECT coalesce(string_agg(name, ', '), '') FROM token_balance.verify() WHERE NOT ok")" ''
is 'no internal error in the servers'\'' logs' "$(cat "$WORK/primary.log" "$WORK/standby.log" | grep -cE 'PANIC|panicked|XX000|TRAP')" 0
exit "$failed"
