package influxtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

const (
	dumpedVMs       = 36
	historyLength   = 42 * 24 * time.Hour
	telemetryLength = 24 * time.Hour
	day             = 24 * time.Hour
)

// names are the first VMs'; some need every escape of line protocol.
var names = []string{
	"web-01", "web-02", "web-03", "db-01", "db-02", "mail", "büro-dc", "Windows Server 2022, eval", "build=arm64",
	`lab\win11`, "cache-01", "cache-02", "ci-runner-01", "ci-runner-02", "gitlab", "vault",
}

// fleet is what lives behind a believable history, to go on with it.
type fleet struct {
	rng   *rand.Rand
	vms   []*vm
	dumps int // made so far; the odd ones among them are picked by number
}

type vm struct {
	id, uuid        string
	name, newName   string
	host, newHost   string
	renamed, moved  time.Time // zero: never
	until           time.Time // retired then; zero: running
	secondWriter    bool      // the one that has no gzip_size_bytes and duration_sec
	nameAsID        bool      // that one's habit of now and then putting the domain name into vmid
	neverDumped     bool
	diskOnly        bool // telemetry has no cpu and mem
	telemetryOffset time.Duration
}

func (v *vm) nameAt(t time.Time) string {
	if !v.renamed.IsZero() && !t.Before(v.renamed) {
		return v.newName
	}
	return v.name
}

func (v *vm) hostAt(t time.Time) string {
	if !v.moved.IsZero() && !t.Before(v.moved) {
		return v.newHost
	}
	return v.host
}

// Believable is six weeks of dumps of 36 VMs and the last day of telemetry, up to now: some 4500 dumps and 48,000 points
// of telemetry. Equal arguments give equal points. It has what real sites have: two writers, renamed, moved and retired
// VMs, a VM that is monitored and never dumped, dumps without vmid, failed dumps, and equal times. No point is so near
// to the edge of a 24-hour look-back that a figure changes within the next hour by waiting alone, as long as the
// telemetry goes on.
func Believable(seed uint64, now time.Time) *History {
	rng := rand.New(rand.NewPCG(seed, 0x6d656d64756d70))
	h := &History{fleet: &fleet{rng: rng}}
	for i := range dumpedVMs + 1 {
		h.fleet.vms = append(h.fleet.vms, newVM(rng, i, now))
	}

	var previous []time.Time
	for i, v := range h.fleet.vms {
		if v.neverDumped {
			continue
		}
		times := dumpTimes(rng, v, now)
		if i == 1 {
			// A scheduler that starts two at the same instant.
			for k := 0; k < len(previous); k += 5 {
				times = append(times, previous[k])
			}
		}
		previous = times
		for _, t := range times {
			h.Add(h.fleet.dump(v, t, h.fleet.duration()))
		}
	}
	for _, v := range h.fleet.vms {
		from, to := now.Add(-telemetryLength), now
		if !v.until.IsZero() {
			from, to = v.until.Add(-10*time.Minute), v.until
		}
		for t := from.Add(v.telemetryOffset); t.Before(to); t = t.Add(time.Minute) {
			h.Add(h.fleet.sample(v, t))
		}
	}
	return h
}

func newVM(rng *rand.Rand, i int, now time.Time) *vm {
	v := &vm{
		id: strconv.Itoa(1001 + 7*i),
		uuid: fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x",
			rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), rng.Int64N(1<<48)),
		name:            fmt.Sprintf("app-%02d", i),
		host:            fmt.Sprintf("hv-%02d", 1+i%6),
		secondWriter:    i%4 == 3,
		nameAsID:        i%8 == 3,
		diskOnly:        i%6 == 4,
		neverDumped:     i == dumpedVMs,
		telemetryOffset: time.Duration(i+1) * 1371 * time.Millisecond,
	}
	if i < len(names) {
		v.name = names[i]
	}
	switch i {
	case 5:
		v.renamed = now.Add(-6 * time.Hour) // both names within the look-back
	case 14, 23:
		v.renamed = now.Add(-time.Duration(i) * day)
	case 2, 11, 20, 29:
		v.moved, v.newHost = now.Add(-time.Duration(i+1)*day), "hv-07"
	case 8, 17, 26, 34:
		v.until = now.Add(-time.Duration(5+i/2) * day)
	case 30:
		v.until = now.Add(-26 * time.Hour)
	}
	v.newName = v.name + "-new"
	return v
}

// dumpTimes are oldest first; the newest is more than ten minutes old.
func dumpTimes(rng *rand.Rand, v *vm, now time.Time) []time.Time {
	end := now.Add(-10 * time.Minute)
	if !v.until.IsZero() {
		end = v.until
	}
	every := 6*time.Hour + span(rng, 4*time.Hour)
	var times []time.Time
	for t := now.Add(-historyLength).Add(span(rng, every)); t.Before(end); t = t.Add(every*3/4 + span(rng, every/2)) {
		times = append(times, t)
	}
	return times
}

func span(rng *rand.Rand, below time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(below)))
}

// duration is 8 to 133 seconds, in multiples of 1/8: floats add those without rounding, so every order of summing, also
// one of partial sums, gives the same bits.
func (f *fleet) duration() time.Duration {
	return time.Duration(64+f.rng.IntN(1000)) * time.Second / 8
}

func (f *fleet) dump(v *vm, start time.Time, duration time.Duration) Point {
	f.dumps++
	failed := f.dumps%257 == 100
	withoutID := f.dumps%193 == 50

	end := start.Add(duration)
	raw := (2 + f.rng.Int64N(31)) << 30
	id := v.id
	if v.nameAsID && f.dumps%2 == 0 {
		id = v.nameAt(start)
	}
	if withoutID {
		id = ""
	}
	p := Point{
		Measurement: Dumps,
		Tags:        map[string]string{"dom": v.nameAt(start), "vmid": id},
		TimeNs:      start.UnixNano(),
	}
	if v.secondWriter || v.newHost != "" {
		p.Tags["host"] = v.hostAt(start)
	}
	if v.secondWriter {
		p.Fields = map[string]any{
			"ok": !failed, "raw_size_bytes": float64(raw), "dump_duration_sec": duration.Seconds(),
			"loop": int64(f.dumps), "every_sec": 28800.0,
		}
	} else {
		p.Fields = map[string]any{
			"duration_sec": duration.Seconds(), "gzip_size_bytes": raw/5 + f.rng.Int64N(raw/4),
			"ctime": end.Unix(), "mtime": end.Unix(), "atime": start.Unix(),
		}
	}
	if !failed {
		p.Fields["sha256"] = fmt.Sprintf("%016x%016x%016x%016x", f.rng.Uint64(), f.rng.Uint64(), f.rng.Uint64(), f.rng.Uint64())
		if !v.secondWriter {
			p.Fields["dump_path"] = fmt.Sprintf("/var/lib/memdump/%s/%s.mem.gz", v.nameAt(start), start.UTC().Format("20060102T150405Z"))
		}
	}
	return p
}

func (f *fleet) sample(v *vm, t time.Time) Point {
	p := Point{
		Measurement: Telemetry,
		Tags:        map[string]string{"VMID": v.id, "name": v.nameAt(t), "uuid": v.uuid},
		TimeNs:      t.UnixNano(),
	}
	if v.diskOnly {
		p.Fields = map[string]any{"disk": float64(f.rng.IntN(4000)) / 4}
	} else {
		p.Fields = map[string]any{"cpu": float64(f.rng.IntN(400)) / 4, "mem": float64(f.rng.IntN(64)) / 2}
	}
	return p
}

// LiveTelemetry goes on with a believable history: it adds a sample of each running VM at now, and returns them to be
// written. It is empty for a history of other making.
func (h *History) LiveTelemetry(now time.Time) []Point {
	var points []Point
	for _, v := range h.running() {
		points = append(points, h.fleet.sample(v, now))
	}
	h.Add(points...)
	return points
}

// LiveDump goes on with a believable history: it adds a dump of some running VM that is complete at now, and so has an
// earlier time, and returns it to be written. It is empty for a history of other making.
func (h *History) LiveDump(now time.Time) []Point {
	vms := slices.DeleteFunc(h.running(), func(v *vm) bool { return v.neverDumped })
	if len(vms) == 0 {
		return nil
	}
	duration := h.fleet.duration()
	p := h.fleet.dump(vms[h.fleet.rng.IntN(len(vms))], now.Add(-duration), duration)
	h.Add(p)
	return []Point{p}
}

func (h *History) running() []*vm {
	if h.fleet == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(h.fleet.vms), func(v *vm) bool { return !v.until.IsZero() })
}
