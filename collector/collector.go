// Package collector turns what InfluxDB says of memory dumps into metrics. It is the
// only place where a value becomes a metric, and the only one that knows the
// measurements, tags and fields. It must know neither flags nor how a request
// travels.
//
// The first law: a number on /metrics is true, or it is not there.
package collector

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// Database is what a Collector asks; *influx.Client is one.
type Database interface {
	// Query calls row for each row of the answer. After an error, rows already
	// passed on count for nothing.
	Query(ctx context.Context, q influx.Request, row func(influx.Row) error) error
	// Identify returns which server answers, kept from the first answer.
	Identify(ctx context.Context) (influx.Server, error)
	// API returns which API to ask; APIAuto where a gateway may answer.
	API() influx.API
}

// Config says what is asked, and of whom. All of it is required, and checked by the caller,
// who can name the flag.
type Config struct {
	Database             Database
	DumpsMeasurement     string
	TelemetryMeasurement string
	// TelemetryLookback is how far back a VM's telemetry counts as present.
	TelemetryLookback time.Duration
	// Ranges says when a figure is asked about in ranges of time.
	Ranges ranges.Mode
	// DumpsSettle is how late after its time the point of a dump may arrive and
	// still show at once while figures are kept in ranges.
	DumpsSettle time.Duration
	// DumpsMaxAge is how old the newest dump of a monitored VM may be; 0 for any age.
	DumpsMaxAge time.Duration
	// PerVM is for how many VMs there are series, the most recently dumped; 0 for none.
	PerVM int
	// Insecure says that the database's certificate is not verified.
	Insecure bool
	Logger   log.Logger
	Now      func() time.Time
}

// Collector answers scrapes. It is made once, and is safe for concurrent use. From
// one scrape to the next it keeps partial answers about closed ranges of time, where
// figures are asked about in ranges, and no value.
type Collector struct {
	Config
	figures []figure
	errors  *prometheus.CounterVec
	joined  prometheus.Counter
	panics  prometheus.Counter

	mu   sync.Mutex
	last map[string]Status // by query
}

var (
	upDesc = prometheus.NewDesc("memdump_up",
		"1 when every query of this scrape succeeded, 0 otherwise.", nil, nil)
	successDesc = prometheus.NewDesc("memdump_query_success",
		"1 when the query succeeded in this scrape; 0 when it failed, and its figure is absent.", []string{"query"}, nil)
	durationDesc = prometheus.NewDesc("memdump_query_duration_seconds",
		"Time that the query took in this scrape, in seconds.", []string{"query"}, nil)
	rangesDesc = prometheus.NewDesc("memdump_query_ranges",
		"Ranges of time that the query is asked in; 1 when it is asked as a whole. In more than one, a range that ended more than --dumps.settle ago (an hour for telemetry) is asked again after max(10 min, age/100), at the latest after a day: by then a dump shows that arrived late, or was deleted.", []string{"query"}, nil)
	oldestDesc = prometheus.NewDesc("memdump_query_oldest_check_timestamp_seconds",
		"When the query's oldest answer about a range of time was asked for, in seconds since 1970. Absent while some range has no answer; the figure is then absent too.", []string{"query"}, nil)
	insecureDesc = prometheus.NewDesc("memdump_influxdb_tls_insecure",
		"1 when the certificate of InfluxDB is not verified (--influx.tls.insecure-skip-verify), 0 otherwise.", nil, nil)
	serverDesc = prometheus.NewDesc("memdump_influxdb_info",
		"1, labelled with the version that InfluxDB reports and the API used. Absent while that is not known.", []string{"version", "api"}, nil)
)

const (
	errorsName = "memdump_query_errors_total"
	errorsHelp = "Failures of the query since the exporter started, by reason."
)

// New returns a Collector. It asks nothing yet.
func New(c Config) *Collector {
	collector := &Collector{
		Config: c,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: errorsName, Help: errorsHelp}, []string{"query", "reason"}),
		joined: prometheus.NewCounter(prometheus.CounterOpts{Name: "memdump_scrapes_joined_total", Help: "Scrapes that joined the run of the queries of another scrape, begun less than a second before."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "memdump_panics_total", Help: "Defects of the exporter (panics) that were contained: the query, answer or page failed, and the log has the stack."}),
		last:   make(map[string]Status),
	}
	// A counter that appears with its first failure hides that failure from rate().
	rows := stats
	if c.PerVM > 0 {
		rows = slices.Concat(stats, vmStats)
	}
	for _, s := range rows {
		f := s.keep(c)
		collector.figures = append(collector.figures, f)
		for _, reason := range reasons() {
			collector.errors.WithLabelValues(f.query, reason)
		}
	}
	return collector
}

// answer is what one query of one scrape gave.
type answer struct {
	value   float64
	known   bool // false when there is no value to give
	partial any  // what the value was made of; nil where the query failed, or a gateway gave it
	ranges  ranges.State
	err     error
	took    time.Duration
}

// ask runs one query.
func (c *Collector) ask(run *scrape, f figure) (a answer) {
	begin := c.Now()
	if err := contain(func() error { a = f.ask(run); return a.err }); err != nil {
		a = answer{err: err, ranges: a.ranges} // and nothing that could be taken for a value
	}
	a.took = c.Now().Sub(begin)
	return a
}
