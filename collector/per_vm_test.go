package collector

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestPerVM_failures: if a query fails, exactly the metrics that depend on it are absent.
func TestPerVM_failures(t *testing.T) {
	for failing, absent := range map[string][]string{
		dumpedVMs: {"memdump_vms_never_dumped", "memdump_vms_dump_overdue", "memdump_vms_omitted", "memdump_vm_last_dump_timestamp_seconds",
			"memdump_vm_dumps", "memdump_vm_dumps_compressed_bytes", "memdump_vm_info"},
		monitoredVMs: {"memdump_vms_never_dumped", "memdump_vms_dump_overdue"},
		vmTotals:     {"memdump_vm_dumps", "memdump_vm_dumps_compressed_bytes"},
		vmPlaces:     {"memdump_vm_info"},
		"dumps":      nil,
	} {
		t.Run(failing, func(t *testing.T) {
			m := newMemory(t)
			e := m.exporter(t)
			prefix := "SELECT " + e.query(failing).columns + " FROM"
			m.respond = func(statement string) string {
				if strings.HasPrefix(statement, prefix) {
					return rejected
				}
				return ""
			}
			if failing == "dumps" {
				m.Intercept(nil) // which counts
			}
			got := scrape(t, e)
			got.wantAbsent(t, absent...)
			for _, name := range []string{"memdump_vms_never_dumped", "memdump_vms_dump_overdue", "memdump_vms_omitted",
				"memdump_vm_last_dump_timestamp_seconds", "memdump_vm_dumps", "memdump_vm_dumps_compressed_bytes", "memdump_vm_info"} {
				if want := !strings.Contains(fmt.Sprint(absent), name); (got.families[name] != nil) != want {
					t.Errorf("%s is there: %v, want %v", name, !want, want)
				}
			}
		})
	}
}

// TestPerVM_maxAge: without a maximum age, the metric about overdue VMs is absent.
func TestPerVM_maxAge(t *testing.T) {
	got := scrape(t, newMemory(t).exporter(t, func(c *Config) { c.DumpsMaxAge = 0 }))
	got.wantAbsent(t, "memdump_vms_dump_overdue")
	got.wantValue(t, 0, "memdump_vms_never_dumped")
}

// TestPerVM_disabled: without metrics per VM, their queries are not sent.
func TestPerVM_disabled(t *testing.T) {
	m := newMemory(t)
	e := m.exporter(t, func(c *Config) { c.PerVM = 0 })
	got := scrape(t, e)
	got.wantAbsent(t, "memdump_vm_info", "memdump_vm_dumps", "memdump_vms_omitted")
	got.wantValue(t, 1, "memdump_up")
	// Seven queries, and the fields of the dumps.
	if statements := m.Statements(); len(statements) != len(queries)+1 {
		t.Errorf("%d statements: %q", len(statements), statements)
	}
}

// TestPerVM_restart: a restart and a migration neither end a series nor start one.
func TestPerVM_restart(t *testing.T) {
	fake := &influxtest.Fake{}
	add := func(lines ...string) {
		for _, line := range lines {
			fake.Add(aged(t, line).Points(influxtest.Dumps)...)
		}
	}
	add(`mem_dumps,dom=web,vmid=5,host=h1 sha256="x",gzip_size_bytes=10i 5h`)
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	before := scrape(t, e)
	add(`mem_dumps,dom=web,vmid=2,host=h2 sha256="x",gzip_size_bytes=7i 1h`)
	after := scrape(t, e)
	for name, values := range map[string][2]float64{
		"memdump_vm_dumps": {1, 2}, "memdump_vm_dumps_compressed_bytes": {10, 17},
		"memdump_vm_last_dump_timestamp_seconds": {1762857000 - 5*3600, 1762857000 - 3600},
	} {
		before.wantValue(t, values[0], name, "dom", "web")
		after.wantValue(t, values[1], name, "dom", "web")
		if n := len(after.families[name].GetMetric()); n != 1 {
			t.Errorf("%d series of %s", n, name)
		}
	}
	before.wantValue(t, 1, "memdump_vm_info", "dom", "web", "host", "h1", "vmid", "5")
	after.wantValue(t, 1, "memdump_vm_info", "dom", "web", "host", "h2", "vmid", "2")
	if n := len(after.families["memdump_vm_info"].GetMetric()); n != 1 {
		t.Errorf("%d series of memdump_vm_info", n)
	}
}

// TestPerVM_sizes: sums of sizes, sizes that are not recorded, and sums beyond 64 bits.
func TestPerVM_sizes(t *testing.T) {
	fake := &influxtest.Fake{}
	fake.Add(aged(t, `mem_dumps,dom=floats,vmid=1 sha256="x",gzip_size_bytes=1.5 5h`,
		`mem_dumps,dom=floats,vmid=2 sha256="x",gzip_size_bytes=2 4h`, `mem_dumps,dom=none,vmid=3 sha256="x" 3h`).Points(influxtest.Dumps)...)
	e := newExporter(t, newClientOver(t, fake, influx.Config{}))
	got := scrape(t, e)
	got.wantValue(t, 4, "memdump_vm_dumps_compressed_bytes", "dom", "floats") // each run is rounded
	got.wantValue(t, 1, "memdump_vm_dumps", "dom", "none")
	if n := len(got.families["memdump_vm_dumps_compressed_bytes"].GetMetric()); n != 1 {
		t.Errorf("%d VMs have sizes, want 1", n)
	}

	m := newMemory(t)
	m.respond = func(statement string) string {
		if !strings.HasPrefix(statement, "SELECT "+totalsColumns) {
			return ""
		}
		series := func(vmid, dom, size string) string {
			const format = `{"name":"mem_dumps","tags":{"vmid":%q,"dom":%q},"columns":["time","dumps","compressed","raw","seconds","timed"],` +
				`"values":[[0,1,%s,null,null,0]]}`
			return fmt.Sprintf(format, vmid, dom, size)
		}
		all := []string{series("1", "a", "9223372036854775807"), series("2", "a", "1"), series("3", "b", "1e30")}
		return `{"results":[{"series":[` + strings.Join(all, ",") + `]}]}`
	}
	got = scrape(t, m.exporter(t))
	got.wantAbsent(t, "memdump_vm_dumps_compressed_bytes")
	got.wantValue(t, 2, "memdump_vm_dumps", "dom", "a")
}

// TestPerVM_names: the series of a VM are valid with any name. A VM whose name is not UTF-8 has none.
func TestPerVM_names(t *testing.T) {
	names := []string{`"quoted\"`, "two\nlines", "büro", "\u202edlrow", "a,b=c", "{}"}
	const cut = "cut\ufffd"
	for name, tt := range map[string]struct {
		names   []string
		omitted float64
		fails   bool
	}{
		"all is text":         {names, 0, false},
		"one is not UTF-8":    {append([]string{cut}, names...), 1, false},
		"two are not UTF-8":   {append([]string{cut, cut + "2"}, names...), 2, false},
		"two are as one":      {append([]string{cut, cut}, names...), 0, true},
		"one without a name":  {append([]string{""}, names...), 0, false},
		"nobody has any name": {[]string{""}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			series := make(map[string][]string) // by the columns of the statement
			for i, dom := range tt.names {
				tag, err := json.Marshal(dom)
				if err != nil {
					t.Fatal(err)
				}
				const format = `{"name":"mem_dumps","tags":{"vmid":"","dom":%s},"columns":["time",%s],"values":[[%d,%s]]}`
				for name, response := range map[string][2]string{
					dumpedVMs: {`"newest"`, `"x"`},
					vmTotals:  {`"dumps","compressed","raw","seconds","timed"`, `1,2,null,null,0`},
					vmPlaces:  {`"sha256","host"`, `"x",null`},
				} {
					at := recordedNow.UnixNano() + int64(i)
					series[name] = append(series[name], fmt.Sprintf(format, tag, response[0], at, response[1]))
				}
			}
			m := newMemory(t)
			m.respond = func(statement string) string {
				for _, q := range append(slices.Clone(queries), perVMQueries...) {
					if all := series[q.name]; len(all) > 0 && strings.HasPrefix(statement, "SELECT "+q.columns+" FROM") {
						return seriesOf(all...)
					}
				}
				return ""
			}
			e := m.exporter(t)
			got := scrape(t, e)
			if tt.fails {
				got.wantAbsent(t, "memdump_dumped_vms", "memdump_dumped_domains", "memdump_vms_omitted", "memdump_vm_info")
				wantReasons(t, e, map[string]string{dumpedVMs: "out_of_range"})
				return
			}
			got.wantValue(t, tt.omitted, "memdump_vms_omitted")
			want := make(map[string]bool)
			for _, dom := range tt.names {
				if dom != "" && !strings.HasPrefix(dom, cut) {
					want[dom] = true
					got.wantValue(t, 1, "memdump_vm_info", "dom", dom, "host", "", "vmid", "")
				}
			}
			if n := len(got.families["memdump_vm_info"].GetMetric()); n != len(want) {
				t.Errorf("%d VMs, want %d", n, len(want))
			}
		})
	}
}

// TestPerVM_limit: of ten thousand VMs, the most recently dumped have series, and the rest are
// counted.
func TestPerVM_limit(t *testing.T) {
	const vms, limit = 10_000, 500
	fake := &influxtest.Fake{}
	var points []influxtest.Point
	for vm := range vms {
		points = append(points, influxtest.Point{
			Measurement: influxtest.Dumps, TimeNs: recordedNow.UnixNano() - int64(vm)*1e9,
			Tags:   map[string]string{"dom": fmt.Sprintf("vm-%05d", vm), "vmid": fmt.Sprint(vm)},
			Fields: map[string]any{"sha256": "x", "gzip_size_bytes": 1},
		})
	}
	fake.Add(points...)
	got := scrape(t, newExporter(t, newClientOver(t, fake, influx.Config{}), func(c *Config) { c.PerVM = limit }))
	got.wantValue(t, vms-limit, "memdump_vms_omitted")
	got.wantValue(t, vms, "memdump_dumped_domains")
	for _, m := range []string{"memdump_vm_last_dump_timestamp_seconds", "memdump_vm_dumps", "memdump_vm_dumps_compressed_bytes"} {
		series := got.series(m)
		if len(series) != limit {
			t.Errorf("%d series of %s, want %d", len(series), m, limit)
		}
		for dom := range series {
			if dom >= fmt.Sprintf("vm-%05d", limit) {
				t.Errorf("%s of %s, which was not dumped recently", m, dom)
			}
		}
	}
}
