#!/usr/bin/env bash
# The queries of sql/examples, each as the role that its header asks for, on usage whose figures are known.
set -euo pipefail
: "${PG_BIN:?}" "${WORK:?}" "${PROJECT:?}"
maintenance=${PGDATABASE:-postgres}
db=tb_examples
examples=$PROJECT/sql/examples
psql() { "$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 "$@"; }
clean() {
    psql -d "$maintenance" -c "DROP DATABASE IF EXISTS $db" -c 'DROP ROLE IF EXISTS tb_examples_ledger, tb_examples_usage, tb_examples_prices' 2>/dev/null
}
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else printf 'FAILED: %s: got\n%s\nexpected\n%s\n' "$1" "$2" "$3"; failed=1; fi
}
clean
trap clean EXIT
psql -d "$maintenance" -c "CREATE DATABASE $db"

# Charges of known age: the ledger's guard is off while they are written, which only a superuser can do.
psql -d "$db" >/dev/null 2>&1 <<'SQL'
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, prompt_tokens integer, completion_tokens integer,
    total_tokens integer, model text, stage text, created_at timestamptz DEFAULT now());
CREATE TABLE workflows (id text PRIMARY KEY, user_id text, status text);
CREATE INDEX ON token_usage (workflow_id);
INSERT INTO users VALUES ('ann'), ('bob'), ('cat'), ('dan');
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO workflows VALUES ('w1', 'ann', 'running'), ('w2', 'ann', 'running'), ('w3', 'bob', 'running'),
    ('w4', 'cat', 'running'), ('w5', 'bob', 'running'), ('w6', 'cat', 'running'), ('w7', 'ann', 'running');
INSERT INTO token_usage VALUES
    ('w1', 'ann', 50000, 20000, 70000, 'large', 'draft', now() - interval '10 days'),
    ('w2', 'ann', 10000, 4000, 14000, 'small', 'draft', now() - interval '1 day'),
    ('w3', 'bob', 800000, 300000, 1100000, 'large', 'draft', now() - interval '2 days'),
    ('w4', 'cat', 500, 100, 600, NULL, NULL, now()),
    ('w5', 'bob', 4000, 1000, 5000, 'small', 'check', now()),
    ('w6', 'cat', 9000, 1000, 10000, 'large', 'draft', now() - interval '90 days'),
    ('w7', 'ann', 300, 100, 400, 'small', 'draft', now());
UPDATE workflows SET status = 'completed' WHERE id = 'w6';
UPDATE workflows SET status = 'completed' WHERE id = 'w1';
UPDATE workflows SET status = 'done' WHERE id = 'w3';
UPDATE workflows SET status = 'completed' WHERE id = 'w2';
UPDATE workflows SET status = 'completed' WHERE id IN ('w4', 'w5');
SELECT token_balance.credit('ann', 16000);
SELECT token_balance.refund_workflow('w4', 100);
BEGIN;
DO $$ DECLARE guard name; BEGIN
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger DISABLE TRIGGER %I', guard);
    END LOOP;
END $$;
UPDATE token_balance.ledger SET created_at = now() - CASE workflow_id WHEN 'w6' THEN interval '90 days'
    WHEN 'w1' THEN interval '10 days' WHEN 'w3' THEN interval '2 days' WHEN 'w2' THEN interval '1 day' ELSE '0' END;
DO $$ DECLARE guard name; BEGIN
    FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'token_balance.ledger'::regclass AND NOT tgisinternal LOOP
        EXECUTE format('ALTER TABLE token_balance.ledger ENABLE ALWAYS TRIGGER %I', guard);
    END LOOP;
END $$;
COMMIT;
CREATE ROLE tb_examples_ledger;
GRANT USAGE ON SCHEMA token_balance TO tb_examples_ledger;
GRANT SELECT ON users, token_balance.ledger, token_balance.overdrawn TO tb_examples_ledger;
GRANT EXECUTE ON FUNCTION token_balance.overdrawn_accounts TO tb_examples_ledger;
CREATE ROLE tb_examples_usage;
GRANT SELECT ON token_usage, workflows TO tb_examples_usage;
SQL

# run FILE ROLE: its rows, as the role of its header
run() { psql -At -d "$db" -c "SET ROLE tb_examples_$2" -f "$examples/$1.sql"; }

is 'balances are what the figures below say' \
    "$(psql -At -d "$db" -c "SELECT string_agg(id || ' ' || token_balance, ', ' ORDER BY id) FROM users")" \
    'ann 932000, bob -105000, cat 989500, dan 1000000'
# 1105000; 70000 + 14000, the credit is no refund; 600 - 100, and the charge of 90 days ago is not in it
is top_spenders "$(run top_spenders ledger)" 'bob|1105000|2|-105000
ann|84000|2|932000
cat|500|1|989500'
# bob: 1105000 in two days, overdrawn; ann: 14000 in the week, 2000 a day; cat: 500 in the week
# The seconds since the charges were made count, too: large rates are rounded to hundreds.
is burn_rate "$(run burn_rate ledger | awk -F '|' -v OFS='|' '$2 > 100000 { $2 = 100 * int($2 / 100 + 0.5) } 1')" 'bob|552500|-105000|0.0
ann|2000|932000|466.0
cat|71|989500|13853.0'
# w3 took bob across two days ago, w5 came after it
is overdrafts "$(run overdrafts ledger | cut -d '|' -f 1,2,4,5)" 'bob|-105000|w3|5000'
is 'overdrafts: since when' "$(run overdrafts ledger | cut -d '|' -f 3)" \
    "$(psql -At -d "$db" -c "SELECT created_at FROM token_balance.ledger WHERE workflow_id = 'w3'")"
# large: 70000 + 1100000; small: 14000 + 5000 + 400, of which w7 is still running
is usage_by_model "$(run usage_by_model usage)" 'large|2|2|850000|320000|1170000|98.3|0
small|3|2|14300|5100|19400|1.6|400
unknown|1|1|500|100|600|0.1|0'

# large: 1000 - 0.9 * 400 + 4 * 100; the model that is not in the list: 3 * 10; a kind without a weight is not free. By its
# time: two tokens, at 1 and at 0.5.
psql -d "$db" >/dev/null <<'SQL'
CREATE ROLE tb_examples_prices;
CREATE SCHEMA priced AUTHORIZATION tb_examples_prices;
CREATE TABLE priced.token_usage (workflow_id text, user_id text, model text, prompt_tokens integer, cached_tokens integer,
    completion_tokens integer, created_at timestamptz);
ALTER TABLE priced.token_usage OWNER TO tb_examples_prices;
INSERT INTO priced.token_usage VALUES ('a', 'ann', 'large', 1000, 400, 100, '2026-02-01'), ('b', 'ann', 'new', 10, 0, 0, '2026-02-01'),
    ('c', 'ann', 'new', 10, 0, 1, '2026-02-01'), ('d', 'ann', 'large', 1, 0, NULL, '2026-02-01'), ('d', 'ann', 'large', 1, 0, 0, '2026-04-01'),
    ('e', 'ann', 'large', 0, NULL, NULL, NULL), ('f', 'ann', 'large', 1, NULL, NULL, NULL);
SQL
prices=$(
    psql -At -d "$db" -c 'SET ROLE tb_examples_prices' -c 'SET search_path = priced' -f "$examples/price_list.sql" \
        -c "INSERT INTO rate VALUES ('large', 'prompt', 1, '2026-01-01'), ('large', 'cached', -0.9, '2026-01-01'),
            ('large', 'completion', 4, '2026-01-01'), ('large', 'prompt', 0.5, '2026-03-01'), ('*', 'prompt', 3, '2026-01-01')" \
        -c 'SELECT workflow_id, sum(total_tokens) FROM priced_usage GROUP BY 1 ORDER BY 1'
)
is price_list "$prices" 'a|1040.0
b|30
c|NaN
d|1.5
e|0
f|NaN'

# An example without a test would go stale; and none may pass for a script of the extension.
for file in "$examples"/*.sql; do
    name=$(basename "$file" .sql)
    is "$name is tested" "$(grep -c "^is $name " "$0")" 1
    is "$name is no script of the extension" "${name#token_balance--}" "$name"
    is "$name says which role it needs" "$(grep -c '^-- Role: ' "$file")" 1
done
is 'none of them is installed' "$(find "$("$PG_BIN/pg_config" --sharedir)/extension" -name '*.sql' 2>/dev/null |
    grep -cE '/(top_spenders|burn_rate|overdrafts|usage_by_model|price_list)' || true)" 0
exit "$failed"
