# One front door. Each target sets up what is missing first; on a machine that has all it needs that is silent and instant.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
export PATH := $(HOME)/.cargo/bin:$(PATH)
# Two steps: a failure inside "eval $(…)" would go unseen.
ready = scripts/setup; exports=$$(scripts/rocksdb); eval "$$exports"
bin = "$${CARGO_TARGET_DIR:-target}/release/holdfast"
jepsen = "$${CARGO_TARGET_DIR:-target}/harness/jepsen"
harness = cargo build --profile harness -p holdfast-jepsen --bin jepsen
# Whole clusters in one thread: another machine beneath the same code, in a target folder of its own.
tierb = export CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-target}/sim" RUSTFLAGS="--cfg holdfast_sim --cfg tokio_unstable"
cluster = cargo build --profile sim -p holdfast-jepsen --no-default-features --features sim-cluster,seeded-bugs --bin jepsen-sim
clusters = "$$CARGO_TARGET_DIR/sim/jepsen-sim" --jobs $$(nproc)

.PHONY: help demo test ci builds fix format lint bench chaos sim images fuzz shipped packets
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
ci: lint test packets builds demo shipped chaos ## what .ci/run calls; the tidy test is part of test
# Beside each other: to link a release keeps one processor busy for minutes.
builds:
	@$(ready)
	cargo build --release --bin holdfast & release=$$!
	trap "kill $$release 2>/dev/null || true" EXIT
	$(harness)
	( $(tierb); $(cluster) )
	wait $$release
fix: ## formats and applies lints
	@$(ready)
	cargo fmt --all
	cargo clippy --workspace --all-targets --all-features --fix --allow-dirty --allow-staged
shipped: ## the release binary holds no planted bug and no failpoint, not even the name of one
	@$(ready)
	cargo build --release --bin holdfast
	scripts/shipped $(bin)
chaos: ## random histories of the core and of whole clusters, then real processes under faults, judged (PROFILE=ci, night, rest, release)
	@$(ready)
	cargo build --release --bin holdfast
	$(harness)
	$(jepsen) sim --tier a --seeds 0..50000 --for $(or $(FOR),45s)
	( $(tierb); $(cluster); $(clusters) --seeds 0..150 --for 45 )
	$(jepsen) run --bin $(bin) --profile $(or $(PROFILE),ci) --seed $(or $(SEED),42)
sim: ## random histories of the core (SEEDS=0..100000) and of whole clusters (CLUSTERS=0..200), tests of the simulator first
	@$(ready)
	$(harness)
	$(jepsen) sim --tier a --seeds $(or $(SEEDS),0..100000)
	$(tierb)
	cargo test --profile sim -p holdfast-jepsen --no-default-features --features sim-cluster,seeded-bugs --test sim_cluster
	$(cluster)
	$(clusters) --seeds $(or $(CLUSTERS),0..200)
packets: ## links cut, reset, lossy and slow by the kernel's packet rules, in network namespaces of the tests' own (root)
	@scripts/setup ip:iproute2 iptables
	$(ready)
	cargo test --workspace --all-features --test netns -- --include-ignored --test-threads=1
images: ## power cuts at every sync of a recorded node, and damage to its files (IMAGES=1200)
	@scripts/setup strace
	$(ready)
	cargo build --release --bin holdfast
	$(harness)
	$(jepsen) images --bin $(bin) --images $(or $(IMAGES),1200)
fuzz: ## anything at every decoder (FOR=1m of CPU time each)
	@$(ready)
	$(harness)
	$(jepsen) fuzz --for $(or $(FOR),1m)
bench: ## the table of docs/benchmarks.md, medians of three; beside Restate, turn by turn, where PEERS_DIR holds restate3.sh
	@$(ready)
	cargo build --release --bin holdfast
	$(bin) bench table --local 3 --secs 5 --repeats 3 $(if $(PEERS_DIR),--peer $(PEERS_DIR)/restate3.sh)
