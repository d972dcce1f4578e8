# The commands for users and for .ci/run. `make help` lists them.

GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
PROMETHEUS    := github.com/prometheus/prometheus/cmd
PROMETHEUS_AT := v0.316.0
ACTIONLINT    := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
COMPOSE       := github.com/compose-spec/compose-go/v2/cmd@v2.16.2
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.9.0

# The output of --version, from the commit only: equal sources give equal bytes.
VERSION  ?= $(patsubst v%,%,$(shell git describe --tags --always --dirty 2>/dev/null || echo unknown))
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
BRANCH   ?= $(shell git rev-parse --abbrev-ref HEAD 2>/dev/null || echo unknown)
DATE     ?= $(shell TZ=UTC git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo unknown)
STAMP    := github.com/prometheus/common/version
LDFLAGS   = -s -w -X $(STAMP).Version=$(VERSION) -X $(STAMP).Revision=$(REVISION) -X $(STAMP).Branch=$(BRANCH) -X $(STAMP).BuildDate=$(DATE)

FUZZTIME ?= 10s
SOAKTIME ?= 1h

# The proxy of the suites faults and soak, in a module of its own.
TOXIPROXY := cmd/memdump_exporter/testdata/toxiproxy

# The race detector needs a C compiler.
RACE := $(shell command -v "$$(go env CC)" >/dev/null 2>&1 && echo -race)

# need NAME finds a program of Prometheus in PATH, such as that of Debian's package prometheus, or builds it
# once without the service discoveries, which takes minutes.
export PATH := $(PATH):$(CURDIR)/.cache/bin
need = command -v $(1) >/dev/null || GOBIN=$(CURDIR)/.cache/bin go install -tags remove_all_sd $(PROMETHEUS)/$(1)@$(PROMETHEUS_AT)

.PHONY: all help build reproducible image demo test servers test-metric test-servers test-image test-kubernetes test-prometheus bench picture load soak faults fuzz check fmt vet lint imports rules units workflows compose vuln clean

all: check test test-metric test-prometheus reproducible ## check and test, as .ci/run does before fuzzing

help: ## print this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

build: ## build bin/memdump_exporter
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/memdump_exporter ./cmd/memdump_exporter

reproducible: build ## compare the binary with one built in another folder
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cp -r Makefile go.mod go.sum cmd collector docs influx "$$dir" && \
	GOCACHE="$$dir/.cache" $(MAKE) -C "$$dir" build $(foreach v,VERSION REVISION BRANCH DATE,$(v)='$($(v))') && \
	cmp bin/memdump_exporter "$$dir/bin/memdump_exporter" && sha256sum bin/memdump_exporter

# For another engine: make image ENGINE=podman.
ENGINE ?= docker
IMAGE  ?= memdump_exporter
image: ## build a container image of this commit
	$(ENGINE) build $(foreach v,VERSION REVISION BRANCH DATE,--build-arg $(v)='$($(v))') -t $(IMAGE):$(VERSION) $(IMAGE_FLAGS) .

demo: build ## run the exporter on a real InfluxDB, or that of INFLUX_URL, with generated data
	go build -o bin/memdump_demo ./cmd/memdump_demo
	@exec bin/memdump_demo

test: ## run the tests; builds a real InfluxDB once (a minute)
	@$(if $(RACE),,echo 'race detector: not run, it needs a C compiler ($(shell go env CC))')
	go test $(RACE) -shuffle=on -timeout 15m ./...
	cd deploy/test && go test -shuffle=on -count=1 ./...

servers: ## build InfluxDB 1.13.2 and 2.7.12 once (ten minutes each; needs cargo and a C compiler)
	go run ./influx/influxtest/servers

test-servers: ## compare the metrics with the data on all servers, also of INFLUXD, INFLUXDB3, TEST_SERVERS
	cd cmd/memdump_exporter && go test -tags servers -run '^TestServers$$' -count=1 -parallel 4 -timeout 30m

test-metric: ## add a metric to a copy by the steps of the README (a minute)
	go test -tags metric -run '^TestREADME_addingAMetric$$' -count=1 -timeout 15m ./cmd/memdump_exporter

test-kubernetes: ## test deploy/ on a real API server and prometheus-operator (minutes to build, once)
	@cd deploy/test && go mod tidy -diff || { echo 'deploy/test/go.mod or go.sum is not tidy: go mod tidy mends it'; exit 1; }
	cd deploy/test && go vet -tags kubernetes ./... && go run $(GOLANGCI_LINT) run --build-tags kubernetes && \
	go test -tags kubernetes -run TestKubernetes -count=1 -timeout 30m -v .

test-systemd: ## test docs/install.md on systemd 247 and 252 (as root, with apt)
	cd deploy/test && go test -tags systemd -run '^TestSystemd$$' -count=1 -timeout 20m -v .

test-prometheus: ## test metrics, rules and dashboard with a real Prometheus
	@$(call need,prometheus)
	@$(call need,promtool)
	go test -tags prometheus -run '^TestPrometheus' -count=1 -timeout 10m -v ./cmd/memdump_exporter

test-image: build ## build the image with buildah, and run it
	deploy/image_test.sh

bench: ## measure the cost of a scrape on all servers, into docs/cost.md (up to an hour)
	go test -tags bench -run TestCost -timeout 60m -v ./collector -cost.table=$(CURDIR)/docs/cost.md
	go test -run '^$$' -bench . -benchmem ./influx ./collector

picture: ## take docs/page.png, the picture in the README (needs chromium)
	go test -run '^TestPage_picture$$' -count=1 ./cmd/memdump_exporter -pictures $(CURDIR)/docs

load: ## test a thousand scrapers at once, also on promhttp's default handler
	go test -tags load -count=1 -run TestLoad -v ./cmd/memdump_exporter

soak: ## test for SOAKTIME (1h) under faults, on a real InfluxDB
	go test -tags soak -count=1 -run TestSoak -timeout 0 -v ./cmd/memdump_exporter -soak.duration $(SOAKTIME)

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@for package in influx collector collector/records cmd/memdump_exporter; do \
		for target in $$(go test -list '^Fuzz' ./$$package | grep '^Fuzz'); do \
			echo "$$target" && go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) ./$$package || exit 1; \
		done; \
	done

faults: ## test 94 faults around the exporter, on a real InfluxDB (five minutes)
	cd cmd/memdump_exporter && go test -tags faults -run '^TestFaults' -timeout 25m

check: fmt vet imports lint rules units workflows compose vuln ## run the static checks

fmt:
	@unformatted="$$(gofmt -l cmd collector dashboards deploy docs influx)"; \
	[ -z "$$unformatted" ] || { echo "not formatted (gofmt -w mends it): $$unformatted"; exit 1; }
	@for module in . $(TOXIPROXY); do \
		(cd $$module && go mod tidy -diff) || { echo "go.mod or go.sum of $$module is not tidy: go mod tidy mends it"; exit 1; }; \
	done

vet:
	go vet ./...
	go vet -tags bench,faults,load,metric,prometheus,servers,soak ./...
	cd deploy/test && go vet ./...
	cd $(TOXIPROXY) && go vet ./...

lint:
	go run $(GOLANGCI_LINT) run
	cd deploy/test && go run $(GOLANGCI_LINT) run
	cd $(TOXIPROXY) && go run $(GOLANGCI_LINT) run

# cmd → collector → influx → standard library; only tests and the demo import influxtest.
imports:
	@deps() { go list -deps -f '{{if not .Standard}}{{.ImportPath}}{{end}}' "$$@"; }; \
	must_not() { what=$$1; shift; ! grep "$$@" || { echo "imports: $$what"; exit 1; }; }; \
	deps ./influx | must_not 'influx must import the standard library only' -v '^memdump_exporter/influx$$' && \
	deps ./collector/rangecache | must_not 'collector/rangecache must import the standard library only' -v '^memdump_exporter/collector/rangecache$$' && \
	deps ./collector/records | must_not 'collector/records must import influx and the standard library only' -Ev '^memdump_exporter/(collector/records|influx)$$' && \
	deps ./collector | must_not 'collector must not import cmd' memdump_exporter/cmd && \
	deps ./docs | must_not 'docs must import the standard library only' -v '^memdump_exporter/docs$$' && \
	deps ./cmd/memdump_exporter | must_not 'only tests and the demo may import influxtest' influxtest

rules:
	@$(call need,promtool)
	@promtool check rules dashboards/alerts.yaml && { \
	promtool test rules dashboards/alerts_days_test.yaml & days=$$!; \
	promtool test rules dashboards/alerts_test.yaml; code=$$?; wait $$days && exit $$code; }
	@mkdir -p .cache/prometheus && cp deploy/compose/prometheus.yaml dashboards/alerts.yaml .cache/prometheus && \
	promtool check config .cache/prometheus/prometheus.yaml

# systemd's own checks of the units. The threshold 15 is an exposure of 1.5.
units: build
	@command -v systemd-analyze >/dev/null || { echo 'units: not checked: no systemd-analyze here'; exit 0; }; \
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && cp deploy/systemd/memdump_exporter.* "$$dir" && \
	sed -i 's|/usr/bin/memdump_exporter|$(CURDIR)/bin/memdump_exporter|' "$$dir/memdump_exporter.service" && cd "$$dir" && \
	output=$$(systemd-analyze verify ./memdump_exporter.service ./memdump_exporter.socket 2>&1) && [ -z "$$output" ] || { echo "units: $$output"; exit 1; }; \
	{ systemd-analyze security --no-pager --offline=true --threshold=15 ./memdump_exporter.service >score; code=$$?; grep Overall score; exit $$code; }

workflows:
	go run $(ACTIONLINT)

# Checks the file by the compose specification. Compose would create a folder for a mounted file that is missing.
compose:
	@mkdir -p .cache && (cd deploy/compose && go run $(COMPOSE) compose.yaml) >.cache/compose.yaml && \
	for file in $$(sed -n 's/^ *source: \(\/.*\)/\1/p' .cache/compose.yaml); do [ -f "$$file" ] || { echo "compose: no $$file"; exit 1; }; done

# An unreachable database of vulnerabilities is not a fault of the code.
vuln:
	@mkdir -p .cache
	@go run $(GOVULNCHECK) ./... >.cache/govulncheck 2>&1; code=$$?; \
	if [ $$code -eq 0 ]; then tail -1 .cache/govulncheck; \
	elif [ $$code -eq 3 ] || grep -q '^Vulnerability #' .cache/govulncheck; then cat .cache/govulncheck; exit 1; \
	else echo "vulnerabilities: not checked ($$(grep -v '^exit status' .cache/govulncheck | tail -1))"; fi

clean: ## remove the built files
	rm -rf bin .cache
