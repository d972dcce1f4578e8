package collector_test

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"math/big"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	dto "github.com/prometheus/client_model/go"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// clock is the collector's, which a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func collectorAt(t testing.TB, db collector.Database, mode ranges.Mode, c *clock) *collector.Collector {
	t.Helper()
	return perVMCollectorAt(t, db, mode, c, 0)
}

// maxAge is the --dumps.max-age of tests.
const maxAge = 48 * time.Hour

// perVMCollectorAt has series for so many VMs.
func perVMCollectorAt(t testing.TB, db collector.Database, mode ranges.Mode, c *clock, perVM int) *collector.Collector {
	t.Helper()
	made := collector.New(collector.Config{
		Database: db, DumpsMeasurement: influxtest.Dumps, TelemetryMeasurement: influxtest.Telemetry, TelemetryLookback: 24 * time.Hour,
		Ranges: mode, DumpsSettle: 24 * time.Hour, DumpsMaxAge: maxAge, PerVM: perVM, Logger: log.NewNopLogger(), Now: c.Now,
	})
	return made
}

// truthOf is what the gauges must say, from the writer of the data.
func truthOf(h *influxtest.History, now time.Time) map[string]float64 {
	figures := h.Truth(now.UnixNano(), 24*time.Hour).Figures()
	want := map[string]float64{"memdump_up": 1}
	for _, q := range monthQueries {
		if value, ok := figures[q.query]; ok {
			want[q.gauge] = value
		}
	}
	never, overdue := 0, 0
	for _, vm := range h.Monitored(now.UnixNano(), 24*time.Hour) {
		switch {
		case vm == nil:
			never++
		case now.UnixNano()-vm.LastNs > int64(maxAge):
			overdue++
		}
	}
	want["memdump_vms_never_dumped"], want["memdump_vms_dump_overdue"] = float64(never), float64(overdue)
	return want
}

func sameGauges(t *testing.T, c *collector.Collector, families []*dto.MetricFamily, want map[string]float64) {
	t.Helper()
	got := gauges(families)
	for name, value := range want {
		if g, ok := got[name]; !ok || g != value {
			t.Errorf("%s is %v (there: %v), want %v", name, g, ok, value)
		}
	}
	for name, value := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s is %v, want it not to be there", name, value)
		}
	}
	if t.Failed() {
		t.Fatal(failed(c))
	}
}

// edgy is a history that is hard to cut: gaps of weeks, points in the future, on the
// borders of blocks and of the ranges that are laid from now, and a nanosecond beside.
func edgy(rng *rand.Rand, now time.Time) *influxtest.History {
	h := &influxtest.History{}
	add := func(at time.Time) {
		vm := fmt.Sprint("vm", rng.IntN(40))
		h.Add(influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": vm, "vmid": vm}, TimeNs: at.UnixNano(),
			Fields: map[string]any{"sha256": "x", "duration_sec": float64(rng.IntN(800)) / 8, "gzip_size_bytes": rng.Int64N(1 << 40)}})
	}
	for range 250 {
		age := time.Duration(rng.Int64N(int64(150 * 24 * time.Hour)))
		if age > 30*24*time.Hour && age < 65*24*time.Hour {
			age /= 100
		}
		at := now.Add(-age)
		if rng.IntN(3) == 0 {
			at = at.Truncate(10 * time.Minute)
		}
		add(at)
	}
	for age := 24 * time.Hour; age < 150*24*time.Hour; age *= 2 {
		for _, beside := range []time.Duration{-1, 0, 1} {
			add(now.Add(-age + beside))
		}
	}
	add(now)
	add(now.Add(1))
	add(now.Add(time.Hour))
	add(now.Add(50 * 24 * time.Hour))
	add(time.Unix(0, 0))
	for i := range 30 {
		sampleAt(h, fmt.Sprint("vm", i), now.Add(-time.Duration(rng.Int64N(int64(26*time.Hour)))))
	}
	for i, at := range []time.Time{now.Add(-24 * time.Hour), now.Add(-24*time.Hour - 1), now, now.Add(1), now.Add(-time.Hour)} {
		sampleAt(h, fmt.Sprint("edge", i), at)
	}
	return h
}

func sampleAt(h *influxtest.History, vm string, at time.Time) {
	h.Add(influxtest.Point{Measurement: influxtest.Telemetry, Tags: map[string]string{"VMID": vm, "name": vm}, TimeNs: at.UnixNano(), Fields: map[string]any{"cpu": 1.5}})
}

// sameAll holds a scrape against the writer's truth, with the series of so many VMs.
func sameAll(t *testing.T, col *collector.Collector, h *influxtest.History, now time.Time, perVM int) {
	t.Helper()
	families := scrape(t, col)
	want, wantVMs := truthOf(h, now), vmsOf(h, perVM)
	want["memdump_vms_omitted"] = float64(len(h.DumpsByVM()) - len(wantVMs))
	sameGauges(t, col, slices.DeleteFunc(slices.Clone(families), func(f *dto.MetricFamily) bool { return strings.HasPrefix(f.GetName(), "memdump_vm_") }), want)
	got := make(map[string]map[string]string)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "memdump_vm_") {
			continue
		}
		for _, m := range f.Metric {
			labels := make(map[string]string)
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			vm := got[labels["vmid"]]
			if vm == nil {
				vm = make(map[string]string)
				got[labels["vmid"]] = vm
			}
			vm[f.GetName()] = fmt.Sprint(m.Gauge.GetValue(), labels["dom"], labels["host"])
		}
	}
	if !maps.EqualFunc(got, wantVMs, maps.Equal) {
		for vmid := range wantVMs {
			if !maps.Equal(got[vmid], wantVMs[vmid]) {
				t.Errorf("%q: %q, want %q", vmid, got[vmid], wantVMs[vmid])
			}
		}
		t.Fatalf("series of %d VMs, want %d", len(got), len(wantVMs))
	}
}

// vmsOf is what the series of the most recently dumped VMs must say.
func vmsOf(h *influxtest.History, perVM int) map[string]map[string]string {
	all := h.DumpsByVM()
	ids := slices.SortedFunc(maps.Keys(all), func(a, b string) int {
		return cmp.Or(cmp.Compare(all[b].LastNs, all[a].LastNs), cmp.Compare(a, b))
	})
	want := make(map[string]map[string]string)
	for _, id := range ids[:min(len(ids), perVM)] {
		vm := all[id]
		last, _ := big.NewRat(vm.LastNs, 1e9).Float64()
		want[id] = map[string]string{
			"memdump_vm_last_dump_timestamp_seconds": fmt.Sprint(last, "", ""),
			"memdump_vm_dumps":                       fmt.Sprint(float64(vm.Dumps), "", ""),
			"memdump_vm_info":                        fmt.Sprint(1.0, vm.Dom, vm.Host),
		}
		if vm.Sized {
			want[id]["memdump_vm_dumps_compressed_bytes"] = fmt.Sprint(float64(vm.CompressedBytes), "", "")
		}
	}
	return want
}

// TestKept_fileLimit: on a real InfluxDB behind the limit of InfluxDB 3, as two of its
// versions refuse, every figure is exact.
func TestKept_fileLimit(t *testing.T) {
	server := influxdb.Server(t)
	c := &clock{now: time.Now().Truncate(time.Microsecond)}
	h := edgy(rand.New(rand.NewPCG(1, 2)), c.now)
	server.MustStore(t, "edgy", h)
	for _, as := range []string{"influxdb-3.6.0", "influxdb-3.8.3"} {
		for _, limit := range []int{432, 20, 2} {
			t.Run(fmt.Sprintf("%s/%d", as, limit), func(t *testing.T) {
				front := influxtest.LimitFiles(t, server.URL, as, limit)
				front.Holds(h)
				col := perVMCollectorAt(t, newClient(t, front.URL, "edgy"), ranges.Auto, &clock{c.now}, 25)
				sameAll(t, col, h, c.now, 25)
				questions, refused := front.Asked()
				sameAll(t, col, h, c.now, 25)
				if _, again := front.Asked(); again > refused+2 {
					t.Errorf("refused %d times at first, and %d times in the scrape after: what was accepted is not remembered", refused, again-refused)
				}
				t.Logf("first scrape: %d questions, %d of them refused", questions, refused)
			})
		}
	}
}

// TestKept_random: on a real InfluxDB, whatever is written, written late or deleted,
// however time moves, and whatever limit there is: some time after the last change
// the kept figures are the truth, and so are those of the open range at once.
func TestKept_random(t *testing.T) {
	server := influxdb.Server(t)
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			database := fmt.Sprint("random", seed)
			c := &clock{now: time.Now()}
			h := edgy(rng, c.now)
			server.MustStore(t, database, h)
			front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", 1000)
			front.Holds(h)
			col := perVMCollectorAt(t, newClient(t, front.URL, database), ranges.Cached, c, 25)
			sameAll(t, col, h, c.now, 25)
			write := func(age time.Duration) {
				vm := fmt.Sprint("new", rng.IntN(60))
				p := influxtest.Point{Measurement: influxtest.Dumps, Tags: map[string]string{"dom": vm, "vmid": vm}, TimeNs: c.now.Add(-age).UnixNano(),
					Fields: map[string]any{"sha256": "y", "duration_sec": 2.5, "gzip_size_bytes": 7}}
				h.Add(p)
				if err := server.Write(t.Context(), database, []string{p.Line()}); err != nil {
					t.Fatal(err)
				}
			}
			for range 15 {
				c.now = c.now.Add(time.Duration(rng.Int64N(int64(time.Minute))))
				old := false
				switch rng.IntN(7) {
				case 0, 1:
					write(time.Duration(rng.Int64N(int64(23 * time.Hour))))
				case 2:
					old = true
					write(time.Duration(rng.Int64N(int64(120 * 24 * time.Hour))))
				case 3:
					old = true
					from := c.now.Add(-time.Duration(rng.Int64N(int64(120 * 24 * time.Hour))))
					to := from.Add(6 * time.Hour)
					h.Delete(influxtest.Dumps, from.UnixNano(), to.UnixNano())
					if err := server.ExecIn(t.Context(), database, fmt.Sprintf(`DELETE FROM "mem_dumps" WHERE time >= %d AND time < %d`, from.UnixNano(), to.UnixNano())); err != nil {
						t.Fatal(err)
					}
				case 4:
					c.now = c.now.Add(time.Duration(rng.Int64N(int64(10 * time.Hour))))
				case 5:
					front.SetLimit([]int{1000, 30, 8}[rng.IntN(3)])
				case 6:
					col = perVMCollectorAt(t, newClient(t, front.URL, database), ranges.Cached, c, 25)
				}
				front.Holds(h)
				if !old { // nothing older than the settling time has changed
					sameAll(t, col, h, c.now, 25)
					continue
				}
				for range 3 {
					scrape(t, col)
					c.now = c.now.Add(9 * time.Hour)
				}
				sameAll(t, col, h, c.now, 25)
			}
		})
	}
}

// TestKept_settle: what is younger than a point may be late is asked about in each scrape, the
// rest is not: dumps arrive when they are done, telemetry soon.
func TestKept_settle(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	d := told(func(path, statement string) (int, string, string) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, statement)
		switch {
		case path == "/ping":
			return http.StatusNoContent, "1.8.10", ""
		case strings.HasPrefix(statement, "SHOW"):
			return http.StatusOK, "1.8.10", fieldKeys("sha256", "gzip_size_bytes", "duration_sec")
		}
		return http.StatusOK, "1.8.10", `{"results":[{}]}`
	})
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: d})
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{recordedNow}
	col := collectorAt(t, client, ranges.Cached, c)
	scrape(t, col)
	asked, c.now = nil, c.now.Add(time.Second)
	scrape(t, col)
	for part, settle := range map[string]time.Duration{`COUNT("sha256")`: 24 * time.Hour, `GROUP BY "VMID"`: time.Hour} {
		oldest := time.Duration(0)
		for _, statement := range asked {
			if _, condition, ok := strings.Cut(statement, "time >= "); ok && strings.Contains(statement, part) {
				var from int64
				if _, err := fmt.Sscan(condition, &from); err != nil {
					t.Fatal(err)
				}
				oldest = max(oldest, c.now.Sub(time.Unix(0, from)))
			}
		}
		if oldest < settle || oldest > 2*settle {
			t.Errorf("%s: the last %v were asked about again, want little more than %v:\n%s", part, oldest, settle, strings.Join(asked, "\n"))
		}
	}
}

// TestGateway: a server that is no InfluxDB and knows only the old service's path and
// questions, with or without a time column beside the value.
func TestGateway(t *testing.T) {
	h := influxtest.Believable(4, recordedNow)
	known := h.Truth(recordedNow.UnixNano(), 24*time.Hour)
	mean, _ := known.Mean()
	last := time.Unix(0, known.LastDumpNs).UTC()
	for name, shape := range map[string]struct{ columns, row, stamp string }{
		"value alone":        {`["figure"]`, `[%s]`, last.Format(time.RFC3339Nano)},
		"behind a time":      {`["time","figure"]`, `["1970-01-01T00:00:00Z",%s]`, last.Format("2006-01-02T15:04:05.999999999")},
		"and a time that is": {`["time","dump_count"]`, `[0,%s]`, last.Format(time.RFC3339Nano)},
	} {
		t.Run(name, func(t *testing.T) {
			var asked, statements, unknown []string
			var mu sync.Mutex
			url := gatewayServer(t, &asked, func(sql string) string {
				mu.Lock()
				defer mu.Unlock()
				statements = append(statements, sql)
				value, columns, row := "", shape.columns, shape.row
				switch sql {
				case `SELECT COUNT(sha256) AS dump_count FROM mem_dumps`:
					value = fmt.Sprint(known.Dumps)
				case `SELECT COUNT(DISTINCT vmid) AS unique_vms FROM mem_dumps`:
					value = fmt.Sprint(known.DumpedVMs)
				case `SELECT SUM(gzip_size_bytes) AS total_size FROM mem_dumps`:
					value = fmt.Sprint(known.CompressedBytes)
				case `SELECT AVG(duration_sec) AS avg_duration FROM mem_dumps`:
					value = fmt.Sprint(mean)
				case `SELECT time FROM mem_dumps ORDER BY time DESC LIMIT 1`:
					value, columns, row = `"`+shape.stamp+`"`, `["time"]`, `[%s]`
				case `SELECT COUNT(DISTINCT "VMID") AS unique_vms FROM vm_info WHERE time >= '2025-11-10T10:30:00Z' AND time < '2025-11-11T10:30:00.000000001Z'`:
					value = fmt.Sprint(known.MonitoredVMs)
				default:
					unknown = append(unknown, sql)
					return `{"error":"no such question"}`
				}
				return fmt.Sprintf(`{"results":[{"series":[{"columns":%s,"values":[`+row+`]}]}]}`, columns, value)
			})
			col := newCollector(t, newClient(t, url, "vmstats"))
			for i := range 3 {
				asked = nil
				families := scrape(t, col)
				want := truthOf(h, recordedNow)
				delete(want, "memdump_vms_never_dumped") // a gateway says how many, not which
				delete(want, "memdump_vms_dump_overdue")
				isNew := len(col.Statuses()) > 6 // a row is new to the table: the old service does not ask its question
				if isNew {
					want["memdump_up"] = 0
				}
				sameGauges(t, col, families, want)
				if want := []int{13, 6, 6}[i]; len(asked) != want && !isNew { // a ping, six that are not found, and six
					t.Errorf("scrape %d asked %q, want %d requests", i, asked, want)
				}
				if info := serverInfo(families); !slices.Equal(info, []string{"v3-query", "unknown"}) {
					t.Errorf("the server is said to be %q", info)
				}
			}
			// It is not asked for what the old service never asked; that fails, and is no defect.
			perVM := perVMCollectorAt(t, newClient(t, url, "vmstats"), ranges.Auto, &clock{recordedNow}, 5)
			for range 2 {
				scrape(t, perVM)
			}
			if len(perVM.Statuses()) == 8 && len(unknown) > 0 {
				t.Errorf("asked %q", unknown)
			}
			for _, status := range perVM.Statuses() {
				if status.Gauge != "" && !ofTruth(status.Gauge) {
					continue
				}
				if want := map[bool]string{true: "refused"}[status.Gauge == ""]; status.Reason != want {
					t.Errorf("%s: %q, want %q: %v", status.Query, status.Reason, want, status.Err)
				}
			}
			o := perVM.Overview(t.Context())
			if o.Days != nil || o.DaysErr == nil || !strings.Contains(o.DaysErr.Error(), "is not asked for dumps") || o.API != influx.APIV3Query {
				t.Errorf("days of a gateway: %v, %v, %q", o.Days, o.DaysErr, o.API)
			}
			for _, f := range o.Figures {
				if f.Gauge != "" && !ofTruth(f.Gauge) {
					continue
				}
				if none := f.Statement == "no query"; none != (f.Gauge == "") || !none && !slices.Contains(statements, f.Statement) {
					t.Errorf("%s is said to be asked by %s", f.Query, f.Statement)
				}
			}
			// Told to speak InfluxQL, it is not asked otherwise.
			transport := influx.NewTransport(nil)
			defer transport.CloseIdleConnections()
			client, err := influx.New(influx.Config{URL: url, Database: "vmstats", API: influx.APIInfluxQL, Transport: transport})
			if err != nil {
				t.Fatal(err)
			}
			if got := gauges(scrape(t, newCollector(t, client))); len(got) != 1 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestGateway_answers: what a gateway says is a figure, none, or a failure.
func TestGateway_answers(t *testing.T) {
	const counted, meant, newest = "SELECT COUNT(sha256)", "SELECT AVG(", "SELECT time "
	for name, tt := range map[string]struct {
		sql, columns, values string
		gauge                string // its name and value; empty for none
		reason               string
	}{
		"no dump":              {counted, `["n"]`, `[0]`, "memdump_dumps 0", ""},
		"a count below zero":   {counted, `["n"]`, `[-1]`, "", "out_of_range"},
		"a count of text":      {counted, `["n"]`, `["1"]`, "", "malformed"},
		"two columns":          {counted, `["n","m"]`, `[1,2]`, "", "malformed"},
		"two rows":             {counted, `["n"]`, `[1],[1]`, "", "malformed"},
		"no mean":              {meant, `["n"]`, `[null]`, "", ""},
		"a mean below zero":    {meant, `["n"]`, `[-0.5]`, "memdump_dump_duration_mean_seconds -0.5", ""},
		"a time":               {newest, `["time"]`, `["1970-01-01T00:00:01.5Z"]`, "memdump_last_dump_timestamp_seconds 1.5", ""},
		"a time that is none":  {newest, `["time"]`, `["soon"]`, "", "malformed"},
		"a time and no answer": {newest, `["time"]`, ``, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			col := newCollector(t, gatewayClient(t, gatewayServer(t, &asked, func(sql string) string {
				if !strings.HasPrefix(sql, tt.sql) {
					return `{"error":"no such question"}`
				}
				return `{"results":[{"series":[{"columns":` + tt.columns + `,"values":[` + tt.values + `]}]}]}`
			})))
			families := scrape(t, col)
			got := gauges(families)
			delete(got, "memdump_up")
			text := ""
			for name, value := range got {
				text += fmt.Sprint(name, " ", value)
			}
			if text != tt.gauge {
				t.Errorf("got %q, want %q", text, tt.gauge)
			}
			checked := 0
			for _, f := range families {
				if f.GetName() == "memdump_query_oldest_check_timestamp_seconds" && f.Metric[0].Gauge.GetValue() == float64(recordedNow.Unix()) {
					checked = len(f.Metric)
				}
			}
			if want := map[bool]int{true: 1}[tt.reason == ""]; checked != want {
				t.Errorf("%d figures are said to be of now, want %d", checked, want)
			}
			for _, status := range col.Statuses() {
				if status.Reason != tt.reason && status.Reason != "refused" {
					t.Errorf("%s: %q, want %q", status.Query, status.Reason, tt.reason)
				}
			}
		})
	}
}

// TestGateway_records: a gateway is asked for records in SQL, and its empty list is believed,
// as it has nothing to prove it by.
func TestGateway_records(t *testing.T) {
	var asked []string
	base := recordsOf(t, newCollector(t, gatewayClient(t, gatewayServer(t, &asked, func(sql string) string {
		rows := map[string]string{"LIMIT 2 OFFSET 1": `["2025-11-11T10:30:00Z","a",5],["2025-11-11T10:29:00Z","b",6]`}[sql[strings.Index(sql, "LIMIT"):]]
		if !strings.HasPrefix(sql, "SELECT time, dom, vmid, ") {
			return `{"error":"no such question"}`
		}
		return `{"results":[{"series":[{"columns":["time","dom","gzip_size_bytes"],"values":[` + rows + `]}]}]}`
	}))))
	for query, want := range map[string]string{"limit=2&offset=1": "[a 5 b 6]", "limit=2": "[]"} {
		status, p, next := askRecords(t, base+"/records?"+query)
		if full := len(p.Records) == 2; full != (next != "") {
			t.Errorf("%s: %d records, and the next page is %q", query, len(p.Records), next)
		}
		got := []any{}
		for _, r := range p.Records {
			got = append(got, r["dom"], r["gzip_size_bytes"])
		}
		if status != http.StatusOK || fmt.Sprint(got) != want {
			t.Errorf("%s: HTTP %d, %v %s, want %s", query, status, got, p.Error, want)
		}
	}
	for _, path := range asked {
		if path == "/query" {
			t.Errorf("asked %q", asked)
		}
	}
}

func gatewayClient(t *testing.T, url string) *influx.Client {
	t.Helper()
	transport := influx.NewTransport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client, err := influx.New(influx.Config{URL: url, Database: "vmstats", API: influx.APIV3Query, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func gatewayServer(t *testing.T, asked *[]string, answer func(sql string) string) string {
	t.Helper()
	var mu sync.Mutex
	return influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		*asked = append(*asked, r.URL.Path)
		mu.Unlock()
		if r.URL.Path != "/api/v3/query" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, answer(r.URL.Query().Get("q")))
	})
}
