//go:build soak

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

var (
	soakDuration = flag.Duration("soak.duration", time.Hour, "how long TestSoak runs")
	soakSeed     = flag.Uint64("soak.seed", 1, "of the faults and of the data")
)

const (
	soakInterval = 200 * time.Millisecond
	soakTimeout  = 2 * time.Second
	// soakJoined is how much older than a scrape its response may be: the scrape may join a batch.
	soakJoined = time.Second
	// soakWarm is when growth begins to count; a shorter run checks no growth.
	soakWarm = 10 * time.Minute
	// soakIdle is how many more idle connections to InfluxDB there may be than one scrape
	// needs, each with two goroutines.
	soakIdle = 2
	// soakRecovers is when a scrape must be whole again after a fault.
	soakRecovers = 20 * time.Second
)

// soak is the built exporter on a real InfluxDB behind a proxy with faults, while dumps are recorded; the history of the
// dumps has the truth at each time.
type soak struct {
	e       *exporter
	server  *influxtest.Server
	proxy   *toxicProxy
	history *influxtest.History
	client  *http.Client
	whole   chan time.Time // when a scrape that was whole began; received by recovers

	mu      sync.Mutex
	moments []moment
	count   map[string]int
	wrong   []string
	last    families
	lowest  [2]float64 // goroutines and open files, since the last call of lowestSince
}

// moment has the true values from the begin of one write to the end of the next.
type moment struct {
	values      map[string]float64 // by metric
	from, until time.Time          // until is zero for the last one
}

// TestSoak: through hours of faults each metric is true or absent, each scrape gets a
// response, and the process neither grows nor leaks.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	baseline := s.rest(t)
	begin := time.Now()
	ctx, stop := context.WithTimeout(t.Context(), *soakDuration)
	defer stop()
	var scrapes sync.WaitGroup
	enough := make(chan struct{}) // scrapes go on until the last fault is over
	scrapes.Go(func() {
		every := time.NewTicker(soakInterval)
		defer every.Stop()
		for {
			select {
			case <-every.C:
				scrapes.Go(func() { s.scrape(t) })
			case <-enough:
				return
			}
		}
	})
	growth := map[string]*measured{"MiB of RSS": {}, "open files": {}, "goroutines": {}}
	rng := rand.New(rand.NewPCG(*soakSeed, 7))
	var slowest time.Duration
	for ctx.Err() == nil {
		faults := s.faults(rng)
		f := faults[rng.IntN(len(faults))]
		s.tally("fault " + f.name)
		must(t, f.on())
		pause(ctx, time.Second+time.Duration(rng.Int64N(int64(6*time.Second))))
		must(t, f.off())
		slowest = max(slowest, s.recovers(t, f.name))
		s.write(t)
		pause(ctx, time.Second+time.Duration(rng.Int64N(int64(3*time.Second))))
		at := time.Since(begin)
		lowest := s.lowestSince()
		growth["MiB of RSS"].add(at, s.e.memoryMiB(t, "VmRSS:"))
		growth["goroutines"].add(at, lowest[0])
		growth["open files"].add(at, lowest[1])
		if t.Failed() {
			break
		}
	}
	close(enough)
	scrapes.Wait()
	s.client.CloseIdleConnections()
	s.report(t, time.Since(begin), slowest)

	t.Logf("peak RSS %.1f MiB; growth after the first %v, by Theil-Sen with its 95 %% interval:", s.e.peakMiB(t), soakWarm)
	for _, what := range slices.Sorted(maps.Keys(growth)) {
		warm := growth[what].after(soakWarm)
		slope, low, high := warm.slope()
		t.Logf("  %s an hour: %+.2f (%+.2f to %+.2f), median %.1f of %d samples",
			what, slope, low, high, middle(slices.Sorted(slices.Values(warm.y))), len(warm.y))
		if low > 1 {
			t.Errorf("%.2f more %s an hour, at least %.2f", slope, what, low)
		}
	}
	quiet := s.rest(t)
	t.Logf("goroutines %v before, %v after; open files %v before, %v after", baseline[0], quiet[0], baseline[1], quiet[1])
	if quiet[0] > baseline[0]+2*soakIdle || quiet[1] > baseline[1]+soakIdle {
		t.Error("something was left behind")
	}
}

func newSoak(t *testing.T) *soak {
	server := influxtest.MustStart(t)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2}, Timeout: 20 * time.Second}
	s := &soak{server: server, count: map[string]int{}, whole: make(chan time.Time), client: client}
	s.history = influxtest.Believable(*soakSeed, time.Now())
	server.MustStore(t, "vmstats", s.history)
	s.moments = []moment{{values: truth(s.history).values}}
	s.proxy = newToxic(t, server.URL)
	s.e = startExporter(t, []string{"INFLUX_URL=http://" + s.proxy.Listen})
	return s
}

type fault struct {
	name    string
	on, off func() error
}

func (s *soak) faults(rng *rand.Rand) []fault {
	toxic := func(kind, attributes string) fault {
		var remove func() error
		return fault{kind + attributes, func() (err error) {
			remove, err = s.proxy.poison(kind, attributes)
			return err
		}, func() error { return remove() }}
	}
	signal := func(which syscall.Signal) func() error {
		return func() error { return syscall.Kill(s.server.Pid(), which) }
	}
	return []fault{
		toxic("latency", `"latency":300,"jitter":200`),
		toxic("latency", `"latency":5000`),
		toxic("timeout", `"timeout":0`),
		toxic("timeout", `"timeout":100`),
		toxic("reset_peer", `"timeout":50`),
		toxic("bandwidth", `"rate":1`),
		toxic("slicer", `"average_size":16,"size_variation":8,"delay":20`),
		toxic("slow_close", `"delay":500`),
		toxic("limit_data", fmt.Sprintf(`"bytes":%d`, []int{1, 17, 300, 600}[rng.IntN(4)])),
		{"proxy down", s.proxy.Stop, s.proxy.Start},
		{"influxd stopped", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		{"influxd killed", s.server.Kill, func() error { return s.server.Start(context.Background()) }},
	}
}

// scrape scrapes once, and compares each metric with what was true meanwhile.
func (s *soak) scrape(t *testing.T) {
	begin := time.Now()
	response := send(s.client, http.MethodGet, s.e.URL+"/metrics", timeoutHeader, fmt.Sprint(soakTimeout.Seconds()))
	end := begin.Add(response.took)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count["scrapes"]++
	if response.took > soakTimeout {
		s.count["longer than announced"]++
	}
	got, err := parseText(response.body)
	if response.status != http.StatusOK || err != nil {
		s.wrong = append(s.wrong, fmt.Sprintf("HTTP %d, %v, %v", response.status, response.err, err))
		return
	}
	s.last = got
	s.lowest[0] = min(s.lowest[0], got.value("go_goroutines"))
	s.lowest[1] = min(s.lowest[1], float64(s.e.openFiles(t)))
	whole := true
	success := got.gauges("memdump_query_success")
	failed := make(map[string]bool) // metrics whose query has failed
	for query, metrics := range metricsOf {
		for _, metric := range metrics {
			failed[metric] = failed[metric] || success[`memdump_query_success{query="`+query+`"}`] != 1
		}
	}
	for metric := range s.moments[0].values {
		value, there := got.gauges(metric)[metric]
		if failed[metric] == there {
			s.wrong = append(s.wrong, fmt.Sprintf("%s: its query has failed %v, there %v", metric, failed[metric], there))
		}
		if !there {
			whole = false
			s.count["absent"]++
			continue
		}
		s.count["values"]++
		if !slices.ContainsFunc(s.moments, func(v moment) bool {
			return v.values[metric] == value && !v.from.After(end) && (v.until.IsZero() || v.until.After(begin.Add(-soakJoined)))
		}) {
			s.wrong = append(s.wrong, fmt.Sprintf("%s is %v, and was not at any time since %v", metric, value, begin))
		}
	}
	if up := got.value("memdump_up") == 1; up != whole {
		s.wrong = append(s.wrong, fmt.Sprintf("memdump_up is %v, whole is %v", up, whole))
	}
	if whole {
		s.count["whole scrapes"]++
		select {
		case s.whole <- begin:
		default:
		}
	}
}

// write adds a dump and telemetry. Until the write has ended, the values before and after it
// are both true.
func (s *soak) write(t *testing.T) {
	points := append(s.history.LiveDump(time.Now()), s.history.LiveTelemetry(time.Now())...)
	var lines []string
	for _, p := range points {
		lines = append(lines, p.Line())
	}
	next := moment{values: truth(s.history).values, from: time.Now()}
	s.mu.Lock()
	s.moments = append(s.moments, next)
	s.mu.Unlock()
	must(t, s.server.Write(t.Context(), "vmstats", lines))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moments[len(s.moments)-2].until = time.Now()
	s.moments = s.moments[max(0, len(s.moments)-20):]
}

// recovers waits for a whole scrape that has begun since, and returns how long that took.
func (s *soak) recovers(t *testing.T, after string) time.Duration {
	off, late := time.Now(), time.After(soakRecovers)
	for {
		select {
		case began := <-s.whole:
			if began.After(off) {
				return time.Since(off)
			}
		case <-late:
			t.Errorf("no whole scrape %v after %s", soakRecovers, after)
			return soakRecovers
		}
	}
}

// rest scrapes without faults and load, and returns the lowest numbers of goroutines and of open files.
func (s *soak) rest(t *testing.T) [2]float64 {
	t.Helper()
	s.lowestSince()
	for range 20 {
		s.scrape(t)
		s.client.CloseIdleConnections()
		pause(t.Context(), 100*time.Millisecond)
	}
	return s.lowestSince()
}

// lowestSince returns the lowest numbers of goroutines and of open files since the last call.
func (s *soak) lowestSince() [2]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	lowest := s.lowest
	s.lowest = [2]float64{math.Inf(1), math.Inf(1)}
	return lowest
}

func (s *soak) tally(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[what]++
}

func (s *soak) report(t *testing.T, took, slowest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("seed %d, %v; whole again after at most %v", *soakSeed, took.Round(time.Second), slowest.Round(time.Millisecond))
	for _, what := range slices.Sorted(maps.Keys(s.count)) {
		t.Logf("  %-40s %d", what, s.count[what])
	}
	failures := s.last.failures()
	for _, which := range slices.Sorted(maps.Keys(failures)) {
		t.Logf("  %-40s %.0f", "failures: "+which, failures[which])
	}
	t.Logf("  joined %v, panics %v", s.last.value("memdump_scrapes_joined_total"), s.last.value("memdump_panics_total"))
	t.Logf("  %-40s %d", "wrong", len(s.wrong))
	for _, wrong := range s.wrong[:min(10, len(s.wrong))] {
		t.Error(wrong)
	}
	if late := s.count["longer than announced"]; late*100 > s.count["scrapes"] {
		t.Errorf("%d scrapes took longer than announced", late)
	}
}

// measured are measurements over time, in hours.
type measured struct{ x, y []float64 }

func (s *measured) add(at time.Duration, y float64) {
	s.x, s.y = append(s.x, at.Hours()), append(s.y, y)
}

func (s measured) after(at time.Duration) measured {
	from, _ := slices.BinarySearch(s.x, at.Hours())
	return measured{s.x[from:], s.y[from:]}
}

func middle(sorted []float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	return sorted[len(sorted)/2]
}

// slope is that of Theil and Sen, the median of the slopes of all pairs, with the 95 %
// interval by Kendall's tau.
func (s measured) slope() (slope, low, high float64) {
	var slopes []float64
	for i := range s.x {
		for j := range i {
			slopes = append(slopes, (s.y[i]-s.y[j])/(s.x[i]-s.x[j]))
		}
	}
	if len(slopes) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	slices.SortFunc(slopes, cmp.Compare[float64])
	n := float64(len(s.x))
	half := 1.96 * math.Sqrt(n*(n-1)*(2*n+5)/18) / 2
	at := func(i float64) float64 { return slopes[int(min(max(i, 0), float64(len(slopes)-1)))] }
	return middle(slopes), at(float64(len(slopes))/2 - half), at(float64(len(slopes))/2 + half)
}
