package main

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// truthRow is a history and what /metrics must hold of it.
type truthRow struct {
	history *influxtest.History // what the database holds; nil: there is no database
	deleted []influxtest.Point  // what was written and deleted again
	want    func(expected) expected
	args    []string
	files   int // how many files InfluxDB reads at most for one query; 0: any number
}

// TestTruth compares the first scrape of the built exporter, on a real InfluxDB, with what
// was written.
func TestTruth(t *testing.T) {
	server := influxdb.Server(t)
	for name, tt := range truthRows(time.Now()) {
		t.Run(name, func(t *testing.T) { tt.holds(t, server, "db "+name) })
	}
}

// truthRows are the situations that an exporter may find, by name.
func truthRows(now time.Time) map[string]truthRow {
	monitored := []influxtest.Point{sample("1", now.Add(-time.Minute), map[string]any{"cpu": 1.0})}
	of := func(points ...influxtest.Point) *influxtest.History {
		h := &influxtest.History{}
		h.Add(points...)
		return h
	}
	both := func(points ...influxtest.Point) *influxtest.History { return of(append(points, monitored...)...) }
	gone := dump("1", now.Add(-time.Hour), first(5))
	var dumpQueries []string
	for query := range metricsOf {
		if query != "monitored_vms" {
			dumpQueries = append(dumpQueries, query)
		}
	}

	return map[string]truthRow{
		"no database":    {want: func(expected) expected { return allFail("database_not_found") }},
		"empty database": {history: of(), want: func(expected) expected { return allFail("measurement_missing") }},
		"one point": {history: of(dump("1", now, first(5))),
			want: func(e expected) expected { return e.but("measurement_missing", "monitored_vms") }},
		"telemetry alone": {history: of(monitored...),
			want: func(e expected) expected { return e.but("measurement_missing", dumpQueries...) }},
		// The other point keeps the measurement and its fields in InfluxDB's schema.
		"measurement without rows": {history: both(dump("2", now, map[string]any{"other": 1})), deleted: []influxtest.Point{gone},
			want: func(e expected) expected {
				// The generator has not seen the fields of the deleted point.
				return e.with(map[string]float64{
					"memdump_dumps_compressed_bytes": 0, "memdump_dumps_duration_seconds": 0, "memdump_dumps_with_duration": 0,
				})
			}},
		"believable history":    {history: influxtest.Believable(7, now)},
		"believable, in ranges": {history: influxtest.Believable(8, now), files: 100},
		"without vmid":          {history: both(dump("", now, first(5)), dump("1", now, first(6)))},
		"no vmid at all": {history: both(dump("", now, first(5))),
			want: func(e expected) expected { return e.but("tag_missing", "dumped_vms") }},
		"no VMID at all": {history: of(dump("1", now, first(5)), point(influxtest.Telemetry, now, map[string]any{"VMID": "1"}, nil)),
			want: func(e expected) expected { return e.but("tag_missing", "monitored_vms") }},
		"without sha256": {history: both(dump("1", now, first(5)),
			dump("2", now.Add(time.Second), map[string]any{"duration_sec": 4.0, "gzip_size_bytes": 7}))},
		"no sha256 at all": {history: both(dump("1", now, map[string]any{"duration_sec": 4.0, "gzip_size_bytes": 7, "raw_size_bytes": 7})),
			want: func(e expected) expected { return e.but("field_missing", "dumps", "dumped_vms", "last_dump") }},
		"both writers":        {history: both(dump("1", now.Add(-time.Hour), first(5)), dump("2", now, second()))},
		"second writer alone": {history: both(dump("2", now, second()))},
		"equal times":         {history: both(dump("1", now, first(5)), dump("2", now, first(6)), dump("3", now, second()))},
		"in the future":       {history: both(dump("1", now.Add(30*24*time.Hour), first(5)), dump("2", now, first(6)))},
		"before 1970":         {history: both(dump("1", time.Unix(-1e9, 0), first(5)))},
		"sum beyond 2^53":     {history: both(dump("1", now, first(1<<53)), dump("2", now, first(3)), dump("3", now, first(1<<53+1)))},
		"sum up to 2^63":      {history: both(dump("1", now, first(math.MaxInt64-9)), dump("2", now, first(9)))},
		"sum beyond 2^63": {history: both(dump("1", now, first(math.MaxInt64)), dump("2", now, first(9))),
			want: func(e expected) expected { return e.but("out_of_range", "compressed_bytes") }},
		"different fields": {history: of(dump("1", now, first(5)),
			sample("1", now.Add(-time.Hour), map[string]any{"cpu": 1.0}), sample("2", now.Add(-2*time.Hour), map[string]any{"mem": 2.0}),
			sample("3", now.Add(-23*time.Hour), map[string]any{"disk": 3.0}), sample("4", now.Add(-25*time.Hour), map[string]any{"cpu": 1.0}),
			sample("", now.Add(-time.Hour), map[string]any{"cpu": 1.0}))},
		"nobody monitored now": {history: of(dump("1", now, first(5)), sample("1", now.Add(-25*time.Hour), map[string]any{"cpu": 1.0}))},
		"hostile names": {history: both(
			dump(`a"b'c\d,e f=g`, now, first(5)), dump("ünï-日本", now, first(6)), dump(`;DROP DATABASE x--`, now, first(7)))},
	}
}

// holds stores the history and compares the first scrape with what must be seen of it.
func (tt truthRow) holds(t *testing.T, server *influxtest.Server, database string) {
	t.Helper()
	want, got := tt.scrape(t, server, database)
	want.holds(t, got)
}

// store stores the history, and returns what /metrics must hold of it.
func (tt truthRow) store(t *testing.T, server *influxtest.Server, database string) (want expected) {
	t.Helper()
	if tt.history != nil {
		server.MustStore(t, database, tt.history)
		want = truth(tt.history)
	}
	if tt.deleted != nil {
		h := &influxtest.History{}
		h.Add(tt.deleted...)
		must(t, server.Write(t.Context(), database, h.Lines()))
		for _, p := range tt.deleted {
			must(t, server.Delete(t.Context(), database, p.Measurement, p.TimeNs, p.TimeNs+1))
		}
	}
	if tt.want != nil {
		want = tt.want(want)
	}
	return want
}

// scrape stores the history and scrapes a new exporter once.
func (tt truthRow) scrape(t *testing.T, server *influxtest.Server, database string) (want expected, got families) {
	t.Helper()
	want = tt.store(t, server, database)
	url := server.URL
	if tt.files > 0 {
		limited := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", tt.files)
		limited.Holds(tt.history)
		url = limited.URL
	}
	env := []string{"INFLUX_URL=" + url, "INFLUX_DB=" + database, "INFLUX_TOKEN=" + server.Token}
	return want, startExporter(t, env, tt.args...).scrape(t)
}

// TestTruth_domains: a VM is a domain. A runtime ID changes at each restart and is reused.
func TestTruth_domains(t *testing.T) {
	server := influxdb.Server(t)
	for name, tt := range domainRows(time.Now()) {
		t.Run(name, func(t *testing.T) { tt.holds(t, server, "domains "+name) })
	}
}

// domainRow is some points, and what /metrics must have of them.
type domainRow struct {
	points []influxtest.Point
	args   []string
	want   map[string]float64
}

// domainRows are situations in which runtime IDs are no VMs, by name.
func domainRows(now time.Time) map[string]domainRow {
	dump := func(ago time.Duration, dom, vmid string) influxtest.Point {
		return point(influxtest.Dumps, now.Add(-ago), first(5), map[string]string{"dom": dom, "vmid": vmid})
	}
	sample := func(ago time.Duration, vmid, name, uuid string) influxtest.Point {
		return point(influxtest.Telemetry, now.Add(-ago), map[string]any{"cpu": 1.0}, map[string]string{"VMID": vmid, "name": name, "uuid": uuid})
	}
	return map[string]domainRow{
		"restarted, and its runtime ID reused": {
			points: []influxtest.Point{dump(48*time.Hour, "web", "5"), sample(time.Second, "9", "web", "u1"), sample(time.Second, "5", "db", "u2")},
			args:   []string{"--dumps.max-age=24h"},
			want:   map[string]float64{"memdump_vms_never_dumped": 1, "memdump_vms_dump_overdue": 1, "memdump_monitored_domains": 2},
		},
		"restarted within the look-back": {
			points: []influxtest.Point{sample(6*time.Hour, "7", "old", "u3"), sample(time.Second, "8", "old", "u3"), dump(time.Hour, "old", "7")},
			want:   map[string]float64{"memdump_vms_never_dumped": 0, "memdump_monitored_domains": 1, "memdump_monitored_vms": 2},
		},
		"dumped while shut off": {
			points: []influxtest.Point{dump(time.Hour, "lab", "lab"), sample(time.Second, "11", "lab", "u4")},
			want:   map[string]float64{"memdump_vms_never_dumped": 0},
		},
		"two collectors, two dialects": {
			points: []influxtest.Point{
				point(influxtest.Telemetry, now.Add(-10*time.Second), map[string]any{"cpu": 1.0},
					map[string]string{"VMID": "1", "UUID": "u1", "Dom": "a"}),
				sample(20*time.Second, "1", "a", "u1"), dump(time.Hour, "a", "1"),
			},
			want: map[string]float64{"memdump_vms_never_dumped": 0, "memdump_monitored_domains": 1},
		},
		"five runs of one VM": {
			points: []influxtest.Point{dump(5*time.Hour, "web", "1"), dump(4*time.Hour, "web", "2"), dump(3*time.Hour, "web", "3"),
				dump(2*time.Hour, "web", "4"), dump(time.Hour, "web", "5"), sample(time.Second, "6", "web", "u1")},
			args: []string{"--collect.per-vm"},
			want: map[string]float64{
				"memdump_dumped_domains": 1, "memdump_dumped_vms": 5, `memdump_vm_dumps{dom="web"}`: 5, "memdump_vms_never_dumped": 0,
			},
		},
	}
}

// holds stores the points and compares the first scrape with what must be seen of them.
func (tt domainRow) holds(t *testing.T, server *influxtest.Server, database string) {
	t.Helper()
	want, got := tt.scrape(t, server, database)
	want.holds(t, got)
	for _, wrong := range tt.differences(got) {
		t.Error(wrong)
	}
}

func (tt domainRow) scrape(t *testing.T, server *influxtest.Server, database string) (want expected, got families) {
	t.Helper()
	h := &influxtest.History{}
	h.Add(tt.points...)
	_, got = truthRow{history: h, args: tt.args}.scrape(t, server, database)
	return tt.expected(h), got
}

// expected is the truth of the points, and what a flag adds.
func (tt domainRow) expected(h *influxtest.History) expected {
	want := truth(h)
	if overdue, ok := tt.want["memdump_vms_dump_overdue"]; ok {
		want = want.with(map[string]float64{"memdump_vms_dump_overdue": overdue})
	}
	return want
}

func (tt domainRow) differences(got families) (wrong []string) {
	found := got.gauges(slices.Concat(knownMetrics(), []string{"memdump_vm_dumps"})...)
	for series, value := range tt.want {
		if found[series] != value {
			wrong = append(wrong, fmt.Sprintf("%s is %v, want %v", series, found[series], value))
		}
	}
	if n := len(got["memdump_vm_dumps"].GetMetric()); slices.Contains(tt.args, "--collect.per-vm") && n != 1 {
		wrong = append(wrong, fmt.Sprintf("%d series of memdump_vm_dumps, want 1", n))
	}
	return wrong
}

// TestTruth_otherNames: measurements are configuration, and quoted whatever they hold.
func TestTruth_otherNames(t *testing.T) {
	server := influxdb.Server(t)
	h, elsewhere := &influxtest.History{}, &influxtest.History{}
	p := dump("1", time.Now(), first(5))
	h.Add(p)
	want := truth(h).but("measurement_missing", "monitored_vms")
	p.Measurement = `my "dumps", 'here'`
	elsewhere.Add(p)
	server.MustStore(t, "names", elsewhere)
	e := startExporter(t, nil, "--influx.url="+server.URL, "--influx.db=names",
		"--dumps.measurement="+p.Measurement, `--telemetry.measurement=vm_info" WHERE 1=1`)
	want.holds(t, e.scrape(t))
}

// TestTruth_retentionPolicies: the measurements may be in another retention policy than the
// default one, which then hides them.
func TestTruth_retentionPolicies(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(4, time.Now())
	server.MustStore(t, "vmstats", h)
	for _, policy := range []string{"new", "telemetry only"} {
		execute(t, server, fmt.Sprintf(`CREATE RETENTION POLICY %q ON "vmstats" DURATION INF REPLICATION 1`, policy))
	}
	execute(t, server, `ALTER RETENTION POLICY "new" ON "vmstats" DEFAULT`)
	env := []string{"INFLUX_URL=" + server.URL}
	allFail("measurement_missing").holds(t, startExporter(t, env).scrape(t))
	args := []string{"--dumps.retention-policy=autogen", "--telemetry.retention-policy=autogen"}
	truth(h).holds(t, startExporter(t, env, args...).scrape(t))
	limited := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 432)
	limited.Holds(h)
	truth(h).holds(t, startExporter(t, []string{"INFLUX_URL=" + limited.URL}, args...).scrape(t))
	truth(h).but("measurement_missing", "monitored_vms").holds(t,
		startExporter(t, env, "--dumps.retention-policy=autogen", "--telemetry.retention-policy=telemetry only").scrape(t))
}

// outage is a way for a server to be away for a while, and the reason for which queries then
// fail.
type outage struct {
	name       string
	away, back func() error
	reason     string
}

func outages(t *testing.T, server *influxtest.Server) []outage {
	start := func() error { return server.Start(t.Context()) }
	return []outage{
		{"stopped", server.Stop, start, "unreachable"},
		{"killed", server.Kill, start, "unreachable"},
		{"halted", server.Halt, server.Resume, "timeout"},
	}
}

// TestTruth_awayAndBack: the metrics are absent at the first scrape without the database, and are
// back at the first scrape with it.
func TestTruth_awayAndBack(t *testing.T) {
	server := influxtest.MustStart(t)
	h := influxtest.Believable(3, time.Now())
	server.MustStore(t, "vmstats", h)
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	truth(h).holds(t, e.scrape(t))
	for _, step := range outages(t, server) {
		must(t, step.away())
		begin := time.Now()
		gone := e.scrape(t, timeoutHeader, "2")
		if took := time.Since(begin); took >= 2*time.Second {
			t.Errorf("%s: the response took %v, the scrape timeout is 2 s", step.name, took)
		}
		checkAway(t, step.name, gone, step.reason)
		must(t, step.back())
		truth(h).shown(t, e.scrape(t))
	}
}

func checkAway(t *testing.T, step string, got families, reason string) {
	t.Helper()
	t.Run(step, func(t *testing.T) {
		allFail(reason).shown(t, got)
		for query := range metricsOf {
			if failure := query + "/" + reason; got.failures()[failure] == 0 {
				t.Errorf("no failure is counted as %s", failure)
			}
		}
	})
}
