package influxtest

import (
	"cmp"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"time"
)

// TelemetryMeasurements are the measurements of telemetry that the exporter reads by default.
func TelemetryMeasurements() []string { return []string{"vm_info", Telemetry, OlderTelemetry} }

// Truth is what the exporter's metrics have to be. A dump is a point of mem_dumps with a sha256. A sum has its flag when
// some point has, or had before it was deleted, the field.
type Truth struct {
	Dumps            int64
	DumpedVMs        int   // distinct vmid, not empty, of the dumps: runtime IDs
	DumpedDomains    int   // distinct domains of the dumps, see DumpsByDomain
	CompressedBytes  int64 // sum of gzip_size_bytes over all points of mem_dumps
	Sized            bool  // whether there is that sum
	RawBytes         int64 // sum of raw_size_bytes over all points of mem_dumps
	RawSized         bool
	DurationSum      float64
	DurationCount    int64 // points of mem_dumps with duration_sec, dumps or not
	Timed            bool
	LastDumpNs       int64 // Unix time in nanoseconds, may be in the future; 0 and HasLast false without a dump
	HasLast          bool
	MonitoredVMs     int // distinct VMID, not empty, of telemetry within the look-back: runtime IDs
	MonitoredDomains int // monitored VMs, see MonitoredDomains
	NeverDumped      int // of these, those without a dump
}

// Mean is the mean duration in seconds, and false when no point has a duration.
func (t Truth) Mean() (float64, bool) {
	if t.DurationCount == 0 {
		return 0, false
	}
	return t.DurationSum / float64(t.DurationCount), true
}

// Last is the time of the newest dump in seconds, the nearest float64, and false without a dump.
func (t Truth) Last() (float64, bool) { return seconds(t.LastDumpNs), t.HasLast }

func seconds(ns int64) float64 {
	s, _ := big.NewRat(ns, 1e9).Float64()
	return s
}

// Metrics are the values of the exporter's metrics by name, without those that are absent although no query fails. What
// depends on a flag of the exporter, such as memdump_vms_dump_overdue, is not among them.
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

// Truth counts all points afresh. Telemetry, of the measurements named or else of TelemetryMeasurements, counts from
// nowNs-lookback to nowNs, both included; dumps always.
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
	t.MonitoredVMs = len(h.sampled(nowNs, lookback, telemetry).ids())
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

// DumpsOfDomain is what is true of the dumps of one domain. A sum is of all its points, dumps or not, and has its flag
// when one of these has the field.
type DumpsOfDomain struct {
	Dumps           int64
	CompressedBytes int64
	Sized           bool
	RawBytes        int64
	RawSized        bool
	LastNs          int64  // of the newest dump, Unix time in nanoseconds
	VMID, Host      string // of the newest dump, may be empty
}

// DumpsByDomain counts the dumps of each domain that has one. A dump's domain is its dom, or its vmid where dom is
// missing; a dump with neither has none.
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
	UUID   string   // empty when no point has one
	Name   string   // the newest name in any point; empty when no point of the UUID has one
	Names  []string // all that it had within the look-back, in order; it owns their dumps
	VMIDs  []string // its runtime IDs within the look-back, in order
	Dumped bool
	LastNs int64 // time of its newest dump, Unix time in nanoseconds; 0 without one
}

// MonitoredDomains are the VMs of one look-back, by name, then UUID.
type MonitoredDomains []MonitoredDomain

// NeverDumped counts the VMs without a dump.
func (all MonitoredDomains) NeverDumped() int {
	return count(all, func(vm MonitoredDomain) bool { return !vm.Dumped })
}

// Overdue counts the VMs whose newest dump is older than maxAge.
func (all MonitoredDomains) Overdue(nowNs int64, maxAge time.Duration) int {
	return count(all, func(vm MonitoredDomain) bool { return vm.Dumped && nowNs-vm.LastNs > int64(maxAge) })
}

// Shared are the names that several of the VMs have had: the dumps of these names cannot be told apart.
func (all MonitoredDomains) Shared() []string {
	bearers := map[string]int{}
	for _, vm := range all {
		for _, name := range vm.Names {
			bearers[name]++
		}
	}
	maps.DeleteFunc(bearers, func(_ string, n int) bool { return n == 1 })
	return slices.Sorted(maps.Keys(bearers))
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

// MonitoredDomains joins the telemetry of the look-back, as Truth counts it, to the dumps. A point without VMID counts for
// nothing. The others are of
//   - the VM of their uuid (uuid, or else UUID);
//   - without one, all the VMs with a uuid that bear their name (name, or else Dom, or else dom) within the look-back, as
//     one collector may omit what another writes; where there is none, the VM of that name;
//   - with neither, the VM that another series with the same VMID tells more of; where there is none, the VM of their
//     VMID, which stands for the name, too, as vmid does in a dump without dom.
func (h *History) MonitoredDomains(nowNs int64, lookback time.Duration, telemetry ...string) MonitoredDomains {
	sampled := h.sampled(nowNs, lookback, telemetry)
	vms := map[string]*monitored{} // by identity
	bearers := map[string]map[string]bool{}
	told := map[string]bool{} // the VMIDs of series that tell more than the VMID
	for s, ns := range sampled {
		if s.uuid() != "" || s.name() != "" {
			told[s.tags["VMID"]] = true
		}
		if uuid := s.uuid(); uuid != "" {
			of(vms, "uuid "+uuid, uuid).add(s.name(), s.tags["VMID"], ns)
			if bearers[s.name()] == nil {
				bearers[s.name()] = map[string]bool{}
			}
			bearers[s.name()]["uuid "+uuid] = true
		}
	}
	for s, ns := range sampled {
		name, id := s.name(), s.tags["VMID"]
		switch {
		case s.uuid() != "":
		case name == "" && told[id]:
		case name == "":
			of(vms, "VMID "+id, "").add(id, id, ns)
		case len(bearers[name]) == 0:
			of(vms, "name "+name, "").add(name, id, ns)
		default:
			for identity := range bearers[name] {
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

// monitored is a VM while its telemetry is read.
type monitored struct {
	uuid  string
	names map[string]int64 // and when each was seen last
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

// sampled are the series of telemetry with a VMID and a point in the look-back, and the time of their newest there.
type sampled map[*series]int64

func (h *History) sampled(nowNs int64, lookback time.Duration, telemetry []string) sampled {
	if telemetry == nil {
		telemetry = TelemetryMeasurements()
	}
	counts := map[*series]bool{}
	for _, s := range h.series {
		counts[s] = s.tags["VMID"] != "" && slices.Contains(telemetry, s.measurement)
	}
	newest := sampled{}
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

func (s sampled) ids() map[string]bool {
	ids := map[string]bool{}
	for of := range s {
		ids[of.tags["VMID"]] = true
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

// whole is a number of bytes, which some writers write as a float.
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
