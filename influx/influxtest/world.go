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

// WorldConfig is what a world is made of. Zero values stand for the defaults.
type WorldConfig struct {
	Seed           uint64
	Start          time.Time     // when the hosts start
	Hosts, VMs     int           // at the start; 4 and 16
	TelemetryEvery time.Duration // between two points of a VM; two minutes
	Dumpers        []Dumper      // of the hosts, in turn; both
	Collectors     []Collector   // of the hosts, in turn, the first host has all; all three

	// Floats makes the writers write every number without i, where they write integers otherwise. InfluxDB 1.x rejects
	// points that give a field another type within a shard, so the older dump program, whose numbers are always
	// integers, does not run then.
	Floats bool

	// One VM has a life event, and one host restarts, about so often: 20 hours, and two days.
	LifeEvery, RebootEvery time.Duration
	DumpEvery              time.Duration // of a VM, at least; four hours

	// One dump in eight, and one round of telemetry in eight, is delayed by at most so much; 0: none.
	DumpsLate, TelemetryLate time.Duration

	telemetryFrom time.Time    // what is older is no longer kept; zero: Start
	dumpsUntil    time.Time    // no dump begins later; zero: they go on
	calm          [2]time.Time // nothing ends between them
	odd           bool         // with some points that lack what the writers always write
}

// World is a small model of hosts, of the VMs on them, and of what the real writers record of them. VMs start, stop,
// restart, migrate, are renamed, removed and replaced; hosts restart and hand out runtime IDs from 1 again. Equal
// configurations give equal worlds, whatever the steps they advance in. What a World returns beside the points comes from
// what happened, not from the points, so that counting can be compared with it. It is not safe for concurrent use.
type World struct {
	config  WorldConfig
	rng     *rand.Rand
	now     time.Time
	queue   queue
	queued  int
	hosts   []*host
	vms     []*VM
	dumps   []Dump
	started int     // dumps, the odd ones of which are picked by number
	arrived []Point // since the last Advance
	history *History
	// Happened counts the events by kind: dump, restart, off, migration, rename, replacement, reboot, lost dump, late dump,
	// late telemetry.
	Happened map[string]int
}

// VM is one virtual machine from its making to its removal.
type VM struct {
	UUID    string
	name    string // of now
	host    *host  // where it is defined now
	runs    []*run
	removed bool
	busy    time.Time // until then a dump holds the VM: nothing else is done to it
	every   time.Duration
	loop    int64     // dumps so far
	twin    *VM       // each fifth dump of this one starts at the same instant as one of that one
	noDumps time.Time // from then on it is not dumped
	pinned  bool      // no life events but those of its host
}

// Run is a VM's life on one host, from a start to a stop, under one runtime ID.
type Run struct {
	Name, Host, VMID string
	From, To         time.Time // To is zero while it runs
}

type run struct {
	Run
	seen time.Time // by a collector of telemetry last; zero: never
}

// Dump is a dump that is on record.
type Dump struct {
	VM      *VM
	Start   time.Time
	Arrived time.Time // in the database
	Domain  string
	VMID    string // as written: of a VM that is shut off, the domain name
	Host    string // as written; empty when the writer records none
	// Duration is a multiple of 1/8 s: floats add those without rounding, in every order.
	Duration time.Duration
	// CompressedBytes and RawBytes are 0 when the writer records none.
	CompressedBytes, RawBytes int64
}

type host struct {
	name       string
	last       int // runtime ID
	boots      int
	down       bool
	dumper     Dumper
	collectors []Collector
	ticks      int
}

// names are the first VMs'; some need every escape of line protocol.
var names = []string{
	"web-01", "web-02", "web-03", "db-01", "db-02", "mail", "büro-dc", "Windows Server 2022, eval", "build=arm64",
	`lab\win11`, "cache-01", "cache-02", "ci-runner-01", "ci-runner-02", "gitlab", "vault",
}

// NewWorld makes a world at its start, before anything is recorded. Its last VM is never dumped, and the dumps of the one
// before it end after two days.
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

// Now is the time that the world has come to.
func (w *World) Now() time.Time { return w.now }

// History is what has arrived in the database so far, with all that Advance has returned.
func (w *World) History() *History { return w.history }

// VMs are all that there have been, the oldest first.
func (w *World) VMs() []*VM { return slices.Clone(w.vms) }

// Dumps are the dumps that have arrived, in the order of their arrival.
func (w *World) Dumps() []Dump { return slices.Clone(w.dumps) }

// Advance lets the time pass and returns the points that arrive meanwhile, in this order. The point of a dump arrives
// after its time, that of telemetry at it.
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

// Runs are the runs of the VM so far, the oldest first.
func (v *VM) Runs() []Run {
	runs := make([]Run, len(v.runs))
	for i, r := range v.runs {
		runs[i] = r.Run
	}
	return runs
}

// At is the run of the VM at a time, and false while it does not run.
func (v *VM) At(t time.Time) (Run, bool) {
	for _, r := range v.runs {
		if !t.Before(r.From) && (r.To.IsZero() || t.Before(r.To)) {
			return r.Run, true
		}
	}
	return Run{}, false
}

// Truth is what History.Truth counts.
func (w *World) Truth(lookback time.Duration) Truth {
	n, dumped, sampled := int64(len(w.dumps)), map[string]bool{}, map[string]bool{}
	t := Truth{Dumps: n, DurationCount: n, HasLast: n > 0, Timed: n > 0, DumpedDomains: len(w.DumpsByDomain())}
	for _, d := range w.dumps {
		dumped[d.VMID] = true
		t.CompressedBytes += d.CompressedBytes
		t.RawBytes += d.RawBytes
		t.DurationSum += d.Duration.Seconds()
		t.LastDumpNs = max(t.LastDumpNs, d.Start.UnixNano())
	}
	t.Sized, t.RawSized = t.CompressedBytes > 0, t.RawBytes > 0
	monitored := w.Monitored(lookback)
	for _, vm := range monitored {
		for _, id := range vm.VMIDs {
			sampled[id] = true
		}
	}
	t.DumpedVMs, t.MonitoredVMs = len(dumped), len(sampled)
	t.MonitoredDomains, t.NeverDumped = len(monitored), monitored.NeverDumped()
	return t
}

// DumpsByDomain is what History.DumpsByDomain counts.
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

// Monitored are the VMs that a collector has seen within the look-back up to now: what History.MonitoredDomains counts.
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

// event is what happens at a time; at equal times, in the order of planning.
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

func (w *World) at(t time.Time, do func(at time.Time)) {
	w.queued++
	heap.Push(&w.queue, event{t, w.queued, do})
}

func (w *World) span(below time.Duration) time.Duration {
	return time.Duration(w.rng.Int64N(int64(below)))
}

// about is a time between half and one and a half of d.
func (w *World) about(d time.Duration) time.Duration { return d/2 + w.span(d) }

// create makes a VM that starts then.
func (w *World) create(name string, h *host, at time.Time) *VM {
	v := &VM{
		UUID: fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x",
			w.rng.Uint32(), w.rng.IntN(1<<16), w.rng.IntN(1<<12), w.rng.IntN(1<<12), w.rng.Int64N(1<<48)),
		name: name, host: h, every: w.config.DumpEvery + w.span(w.config.DumpEvery*2/3),
	}
	w.vms = append(w.vms, v)
	w.at(at, func(at time.Time) { w.start(v, at) })
	w.at(at.Add(w.about(w.config.LifeEvery)), func(at time.Time) { w.live(v, at) })
	w.at(at.Add(w.span(v.every)), func(at time.Time) { w.dumpDue(v, at) })
	return v
}

// running is the VM's run of now; nil: it is shut off.
func (v *VM) running() *run {
	if n := len(v.runs); n > 0 && v.runs[n-1].To.IsZero() {
		return v.runs[n-1]
	}
	return nil
}

// start starts a VM that is shut off, as soon as its host is up.
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

// live lets something happen to the VM, and plans the next event.
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

// when does something to a VM as soon as that runs, is not being dumped, and may end a run.
func (w *World) when(v *VM, at time.Time, do func(*VM, time.Time)) {
	later := func(at time.Time) { w.when(v, at, do) }
	switch {
	case v.removed:
	case w.calm(at):
		w.at(w.config.calm[1].Add(w.span(time.Hour)), later)
	case v.running() == nil:
		w.at(at.Add(10*time.Minute), later)
	case at.Before(v.busy):
		w.at(v.busy.Add(time.Second), later)
	default:
		do(v, at)
	}
}

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
	w.at(at.Add(2*time.Hour+w.span(6*time.Hour)), func(at time.Time) { w.start(v, at) })
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

// rename shuts the VM off, as libvirt demands for it, and starts it with a new name, or with the former one again.
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

// replace removes the VM and sets up another with its name. After the calm it does not, so that at the end no two VMs of
// the look-back have one name.
func (w *World) replace(v *VM, at time.Time) {
	if !w.config.calm[0].IsZero() && at.After(w.config.calm[0]) {
		return
	}
	w.Happened["replacement"]++
	w.remove(v, at)
	w.create(v.name, v.host, at.Add(30*time.Minute)).noDumps = v.noDumps
}

// reboot restarts a host: its VMs stop, what is dumped there is lost, and the VMs start again under numbers from 1.
func (w *World) reboot(h *host, at time.Time) {
	if w.calm(at) {
		w.at(w.config.calm[1].Add(w.span(time.Hour)), func(at time.Time) { w.reboot(h, at) })
		return
	}
	w.halt(h, at)
	w.at(at.Add(w.about(w.config.RebootEvery)), func(at time.Time) { w.reboot(h, at) })
}

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

// tick is one round of a host's collectors of telemetry.
func (w *World) tick(h *host, at time.Time) {
	points, sampled := w.sampleHost(h, at)
	arrive := func(time.Time) {
		w.arrived = append(w.arrived, points...)
		saw(sampled, at)
	}
	if late := w.late("late telemetry", w.config.TelemetryLate); late > 0 {
		w.at(at.Add(late), arrive)
	} else {
		arrive(at)
	}
	w.at(at.Add(w.config.TelemetryEvery), func(at time.Time) { w.tick(h, at) })
}

// saw is a collector's sample of the runs.
func saw(sampled []*run, at time.Time) {
	for _, r := range sampled {
		if at.After(r.seen) {
			r.seen = at
		}
	}
}

// late is by how much something is delayed: one in eight, by at most so much.
func (w *World) late(what string, most time.Duration) time.Duration {
	if most == 0 || w.rng.IntN(8) > 0 {
		return 0
	}
	w.Happened[what]++
	return w.span(most)
}

// sampleHost is what a host's collectors write of the runs there.
func (w *World) sampleHost(h *host, at time.Time) (points []Point, sampled []*run) {
	h.ticks++
	for _, v := range w.vms {
		r := v.running()
		if v.host != h || r == nil {
			continue
		}
		sampled = append(sampled, r)
		for _, c := range h.collectors {
			points = append(points, w.sample(c, v.UUID, r.Run, at, h.ticks%10 == 1)...)
		}
	}
	return points, sampled
}

// dumpDue dumps a VM by its schedule, and plans the next dump; what could not be dumped is tried again soon.
func (w *World) dumpDue(v *VM, at time.Time) {
	if v.removed || !w.config.dumpsUntil.IsZero() && at.After(w.config.dumpsUntil) {
		return
	}
	next := v.every*3/4 + w.span(v.every/2)
	if !w.dump(v, at) {
		next = 20*time.Minute + w.span(20*time.Minute)
	}
	w.at(at.Add(next), func(at time.Time) { w.dumpDue(v, at) })
	if v.twin != nil && v.loop%5 == 0 {
		w.dump(v.twin, at)
	}
}

// dump starts a dump, whose point arrives when it is done, unless the host restarts before. It reports false when the VM
// cannot be dumped.
func (w *World) dump(v *VM, at time.Time) bool {
	if !v.noDumps.IsZero() && !at.Before(v.noDumps) {
		return true // nobody means to
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
		d.Arrived = d.Arrived.Add(time.Minute + w.span(5*time.Minute)) // of compression
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

// duration is 8 to 133 seconds.
func (w *World) duration() time.Duration {
	return time.Duration(64+w.rng.IntN(1000)) * time.Second / 8
}
