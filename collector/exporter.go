// Package collector turns rows from InfluxDB into metrics. It is the only package that contains
// the names of metrics, measurements, tags and fields. It contains no flags and no HTTP to
// InfluxDB.
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

// Database is what an Exporter queries. *influx.Client implements it.
type Database interface {
	// Rows makes one request and yields the rows of the response. An error is the last element
	// and invalidates the rows before it.
	Rows(ctx context.Context, r influx.Request) iter.Seq2[influx.Row, error]
	// Identify returns the server that responds.
	Identify(ctx context.Context) (influx.Server, error)
	// API returns the API to use: APIAuto while the server may be a gateway.
	API() influx.API
}

// Config configures an Exporter. All fields but the policies are required. The caller validates
// them, because its errors can name the flags.
type Config struct {
	Database         Database
	DumpsMeasurement string
	// TelemetryMeasurements are the measurements that have a point of each monitored VM.
	TelemetryMeasurements []string
	// DumpsPolicy and TelemetryPolicy are retention policies; empty for the default one.
	DumpsPolicy, TelemetryPolicy string
	// TelemetryLookback is how long a VM is monitored after its newest point.
	TelemetryLookback time.Duration
	// DumpsAllowedLateness and TelemetryAllowedLateness are how late a point may arrive and
	// still be counted at the next scrape, if a history is in use.
	DumpsAllowedLateness, TelemetryAllowedLateness time.Duration
	// DumpsMaxAge is how old the newest dump of a monitored VM may be; 0 for any age.
	DumpsMaxAge time.Duration
	// PerVM limits the VMs with metrics of their own to the most recently dumped ones; 0 for none.
	PerVM int
	// Insecure is true if the certificate of InfluxDB is not verified.
	Insecure bool
	Logger   log.Logger
	Now      func() time.Time
}

// Exporter executes the queries of scrapes. It is safe for concurrent use. Between scrapes it
// stores the histories, and no value of a metric.
type Exporter struct {
	config    Config
	queries   []query
	histories [numSources]*history
	schemas   [numSources]atomic.Pointer[schema]
	status    statusLog

	errors *prometheus.CounterVec
	joined prometheus.Counter
	panics prometheus.Counter

	ctx   context.Context // ends at Close
	stop  context.CancelFunc
	loads sync.WaitGroup // loaders of histories
}

const (
	errorsName = "memdump_query_errors_total"
	errorsHelp = "Number of failures of the query, by reason."
)

// New returns an Exporter, without making a request. The caller must call Close at the end.
func New(c Config) *Exporter {
	e := &Exporter{
		config: c,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: errorsName, Help: errorsHelp}, []string{"query", "reason"}),
		joined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_scrapes_joined_total", Help: "Number of scrapes that shared the queries of another scrape.",
		}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "memdump_panics_total", Help: "Number of panics in a query or a response; the log has the stack of each.",
		}),
		queries: queries,
	}
	if c.PerVM > 0 {
		e.queries = slices.Concat(queries, perVMQueries)
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.histories[dumps] = newHistory(e, dumps, c.DumpsAllowedLateness)
	e.histories[telemetry] = newHistory(e, telemetry, c.TelemetryAllowedLateness)
	// rate() does not see a failure that creates its counter: all counters exist from the start.
	for _, q := range e.queries {
		for _, reason := range reasons() {
			e.errors.WithLabelValues(q.name, reason)
		}
	}
	return e
}

// Close ends the batches and the loading of histories, and waits for the loaders.
func (e *Exporter) Close() {
	e.stop()
	for _, h := range e.histories {
		h.mu.Lock()   // after this, loads includes a loader that is just being started
		h.mu.Unlock() //nolint:staticcheck // the section is empty on purpose
	}
	e.loads.Wait()
}

// measurements returns the retention policy and the measurements of a source.
func (c Config) measurements(s source) (policy string, names []string) {
	if s == telemetry {
		return c.TelemetryPolicy, c.TelemetryMeasurements
	}
	return c.DumpsPolicy, []string{c.DumpsMeasurement}
}

// relevantRange returns the time range that counts for a source at now.
func (c Config) relevantRange(s source, now time.Time) rangecache.Range {
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
