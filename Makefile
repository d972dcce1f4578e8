# What a user calls; .ci/run calls the same. `make help` lists it.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
PROMTOOL      := github.com/prometheus/prometheus/cmd/promtool@v0.316.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
STAMP    := github.com/prometheus/common/version
LDFLAGS  := -X $(STAMP).Version=$(VERSION) -X $(STAMP).Revision=$(REVISION)

# The race detector needs a C compiler.
RACE := $(shell command -v "$$(go env CC)" >/dev/null 2>&1 && echo -race)

.PHONY: all help build demo test bench faults sabotage check fmt vet lint imports rules vuln clean

all: check test build ## everything that CI does

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

build: ## bin/memdump_exporter
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/memdump_exporter ./cmd/memdump_exporter

demo: build ## the exporter on a real InfluxDB with believable data; with INFLUX_URL set, on that one
	go build -o bin/memdump_demo ./cmd/memdump_demo
	@exec bin/memdump_demo

test: ## all tests: unit, recordings, goldens, a real InfluxDB (built once, a minute)
	@$(if $(RACE),,echo 'race detector: not run, it needs a C compiler ($(shell go env CC))')
	go test $(RACE) -shuffle=on -timeout 15m ./...

bench: ## what a scrape costs, on a real InfluxDB with a million dumps (some ten minutes), into docs/cost.md
	go test -tags bench -run TestCost -timeout 60m -v ./collector -cost.table=$(CURDIR)/docs/cost.md
	go test -run '^$$' -bench . -benchmem ./influx ./collector

faults: ## what can go wrong around the exporter, 94 rows, on a real InfluxDB (some five minutes)
	cd cmd/memdump_exporter && go test -tags faults -run '^TestFaults$$' -timeout 20m

sabotage: ## the same rows with their guards switched off, one by one: each must fail
	cd cmd/memdump_exporter && go test -tags faults -run '^TestSabotage$$' -timeout 60m

check: fmt vet imports lint rules vuln ## everything that reads the code without running it

fmt:
	@unformatted="$$(gofmt -l cmd collector dashboards influx)"; \
	[ -z "$$unformatted" ] || { echo "not formatted (gofmt -w mends it): $$unformatted"; exit 1; }
	@go mod tidy -diff || { echo 'go.mod or go.sum is not tidy: go mod tidy mends it'; exit 1; }

vet:
	go vet ./...
	go vet -tags bench ./collector
	go vet -tags faults ./cmd/memdump_exporter

lint:
	go run $(GOLANGCI_LINT) run

# cmd → collector → influx → standard library; only tests and the demo know influxtest.
imports:
	@deps() { go list -deps -f '{{if not .Standard}}{{.ImportPath}}{{end}}' "$$@"; }; \
	must_not() { what=$$1; shift; ! grep "$$@" || { echo "imports: $$what"; exit 1; }; }; \
	deps ./influx | must_not 'influx must import the standard library only' -v '^memdump_exporter/influx$$' && \
	deps ./collector/ranges | must_not 'collector/ranges must import the standard library only' -v '^memdump_exporter/collector/ranges$$' && \
	deps ./collector | must_not 'collector must not import cmd' memdump_exporter/cmd && \
	deps ./cmd/memdump_exporter | must_not 'only tests and the demo may import influxtest' influxtest

# The one on PATH, such as Debian's package prometheus, or one built once, which takes minutes.
rules:
	@promtool=$$(command -v promtool || echo .cache/bin/promtool); \
	[ -x "$$promtool" ] || GOBIN=$(CURDIR)/.cache/bin go install $(PROMTOOL); \
	"$$promtool" check rules dashboards/alerts.yaml && "$$promtool" test rules dashboards/alerts_test.yaml

# Its database may be out of reach, which says nothing about the code.
vuln:
	@mkdir -p .cache
	@go run $(GOVULNCHECK) ./... >.cache/govulncheck 2>&1; code=$$?; \
	if [ $$code -eq 0 ]; then tail -1 .cache/govulncheck; \
	elif [ $$code -eq 3 ] || grep -q '^Vulnerability #' .cache/govulncheck; then cat .cache/govulncheck; exit 1; \
	else echo "vulnerabilities: not checked ($$(grep -v '^exit status' .cache/govulncheck | tail -1))"; fi

clean: ## removes what was built here
	rm -rf bin .cache
