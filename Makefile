# The front door, the same for people and for CI. `make help` lists the targets.
#
# The build directory is asked of cargo, so CARGO_TARGET_DIR (absolute or
# relative to this directory) and .cargo/config.toml are both respected.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-versions test-clients protocol compatibility fuzz soak parity parity-mutation fuzz-parity fuzz-sessions bench bench-small bench-large bench-tpch hostile deny check fmt build release bootstrap

CARGO ?= cargo
# Extra arguments: make demo ARGS="--keep --lang zh"
ARGS ?=
# The same for the measurements with much data: make bench-large LARGE_ARGS="--lab-dir /tmp/lab"
LARGE_ARGS ?=
# How many generated queries, and where they start.
FUZZ ?= 20000
SEED ?= 1

target_dir = $(shell $(CARGO) metadata --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

bootstrap: ## install what is missing (PostgreSQL, libclang, a C compiler)
	@scripts/bootstrap

demo: release ## the guide from end to end on real servers, ten marks checked
	@'$(target_dir)/release/pgspan' demo $(ARGS)

bench: release bench-small bench-large bench-tpch ## everything that is measured; the reports go to bench-out/

bench-small: release ## latency and throughput against postgres_fdw and PgBouncer
	@'$(target_dir)/release/pgspan' bench $(ARGS)

bench-large: release ## large joins against postgres_fdw, DuckDB, chDB and the floor
	@'$(target_dir)/release/pgspan' bench --large --growth $(LARGE_ARGS)

bench-tpch: release ## TPC-H over two clusters against postgres_fdw and DuckDB
	@'$(target_dir)/release/pgspan' bench --tpch $(LARGE_ARGS)

test: bootstrap ## everything: lints, documentation, rules, tests, parity with PostgreSQL
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --workspace --no-deps
	$(CARGO) run --quiet -p xtask -- tidy
	$(MAKE) --no-print-directory deny
	$(CARGO) build -p pgspan -p pgspan-parity
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) test --workspace
	$(CARGO) test --quiet -p pgspan --test soak -- --minutes 0.5
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity --bin pgspan-protocol
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --mutations
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --random 300
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --fuzz 200
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --sessions 100
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --settings 8
	! PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --sessions 40 --mistake end > '$(target_dir)/mistake.log' 2>&1
	! PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --sessions 20 --mistake write > '$(target_dir)/mistake.log' 2>&1
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --properties --values 20000
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- $(ARGS)

# Servers of every version go here: their account must be able to enter it.
VERSIONS_DIR ?= /var/tmp/pgspan-postgres
# Home and source; 15 is the one that is installed, where it is.
VERSIONS ?= 14:14 15:15 16:16 17:17 18:18 15:14 15:18
# Generated queries and sessions for each of them.
VERSIONS_FUZZ ?= 1000
test-versions: release build ## parity, protocol, generated queries and sessions, the demo, on PostgreSQL 14 to 18; VERSIONS="18:18"
	@scripts/postgres-versions '$(VERSIONS_DIR)'
	@scripts/test-versions '$(target_dir)' '$(VERSIONS_DIR)' $(VERSIONS_FUZZ) $(VERSIONS)

test-clients: build ## real drivers at PostgreSQL and at the gateway; ARGS="--only psycopg,psql"
	@scripts/bootstrap --clients
	PGSPAN_BIN='$(target_dir)/debug/pgspan' python3 tests/clients/run.py --cache '$(target_dir)/clients' $(ARGS)

protocol: build ## messages compared one by one; ARGS="--filter copy/"
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity --bin pgspan-protocol -- $(ARGS)

compatibility: build ## clients, parity and protocol; then docs/compatibility.md is written from what they counted
	@scripts/bootstrap --clients
	PGSPAN_BIN='$(target_dir)/debug/pgspan' python3 tests/clients/run.py --cache '$(target_dir)/clients' --report docs/runs/clients.json
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --report docs/runs/parity.json
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity --bin pgspan-protocol -- --report docs/runs/protocol.json
	$(CARGO) run --quiet -p xtask -- compatibility

# How long each target runs.
FUZZ_SECONDS ?= 60
fuzz: bootstrap ## decoders of messages and rows, parse-analyze-route, FUZZ_SECONDS each (60)
	@command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --locked
	@scripts/fuzz '$(target_dir)/fuzz' $(FUZZ_SECONDS) $(ARGS)

soak: build ## mixed load with faults, every answer checked; ARGS="--minutes 1" (30)
	$(CARGO) test --quiet -p pgspan --test soak -- $(ARGS)

parity: build ## PostgreSQL and the gateway must agree; ARGS="--filter hazard-01"
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- $(ARGS)

parity-mutation: build ## a deliberately wrong gateway must turn the parity suite red
	PGSPAN_BIN='$(target_dir)/debug/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --mutations $(ARGS)

fuzz-parity: release build ## 20,000 generated queries under each strategy, then every type and operation; FUZZ=2000 SEED=7
	PGSPAN_BIN='$(target_dir)/release/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --fuzz $(FUZZ) --seed $(SEED) $(ARGS)
	PGSPAN_BIN='$(target_dir)/release/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --properties $(ARGS)

# How many sequences of steps.
SEQUENCES ?= 50000
fuzz-sessions: release build ## generated sequences in transaction blocks, each step compared; SEQUENCES=2000 SEED=7 (50,000)
	PGSPAN_BIN='$(target_dir)/release/pgspan' $(CARGO) run --quiet -p pgspan-parity -- --sessions $(SEQUENCES) --seed $(SEED) $(ARGS)

hostile: release ## attacks on a gateway of 1 GB address space: none brings it down or keeps others waiting
	PGSPAN_HOSTILE=strict $(CARGO) test --release -p pgspan --test faults -- hostile:: --nocapture --test-threads=1

# Built once, without optimisation: it runs for a second.
DENY_VERSION = 0.20.2
deny: ## licences and sources of all dependencies, and crates that are not let in
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --debug --target-dir '$(target_dir)/tools'
	$(CARGO) deny --log-level error check bans licenses sources

check: ## fast, no servers: formatting, lints, rules, unit tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) run --quiet -p xtask -- tidy
	$(CARGO) test --workspace --lib --bins --quiet

fmt: ## format the sources
	$(CARGO) fmt --all

build: bootstrap
	@$(CARGO) build -p pgspan -p pgspan-parity

release: bootstrap
	@$(CARGO) build --release -p pgspan
