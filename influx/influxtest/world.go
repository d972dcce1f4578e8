package influxtest

import (
	"cmp"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
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
