# Every target is one script; `make help` lists them.
#   PG=16             which PostgreSQL (default: the newest that is installed)
#   ONLY=script:roles test: only this, or these; pg_test/README.md has more
#   PG_CONFIG=path    a server of your own; PG_CONFIG_16=path for one version
#   TRACE=file.csv    demo: settle a request trace in place of made-up usage
#   ROWS="B1 B3"      bench: only these rows; RUNS=5 QUICK=1 FULL=1 PGLEDGER=folder SHARED_BUFFERS=1GB: see scripts/bench.sh
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup test test-all soak demo dashboard psql bench docs package fmt lint clean distclean

# The scripts read them from the environment.
export PG PG_CONFIG TRACE ROWS RUNS QUICK FULL RATE PGLEDGER SHARED_BUFFERS
# A variable of the command line is exported by itself, and pg_test/once_per_run/mutations.sh has one of that name.
unexport ONLY

help:          ## this list
	@awk -F ': *## *' '/^[a-z-]+: *##/ { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:         ## install what building and testing needs
	@scripts/setup.sh $(PG)

test:          ## the whole suite on one PostgreSQL (PG=16 picks it), or ONLY= some of it
	@scripts/test.sh $(if $(ONLY),--only '$(ONLY)') $(PG)

test-all:      ## format, lint and the whole suite on PostgreSQL 14 to 18
	@scripts/test.sh --lint --assert 14 15 16 17 18

soak:          ## the suite's long form on one PostgreSQL, and its figures
	@scripts/soak.sh $(PG)

demo:          ## settle a small platform's usage (TRACE=file.csv: your own)
	@scripts/demo.sh

dashboard:     ## what the demo's users and operators see: a service and two pages
	@scripts/dashboard.sh

psql:          ## a shell in the demo's database
	@scripts/psql.sh

bench:         ## how fast it is against other ways, in a private cluster
	@scripts/bench.sh

package:       ## .debs and a tar.gz for machines without Rust (PG=16)
	@scripts/package.sh $(PG)

docs:          ## the documentation as a site, in target/docs
	@scripts/docs.sh

fmt:           ## format the Rust code
	@cargo fmt

lint:          ## cargo fmt --check, clippy with warnings as errors
	@scripts/lint.sh

clean:         ## stop and remove the demo's cluster, drop the test logs
	@scripts/clean.sh

distclean:     ## clean, and remove the build and the fetched servers too
	@scripts/clean.sh --all
