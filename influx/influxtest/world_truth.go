package influxtest

import (
	"cmp"
	"slices"
	"time"
)

// Truth returns what History.Truth must return, derived from the events.
func (w *World) Truth(lookback time.Duration) Truth {
	n, dumpedIDs, monitoredIDs := int64(len(w.dumps)), map[string]bool{}, map[string]bool{}
	t := Truth{Dumps: n, DurationCount: n, HasLast: n > 0, Timed: n > 0, DumpedDomains: len(w.DumpsByDomain())}
	for _, d := range w.dumps {
		dumpedIDs[d.VMID] = true
		t.CompressedBytes += d.CompressedBytes
		t.RawBytes += d.RawBytes
		t.DurationSum += d.Duration.Seconds()
		t.LastDumpNs = max(t.LastDumpNs, d.Start.UnixNano())
	}
	t.Sized, t.RawSized = t.CompressedBytes > 0, t.RawBytes > 0
	monitored := w.Monitored(lookback)
	for _, vm := range monitored {
		for _, id := range vm.VMIDs {
			monitoredIDs[id] = true
		}
	}
	t.DumpedVMs, t.MonitoredVMs = len(dumpedIDs), len(monitoredIDs)
	t.MonitoredDomains, t.NeverDumped = len(monitored), monitored.NeverDumped()
	return t
}

// DumpsByDomain returns what History.DumpsByDomain must return, derived from the events.
func (w *World) DumpsByDomain() map[string]DumpsOfDomain {
	all := map[string]DumpsOfDomain{}
	for _, d := range w.dumps {
		of := all[d.Domain]
		of.CompressedBytes += d.CompressedBytes
		of.RawBytes += d.RawBytes
		of.Sized, of.RawSized = of.CompressedBytes > 0, of.RawBytes > 0
		if of.Dumps == 0 || d.Start.UnixNano() > of.LastNs {
			of.LastNs, of.VMID, of.Host = d.Start.UnixNano(), d.VMID, d.Host
		}
		of.Dumps++
		all[d.Domain] = of
	}
	return all
}

// Monitored returns what History.MonitoredDomains must return at the current time, derived from the events.
func (w *World) Monitored(lookback time.Duration) MonitoredDomains {
	dumps := w.DumpsByDomain()
	var all MonitoredDomains
	for _, v := range w.vms {
		m := MonitoredDomain{UUID: v.UUID}
		for _, r := range v.runs { // oldest first
			if r.seen.IsZero() || r.seen.Before(w.now.Add(-lookback)) {
				continue
			}
			m.Name = r.Name
			m.Names = append(m.Names, r.Name)
			m.VMIDs = append(m.VMIDs, r.VMID)
			if of, ok := dumps[r.Name]; ok && (!m.Dumped || of.LastNs > m.LastNs) {
				m.Dumped, m.LastNs = true, of.LastNs
			}
		}
		slices.Sort(m.Names)
		slices.Sort(m.VMIDs)
		m.Names, m.VMIDs = slices.Compact(m.Names), slices.Compact(m.VMIDs)
		if m.Name != "" {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b MonitoredDomain) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return all
}

// Runs returns the runs of the VM so far, oldest first.
func (v *VM) Runs() []Run {
	runs := make([]Run, len(v.runs))
	for i, r := range v.runs {
		runs[i] = r.Run
	}
	return runs
}

// At returns the run of the VM at a time; false if it was not running.
func (v *VM) At(t time.Time) (Run, bool) {
	for _, r := range v.runs {
		if !t.Before(r.From) && (r.To.IsZero() || t.Before(r.To)) {
			return r.Run, true
		}
	}
	return Run{}, false
}
