# One front door. Each target sets up what is missing first; on a machine that has all it needs that is silent.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
export PATH := $(HOME)/.cargo/bin:$(PATH)
ready = scripts/setup && eval "$$(scripts/rocksdb)"
target = $${CARGO_TARGET_DIR:-target}

.PHONY: demo test ci fix check lint bench
demo: ## three nodes, a worker, 30 orders, the leader killed, an audit (STAY=1 stays, KILL=worker kills a worker)
	$(ready)
	cargo build --release --bin holdfast
	$(target)/release/holdfast demo --orders 30 --kill $${KILL:-leader} $${STAY:+--keep} $(if $(STAY),,--exit)
test: ## all tests; no Docker, display or network service needed
	$(ready)
	cargo test --workspace --all-features
check:
	$(ready)
	cargo fmt --all --check
lint: check ## formatting and lints; writes nothing
	$(ready)
	cargo clippy --workspace --all-targets --all-features -- -D warnings
ci: lint test demo ## what .ci/run calls
fix: ## formats and applies lints
	$(ready)
	cargo fmt --all
	cargo clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
bench: ## the figures of docs/benchmarks.md
	$(ready)
	cargo build --release --bin holdfast
	scripts/bench $(target)/release/holdfast
