#!/usr/bin/env bash
# migrate, twice; nothing that makemigrations would add; back and forth; the tests of the application.
set -euo pipefail
manage() { python manage.py "$@"; }
value() { "$PG_BIN/psql" -X -At -c "$1"; }
failed=0
is() { # WHAT GOT EXPECTED
    if [ "$2" = "$3" ]; then echo "ok: $1"; else echo "FAILED: $1: got '$2', expected '$3'"; failed=1; fi
}
applied() { manage migrate --verbosity 1 | sed -n 's/^ *\(Applying [^ ]*\)\.\.\. OK$/\1/p; s/^ *\(No migrations\) .*/\1/p' | xargs; }

is 'migrate' "$(applied)" 'Applying shop.0001_initial Applying shop.0002_token_balance'
is 'migrate again' "$(applied)" 'No migrations'
is 'makemigrations has nothing to add' "$(manage makemigrations --check --dry-run)" 'No changes detected'
is 'attach has made the column' "$(value "SELECT column_default FROM information_schema.columns
    WHERE table_name = 'shop_user' AND column_name = 'token_balance'")" 1000000
is 'verify() finds nothing' "$(value 'SELECT name FROM token_balance.verify() WHERE NOT ok')" ''
manage migrate --verbosity 0 shop 0001
is 'migrated back: the column is gone' "$(value "SELECT count(*) FROM information_schema.columns
    WHERE table_name = 'shop_user' AND column_name = 'token_balance'")" 0
is 'and forth' "$(applied)" 'Applying shop.0002_token_balance'
is 'verify() finds nothing again' "$(value 'SELECT name FROM token_balance.verify() WHERE NOT ok')" ''
manage test --noinput --verbosity 2 || failed=1
exit "$failed"
