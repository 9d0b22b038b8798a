# Lighter: five static programs and docker-init.  make, make test, make demo, make lint, make bench, make crash

SHELL   := /bin/bash
GO      ?= go
VERSION ?= 0.1.0-dev
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
DATE    ?= $(shell git log -1 --format=%cI 2>/dev/null)

PROGRAMS := docker dockerd containerd containerd-shim-runc-v2 runc docker-init docker-buildkitd docker-build
LDFLAGS  := -s -w -X lighter/internal/version.Version=$(VERSION) \
            -X lighter/internal/version.GitCommit=$(COMMIT) -X lighter/internal/version.BuildTime=$(DATE)

export CGO_ENABLED = 0
export GOTOOLCHAIN ?= local

# golangci-lint pins old analysers; vet and staticcheck say the same with less.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: man all build clean test test-unit test-integration test-all lint demo crash bench install help

all: build

build: ## the programs, in bin/
	@command -v $(GO) >/dev/null || { echo "make: Go is missing: install Go $$(sed -n 's/^go //p' go.mod) or newer (https://go.dev/dl) and put it on PATH" >&2; exit 1; }
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

install: build ## into $(DESTDIR)$(PREFIX)/bin, and the systemd units
	install -D -t $(DESTDIR)$(or $(PREFIX),/usr/local)/bin $(addprefix bin/,$(PROGRAMS))
	install -D -m 644 -t $(DESTDIR)$(or $(PREFIX),/usr/local)/lib/systemd/system packaging/systemd/docker.service packaging/systemd/docker.socket
	sed -i "s,/usr/bin/dockerd,$(or $(PREFIX),/usr/local)/bin/dockerd," $(DESTDIR)$(or $(PREFIX),/usr/local)/lib/systemd/system/docker.service

test: ## everything that CI runs: lint, unit tests, integration tests
	./test/run quick

test-unit: ## needs no root
	$(GO) test ./cli/... ./cmd/... ./builder/... ./containerd/... ./engine/... ./internal/... ./runc/... ./shim/...

test-integration: build ## starts private daemons, needs root
	./test/run integration

test-all: ## the slow tier too
	./test/run all

lint: ## gofmt, vet, staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt would change:" $$out >&2; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

man: ## docker's manual pages, in man/man1
	$(GO) run ./cmd/docker/man man/man1

demo: build ## shows the main job on a private daemon, then cleans up
	./test/demo

crash: build ## commits N faults chosen by SEED, or the one that POINT names (docs/RELIABILITY.md)
	LIGHTER_BIN=$(CURDIR)/bin $(GO) test -count=1 -timeout=24h -v -run TestKillPoints ./test/crash -args \
		-crash.n=$(or $(N),1000) -crash.seed=$(or $(SEED),1) -crash.point='$(POINT)' -crash.history=$(or $(HISTORY),/tmp/lighter-crash.jsonl)

bench: build ## ours against the stock engine, into docs/BENCHMARKS.md's table
	./test/bench/run

clean:
	rm -rf bin man

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile
