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
}

// Config says what is asked, and of whom. All of it is required.
type Config struct {
	Database             Database
	DumpsMeasurement     string
	TelemetryMeasurement string
	// TelemetryLookback is how far back a VM's telemetry counts as present.
	TelemetryLookback time.Duration
	Logger            log.Logger
	Now               func() time.Time
}

// Collector answers scrapes. It is made once, holds no value from one scrape to the
// next, and is safe for concurrent use.
type Collector struct {
	Config
	errors *prometheus.CounterVec

	mu   sync.Mutex
	last map[string]Status // by query
}

// Status is how the last run of one query went.
type Status struct {
	Query    string // value of the label {query}
	Gauge    string // name of the gauge
	Asked    bool   // false before the first scrape
	Err      error  // nil when it succeeded
	Duration time.Duration
	At       time.Time // when it ended
}

var (
	upDesc = prometheus.NewDesc("memdump_up",
		"1 when every query of this scrape succeeded, 0 otherwise.", nil, nil)
	successDesc = prometheus.NewDesc("memdump_query_success",
		"1 when the query succeeded in this scrape; 0 when its gauge is absent because it failed.", []string{"query"}, nil)
	durationDesc = prometheus.NewDesc("memdump_query_duration_seconds",
		"Time that the query took in this scrape, in seconds.", []string{"query"}, nil)
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
	collector := &Collector{
		Config: c,
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{Name: errorsName, Help: errorsHelp}, []string{"query", "reason"}),
		last:   make(map[string]Status),
	}
	// A counter that appears with its first failure hides that failure from rate().
	for _, s := range stats {
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
	for _, desc := range []*prometheus.Desc{upDesc, successDesc, durationDesc, serverDesc} {
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
	// Asked before the queries, as the form of the credentials follows the answer.
	// Whether it fails or not, the queries say what matters.
	if server, err := b.Database.Identify(b.ctx); err == nil && server.Major != 0 {
		gauge(serverDesc, 1, server.Version, "influxql")
	}
	run := &scrape{Collector: b.Collector, ctx: b.ctx, now: b.Now()}
	answers := make([]answer, len(stats))
	var queries sync.WaitGroup
	for i, s := range stats {
		queries.Go(func() { answers[i] = b.answer(run, s) })
	}
	queries.Wait()

	up := 1.0
	for i, s := range stats {
		a := answers[i]
		success := 1.0
		if a.err != nil {
			up, success = 0, 0
		} else if a.known {
			gauge(s.desc(), a.value)
		}
		gauge(successDesc, success, s.label())
		gauge(durationDesc, a.took.Seconds(), s.label())
	}
	gauge(upDesc, up)
	b.errors.Collect(ch)
}

// answer is what one query of one scrape gave.
type answer struct {
	value float64
	known bool // false when there is no value to give
	err   error
	took  time.Duration
}

// answer runs one query, and owns what is said about it. A panic is that query's
// failure, as the goroutine that it happens in would end the process.
func (c *Collector) answer(run *scrape, s stat) (a answer) {
	begin := c.Now()
	defer func() {
		var stack []byte
		if recovered := recover(); recovered != nil {
			a = answer{err: fmt.Errorf("%w: %.200q", errInternal, fmt.Sprint(recovered))}
			stack = debug.Stack()
		}
		end := c.Now()
		a.took = end.Sub(begin)
		c.note(s, a, end, stack)
	}()
	a.value, a.known, a.err = s.ask(run)
	return a
}

func (c *Collector) note(s stat, a answer, end time.Time, stack []byte) {
	c.mu.Lock()
	c.last[s.label()] = Status{Asked: true, Err: a.err, Duration: a.took, At: end}
	c.mu.Unlock()
	if a.err == nil {
		_ = level.Debug(c.Logger).Log("msg", "query done", "query", s.label(), "took", a.took)
		return
	}
	reason := reasonOf(a.err)
	c.errors.WithLabelValues(s.label(), reason).Inc()
	logger := level.Error(c.Logger)
	if errors.Is(a.err, influx.ErrCanceled) {
		logger = level.Debug(c.Logger)
	}
	fields := []any{"msg", "query failed", "query", s.label(), "reason", reason, "took", a.took, "err", a.err}
	if stack != nil {
		fields = append(fields, "stack", string(stack))
	}
	_ = logger.Log(fields...)
}

// stat is a row of the table, whatever its partial answer.
type stat interface {
	label() string // value of the label {query}
	gauge() string // name of the gauge
	desc() *prometheus.Desc
	// ask answers the row's question; known is false when there is no value to give.
	ask(run *scrape) (value float64, known bool, err error)
}

func (r row[P]) label() string { return r.query }
func (r row[P]) gauge() string { return r.name }
func (r row[P]) desc() *prometheus.Desc {
	return prometheus.NewDesc(r.name, r.help, nil, nil)
}

func (r row[P]) ask(run *scrape) (float64, bool, error) {
	span := run.span(r.text.from)
	found, err := r.over(run, span)
	if err != nil {
		return 0, false, err
	}
	if found.empty() {
		if err := run.prove(r.text.from, r.fields); err != nil {
			return 0, false, err
		}
	}
	value, known := r.value(found, span)
	if !known {
		return 0, false, nil
	}
	return value, true, finite(value)
}

// over asks the row's question about one range of time.
func (r row[P]) over(run *scrape, span ranges.Range) (P, error) {
	var found P
	question := influx.Question{Statement: r.text.over(run.measurement(r.text.from), span), MaxBytes: r.maxBytes}
	err := run.Database.Query(run.ctx, question, func(row influx.Row) (err error) {
		found, err = r.read(found, row)
		return err
	})
	if err != nil {
		var nothing P
		return nothing, err
	}
	return found, nil
}
