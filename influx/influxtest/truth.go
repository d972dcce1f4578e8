package influxtest

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"
)

// TelemetryMeasurements returns the measurements of telemetry that the exporter reads by default.
func TelemetryMeasurements() []string { return []string{"vm_info", Telemetry, OlderTelemetry} }

// Truth has the true values of the exporter's metrics. A dump is a point of mem_dumps with a sha256. Sums are over all points
// of mem_dumps, dumps or not. Sized, RawSized and Timed are true if a point has the field of the sum, or had it before it was
// deleted.
type Truth struct {
	Dumps            int64
	DumpedVMs        int   // runtime IDs: distinct non-empty vmid of the dumps
	DumpedDomains    int   // distinct domains of the dumps; see DumpsByDomain
	CompressedBytes  int64 // sum of gzip_size_bytes
	Sized            bool
	RawBytes         int64 // sum of raw_size_bytes
	RawSized         bool
	DurationSum      float64 // sum of duration_sec, in seconds
	DurationCount    int64   // number of points with duration_sec
	Timed            bool
	LastDumpNs       int64 // time of the newest dump in nanoseconds since 1970; may be in the future
	HasLast          bool  // there is a dump
	MonitoredVMs     int   // runtime IDs: distinct non-empty VMID of telemetry within the look-back
	MonitoredDomains int   // monitored VMs; see MonitoredDomains
	NeverDumped      int   // monitored VMs without a dump
}

// Mean returns the mean duration in seconds; false if no point has a duration.
func (t Truth) Mean() (float64, bool) {
	if t.DurationCount == 0 {
		return 0, false
	}
	return t.DurationSum / float64(t.DurationCount), true
}

// Last returns the time of the newest dump as the nearest float64, in seconds since 1970; false without a dump.
func (t Truth) Last() (float64, bool) { return seconds(t.LastDumpNs), t.HasLast }

func seconds(ns int64) float64 {
	s, _ := big.NewRat(ns, 1e9).Float64()
	return s
}

// Metrics returns the values of the exporter's metrics by name. It omits metrics that are absent without a failed query, and
// metrics that depend on a flag of the exporter, such as memdump_vms_dump_overdue.
func (t Truth) Metrics() map[string]float64 {
	m := map[string]float64{
		"memdump_dumps":             float64(t.Dumps),
		"memdump_dumped_vms":        float64(t.DumpedVMs),
		"memdump_dumped_domains":    float64(t.DumpedDomains),
		"memdump_monitored_vms":     float64(t.MonitoredVMs),
		"memdump_monitored_domains": float64(t.MonitoredDomains),
		"memdump_vms_never_dumped":  float64(t.NeverDumped),
	}
	if t.Sized {
		m["memdump_dumps_compressed_bytes"] = float64(t.CompressedBytes)
	}
	if t.RawSized {
		m["memdump_dumps_raw_bytes"] = float64(t.RawBytes)
	}
	if t.Timed {
		m["memdump_dumps_duration_seconds"] = t.DurationSum
		m["memdump_dumps_with_duration"] = float64(t.DurationCount)
	}
	if mean, ok := t.Mean(); ok {
		m["memdump_dump_duration_mean_seconds"] = mean
	}
	if last, ok := t.Last(); ok {
		m["memdump_last_dump_timestamp_seconds"] = last
	}
	return m
}

// Truth counts all dumps, and the telemetry from nowNs-lookback to nowNs, both inclusive. telemetry are the measurements of
// telemetry; by default TelemetryMeasurements.
func (h *History) Truth(nowNs int64, lookback time.Duration, telemetry ...string) Truth {
	t := Truth{Sized: h.written["gzip_size_bytes"], RawSized: h.written["raw_size_bytes"], Timed: h.written["duration_sec"]}
	vms, domains := map[string]bool{}, map[string]bool{}
	for _, p := range h.points {
		if p.series.measurement == Dumps && t.addDump(p) {
			vms[p.series.tags["vmid"]] = true
			domains[p.series.domain] = true
		}
	}
	delete(vms, "")
	delete(domains, "")
	t.DumpedVMs, t.DumpedDomains = len(vms), len(domains)

	monitored := h.MonitoredDomains(nowNs, lookback, telemetry...)
	t.MonitoredVMs = len(h.newestTelemetry(nowNs, lookback, telemetry).ids())
	t.MonitoredDomains = len(monitored)
	t.NeverDumped = monitored.NeverDumped()
	return t
}

// addDump counts one point of mem_dumps and reports whether it is a dump.
func (t *Truth) addDump(p stored) bool {
	isDump := false
	for _, f := range p.fields {
		switch f.key {
		case "sha256":
			isDump = true
			t.Dumps++
			if !t.HasLast || p.ns > t.LastDumpNs {
				t.LastDumpNs, t.HasLast = p.ns, true
			}
		case "gzip_size_bytes":
			t.CompressedBytes += whole(f)
		case "raw_size_bytes":
			t.RawBytes += whole(f)
		case "duration_sec":
			t.DurationSum += float(f)
			t.DurationCount++
		}
	}
	return isDump
}

// DumpsOfDomain is the truth about the dumps of one domain. Sums are over all points of the domain, dumps or not. Sized and
// RawSized are true if one of the points has the field of the sum.
type DumpsOfDomain struct {
	Dumps           int64
	CompressedBytes int64
	Sized           bool
	RawBytes        int64
	RawSized        bool
	LastNs          int64  // time of the newest dump in nanoseconds since 1970
	VMID, Host      string // of the newest dump, may be empty
}

// DumpsByDomain counts the dumps of each domain with a dump. The domain of a dump is its dom, or its vmid if dom is missing. A
// dump with neither has no domain.
func (h *History) DumpsByDomain() map[string]DumpsOfDomain {
	all := map[string]DumpsOfDomain{}
	for _, p := range h.points {
		domain := p.series.domain
		if p.series.measurement != Dumps || domain == "" {
			continue
		}
		of := all[domain]
		for _, f := range p.fields {
			switch f.key {
			case "gzip_size_bytes":
				of.CompressedBytes += whole(f)
				of.Sized = true
			case "raw_size_bytes":
				of.RawBytes += whole(f)
				of.RawSized = true
			case "sha256":
				if of.Dumps == 0 || p.ns > of.LastNs {
					of.LastNs, of.VMID, of.Host = p.ns, p.series.tags["vmid"], p.series.tags["host"]
				}
				of.Dumps++
			}
		}
		all[domain] = of
	}
	maps.DeleteFunc(all, func(_ string, of DumpsOfDomain) bool { return of.Dumps == 0 })
	return all
}

// MonitoredDomain is a VM with telemetry within the look-back, and its newest dump.
type MonitoredDomain struct {
	UUID   string   // may be empty
	Name   string   // newest name; may be empty
	Names  []string // all names within the look-back, sorted; the VM owns their dumps
	VMIDs  []string // runtime IDs within the look-back, sorted
	Dumped bool
	LastNs int64 // time of the newest dump in nanoseconds since 1970; 0 without a dump
}

// MonitoredDomains are the VMs of one look-back, sorted by name and UUID.
type MonitoredDomains []MonitoredDomain

// NeverDumped returns the number of VMs without a dump.
func (all MonitoredDomains) NeverDumped() int {
	return count(all, func(vm MonitoredDomain) bool { return !vm.Dumped })
}

// Overdue returns the number of VMs whose newest dump is older than maxAge.
func (all MonitoredDomains) Overdue(nowNs int64, maxAge time.Duration) int {
	return count(all, func(vm MonitoredDomain) bool { return vm.Dumped && nowNs-vm.LastNs > int64(maxAge) })
}

// Shared returns the names that several VMs have had, whose dumps can't be distinguished.
func (all MonitoredDomains) Shared() []string {
	owners := map[string]int{}
	for _, vm := range all {
		for _, name := range vm.Names {
			owners[name]++
		}
	}
	maps.DeleteFunc(owners, func(_ string, n int) bool { return n == 1 })
	return slices.Sorted(maps.Keys(owners))
}

func count(all MonitoredDomains, is func(MonitoredDomain) bool) int {
	n := 0
	for _, vm := range all {
		if is(vm) {
			n++
		}
	}
	return n
}

// MonitoredDomains joins the telemetry of the look-back, as in Truth, to the dumps. It ignores points without VMID. A point
// belongs to
//   - the VM with its uuid (uuid, or else UUID);
//   - without a uuid, all VMs with a uuid that have its name (name, or else Dom, or else dom) within the look-back, because
//     one collector may omit what another writes; if there is none, the VM with that name;
//   - without a uuid and a name, the VM of other points with the same VMID; if they have no uuid and no name either, the VM
//     with that VMID, which is then its name, too, like vmid in a dump without dom.
func (h *History) MonitoredDomains(nowNs int64, lookback time.Duration, telemetry ...string) MonitoredDomains {
	newest := h.newestTelemetry(nowNs, lookback, telemetry)
	vms := map[string]*monitored{}         // by identity
	owners := map[string]map[string]bool{} // identities by name
	named := map[string]bool{}             // the VMIDs of series with a uuid or a name
	for s, ns := range newest {
		if s.uuid() != "" || s.name() != "" {
			named[s.tags["VMID"]] = true
		}
		if uuid := s.uuid(); uuid != "" {
			of(vms, "uuid "+uuid, uuid).add(s.name(), s.tags["VMID"], ns)
			if owners[s.name()] == nil {
				owners[s.name()] = map[string]bool{}
			}
			owners[s.name()]["uuid "+uuid] = true
		}
	}
	for s, ns := range newest {
		name, id := s.name(), s.tags["VMID"]
		switch {
		case s.uuid() != "":
		case name == "" && named[id]:
		case name == "":
			of(vms, "VMID "+id, "").add(id, id, ns)
		case len(owners[name]) == 0:
			of(vms, "name "+name, "").add(name, id, ns)
		default:
			for identity := range owners[name] {
				vms[identity].add(name, id, ns)
			}
		}
	}

	dumps := h.DumpsByDomain()
	var all MonitoredDomains
	for _, vm := range vms {
		m := MonitoredDomain{UUID: vm.uuid, VMIDs: slices.Sorted(maps.Keys(vm.ids)), Names: slices.Sorted(maps.Keys(vm.names))}
		for _, name := range m.Names {
			if m.Name == "" || vm.names[name] > vm.names[m.Name] {
				m.Name = name
			}
			if of, ok := dumps[name]; ok && (!m.Dumped || of.LastNs > m.LastNs) {
				m.Dumped, m.LastNs = true, of.LastNs
			}
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b MonitoredDomain) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID), slices.Compare(a.VMIDs, b.VMIDs))
	})
	return all
}

// monitored collects the telemetry of one VM.
type monitored struct {
	uuid  string
	names map[string]int64 // newest time by name
	ids   map[string]bool
}

func of(vms map[string]*monitored, identity, uuid string) *monitored {
	if vms[identity] == nil {
		vms[identity] = &monitored{uuid, map[string]int64{}, map[string]bool{}}
	}
	return vms[identity]
}

func (m *monitored) add(name, id string, ns int64) {
	m.ids[id] = true
	if last, ok := m.names[name]; name != "" && (!ok || ns > last) {
		m.names[name] = ns
	}
}

func (s *series) uuid() string { return cmp.Or(s.tags["uuid"], s.tags["UUID"]) }
func (s *series) name() string { return cmp.Or(s.tags["name"], s.tags["Dom"], s.tags["dom"]) }

// newestTimes maps series of telemetry to the time of their newest point, in nanoseconds since 1970.
type newestTimes map[*series]int64

// newestTelemetry returns the series of telemetry with a VMID and a point within the look-back.
func (h *History) newestTelemetry(nowNs int64, lookback time.Duration, telemetry []string) newestTimes {
	if telemetry == nil {
		telemetry = TelemetryMeasurements()
	}
	counts := map[*series]bool{}
	for _, s := range h.series {
		counts[s] = s.tags["VMID"] != "" && slices.Contains(telemetry, s.measurement)
	}
	newest := newestTimes{}
	for _, p := range h.points {
		if p.ns < nowNs-lookback.Nanoseconds() || p.ns > nowNs || !counts[p.series] {
			continue
		}
		if last, ok := newest[p.series]; !ok || p.ns > last {
			newest[p.series] = p.ns
		}
	}
	return newest
}

func (t newestTimes) ids() map[string]bool {
	ids := map[string]bool{}
	for s := range t {
		ids[s.tags["VMID"]] = true
	}
	return ids
}

func float(f field) float64 {
	switch v := f.value.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	}
	panic(fmt.Sprintf("influxtest: %s = %v is not a number", f.key, f.value))
}

// whole returns a number of bytes, which some writers write as a float.
func whole(f field) int64 {
	if v, ok := f.value.(int64); ok {
		return v
	}
	v := float(f)
	if v != float64(int64(v)) {
		panic(fmt.Sprintf("influxtest: %s = %v is not a whole number", f.key, v))
	}
	return int64(v)
}
