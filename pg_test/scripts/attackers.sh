#!/usr/bin/env bash
# Attackers: what is denied, and what runs as whom (pg_test/client/src/attackers.rs).
set -euo pipefail
exec "${PROJECT:?}/client" attackers
