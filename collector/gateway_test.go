package collector

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// gateway is a v3-query gateway: InfluxDB serves none of this.
type gateway struct {
	mu         sync.Mutex
	statements []string
	respond    func(statement string) string // body of a response
	paths      []string                      // that it serves
}

func (g *gateway) RoundTrip(r *http.Request) (*http.Response, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	response := influxtest.FakeResponse(r, http.StatusNotFound, "404 page not found")
	for _, path := range g.paths {
		if path == r.URL.Path {
			statement := r.URL.Query().Get("q")
			g.statements = append(g.statements, statement)
			response = influxtest.FakeResponse(r, http.StatusOK, g.respond(statement))
		}
	}
	response.Header.Del("X-Influxdb-Version")
	return response, nil
}

// gatewayRow returns a response with one row of one column.
func gatewayRow(column, value string) string {
	return rowsOf(fmt.Sprintf("%q", column), "["+value+"]")
}

var gatewayResponses = map[string]string{
	"SELECT COUNT(sha256) AS dump_count FROM mem_dumps":                           gatewayRow("dump_count", "41"),
	"SELECT COUNT(DISTINCT vmid) AS unique_vms FROM mem_dumps":                    gatewayRow("unique_vms", "7"),
	"SELECT SUM(gzip_size_bytes) AS total_size FROM mem_dumps":                    gatewayRow("total_size", "9007199254740993"),
	"SELECT AVG(duration_sec) AS avg_duration FROM mem_dumps":                     gatewayRow("avg_duration", "2.5"),
	"SELECT time FROM mem_dumps ORDER BY time DESC LIMIT 1":                       gatewayRow("time", `"2025-11-11T10:30:00.5"`),
	`SELECT COUNT(DISTINCT "VMID") AS unique_vms FROM vm_info ` + gatewayLookback: gatewayRow("unique_vms", "5"),
}

const gatewayLookback = "WHERE time >= '2025-11-10T10:30:00Z' AND time < '2025-11-11T10:30:00.000000001Z'"

var gatewayValues = map[string]float64{
	"memdump_dumps": 41, "memdump_dumped_vms": 7, "memdump_dumps_compressed_bytes": 9007199254740992,
	"memdump_dump_duration_mean_seconds": 2.5, "memdump_last_dump_timestamp_seconds": 1762857000.5, "memdump_monitored_vms": 5,
}

func newGateway(paths ...string) *gateway {
	return &gateway{paths: paths, respond: func(statement string) string { return gatewayResponses[statement] }}
}

// TestGateway: the statements of the Python service are sent if the path of InfluxDB does not
// exist, or if a flag selects the gateway.
func TestGateway(t *testing.T) {
	for name, api := range map[string]influx.API{"detected": influx.APIAuto, "by a flag": influx.APIV3Query} {
		t.Run(name, func(t *testing.T) {
			g := newGateway("/api/v3/query")
			e := newExporter(t, newClientOver(t, g, influx.Config{API: api}), func(c *Config) { c.PerVM = 0 })
			for range 2 {
				got := scrape(t, e)
				got.wantTable(t, gatewayValues)
				got.wantValue(t, 1, "memdump_up")
				got.wantValue(t, 1, "memdump_influxdb_info", "api", "v3-query", "version", "unknown")
				wantReasons(t, e, nil)
			}
			for _, statement := range g.statements {
				if gatewayResponses[statement] == "" {
					t.Errorf("not a statement of the Python service: %s", statement)
				}
			}
			ctx, cancel := contextWithin(t, inspectWithin)
			defer cancel()
			for _, q := range e.Inspect(ctx).Queries {
				if gatewayResponses[q.Statement] == "" && q.Statement != "no query" {
					t.Errorf("%s: shown as %s", q.Query, q.Statement)
				}
			}
		})
	}
}

// TestGateway_perVM: a gateway has no queries for metrics per VM, which fail if they are enabled,
// and none for dumps per day.
func TestGateway_perVM(t *testing.T) {
	e := newExporter(t, newClientOver(t, newGateway("/api/v3/query"), influx.Config{API: influx.APIV3Query}))
	got := scrape(t, e)
	got.wantTable(t, gatewayValues)
	got.wantAbsent(t, "memdump_vm_dumps", "memdump_vm_info", "memdump_vms_omitted")
	got.wantValue(t, 0, "memdump_up")
	wantReasons(t, e, reasonsOf("refused", vmTotals, vmPlaces))
	ctx, cancel := contextWithin(t, inspectWithin)
	defer cancel()
	if o := e.Overview(ctx); o.DaysErr == nil || o.HasVMs {
		t.Errorf("days %v, VMs known: %v", o.Days, o.HasVMs)
	}
}

// TestGateway_notFound: a server with neither path is no InfluxDB.
func TestGateway_notFound(t *testing.T) {
	e := newExporter(t, newClientOver(t, newGateway(), influx.Config{}), func(c *Config) { c.PerVM = 0 })
	scrape(t, e).wantTable(t, nil)
	want := allReasons(e, "not_found")
	delete(want, "raw_bytes") // which has no query for a gateway
	wantReasons(t, e, want)
}

// TestGateway_responses: responses without exactly one valid value.
func TestGateway_responses(t *testing.T) {
	const dumpCount = "SELECT COUNT(sha256) AS dump_count FROM mem_dumps"
	const mean = "SELECT AVG(duration_sec) AS avg_duration FROM mem_dumps"
	const newest = "SELECT time FROM mem_dumps ORDER BY time DESC LIMIT 1"
	for name, tt := range map[string]struct {
		statement, body string
		query, metric   string
		reason          string // empty where there is no value, and no failure
	}{
		"no row":              {mean, noRows, "duration_mean", "memdump_dump_duration_mean_seconds", ""},
		"null":                {mean, gatewayRow("avg_duration", "null"), "duration_mean", "memdump_dump_duration_mean_seconds", ""},
		"no newest dump":      {newest, noRows, "last_dump", "memdump_last_dump_timestamp_seconds", ""},
		"two rows":            {dumpCount, rowsOf(`"dump_count"`, "[1],[2]"), "dumps", "memdump_dumps", "malformed"},
		"two columns":         {dumpCount, rowsOf(`"dump_count","other"`, "[1,2]"), "dumps", "memdump_dumps", "malformed"},
		"no column":           {dumpCount, rowsOf(`"time"`, "[1]"), "dumps", "memdump_dumps", "malformed"},
		"a text":              {dumpCount, gatewayRow("dump_count", `"1"`), "dumps", "memdump_dumps", "malformed"},
		"below zero":          {dumpCount, gatewayRow("dump_count", "-1"), "dumps", "memdump_dumps", "out_of_range"},
		"a time that is none": {newest, gatewayRow("time", `"soon"`), "last_dump", "memdump_last_dump_timestamp_seconds", "malformed"},
		"a rejection":         {dumpCount, rejected, "dumps", "memdump_dumps", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway("/api/v3/query")
			g.respond = func(statement string) string {
				if statement == tt.statement {
					return tt.body
				}
				return gatewayResponses[statement]
			}
			e := newExporter(t, newClientOver(t, g, influx.Config{API: influx.APIV3Query}), func(c *Config) { c.PerVM = 0 })
			got := scrape(t, e)
			want := maps.Clone(gatewayValues)
			delete(want, tt.metric)
			got.wantTable(t, want)
			reasons := make(map[string]string)
			if tt.reason != "" {
				reasons[tt.query] = tt.reason
			}
			wantReasons(t, e, reasons)
			got.wantValue(t, number01(tt.reason == ""), "memdump_up")
		})
	}
}

// TestGateway_names: names are quoted in SQL, too.
func TestGateway_names(t *testing.T) {
	g := newGateway("/api/v3/query")
	e := newExporter(t, newClientOver(t, g, influx.Config{API: influx.APIV3Query}), func(c *Config) {
		c.DumpsMeasurement, c.TelemetryMeasurements = `a"; DROP TABLE b`, []string{`Vm"s`}
	})
	scrape(t, e)
	for _, statement := range g.statements {
		if !strings.Contains(statement, ` FROM "a""; DROP TABLE b"`) && !strings.Contains(statement, ` FROM "Vm""s"`) {
			t.Errorf("not quoted: %s", statement)
		}
	}
}
