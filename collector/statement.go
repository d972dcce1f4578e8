package collector

import (
	"regexp"
	"strconv"
	"strings"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// statement is a SELECT whose parts are constants.
type statement struct {
	sel, where, tail string
}

// over returns the text for a measurement and a range of time, half-open as the range is.
func (s statement) over(measurement string, r ranges.Range, in dialect) string {
	var conditions []string
	if s.where != "" {
		conditions = append(conditions, s.where)
	}
	if r.From != ranges.All.From {
		conditions = append(conditions, "time >= "+in.time(r.From))
	}
	if r.To != ranges.All.To {
		conditions = append(conditions, "time < "+in.time(r.To))
	}
	text := "SELECT " + s.sel + " FROM " + in.name(measurement)
	if len(conditions) > 0 {
		text += " WHERE " + strings.Join(conditions, " AND ")
	}
	if s.tail != "" {
		text += " " + s.tail
	}
	return text
}

// dialect is how a language writes what is not constant.
type dialect struct {
	name func(string) string // of a measurement, field or tag
	text func(string) string // a value
	time func(ns int64) string
}

// influxQL is spoken by every InfluxDB, sql by a v3-query gateway.
var (
	influxQL = dialect{influx.Ident, influx.String, func(ns int64) string { return strconv.FormatInt(ns, 10) }}
	sql      = dialect{sqlName, sqlText, func(ns int64) string { return sqlText(time.Unix(0, ns).UTC().Format(time.RFC3339Nano)) }}
)

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// sqlName leaves a plain name as the Python service wrote it.
func sqlName(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func sqlText(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
