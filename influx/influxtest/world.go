package influxtest

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// WorldConfig configures a World. Zero values mean the defaults.
type WorldConfig struct {
	Seed           uint64
	Start          time.Time     // when the hosts start
	Hosts, VMs     int           // numbers at the start; default 4 and 16
	TelemetryEvery time.Duration // time between two points of a VM; default two minutes
	Dumpers        []Dumper      // of the hosts, in turn; default both
	Collectors     []Collector   // of the hosts, in turn, but all on the first host; default all three

	// Floats makes the writers write all numbers as floats. InfluxDB 1.x rejects a second type of a field within a shard:
	// the older dump program, which always writes integers, is then not in use.
	Floats bool

	// LifeEvery is the mean time between two life events of a VM, and RebootEvery between two restarts of a host; default
	// 20 hours and two days.
	LifeEvery, RebootEvery time.Duration
	DumpEvery              time.Duration // minimum time between two dumps of a VM; default four hours

	// DumpsLate and TelemetryLate are the maximum delays of points. One in eight dumps, and one in eight rounds of telemetry,
	// is delayed; by default none.
	DumpsLate, TelemetryLate time.Duration

	telemetryFrom time.Time    // time of the oldest telemetry; default Start
	dumpsUntil    time.Time    // time of the last dump; by default, dumps do not end
	calm          [2]time.Time // time range in which no run ends
	odd           bool         // some points lack what the writers usually write
}

// World is a small model of hosts, their VMs, and what the real writers record of them. VMs start, stop, restart and migrate.
// They are renamed, removed and replaced. Hosts restart, and assign runtime IDs from 1 again. Equal configurations give equal
// worlds, whatever the steps of Advance. The truth that a World returns is derived from the events and not from the points, so
// that it is independent of the truth that a History counts. A World is not safe for concurrent use.
type World struct {
	config  WorldConfig
	rng     *rand.Rand
	now     time.Time
	queue   queue
	queued  int
	hosts   []*host
	vms     []*VM
	dumps   []Dump
	started int     // number of dumps that have begun; selects the odd ones
	arrived []Point // since the latest Advance
	history *History
	// Happened counts events by kind: dump, restart, off, migration, rename, replacement, reboot, lost dump, late dump, late
	// telemetry.
	Happened map[string]int
}

// VM is one virtual machine from its creation to its removal.
type VM struct {
	UUID    string
	name    string // current name
	host    *host  // current host
	runs    []*run
	removed bool
	busy    time.Time     // end of the current dump, before which the VM has no other event
	every   time.Duration // time between two dumps
	loop    int64         // number of dumps so far
	twin    *VM           // every fifth dump of this VM starts at the same time as one of the twin
	noDumps time.Time     // time from which the VM is not dumped; zero for never
	pinned  bool          // the VM has no life events except those of its host
}

// Run is a VM's life on one host, from a start to a stop, under one runtime ID.
type Run struct {
	Name, Host, VMID string
	From, To         time.Time // To is zero while the VM is running
}

type run struct {
	Run
	seen time.Time // time of the newest telemetry; zero without any
}

// Dump is a dump in the database.
type Dump struct {
	VM      *VM
	Start   time.Time
	Arrived time.Time // in the database
	Domain  string
	VMID    string // as written: the domain name if the VM is shut off
	Host    string // as written; empty if the writer records none
	// Duration is a multiple of 1/8 s: the sum as a float is exact in any order.
	Duration time.Duration
	// CompressedBytes and RawBytes are 0 if the writer records none.
	CompressedBytes, RawBytes int64
}

type host struct {
	name       string
	last       int // latest runtime ID
	boots      int
	down       bool
	dumper     Dumper
	collectors []Collector
	ticks      int
}

// names are the names of the first VMs. They contain all characters that line protocol escapes.
var names = []string{
	"web-01", "web-02", "web-03", "db-01", "db-02", "mail", "büro-dc", "Windows Server 2022, eval", "build=arm64",
	`lab\win11`, "cache-01", "cache-02", "ci-runner-01", "ci-runner-02", "gitlab", "vault",
}

// NewWorld returns a world at its start, without points. The last VM is never dumped, and the VM before it is not dumped after
// two days.
func NewWorld(c WorldConfig) *World {
	c.Hosts, c.VMs = cmp.Or(c.Hosts, 4), cmp.Or(c.VMs, 16)
	c.TelemetryEvery = cmp.Or(c.TelemetryEvery, 2*time.Minute)
	c.LifeEvery, c.RebootEvery = cmp.Or(c.LifeEvery, 20*time.Hour), cmp.Or(c.RebootEvery, 2*day)
	c.DumpEvery = cmp.Or(c.DumpEvery, 4*time.Hour)
	if c.telemetryFrom.IsZero() {
		c.telemetryFrom = c.Start
	}
	if c.Dumpers == nil {
		c.Dumpers = []Dumper{DumpService, DumpProgram}
	}
	if c.Floats {
		c.Dumpers = []Dumper{DumpService}
	}
	if c.Collectors == nil {
		c.Collectors = []Collector{DashboardCollector, StandAloneCollector, OlderCollector}
	}
	w := &World{
		config: c, rng: rand.New(rand.NewPCG(c.Seed, 0x6d656d64756d70)), now: c.Start,
		Happened: map[string]int{}, history: &History{},
	}
	for i := range c.Hosts {
		h := &host{name: fmt.Sprintf("hv-%02d", i+1), dumper: c.Dumpers[i%len(c.Dumpers)], collectors: c.Collectors[i%len(c.Collectors):][:1]}
		if i == 0 {
			h.collectors = c.Collectors
		}
		w.hosts = append(w.hosts, h)
		w.at(c.telemetryFrom.Add(time.Duration(i+1)*1371*time.Millisecond), func(at time.Time) { w.tick(h, at) })
		w.at(c.Start.Add(w.about(c.RebootEvery)), func(at time.Time) { w.reboot(h, at) })
	}
	for i := range c.VMs {
		name := fmt.Sprintf("app-%02d", i)
		if i < len(names) {
			name = names[i]
		}
		v := w.create(name, w.hosts[i%len(w.hosts)], c.Start.Add(time.Duration(i+1)*time.Second))
		switch i {
		case c.VMs - 1:
			v.noDumps = c.Start
		case c.VMs - 2:
			v.noDumps = c.Start.Add(2 * day)
		}
	}
	return w
}

// Now returns the current time of the world.
func (w *World) Now() time.Time { return w.now }

// History returns the history of all points that Advance has returned.
func (w *World) History() *History { return w.history }

// VMs returns all VMs, including removed ones, in the order of their creation.
func (w *World) VMs() []*VM { return slices.Clone(w.vms) }

// Dumps returns the dumps that have arrived, in the order of their arrival.
func (w *World) Dumps() []Dump { return slices.Clone(w.dumps) }

// Advance advances the time by d. It returns the points that arrive in that time, in the order of their arrival. A dump
// arrives after its time, and telemetry at its time.
func (w *World) Advance(d time.Duration) []Point {
	until := w.now.Add(d)
	for len(w.queue) > 0 && !w.queue[0].at.After(until) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do(e.at)
	}
	w.now = until
	arrived := w.arrived
	w.arrived = nil
	w.history.Add(arrived...)
	return arrived
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
