// Package collector turns rows from InfluxDB into metrics. It is the only place that makes a
// value a metric, and the only one that knows the measurements, tags and fields. It must know
// neither flags nor how a request travels.
//
// The first law: a number on /metrics is true, or it is absent.
package collector

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/influx"
)

// Database is what an Exporter queries; *influx.Client is one.
type Database interface {
	// Rows makes one request and yields the rows of the response. After an error, the rows
	// before it count for nothing.
	Rows(ctx context.Context, r influx.Request) iter.Seq2[influx.Row, error]
	// Identify returns which server responds. The first response is remembered.
	Identify(ctx context.Context) (influx.Server, error)
	// API returns which API to use; APIAuto where a gateway may respond.
	API() influx.API
}

// Config is what an Exporter needs. All of it is required but the policies; the caller checks
// it, who can name the flag.
type Config struct {
	Database         Database
	DumpsMeasurement string
	// TelemetryMeasurements are those where a VM with a point is monitored.
	TelemetryMeasurements []string
	// DumpsPolicy and TelemetryPolicy are retention policies; empty for the default one.
	DumpsPolicy, TelemetryPolicy string
	// TelemetryLookback is how long a VM is monitored after its newest point.
	TelemetryLookback time.Duration
	// DumpsAllowedLateness and TelemetryAllowedLateness are how late after its time a point may
	// arrive and still be counted at the next scrape, where a history is used.
	DumpsAllowedLateness, TelemetryAllowedLateness time.Duration
	// DumpsMaxAge is how old the newest dump of a monitored VM may be; 0 for any age.
	DumpsMaxAge time.Duration
	// PerVM is the number of VMs with metrics of their own, the most recently dumped; 0 for none.
	PerVM int
	// Insecure says that the certificate of InfluxDB is not verified.
	Insecure bool
	Logger   log.Logger
	Now      func() time.Time
}

// Exporter runs the queries of scrapes. It is safe for concurrent use. Between scrapes it
// stores the history of settled time ranges, and no value.
type Exporter struct {
	config    Config
	queries   []query
	histories [numSources]*history
	schemas   [numSources]atomic.Pointer[schema]
	status    statusLog

	errors *prometheus.CounterVec
	joined prometheus.Counter
	panics prometheus.Counter

	ctx   context.Context // ends at Close, and with it the loading of histories
	stop  context.CancelFunc
	loads sync.WaitGroup
}

const (
	errorsName = "memdump_query_errors_total"
	errorsHelp = "Number of failed runs of the query, by reason."
)

// New returns an Exporter. It makes no request yet. Close must be called at the end.
func New(c Config) *Exporter {
	e := &Exporter{
		config: c,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: errorsName, Help: errorsHelp}, []string{"query", "reason"}),
		joined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_scrapes_joined_total", Help: "Number of scrapes that shared the queries of another scrape.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_panics_total", Help: "Number of defects of the exporter (panics) that failed a query or a response; the log has the stack.",
		}),
		queries: queries,
	}
	if c.PerVM > 0 {
		e.queries = slices.Concat(queries, perVMQueries)
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.histories[dumps] = newHistory(e, dumps, c.DumpsAllowedLateness)
	e.histories[telemetry] = newHistory(e, telemetry, c.TelemetryAllowedLateness)
	// A counter that appears with its first failure hides that failure from rate().
	for _, q := range e.queries {
		for _, reason := range reasons() {
			e.errors.WithLabelValues(q.name, reason)
		}
	}
	return e
}

// Close ends what goes on between scrapes, and waits for it.
func (e *Exporter) Close() {
	e.stop()
	for _, h := range e.histories {
		h.mu.Lock()   // a loader that is being started is waited for, too
		h.mu.Unlock() //nolint:staticcheck // there is nothing to do in between
	}
	e.loads.Wait()
}

// measurements returns where the points of a source are.
func (c Config) measurements(s source) (policy string, names []string) {
	if s == telemetry {
		return c.TelemetryPolicy, c.TelemetryMeasurements
	}
	return c.DumpsPolicy, []string{c.DumpsMeasurement}
}

// span returns the time that counts for a source at now.
func (c Config) span(s source, now time.Time) rangecache.Range {
	if s == telemetry {
		return rangecache.Range{From: now.Add(-c.TelemetryLookback).UnixNano(), To: now.UnixNano() + 1}
	}
	return rangecache.All
}

// statement returns the text of an InfluxQL statement over a time range.
func (c Config) statement(s source, columns, tail string, r rangecache.Range) string {
	policy, names := c.measurements(s)
	return influx.Statement{Columns: columns, Policy: policy, From: names, Time: influx.TimeRange(r), Tail: tail}.Text(influx.InfluxQL)
}
