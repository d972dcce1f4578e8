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

// aggregate is what the rows of a time range add up to. Aggregates of ranges that do not
// overlap merge into that of both. A request fills the parts that its columns name; the others
// stay zero.
type aggregate struct {
	dumps      total // points with sha256
	sums       [numSums]total
	newest     instant // of the newest dump
	runs       map[run]runTotals
	days       map[int64]dayTotals // by start of the day in UTC, in nanoseconds since 1970
	vms        map[identity]int64  // telemetry: newest time, in nanoseconds since 1970
	dumpedRuns int                 // the number of runs with a dump
	rows       int64               // of the responses
	// unclear says that a name among the runs may stand for several.
	unclear bool
}

// The numeric fields that are summed.
const (
	compressedBytes = iota
	rawBytes
	durationSeconds
	numSums
)

// summedFields are the names of the fields, by their constants.
var summedFields = [numSums]string{"gzip_size_bytes", "raw_size_bytes", "duration_sec"}

// total is a sum or a count. Whole numbers add up exactly.
type total struct {
	whole    int64
	fraction float64 // the sum of the numbers that are not whole, or beyond 64 bits
	values   int64   // how many numbers were added up
	err      error   // why the total can't be trusted
}

// instant is a time that may be missing, in nanoseconds since 1970.
type instant struct {
	ns    int64
	known bool
}

// run identifies a run of a VM on a host, as a dump names it. Either may be empty.
type run struct{ vmid, dom string }

// domain returns the domain that dumps of the run belong to; empty where they name none.
func (r run) domain() string {
	if r.dom != "" {
		return r.dom
	}
	return r.vmid
}

// runTotals are the dumps of one run.
type runTotals struct {
	dumps, compressed int64
	sized             bool // some dump has a compressed size
	spoiled           bool // compressed is not true: a size was unreadable, or 64 bits do not hold it
	dumped            bool // there is a dump, newest is its time
	newest            int64
	host              string // of the newest dump; may be empty
}

type dayTotals struct {
	dumps, compressed int64
	spoiled           bool // compressed is not true: a size was unreadable, or 64 bits do not hold it
}

// identity is what a telemetry series tells of a VM. All but the runtime ID may be empty.
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
	a.unclear = a.unclear || other.unclear
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

// addSizes adds the numbers of another run, or of another time range.
func (t *runTotals) addSizes(more runTotals) {
	compressed, ok := sum64(t.compressed, more.compressed)
	t.dumps += more.dumps
	t.compressed = compressed
	t.sized = t.sized || more.sized
	t.spoiled = t.spoiled || more.spoiled || !ok
}

func (a *aggregate) addDay(start int64, more dayTotals) {
	if a.days == nil {
		a.days = make(map[int64]dayTotals)
	}
	totals := a.days[start]
	compressed, ok := sum64(totals.compressed, more.compressed)
	a.days[start] = dayTotals{totals.dumps + more.dumps, compressed, totals.spoiled || more.spoiled || !ok}
}

func (a *aggregate) addVM(id identity, ns int64) {
	if a.vms == nil {
		a.vms = make(map[identity]int64)
	}
	if known, ok := a.vms[id]; !ok || ns > known {
		a.vms[id] = ns
	}
}

// addRecord adds one point of the dumps' measurement. Without sha256 it is no dump, though its
// numbers count, as in a SUM over all points. A field that can't be read spoils its own total
// alone.
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
	if more.dumped || more.sized {
		r := run{text(row, "vmid"), text(row, "dom")}
		a.unclear = a.unclear || isUnclear(r.vmid, r.dom)
		a.addRun(r, more)
		a.addDay(startOfDay(ns), dayTotals{more.dumps, more.compressed, more.spoiled})
	}
	return nil
}

// setSize sets the compressed size, where there is one.
func (t *runTotals) setSize(size total) {
	if size.values == 0 {
		return
	}
	compressed, ok := size.bytes()
	t.compressed, t.sized, t.spoiled = compressed, true, !ok || size.err != nil
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
	if !i.known || other.known && other.ns > i.ns {
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

// sum64 adds two numbers; false when 64 bits do not hold their sum.
func sum64(a, b int64) (int64, bool) {
	sum := a + b
	return sum, (sum > a) == (b > 0)
}

// bytes returns a total of bytes; false when 64 bits do not hold it.
func (t total) bytes() (int64, bool) {
	const limit = 1 << 63
	fraction := math.Round(t.fraction)
	if !(fraction >= -limit && fraction < limit) { // NaN, too
		return 0, false
	}
	return sum64(t.whole, int64(fraction))
}

// value returns the nearest float64. A negative total is an overflow that the server did not
// notice, as sums of InfluxDB wrap silently, or of numbers that can't be true.
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

// number returns a numeric column as a total of one number, or of none where it is null.
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

// count returns a column that holds a COUNT: 0 where the server wrote null.
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

// text returns a column of text; empty where there is none.
func text(row influx.Row, column string) string {
	value, _ := row.Value(column)
	text, _ := value.(string)
	return text
}

// errUnclear says that names can't be told apart.
var errUnclear = fmt.Errorf("%w: names that are not UTF-8 can't be told apart", errOutOfRange)

// isUnclear reports whether a name is not UTF-8: a server replaces what it can't encode, so
// that two names may have become one.
func isUnclear(names ...string) bool {
	for _, name := range names {
		if strings.ContainsRune(name, utf8.RuneError) {
			return true
		}
	}
	return false
}

// seconds is the nearest float64 of a time in nanoseconds.
func seconds(ns int64) float64 { return float64(ns/1e9) + float64(ns%1e9)/1e9 }
