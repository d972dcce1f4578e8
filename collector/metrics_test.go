package collector

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// sentStatements returns every kind of statement that the exporter sends to InfluxDB.
func sentStatements(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, files := range []int{0, 3} { // by full queries, and by time ranges
		fake := &influxtest.Fake{}
		for day := range 40 {
			h := aged(t, fmt.Sprintf("mem_dumps,dom=a,vmid=%d %dh", day, 24*day), fmt.Sprintf("vm_totals,VMID=1,name=a %dm", 30*day))
			fake.Add(h.Points(influxtest.Dumps)...)
			fake.Add(h.Points(influxtest.Telemetry)...)
		}
		if files > 0 {
			fake.LimitFiles(files)
		}
		e := newExporter(t, newClientOver(t, fake, influx.Config{}))
		scrape(t, e).wantValue(t, 1, "memdump_up")
		e.Examine(t.Context())
		ctx, cancel := contextWithin(t, time.Minute)
		b := e.newBatch(ctx, time.Now().Add(time.Minute))
		if _, err := b.days(); err != nil {
			t.Error(err)
		}
		cancel()
		backfill := Backfill{From: recordedNow.Add(-30 * 24 * time.Hour), To: recordedNow, Every: 24 * time.Hour, Timeout: time.Minute}
		if err := e.Backfill(t.Context(), backfill, func(Step) error { return nil }); err != nil {
			t.Error(err)
		}
		if unknown := fake.Unknown(); len(unknown) > 0 {
			t.Errorf("the fake does not support %q", unknown)
		}
		all = append(all, fake.Statements()...)
	}
	// Where there is no telemetry, other measurements are looked at.
	fake := &influxtest.Fake{}
	fake.Intercept(func(r *http.Request) (*http.Response, error) {
		if statement := r.URL.Query().Get("q"); statement == "SHOW MEASUREMENTS" {
			return influxtest.FakeResponse(r, http.StatusOK, rowsOf(`"name"`, `["other"]`)), nil
		}
		return nil, nil
	})
	newExporter(t, newClientOver(t, fake, influx.Config{})).Examine(t.Context())
	all = append(all, fake.Statements()...)
	slices.Sort(all)
	return slices.Compact(all)
}

var (
	fromList   = regexp.MustCompile(` FROM ("[^"]*"[.,]?)+`)
	groupBy    = regexp.MustCompile(` GROUP BY ("[^"]*",?)+`)
	aliasName  = regexp.MustCompile(` AS "([^"]*)"`)
	identifier = regexp.MustCompile(`"[^"]*"(::[a-z]+)?`)
	limited    = regexp.MustCompile(` (LIMIT|OFFSET) `)
)

// newestOfSeries selects the newest point of each series, for which servers return one row or more.
// influxtest/testdata/recordings/README.md
var newestOfSeries = regexp.MustCompile(`^SELECT \*::field FROM .* GROUP BY \* ORDER BY time DESC LIMIT 1$`)

// TestStatements: InfluxDB 3.8 and later count the values of each field for LIMIT and OFFSET, and
// a tag and a field may have the same name.
func TestStatements(t *testing.T) {
	statements := sentStatements(t)
	for _, prefix := range []string{"SHOW FIELD KEYS", "SHOW TAG KEYS", "SHOW MEASUREMENTS", "SELECT " + historyColumns, "SELECT *::field"} {
		if !slices.ContainsFunc(statements, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			t.Errorf("no statement begins with %s", prefix)
		}
	}
	for _, q := range slices.Concat(queries, perVMQueries, []query{daysQuery}) {
		if !slices.ContainsFunc(statements, func(s string) bool { return strings.HasPrefix(s, "SELECT "+q.columns+" FROM") }) {
			t.Errorf("no statement is that of the query %s", q.name)
		}
	}
	for _, statement := range statements {
		if fields := strings.Count(statement, "::field"); limited.MatchString(statement) && fields > 1 {
			t.Errorf("%d fields with LIMIT or OFFSET: %s", fields, statement)
		}
		if strings.Contains(statement, "*") && !newestOfSeries.MatchString(statement) {
			t.Errorf("all fields of another kind of statement: %s", statement)
		}
		names := statement
		for _, part := range []*regexp.Regexp{fromList, groupBy, aliasName} {
			names = part.ReplaceAllString(names, "")
		}
		for _, name := range identifier.FindAllString(names, -1) {
			if !strings.HasSuffix(name, "::tag") && !strings.HasSuffix(name, "::field") {
				t.Errorf("%s is no tag and no field: %s", name, statement)
			}
		}
	}
}

// TestStatements_columns: no two queries have the same columns, so that their responses can't be confused.
func TestStatements_columns(t *testing.T) {
	owner := make(map[string]string)
	for _, q := range queries {
		for _, alias := range aliasName.FindAllStringSubmatch(q.columns, -1) {
			if other := owner[alias[1]]; other != "" {
				t.Errorf("the queries %s and %s both have the column %s", other, q.name, alias[1])
			}
			owner[alias[1]] = q.name
		}
	}
}

// TestStatements_names: names of measurements and policies are quoted in every statement.
func TestStatements_names(t *testing.T) {
	const hostile = `a"; DROP MEASUREMENT "b\`
	quoted := influx.Ident(hostile)
	fake := &influxtest.Fake{}
	e := newExporter(t, newClientOver(t, fake, influx.Config{}), func(c *Config) {
		c.DumpsMeasurement, c.DumpsPolicy = hostile, hostile
		c.TelemetryMeasurements, c.TelemetryPolicy = []string{hostile, hostile}, hostile
	})
	scrape(t, e)
	for _, statement := range fake.Statements() {
		if !strings.Contains(statement, " FROM "+quoted+"."+quoted) {
			t.Errorf("not the policy and the measurement: %s", statement)
		}
		if rest := strings.ReplaceAll(statement, quoted, ""); strings.Contains(rest, "DROP") {
			t.Errorf("a name leaves its quotes: %s", statement)
		}
	}
}

// TestMetrics_help: the help of a metric is one sentence, and its name follows the rules of
// Prometheus.
func TestMetrics_help(t *testing.T) {
	text := scrape(t, newMemory(t).exporter(t)).text
	for _, name := range tableMetrics() {
		if !strings.Contains(text, "# HELP "+name+" ") {
			t.Errorf("%s has no help", name)
		}
	}
	for _, line := range strings.Split(text, "\n") {
		name, help, _ := strings.Cut(strings.TrimPrefix(line, "# HELP "), " ")
		if !strings.HasPrefix(line, "# HELP memdump_") {
			continue
		}
		if !strings.HasSuffix(help, ".") || strings.Contains(strings.TrimSuffix(help, "."), ". ") {
			t.Errorf("%s: not one sentence: %s", name, help)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("%s: %s", problem.Metric, problem.Text)
	}
}

// TestQueries_values: values in a response that are impossible, or not a number.
func TestQueries_values(t *testing.T) {
	const vmColumns = `"time","dumps","compressed","raw","seconds","timed"`
	for name, tt := range map[string]struct {
		query, columns, rows, reason string
	}{
		"a sum that wrapped":                {"compressed_bytes", `"time","compressed"`, `[0,-5]`, "out_of_range"},
		"a sum beyond 64 bits":              {"compressed_bytes", `"time","compressed"`, `[0,18446744073709551616]`, ""},
		"a sum that is a text":              {"compressed_bytes", `"time","compressed"`, `[0,"1"]`, "malformed"},
		"a sum that is a boolean":           {"raw_bytes", `"time","raw"`, `[0,true]`, "malformed"},
		"a sum under another name":          {"raw_bytes", `"time","compressed"`, `[0,1]`, "malformed"},
		"two sums that overflow":            {"raw_bytes", `"time","raw"`, `[0,9223372036854775807],[0,1]`, "out_of_range"},
		"two infinite sums":                 {"raw_bytes", `"time","raw"`, `[0,1e308],[0,1.7e308]`, "out_of_range"},
		"a sum beyond a float64":            {"raw_bytes", `"time","raw"`, `[0,1e309]`, "malformed"},
		"a count that is a float":           {"dumps", `"time","dumps"`, `[0,1.5]`, "malformed"},
		"a count below zero":                {"dumps", `"time","dumps"`, `[0,-1]`, "out_of_range"},
		"a count under another name":        {"dumps", `"time","count"`, `[0,1]`, "malformed"},
		"counts that overflow":              {"dumps", `"time","dumps"`, `[0,9223372036854775807],[0,1]`, "out_of_range"},
		"a duration without a count":        {"duration_mean", `"time","sum","mean"`, `[0,1,1]`, "malformed"},
		"durations below zero":              {"duration_mean", `"time","sum","count","mean"`, `[0,-4,2,-2]`, "out_of_range"},
		"a count below zero of durations":   {"duration_mean", `"time","sum","count","mean"`, `[0,4,-2,-2]`, "out_of_range"},
		"a mean that misses a dump":         {"duration_mean", `"time","sum","count","mean"`, `[0,700,11,70]`, "out_of_range"},
		"a mean of short dumps":             {"duration_mean", `"time","sum","count","mean"`, `[0,0.0005,5,0.000100001]`, "out_of_range"},
		"a mean that is a text":             {"duration_mean", `"time","sum","count","mean"`, `[0,1,1,"1"]`, "malformed"},
		"durations whose sum is null":       {"duration_mean", `"time","sum","count","mean"`, `[0,null,3,null]`, "malformed"},
		"durations without their sum":       {"duration_mean", `"time","count","mean"`, `[0,1,1]`, "malformed"},
		"a dump at a time that is none":     {"last_dump", `"time","last"`, `["soon","x"]`, "malformed"},
		"a dump without a time":             {"last_dump", `"last"`, `["x"]`, "malformed"},
		"a VM's newest dump at no time":     {"dumped_vms", `"time","newest"`, `["soon","x"]`, "malformed"},
		"a VM's telemetry at no time":       {"monitored_vms", `"time","state"`, `["soon",1]`, "malformed"},
		"a VM's dumps below zero":           {"vm_totals", vmColumns, `[0,-1,5,null,null,0]`, "out_of_range"},
		"a VM's bytes below zero":           {"vm_totals", vmColumns, `[0,1,-5,null,null,0]`, "out_of_range"},
		"a VM's bytes under another name":   {"vm_totals", `"time","dumps","bytes"`, `[0,1,5]`, "malformed"},
		"a VM's place at no time":           {"vm_places", `"time","sha256","host"`, `["soon","x","h"]`, "malformed"},
		"a VM's place with a number a host": {"vm_places", `"time","sha256","host"`, `[0,"x",5]`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			e := m.exporter(t)
			prefix := "SELECT " + e.query(tt.query).columns + " FROM"
			fake := &m.Fake
			fake.Intercept(func(r *http.Request) (*http.Response, error) {
				if strings.HasPrefix(r.URL.Query().Get("q"), prefix) {
					return influxtest.FakeResponse(r, http.StatusOK, rowsOf(tt.columns, tt.rows)), nil
				}
				return nil, nil
			})
			got := scrape(t, e)
			want := make(map[string]string)
			if tt.reason != "" {
				want[tt.query] = tt.reason
				for _, metric := range e.query(tt.query).metrics {
					got.wantAbsent(t, metric.name)
				}
			}
			wantReasons(t, e, want)
		})
	}
}

// TestQueries_numbers: numbers in all forms that servers write.
func TestQueries_numbers(t *testing.T) {
	for name, tt := range map[string]struct {
		query, columns, rows string
		want                 map[string]float64 // by name without memdump_
	}{
		"a count of nothing": {
			query: "dumps", columns: `"time","dumps"`, rows: `[0,null]`,
			want: map[string]float64{"dumps": 0},
		},
		"a whole float": {
			query: "dumps", columns: `"time","dumps"`, rows: `[0,41.0]`,
			want: map[string]float64{"dumps": 41},
		},
		"beyond 2^53": {
			query: "compressed_bytes", columns: `"time","compressed"`, rows: `[0,9007199254740993]`,
			want: map[string]float64{"dumps_compressed_bytes": 9007199254740992},
		},
		"beyond 64 bits": {
			query: "raw_bytes", columns: `"time","raw"`, rows: `[0,1e20]`,
			want: map[string]float64{"dumps_raw_bytes": 1e20},
		},
		"a fraction": {
			query: "raw_bytes", columns: `"time","raw"`, rows: `[0,1.5],[0,2]`,
			want: map[string]float64{"dumps_raw_bytes": 3.5},
		},
		"a sum of nothing": {
			query: "raw_bytes", columns: `"time","raw"`, rows: `[0,null]`,
			want: map[string]float64{"dumps_raw_bytes": 0},
		},
		"durations of nothing": {
			query: "duration_mean", columns: `"time","sum","count","mean"`, rows: `[0,null,0,null]`,
			want: map[string]float64{"dumps_duration_seconds": 0, "dumps_with_duration": 0},
		},
		"durations of no time": {
			query: "duration_mean", columns: `"time","sum","count","mean"`, rows: `[0,0,3,0]`,
			want: map[string]float64{"dump_duration_mean_seconds": 0, "dumps_with_duration": 3},
		},
		"a rounded mean": {
			query: "duration_mean", columns: `"time","sum","count","mean"`, rows: `[0,40000000000,4,10000000000.000002]`,
			want: map[string]float64{"dump_duration_mean_seconds": 1e10},
		},
		"durations without a mean": {
			query: "duration_mean", columns: `"time","sum","count","mean"`, rows: `[0,9,3,null]`,
			want: map[string]float64{"dump_duration_mean_seconds": 3},
		},
		"a time before 1970": {
			query: "last_dump", columns: `"time","last"`, rows: `[-1500000000,"x"]`,
			want: map[string]float64{"last_dump_timestamp_seconds": -1.5},
		},
		"a time in text": {
			query: "last_dump", columns: `"time","last"`, rows: `["1970-01-01T00:00:01.5Z","x"]`,
			want: map[string]float64{"last_dump_timestamp_seconds": 1.5},
		},
		"an empty hash counts as a dump": {
			query: "last_dump", columns: `"time","last"`, rows: `[1000000000,""]`,
			want: map[string]float64{"last_dump_timestamp_seconds": 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			e := m.exporter(t)
			prefix := "SELECT " + e.query(tt.query).columns + " FROM"
			m.Intercept(func(r *http.Request) (*http.Response, error) {
				if strings.HasPrefix(r.URL.Query().Get("q"), prefix) {
					return influxtest.FakeResponse(r, http.StatusOK, rowsOf(tt.columns, tt.rows)), nil
				}
				return nil, nil
			})
			got := scrape(t, e)
			for _, metric := range e.query(tt.query).metrics {
				if value, there := tt.want[strings.TrimPrefix(metric.name, "memdump_")]; there {
					got.wantValue(t, value, metric.name)
				} else if strings.Contains(metric.name, "mean") {
					got.wantAbsent(t, metric.name)
				}
			}
			got.wantValue(t, 1, "memdump_up")
		})
	}
}
