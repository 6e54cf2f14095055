#!/usr/bin/env bash
# Mutations: a suite that cannot fail proves nothing. Each patch of pg_test/mutations takes away one thing that settling
# relies on. It is applied to a copy of the sources, built, and put into a copy of the server; there each test that the
# patch names ("Caught by: KIND [TEST]") must fail, and must have passed before. ONLY=name for one patch.
# shellcheck source=scripts/lib.sh
source "${ROOT:?}/scripts/lib.sh"
# shellcheck source=pg_test/once_per_run/server_copy.sh
source "$ROOT/pg_test/once_per_run/server_copy.sh"
: "${WORK:?}" "${PROJECT:?}" "${PG_VERSION:?}"
have patch || die 'no patch here'
clean_up_on_exit
use_server "$PG_VERSION"
target="${CARGO_TARGET_DIR:-$ROOT/target}"
build="$target/mutations" # stays, so that the next run builds only what has changed
sources="$build/source"
failed=0

copy_sources() {
    rm -rf "$sources"
    mkdir -p "$sources"
    cp -R "$ROOT/Cargo.toml" "$ROOT/Cargo.lock" "$ROOT/build.rs" "$ROOT/src" "$ROOT/sql" "$ROOT/docs" "$sources/"
}

# The dependencies are those of the suite's own build, by links. Where that cannot be, cargo builds them again.
take_dependencies() {
    [ ! -d "$build/debug" ] && [ -d "$target/debug/deps" ] || return 0
    mkdir -p "$build/debug"
    cp -al "$target/debug/deps" "$target/debug/build" "$build/debug/" 2>/dev/null || return 0
    rm -rf "$build"/debug/deps/*token_balance*
    cp -a "$target/debug/.fingerprint" "$build/debug/"
}

# As debug_pgrx builds it, but for the SQL, which stays.
install_library() {
    CARGO_INCREMENTAL=1 cargo --quiet build --locked --lib --examples --no-default-features --features "pg$PG_VERSION" \
        --manifest-path "$sources/Cargo.toml" --target-dir "$build" >"$WORK/build.log" 2>&1 ||
        { cat "$WORK/build.log" && return 1; }
    # Moved into place: a backend may still have the one before mapped.
    cp "$build/debug/libtoken_balance.so" "$pkglib/$(library_file).new"
    mv "$pkglib/$(library_file).new" "$pkglib/$(library_file)"
}

# run_test KIND [TEST [ARGUMENT…]]: one test of the suite, in the copied server or on the copied sources.
run_test() {
    local kind=$1 name=${2:-} work="$WORK/test"
    as_db_user rm -rf "$work"
    as_db_user mkdir "$work"
    case $kind in
    arrows) run_arrows ;;
    isolation) run_regress isolation/pg_isolation_regress "$kind" "$name" ;;
    regress) run_regress regress/pg_regress "$kind" "$name" ;;
    script) in_server_env WORK="$work" PROJECT="$PROJECT" timeout 120 "$PROJECT/pg_test/scripts/$name.sh" ;;
    client)
        in_server_env dropdb --if-exists tb_mutations 2>/dev/null
        in_server_env createdb tb_mutations
        in_server_env PGDATABASE=tb_mutations timeout 120 "$PROJECT/client" "$name" "${@:3}"
        ;;
    *) die "no test is of the kind $kind" ;;
    esac
}

run_arrows() { # the test of the imports, which needs the sources and no server
    CARGO_MANIFEST_DIR="$sources" rustc --edition 2024 --test "$ROOT/pg_test/arrows.rs" -o "$WORK/arrows" &&
        "$WORK/arrows"
}

run_regress() { # TOOL KIND TEST; what differs is worth a look
    local input="$PROJECT/pg_test/$2" status=0
    in_server_env env --chdir="$input" timeout 120 "$PG_TEST_TOOLS/$1" --bindir="$PG_BIN" --inputdir="$input" \
        --outputdir="$WORK/test" --dbname=tb_mutations --host="$CLUSTER_SOCKET" --port=5432 --user=postgres "$3" ||
        status=$?
    cat "$WORK/test/regression.diffs" 2>/dev/null || true
    return "$status"
}

evidence() { # the first lines that say what went wrong
    awk '/^[-+][^-+]/ || /FAILED/ || / is not below / { if (++n <= 6) print "    " substr($0, 1, 160) }' "$WORK/log"
}

named_tests() { sed -n 's/^Caught by: //p' "$1"; }

settles() { # the mutant is no wreck: alone it still does what it should
    [ "$(in_server_env "$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 -d postgres 2>&1 <<'SQL'
SET client_min_messages = error;
BEGIN;
CREATE TABLE users (id text PRIMARY KEY);
CREATE TABLE token_usage (workflow_id text, user_id text, total_tokens integer);
CREATE TABLE workflows (id text PRIMARY KEY, status text);
INSERT INTO users VALUES ('ann');
CREATE EXTENSION token_balance SCHEMA public;
INSERT INTO token_usage VALUES ('w1', 'ann', 10), ('w2', 'ann', 5);
INSERT INTO workflows VALUES ('w1', 'completed');
SELECT settle_workflow('w2') ->> 'new_balance';
ROLLBACK;
SQL
    )" = 999985 ]
}

patches=()
for patch in "$ROOT"/pg_test/mutations/${ONLY:-*}.patch; do patches+=("$patch"); done
[ -f "${patches[0]}" ] || die "no patch ${patches[0]}"

begun=$SECONDS
copy_server "$WORK/server"
take_dependencies
copy_sources
install_library || die 'the sources were not built'
echo "built in $((SECONDS - begun)) s"
make_dir() { mkdir -p "$1" && if is_root; then chown "$DB_OS_USER:" "$1"; fi; }
make_dir "$WORK/c"
CLUSTER_HOME="$WORK"
init_cluster "$WORK/c/data"
start_cluster "$WORK/c/data" "$WORK/c" fsync=off max_prepared_transactions=10 max_connections=100
settles || die 'the copied server does not settle'

echo '-- without a mutation'
while read -r -a test; do
    begun=$SECONDS
    if run_test "${test[@]}" >"$WORK/log" 2>&1; then
        echo "ok: ${test[*]} passes ($((SECONDS - begun)) s)"
    else
        echo "FAILED: ${test[*]} does not pass without a mutation"
        tail -n 40 "$WORK/log"
        failed=1
    fi
done < <(for patch in "${patches[@]}"; do named_tests "$patch"; done | sort -u)

caught=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    begun=$SECONDS
    echo "-- $name: $(head -n 1 "$patch")"
    copy_sources
    if ! patch --batch --forward --silent --strip 1 --directory "$sources" <"$patch" >"$WORK/log" 2>&1; then
        echo "FAILED: $name does not apply"
        cat "$WORK/log"
        failed=1
        continue
    fi
    if ! install_library; then
        echo "FAILED: $name was not built"
        failed=1
        continue
    fi
    took=$((SECONDS - begun))
    mapfile -t tests < <(named_tests "$patch")
    [ ${#tests[@]} -gt 0 ] || { echo "FAILED: $name names no test"; failed=1; }
    if ! settles; then echo "FAILED: $name does not even settle"; failed=1; fi
    for line in "${tests[@]}"; do
        read -r -a test <<<"$line"
        begun=$SECONDS
        if run_test "${test[@]}" >"$WORK/log" 2>&1; then
            echo "FAILED: $name is not caught by $line"
            failed=1
        else
            echo "ok: $name is caught by $line (built in $took s, run in $((SECONDS - begun)) s)"
            evidence
            caught=$((caught + 1))
        fi
    done
done
echo "${#patches[@]} mutations, caught by $caught tests"
exit "$failed"
