# The project's vocabulary: "make help" lists it.

GO       ?= go
LINT     := $(GO) tool -modfile=tools/go.mod golangci-lint
VULN     := $(GO) tool -modfile=tools/go.mod govulncheck
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
FUZZTIME ?= 30s
# More for the program behind the target, as in: make demo ARGS='--dir /usr/share'
ARGS     ?=

# Where the program must build besides the machine at hand. Nothing needs cgo,
# apart from the race detector.
SYSTEMS  := darwin/arm64 linux/arm64 windows/amd64

.DEFAULT_GOAL := help
.PHONY: help needs build demo test fmt fmt-check vet lint cross unit race docs bench bench-api bench-beat bench-ops fuzz chaos vuln clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/stem, a static binary for this machine
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/ ./cmd/stem

demo: ## the main job on real files, a worker killed in the middle
	$(GO) run ./cmd/stem demo $(ARGS)

test: ## everything that a change must pass, generated docs included
	@start=$$(date +%s); for step in fmt-check vet cross lint race; do \
		echo "== $$step, after $$(($$(date +%s) - start)) s"; \
		$(MAKE) --no-print-directory $$step || exit 1; \
	done

fmt: ## format the code
	gofmt -w $$(git ls-files -co --exclude-standard '*.go')

fmt-check:
	@files=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); \
	if [ -n "$$files" ]; then echo "not formatted (make fmt does it):"; echo "$$files"; exit 1; fi

vet:
	$(GO) vet ./...
	cd bench && $(GO) vet ./...
	cd deploy/check && $(GO) vet ./...

lint: ## the linters, which also hold the arrows between packages
	$(LINT) run ./...

cross: ## build for the other systems
	@for s in $(SYSTEMS); do echo "build $$s"; \
		GOOS=$${s%/*} GOARCH=$${s#*/} CGO_ENABLED=0 $(GO) build ./... || exit 1; done

# What deploy/check reads is outside its module, where the cache of results sees no
# change: -count=1.
unit: ## the tests without the race detector: faster, for the loop while writing
	$(GO) test ./...
	cd deploy/check && $(GO) test -count=1 ./...

needs: ## install what the tests need and this machine lacks (Debian)
	@tools/need.sh gcc gcc libc6-dev
	@tools/need.sh python3 python3
	@tools/need.sh node nodejs
	@tools/need.sh redis-server redis-server
	@tools/need.sh redis-cli redis-tools
	@tools/need.sh sqlite3 sqlite3
	@tools/need.sh curl curl
	@tools/need.sh promtool prometheus
	@tools/need.sh systemd-analyze systemd

race: needs ## the tests under the race detector
	CGO_ENABLED=1 $(GO) test -race -timeout 8m ./...
	cd deploy/check && $(GO) test -count=1 ./...

docs: ## write the generated pages under docs/
	$(GO) run ./internal/docgen

bench: ## measure speed, beside others where they are built in
	cd bench && $(GO) run . $(ARGS)

bench-api: ## measure the HTTP API, each row of docs/performance.md
	$(GO) test -run '^$$' -bench 'BenchmarkPost|BenchmarkPull|BenchmarkWait' -benchtime 2s ./httpapi
	$(GO) test -run '^$$' -bench BenchmarkIdle -benchtime 1x ./httpapi

bench-beat: ## measure the scheduler, each row of docs/performance.md on SQLite
	cd bench && $(GO) run ./beat $(ARGS)

bench-ops: ## measure what operators do, each row of docs/performance.md
	cd bench && $(GO) run ./ops $(ARGS)

fuzz: ## each fuzz test for FUZZTIME
	GO='$(GO)' FUZZTIME='$(FUZZTIME)' ./tools/fuzz.sh

chaos: ## the fault tests in their full length
	STEM_CHAOS=full CGO_ENABLED=1 $(GO) test -race -count 1 -timeout 60m -v ./internal/chaos/... $(ARGS)
	STEM_CHAOS=full $(GO) test -count 1 -timeout 10m -v -run 'Cron|Day' ./schedule

vuln: ## known vulnerabilities in what the program uses; needs the database's site
	$(VULN) ./...

clean: ## remove what the targets above made
	rm -rf bin dist
