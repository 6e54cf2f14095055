#!/usr/bin/env bash
# Users tables of all shapes, read and written without SQL and by SQL alone: no difference in any row and any error
# (pg_test/client/src/shapes.rs).
set -euo pipefail
exec "${PROJECT:?}/client" shapes
