#!/usr/bin/env bash
# Hostile identifiers in every place where attach takes a name (pg_test/client/src/hostile_names.rs).
# HOSTILE_SEED takes other names than usual, HOSTILE_NAMES more of them.
set -euo pipefail
exec "${PROJECT:?}/client" hostile-names --seed "${HOSTILE_SEED:-4711}" --size "${HOSTILE_NAMES:-220}"
