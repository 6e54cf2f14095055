#!/usr/bin/env bash
# A dump, plain and custom, into a new database: the binding verifies, the ledger's chain is whole and goes on, triggers and functions work, and the application's own role can call what it could before.
# (DESIGN B16, B25, D10, D11, D12, S12, V47, V54)
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}"
maintenance=${PGDATABASE:-postgres}
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
value() { psql -At -d "$1" -c "$2"; }
drop_all() {
    for db in tb_source tb_plain tb_custom tb_jobs tb_schema tb_late tb_structure tb_view tb_view_again; do psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" 2>/dev/null; done
    psql -d "$maintenance" -c "DROP ROLE IF EXISTS regress_tb_dump_owner" -c "DROP ROLE IF EXISTS regress_tb_dump_app" 2>/dev/null
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}

drop_all
trap drop_all EXIT
psql -d "$maintenance" -c 'CREATE ROLE regress_tb_dump_owner' -c 'CREATE ROLE regress_tb_dump_app' -c 'CREATE DATABASE tb_source'

# The application's tables belong to a role that is no superuser. Twice the same, bound in two ways:
# by the convention of CREATE EXTENSION here; the attach of the superuser follows below.
psql -d tb_source >/dev/null <<'SQL'
SET client_min_messages = warning;
CREATE SCHEMA app AUTHORIZATION regress_tb_dump_owner;
GRANT USAGE ON SCHEMA app TO regress_tb_dump_app;
SET ROLE regress_tb_dump_owner;
CREATE TABLE app.users (id text PRIMARY KEY);
-- A column that was dropped: a restore gives those after it other numbers.
CREATE TABLE app.token_usage (junk text, workflow_id text, user_id text, total_tokens integer);
ALTER TABLE app.token_usage DROP junk;
CREATE INDEX ON app.token_usage (workflow_id) INCLUDE (user_id, total_tokens);
CREATE INDEX ON app.token_usage (user_id);
CREATE TABLE app.workflows (id text PRIMARY KEY, user_id text, status text);
GRANT SELECT, INSERT, UPDATE ON app.workflows, app.token_usage TO regress_tb_dump_app;
INSERT INTO app.users SELECT 'u' || i FROM generate_series(1, 20) i;
INSERT INTO app.token_usage VALUES ('old', 'u1', 1000);
RESET ROLE;
CREATE EXTENSION token_balance SCHEMA app;
GRANT EXECUTE ON FUNCTION app.settle_workflow(text) TO regress_tb_dump_app;
INSERT INTO app.workflows SELECT 'w' || i, 'u' || i % 20 + 1, 'running' FROM generate_series(1, 300) i;
INSERT INTO app.token_usage SELECT id, user_id, length(id) * 7 FROM app.workflows;
UPDATE app.workflows SET status = 'completed' WHERE id < 'w15';
SELECT token_balance.credit('u1', 5, 'paid') IS NULL;
INSERT INTO app.token_usage VALUES ('gone', 'u3', 30);
INSERT INTO app.workflows VALUES ('gone', 'u3', 'completed');
CREATE TABLE app.archive (LIKE token_balance.ledger);
SELECT token_balance.archive_ledger(clock_timestamp(), 'app.archive') IS NULL;
DELETE FROM app.token_usage WHERE workflow_id = 'gone';
UPDATE token_balance.settlement SET archived_usage_tokens = 30 WHERE workflow_id = 'gone';
CREATE TABLE app.ended (LIKE token_balance.settlement);
SELECT token_balance.archive_settlements(clock_timestamp(), 'app.ended') IS NULL;
UPDATE app.workflows SET status = 'completed' WHERE id < 'w2';
UPDATE app.users SET token_balance = token_balance + 11 WHERE id < 'u2';
SQL
is 'source: bound' "$(value tb_source 'SELECT count(*) FROM token_balance.binding')" 1

broken="SELECT count(*) FROM (SELECT *, lag(new_balance) OVER (PARTITION BY user_id ORDER BY entry_id) AS before FROM token_balance.ledger) e WHERE amount <> new_balance - previous_balance OR before <> previous_balance"
off="SELECT count(*) FROM app.users u WHERE token_balance <> (SELECT new_balance FROM token_balance.ledger l WHERE l.user_id = u.id ORDER BY entry_id DESC LIMIT 1)"
digest="SELECT md5(string_agg(x, '|' ORDER BY x)) FROM (SELECT 'l' || l::text FROM token_balance.ledger l UNION ALL SELECT 'r' || r::text FROM token_balance.reference r UNION ALL SELECT 'b' || to_jsonb(b)::text FROM token_balance.binding b UNION ALL SELECT 's' || s::text FROM token_balance.settlement s UNION ALL SELECT 'a' || a::text FROM token_balance.archived a UNION ALL SELECT 'u' || u::text FROM app.users u UNION ALL SELECT 'w' || w::text FROM app.workflows w) t (x)"
before=$(value tb_source "$digest")
echo "source: $(value tb_source 'SELECT count(*) FROM token_balance.ledger') ledger entries"

check() { # DATABASE
    local db=$1
    is "$db: ledger, settlements, balances and workflows are the same" "$(value "$db" "$digest")" "$before"
    is "$db: the numbers of columns are those of the source alone" "$(value "$db" 'SELECT count(*) FROM token_balance.bound_column')" 0
    is "$db: still bound" "$(value "$db" "SELECT count(*) FROM token_balance.binding")" 1
    if [ "$db" = tb_late ]; then
        # DISABLE TRIGGER ALL and ENABLE TRIGGER ALL, which pg_restore wraps around the data, make an origin trigger of
        # one that fired always. verify() must see that, and its hint must repair it.
        is "$db: verify() sees that the ledger is less guarded" "$(value "$db" 'SELECT name FROM token_balance.verify() WHERE NOT ok')" 'ledger guard'
        value "$db" "$(value "$db" 'SELECT hint FROM token_balance.verify() WHERE NOT ok')"
    fi
    is "$db: verify() finds nothing" "$(value "$db" "SELECT coalesce(string_agg(name || ': ' || coalesce(detail, ''), ', '), '') FROM token_balance.verify() WHERE NOT ok")" ''
    is "$db: chain whole" "$(value "$db" "$broken")" 0
    # what was settled stays settled; the exempt stays exempt
    is "$db: settled stays settled" "$(value "$db" "SELECT app.settle_workflow('w1') ->> 'status'")" already_settled
    is "$db: exempt stays exempt" "$(value "$db" "SELECT app.settle_workflow('old') ->> 'tokens_used'")" 0
    is "$db: so does what is archived" "$(value "$db" "SELECT app.settle_workflow('w14') ->> 'status', token_balance.credit('u1', 5, 'paid') -> 'replayed'")" 'already_settled|true'
    is "$db: a settlement that has ended comes back for a refund" "$(value "$db" "SELECT token_balance.refund_workflow('gone', 4, archive => 'app.ended') ->> 'amount'")" 4
    is "$db: settlements agree with ledger and archive" "$(value "$db" "SELECT string_agg(problem, ', ') FROM token_balance.reconcile() WHERE problem LIKE 'settlement%'")" ''
    is "$db: only updates that name the status are looked at" "$(value "$db" "SELECT pg_get_triggerdef(oid) LIKE '% UPDATE OF status ON %' FROM pg_trigger WHERE tgname = 'token_balance_completed_update'")" t
    # a completion by the application's role: the trigger fires
    value "$db" "SET ROLE regress_tb_dump_app; UPDATE app.workflows SET status = 'completed' WHERE id = 'w2'"
    is "$db: trigger charges" "$(value "$db" "SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'w2'")" 14
    is "$db: an entry is the next one of its account" "$(value "$db" "SELECT min(entry_id) = max(before) + 1 FROM (SELECT entry_id, lag(entry_id) OVER (PARTITION BY user_id ORDER BY entry_id) AS before, workflow_id FROM token_balance.ledger) AS l WHERE workflow_id = 'w2'")" t
    # the owner's grants (made by attach) and the application's (made by hand) are there
    is "$db: the owner calls settle_workflow" "$(value "$db" "SET ROLE regress_tb_dump_owner; SELECT app.settle_workflow('w20') ->> 'status'")" settled
    is "$db: the owner calls balance" "$(value "$db" "SET ROLE regress_tb_dump_owner; SELECT token_balance.balance('u1') ->> 'is_overdraft'")" false
    is "$db: the owner calls settle_workflows" "$(value "$db" "SET ROLE regress_tb_dump_owner; SELECT count(*) FROM token_balance.settle_workflows('{w21,w22}')")" 2
    is "$db: the application calls settle_workflow" "$(value "$db" "SET ROLE regress_tb_dump_app; SELECT app.settle_workflow('w23') ->> 'status'")" settled
    # these stand in the conditions of the triggers on the workflow table
    is "$db: nobody else does" "$(value "$db" "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE (n.nspname = 'token_balance' OR p.proname = 'settle_workflow') AND p.proname NOT IN ('note_completion', 'note_status', 'note_usual_status', 'note_update', 'exact_numeric', 'usage_sums') AND a.grantee = 0")" 0
    # a change by hand, and the rest
    value "$db" "UPDATE app.users SET token_balance = token_balance + 1; UPDATE app.workflows SET status = 'done'"
    is "$db: all usage charged once" "$(value "$db" "SELECT sum(total_tokens) - (SELECT sum(charged_tokens - archived_usage_tokens) FROM token_balance.settlement) FROM app.token_usage WHERE workflow_id <> 'old'")" 0
    is "$db: chain whole after all that" "$(value "$db" "$broken")" 0
    is "$db: each column is its chain's end" "$(value "$db" "$off")" 0
    is "$db: the ledger still refuses" "$(psql -At -d "$db" -c 'DELETE FROM token_balance.ledger' >/dev/null 2>&1 && echo deleted || echo refused)" refused
    # and the members are members still: a dump of the restored one restores again
    is "$db: dumps again" "$("$PG_BIN/pg_dump" -d "$db" >/dev/null && echo yes)" yes
}

for db in tb_plain tb_custom tb_jobs tb_late; do psql -d "$maintenance" -c "CREATE DATABASE $db"; done

echo '-- pg_dump | psql'
"$PG_BIN/pg_dump" -d tb_source -f "$WORK/plain.sql"
psql -d tb_plain -f "$WORK/plain.sql" >/dev/null
check tb_plain

echo '-- pg_dump -Fc | pg_restore'
"$PG_BIN/pg_dump" -d tb_source -Fc -f "$WORK/custom.dump"
"$PG_BIN/pg_restore" --exit-on-error -d tb_custom "$WORK/custom.dump"
check tb_custom

echo '-- pg_restore -j 2'
"$PG_BIN/pg_restore" --exit-on-error -j 2 -d tb_jobs "$WORK/custom.dump"
check tb_jobs

echo '-- a data-only restore over a schema-only one, with --disable-triggers'
"$PG_BIN/pg_restore" --exit-on-error --schema-only -d tb_late "$WORK/custom.dump"
"$PG_BIN/pg_restore" --exit-on-error --data-only --disable-triggers -d tb_late "$WORK/custom.dump"
check tb_late

echo '-- a second dump, of a restored database whose binding was made by attach'
psql -d tb_source >/dev/null <<'SQL'
SET client_min_messages = warning;
SELECT token_balance.detach();
GRANT USAGE ON SCHEMA token_balance TO regress_tb_dump_owner;
GRANT EXECUTE ON FUNCTION token_balance.attach, token_balance.detach TO regress_tb_dump_owner;
SET ROLE regress_tb_dump_owner;
SELECT token_balance.attach('app.users', 'app.token_usage', 'app.workflows', existing_usage => 'charge');
SQL
before=$(value tb_source "$digest")
psql -d "$maintenance" -c 'CREATE DATABASE tb_schema'
"$PG_BIN/pg_dump" -d tb_source | psql -d tb_schema >/dev/null
check tb_schema

echo '-- the structure alone, with the binding, as docs/recipes.md has it'
psql -d "$maintenance" -c 'CREATE DATABASE tb_structure'
{
    "$PG_BIN/pg_dump" -d tb_source --schema-only
    "$PG_BIN/pg_dump" -d tb_source --data-only --table=token_balance.binding
} | psql -d tb_structure >/dev/null
psql -d tb_structure <<'SQL'
INSERT INTO app.users VALUES ('u1');
INSERT INTO app.workflows VALUES ('w1', 'u1', 'running');
INSERT INTO app.token_usage VALUES ('w1', 'u1', 7);
UPDATE app.workflows SET status = 'completed';
SQL
is 'tb_structure: verify() finds nothing' "$(value tb_structure 'SELECT name, detail FROM token_balance.verify() WHERE NOT ok')" ''
is 'tb_structure: a run is charged' "$(value tb_structure 'SELECT token_balance FROM app.users')" 999993
is 'tb_structure: reconcile() finds nothing' "$(value tb_structure 'SELECT * FROM token_balance.reconcile()')" ''

echo '-- names count until the next attach'
value tb_plain 'SELECT token_balance.attach_again()' >/dev/null
value tb_plain 'ALTER TABLE app.token_usage RENAME total_tokens TO tokens; ALTER TABLE app.token_usage ADD total_tokens integer DEFAULT 1000000'
value tb_plain "INSERT INTO app.workflows VALUES ('more', 'u1', 'running'); INSERT INTO app.token_usage (workflow_id, user_id, tokens) VALUES ('more', 'u1', 3); UPDATE app.workflows SET status = 'completed' WHERE id = 'more'"
is 'tb_plain: a renamed column is read' "$(value tb_plain "SELECT charged_tokens FROM token_balance.settlement WHERE workflow_id = 'more'")" 3

echo '-- usage from a view: a restore gives its tables other OIDs, and it is the same one'
psql -d "$maintenance" -c 'CREATE DATABASE tb_view' -c 'CREATE DATABASE tb_view_again'
psql -d tb_view >/dev/null <<'SQL'
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE TABLE app.users (id text PRIMARY KEY);
CREATE TABLE app.calls (junk text, run text, account text, usage jsonb);
ALTER TABLE app.calls DROP junk;
CREATE INDEX ON app.calls (run);
CREATE TABLE app.workflows (id text PRIMARY KEY, status text);
CREATE VIEW app.of_users AS SELECT run, account, usage FROM app.calls WHERE account LIKE 'u%';
CREATE VIEW app.usage AS SELECT c.run AS workflow_id, c.account AS user_id, (c.usage ->> 'tokens')::integer AS total_tokens FROM app.of_users AS c;
CREATE EXTENSION token_balance SCHEMA app;
SELECT token_balance.attach('app.users', 'app.usage', 'app.workflows');
INSERT INTO app.users VALUES ('u1');
INSERT INTO app.workflows VALUES ('w1', 'done'), ('w2', 'running');
INSERT INTO app.calls VALUES ('w1', 'u1', '{"tokens": 1}'), ('w2', 'u1', '{"tokens": 20}');
SELECT token_balance.settle_pending();
INSERT INTO app.calls VALUES ('w1', 'u1', '{"tokens": 300}');
SQL
"$PG_BIN/pg_dump" -d tb_view | psql -d tb_view_again >/dev/null
is 'tb_view_again: verify() finds nothing' "$(value tb_view_again 'SELECT name, detail FROM token_balance.verify() WHERE NOT ok')" ''
is 'tb_view_again: the sweep goes on' "$(value tb_view_again "SELECT token_balance.settle_pending() -> 'tokens_used'")" 300
value tb_view_again "UPDATE app.workflows SET status = 'done'"
is 'tb_view_again: a run is charged' "$(value tb_view_again 'SELECT token_balance FROM app.users')" 999679
value tb_view_again 'ALTER TABLE app.calls RENAME usage TO details'
is 'tb_view_again: a rename after it is told' "$(value tb_view_again 'SELECT hint FROM token_balance.verify() WHERE NOT ok')" 'SELECT token_balance.attach_again();'
value tb_view_again 'SELECT token_balance.attach_again()' >/dev/null 2>&1
value tb_view_again 'ALTER TABLE app.calls RENAME details TO usage'
is 'tb_view_again: once it is attached again, a rename is none of its business' "$(value tb_view_again 'SELECT hint FROM token_balance.verify() WHERE NOT ok')" ''

exit "$failed"
