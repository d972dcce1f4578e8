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

// fileBlock is the longest time range of one Parquet file of InfluxDB 3 Core.
const fileBlock = int64(10 * time.Minute)

// FileLimit is a proxy of a real InfluxDB 1.x that rejects every query that reads more blocks of
// ten minutes than its limit, with the recorded response of a 3.x. It counts as InfluxDB 3 does:
// all blocks of the time range, whatever the LIMIT of the query.
type FileLimit struct {
	URL string

	mu                sync.Mutex
	limit             int
	rejection         Exchange
	blocks            map[string][]int64 // of each measurement, ascending
	queries, rejected int
	perFile           time.Duration
	cores             chan struct{} // holds an element for each core that is in use
	spent             time.Duration
}

// LimitFiles starts a FileLimit until the test ends. It rejects queries as in the recording
// file-limit of a server, such as "influxdb-3.6.0".
func LimitFiles(tb testing.TB, influxdb, server string, limit int) *FileLimit {
	tb.Helper()
	l := &FileLimit{limit: limit, blocks: map[string][]int64{}, cores: make(chan struct{}, runtime.NumCPU())}
	for _, e := range MustLoad(tb, server, "file-limit").Exchanges {
		if e.Label == "dumps" {
			l.rejection = e
			break
		}
	}
	proxy := Forward(tb, influxdb)
	l.URL = Handle(tb, func(w http.ResponseWriter, r *http.Request) {
		files, allowed := l.allows(r.URL.Query().Get("q"))
		if !allowed {
			w.WriteHeader(l.rejection.Response.Status)
			_, _ = io.WriteString(w, l.rejection.Response.Body)
			return
		}
		l.spend(r.Context(), files)
		proxy.ServeHTTP(w, r)
	})
	return l
}

// Forward returns a handler that forwards requests to a server.
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
	proxy.ErrorLog = log.New(io.Discard, "", 0) // the test sees it if a client leaves or the server is down
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The body is read before it is forwarded. Otherwise net/http closes it when the response begins, which may close the
		// connection to the server in the middle of the response.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	})
}

// Holds sets the points of the database to those of a history.
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

// HoldsAt sets the times of the points of a measurement, in nanoseconds since 1970.
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

// SetCost sets the time that a request takes for each file that it reads, on one core. InfluxDB 3
// Core 3.6.0 takes 0.75 ms.
func (l *FileLimit) SetCost(perFile time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perFile = perFile
}

// Spent returns the time that all requests have taken for their files.
func (l *FileLimit) Spent() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spent
}

// spend waits for the time that a request takes for its files, or until the client has left.
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

// Queries returns the numbers of queries and of rejected queries.
func (l *FileLimit) Queries() (queries, rejected int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queries, l.rejected
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
	fromTime        = regexp.MustCompile(`time >= (-?\d+)`)
	toTime          = regexp.MustCompile(`time < (-?\d+)`)
)

// allows returns the number of files that a statement reads, and whether the limit allows it.
func (l *FileLimit) allows(statement string) (files int, allowed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := fromClause.FindStringSubmatch(statement)
	if found == nil {
		return 0, true
	}
	l.queries++
	timeOf := func(re *regexp.Regexp, otherwise int64) int64 {
		if m := re.FindStringSubmatch(statement); m != nil {
			if ns, err := strconv.ParseInt(m[1], 10, 64); err == nil {
				return ns
			}
		}
		return otherwise
	}
	// The limit applies to each measurement.
	for _, measurement := range measurementName.FindAllStringSubmatch(found[1], -1) {
		blocks := l.blocks[measurement[1]]
		from, _ := slices.BinarySearch(blocks, blockOf(timeOf(fromTime, math.MinInt64)))
		to, _ := slices.BinarySearch(blocks, blockOf(timeOf(toTime, math.MaxInt64)-1)+1)
		if to-from > l.limit {
			l.rejected++
			return 0, false
		}
		files += to - from
	}
	return files, true
}
