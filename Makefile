# weft: see README.md. `make help` lists the targets.
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X weft/internal/version.Version=$(VERSION)

.PHONY: help build
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

build: ## build bin/weft and bin/weft-agent
	@mkdir -p bin
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/weft ./cmd/weft
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/weft-agent ./cmd/weft-agent
