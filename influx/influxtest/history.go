package influxtest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Point is one point of line protocol.
type Point struct {
	Measurement string
	Tags        map[string]string // InfluxDB ignores a tag with an empty value
	Fields      map[string]any    // int, int64, float64, bool or string; at least one
	TimeNs      int64             // Unix time in nanoseconds
}

// Line returns the point in line protocol without a newline. Tags and fields are in the order of their keys. Line panics if
// line protocol can't represent the point: no fields, fields of other types, NaN, ±Inf, or a name or tag with a newline, or
// with a backslash at the end or before a comma, space, equals sign or double quote.
func (p Point) Line() string {
	return line(seriesKey(p.Measurement, p.Tags), fieldsOf(p), p.TimeNs)
}

type field struct {
	key   string
	value any // int64, float64, bool or string
}

// A backslash escapes these characters. Elsewhere it is an ordinary character, which can't be escaped. In a measurement, the
// equals sign is an ordinary character, too.
var (
	measurementEscaper = strings.NewReplacer(",", `\,`, " ", `\ `)
	nameEscaper        = strings.NewReplacer(",", `\,`, " ", `\ `, "=", `\=`)
	stringEscaper      = strings.NewReplacer(`"`, `\"`, `\`, `\\`)
)

func escape(r *strings.Replacer, name string) string {
	bad := name == "" || strings.ContainsAny(name, "\n\r")
	for rest, found := name, true; found && !bad; {
		_, rest, found = strings.Cut(rest, `\`)
		bad = found && (rest == "" || strings.ContainsAny(rest[:1], `,= "`))
	}
	if bad {
		panic(fmt.Sprintf("influxtest: line protocol can't represent the name %q", name))
	}
	return r.Replace(name)
}

func seriesKey(measurement string, tags map[string]string) string {
	if strings.HasPrefix(measurement, "#") {
		panic(fmt.Sprintf("influxtest: a line of the measurement %q would be a comment", measurement))
	}
	var b strings.Builder
	b.WriteString(escape(measurementEscaper, measurement))
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		if tags[key] == "" {
			continue
		}
		b.WriteString("," + escape(nameEscaper, key) + "=" + escape(nameEscaper, tags[key]))
	}
	return b.String()
}

func fieldsOf(p Point) []field {
	if len(p.Fields) == 0 {
		panic("influxtest: a point of " + p.Measurement + " without fields")
	}
	fields := make([]field, 0, len(p.Fields))
	for _, key := range slices.Sorted(maps.Keys(p.Fields)) {
		value := p.Fields[key]
		if n, ok := value.(int); ok {
			value = int64(n)
		}
		fields = append(fields, field{key, value})
	}
	return fields
}

func line(series string, fields []field, ns int64) string {
	b := append(make([]byte, 0, len(series)+32*len(fields)+24), series...)
	for i, f := range fields {
		b = append(b, " ,"[min(i, 1)])
		b = append(b, escape(nameEscaper, f.key)...)
		b = append(b, '=')
		b = appendValue(b, f)
	}
	return string(strconv.AppendInt(append(b, ' '), ns, 10))
}

func appendValue(b []byte, f field) []byte {
	switch v := f.value.(type) {
	case int64:
		return append(strconv.AppendInt(b, v, 10), 'i')
	case bool:
		return strconv.AppendBool(b, v)
	case string:
		return append(append(append(b, '"'), stringEscaper.Replace(v)...), '"')
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			format := byte('f')
			if a := math.Abs(v); a >= 1e21 || a > 0 && a < 1e-6 {
				format = 'e'
			}
			return strconv.AppendFloat(b, v, format, -1, 64)
		}
	}
	panic(fmt.Sprintf("influxtest: line protocol can't represent %s = %v (%T)", f.key, f.value, f.value))
}

// History is a set of points. It computes the truth about them by counting alone. Like InfluxDB, it merges points of the same
// measurement, tags and time into one point with the fields of both, of which the later ones win. The zero value is empty. It
// is not safe for concurrent use.
type History struct {
	series map[string]*series
	points []stored // in order of arrival
	index  map[pointKey]int
	// written are the fields of all points of mem_dumps, including deleted ones: InfluxDB keeps them in the schema.
	written map[string]bool
	world   *World // for a history of Believable; otherwise nil
}

type series struct {
	key         string // unique: measurement and tags as in a line
	measurement string
	tags        map[string]string
	domain      string // domain of the dumps; may be empty
}

type stored struct {
	series *series
	ns     int64
	fields []field // in the order of their keys
}

type pointKey struct {
	series *series
	ns     int64
}

// Add adds points, in this order. It panics if Line does.
func (h *History) Add(points ...Point) {
	if h.series == nil {
		h.series = map[string]*series{}
		h.index = map[pointKey]int{}
		h.written = map[string]bool{}
	}
	for _, p := range points {
		key := seriesKey(p.Measurement, p.Tags)
		s := h.series[key]
		if s == nil {
			s = &series{key, p.Measurement, maps.Clone(p.Tags), cmp.Or(p.Tags["dom"], p.Tags["vmid"])}
			h.series[key] = s
		}
		fields := fieldsOf(p)
		line(key, fields, p.TimeNs) // panics here, in the call with the wrong point
		if p.Measurement == Dumps {
			for _, f := range fields {
				h.written[f.key] = true
			}
		}

		at := pointKey{s, p.TimeNs}
		if i, ok := h.index[at]; ok {
			h.points[i].fields = merge(h.points[i].fields, fields)
			continue
		}
		h.index[at] = len(h.points)
		h.points = append(h.points, stored{s, p.TimeNs, fields})
	}
}

func merge(old, later []field) []field {
	for _, f := range later {
		i, found := slices.BinarySearchFunc(old, f.key, func(o field, key string) int { return cmp.Compare(o.key, key) })
		if found {
			old[i] = f
		} else {
			old = slices.Insert(old, i, f)
		}
	}
	return old
}

// Delete removes the points of a measurement with fromNs <= time < toNs.
func (h *History) Delete(measurement string, fromNs, toNs int64) {
	h.delete(func(p stored) bool { return p.series.measurement == measurement && p.ns >= fromNs && p.ns < toNs })
}

// DeleteTelemetry removes the telemetry before a time, of all measurements.
func (h *History) DeleteTelemetry(beforeNs int64) {
	h.delete(func(p stored) bool { return p.series.measurement != Dumps && p.ns < beforeNs })
}

func (h *History) delete(is func(stored) bool) {
	h.points = slices.DeleteFunc(h.points, is)
	clear(h.index)
	for i, p := range h.points {
		h.index[pointKey{p.series, p.ns}] = i
	}
}

// Lines returns all points in line protocol, oldest first.
func (h *History) Lines() []string {
	byTime := slices.Clone(h.points)
	slices.SortStableFunc(byTime, func(a, b stored) int { return cmp.Compare(a.ns, b.ns) })
	lines := make([]string, len(byTime))
	for i, p := range byTime {
		lines[i] = line(p.series.key, p.fields, p.ns)
	}
	return lines
}

// Points returns the points of a measurement, newest first.
func (h *History) Points(measurement string) []Point {
	var points []Point
	for _, p := range h.points {
		if p.series.measurement != measurement {
			continue
		}
		fields := map[string]any{}
		for _, f := range p.fields {
			fields[f.key] = f.value
		}
		points = append(points, Point{Measurement: measurement, Tags: maps.Clone(p.series.tags), Fields: fields, TimeNs: p.ns})
	}
	slices.SortStableFunc(points, func(a, b Point) int { return cmp.Compare(b.TimeNs, a.TimeNs) })
	return points
}
