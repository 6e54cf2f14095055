#!/usr/bin/env bash
# Boundaries: usage, sums, balances, ids and numbers of rows at their edges (pg_test/client/src/boundaries.rs).
set -euo pipefail
exec "${PROJECT:?}/client" boundaries
