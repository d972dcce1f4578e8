package influxtest

import (
	"slices"
	"time"
)

const (
	believableVMs   = 37
	historyLength   = 42 * day
	telemetryLength = day
	day             = 24 * time.Hour
)

// Believable returns the dumps of 36 VMs on seven hosts in the six weeks up to now, and the telemetry of the last day: about
// 4500 dumps and 35,000 points of telemetry. Equal arguments give equal points. It contains what real sites contain: both
// writers of dumps and all three collectors; VMs that restarted (some within the last day, some because their host
// restarted), migrated, were renamed, replaced, shut off or removed; dumps of VMs that were shut off; one VM that is never
// dumped, and one, legacy-erp, whose newest dump is three days old, while those of the others are less than a day old. Rare
// cases are dumps without vmid or without dom, records that are no dumps, and equal times. While the telemetry continues, no
// metric changes within the next hour only because a point leaves a look-back of 24 hours.
func Believable(seed uint64, now time.Time) *History {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	w := NewWorld(WorldConfig{
		Seed: seed, Start: ago(historyLength), Hosts: 7, VMs: believableVMs,
		LifeEvery: 6 * day, RebootEvery: 16 * day, DumpEvery: 6 * time.Hour,
		telemetryFrom: ago(telemetryLength), dumpsUntil: ago(15 * time.Minute), odd: true,
		calm: [2]time.Time{ago(26 * time.Hour), ago(22 * time.Hour)},
	})
	vm := func(i int) *VM {
		w.vms[i].pinned = true
		return w.vms[i]
	}
	at := func(d time.Duration, i int, do func(*VM, time.Time)) {
		v := vm(i)
		w.at(ago(d), func(at time.Time) { w.when(v, at, do) })
	}
	vm(0).twin = vm(1)
	at(5*time.Hour, 0, w.restart)
	at(3*time.Hour, 3, w.restart)
	at(8*time.Hour, 7, w.moveTo(w.hosts[6]))
	at(6*time.Hour, 5, w.rename) // both names within the look-back
	for _, i := range []int{14, 23} {
		at(time.Duration(i)*day, i, w.rename)
	}
	for _, i := range []int{2, 11, 20, 29} {
		at(time.Duration(i+1)*day, i, w.moveTo(w.hosts[6]))
	}
	for _, i := range []int{8, 17, 26, 34} {
		at(time.Duration(5+i/2)*day, i, w.remove)
	}
	at(27*time.Hour, 30, w.remove)
	at(50*time.Hour, 28, w.stop) // on a host with the dump service, which continues to dump it
	at(10*day, 12, w.replace)
	w.at(ago(9*time.Hour), func(at time.Time) { w.halt(w.hosts[2], at) })

	overdue, never := vm(believableVMs-2), vm(believableVMs-1)
	overdue.name, overdue.noDumps = "legacy-erp", ago(3*day)
	never.name = "jump-host"
	w.Advance(historyLength)
	w.history.world = w
	return w.history
}

// LiveTelemetry continues a history of Believable: it adds the telemetry of each running VM at now, and returns the points to
// write. It returns nil for any other history.
func (h *History) LiveTelemetry(now time.Time) []Point {
	if h.world == nil {
		return nil
	}
	var points []Point
	for _, host := range h.world.hosts {
		more, collected := h.world.collect(host, now)
		markSeen(collected, now)
		points = append(points, more...)
	}
	h.Add(points...)
	return points
}

// LiveDump continues a history of Believable: it adds a dump of a running VM that is complete at now, and so has an earlier
// time, and returns the point to write. It returns nil for any other history.
func (h *History) LiveDump(now time.Time) []Point {
	if h.world == nil {
		return nil
	}
	w := h.world
	duration := w.duration()
	start := now.Add(-duration)
	v := w.pick(func(v *VM) bool { return v.noDumps.IsZero() && !v.running().From.After(start) })
	if v == nil {
		return nil
	}
	v.loop++
	d := Dump{VM: v, Start: start, Arrived: now, Domain: v.name, VMID: v.running().VMID, Duration: duration}
	p := w.record(&d, v.host, 0, 0)
	w.arrive(d, p)
	h.Add(p)
	return []Point{p}
}

// LiveRestart continues a history of Believable: a running VM restarts at now. It returns the domain and the runtime IDs
// before and after the restart, and empty strings for any other history.
func (h *History) LiveRestart(now time.Time) (domain, before, after string) {
	if h.world == nil {
		return "", "", ""
	}
	v := h.world.pick(func(v *VM) bool { return v.noDumps.IsZero() })
	if v == nil {
		return "", "", ""
	}
	before = v.running().VMID
	h.world.stop(v, now)
	h.world.start(v, now)
	return v.name, before, v.running().VMID
}

// pick returns a random running VM with a property; nil if there is none.
func (w *World) pick(is func(*VM) bool) *VM {
	vms := slices.DeleteFunc(slices.Clone(w.vms), func(v *VM) bool { return v.running() == nil || !is(v) })
	if len(vms) == 0 {
		return nil
	}
	return vms[w.rng.IntN(len(vms))]
}
