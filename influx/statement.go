package influx

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// TimeRange is a half-open range of time, [From, To), in nanoseconds since 1970. An end that is
// equal to that of AllTime is unbounded.
type TimeRange struct{ From, To int64 }

// AllTime is unbounded. A statement has no time condition for an unbounded end.
var AllTime = TimeRange{From: math.MinInt64, To: math.MaxInt64}

// Contains reports whether a time lies in the range.
func (r TimeRange) Contains(ns int64) bool { return r.From <= ns && ns < r.To }

// Statement is a SELECT. Columns, Where and Tail are text of the dialect: constants, or made
// by Tag, Field, Ident and String.
type Statement struct {
	Columns string
	// Policy is the retention policy of the measurements; empty for the default one.
	Policy string
	From   []string // names of measurements
	Where  []string // conditions, all of which must hold
	Time   TimeRange
	Tail   string // such as GROUP BY and ORDER BY
}

// Text returns the statement in a dialect.
func (s Statement) Text(d Dialect) string {
	conditions := append([]string(nil), s.Where...)
	if s.Time.From != AllTime.From {
		conditions = append(conditions, "time >= "+d.time(s.Time.From))
	}
	if s.Time.To != AllTime.To {
		conditions = append(conditions, "time < "+d.time(s.Time.To))
	}
	text := "SELECT " + s.Columns + " FROM " + from(s.Policy, s.From, d)
	if len(conditions) > 0 {
		text += " WHERE " + strings.Join(conditions, " AND ")
	}
	if s.Tail != "" {
		text += " " + s.Tail
	}
	return text
}

func from(policy string, measurements []string, d Dialect) string {
	names := make([]string, len(measurements))
	for i, measurement := range measurements {
		names[i] = d.Ident(measurement)
		if policy != "" {
			names[i] = d.Ident(policy) + "." + names[i]
		}
	}
	return strings.Join(names, ",")
}

// ShowFieldKeys returns the InfluxQL statement that lists the fields of measurements, of any
// age, with their types: the columns fieldKey and fieldType, a series for each measurement.
func ShowFieldKeys(policy string, measurements ...string) string {
	return "SHOW FIELD KEYS FROM " + from(policy, measurements, InfluxQL)
}

// ShowTagKeys returns the InfluxQL statement that lists the tags of measurements: the column
// tagKey, a series for each measurement.
func ShowTagKeys(policy string, measurements ...string) string {
	return "SHOW TAG KEYS FROM " + from(policy, measurements, InfluxQL)
}

// Tag returns the InfluxQL expression of a tag, even if a field of the same name exists.
func Tag(name string) string { return Ident(name) + "::tag" }

// Field returns the InfluxQL expression of a field, even if a tag of the same name exists.
func Field(name string) string { return Ident(name) + "::field" }

// Dialect formats names and values in a query language.
type Dialect struct {
	// Ident quotes the name of a measurement, field or tag.
	Ident func(string) string
	// String quotes a string value.
	String func(string) string
	time   func(ns int64) string
}

var (
	// InfluxQL is the dialect of /query, on every InfluxDB.
	InfluxQL = Dialect{Ident, String, func(ns int64) string { return strconv.FormatInt(ns, 10) }}
	// SQL is the dialect of a v3-query gateway.
	SQL = Dialect{sqlIdent, sqlString, func(ns int64) string { return sqlString(time.Unix(0, ns).UTC().Format(time.RFC3339Nano)) }}
)

var (
	identEscaper  = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	stringEscaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`, "\n", `\n`)
)

// Ident quotes a measurement, field or tag for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#identifiers
func Ident(name string) string {
	return `"` + identEscaper.Replace(name) + `"`
}

// String quotes a string value for InfluxQL.
// https://docs.influxdata.com/influxdb/v1/query_language/spec/#strings
func String(text string) string {
	return `'` + stringEscaper.Replace(text) + `'`
}

var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// sqlIdent returns a plain name unquoted, as in the statements of the Python service.
func sqlIdent(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func sqlString(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
