package collector

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"memdump_exporter/influx"
)

// aggregate is what the rows of a time range add up to. Aggregates of time ranges that do not
// overlap merge into the aggregate of both. A request fills the parts that its columns name; the
// others stay zero.
type aggregate struct {
	dumps      total // points with sha256
	sums       [numSums]total
	newest     instant // of the newest dump
	runs       map[run]runTotals
	days       map[int64]dayTotals // by start of the day in UTC, in nanoseconds since 1970
	vms        map[identity]int64  // telemetry: newest time, in nanoseconds since 1970
	dumpedRuns int                 // number of runs with a dump
	rows       int64               // number of rows in the responses
	ambiguous  bool                // a name of a run may stand for several names
}

// The numeric fields that are summed.
const (
	compressedBytes = iota
	rawBytes
	durationSeconds
	numSums
)

// summedFields are the names of the fields, indexed by the constants.
var summedFields = [numSums]string{"gzip_size_bytes", "raw_size_bytes", "duration_sec"}

// total is a sum or a count. Whole numbers add up exactly.
type total struct {
	whole    int64
	fraction float64 // sum of the numbers that are not whole, or exceed 64 bits
	values   int64   // number of values in the sum
	err      error   // why the total is invalid
}

// instant is a time that may be missing, in nanoseconds since 1970.
type instant struct {
	ns      int64
	present bool
}

// run identifies a run of a VM on a host by the tags of its dumps. Either may be empty.
type run struct{ vmid, dom string }

// domain returns the domain that the dumps of the run belong to; empty if they name none.
func (r run) domain() string {
	if r.dom != "" {
		return r.dom
	}
	return r.vmid
}

// runTotals sums up the dumps of one run.
type runTotals struct {
	dumps, compressed int64  // number, and bytes
	hasSize           bool   // some dump has a compressed size
	badSize           bool   // compressed is invalid: a size is unreadable, or the sum exceeds 64 bits
	dumped            bool   // the run has a dump
	newest            int64  // time of the newest dump, in nanoseconds since 1970
	host              string // of the newest dump; may be empty
}

// dayTotals sums up the dumps of one day.
type dayTotals struct {
	dumps, compressed int64 // number, and bytes
	badSize           bool  // compressed is invalid: a size is unreadable, or the sum exceeds 64 bits
}

// identity holds the tags of a telemetry series that identify a VM. All but vmid may be empty.
type identity struct{ vmid, uuid, name string }

const day = 24 * time.Hour

func newAggregate() *aggregate { return &aggregate{} }

// Merge adds another aggregate, which it leaves unchanged.
func (a *aggregate) Merge(other *aggregate) {
	a.dumps = a.dumps.plus(other.dumps)
	for i := range a.sums {
		a.sums[i] = a.sums[i].plus(other.sums[i])
	}
	a.newest = a.newest.latest(other.newest)
	a.rows += other.rows
	a.ambiguous = a.ambiguous || other.ambiguous
	for r, more := range other.runs {
		a.addRun(r, more)
	}
	for start, more := range other.days {
		a.addDay(start, more)
	}
	for id, ns := range other.vms {
		a.addVM(id, ns)
	}
}

// with returns the merge of two aggregates, which it leaves unchanged. It copies vms, which the
// caller may change, and of the other maps those that change.
func (a *aggregate) with(other *aggregate) *aggregate {
	merged := *a
	merged.vms = maps.Clone(a.vms)
	if len(other.runs) > 0 {
		merged.runs = maps.Clone(a.runs)
	}
	if len(other.days) > 0 {
		merged.days = maps.Clone(a.days)
	}
	merged.Merge(other)
	return &merged
}

func (a *aggregate) addRun(r run, more runTotals) {
	if a.runs == nil {
		a.runs = make(map[run]runTotals)
	}
	totals := a.runs[r]
	if more.dumped && !totals.dumped {
		a.dumpedRuns++
	}
	totals.addSizes(more)
	if more.dumped && (!totals.dumped || more.newest > totals.newest) {
		totals.dumped, totals.newest, totals.host = true, more.newest, more.host
	}
	a.runs[r] = totals
}

// addSizes adds the number and the sizes of more dumps.
func (t *runTotals) addSizes(more runTotals) {
	compressed, ok := sum64(t.compressed, more.compressed)
	t.dumps += more.dumps
	t.compressed = compressed
	t.hasSize = t.hasSize || more.hasSize
	t.badSize = t.badSize || more.badSize || !ok
}

func (a *aggregate) addDay(start int64, more dayTotals) {
	if a.days == nil {
		a.days = make(map[int64]dayTotals)
	}
	totals := a.days[start]
	compressed, ok := sum64(totals.compressed, more.compressed)
	a.days[start] = dayTotals{totals.dumps + more.dumps, compressed, totals.badSize || more.badSize || !ok}
}

func (a *aggregate) addVM(id identity, ns int64) {
	if a.vms == nil {
		a.vms = make(map[identity]int64)
	}
	if newest, ok := a.vms[id]; !ok || ns > newest {
		a.vms[id] = ns
	}
}

// addRecord adds one point of the measurement of the dumps. A point without sha256 is no dump,
// but its numbers count, as in a SUM over all points. An unreadable field invalidates the total
// of that field only.
func (a *aggregate) addRecord(row influx.Row) error {
	ns, err := row.Time()
	if err != nil {
		return err
	}
	for i, field := range summedFields {
		a.sums[i] = a.sums[i].plus(number(row, field))
	}
	var more runTotals
	more.setSize(number(row, summedFields[compressedBytes]))
	if sha, _ := row.Value("sha256"); sha != nil {
		a.dumps = a.dumps.plus(total{whole: 1})
		a.newest = a.newest.latest(instant{ns, true})
		more.dumps, more.dumped, more.newest, more.host = 1, true, ns, text(row, "host")
	}
	if more.dumped || more.hasSize {
		r := run{text(row, "vmid"), text(row, "dom")}
		a.ambiguous = a.ambiguous || isAmbiguous(r.vmid, r.dom)
		a.addRun(r, more)
		a.addDay(startOfDay(ns), dayTotals{more.dumps, more.compressed, more.badSize})
	}
	return nil
}

// setSize sets the compressed size if there is one.
func (t *runTotals) setSize(size total) {
	if size.values == 0 {
		return
	}
	compressed, ok := size.bytes()
	t.compressed, t.hasSize, t.badSize = compressed, true, !ok || size.err != nil
}

// startOfDay returns the start of a time's day in UTC; both are in nanoseconds since 1970.
func startOfDay(ns int64) int64 {
	rest := ns % int64(day)
	if rest < 0 {
		rest += int64(day)
	}
	return ns - rest
}

func (i instant) latest(other instant) instant {
	if !i.present || other.present && other.ns > i.ns {
		return other
	}
	return i
}

func (t total) plus(other total) total {
	whole, ok := sum64(t.whole, other.whole)
	if !ok {
		return total{values: t.values + other.values, err: fmt.Errorf("%w: %d + %d overflows 64 bits", errOutOfRange, t.whole, other.whole)}
	}
	err := t.err
	if err == nil {
		err = other.err
	}
	return total{whole, t.fraction + other.fraction, t.values + other.values, err}
}

// sum64 adds two numbers; false if their sum exceeds 64 bits.
func sum64(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// bytes returns a total of bytes; false if it exceeds 64 bits.
func (t total) bytes() (int64, bool) {
	const limit = 1 << 63
	fraction := math.Round(t.fraction)
	if !(fraction >= -limit && fraction < limit) { // negated, so that NaN is rejected
		return 0, false
	}
	return sum64(t.whole, int64(fraction))
}

// value returns the nearest float64. A negative total is an error: sums of InfluxDB overflow
// silently, and neither a size nor a duration is negative.
func (t total) value() (float64, error) {
	value := float64(t.whole) + t.fraction
	switch {
	case t.err != nil:
		return 0, t.err
	case math.IsInf(value, 0) || math.IsNaN(value) || value < 0:
		return 0, fmt.Errorf("%w: the total is %v", errOutOfRange, value)
	}
	return value, nil
}

// number returns a numeric column as a total of one value, or of none if it is null.
func number(row influx.Row, column string) total {
	if value, _ := row.Value(column); value == nil {
		return total{}
	}
	n, err := row.Number(column)
	switch {
	case err != nil:
		return total{values: 1, err: err}
	case n.Whole:
		return total{whole: n.Int, values: 1}
	}
	return total{fraction: n.Float, values: 1}
}

// count returns a column that holds a COUNT; null is 0.
func count(row influx.Row, column string) (int64, error) {
	if value, present := row.Value(column); value == nil && present {
		return 0, nil
	}
	n, err := row.Int64(column)
	if err == nil && n < 0 {
		err = fmt.Errorf("%w: column %q holds a negative count", errOutOfRange, column)
	}
	return n, err
}

// text returns a column of text; empty if the column is missing, or holds anything else.
func text(row influx.Row, column string) string {
	value, _ := row.Value(column)
	text, _ := value.(string)
	return text
}

// errAmbiguous: one name in a response may stand for several.
var errAmbiguous = fmt.Errorf("%w: names that are not UTF-8 can't be told apart", errOutOfRange)

// isAmbiguous reports whether one of the names may stand for several: servers replace bytes that
// are not UTF-8 with U+FFFD.
func isAmbiguous(names ...string) bool {
	for _, name := range names {
		if strings.ContainsRune(name, utf8.RuneError) {
			return true
		}
	}
	return false
}

// seconds converts nanoseconds to seconds.
func seconds(ns int64) float64 { return float64(ns/1e9) + float64(ns%1e9)/1e9 }
