package collector

import (
	"fmt"
	"math"

	"memdump_exporter/influx"
)

// queries is the table of all queries and of the metrics that are read from them. Describe,
// Collect, the tests and the check of the README range over it. To add a metric from another
// column of a response, add a row to metrics; to add one from another response, add a query and
// a recording.
var queries = []query{
	{
		name:    "dumps",
		source:  dumps,
		columns: `COUNT("sha256"::field) AS "dumps"`,
		fields:  []field{sha256},
		add:     addDumps,
		empty:   func(a *aggregate) bool { return a.dumps.whole == 0 },
		gateway: gatewayQuery{columns: `COUNT(sha256) AS dump_count`, value: gatewayCount},
		metrics: []metric{{
			name:  "memdump_dumps",
			help:  "Number of memory dumps (points with sha256).",
			value: func(a *aggregate) (float64, bool, error) { return valueOf(a.dumps.value()) },
		}},
	},
	{
		name:     dumpedVMs,
		source:   dumps,
		columns:  `LAST("sha256"::field) AS "newest"`,
		tail:     `GROUP BY "vmid","dom"`,
		fields:   []field{sha256},
		tag:      "vmid",
		add:      addRunNewest,
		empty:    func(a *aggregate) bool { return !a.hasDumpedRuntimeID() },
		maxBytes: maxRunsBytes,
		gateway:  gatewayQuery{columns: `COUNT(DISTINCT vmid) AS unique_vms`, value: gatewayCount},
		metrics: []metric{{
			name:  "memdump_dumped_vms",
			help:  "Number of libvirt runtime IDs among the memory dumps (distinct vmid); memdump_dumped_domains counts VMs.",
			value: func(a *aggregate) (float64, bool, error) { return a.distinct(len(a.dumpedRuntimeIDs())) },
		}, {
			name:  "memdump_dumped_domains",
			help:  "Number of domains (VMs) with a memory dump: distinct dom, or vmid where dom is missing.",
			value: func(a *aggregate) (float64, bool, error) { return a.distinct(len(a.dumpedDomains())) },
		}},
	},
	{
		name:     "compressed_bytes",
		source:   dumps,
		columns:  `SUM("gzip_size_bytes"::field) AS "compressed"`,
		fields:   []field{{summedFields[compressedBytes], numeric}},
		optional: true,
		add:      addSum(compressedBytes, "compressed"),
		empty:    func(a *aggregate) bool { return a.sums[compressedBytes].values == 0 },
		gateway:  gatewayQuery{columns: `SUM(gzip_size_bytes) AS total_size`, value: gatewayCount},
		metrics: []metric{{
			name:  "memdump_dumps_compressed_bytes",
			help:  "Total compressed size of the memory dumps (gzip_size_bytes) in bytes.",
			value: func(a *aggregate) (float64, bool, error) { return valueOf(a.sums[compressedBytes].value()) },
		}},
	},
	{
		name:     "raw_bytes",
		source:   dumps,
		columns:  `SUM("raw_size_bytes"::field) AS "raw"`,
		fields:   []field{{summedFields[rawBytes], numeric}},
		optional: true,
		add:      addSum(rawBytes, "raw"),
		empty:    func(a *aggregate) bool { return a.sums[rawBytes].values == 0 },
		metrics: []metric{{
			name:  "memdump_dumps_raw_bytes",
			help:  "Total uncompressed size of the memory dumps (raw_size_bytes) in bytes.",
			value: func(a *aggregate) (float64, bool, error) { return valueOf(a.sums[rawBytes].value()) },
		}},
	},
	{
		name:     "duration_mean",
		source:   dumps,
		columns:  `SUM("duration_sec"::field) AS "sum", COUNT("duration_sec"::field) AS "count", MEAN("duration_sec"::field) AS "mean"`,
		fields:   []field{{summedFields[durationSeconds], numeric}},
		optional: true,
		add:      addDurations,
		empty:    func(a *aggregate) bool { return a.sums[durationSeconds].values == 0 },
		gateway:  gatewayQuery{columns: `AVG(duration_sec) AS avg_duration`, value: gatewayNumber},
		metrics: []metric{{
			name:  "memdump_dump_duration_mean_seconds",
			help:  "Mean duration of all memory dumps (duration_sec) in seconds.",
			value: meanDuration,
		}, {
			name:  "memdump_dumps_duration_seconds",
			help:  "Total duration of all records (duration_sec) in seconds.",
			value: func(a *aggregate) (float64, bool, error) { return valueOf(a.sums[durationSeconds].value()) },
		}, {
			name: "memdump_dumps_with_duration",
			help: "Number of records with a duration (duration_sec).",
			value: func(a *aggregate) (float64, bool, error) {
				return float64(a.sums[durationSeconds].values), true, a.sums[durationSeconds].err
			},
		}},
	},
	{
		name:    "last_dump",
		source:  dumps,
		columns: `"sha256"::field AS "last"`,
		tail:    `ORDER BY time DESC LIMIT 1`,
		fields:  []field{sha256},
		add:     addNewest,
		empty:   func(a *aggregate) bool { return !a.newest.present },
		gateway: gatewayQuery{columns: `time`, tail: `ORDER BY time DESC LIMIT 1`, value: gatewayTime},
		metrics: []metric{{
			name:  "memdump_last_dump_timestamp_seconds",
			help:  "Start time of the newest memory dump in seconds since 1970.",
			value: func(a *aggregate) (float64, bool, error) { return seconds(a.newest.ns), a.newest.present, nil },
		}},
	},
	{
		name:     monitoredVMs,
		source:   telemetry,
		columns:  `*::field`,
		tail:     `GROUP BY * ORDER BY time DESC LIMIT 1`,
		tag:      "VMID",
		add:      addTelemetry,
		empty:    func(a *aggregate) bool { return len(a.vms) == 0 },
		maxBytes: maxSetBytes,
		gateway:  gatewayQuery{columns: `COUNT(DISTINCT "VMID") AS unique_vms`, value: gatewayCount},
		metrics: []metric{{
			name:  "memdump_monitored_vms",
			help:  "Number of libvirt runtime IDs in the look-back of the telemetry (distinct VMID); memdump_monitored_domains counts VMs.",
			value: func(a *aggregate) (float64, bool, error) { return a.distinct(len(a.runtimeIDs())) },
		}, {
			name:  "memdump_monitored_domains",
			help:  "Number of domains (VMs) in the look-back of the telemetry: distinct uuid, or name where uuid is missing, or VMID.",
			value: func(a *aggregate) (float64, bool, error) { return a.distinct(len(monitoredDomains(a.vms))) },
		}},
	},
}

// query is what InfluxDB is queried for, in one request or in one for each time range, and the
// metrics that are read from the response.
type query struct {
	name   string // value of the label query
	source source
	// columns and tail are the parts of the statement before FROM and after the time condition.
	columns, tail string
	// fields are the fields that the query reads. An empty response is an error if one of them
	// does not exist; if optional is set, the metrics are absent instead, without an error.
	fields   []field
	optional bool
	// tag is a tag that the query groups by, and that must exist; empty for none.
	tag string
	// maxBytes limits the body of a response; 0 means influx.DefaultMaxBytes.
	maxBytes int64
	// add adds one row of a response to an aggregate. empty reports whether an aggregate has
	// nothing that add could have added.
	add   addRow
	empty func(*aggregate) bool
	// gateway is the query for a v3-query gateway. It provides the first metric only.
	gateway gatewayQuery
	metrics []metric
}

// addRow adds one row of a response to an aggregate.
type addRow func(*aggregate, influx.Row) error

// metric is one gauge. The value function returns false if there is no value, such as the mean
// of no durations.
type metric struct {
	name, help string
	value      func(*aggregate) (float64, bool, error)
}

// The queries that coverage and the metrics per VM are computed from.
const (
	dumpedVMs    = "dumped_vms"
	monitoredVMs = "monitored_vms"
	vmTotals     = "vm_totals"
	vmPlaces     = "vm_places"
)

// maxSetBytes limits a response with a row for each VM, in bytes: enough for 10,000 VMs with 300
// fields. Such a response is read row by row and not held in memory.
const maxSetBytes = 96 << 20

// maxRunsBytes limits a response with a row for each runtime ID that was dumped, in bytes: enough
// for some 100,000 of them, which are held in memory.
const maxRunsBytes = 16 << 20

// source is one of the two kinds of measurements.
type source int

const (
	dumps     source = iota // one point for each memory dump, of all time
	telemetry               // one point for each VM every few seconds, of the look-back
	numSources
)

func (s source) String() string { return [numSources]string{"dumps", "telemetry"}[s] }

// field is a field and the kind of its values.
type field struct {
	name string
	kind fieldKind
}

type fieldKind string

const (
	textual fieldKind = "text"
	numeric fieldKind = "number"
)

var sha256 = field{"sha256", textual}

func addDumps(a *aggregate, row influx.Row) error {
	n, err := count(row, "dumps")
	a.dumps = a.dumps.plus(total{whole: n})
	return err
}

func addRunNewest(a *aggregate, row influx.Row) error {
	ns, err := row.Time()
	if err != nil {
		return err
	}
	r := run{row.Tags["vmid"], row.Tags["dom"]}
	if _, twice := a.runs[r]; twice && isAmbiguous(r.vmid, r.dom) {
		return errAmbiguous
	}
	a.addRun(r, runTotals{dumped: true, newest: ns})
	return nil
}

func addSum(i int, column string) addRow {
	return func(a *aggregate, row influx.Row) error {
		more, err := sumOf(row, column)
		a.sums[i] = a.sums[i].plus(more)
		return err
	}
}

// sumOf returns a column that holds a SUM. A negative sum is an error: it has overflowed.
func sumOf(row influx.Row, column string) (total, error) {
	if _, present := row.Value(column); !present {
		return total{}, fmt.Errorf("%w: the response has no column %q", influx.ErrMalformed, column)
	}
	sum := number(row, column)
	if sum.err == nil && (sum.whole < 0 || sum.fraction < 0) {
		sum.err = fmt.Errorf("%w: column %q holds a negative sum", errOutOfRange, column)
	}
	return sum, sum.err
}

// dumpsAndBytes returns the columns "dumps" and "compressed": the number of dumps, and their
// compressed bytes.
func dumpsAndBytes(row influx.Row) (n int64, compressed total, err error) {
	if n, err = count(row, "dumps"); err != nil {
		return 0, total{}, err
	}
	compressed, err = sumOf(row, "compressed")
	return n, compressed, err
}

func addDurations(a *aggregate, row influx.Row) error {
	n, err := count(row, "count")
	if err != nil || n == 0 { // without durations, the sum is null or 0, depending on the server
		return err
	}
	sum, err := sumOf(row, "sum")
	if err == nil && sum.values == 0 {
		err = fmt.Errorf("%w: %d durations without a sum", influx.ErrMalformed, n)
	}
	if err != nil {
		return err
	}
	// InfluxDB 1.x computes the three one after the other: a point that arrives in between is in
	// some of them only.
	if value, _ := row.Value("mean"); value != nil {
		mean, err := row.Float64("mean")
		if err != nil {
			return err
		}
		const rounding = 1e-9
		if quotient := (float64(sum.whole) + sum.fraction) / float64(n); math.Abs(quotient-mean) > rounding*math.Abs(mean) {
			return fmt.Errorf("%w: sum, count and mean do not match: a dump may have been recorded in between", errOutOfRange)
		}
	}
	sum.values = n
	a.sums[durationSeconds] = a.sums[durationSeconds].plus(sum)
	return nil
}

func addNewest(a *aggregate, row influx.Row) error {
	ns, err := row.Time()
	a.newest = a.newest.latest(instant{ns, err == nil})
	return err
}

// addTelemetry adds the newest point of a series. InfluxDB 3.8 and later send one row for the
// newest value of each field of the series.
func addTelemetry(a *aggregate, row influx.Row) error {
	ns, err := row.Time()
	if err != nil {
		return err
	}
	first := func(names ...string) string {
		for _, name := range names {
			if value := row.Tags[name]; value != "" {
				return value
			}
		}
		return ""
	}
	id := identity{vmid: row.Tags["VMID"], uuid: first("uuid", "UUID"), name: first("name", "Dom", "dom")}
	if _, twice := a.vms[id]; twice && isAmbiguous(id.vmid, id.uuid, id.name) {
		return errAmbiguous
	}
	if id.vmid != "" {
		a.addVM(id, ns)
	}
	return nil
}

func valueOf(value float64, err error) (float64, bool, error) { return value, err == nil, err }

func meanDuration(a *aggregate) (float64, bool, error) {
	sum := a.sums[durationSeconds]
	value, err := sum.value()
	return value / float64(sum.values), sum.values > 0 && err == nil, err
}
