package collector

import (
	"fmt"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// all is a dump with all fields that some metric reads, a minute ago.
const allFields = `mem_dumps,dom=a,vmid=1 sha256="x",duration_sec=2.5,gzip_size_bytes=10i,raw_size_bytes=40i 1m`

// running is the telemetry of the VM that was dumped.
const running = "vm_totals,VMID=1,name=a,uuid=u1 1m"

// ofSHA256 are the queries that read sha256.
var ofSHA256 = []string{"dumps", "dumped_vms", "last_dump", "vm_totals", "vm_places"}

func reasonsOf(reason string, queries ...string) map[string]string {
	all := make(map[string]string)
	for _, query := range queries {
		all[query] = reason
	}
	return all
}

// TestSchema: fields and tags that are missing or of a wrong type, on a real InfluxDB. A point that is
// weeks old is in another shard, where a field may have another type.
func TestSchema(t *testing.T) {
	server := influxdb.Server(t)
	database := 0
	for name, tt := range map[string]struct {
		points  []string
		want    map[string]float64
		absent  []string
		reasons map[string]string // by query that fails
	}{
		"all fields": {
			points: []string{allFields, running},
			want: map[string]float64{"memdump_dumps": 1, "memdump_dumps_compressed_bytes": 10, "memdump_dumps_raw_bytes": 40,
				"memdump_dumps_duration_seconds": 2.5, "memdump_dumps_with_duration": 1, "memdump_vms_never_dumped": 0},
		},
		"the dump service alone": {
			points: []string{`mem_dumps,dom=a,vmid=1,host=h ok=true,sha256="x",raw_size_bytes=40i,duration_sec=1.5 1m`, running},
			want: map[string]float64{"memdump_dumps": 1, "memdump_dumps_raw_bytes": 40, "memdump_dumps_with_duration": 1,
				"memdump_vms_never_dumped": 0},
			absent: []string{"memdump_dumps_compressed_bytes", "memdump_vm_dumps_compressed_bytes"},
		},
		"the dump program alone": {
			points: []string{`mem_dumps,dom=a,vmid=1 sha256="x",gzip_size_bytes=10i,duration_sec=1.5 1m`, running},
			want:   map[string]float64{"memdump_dumps_compressed_bytes": 10, "memdump_vms_never_dumped": 0},
			absent: []string{"memdump_dumps_raw_bytes"},
		},
		"no writer records a duration": {
			points: []string{`mem_dumps,dom=a,vmid=1 sha256="x" 1m`, running},
			want:   map[string]float64{"memdump_dumps": 1},
			absent: []string{"memdump_dump_duration_mean_seconds", "memdump_dumps_duration_seconds", "memdump_dumps_with_duration",
				"memdump_dumps_compressed_bytes", "memdump_dumps_raw_bytes"},
		},
		"no sha256": {
			points:  []string{"mem_dumps,dom=a,vmid=1 gzip_size_bytes=10i 1m", running},
			want:    map[string]float64{"memdump_dumps_compressed_bytes": 10, "memdump_monitored_vms": 1},
			absent:  []string{"memdump_dumps", "memdump_dumped_vms", "memdump_dumped_domains", "memdump_vms_never_dumped"},
			reasons: reasonsOf("field_missing", "dumps", "dumped_vms", "last_dump", "vm_places", "raw_bytes", "duration_mean"),
		},
		"sha256 of two types": {
			points: []string{allFields, `mem_dumps,dom=b,vmid=2 sha256=0 2400h`, running},
			want:   map[string]float64{"memdump_dumps_compressed_bytes": 10, "memdump_dumps_raw_bytes": 40, "memdump_monitored_vms": 1},
			absent: []string{"memdump_dumps", "memdump_dumped_vms", "memdump_dumped_domains", "memdump_last_dump_timestamp_seconds",
				"memdump_vms_never_dumped", "memdump_vm_dumps", "memdump_vm_info"},
			reasons: reasonsOf("type_conflict", ofSHA256...),
		},
		"sha256 a text and a boolean": {
			points:  []string{allFields, `mem_dumps,dom=b,vmid=2 sha256=true 2400h`, running},
			absent:  []string{"memdump_dumps"},
			reasons: reasonsOf("type_conflict", ofSHA256...),
		},
		"sha256 a number everywhere": {
			points: []string{`mem_dumps,dom=b,vmid=2 sha256=7,gzip_size_bytes=1i,raw_size_bytes=1i,duration_sec=1 1m`, running},
			want:   map[string]float64{"memdump_dumps": 1, "memdump_dumped_vms": 1, "memdump_vms_never_dumped": 1},
		},
		"a compressed size that is a text": {
			points: []string{allFields, `mem_dumps,dom=b,vmid=2 sha256="y",gzip_size_bytes="10" 2400h`, running},
			want: map[string]float64{"memdump_dumps": 2, "memdump_dumped_vms": 2, "memdump_dumps_raw_bytes": 40,
				"memdump_dumps_with_duration": 1, "memdump_vms_never_dumped": 0},
			absent:  []string{"memdump_dumps_compressed_bytes", "memdump_vm_dumps_compressed_bytes"},
			reasons: reasonsOf("type_conflict", "compressed_bytes", "vm_totals"),
		},
		"compressed sizes that are texts everywhere": {
			points:  []string{`mem_dumps,dom=a,vmid=1 sha256="y",gzip_size_bytes="10",raw_size_bytes=1i,duration_sec=1 1m`, running},
			want:    map[string]float64{"memdump_dumps": 1},
			absent:  []string{"memdump_dumps_compressed_bytes"},
			reasons: reasonsOf("type_conflict", "compressed_bytes", "vm_totals"),
		},
		"a raw size that is a text": {
			points:  []string{allFields, `mem_dumps,dom=b,vmid=2 sha256="y",raw_size_bytes="40" 2400h`, running},
			want:    map[string]float64{"memdump_dumps": 2, "memdump_dumps_compressed_bytes": 10},
			absent:  []string{"memdump_dumps_raw_bytes"},
			reasons: reasonsOf("type_conflict", "raw_bytes"),
		},
		"a duration that is a text": {
			points:  []string{allFields, `mem_dumps,dom=b,vmid=2 sha256="y",duration_sec="2" 2400h`, running},
			want:    map[string]float64{"memdump_dumps": 2, "memdump_dumps_compressed_bytes": 10},
			absent:  []string{"memdump_dump_duration_mean_seconds", "memdump_dumps_duration_seconds", "memdump_dumps_with_duration"},
			reasons: reasonsOf("type_conflict", "duration_mean"),
		},
		"integers beside floats": {
			points: []string{allFields, `mem_dumps,dom=b,vmid=2 sha256="y",gzip_size_bytes=20,raw_size_bytes=80,duration_sec=3i 2400h`, running},
			want: map[string]float64{"memdump_dumps": 2, "memdump_dumps_compressed_bytes": 30, "memdump_dumps_raw_bytes": 120,
				"memdump_dumps_duration_seconds": 5.5, "memdump_dumps_with_duration": 2, "memdump_dump_duration_mean_seconds": 2.75},
		},
		"a field of another type that nobody reads": {
			points: []string{allFields, `mem_dumps,dom=b,vmid=2 sha256="y",dump_path=7 2400h`,
				`mem_dumps,dom=b,vmid=2 sha256="y",dump_path="x" 1h`, running},
			want: map[string]float64{"memdump_dumps": 3},
		},
		"a field vmid beside the tag": {
			points: []string{allFields, running,
				`mem_dumps,dom=a sha256="y",vmid=1i,dom="b",gzip_size_bytes=1i,raw_size_bytes=1i,duration_sec=1 2400h`},
			want: map[string]float64{"memdump_dumps": 2, "memdump_dumped_vms": 1, "memdump_dumped_domains": 1,
				"memdump_vms_never_dumped": 0, "memdump_dumps_compressed_bytes": 11},
		},
		"a tag sha256 beside the field": {
			points: []string{allFields, `mem_dumps,dom=a,vmid=2,sha256=tag sha256="y" 2h`, running},
			want:   map[string]float64{"memdump_dumps": 2, "memdump_dumped_vms": 2},
		},
		"vmid a field everywhere": {
			points:  []string{`mem_dumps,dom=a sha256="y",vmid=1i,gzip_size_bytes=1i,raw_size_bytes=1i,duration_sec=1 2h`, running},
			want:    map[string]float64{"memdump_dumps": 1, "memdump_monitored_vms": 1},
			absent:  []string{"memdump_dumped_vms", "memdump_vms_never_dumped"},
			reasons: reasonsOf("tag_missing", "dumped_vms"),
		},
		"VMID a field": {
			points:  []string{allFields, `vm_totals,name=a,uuid=u1 VMID=1i,state=1i 1m`},
			want:    map[string]float64{"memdump_dumps": 1, "memdump_dumped_vms": 1},
			absent:  []string{"memdump_monitored_vms", "memdump_monitored_domains", "memdump_vms_never_dumped", "memdump_vms_dump_overdue"},
			reasons: reasonsOf("tag_missing", "monitored_vms"),
		},
		"VMID in another case": {
			points:  []string{allFields, `vm_totals,vmid=1,name=a,uuid=u1 1m`},
			absent:  []string{"memdump_monitored_vms", "memdump_monitored_domains", "memdump_vms_never_dumped", "memdump_vms_dump_overdue"},
			reasons: reasonsOf("tag_missing", "monitored_vms"),
		},
		"a field VMID beside the tag": {
			points: []string{allFields, running, `vm_totals,VMID=2,name=b,uuid=u2 VMID=1i,state=1i 1m`},
			want:   map[string]float64{"memdump_monitored_vms": 2, "memdump_monitored_domains": 2, "memdump_vms_never_dumped": 1},
		},
		"no telemetry in the look-back": {
			points: []string{allFields, "vm_totals,VMID=1,name=a,uuid=u1 25h"},
			want: map[string]float64{"memdump_monitored_vms": 0, "memdump_monitored_domains": 0, "memdump_vms_never_dumped": 0,
				"memdump_vms_dump_overdue": 0},
		},
		"no telemetry measurement": {
			points:  []string{allFields, "vm_devices,VMID=1,name=a,devtype=nic rx=1i 1m"},
			want:    map[string]float64{"memdump_dumps": 1},
			absent:  []string{"memdump_monitored_vms", "memdump_vms_never_dumped"},
			reasons: reasonsOf("measurement_missing", "monitored_vms"),
		},
		"no dumps measurement": {
			points: []string{running},
			want:   map[string]float64{"memdump_monitored_vms": 1},
			absent: []string{"memdump_dumps", "memdump_dumps_compressed_bytes", "memdump_vms_never_dumped"},
			reasons: reasonsOf("measurement_missing", "dumps", "dumped_vms", "last_dump", "vm_totals", "vm_places", "compressed_bytes", "raw_bytes",
				"duration_mean"),
		},
	} {
		database++
		t.Run(name, func(t *testing.T) {
			db := fmt.Sprint("schema", database)
			server.MustStore(t, db, aged(t, tt.points...))
			e := newExporter(t, newClient(t, server.URL, db))
			got := scrape(t, e)
			for name, value := range tt.want {
				got.wantValue(t, value, name)
			}
			got.wantAbsent(t, tt.absent...)
			wantReasons(t, e, tt.reasons)
			got.wantValue(t, number01(len(tt.reasons) == 0), "memdump_up")
		})
	}
}

// TestSchema_emptied: InfluxDB keeps the fields of deleted points, so that metrics are 0 and not
// absent as long as the measurement has a point.
func TestSchema_emptied(t *testing.T) {
	server := influxdb.Server(t)
	h := aged(t, allFields, "mem_dumps,dom=b,vmid=2 other=1i 2m", running)
	server.MustStore(t, "emptied", h)
	dumped := recordedNow.Add(-time.Minute).UnixNano()
	if err := server.Delete(t.Context(), "emptied", influxtest.Dumps, dumped, dumped+1); err != nil {
		t.Fatal(err)
	}
	e := newExporter(t, newClient(t, server.URL, "emptied"))
	got := scrape(t, e)
	h.Delete(influxtest.Dumps, dumped, dumped+1)
	got.wantTable(t, truth(h, recordedNow))
	for _, sum := range []string{
		"memdump_dumps_compressed_bytes", "memdump_dumps_raw_bytes", "memdump_dumps_duration_seconds", "memdump_dumps_with_duration",
	} {
		got.wantValue(t, 0, sum)
	}
	got.wantValue(t, 1, "memdump_up")
}

// TestSchema_requests: the schema is requested once for all queries of the first scrape, then every
// five minutes, and again if a response is empty.
func TestSchema_requests(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "requests", aged(t, allFields, running))
	f, now := newFront(t, server.URL), newClock(recordedNow)
	e := newExporter(t, newClient(t, f.URL, "requests"), at(now))
	step := func(what string, after time.Duration, want int) {
		t.Helper()
		now.set(now.Now().Add(after))
		got := scrape(t, e)
		if n := f.count("SHOW FIELD KEYS FROM"); n != want {
			t.Errorf("%s: the fields were requested %d times, want %d", what, n, want)
		}
		got.wantValue(t, 1, "memdump_up")
		got.wantValue(t, 1, "memdump_dumps")
	}
	step("at the first scrape", 0, 1)
	step("after 15 s", 15*time.Second, 0)
	step("shortly before 5 minutes", schemaLife-15*time.Second-1, 0)
	step("after 5 minutes", 1, 1)
	step("after 15 s more", 15*time.Second, 0)
	step("after the clock was set back", -time.Minute, 1)
	if n := f.count("SHOW"); n != 0 {
		t.Errorf("%d requests for tags, want none", n)
	}
}

// TestSchema_changes: changes of the schema between two scrapes.
func TestSchema_changes(t *testing.T) {
	server := influxdb.Server(t)
	server.MustStore(t, "changes", aged(t, allFields, running))
	now := newClock(recordedNow)
	e := newExporter(t, newClient(t, server.URL, "changes"), at(now))
	scrape(t, e).wantValue(t, 1, "memdump_dumps")

	// A measurement that is gone is no 0, though its fields are known.
	if err := server.ExecIn(t.Context(), "changes", `DROP MEASUREMENT "mem_dumps"`); err != nil {
		t.Fatal(err)
	}
	now.set(now.Now().Add(15 * time.Second))
	got := scrape(t, e)
	got.wantAbsent(t, "memdump_dumps", "memdump_dumps_compressed_bytes", "memdump_vms_never_dumped")
	wantReasons(t, e, reasonsOf("measurement_missing", "dumps", "dumped_vms", "last_dump", "vm_totals", "vm_places", "compressed_bytes",
		"raw_bytes", "duration_mean"))

	// A second type of a field is seen after five minutes at the latest.
	const number = `mem_dumps,dom=a,vmid=1 sha256="y",gzip_size_bytes=7i 1h`
	h := aged(t, allFields, number)
	if err := server.Store(t.Context(), "changes", h, h.Lines()); err != nil {
		t.Fatal(err)
	}
	scrape(t, e).wantValue(t, 17, "memdump_dumps_compressed_bytes")
	h = aged(t, allFields, number, `mem_dumps,dom=a,vmid=1 sha256="y",gzip_size_bytes="seven" 2400h`)
	if err := server.Store(t.Context(), "changes", h, h.Lines()); err != nil {
		t.Fatal(err)
	}
	now.set(now.Now().Add(schemaLife))
	got = scrape(t, e)
	got.wantAbsent(t, "memdump_dumps_compressed_bytes")
	got.wantValue(t, 3, "memdump_dumps")
	wantReasons(t, e, reasonsOf("type_conflict", "compressed_bytes", "vm_totals"))
}
