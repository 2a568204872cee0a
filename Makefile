# Gantry's workshop. `make run` and `make test` are all that a fresh Debian machine with Go needs, as root.
# Everything is linked without cgo; see ARCHITECTURE.md for the programs inside the one binary.

export CGO_ENABLED = 0
GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
TIME    := $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X gantry/internal/version.Version=$(VERSION) -X gantry/internal/version.Commit=$(COMMIT) -X gantry/internal/version.Time=$(TIME)
SMALL   := $(GO) build -trimpath -ldflags '-s -w'

.PHONY: build run test lint vet unit e2e vm bench soak clean

## build: leaves bin/gantry, one static binary with the other programs inside.
build:
	@mkdir -p $(BIN) cmd/engine/programs cmd/gantry/programs
	$(SMALL) -o cmd/engine/programs/init ./cmd/init
	$(SMALL) -o cmd/engine/programs/supervisor ./cmd/supervisor
	$(SMALL) -o cmd/engine/programs/relay ./cmd/relay
	$(GO) build -trimpath -tags embed -ldflags '$(LDFLAGS)' -o cmd/gantry/programs/engine ./cmd/engine
	$(GO) build -trimpath -tags embed -ldflags '$(LDFLAGS)' -o $(BIN)/gantry ./cmd/gantry

## run: builds, starts the engine if none runs, runs hello-world, then a real Debian.
run: build
	$(BIN)/gantry run --rm hello-world
	$(BIN)/gantry load -i "$$(test/images/make debian)"
	$(BIN)/gantry run --rm --network none debian cat /etc/os-release

## test: installs what the tests need, builds, and runs all of them.
test:
	test/deps
	$(MAKE) build lint unit e2e vm

lint: vet
	@files=$$(gofmt -l . 2>&1); if [ -n "$$files" ]; then echo "gofmt: run gofmt -w on:"; echo "$$files"; exit 1; fi
	$(GO) run -modfile=tools/go.mod honnef.co/go/tools/cmd/staticcheck ./...
	shellcheck -x $$(git ls-files | xargs awk 'FNR == 1 && /^#!\/(bin|usr\/bin\/env) ?\/?(ba)?sh/ { print FILENAME } { nextfile }')

vet:
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	for program in init supervisor relay engine gantry; do GOARCH=arm64 $(GO) build -o /dev/null ./cmd/$$program || exit 1; done

## unit: every package's own tests, under the race detector where the code under test runs in process.
unit:
	CGO_ENABLED=1 $(GO) test -race -timeout 30m ./...

## e2e: the built binary, real programs, the stock docker CLI, and a real dockerd beside it.
e2e: build
	$(GO) test -tags e2e -count=1 -timeout 40m ./test/e2e/...

## vm: what this machine's kernel cannot show, in a small virtual machine with cgroup v2.
vm: build
	test/vm/run

## bench: against a real dockerd in the same run; writes docs/bench.md.
bench: build
	$(GO) run ./test/bench

## soak: what takes hours: everything that is killed at random moments, GANTRY_SOAK_ROUNDS (200) times; 100,000 odd files.
soak: build
	GANTRY_SOAK=1 GANTRY_SOAK_ROUNDS=$${GANTRY_SOAK_ROUNDS:-200} $(GO) test -count=1 -timeout 6h -run '^TestKilled' ./internal/registry
	GANTRY_SOAK=1 GANTRY_SOAK_ROUNDS=$${GANTRY_SOAK_ROUNDS:-200} $(GO) test -tags e2e -count=1 -timeout 6h -run '^TestKilled|^TestFilesKeep|^TestBuildCorpus' ./test/e2e

clean:
	rm -rf $(BIN) cmd/engine/programs cmd/gantry/programs
