#!/usr/bin/env bash
# Several databases with the extension, asked together and added up (docs/scaling.md):
#   cluster.sh reconcile|verify|state|overdrawn CONNECTION...
# A CONNECTION is what psql takes as a database: "host=a dbname=app", a URI, a name. It wants psql, and a role that may call
# the functions and read token_balance.account_move. reconcile and verify end with exit code 1 if they find something, and
# all of them with 2 if a database cannot be asked, or if two have one name.
set -euo pipefail

usage() {
    sed -nE '2,6s/^# ?//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}
[ $# -ge 2 ] || usage
command=$1
shift

# The name by which the others know it.
NAME="COALESCE(NULLIF(current_setting('token_balance.database', true), ''), current_database())"

# ask SQL: its rows from each database, each with the database's name before it. :name stands for it in SQL.
ask() {
    local connection
    for connection in "${connections[@]}"; do
        "${PSQL:-psql}" -XAtq -v ON_ERROR_STOP=1 -v name="$NAME" -F $'\t' -d "$connection" <<<"$1" || {
            echo "cluster.sh: cannot ask $connection" >&2
            exit 2
        }
    done
}

# Rows of fields that are separated by tabs, with a heading, in columns.
table() { # HEADING...
    { local IFS=$'\t'; echo "$*"; cat; } | awk -F '\t' '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) }; columns = NF > columns ? NF : columns }
        END { for (row = 1; row <= NR; row++) {
            line = ""
            for (i = 1; i <= columns; i++) line = line sprintf("%-" width[i] "s  ", cell[row, i])
            sub(/ +$/, "", line)
            print line
        } }'
}

# show WHAT HEADING...: what was found, or that nothing was. Whether it was nothing.
show() {
    local found
    found=$(cat)
    if [ -z "$found" ]; then
        echo "$1: none"
    else
        table "${@:2}" <<<"$found"
        return 1
    fi
}

# Moves whose two sides do not agree: one of the two databases was restored to an earlier state, or is not in the list.
disagreeing() {
    awk -F '\t' '
        { state[$1, $2, $3] = $6; row[NR] = $0; is_listed[$1] = 1 }
        END { for (i = 1; i <= NR; i++) {
            split(row[i], field, "\t")
            here = field[1]; token = field[2]; direction = field[3]; account = field[4]; there = field[5]; is = field[6]
            if (!(there in is_listed)) {
                print here "\t" account "\t" token "\tdatabase " there " is not among those that were asked"
            } else if (direction == "in" && is == "imported") {
                home = state[there, token, "out"]
                if (home == "") print here "\t" account "\t" token "\topen here, and " there " does not know that it left"
                if (home == "taken back") print here "\t" account "\t" token "\topen here, and taken back by " there
            } else if (direction == "out" && (is == "confirmed" || is == "returned")) {
                if (state[there, token, "in"] != "imported") print here "\t" account "\t" token "\tleft here, and " there " does not know that it came"
            }
        } }'
}
MOVES="SELECT :name, token, direction, user_id, database, state FROM token_balance.account_move ORDER BY moved_at;"

connections=("$@")
failed=0
# Each is asked first, so that what follows is of all of them. Documents are for a database by its name.
names=''
for connection in "${connections[@]}"; do
    if name=$("${PSQL:-psql}" -XAtq -v ON_ERROR_STOP=1 -d "$connection" -c "SELECT $NAME"); then
        names+=$name$'\n'
    else
        echo "cluster.sh: cannot ask $connection" >&2
        failed=2
    fi
done
alike=$(sort <<<"$names" | uniq -d)
if [ -n "$alike" ]; then
    echo "cluster.sh: more than one of these databases is $alike: each needs a token_balance.database of its own" >&2
    failed=2
fi
[ "$failed" = 0 ] || exit "$failed"
case $command in
reconcile)
    ask "SELECT :name, problem, user_id, workflow_id, expected, found, binding, hint FROM token_balance.reconcile();" |
        show problems database problem user_id workflow_id expected found binding hint || failed=1
    ask "$MOVES" | disagreeing | show 'moves that do not agree' database user_id token problem || failed=1
    ;;
verify)
    ask "SELECT :name, binding, name, detail, hint FROM token_balance.verify() WHERE NOT ok;" |
        show 'checks that fail' database binding check detail hint || failed=1
    ;;
state)
    ask "SELECT :name, state, COALESCE(reason, ''), workflows, usage_rows, tokens FROM token_balance.usage_state();" |
        awk -F '\t' -v OFS='\t' '
            { print; key = $2 OFS $3; if (!(key in tokens)) order[++count] = key; workflows[key] += $4; rows[key] += $5; tokens[key] += $6 }
            END { for (i = 1; i <= count; i++) print "all", order[i], workflows[order[i]], rows[order[i]], sprintf("%.0f", tokens[order[i]]) }' |
        table database state reason workflows usage_rows tokens
    echo
    ask "SELECT format('SELECT %L, count(*), COALESCE(sum(%I), 0) FROM %s', :name, balance_column, users)
        FROM token_balance.binding WHERE detached_at IS NULL GROUP BY balance_column, users \\gexec" |
        awk -F '\t' -v OFS='\t' '{ print; accounts += $2; balances += $3 } END { print "all", accounts + 0, sprintf("%.0f", balances) }' |
        table database accounts balances
    echo
    ask "SELECT :name, user_id, database, token, moved_at FROM token_balance.account_move WHERE state = 'sent' ORDER BY moved_at;" |
        show 'moves under way' database user_id to token since || true
    ;;
overdrawn)
    ask "SELECT :name, user_id, token_balance, since, binding FROM token_balance.overdrawn;" |
        sort -t $'\t' -k 3,3n | show 'overdrawn accounts' database user_id token_balance since binding || true
    ;;
*) usage ;;
esac
exit "$failed"
