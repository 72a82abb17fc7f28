# make test does everything a change must pass: set-up, style, linters, every test
# incl. the real kernel in the testbed.

GO ?= go
LDFLAGS := -X main.revision=$(shell git describe --always --dirty --exclude '*' 2>/dev/null)

.PHONY: all build test check setup fuzz bench energy bench-testbed conformance bench-runtime clean

all: build

build: ## powerd, which is all; and powerd-oci, which is a part of it that starts faster
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o powerd ./cmd/powerd
	CGO_ENABLED=0 $(GO) build -trimpath -tags powerd_oci -ldflags '$(LDFLAGS)' -o powerd-oci ./cmd/powerd

setup: ## Debian packages that the tests need; installs what is missing when it may
	sh internal/testbed/setup.sh

check: ## style and linters
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "these files are not gofmt-ed" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) build -tags powerd_oci -o /dev/null ./cmd/powerd
	$(GO) tool staticcheck ./...

# One package at a time: a testbed node keeps both cores of a small machine busy, and what
# is measured in it must not compete with another package's tests.
test: setup check
	$(GO) test -p 1 -timeout 30m ./...

fuzz: ## every fuzz target, FUZZTIME each
	sh internal/tidy/fuzz.sh $(or $(FUZZTIME),30s)

bench: ## the cost of a tick on 128 cpus and 200 containers
	$(GO) test -run '^$$' -bench . -benchmem ./internal/daemon ./placement

energy: build ## powerd against governors and the limit on every simulated machine: writes docs/energy.md
	{ printf '# What powerd saves (modelled)\n\nMade on %s by `make energy`. [benchmarks.md](benchmarks.md) says what it means.\n\n' "$$(date -I)"; \
	./powerd bench -o markdown; } > docs/energy.md

bench-testbed: setup ## powerd against governors on a real kernel, by the node's meter: writes docs/testbed.md
	$(GO) test -count=1 -timeout 45m -run TestSavings -v ./cmd/powerd -savings

conformance: setup ## powerd-oci beside runc and crun: writes docs/oci-conformance.md, docs/crun-tests.md
	$(GO) test -count=1 -timeout 60m -run 'TestValidation|TestCrun' -v ./internal/conformance -update

bench-runtime: setup ## how long containers take to start, beside runc and crun: writes docs/startup.md
	$(GO) test -count=1 -timeout 30m -run TestStartup -v ./internal/conformance -startup

clean:
	rm -f powerd powerd-oci
