# One front door. Each target sets up what is missing first; on a machine that has all it needs that is silent and instant.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Two steps: a failure inside "eval $(…)" would go unseen.
ready = scripts/setup; exports=$$(scripts/rocksdb); eval "$$exports"
bin = "$${CARGO_TARGET_DIR:-target}/release/holdfast"

.PHONY: help demo test ci fix format lint bench
help: ## what there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
demo: ## three nodes, a worker, 30 orders, the leader killed, an audit (KILL=worker: a worker; STAY=1: stays up afterwards)
	@$(ready)
	cargo build --release --bin holdfast
	$(bin) demo --orders 30 --kill $(or $(KILL),leader) $(if $(STAY),,--exit)
test: ## all tests; no Docker, display or network service needed
	@$(ready)
	scripts/test
format:
	@scripts/setup
	cargo fmt --all --check
lint: format ## formatting and lints; writes nothing
	@$(ready)
	cargo clippy --workspace --all-targets --all-features -- -D warnings
ci: lint test demo ## what .ci/run calls; the tidy test is part of test
fix: ## formats and applies lints
	@$(ready)
	cargo fmt --all
	cargo clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
bench: ## the figures of docs/benchmarks.md
	@$(ready)
	cargo build --release --bin holdfast
	for conc in 1 64 256; do $(bin) bench raft --conc $$conc --local 3; done
	for conc in 1 64 256; do $(bin) bench steps --steps 10 --conc $$conc --local 3; done
	$(bin) bench failover --kills 20 --local 3
	$(bin) bench failover --kills 20 --pause --local 3
	$(bin) bench idle --local 3
	$(bin) bench sleepers --runs 10000 --local 3
