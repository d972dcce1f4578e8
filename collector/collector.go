// Package collector turns what InfluxDB says of memory dumps into metrics. It is the
// only place where a value becomes a metric, and the only one that knows the
// measurements, tags and fields. It must know neither flags nor how a question
// travels.
//
// The first law: a number on /metrics is true, or it is not there.
package collector

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// Database is what a Collector asks; *influx.Client is one.
type Database interface {
	// Query calls row for each row of the answer. After an error, rows already
	// passed on count for nothing.
	Query(ctx context.Context, q influx.Question, row func(influx.Row) error) error
	// Identify returns which server answers, kept from the first answer.
	Identify(ctx context.Context) (influx.Server, error)
	// API returns which API to ask; APIAuto where a gateway may answer.
	API() influx.API
}

// Config says what is asked, and of whom. All of it is required.
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
	// Insecure says that the database's certificate is not verified.
	Insecure bool
	Logger   log.Logger
	Now      func() time.Time
}

// telemetrySettle is DumpsSettle for telemetry, which is written as it is measured.
const telemetrySettle = time.Hour

// Collector answers scrapes. It is made once, and is safe for concurrent use. From
// one scrape to the next it keeps partial answers about closed ranges of time, where
// figures are asked about in ranges, and no value.
type Collector struct {
	Config
	figures []figure
	errors  *prometheus.CounterVec

	mu   sync.Mutex
	last map[string]Status // by query
}

// Status is how the last run of one query went.
type Status struct {
	Query    string // value of the label {query}
	Gauge    string // name of the gauge
	Asked    bool   // false before the first scrape
	Err      error  // nil when it succeeded
	Reason   string // its name, as in the label {reason}
	Duration time.Duration
	At       time.Time // when it ended
	Ranges   ranges.State
}

var (
	upDesc = prometheus.NewDesc("memdump_up",
		"1 when every query of this scrape succeeded, 0 otherwise.", nil, nil)
	successDesc = prometheus.NewDesc("memdump_query_success",
		"1 when the query succeeded in this scrape; 0 when its gauge is absent because it failed.", []string{"query"}, nil)
	durationDesc = prometheus.NewDesc("memdump_query_duration_seconds",
		"Time that the query took in this scrape, in seconds.", []string{"query"}, nil)
	rangesDesc = prometheus.NewDesc("memdump_query_ranges",
		"Ranges of time that the query is asked about; 1 when it is asked about the whole. With more, ranges that ended more than --dumps.settle ago (an hour for telemetry) are asked about again after max(10 min, age/100), at latest after a day: a point that arrives later than that, or is deleted, shows by then.", []string{"query"}, nil)
	oldestDesc = prometheus.NewDesc("memdump_query_oldest_check_timestamp_seconds",
		"When the longest unasked of these ranges was asked about, in seconds since 1970. Absent while some range is not known, as is then the query's gauge.", []string{"query"}, nil)
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
func New(c Config) (*Collector, error) {
	switch {
	case c.DumpsMeasurement == "":
		return nil, errors.New("the name of the measurement of the dumps is empty")
	case c.TelemetryMeasurement == "":
		return nil, errors.New("the name of the measurement of the telemetry is empty")
	case c.TelemetryLookback <= 0:
		return nil, errors.New("the look-back of the telemetry must be longer than 0")
	}
	switch {
	case !slices.Contains(ranges.Modes(), c.Ranges):
		return nil, fmt.Errorf("the mode of ranges is %q: expected one of %q", c.Ranges, ranges.Modes())
	case c.DumpsSettle < 0:
		return nil, errors.New("the time in which dumps settle must not be negative")
	}
	collector := &Collector{
		Config: c,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: errorsName, Help: errorsHelp}, []string{"query", "reason"}),
		last:   make(map[string]Status),
	}
	// A counter that appears with its first failure hides that failure from rate().
	for _, s := range stats {
		settle := c.DumpsSettle
		if s.source() == telemetry {
			settle = telemetrySettle
		}
		collector.figures = append(collector.figures, s.keep(ranges.Config{Mode: c.Ranges, Settle: settle, Now: c.Now}))
		for _, reason := range reasons() {
			collector.errors.WithLabelValues(s.label(), reason)
		}
	}
	return collector, nil
}

// Statuses returns how the last run of each query went, in the order of the table.
// It asks nothing.
func (c *Collector) Statuses() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Status, 0, len(stats))
	for _, s := range stats {
		status := c.last[s.label()]
		status.Query, status.Gauge = s.label(), s.gauge()
		all = append(all, status)
	}
	return all
}

// Bind returns a prometheus.Collector for one scrape. The context ends the scrape's
// questions; it is kept in a struct because Collect takes none.
func (c *Collector) Bind(ctx context.Context) prometheus.Collector { return bound{c, ctx} }

type bound struct {
	*Collector
	ctx context.Context
}

// Describe sends every descriptor of the table, and of the scrape about itself.
func (b bound) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range stats {
		ch <- s.desc()
	}
	for _, desc := range []*prometheus.Desc{upDesc, successDesc, durationDesc, rangesDesc, oldestDesc, serverDesc, insecureDesc} {
		ch <- desc
	}
	b.errors.Describe(ch)
}

// Collect runs the queries of the table side by side and sends what succeeded.
func (b bound) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		metric, err := prometheus.NewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(desc, err)
		}
		ch <- metric
	}
	run, server := b.begin(b.ctx)
	answers := make([]answer, len(b.figures))
	var queries sync.WaitGroup
	for i, f := range b.figures {
		queries.Go(func() { answers[i] = b.answer(run, f) })
	}
	queries.Wait()

	up := 1.0
	for i, f := range b.figures {
		a := answers[i]
		success := 1.0
		if a.err != nil {
			up, success = 0, 0
		} else if a.known {
			gauge(f.desc(), a.value)
		}
		gauge(successDesc, success, f.label())
		gauge(durationDesc, a.took.Seconds(), f.label())
		gauge(rangesDesc, float64(a.ranges.Ranges), f.label())
		if oldest := a.ranges.OldestCheck; !oldest.IsZero() {
			gauge(oldestDesc, seconds(oldest.UnixNano()), f.label())
		}
	}
	gauge(upDesc, up)
	gauge(insecureDesc, map[bool]float64{true: 1}[b.Insecure])
	switch {
	case b.Database.API() == influx.APIV3Query:
		gauge(serverDesc, 1, "unknown", string(influx.APIV3Query))
	case server.Major != 0:
		gauge(serverDesc, 1, server.Version, string(influx.APIInfluxQL))
	}
	b.errors.Collect(ch)
}

// answer is what one query of one scrape gave.
type answer struct {
	value  float64
	known  bool // false when there is no value to give
	ranges ranges.State
	err    error
	took   time.Duration
}

// answer runs one query of a scrape, and owns what is said about it.
func (c *Collector) answer(run *scrape, f figure) answer {
	a := c.ask(run, f)
	c.note(f, a, c.Now())
	return a
}

// ask runs one query.
func (c *Collector) ask(run *scrape, f figure) (a answer) {
	begin := c.Now()
	err := contain(func() error {
		a = f.ask(run)
		return a.err
	})
	if err != nil {
		a = answer{err: err, ranges: a.ranges}
	}
	a.took = c.Now().Sub(begin)
	return a
}

// contain makes a panic an error, as the goroutine that it happens in would end the
// process.
func contain(do func() error) (err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			err = &panicError{value: fmt.Sprint(recovered), stack: debug.Stack()}
		}
	}()
	return do()
}

// panicError is a panic: a defect in this program.
type panicError struct {
	value string
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("%v: %.200q", errInternal, e.value) }
func (e *panicError) Unwrap() error { return errInternal }

func (c *Collector) note(f figure, a answer, end time.Time) {
	c.mu.Lock()
	before := c.last[f.label()]
	status := Status{Asked: true, Err: a.err, Duration: a.took, At: end, Ranges: a.ranges}
	if a.err != nil {
		status.Reason = reasonOf(a.err)
	}
	c.last[f.label()] = status
	c.mu.Unlock()
	if ranged := a.ranges.Ranged; ranged != before.Ranges.Ranged {
		_ = level.Info(c.Logger).Log("msg", map[bool]string{
			true:  "asking in ranges of time from now on, as the whole was refused or took too long",
			false: "asking about the whole again",
		}[ranged], "query", f.label(), "took", a.took)
	}
	if a.err == nil {
		_ = level.Debug(c.Logger).Log("msg", "query done", "query", f.label(), "took", a.took, "ranges", a.ranges.Ranges)
		return
	}
	reason := status.Reason
	c.errors.WithLabelValues(f.label(), reason).Inc()
	c.logFailure(a.err, "msg", "query failed", "query", f.label(), "reason", reason, "took", a.took)
}

// logFailure says what failed: a viewer or scraper that left is no news, and a panic
// comes with its stack.
func (c *Collector) logFailure(err error, fields ...any) {
	logger := level.Error(c.Logger)
	if errors.Is(err, influx.ErrCanceled) {
		logger = level.Debug(c.Logger)
	}
	fields = append(fields, "err", err)
	if panicked := (*panicError)(nil); errors.As(err, &panicked) {
		fields = append(fields, "stack", string(panicked.stack))
	}
	_ = logger.Log(fields...)
}
