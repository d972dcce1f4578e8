//go:build soak

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/rs/zerolog"

	"memdump_exporter/influx/influxtest"
)

var (
	soakDuration = flag.Duration("soak.duration", time.Hour, "how long TestSoak goes on")
	soakSeed     = flag.Uint64("soak.seed", 1, "of the faults and of the data")
)

const (
	soakInterval = 200 * time.Millisecond
	soakTimeout  = 2 * time.Second
	// soakJoined is how much older than a scrape its answer may be: it may join a run.
	soakJoined = time.Second
	// soakWarm is when growth begins to count; in a shorter run it is not judged.
	soakWarm = 10 * time.Minute
	// soakIdle is how many more idle connections to InfluxDB there may be than one scrape
	// needs, each with two goroutines.
	soakIdle = 2
	// soakRecovers is when a scrape must be whole again after a fault.
	soakRecovers = 20 * time.Second
)

// soak is the built exporter on a real InfluxDB behind a proxy that misbehaves, while
// dumps go on; whoever writes them knows at each time what is true.
type soak struct {
	e       *exporter
	server  *influxtest.Server
	proxy   *toxiproxy.Proxy
	history *influxtest.History
	client  *http.Client

	mu      sync.Mutex
	moments []moment
	green   time.Time // when the newest whole scrape began
	count   map[string]int
	wrong   []string
	last    families
	least   [2]float64 // goroutines and open files, since they were last asked for
}

// moment is what was true from the begin of one write to the end of the next.
type moment struct {
	values      map[string]float64 // by query
	from, until time.Time          // until is zero for the last one
}

// TestSoak: through hours of faults each figure is true or absent, each scrape is
// answered, and the process neither grows nor leaks.
func TestSoak(t *testing.T) {
	s := newSoak(t)
	baseline := s.whole(t)
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
	var rss, files, goroutines measured
	rng := rand.New(rand.NewPCG(*soakSeed, 7))
	var slowest time.Duration
	for ctx.Err() == nil {
		faults := s.faults(rng)
		f := faults[rng.IntN(len(faults))]
		s.tally("fault " + f.name)
		if err := f.on(); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		pause(ctx, time.Second+time.Duration(rng.Int64N(int64(6*time.Second))))
		if err := f.off(); err != nil {
			t.Fatalf("the end of %s: %v", f.name, err)
		}
		slowest = max(slowest, s.recovers(t, f.name))
		s.write(t)
		pause(ctx, time.Second+time.Duration(rng.Int64N(int64(3*time.Second))))
		at := time.Since(begin)
		rss.add(at, s.procStatus(t, "VmRSS:")/1024)
		least := s.leastSince()
		goroutines.add(at, least[0])
		files.add(at, least[1])
		if t.Failed() {
			break
		}
	}
	close(enough)
	scrapes.Wait()
	s.client.CloseIdleConnections()
	s.report(t, time.Since(begin), slowest)

	t.Logf("peak RSS %.1f MiB; growth after the first %v, by Theil-Sen with its 95 %% interval:", s.procStatus(t, "VmHWM:")/1024, soakWarm)
	for _, what := range []struct {
		name    string
		of      measured
		allowed float64 // an hour
	}{{"RSS, MiB/h", rss, 1}, {"open files, 1/h", files, 1}, {"goroutines, 1/h", goroutines, 1}} {
		warm := what.of.after(soakWarm)
		slope, low, high := warm.slope()
		t.Logf("  %-16s %+.2f (%+.2f to %+.2f), median %.1f of %d samples", what.name, slope, low, high, warm.median(), len(warm.y))
		if low > what.allowed {
			t.Errorf("%s grows by %.2f an hour, at least %.2f", what.name, slope, low)
		}
	}
	quiet := s.whole(t)
	t.Logf("goroutines %v before, %v after; open files %v before, %v after", baseline[0], quiet[0], baseline[1], quiet[1])
	if quiet[0] > baseline[0]+2*soakIdle || quiet[1] > baseline[1]+soakIdle {
		t.Error("something was left behind")
	}
}

func newSoak(t *testing.T) *soak {
	server := influxtest.MustStart(t)
	s := &soak{server: server, count: map[string]int{}, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 2}, Timeout: 20 * time.Second}}
	s.history = influxtest.Believable(*soakSeed, time.Now())
	store(t, server, "vmstats", s.history)
	s.moments = []moment{{values: truth(s.history).values}}
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics have a logger of their own
	toxic := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	s.proxy = toxiproxy.NewProxy(toxic, "influxdb", "127.0.0.1:0", strings.TrimPrefix(server.URL, "http://"))
	if err := s.proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.proxy.Stop)
	s.e = startExporter(t, []string{"INFLUX_URL=http://" + s.proxy.Listen})
	return s
}

type fault struct {
	name    string
	on, off func() error
}

func (s *soak) faults(rng *rand.Rand) []fault {
	toxic := func(kind, attributes string) fault {
		return fault{kind + attributes,
			func() error {
				_, err := s.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"name":"x","type":%q,"attributes":%s}`, kind, attributes)))
				return err
			},
			func() error { return s.proxy.Toxics.RemoveToxic(context.Background(), "x") },
		}
	}
	signal := func(which syscall.Signal) func() error {
		return func() error { return syscall.Kill(s.server.Pid(), which) }
	}
	return []fault{
		toxic("latency", `{"latency":300,"jitter":200}`),
		toxic("latency", `{"latency":5000}`),
		toxic("timeout", `{"timeout":0}`),
		toxic("timeout", `{"timeout":100}`),
		toxic("reset_peer", `{"timeout":50}`),
		toxic("bandwidth", `{"rate":1}`),
		toxic("slicer", `{"average_size":16,"size_variation":8,"delay":20}`),
		toxic("slow_close", `{"delay":500}`),
		toxic("limit_data", fmt.Sprintf(`{"bytes":%d}`, []int{1, 17, 300, 600}[rng.IntN(4)])),
		{"proxy down", func() error { s.proxy.Stop(); return nil }, s.proxy.Start},
		{"influxd stopped", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
		{"influxd killed", s.server.Kill, func() error { return s.server.Start(context.Background()) }},
	}
}

// scrape asks once, and holds each figure against what was true meanwhile.
func (s *soak) scrape(t *testing.T) {
	begin := time.Now()
	got, err := s.ask()
	end := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count["scrapes"]++
	if end.Sub(begin) > soakTimeout {
		s.count["later than announced"]++
	}
	if err != nil {
		s.wrong = append(s.wrong, err.Error())
		return
	}
	s.last = got
	s.least[0] = min(s.least[0], got.gauges("go_goroutines")["go_goroutines"])
	s.least[1] = min(s.least[1], float64(s.openFiles(t)))
	whole := true
	success := got.gauges("memdump_query_success")
	for query, gauge := range gaugeOf {
		value, there := got.gauges(gauge)[gauge]
		if succeeded := success[`memdump_query_success{query="`+query+`"}`] == 1; succeeded != there {
			s.wrong = append(s.wrong, fmt.Sprintf("%s: succeeded %v, there %v", query, succeeded, there))
		}
		if !there {
			whole = false
			s.count["absent"]++
			continue
		}
		s.count["values"]++
		if !slices.ContainsFunc(s.moments, func(v moment) bool {
			return v.values[query] == value && !v.from.After(end) && (v.until.IsZero() || v.until.After(begin.Add(-soakJoined)))
		}) {
			s.wrong = append(s.wrong, fmt.Sprintf("%s is %v, and was not at any time since %v", gauge, value, begin))
		}
	}
	if up := got.gauges("memdump_up")["memdump_up"] == 1; up != whole {
		s.wrong = append(s.wrong, fmt.Sprintf("memdump_up is %v, whole is %v", up, whole))
	}
	if whole {
		s.count["whole scrapes"]++
		if begin.After(s.green) {
			s.green = begin
		}
	}
}

func (s *soak) ask() (families, error) {
	req, err := http.NewRequest(http.MethodGet, s.e.URL+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", fmt.Sprint(soakTimeout.Seconds()))
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d, %w", resp.StatusCode, err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(strings.NewReader(string(body)))
}

// write adds a dump and telemetry. While that goes on, what was and what will be are
// both true.
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
	if err := s.server.Write(t.Context(), "vmstats", lines); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moments[len(s.moments)-2].until = time.Now()
	s.moments = s.moments[max(0, len(s.moments)-20):]
}

// recovers waits for a whole scrape that has begun since, and returns how long that took.
func (s *soak) recovers(t *testing.T, after string) time.Duration {
	off := time.Now()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		s.mu.Lock()
		whole := s.green.After(off)
		s.mu.Unlock()
		if whole {
			break
		}
		if time.Since(off) > soakRecovers {
			t.Errorf("no whole scrape %v after %s", soakRecovers, after)
			break
		}
	}
	return time.Since(off)
}

// whole scrapes until all is there and everything else has come to rest, and returns
// the goroutines and the open files then.
func (s *soak) whole(t *testing.T) [2]float64 {
	t.Helper()
	s.leastSince()
	for range 20 {
		s.scrape(t)
		s.client.CloseIdleConnections()
		pause(t.Context(), 100*time.Millisecond)
	}
	return s.leastSince()
}

// leastSince are the goroutines and open files at the calmest moment since the last call.
func (s *soak) leastSince() [2]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	least := s.least
	s.least = [2]float64{math.Inf(1), math.Inf(1)}
	return least
}

func (s *soak) openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.e.proc.Pid()))
	if err != nil {
		t.Error(err)
	}
	return len(files)
}

func (s *soak) procStatus(t *testing.T, field string) (kib float64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.e.proc.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), field)
	if _, err := fmt.Sscan(after, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
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
	for _, m := range s.last["memdump_query_errors_total"].GetMetric() {
		if n := m.GetCounter().GetValue(); n > 0 {
			t.Logf("  %-40s %.0f", "failures of "+label(m, "query")+": "+label(m, "reason"), n)
		}
	}
	t.Logf("  joined %v, panics %v", s.last["memdump_scrapes_joined_total"].GetMetric()[0].GetCounter().GetValue(), s.last["memdump_panics_total"].GetMetric()[0].GetCounter().GetValue())
	t.Logf("  %-40s %d", "wrong", len(s.wrong))
	for _, wrong := range s.wrong[:min(10, len(s.wrong))] {
		t.Error(wrong)
	}
	if late := s.count["later than announced"]; late*100 > s.count["scrapes"] {
		t.Errorf("%d scrapes were answered later than announced", late)
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

func (s measured) median() float64 { return middle(slices.Sorted(slices.Values(s.y))) }

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

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
