# Development tasks. `make` lists them.
CARGO ?= cargo
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The packages whose tests are built and run. SCOPE=--workspace builds all of them at once, as CI does.
SCOPE ?=
# The program that measures. With SCOPE=--workspace it is target/debug/tcplb-bench.
BENCH ?= $(CARGO) run --locked --package tcplb-bench --
IMAGE ?= docker.io/library/tcplb:$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
.PHONY: help build test models check deny generate screenshots fuzz fuzz-corpus fuzz-smoke bench bench-smoke growth replica soak image image-program e2e kind minikube demo clean

help: ## list the tasks
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:[^#]*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the optimised program, target/release/tcplb
	$(CARGO) build --release --locked

test: ## run all tests that need no cluster (SCOPE=--workspace: also those of bench, fuzz and models, as in CI)
	@skipped=$$(mktemp); trap 'rm -f "$$skipped"' EXIT; \
	SKIPPED_TESTS=$$skipped $(CARGO) test --locked --no-fail-fast $(SCOPE); \
	if [ -s "$$skipped" ]; then \
		echo "$$(wc -l < "$$skipped") skipped:"; sort "$$skipped" | sed 's/^/  /'; \
	fi

models: ## check lock-free code of the workers in every order of its steps (loom)
	$(CARGO) test --locked --package tcplb-models

check: ## check formatting, lints of code and scripts, and links in the documentation of the code
	$(CARGO) fmt --all --check
	git grep -lE '^#!/usr/bin/env bash' | xargs shellcheck
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --workspace --no-deps --document-private-items

deny: ## check licences, advisories and sources of dependencies, and for forbidden crates (deny.toml)
	type -P cargo-deny >/dev/null || $(CARGO) install --locked --version 0.20.2 cargo-deny
	$(CARGO) deny --locked --workspace check

generate: ## rewrite generated files: the CRD and its copies, tables in the docs, golden files. Needs helm
	UPDATE=1 $(CARGO) test --locked --test generated
	UPDATE=1 $(CARGO) test --locked --test chart current
	UPDATE=1 $(CARGO) test --locked --lib the_documented_table
	GOLDEN=write $(CARGO) test --locked --lib translate::tests::golden
	GOLDEN=write $(CARGO) test --locked --lib kubectl
	GOLDEN=write $(CARGO) test --locked --lib top::tests

screenshots: ## rewrite docs/images: runs the tests of the admin page in Chromium
	SCREENSHOTS=1 $(CARGO) test --locked --test peers admin_page::the_page_fits
	mkdir -p docs/images
	cp target/tmp/admin-page.png target/tmp/admin-page-narrow.png docs/images/

fuzz: ## run each fuzz target for SECONDS_EACH (1800) on all cores; TARGETS="pem proxy_header" selects targets
	scripts/fuzz $(or $(SECONDS_EACH),1800) $(TARGETS)

fuzz-corpus: ## check the properties of the fuzz targets on the committed corpus and on random changes of it
	$(CARGO) test --locked --package tcplb-fuzz

fuzz-smoke: ## run each fuzz target for half a minute
	OPT_LEVEL=1 scripts/fuzz 30

# Two commands: a common build would give the program the library features that only the bench needs.
bench: build ## compare with HAProxy, nginx, Envoy and Traefik (bench/README.md; ARGUMENTS="--axes conn,rr"); writes docs/performance.md
	bench/peers/install
	$(CARGO) run --release --locked --package tcplb-bench -- run $(ARGUMENTS)
	$(if $(ARGUMENTS),,$(CARGO) run --release --locked --package tcplb-bench -- count)
	$(CARGO) run --release --locked --package tcplb-bench -- report

bench-smoke: build ## count instructions and system calls, and fail if they exceed bench/baseline.json (UPDATE=1 rewrites it) or a policy fails
	$(BENCH) smoke $(if $(UPDATE),--update)
	$(BENCH) show --check

growth: build ## measure how costs grow, and fail above a limit (ARGUMENTS="--only file --clock")
	$(BENCH) growth $(ARGUMENTS)

replica: build ## measure a controller with 2,000 load balancers (ARGUMENTS="--roles leader --load-balancers 5000")
	$(CARGO) run --release --locked --package tcplb-bench -- replica $(ARGUMENTS)

soak: build ## look for lost connections and leaks for MINUTES (10); SEED=N repeats a run
	$(BENCH) soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

image: ## build the container image (IMAGE=NAME:TAG PLATFORM=linux/arm64), with docker, podman or buildah
	PLATFORM=$(PLATFORM) scripts/image build $(IMAGE)

image-program: image ## build the image, and copy its program to target/release/tcplb
	mkdir -p target/release
	scripts/image program $(IMAGE) target/release/tcplb

e2e: image ## build the image, start a cluster (tests/cluster) and run the end-to-end tests on it
	archive=$$(mktemp --suffix=.tar); trap 'rm -f "$$archive"' EXIT; \
	tests/cluster/up 3; \
	scripts/image save $(IMAGE) "$$archive"; \
	tests/cluster/load --archive "$$archive"; \
	. tests/cluster/env; \
	tests/cluster/helm version >/dev/null; \
	export E2E_IMAGE=$(IMAGE); \
	$(CARGO) test --locked $(SCOPE) --test apiserver; \
	$(CARGO) test --locked $(SCOPE) --test chart; \
	$(CARGO) test --locked $(SCOPE) --test e2e -- --test-threads=16 --show-output

kind: image ## build the image, and install it with the chart in a running kind cluster
	scripts/install kind $(IMAGE)

minikube: image ## the same for minikube
	scripts/install minikube $(IMAGE)

demo: ## run three backends and a load balancer in one process
	$(CARGO) run --release --locked -- demo

clean: ## remove the build output
	$(CARGO) clean
