# The front door: `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
BUILT_RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
.PHONY: help setup demo cluster test chaos chaos-ci siege siege-ci bench bench-peers bench-micro dist dist-check dist-repro release deb rpm image image-check deb-check check build fmt fmt-check lint picture docs book deny units

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what demo, test and check need and this machine lacks (apt, says what)
	@scripts/setup redis cc python systemd proxies prometheus docs

# What runs, in one go, so that nothing is built twice with other features.
DEMO := cargo build $(addprefix -p spoke-,agent hub auth tests) $(addprefix --bin ,spoke-agent spoke-hub spoke-auth demo)

demo: ## see it work: two Redis, auth, hub and an agent, entries both ways; ONCE=1 ends after the round trip
	@scripts/setup redis cc
	@if [ -x $(BUILT)/demo ]; then \
		echo "demo: bringing spoke-agent, spoke-hub, spoke-auth and the demo up to date (some seconds)"; \
	else \
		echo "demo: building spoke-agent, spoke-hub, spoke-auth and the demo, no tests; the first time that"; \
		echo "demo: takes about 5 minutes on two cores, and fetches the crates where they are missing"; \
	fi
	@$(DEMO)
	@$(BUILT)/demo $(if $(filter-out 0,$(ONCE)),--once)

cluster: ## see a failover: six Redis nodes, two hubs, two auths and a device, and what to kill; ONCE=1 kills a primary itself and ends
	@scripts/setup redis cc
	@echo "cluster: building what is not up to date; the first time that takes about 5 minutes on two cores"
	@$(subst demo,cluster,$(DEMO))
	@$(BUILT)/cluster $(if $(filter-out 0,$(ONCE)),--once)

test: build ## all tests, against a real redis-server and the real binaries
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace --all-targets --no-fail-fast; \
	else \
		cargo test --workspace --all-targets --no-fail-fast; \
	fi

chaos: ## load and faults from a seed against the real processes; SEED=, SECONDS=, RUNS=, FAULTS=, CLIENTS= (that many on one hub), ALONE=1 (one fault at a time, and how long recovery takes), HOSTILE=1, CLUSTER=6 (a Redis Cluster of six nodes, whose nodes, disks and links fail), SENTINEL=3 (the same for a primary, two replicas and three Sentinels), KEEP=1
	@scripts/setup redis cc
	@cargo build --workspace --bins
	@cargo run --quiet --bin chaos -- $(if $(SEED),--seed $(SEED)) \
		$(if $(SECONDS),--seconds $(SECONDS)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(FAULTS),--faults $(FAULTS)) $(if $(CLIENTS),--clients $(CLIENTS)) $(if $(filter-out 0,$(ALONE)),--alone) \
		$(if $(filter-out 0,$(HOSTILE)),--hostile) $(if $(filter-out 0,$(CLUSTER)),--cluster) \
		$(if $(filter-out 0,$(SENTINEL)),--sentinel) $(if $(filter-out 0,$(KEEP)),--keep)

# The agent for itself, as in its package: what only the others ask for stays out of it.
RELEASE := cargo build --release $(addprefix -p spoke-,hub auth tests) $(addprefix --bin ,spoke-hub spoke-auth bench) && \
	cargo build --release -p spoke-agent
BENCH := $(BUILT_RELEASE)/bench \
	$(if $(filter-out 0,$(QUICK)),--quick) $(if $(RUNS),--runs $(RUNS)) $(if $(ONLY),--only $(ONLY)) \
	$(if $(SVG),--svg $(SVG))

bench: ## how fast, how small, how cheap: a table, target/bench.json, target/fan-in.svg; QUICK=1, RUNS=, SVG=, ONLY=drain,latency,…
	@scripts/setup redis cc
	@$(RELEASE)
	@$(BENCH)

bench-peers: ## the same beside NATS and Mosquitto, which are fetched where they are missing
	@scripts/setup redis cc peers
	@$(RELEASE)
	@$(BENCH) --peers

# A few seeds with nothing beside them, and one of what is hardest.
chaos-ci: test
	@$(BUILT)/chaos --seed 1 --runs 3 --seconds 30
	@$(BUILT)/chaos --seed 4001 --seconds 20 --faults truncate
	@$(BUILT)/chaos --seed 18 --seconds 15 --hostile
	@$(BUILT)/chaos --seed 11 --seconds 20 --clients 200 --faults hub,cloud-redis,link,agent,device-redis
	@$(BUILT)/chaos --seed 7 --seconds 40 --alone --faults demote,fail-over,no-replicas,unmounted,full-offline

siege: ## what others notice of a hostile client: latency, memory, under each attack; ONLY=, SECONDS=
	@scripts/setup redis cc
	@cargo build --workspace --bins
	@cargo run --quiet -p spoke-tests --bin siege -- $(if $(ONLY),--only $(ONLY)) \
		$(if $(SECONDS),--seconds $(SECONDS))

# Behind the tests and chaos, with nothing beside it. What another process of the machine did is tried again.
siege-ci: chaos-ci
	@$(BUILT)/siege --seconds 2 --again 2

bench-micro: ## what a batch costs in each station of the protocol
	@scripts/setup cc
	cargo bench -p spoke-protocol --bench protocol

dist: ## a release in target/dist: tarballs for each architecture, SBOMs, checksums; ARCH="x86_64 aarch64 armv7"
	@scripts/dist $(ARCH)

dist-check: ## the tarballs of target/dist as users run them: entries both ways in Debian 11, or under an emulator; ARCH=; as root
	@scripts/check-dist $(ARCH)

dist-repro: ## two builds of the last commit in two folders, compared; ARCH=
	@scripts/check-reproducible $(ARCH)

release: ## everything of a release in target/dist: tarballs, packages, images, SBOMs, notes; VERSION=, ARCH=
	@scripts/release "$(VERSION)" $(ARCH)

deb: ## Debian packages of the three services, in target/debian; ARCH=amd64|arm64|armhf
	@scripts/setup deb
	@scripts/deb release $(or $(ARCH),$(shell dpkg --print-architecture))

rpm: ## RPM packages of the three services, in target/rpm; ARCH=x86_64|aarch64|armv7
	@scripts/rpm $(ARCH)

image: ## container images of the three services, in target/image; ARCH=x86_64|aarch64|armv7
	@scripts/setup image
	@scripts/image $(ARCH)

image-check: ## hub, auth and agent in containers carry entries and drain; as root
	@scripts/setup redis cc image image-check
	@scripts/check-image $(ARCH)

deb-check: ## quick packages by lintian, then installed, used, upgraded, removed and purged in a root of their own; as root
	@scripts/setup redis cc deb deb-check
	@cargo build --workspace --bins
	@scripts/check-debs

check: setup fmt-check lint test chaos-ci siege-ci docs book deny units kubernetes ## what CI runs: formatting, clippy, tests, chaos, siege, docs, book, dependency policy, units, manifests
	@echo "check: all good"
	@scripts/advisories

kubernetes: ## the manifests in deploy/kubernetes, against the schemas of Kubernetes
	@scripts/check-kubernetes

# With the tests, so that features and with them all artefacts are those of the test run.
build:
	@scripts/setup redis cc docs
	cargo build --workspace --all-targets

fmt: ## format the code
	cargo fmt --all

fmt-check:
	cargo fmt --all --check

lint: ## clippy, where a warning is an error
	@scripts/setup cc
	cargo clippy --workspace --all-targets -- -D warnings

picture: ## docs/page.png, the README's picture of the status page, made anew by its browser test
	@scripts/setup redis cc browser
	@cargo build --workspace --bins
	@SPOKE_TEST_PICTURES=$(CURDIR)/docs cargo test --quiet -p spoke-tests --test api -- readmes_picture
	@ls -l docs/page.png

docs: ## the API's documentation, into target/doc
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

book: ## the documents as a searchable book, into target/book
	@scripts/book

deny: ## licences, bans, sources and advisories of all dependencies (deny.toml)
	@scripts/cargo-deny

units: ## the systemd units, by systemd-analyze
	@scripts/setup systemd
	@scripts/verify-units
