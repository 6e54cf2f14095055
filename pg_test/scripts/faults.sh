#!/usr/bin/env bash
# Faults inside: each statement of a settlement is made to fail, one at a time (pg_test/client/src/faults.rs).
set -euo pipefail
exec "${PROJECT:?}/client" faults
