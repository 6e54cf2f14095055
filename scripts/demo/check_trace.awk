# Checks a trace and prints its rows alone: no header, no carriage returns.
# The first thing that is wrong ends it, with the line named.
function fail(what) {
    printf "error: %s, line %d: %s\n", name, NR, what >"/dev/stderr"
    failed = 1
    exit 1
}

BEGIN { FS = "," }

{ sub(/\r$/, ""); gsub(/"/, "") }

NR == 1 {
    sub(/^\357\273\277/, "")
    if ($0 != "TIMESTAMP,ContextTokens,GeneratedTokens") fail("not the header that is expected: " substr($0, 1, 80))
    next
}

/^[ \t]*$/ { next }

NF != 3 { fail(NF " columns in place of 3") }
$1 !~ /^[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9][ T][0-9][0-9]:[0-9][0-9]:[0-9][0-9](\.[0-9]+)?(Z|[+-][0-9][0-9](:?[0-9][0-9])?)?$/ {
    fail("TIMESTAMP is not a timestamp: " substr($1, 1, 40))
}
$2 !~ /^[0-9]+$/ || $2 + 0 > 1000000000 { fail("ContextTokens is not a number of tokens: " substr($2, 1, 40)) }
$3 !~ /^[0-9]+$/ || $3 + 0 > 1000000000 { fail("GeneratedTokens is not a number of tokens: " substr($3, 1, 40)) }

{ print; rows++ }

END {
    if (!failed && !rows) {
        printf "error: %s has no rows\n", name >"/dev/stderr"
        exit 1
    }
}
