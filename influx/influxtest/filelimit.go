package influxtest

import (
	"bytes"
	"context"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// fileBlock is what InfluxDB 3 Core keeps in one Parquet file at best: ten minutes.
const fileBlock = int64(10 * time.Minute)

// FileLimit stands in front of a real InfluxDB 1.x and refuses, in the recorded words
// of a 3.x, every question about more blocks of ten minutes than its limit. It counts
// as InfluxDB 3 does: what the range of time touches, before any LIMIT.
type FileLimit struct {
	URL string

	mu                 sync.Mutex
	limit              int
	refusal            Exchange
	blocks             map[string][]int64 // of each measurement, ascending
	questions, refused int
	perFile            time.Duration
	cores              chan struct{} // one request at a time on each
	spent              time.Duration
}

// LimitFiles starts one until the test ends; its refusals are those of the recording
// file-limit of a server such as "influxdb-3.6.0".
func LimitFiles(tb testing.TB, influxdb, server string, limit int) *FileLimit {
	tb.Helper()
	l := &FileLimit{limit: limit, blocks: map[string][]int64{}, cores: make(chan struct{}, runtime.NumCPU())}
	for _, e := range MustLoad(tb, server, "file-limit").Exchanges {
		if e.Label == "dumps" {
			l.refusal = e
			break
		}
	}
	proxy := Forward(tb, influxdb)
	l.URL = Handle(tb, func(w http.ResponseWriter, r *http.Request) {
		files, allowed := l.allows(r.URL.Query().Get("q"))
		if !allowed {
			w.WriteHeader(l.refusal.Response.Status)
			_, _ = io.WriteString(w, l.refusal.Response.Body)
			return
		}
		l.spend(r.Context(), files)
		proxy.ServeHTTP(w, r)
	})
	return l
}

// Forward is a handler that hands on to a server, for a front to do so when it will.
func Forward(tb testing.TB, server string) http.Handler {
	tb.Helper()
	target, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	tb.Cleanup(transport.CloseIdleConnections)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = transport
	proxy.ErrorLog = log.New(io.Discard, "", 0) // that a client leaves, or the server is away, is for the test to see
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Read before it is sent on: once a response begins, net/http closes the body that came in, and where that
		// meets the end of its sending on, the connection to the server is closed in the middle of the response.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	})
}

// Holds tells which points there are.
func (l *FileLimit) Holds(h *History) {
	times := map[string][]int64{}
	for _, p := range h.points {
		times[p.series.measurement] = append(times[p.series.measurement], p.ns)
	}
	l.mu.Lock()
	l.blocks = map[string][]int64{}
	l.mu.Unlock()
	for measurement, ns := range times {
		l.HoldsAt(measurement, ns)
	}
}

// HoldsAt tells the times of a measurement's points, in nanoseconds since 1970.
func (l *FileLimit) HoldsAt(measurement string, ns []int64) {
	blocks := make([]int64, 0, len(ns))
	for _, n := range ns {
		blocks = append(blocks, blockOf(n))
	}
	slices.Sort(blocks)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks[measurement] = slices.Compact(blocks)
}

// SetLimit changes the limit.
func (l *FileLimit) SetLimit(limit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limit = limit
}

// SetCost makes each request take a time for each file that it touches, on one core: 0.75 ms is
// what InfluxDB 3 Core 3.6.0 takes.
func (l *FileLimit) SetCost(perFile time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perFile = perFile
}

// Spent returns the time that the files of all requests have taken so far.
func (l *FileLimit) Spent() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spent
}

// spend takes the time that the files of a request take, or less where the client has left.
func (l *FileLimit) spend(ctx context.Context, files int) {
	l.mu.Lock()
	cost := time.Duration(files) * l.perFile
	l.mu.Unlock()
	if cost == 0 {
		return
	}
	select {
	case l.cores <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-l.cores }()
	begin := time.Now()
	done := time.NewTimer(cost)
	defer done.Stop()
	select {
	case <-done.C:
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spent += time.Since(begin)
}

// Asked returns how many questions came so far, and how many of them were refused.
func (l *FileLimit) Asked() (questions, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.questions, l.refused
}

func blockOf(ns int64) int64 {
	block := ns / fileBlock
	if ns%fileBlock < 0 {
		block--
	}
	return block
}

var (
	fromClause      = regexp.MustCompile(`^SELECT .*? FROM ((?:"[^"]*"[,.]?)+)`)
	measurementName = regexp.MustCompile(`"([^"]*)"(?:,|$)`)
	lowerBound      = regexp.MustCompile(`time >= (-?\d+)`)
	upperBound      = regexp.MustCompile(`time < (-?\d+)`)
)

// allows returns how many files a statement touches, and whether that is within the limit.
func (l *FileLimit) allows(statement string) (files int, allowed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := fromClause.FindStringSubmatch(statement)
	if found == nil {
		return 0, true
	}
	l.questions++
	bound := func(re *regexp.Regexp, otherwise int64) int64 {
		if m := re.FindStringSubmatch(statement); m != nil {
			if ns, err := strconv.ParseInt(m[1], 10, 64); err == nil {
				return ns
			}
		}
		return otherwise
	}
	// The limit is that of each table.
	for _, measurement := range measurementName.FindAllStringSubmatch(found[1], -1) {
		blocks := l.blocks[measurement[1]]
		from, _ := slices.BinarySearch(blocks, blockOf(bound(lowerBound, math.MinInt64)))
		to, _ := slices.BinarySearch(blocks, blockOf(bound(upperBound, math.MaxInt64)-1)+1)
		if to-from > l.limit {
			l.refused++
			return 0, false
		}
		files += to - from
	}
	return files, true
}
