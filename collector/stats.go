package collector

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// A row is one gauge: everything about it stands here. P is its partial answer.
type row[P partial[P]] struct {
	about
	// read adds one row of an answer to a partial.
	read func(P, influx.Row) (P, error)
	// value is the gauge's value over a range; false when there is none to give. A row
	// without a gauge of its own has none.
	value func(P, ranges.Range) (float64, bool)
}

// about is what a row says and asks.
type about struct {
	query string // value of the label {query}
	name  string // name of the gauge
	help  string
	// from is the measurement that the query reads; text is complete but for its name
	// and the range of time.
	from source
	text statement
	// fields must exist in the measurement before an empty answer is believed; none
	// means that any field will do.
	fields []string
	// tag that the query groups by; empty for none.
	tag string
	// maxBytes bounds an answer; 0 means the client's default.
	maxBytes int64
	// gateway is the query where InfluxQL is not spoken.
	gateway gatewayQuery
}

// stats is the table of all gauges read from InfluxDB: Describe, Collect, the tests
// and the README's check range over it. To add a gauge, add a row and a recording.
//
// Where a gauge says what emptiness means, it is that of a measurement that exists:
// without it there is no sample at all.
var stats = []stat{
	row[total]{about{
		query:   "dumps",
		name:    "memdump_dumps",
		help:    "Memory dumps on record: points with a sha256, of all time. 0 when there is none.",
		from:    dumps,
		text:    statement{sel: `COUNT("sha256") AS "value"`},
		fields:  []string{"sha256"},
		gateway: gatewayQuery{statement{sel: `COUNT(sha256) AS dump_count`}, onlyCount},
	}, addTotal, whole},
	row[members]{about{
		query:    dumpedVMs,
		name:     "memdump_dumped_vms",
		help:     "VMs with a memory dump on record: distinct vmid among the dumps, of all time; a dump without a vmid adds none. 0 when there is none.",
		from:     dumps,
		text:     statement{sel: `LAST("sha256") AS "value"`, where: `"vmid" != ''`, tail: `GROUP BY "vmid"`},
		fields:   []string{"sha256"},
		tag:      "vmid",
		maxBytes: maxSetBytes,
		gateway:  gatewayQuery{statement{sel: `COUNT(DISTINCT vmid) AS unique_vms`}, onlyCount},
	}, addNamed("vmid"), distinct},
	row[total]{about{
		query:   "compressed_bytes",
		name:    "memdump_dumps_compressed_bytes",
		help:    "Size of the memory dumps on record after compression (gzip_size_bytes), of all time, in bytes. Exact up to 2^53 (8 PiB), beyond that the nearest float64. 0 when there is none.",
		from:    dumps,
		text:    statement{sel: `SUM("gzip_size_bytes") AS "value"`},
		fields:  []string{"gzip_size_bytes"},
		gateway: gatewayQuery{statement{sel: `SUM(gzip_size_bytes) AS total_size`}, onlyCount},
	}, addTotal, whole},
	row[mean]{about{
		query:   "duration_mean",
		name:    "memdump_dump_duration_mean_seconds",
		help:    "Mean duration of the memory dumps on record (duration_sec), of all time, in seconds. Absent when there is none.",
		from:    dumps,
		text:    statement{sel: `SUM("duration_sec") AS "sum", COUNT("duration_sec") AS "count", MEAN("duration_sec") AS "mean"`},
		fields:  []string{"duration_sec"},
		gateway: gatewayQuery{statement{sel: `AVG(duration_sec) AS avg_duration`}, onlyNumber},
	}, addMean, average},
	row[newest]{about{
		query:   "last_dump",
		name:    "memdump_last_dump_timestamp_seconds",
		help:    "Time of the newest memory dump on record (its start), in seconds since 1970. Absent when there is none.",
		from:    dumps,
		text:    statement{sel: `"sha256" AS "value"`, tail: `ORDER BY time DESC LIMIT 1`},
		fields:  []string{"sha256"},
		gateway: gatewayQuery{statement{sel: `time`, tail: `ORDER BY time DESC LIMIT 1`}, onlyTime},
	}, addNewest, latest},
	row[members]{about{
		query:    monitoredVMs,
		name:     "memdump_monitored_vms",
		help:     "Monitored VMs: distinct VMID with telemetry of any field in the look-back (--telemetry.lookback, by default the last 24 hours). 0 when there is none.",
		from:     telemetry,
		text:     statement{sel: `*`, where: `"VMID" != ''`, tail: `GROUP BY "VMID" ORDER BY time DESC LIMIT 1`},
		tag:      "VMID",
		maxBytes: maxSetBytes,
		gateway:  gatewayQuery{statement{sel: `COUNT(DISTINCT "VMID") AS unique_vms`}, onlyCount},
	}, addNamed("VMID"), distinct},
}

// The queries whose partial answers say which VMs there are.
const (
	dumpedVMs    = "dumped_vms"
	monitoredVMs = "monitored_vms"
)

// maxSetBytes bounds an answer of a row for each VM: some ten thousand VMs with
// a dozen fields. Such an answer is read row by row and not held.
const maxSetBytes = 16 << 20

// source is one of the two measurements that are read.
type source int

const (
	dumps     source = iota // one point a memory dump; of interest for all time
	telemetry               // one point every few seconds for each VM; of interest within the look-back
)

// addTotal adds the integer in "value".
func addTotal(t total, row influx.Row) (total, error) {
	n, err := count(row, "value")
	if err != nil {
		return 0, err
	}
	return t.Merge(n)
}

// count returns a column that holds a count or a sum. A negative one is an overflow that
// the server did not notice: InfluxDB's sums wrap silently.
func count(row influx.Row, column string) (total, error) {
	n, err := row.Int64(column)
	if n < 0 {
		err = fmt.Errorf("%w: the server says %d", errOutOfRange, n)
	}
	return total(n), err
}

// countIfAny is count where there may be none: of nothing, it is null or 0, as the server
// likes.
func countIfAny(row influx.Row, column string) (n total, known bool, err error) {
	if value, _ := row.Value(column); value == nil {
		return 0, false, nil
	}
	n, err = count(row, column)
	return n, true, err
}

func addMean(m mean, row influx.Row) (mean, error) {
	count, err := count(row, "count")
	if err != nil || count == 0 { // of nothing, a sum is null or 0, as the server likes
		return m, err
	}
	sum, err := row.Float64("sum")
	if err != nil {
		return m, err
	}
	// InfluxDB 1.x reads the three one after the other: a point that arrives meanwhile is
	// in some of them alone.
	if value, _ := row.Value("mean"); value != nil {
		said, err := row.Float64("mean")
		if err != nil {
			return m, err
		}
		const rounding = 1e-9
		if math.Abs(sum/float64(count)-said) > rounding*math.Abs(said) {
			return m, fmt.Errorf("%w: sum, count and mean do not agree, as while a dump is being recorded", errOutOfRange)
		}
	}
	return m.Merge(mean{sum, int64(count)})
}

func addNewest(n newest, row influx.Row) (newest, error) {
	ns, err := row.Time()
	if err != nil {
		return n, err
	}
	return n.Merge(newest{ns, true})
}

// addNamed adds the value of a tag that the query groups by.
func addNamed(tag string) func(members, influx.Row) (members, error) {
	return addPoint(tag, func(row influx.Row) string { return text(row, "name") })
}

// addPoint adds the value of a tag that the query groups by, with the time of its
// newest point and what that says beside.
func addPoint[T any](tag string, says func(influx.Row) T) func(byKey[T], influx.Row) (byKey[T], error) {
	return func(k byKey[T], row influx.Row) (byKey[T], error) {
		ns, err := row.Time()
		if err != nil {
			return nil, err
		}
		value := row.Tags[tag]
		if value == "" {
			return nil, fmt.Errorf("%w: a series without the tag %q", influx.ErrMalformed, tag)
		}
		if _, twice := k[value]; twice && strings.ContainsRune(value, utf8.RuneError) {
			return nil, fmt.Errorf("%w: several %s that are no text can't be told apart", errOutOfRange, tag)
		}
		if k == nil {
			k = make(byKey[T])
		}
		k.add(value, point[T]{ns, says(row)})
		return k, nil
	}
}

// text returns a column of text; empty where there is none.
func text(row influx.Row, column string) string {
	value, _ := row.Value(column)
	said, _ := value.(string)
	return said
}

// seconds is the nearest float64 of a time in nanoseconds.
func seconds(ns int64) float64 { return float64(ns/1e9) + float64(ns%1e9)/1e9 }

func whole(t total, _ ranges.Range) (float64, bool) { return float64(t), true }

func average(m mean, _ ranges.Range) (float64, bool) { return m.sum / float64(m.count), m.count > 0 }

func latest(n newest, _ ranges.Range) (float64, bool) { return seconds(n.ns), n.known }

func distinct(m members, r ranges.Range) (float64, bool) { return float64(m.within(r)), true }

// finite refuses what a gauge can't truly hold.
func finite(value float64) error {
	if math.IsInf(value, 0) || math.IsNaN(value) {
		return fmt.Errorf("%w: the value is %v", errOutOfRange, value)
	}
	return nil
}
