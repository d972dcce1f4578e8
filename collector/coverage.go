package collector

import (
	"cmp"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// VM is a monitored VM and its newest dump.
type VM struct {
	ID       string    // VMID of its telemetry
	Name     string    // of its newest telemetry; may be empty
	LastDump time.Time // zero when it has none
}

// coverageGauges follow from the answers for dumped and monitored VMs: they cost no
// request. While one of the two is not known, they are absent.
var coverageGauges = []struct {
	desc  *prometheus.Desc
	value func(vms []VM, now time.Time, maxAge time.Duration) (float64, bool)
}{
	{
		prometheus.NewDesc("memdump_vms_never_dumped",
			"Monitored VMs without a memory dump on record. A VM's dumps are those whose vmid is its VMID or the name in its newest telemetry.", nil, nil),
		func(vms []VM, _ time.Time, _ time.Duration) (float64, bool) {
			return countVMs(vms, func(vm VM) bool { return vm.LastDump.IsZero() }), true
		},
	},
	{
		prometheus.NewDesc("memdump_vms_dump_overdue",
			"Monitored VMs whose newest memory dump is older than --dumps.max-age; VMs without any are not counted. A VM's dumps are those whose vmid is its VMID or the name in its newest telemetry. Absent while --dumps.max-age is 0.", nil, nil),
		func(vms []VM, now time.Time, maxAge time.Duration) (float64, bool) {
			return countVMs(vms, func(vm VM) bool { return vm.overdue(now, maxAge) }), maxAge > 0
		},
	},
}

func (vm VM) overdue(now time.Time, maxAge time.Duration) bool {
	return !vm.LastDump.IsZero() && now.Sub(vm.LastDump) > maxAge
}

func countVMs(vms []VM, is func(VM) bool) float64 {
	n := 0
	for _, vm := range vms {
		if is(vm) {
			n++
		}
	}
	return float64(n)
}

func (s sample) coverage(gauge func(*prometheus.Desc, float64, ...string)) {
	vms, known := s.monitored(s.answers, s.now)
	if !known {
		return
	}
	for _, g := range coverageGauges {
		if value, ok := g.value(vms, s.now, s.DumpsMaxAge); ok {
			gauge(g.desc, value)
		}
	}
}

// monitored returns the VMs with telemetry in the look-back, those without a dump first,
// then by the age of the newest; false while that is not known.
func (c *Collector) monitored(answers []answer, now time.Time) ([]VM, bool) {
	dumped, known := membersOf(c.figures, answers, dumpedVMs)
	monitored, knownToo := membersOf(c.figures, answers, monitoredVMs)
	if !known || !knownToo {
		return nil, false
	}
	span := c.lookback(now)
	var vms []VM
	for id, point := range monitored {
		if span.Contains(point.ns) {
			vms = append(vms, VM{ID: id, Name: point.says, LastDump: newestOf(dumped, id, point.says)})
		}
	}
	slices.SortFunc(vms, func(a, b VM) int {
		return cmp.Or(a.LastDump.Compare(b.LastDump), cmp.Compare(a.ID, b.ID))
	})
	return vms, true
}

// membersOf returns the partial answer of one of the queries for VMs; false when it is not
// known.
func membersOf(figures []figure, answers []answer, query string) (members, bool) {
	for i, f := range figures {
		if f.query == query {
			m, ok := answers[i].partial.(members)
			return m, ok
		}
	}
	return nil, false
}

// newestOf returns the time of the newest dump under an identity or a name; writers put
// either into vmid.
func newestOf(dumped members, id, name string) (last time.Time) {
	for _, vmid := range []string{id, name} {
		if dump, ok := dumped[vmid]; ok {
			if at := time.Unix(0, dump.ns); at.After(last) {
				last = at
			}
		}
	}
	return last
}
