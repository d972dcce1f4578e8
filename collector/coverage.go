package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// coverageMetrics are computed from the results for dumped and monitored VMs, without a request of
// their own. They are absent if one of the two queries failed. The value function returns false if
// there is no value.
var coverageMetrics = []struct {
	desc  *prometheus.Desc
	value func(vms []VM, now time.Time, maxAge time.Duration) (float64, bool)
}{
	{
		prometheus.NewDesc("memdump_vms_never_dumped", "Number of monitored VMs without a memory dump.", nil, nil),
		func(vms []VM, _ time.Time, _ time.Duration) (float64, bool) {
			return float64(countVMs(vms, VM.NeverDumped)), true
		},
	},
	{
		prometheus.NewDesc("memdump_vms_dump_overdue",
			"Number of monitored VMs whose newest memory dump is older than --dumps.max-age; absent while that is 0.", nil, nil),
		func(vms []VM, now time.Time, maxAge time.Duration) (float64, bool) {
			return float64(countVMs(vms, func(vm VM) bool { return vm.Overdue(now, maxAge) })), maxAge > 0
		},
	},
}

// NeverDumped reports whether the VM has no dump.
func (v VM) NeverDumped() bool { return v.LastDump.IsZero() }

// Overdue reports whether the newest dump is older than maxAge. A VM without a dump is not overdue.
func (v VM) Overdue(now time.Time, maxAge time.Duration) bool {
	return !v.NeverDumped() && now.Sub(v.LastDump) > maxAge
}

// countVMs returns the number of VMs with a property, such as VM.NeverDumped.
func countVMs(vms []VM, is func(VM) bool) (n int) {
	for _, vm := range vms {
		if is(vm) {
			n++
		}
	}
	return n
}

// findCoverage returns the monitored VMs with their newest dumps; false if a query for them
// failed.
func (b *batch) findCoverage() ([]VM, bool) {
	dumped, monitored := b.aggregateOf(dumpedVMs), b.aggregateOf(monitoredVMs)
	if dumped == nil || monitored == nil {
		return nil, false
	}
	return covered(dumped, monitored.vms), true
}
