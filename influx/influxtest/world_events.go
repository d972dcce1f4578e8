package influxtest

import (
	"cmp"
	"container/heap"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// event is a function that is called at a time. Events at equal times are called in the order of their numbers.
type event struct {
	at     time.Time
	number int
	do     func(at time.Time)
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return cmp.Or(q[i].at.Compare(q[j].at), cmp.Compare(q[i].number, q[j].number)) < 0
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

// at plans an event.
func (w *World) at(t time.Time, do func(at time.Time)) {
	w.queued++
	heap.Push(&w.queue, event{t, w.queued, do})
}

// upTo returns a random duration in [0, limit).
func (w *World) upTo(limit time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(limit)))
}

// about returns a random duration from half of d to one and a half of d.
func (w *World) about(d time.Duration) time.Duration { return d/2 + w.upTo(d) }

// create creates a VM that starts at a time.
func (w *World) create(name string, h *host, at time.Time) *VM {
	v := &VM{
		UUID: fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x",
			w.rng.Uint32(), w.rng.IntN(1<<16), w.rng.IntN(1<<12), w.rng.IntN(1<<12), w.rng.Int64N(1<<48)),
		name: name, host: h, every: w.config.DumpEvery + w.upTo(w.config.DumpEvery*2/3),
	}
	w.vms = append(w.vms, v)
	w.at(at, func(at time.Time) { w.start(v, at) })
	w.at(at.Add(w.about(w.config.LifeEvery)), func(at time.Time) { w.live(v, at) })
	w.at(at.Add(w.upTo(v.every)), func(at time.Time) { w.dumpDue(v, at) })
	return v
}

// running returns the current run of the VM; nil if it is shut off.
func (v *VM) running() *run {
	if n := len(v.runs); n > 0 && v.runs[n-1].To.IsZero() {
		return v.runs[n-1]
	}
	return nil
}

// start starts a VM that is shut off, or plans it for a time when its host is up.
func (w *World) start(v *VM, at time.Time) {
	if v.removed || v.running() != nil {
		return
	}
	if v.host.down {
		w.at(at.Add(10*time.Minute), func(at time.Time) { w.start(v, at) })
		return
	}
	v.host.last++
	v.runs = append(v.runs, &run{Run: Run{Name: v.name, Host: v.host.name, VMID: strconv.Itoa(v.host.last), From: at}})
}

func (w *World) stop(v *VM, at time.Time) { v.running().To = at }

// live plans a random life event of the VM, and the next call of live.
func (w *World) live(v *VM, at time.Time) {
	if v.removed || v.pinned {
		return
	}
	event := w.restart
	switch n := w.rng.IntN(20); {
	case n < 5:
		event = w.switchOff
	case n < 10:
		event = w.migrate
	case n < 12:
		event = w.rename
	case n < 13:
		event = w.replace
	}
	w.when(v, at, event)
	w.at(at.Add(w.about(w.config.LifeEvery)), func(at time.Time) { w.live(v, at) })
}

// when calls do as soon as the VM is running and not being dumped, and runs may end.
func (w *World) when(v *VM, at time.Time, do func(*VM, time.Time)) {
	later := func(at time.Time) { w.when(v, at, do) }
	switch {
	case v.removed:
	case w.calm(at):
		w.at(w.config.calm[1].Add(w.upTo(time.Hour)), later)
	case v.running() == nil:
		w.at(at.Add(10*time.Minute), later)
	case at.Before(v.busy):
		w.at(v.busy.Add(time.Second), later)
	default:
		do(v, at)
	}
}

// calm reports whether a time lies in the calm.
func (w *World) calm(at time.Time) bool {
	return at.After(w.config.calm[0]) && at.Before(w.config.calm[1])
}

func (w *World) restart(v *VM, at time.Time) {
	w.Happened["restart"]++
	w.stop(v, at)
	w.at(at.Add(20*time.Second), func(at time.Time) { w.start(v, at) })
}

func (w *World) switchOff(v *VM, at time.Time) {
	w.Happened["off"]++
	w.stop(v, at)
	w.at(at.Add(2*time.Hour+w.upTo(6*time.Hour)), func(at time.Time) { w.start(v, at) })
}

func (w *World) migrate(v *VM, at time.Time) {
	to := w.hosts[w.rng.IntN(len(w.hosts))]
	if to == v.host || to.down {
		return
	}
	w.moveTo(to)(v, at)
}

func (w *World) moveTo(to *host) func(v *VM, at time.Time) {
	return func(v *VM, at time.Time) {
		w.Happened["migration"]++
		w.stop(v, at)
		v.host = to
		w.start(v, at)
	}
}

// rename shuts the VM off, as libvirt requires, and starts it with a new name, or again with its first name.
func (w *World) rename(v *VM, at time.Time) {
	w.Happened["rename"]++
	w.stop(v, at)
	if former, again := strings.CutSuffix(v.name, "-new"); again {
		v.name = former
	} else {
		v.name += "-new"
	}
	w.at(at.Add(40*time.Second), func(at time.Time) { w.start(v, at) })
}

func (w *World) remove(v *VM, at time.Time) {
	w.stop(v, at)
	v.removed = true
}

// replace removes the VM and creates another one with its name. It does nothing after the calm, so that no two VMs of the
// final look-back have the same name.
func (w *World) replace(v *VM, at time.Time) {
	if !w.config.calm[0].IsZero() && at.After(w.config.calm[0]) {
		return
	}
	w.Happened["replacement"]++
	w.remove(v, at)
	w.create(v.name, v.host, at.Add(30*time.Minute)).noDumps = v.noDumps
}

// reboot restarts a host and plans its next restart. During the calm, it plans the restart for a time after it.
func (w *World) reboot(h *host, at time.Time) {
	if w.calm(at) {
		w.at(w.config.calm[1].Add(w.upTo(time.Hour)), func(at time.Time) { w.reboot(h, at) })
		return
	}
	w.halt(h, at)
	w.at(at.Add(w.about(w.config.RebootEvery)), func(at time.Time) { w.reboot(h, at) })
}

// halt restarts a host: its VMs stop, its current dumps are lost, and the VMs start again with runtime IDs from 1.
func (w *World) halt(h *host, at time.Time) {
	w.Happened["reboot"]++
	var stopped []*VM
	for _, v := range w.vms {
		if v.host == h && v.running() != nil {
			w.stop(v, at)
			stopped = append(stopped, v)
		}
	}
	h.down, h.last = true, 0
	h.boots++
	w.at(at.Add(4*time.Minute), func(at time.Time) {
		h.down = false
		for i, k := range w.rng.Perm(len(stopped)) {
			w.at(at.Add(time.Duration(i)*time.Second), func(at time.Time) { w.start(stopped[k], at) })
		}
	})
}

// tick is one round of the collectors of a host.
func (w *World) tick(h *host, at time.Time) {
	points, collected := w.collect(h, at)
	arrive := func(time.Time) {
		w.arrived = append(w.arrived, points...)
		markSeen(collected, at)
	}
	if late := w.late("late telemetry", w.config.TelemetryLate); late > 0 {
		w.at(at.Add(late), arrive)
	} else {
		arrive(at)
	}
	w.at(at.Add(w.config.TelemetryEvery), func(at time.Time) { w.tick(h, at) })
}

// markSeen records that runs have telemetry at a time.
func markSeen(runs []*run, at time.Time) {
	for _, r := range runs {
		if at.After(r.seen) {
			r.seen = at
		}
	}
}

// late returns a random delay, which is 0 in seven of eight cases, and counts an event if it is not.
func (w *World) late(event string, maxDelay time.Duration) time.Duration {
	if maxDelay == 0 || w.rng.IntN(8) > 0 {
		return 0
	}
	w.Happened[event]++
	return w.upTo(maxDelay)
}

// collect returns the points that the collectors of a host write, and the runs that the points are about.
func (w *World) collect(h *host, at time.Time) (points []Point, collected []*run) {
	h.ticks++
	for _, v := range w.vms {
		r := v.running()
		if v.host != h || r == nil {
			continue
		}
		collected = append(collected, r)
		for _, c := range h.collectors {
			points = append(points, w.telemetry(c, v.UUID, r.Run, at, h.ticks%10 == 1)...)
		}
	}
	return points, collected
}

// dumpDue dumps a VM on schedule, and plans the next dump: soon if the VM can't be dumped.
func (w *World) dumpDue(v *VM, at time.Time) {
	if v.removed || !w.config.dumpsUntil.IsZero() && at.After(w.config.dumpsUntil) {
		return
	}
	next := v.every*3/4 + w.upTo(v.every/2)
	if !w.dump(v, at) {
		next = 20*time.Minute + w.upTo(20*time.Minute)
	}
	w.at(at.Add(next), func(at time.Time) { w.dumpDue(v, at) })
	if v.twin != nil && v.loop%5 == 0 {
		w.dump(v.twin, at)
	}
}

// dump starts a dump. Its point arrives after the end of the dump, unless the host restarts before that. dump returns false if
// the VM can't be dumped.
func (w *World) dump(v *VM, at time.Time) bool {
	if !v.noDumps.IsZero() && !at.Before(v.noDumps) {
		return true // no dump is intended
	}
	r := v.running()
	if at.Before(v.busy) || v.host.down || r == nil && v.host.dumper == DumpProgram {
		return false
	}
	d := Dump{VM: v, Start: at, Domain: v.name, VMID: v.name, Duration: w.duration()}
	if r != nil {
		d.VMID = r.VMID
	}
	v.loop++
	v.busy = at.Add(d.Duration)
	d.Arrived = v.busy.Add(w.late("late dump", w.config.DumpsLate))
	if v.host.dumper == DumpProgram {
		d.Arrived = d.Arrived.Add(time.Minute + w.upTo(5*time.Minute)) // compression
	}
	h, boots := v.host, v.host.boots
	p := w.record(&d, h, v.loop, v.every)
	w.at(d.Arrived, func(time.Time) {
		if h.boots != boots {
			w.Happened["lost dump"]++
			return
		}
		w.arrive(d, p)
		w.arrived = append(w.arrived, p)
	})
	return true
}

func (w *World) arrive(d Dump, p Point) {
	if p.Fields["sha256"] != nil {
		w.Happened["dump"]++
		w.dumps = append(w.dumps, d)
	}
}

// duration returns a random duration from 8 to 133 seconds.
func (w *World) duration() time.Duration {
	return time.Duration(64+w.rng.IntN(1000)) * time.Second / 8
}
