# weft: see README.md. `make help` lists the targets.
SHELL := /bin/bash
# An ordinary user has neither Go nor the network programs of /usr/sbin on PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X weft/internal/version.Version=$(VERSION)
# Under sudo the person who asked compiles, so that what is built and Go's caches stay theirs.
ASKED := $(if $(filter 0,$(shell id -u)),$(filter-out root,$(SUDO_USER)))
AS := $(if $(ASKED),runuser -u $(ASKED) -- env HOME=$(shell getent passwd $(ASKED) | cut -d: -f6))
OWN := $(if $(ASKED),chown -R $(SUDO_UID):$(SUDO_GID) bin,true)
BUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
# Root parts of the tests run as root: only the test binaries, never the compiler.
# The few that build a program do so in root's own cache, from the modules that are here.
ROOT = $(if $(filter 0,$(shell id -u)),,-exec 'sudo -H env PATH=$(PATH) GOMODCACHE=$(shell go env GOMODCACHE) WEFT_REQUIRE=$(WEFT_REQUIRE) WEFT_BIN=$(WEFT_BIN)')
export WEFT_BIN := $(CURDIR)/bin
export WEFT_REQUIRE ?= all

.PHONY: help deps build demo test check fmt generate generated lint bench bench-short dist clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

deps: ## install what is missing from Debian's packages
	@scripts/deps test

build: ## build bin/weft and bin/weft-agent
	@scripts/deps build
	@mkdir -p bin && $(OWN)
	$(AS) $(BUILD) -o bin/weft ./cmd/weft
	$(AS) env CGO_ENABLED=0 $(BUILD) -o bin/weft-agent ./cmd/weft-agent

demo: build ## bring up the hybrid lab and the first tap; ONCE=1 checks it and tears it down
	@scripts/deps run
	@[ "$$(id -u)" = 0 ] || { echo "make demo makes network namespaces: run it as sudo make demo" >&2; exit 1; }
	bin/weft demo $(if $(ONCE),--once)

test: deps build ## run every test, root parts included
	go test -p 2 -timeout 20m $(ROOT) ./...

check: deps fmt lint generated ## formatting, vet, staticcheck, and that generated files are current

fmt:
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }

lint:
	go vet ./...
	go tool staticcheck ./...

generate: ## regenerate BPF objects, protobuf and reference pages
	scripts/generate

generated: ## fail where a generated file is not current
	scripts/generate --check

bench: build ## run the benchmarks and write docs/reference/benchmarks.md (an hour or two; BENCH="meter flows" runs those)
	@[ "$$(id -u)" = 0 ] || { echo "benchmarks make network namespaces: run as root" >&2; exit 1; }
	bench/run $(BENCH)

bench-short: build ## run each benchmark briefly, to see that it works; asserts no time
	@[ "$$(id -u)" = 0 ] || { echo "benchmarks make network namespaces: run as root" >&2; exit 1; }
	bench/run --short >/dev/null

dist: build ## build tar.gz, Debian package and OCI image tarball into dist/
	scripts/dist

clean: ## remove what was built
	rm -rf bin dist
