#!/usr/bin/env bash
# Many sessions against one server, and a random history against an oracle: the programs of
# pg_test/client, each with a seed that it prints. In a soak with the programs' own sizes: 10,000
# operations, 200 rounds, 60 seconds, 20,000 settlements, 2 times 100 rounds, 60 seconds of chaos,
# 4 sweeps of 8,000 runs, 5 rounds of late usage, 60 seconds of retention, 24 meetings in one run, 300 layouts of tables.
# (DESIGN B7, B9, B10, C7, E1, E2, E3, H7, I1, J2, L4, P2, P8, R1, V21, V22, V23, V26, V28, V30, V34, V35, V39, V40, V41, V43, V47, V50, W3, Y1, Y2, Y3)
set -euo pipefail

client="$PROJECT/client"
[ -x "$client" ] || { echo "the client was not built"; exit 1; }
dropdb --if-exists client 2>/dev/null
createdb client
export PGDATABASE=client
run() { # PROGRAM SIZE-OF-THE-SHORT-FORM [OPTION...]
    if [ -n "${SOAK:-}" ]; then "$client" "$1" "${@:3}"; else "$client" "$1" --size "$2" "${@:3}"; fi
}
run model 2000 --rename-columns
run model 600 --bindings 2 --rename-columns
run one-workflow 20
run mixed 8
run deadlock 2000
run bulk 20
run chaos 12
run sweep 4000
run late 1
run retention 5
run speculative 1
run layout 20
# The same money with the options that change who waits for whom.
export ATTACH="busy_account => 'queue', late_usage => 'settle'"
echo "attach with $ATTACH"
run model 1000 --rename-columns
run model 400 --bindings 2 --rename-columns
run one-workflow 10
run mixed 5
run bulk 8
run chaos 8
run sweep 2000
run retention 4
run layout 5
dropdb client
