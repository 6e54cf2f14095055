#!/usr/bin/env bash
# Formatting and clippy on the default features, the licences of all crates, and the YAML for others to run, as a change
# must pass them.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$ROOT"

# clippy builds pgrx for the default feature, which needs that server's headers.
default_version=$(sed -nE 's/^default *= *\["pg([0-9]+)".*/\1/p' Cargo.toml)
[ -n "$(registered_pg_config "$default_version")" ] || "$ROOT/scripts/setup.sh" "$default_version"

status=0
say "cargo fmt --check"
cargo fmt --all --check || status=1
say "cargo clippy --all-targets -- -D warnings"
cargo clippy --quiet --all-targets -- -D warnings || status=1
say "the same for the client of pg_test"
cargo fmt --manifest-path pg_test/client/Cargo.toml --check || status=1
cargo clippy --quiet --locked --manifest-path pg_test/client/Cargo.toml \
    --target-dir "${CARGO_TARGET_DIR:-$ROOT/target}/client" -- -D warnings || status=1
say "the same for the dashboard"
cargo fmt --manifest-path examples/dashboard/Cargo.toml --check || status=1
cargo clippy --quiet --locked --all-targets --manifest-path examples/dashboard/Cargo.toml \
    --target-dir "${CARGO_TARGET_DIR:-$ROOT/target}/dashboard/build" -- -D warnings || status=1
say "licences and sources of crates"
python3 scripts/check_crates.py deny.toml Cargo.toml pg_test/client/Cargo.toml examples/dashboard/Cargo.toml || status=1
say "the workflow and the examples in YAML"
if "$ROOT/scripts/setup.sh" --lint; then
    PATH=$(venv_of lint)/bin:$PATH
    check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml || status=1
    check-jsonschema --quiet --builtin-schema vendor.compose-spec examples/compose/compose.yaml || status=1
    zizmor --offline --quiet .github/workflows || status=1
else
    status=1
fi
exit "$status"
