package collector

import (
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// inspectWithin is the time that an inspection may take.
const inspectWithin = time.Minute

// TestOverview: values, VMs and days are true, even if InfluxDB rejects the first full queries.
func TestOverview(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(8, recordedNow)
	server.MustStore(t, "overview", h)
	dumps, bytes := make(map[string]int64), make(map[string]int64)
	for _, p := range h.Points(influxtest.Dumps) {
		date := time.Unix(0, p.TimeNs).UTC().Format(time.DateOnly)
		if p.Fields["sha256"] != nil {
			dumps[date]++
		}
		size, _ := p.Fields["gzip_size_bytes"].(int64)
		bytes[date] += size
	}
	for _, limit := range []int{100_000, 432, 20} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			front := influxtest.LimitFiles(t, server.URL, "influxdb-3.8.3", limit)
			front.Holds(h)
			e := newExporter(t, newClient(t, front.URL, "overview"))
			ctx, cancel := contextWithin(t, inspectWithin)
			defer cancel()
			o := e.Overview(ctx)
			wantDays(t, o, dumps, bytes)
			if o.NewestErr != nil || len(o.Newest) != overviewRecords {
				t.Errorf("%d newest records, %v", len(o.Newest), o.NewestErr)
			}
			want := h.Truth(recordedNow.UnixNano(), 24*time.Hour).Metrics()
			for _, q := range o.Queries {
				for _, m := range q.Metrics {
					value, there := want[m.Name]
					if m.HasValue != there || m.Value != value {
						t.Errorf("%s is %v (known: %v), want %v (%v): %v", m.Name, m.Value, m.HasValue, value, there, q.Err)
					}
				}
			}
			wantMonitored(t, o, h)
			if o.Server.Major != 1 || o.API != influx.APIInfluxQL || !o.At.Equal(recordedNow) {
				t.Errorf("of %+v by %s at %v", o.Server, o.API, o.At)
			}
		})
	}
}

func wantDays(t *testing.T, o Inspection, dumps, bytes map[string]int64) {
	t.Helper()
	if o.DaysErr != nil || len(o.Days) != overviewDays {
		t.Fatalf("%d days, %v", len(o.Days), o.DaysErr)
	}
	for i, d := range o.Days {
		if want := o.At.UTC().Truncate(day).AddDate(0, 0, i-overviewDays+1); d.Start != want {
			t.Errorf("day %d is %v, want %v", i, d.Start, want)
		}
		date := d.Start.Format(time.DateOnly)
		if d.Dumps != dumps[date] || d.CompressedBytes != bytes[date] {
			t.Errorf("%s: %d dumps of %d bytes, want %d of %d", date, d.Dumps, d.CompressedBytes, dumps[date], bytes[date])
		}
	}
}

// wantMonitored compares the VMs with the truth, and their order.
func wantMonitored(t *testing.T, o Inspection, h *influxtest.History) {
	t.Helper()
	if !o.HasVMs {
		t.Fatal("the VMs are unknown")
	}
	got, want := make(map[string]int64), make(map[string]int64)
	for _, vm := range o.VMs {
		got[vm.UUID+"/"+strings.Join(vm.Names, "/")] = vm.LastDump.UnixNano()
		if vm.NeverDumped() {
			got[vm.UUID+"/"+strings.Join(vm.Names, "/")] = 0
		}
	}
	for _, vm := range h.MonitoredDomains(recordedNow.UnixNano(), 24*time.Hour) {
		want[vm.UUID+"/"+strings.Join(vm.Names, "/")] = vm.LastNs
	}
	if !maps.Equal(got, want) {
		t.Errorf("VMs %v\nwant %v", got, want)
	}
	if !slices.IsSortedFunc(o.VMs, func(a, b VM) int { return a.LastDump.Compare(b.LastDump) }) {
		t.Error("the VMs are not sorted by their newest dump")
	}
}

// TestOverview_days: impossible days are an error, and an empty response is no dumps only if the
// measurement exists.
func TestOverview_days(t *testing.T) {
	today := recordedNow.UTC().Truncate(day)
	row := func(days int, values string) string {
		return fmt.Sprintf("[%d,%s]", today.AddDate(0, 0, days).UnixNano(), values)
	}
	for name, tt := range map[string]struct {
		rows, fields string // in the responses; empty for none
		dumps, bytes map[string]int64
		reason       string
	}{
		"some": {rows: row(0, "2,7") + "," + row(-29, "1,null"), fields: fieldKeys("sha256", "string"),
			dumps: map[string]int64{"2025-11-11": 2, "2025-10-13": 1}, bytes: map[string]int64{"2025-11-11": 7}},
		"a day in two rows": {rows: row(0, "2,7") + "," + row(0, "3,1"), fields: fieldKeys("sha256", "string"),
			dumps: map[string]int64{"2025-11-11": 5}, bytes: map[string]int64{"2025-11-11": 8}},
		"in the middle of a day": {rows: fmt.Sprintf("[%d,2,7]", recordedNow.UnixNano()), fields: fieldKeys("sha256", "string"),
			dumps: map[string]int64{"2025-11-11": 2}, bytes: map[string]int64{"2025-11-11": 7}},
		"other days":         {rows: row(1, "2,7") + "," + row(-30, "2,7"), fields: fieldKeys("sha256", "string")},
		"none":               {fields: fieldKeys("sha256", "string")},
		"no measurement":     {reason: "measurement_missing"},
		"no dumps":           {fields: fieldKeys("ok", "boolean"), reason: "field_missing"},
		"at no time":         {rows: `["soon",2,7]`, fields: fieldKeys("sha256", "string"), reason: "malformed"},
		"dumps below zero":   {rows: row(0, "-2,7"), fields: fieldKeys("sha256", "string"), reason: "out_of_range"},
		"bytes below zero":   {rows: row(0, "2,-7"), fields: fieldKeys("sha256", "string"), reason: "out_of_range"},
		"bytes of many bits": {rows: row(0, "2,1e30"), fields: fieldKeys("sha256", "string"), reason: "out_of_range"},
		"bytes that overflow": {rows: row(0, "1,9223372036854775807") + "," + row(0, "1,1"), fields: fieldKeys("sha256", "string"),
			reason: "out_of_range"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.respond = func(statement string) string {
				switch {
				case strings.HasPrefix(statement, "SHOW") && tt.fields == "":
					return noRows
				case strings.HasPrefix(statement, "SHOW"):
					return tt.fields
				case strings.Contains(statement, daysQuery.tail) && tt.rows == "":
					return noRows
				case strings.Contains(statement, daysQuery.tail):
					return rowsOf(`"time","dumps","compressed"`, tt.rows)
				}
				return ""
			}
			e := m.exporter(t, at(newClock(recordedNow)))
			ctx, cancel := contextWithin(t, inspectWithin)
			defer cancel()
			o := e.Overview(ctx)
			if tt.reason == "" {
				wantDays(t, o, tt.dumps, tt.bytes)
				return
			}
			if o.DaysErr == nil || Reason(o.DaysErr) != tt.reason {
				t.Errorf("%v, want %s", o.DaysErr, tt.reason)
			}
			if o.Days != nil {
				t.Errorf("days %v beside an error", o.Days)
			}
		})
	}
}

// TestInspect: a failed query has no value, no VMs and no list. Statements are those that were sent.
func TestInspect(t *testing.T) {
	for failing, reason := range map[string]string{"": "", dumpedVMs: "refused", monitoredVMs: "refused", "raw_bytes": "refused"} {
		t.Run("without "+failing, func(t *testing.T) {
			m := newMemory(t)
			e := m.exporter(t)
			m.respond = func(statement string) string {
				if failing != "" && strings.HasPrefix(statement, "SELECT "+e.query(failing).columns+" FROM") {
					return rejected
				}
				return ""
			}
			ctx, cancel := contextWithin(t, inspectWithin)
			defer cancel()
			o := e.Inspect(ctx)
			if known := failing != dumpedVMs && failing != monitoredVMs; o.HasVMs != known || (len(o.VMs) == 1) != known {
				t.Errorf("VMs known: %v, %v", o.HasVMs, o.VMs)
			}
			sent := m.Statements()
			for i, q := range o.Queries {
				if q.Query != e.queries[i].name {
					t.Errorf("query %d is %s, want %s", i, q.Query, e.queries[i].name)
				}
				if !slices.Contains(sent, q.Statement) {
					t.Errorf("%s: not the statement that was sent: %s", q.Query, q.Statement)
				}
				if want := map[bool]string{true: reason}[q.Query == failing]; q.Reason != want || (q.Err != nil) != (want != "") {
					t.Errorf("%s: %q, %v; want %q", q.Query, q.Reason, q.Err, want)
				}
				for _, metric := range q.Metrics {
					if metric.HasValue == (q.Query == failing) || metric.Help == "" {
						t.Errorf("%+v", metric)
					}
				}
			}
			if len(o.Queries) != len(e.queries) {
				t.Errorf("%d queries", len(o.Queries))
			}
			if o.Days != nil || o.DaysErr != nil || o.Newest != nil || o.NewestErr != nil {
				t.Errorf("Inspect has lists: %v, %v", o.Days, o.DaysErr)
			}
		})
	}
}

// TestInspect_panics: a panic in the days or the records is their error.
func TestInspect_panics(t *testing.T) {
	m := newMemory(t)
	m.respond = func(statement string) string {
		if strings.Contains(statement, daysQuery.tail) {
			panic("own defect")
		}
		return ""
	}
	ctx, cancel := contextWithin(t, inspectWithin)
	defer cancel()
	o := m.exporter(t).Overview(ctx)
	if o.DaysErr == nil || Reason(o.DaysErr) != "internal" {
		t.Errorf("%v, want internal", o.DaysErr)
	}
	if o.Queries[0].Err != nil {
		t.Error(o.Queries[0].Err)
	}
}

// TestExamine: the fields and tags of the table that a measurement lacks, on a real InfluxDB.
func TestExamine(t *testing.T) {
	server := influxdb.Server(t)
	database := 0
	for name, tt := range map[string]struct {
		points           []string
		dumps, telemetry Measurements // without Source, Names, Fields and Tags
	}{
		"nothing is missing": {
			points:    []string{allFields, running},
			dumps:     Measurements{Existing: []string{"mem_dumps"}},
			telemetry: Measurements{Existing: []string{"vm_totals"}},
		},
		"the dump service alone": {
			points:    []string{`mem_dumps,dom=a,vmid=1 sha256="x",raw_size_bytes=1i,duration_sec=1 1m`, running, "vm_metrics,VMID=1,name=a 1m"},
			dumps:     Measurements{Existing: []string{"mem_dumps"}, Unwritten: []string{"gzip_size_bytes"}},
			telemetry: Measurements{Existing: []string{"vm_totals", "vm_metrics"}},
		},
		"no sha256 and no runtime ID": {
			points: []string{`mem_dumps,dom=a gzip_size_bytes=1i 1m`, "vm_totals,name=a 1m"},
			dumps: Measurements{Existing: []string{"mem_dumps"}, MissingFields: []string{"sha256"}, MissingTags: []string{"vmid"},
				Unwritten: []string{"raw_size_bytes", "duration_sec"}},
			telemetry: Measurements{Existing: []string{"vm_totals"}, MissingTags: []string{"VMID"}},
		},
		"fields of two types": {
			points: []string{allFields, running, `mem_dumps,dom=b,vmid=2 sha256=0,gzip_size_bytes="10",raw_size_bytes=1 2400h`},
			dumps: Measurements{Existing: []string{"mem_dumps"}, Conflicts: []error{
				fmt.Errorf("%w: the field %q has the types float, string", errTypeConflict, "sha256"),
				fmt.Errorf("%w: the field %q has the types integer, string", errTypeConflict, "gzip_size_bytes"),
			}},
			telemetry: Measurements{Existing: []string{"vm_totals"}},
		},
		"telemetry of another name": {
			points:    []string{allFields, "libvirt,VMID=1,name=a 1m", "others,host=h x=1i 1m", "kvm,VMID=2 x=1i 1m"},
			dumps:     Measurements{Existing: []string{"mem_dumps"}},
			telemetry: Measurements{Candidates: []string{"kvm", "libvirt"}},
		},
		"no measurement": {points: []string{"others,host=h x=1i 1m"}},
	} {
		database++
		t.Run(name, func(t *testing.T) {
			db := fmt.Sprint("examine", database)
			server.MustStore(t, db, aged(t, tt.points...))
			got := newExporter(t, newClient(t, server.URL, db)).Examine(t.Context())
			if len(got) != 2 {
				t.Fatalf("%d sources", len(got))
			}
			for i, want := range []Measurements{tt.dumps, tt.telemetry} {
				want.Source = []string{"dumps", "telemetry"}[i]
				want.Names = [][]string{{"mem_dumps"}, influxtest.TelemetryMeasurements()}[i]
				want.Fields, want.Tags = got[i].Fields, got[i].Tags
				wantMeasurements(t, got[i], want)
			}
		})
	}
}

func wantMeasurements(t *testing.T, got, want Measurements) {
	t.Helper()
	if g, w := fmt.Sprint(got.Conflicts), fmt.Sprint(want.Conflicts); g != w {
		t.Errorf("%s: conflicts %s\nwant %s", want.Source, g, w)
	}
	got.Conflicts, want.Conflicts = nil, nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestExamine_recordings: what the servers report of fields and tags.
func TestExamine_recordings(t *testing.T) {
	for _, server := range influxtest.Servers() {
		t.Run(server, func(t *testing.T) {
			replay := influxtest.Serve(t, official(t, server, "writers"))
			e := newExporter(t, newClient(t, replay.URL, "writers"), func(c *Config) { c.TelemetryMeasurements = []string{"vm_info", "vm_totals"} })
			got := e.Examine(t.Context())
			wantMeasurements(t, got[0], Measurements{
				Source: "dumps", Names: []string{"mem_dumps"}, Existing: []string{"mem_dumps"}, Fields: got[0].Fields,
				Tags: []string{"dom", "host", "vmid"},
			})
			wantMeasurements(t, got[1], Measurements{
				Source: "telemetry", Names: []string{"vm_info", "vm_totals"}, Existing: []string{"vm_totals"}, Fields: got[1].Fields,
				Tags: []string{"Dom", "UUID", "VMID", "name", "uuid"},
			})
			if kinds := got[0].Fields["duration_sec"]; !slices.Equal(kinds, []string{"float"}) {
				t.Errorf("duration_sec has the types %q", kinds)
			}
			if missing := replay.UnknownStatements(); len(missing) > 0 {
				t.Errorf("%s: no recording has %q", server, missing)
			}
		})
	}
}

// TestExamine_schemas: InfluxDB 1.x and 2.x have fields of several types, 3.x has none.
func TestExamine_schemas(t *testing.T) {
	for _, server := range influxtest.Servers() {
		t.Run(server, func(t *testing.T) {
			e := newExporter(t, newClient(t, influxtest.Serve(t, official(t, server, "schemas")).URL, "schemas"))
			conflicts := fmt.Sprint(e.Examine(t.Context())[0].Conflicts)
			for _, name := range []string{"sha256", "gzip_size_bytes", "duration_sec"} {
				want := slices.Contains(runnable, server)
				if got := strings.Contains(conflicts, name); got != want {
					t.Errorf("a conflict of %s: %v, want %v", name, got, want)
				}
			}
		})
	}
}

// TestExamine_failures: a failed request reports nothing as missing.
func TestExamine_failures(t *testing.T) {
	for name, tt := range map[string]struct {
		part, body string
		reason     string
	}{
		"fields are rejected":       {"SHOW FIELD KEYS", rejected, "refused"},
		"tags are rejected":         {"SHOW TAG KEYS", rejected, "refused"},
		"fields without a name":     {"SHOW FIELD KEYS", rowsOf(`"fieldKey","fieldType"`, `[1,"float"]`), "malformed"},
		"fields without a type":     {"SHOW FIELD KEYS", rowsOf(`"fieldKey","fieldType"`, `["sha256",null]`), "malformed"},
		"fields of another form":    {"SHOW FIELD KEYS", rowsOf(`"name"`, `["sha256"]`), "malformed"},
		"fields of a server so far": {"SHOW FIELD KEYS", `{"results":[{"series":[`, "truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory(t)
			m.respond = func(statement string) string {
				if strings.HasPrefix(statement, tt.part) {
					return tt.body
				}
				return ""
			}
			for _, got := range m.exporter(t).Examine(t.Context()) {
				if got.Err == nil || Reason(got.Err) != tt.reason {
					t.Errorf("%s: %v, want %s", got.Source, got.Err, tt.reason)
				}
				if got.MissingFields != nil || got.MissingTags != nil || got.Unwritten != nil || got.Candidates != nil {
					t.Errorf("reported in spite of an error: %+v", got)
				}
			}
		})
	}
}

// TestExamine_candidates: the number of requests for candidates is limited, and a failed one is an
// error.
func TestExamine_candidates(t *testing.T) {
	fake := &influxtest.Fake{}
	failing := ""
	fake.Intercept(func(r *http.Request) (*http.Response, error) {
		switch statement := r.URL.Query().Get("q"); {
		case failing != "" && strings.HasPrefix(statement, failing):
			return influxtest.FakeResponse(r, http.StatusOK, rejected), nil
		case statement == "SHOW MEASUREMENTS":
			names := make([]string, 2*maxCandidates)
			for i := range names {
				names[i] = fmt.Sprintf(`["m%03d"]`, i)
			}
			return influxtest.FakeResponse(r, http.StatusOK, rowsOf(`"name"`, strings.Join(names, ","))), nil
		case strings.HasPrefix(statement, `SHOW TAG KEYS FROM "m0`):
			return influxtest.FakeResponse(r, http.StatusOK, rowsOf(`"tagKey"`, `["VMID"]`)), nil
		}
		return nil, nil
	})
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	if got := e.Examine(t.Context())[1]; got.Err != nil || len(got.Candidates) != maxCandidates {
		t.Errorf("%d candidates, %v; want %d", len(got.Candidates), got.Err, maxCandidates)
	}
	for _, failing = range []string{"SHOW MEASUREMENTS", `SHOW TAG KEYS FROM "m0`} {
		if got := e.Examine(t.Context())[1]; got.Err == nil || got.Candidates != nil {
			t.Errorf("%s fails: %q, %v", failing, got.Candidates, got.Err)
		}
	}
}

// TestInspection_vms: the sentences about VMs, which the page and check share.
func TestInspection_vms(t *testing.T) {
	dumped := VM{Name: "dumped", LastDump: recordedNow}
	for sentence, vms := range map[string][]VM{
		"there are no monitored VMs":                      nil,
		"each of 2 monitored VMs has been dumped":         {dumped, dumped},
		"1 of 3 monitored VMs have never been dumped":     {{Name: "a"}, dumped, dumped},
		"30 of 31 monitored VMs have never been dumped":   append(make([]VM, 30), dumped),
		"12 of 12 monitored VMs have never been dumped":   make([]VM, 12),
		"100 of 100 monitored VMs have never been dumped": make([]VM, 100),
	} {
		got, never := Inspection{VMs: vms}.NeverDumped()
		if got != sentence {
			t.Errorf("%q, want %q", got, sentence)
		}
		if slices.ContainsFunc(never, func(vm VM) bool { return !vm.NeverDumped() }) {
			t.Errorf("%s: a dumped VM is among them", sentence)
		}
	}
	if got := (Inspection{VMs: []VM{{Name: "a"}, {Name: "b", Shared: true}}}).SharedNames(); !strings.HasSuffix(got, ": b") {
		t.Errorf("the VMs that share a name: %q, want b", got)
	}
	if got := (Inspection{VMs: []VM{{Name: "a"}}}).SharedNames(); got != "" {
		t.Errorf("no VM shares a name: %q, want no sentence", got)
	}
}

// TestVMNames: a VM has the name, the uuid or the runtime ID that it has, without a character
// that hides another one.
func TestVMNames(t *testing.T) {
	for want, vm := range map[string]VM{
		"a (u)":           {Name: "a", UUID: "u", VMID: "1"},
		"a":               {Name: "a", VMID: "1"},
		"u":               {UUID: "u", VMID: "1"},
		"runtime ID 1":    {VMID: "1"},
		`a\u202eb\u0000ü`: {Name: "a\u202eb\x00ü"},
	} {
		if got := VMNames([]VM{vm}); got != want {
			t.Errorf("%+v: %q, want %q", vm, got, want)
		}
	}
	if got, want := VMNames(slices.Repeat([]VM{{Name: "a"}}, 23)), strings.Repeat("a, ", 19)+"a and 3 more"; got != want {
		t.Errorf("23 VMs: %q, want %q", got, want)
	}
}
