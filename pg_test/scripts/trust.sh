#!/usr/bin/env bash
# Many sessions against one server, and a random history against an oracle: the programs of
# pg_test/trust, each with a seed that it prints. SIZE=n runs them n times as long.
set -euo pipefail

size=${SIZE:-1}
trust="$PROJECT/trust"
[ -x "$trust" ] || { echo "the client was not built"; exit 1; }
createdb trust
export PGDATABASE=trust
"$trust" model --size $((3000 * size))
"$trust" one-workflow --size $((20 * size))
"$trust" mixed --size $((8 * size))
"$trust" deadlock --size $((2000 * size))
dropdb trust
