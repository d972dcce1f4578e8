package collector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"memdump_exporter/collector/rangecache"
	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
)

// Inspection is the outcome of all queries at one time, for people. The metrics about queries do
// not count it.
type Inspection struct {
	At      time.Time
	Server  influx.Server // Major is 0 if it is unknown
	API     influx.API
	Queries []QueryResult // in the order of the table
	// VMs are the monitored VMs, those without a dump first. HasVMs is false if a query for
	// them failed.
	VMs       []VM
	HasVMs    bool
	Histories []HistoryState
	// Days are the last 30 days, oldest first, and Newest the 20 newest records, newest first.
	// Only Overview sets them, or their error.
	Days      []Day
	DaysErr   error
	Newest    []records.Record
	NewestErr error
}

// QueryResult is the outcome of one query.
type QueryResult struct {
	Query     string // value of the label query
	Statement string // over the whole time range that counts
	Metrics   []MetricValue
	Err       error
	Reason    string // value of the label reason; empty without an error
	Took      time.Duration
	Ranges    int // number of time ranges; 0 if unknown
}

// MetricValue is the value of one metric.
type MetricValue struct {
	Name, Help string
	Value      float64
	HasValue   bool // there is a value

	runs int // number of dumped runs when a backfill computed the value
}

// Day sums up the dumps of one day in UTC.
type Day struct {
	Start                  time.Time
	Dumps, CompressedBytes int64
}

// NeverDumped returns the monitored VMs without a dump, and the sentence that reports them.
func (i Inspection) NeverDumped() (sentence string, vms []VM) {
	n, all := countVMs(i.VMs, VM.NeverDumped), len(i.VMs)
	switch {
	case all == 0:
		return "there are no monitored VMs", nil
	case n == 0:
		return fmt.Sprintf("each of %d monitored VMs has been dumped", all), nil
	}
	return fmt.Sprintf("%d of %d monitored VMs have never been dumped", n, all), i.VMs[:n]
}

// SharedNames returns a sentence about the VMs that share a name with another one, and "" if
// there are none.
func (i Inspection) SharedNames() string {
	var shared []VM
	for _, vm := range i.VMs {
		if vm.Shared {
			shared = append(shared, vm)
		}
	}
	if len(shared) == 0 {
		return ""
	}
	return "VMs with the same name, whose dumps can't be told apart: " + VMNames(shared)
}

// maxNamed limits how many VMs a sentence names.
const maxNamed = 20

// VMNames lists the names of VMs for people, at most twenty.
func VMNames(vms []VM) string {
	var names []string
	for _, vm := range vms[:min(len(vms), maxNamed)] {
		name := "runtime ID " + vm.VMID
		switch {
		case vm.Name != "" && vm.UUID != "":
			name = vm.Name + " (" + vm.UUID + ")"
		case vm.Name != "" || vm.UUID != "":
			name = vm.Name + vm.UUID
		}
		names = append(names, Visible(name))
	}
	text := strings.Join(names, ", ")
	if more := len(vms) - len(names); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Visible escapes the characters of a name that would be shown as something else: control
// characters, and those that reverse the direction of the text after them.
func Visible(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.In(r, unicode.Cc, unicode.Cf) {
			fmt.Fprintf(&b, "\\u%04x", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

const (
	overviewDays    = 30
	overviewRecords = 20
)

// Inspect executes all queries. The context must have a deadline.
func (e *Exporter) Inspect(ctx context.Context) Inspection {
	return e.inspect(ctx, false)
}

// Overview is Inspect with the dumps of the last days and the newest records.
func (e *Exporter) Overview(ctx context.Context) Inspection {
	return e.inspect(ctx, true)
}

func (e *Exporter) inspect(ctx context.Context, withRecords bool) Inspection {
	deadline, _ := ctx.Deadline()
	b := e.newBatch(ctx, deadline)
	inspection := Inspection{At: b.now}
	var others sync.WaitGroup
	if withRecords {
		others.Go(func() {
			inspection.DaysErr = contain(func() (err error) { inspection.Days, err = b.days(); return err })
		})
		others.Go(func() {
			inspection.NewestErr = contain(func() (err error) {
				inspection.Newest, err = e.records().Newest(b.ctx, overviewRecords)
				return err
			})
		})
	}
	b.execute(func(result) {}, others.Wait)
	for _, r := range b.results {
		inspection.Queries = append(inspection.Queries, b.queryResult(r))
	}
	inspection.Server, inspection.API, inspection.Histories = b.server, e.config.Database.API(), b.histories
	inspection.VMs, inspection.HasVMs = b.coverage()
	return inspection
}

// queryResult converts a result.
func (b *batch) queryResult(r result) QueryResult {
	q := QueryResult{Query: r.query.name, Err: r.err, Took: r.took, Ranges: r.ranges, Statement: b.fullStatement(r.query)}
	for i, m := range r.query.metrics {
		value := MetricValue{Name: m.name, Help: m.help}
		if r.err == nil {
			value.Value, value.HasValue = r.values[i], r.hasValue[i]
		}
		q.Metrics = append(q.Metrics, value)
	}
	if r.err != nil {
		q.Reason = Reason(r.err)
	}
	return q
}

// fullStatement returns the statement of a query over the time range that counts.
func (b *batch) fullStatement(q *query) string {
	c := b.exporter.config
	switch {
	case c.Database.API() != influx.APIV3Query:
		return c.statement(q.source, q.columns, q.tail, c.relevantRange(q.source, b.now))
	case q.gateway.value == nil:
		return "no query"
	}
	return c.gatewayStatement(q, b.now)
}

// daysQuery is the query for the dumps of each day.
var daysQuery = query{
	name:    "days",
	source:  dumps,
	columns: `COUNT("sha256"::field) AS "dumps", SUM("gzip_size_bytes"::field) AS "compressed"`,
	tail:    `GROUP BY time(1d) fill(none)`,
	fields:  []field{sha256},
	add: func(a *aggregate, row influx.Row) error {
		ns, err := row.Time()
		if err != nil {
			return err
		}
		n, compressed, err := dumpsAndBytes(row)
		if err != nil {
			return err
		}
		bytes, ok := compressed.bytes()
		a.addDay(startOfDay(ns), dayTotals{n, bytes, !ok})
		return nil
	},
}

var errNoDays = errors.New("there is no query for dumps per day for a v3-query gateway")

// days returns the dumps of each of the last 30 days.
func (b *batch) days() ([]Day, error) {
	if b.exporter.config.Database.API() == influx.APIV3Query {
		return nil, errNoDays
	}
	first := b.now.UTC().Truncate(day).Add(-(overviewDays - 1) * day)
	v, open, err := b.fetchWithin(&daysQuery, rangecache.Range{From: first.UnixNano(), To: first.Add(overviewDays * day).UnixNano()})
	if err != nil {
		return nil, err
	}
	all := v.settled.with(open).days
	if len(all) == 0 {
		if _, err := b.exporter.checkEmpty(b.schemas, &daysQuery, b.now); err != nil {
			return nil, err
		}
	}
	days := make([]Day, overviewDays)
	for i := range days {
		start := first.Add(time.Duration(i) * day)
		totals := all[start.UnixNano()]
		if totals.badSize || totals.compressed < 0 {
			return nil, fmt.Errorf("%w: the compressed bytes of %s", errOutOfRange, start.Format(time.DateOnly))
		}
		days[i] = Day{start, totals.dumps, totals.compressed}
	}
	return days, nil
}

// Measurements compares the measurements of a source with what the queries need.
type Measurements struct {
	Source   string              // "dumps" or "telemetry", as in the names of the flags
	Names    []string            // as configured
	Existing []string            // those of Names that exist
	Fields   map[string][]string // types by the name of the field
	Tags     []string
	// MissingFields and MissingTags are the missing ones without which a query fails. Unwritten
	// are the missing fields without which metrics are absent, without an error.
	MissingFields, MissingTags, Unwritten []string
	Conflicts                             []error // about fields of several types
	// Candidates are the measurements with the required tag, if none of Names exists.
	Candidates []string
	Err        error // of a request: the fields above are incomplete
}

// Examine requests the fields and tags of all measurements, of points of any age.
func (e *Exporter) Examine(ctx context.Context) []Measurements {
	var all []Measurements
	for source := range numSources {
		policy, names := e.config.measurements(source)
		m := Measurements{Source: source.String(), Names: names}
		m.Err = e.examine(ctx, source, policy, &m)
		all = append(all, m)
	}
	return all
}

func (e *Exporter) examine(ctx context.Context, source source, policy string, m *Measurements) error {
	found, err := e.fetchSchema(ctx, source)
	if err != nil {
		return err
	}
	m.Fields, m.Existing = found.fields, found.existing
	if len(m.Existing) == 0 {
		if source == telemetry {
			m.Candidates, err = e.candidates(ctx, e.query(monitoredVMs).tag)
		}
		return err
	}
	if m.Tags, err = e.fetchTags(ctx, policy, m.Names...); err != nil {
		return err
	}
	union := func(all, more []string) []string {
		for _, name := range more {
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
		return all
	}
	for i := range e.queries {
		q := &e.queries[i]
		if q.source != source {
			continue
		}
		required, optional := found.missing(q)
		m.MissingFields, m.Unwritten = union(m.MissingFields, required), union(m.Unwritten, optional)
		if conflict := found.conflict(q); conflict != nil {
			reported := func(err error) bool { return err.Error() == conflict.Error() }
			if !slices.ContainsFunc(m.Conflicts, reported) {
				m.Conflicts = append(m.Conflicts, conflict)
			}
		}
		if q.tag != "" && !slices.Contains(m.Tags, q.tag) {
			m.MissingTags = union(m.MissingTags, []string{q.tag})
		}
	}
	return nil
}

// maxCandidates limits the measurements whose tags candidates requests.
const maxCandidates = 50

// candidates returns the measurements that have a tag.
func (e *Exporter) candidates(ctx context.Context, tag string) ([]string, error) {
	var names, found []string
	for row, err := range e.config.Database.Rows(ctx, influx.Request{Statement: "SHOW MEASUREMENTS"}) {
		if err != nil {
			return nil, fmt.Errorf("fetch the measurements: %w", err)
		}
		names = append(names, text(row, "name"))
	}
	for _, name := range names[:min(len(names), maxCandidates)] {
		tags, err := e.fetchTags(ctx, "", name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(tags, tag) {
			found = append(found, name)
		}
	}
	return found, nil
}
