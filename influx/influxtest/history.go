package influxtest

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The measurements that Truth reads.
const (
	Dumps     = "mem_dumps"
	Telemetry = "vm_info"
)

// Point is one point of line protocol.
type Point struct {
	Measurement string
	Tags        map[string]string // a tag with an empty value is no tag, as in InfluxDB
	Fields      map[string]any    // int, int64, float64, bool or string; at least one
	TimeNs      int64             // Unix time in nanoseconds
}

// Line is the point in line protocol, tags and fields in the order of their keys, without a newline. It panics on what
// line protocol cannot carry: no fields, other types, NaN, ±Inf, and in names and tags newlines or a backslash at the end
// or before a comma, space, equals sign or double quote.
func (p Point) Line() string {
	return line(seriesKey(p.Measurement, p.Tags), fieldsOf(p), p.TimeNs)
}

type field struct {
	key   string
	value any // int64, float64, bool or string
}

// A backslash escapes only before one of these, and stands for itself elsewhere; there is no way to escape itself. In a
// measurement the equals sign is an ordinary character.
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
		panic(fmt.Sprintf("influxtest: line protocol cannot carry the name %q", name))
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
	panic(fmt.Sprintf("influxtest: line protocol cannot carry %s = %v (%T)", f.key, f.value, f.value))
}

// History is a set of points and knows what is true of them, by no other means than counting. It merges as InfluxDB
// does: points of one measurement, tag set and time are one point, with the fields of both, the later winning. The zero
// value is empty. It is not safe for concurrent use.
type History struct {
	series map[string]*series
	points []stored // in order of arrival
	index  map[pointKey]int
	fleet  *fleet // of Believable; nil otherwise
}

type series struct {
	key         string // as in a line, which makes it unique
	measurement string
	tags        map[string]string
	id          string // of the VM: tag vmid of a dump, VMID of telemetry
}

type stored struct {
	series *series
	ns     int64
	fields []field // by key
}

type pointKey struct {
	series *series
	ns     int64
}

// Add takes the points in, in this order. It panics as Line does.
func (h *History) Add(points ...Point) {
	if h.series == nil {
		h.series = map[string]*series{}
		h.index = map[pointKey]int{}
	}
	for _, p := range points {
		key := seriesKey(p.Measurement, p.Tags)
		s := h.series[key]
		if s == nil {
			s = &series{key: key, measurement: p.Measurement, tags: maps.Clone(p.Tags)}
			switch p.Measurement {
			case Dumps:
				s.id = p.Tags["vmid"]
			case Telemetry:
				s.id = p.Tags["VMID"]
			}
			h.series[key] = s
		}
		fields := fieldsOf(p)
		line(key, fields, p.TimeNs) // for its panic here, at the caller that is wrong

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
	h.points = slices.DeleteFunc(h.points, func(p stored) bool {
		return p.series.measurement == measurement && p.ns >= fromNs && p.ns < toNs
	})
	clear(h.index)
	for i, p := range h.points {
		h.index[pointKey{p.series, p.ns}] = i
	}
}

// Lines is every point in line protocol, oldest first.
func (h *History) Lines() []string {
	byTime := slices.Clone(h.points)
	slices.SortStableFunc(byTime, func(a, b stored) int { return cmp.Compare(a.ns, b.ns) })
	lines := make([]string, len(byTime))
	for i, p := range byTime {
		lines[i] = line(p.series.key, p.fields, p.ns)
	}
	return lines
}

// Points are the points of a measurement, newest first.
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

// Truth is what the exporter's figures have to be. A dump is a point of mem_dumps with a sha256.
type Truth struct {
	Dumps           int64
	DumpedVMs       int   // distinct vmid, not empty, among the dumps
	CompressedBytes int64 // sum of gzip_size_bytes over all points of mem_dumps
	DurationSum     float64
	DurationCount   int64 // points of mem_dumps with duration_sec, dumps or not
	LastDumpNs      int64 // Unix time in nanoseconds, may be in the future; 0 and HasLast false without a dump
	HasLast         bool
	MonitoredVMs    int // distinct VMID, not empty, of vm_info within the look-back
}

// Mean is the mean duration in seconds, and false when no point has a duration.
func (t Truth) Mean() (float64, bool) {
	if t.DurationCount == 0 {
		return 0, false
	}
	return t.DurationSum / float64(t.DurationCount), true
}

// Last is the time of the newest dump in seconds, the nearest float64, and false without a dump.
func (t Truth) Last() (float64, bool) {
	seconds, _ := big.NewRat(t.LastDumpNs, 1e9).Float64()
	return seconds, t.HasLast
}

// Figures are the values of the exporter's six gauges, by query; the mean and the newest dump only where there are such.
func (t Truth) Figures() map[string]float64 {
	figures := map[string]float64{
		"dumps": float64(t.Dumps), "dumped_vms": float64(t.DumpedVMs),
		"compressed_bytes": float64(t.CompressedBytes), "monitored_vms": float64(t.MonitoredVMs),
	}
	if mean, ok := t.Mean(); ok {
		figures["duration_mean"] = mean
	}
	if last, ok := t.Last(); ok {
		figures["last_dump"] = last
	}
	return figures
}

// Truth counts all points afresh. Telemetry counts from nowNs-lookback to nowNs, both included; dumps always.
func (h *History) Truth(nowNs int64, lookback time.Duration) Truth {
	var t Truth
	dumped, monitored := map[string]bool{}, map[string]bool{}
	for _, p := range h.points {
		id := p.series.id
		switch p.series.measurement {
		case Dumps:
			if t.addDump(p) && id != "" {
				dumped[id] = true
			}
		case Telemetry:
			if id != "" && p.ns >= nowNs-lookback.Nanoseconds() && p.ns <= nowNs {
				monitored[id] = true
			}
		}
	}
	t.DumpedVMs, t.MonitoredVMs = len(dumped), len(monitored)
	return t
}

// addDump counts one point of mem_dumps and reports whether it is a dump.
func (t *Truth) addDump(p stored) bool {
	isDump := false
	for _, f := range p.fields {
		switch f.key {
		case "sha256":
			isDump = true
			t.Dumps++
			if !t.HasLast || p.ns > t.LastDumpNs {
				t.LastDumpNs, t.HasLast = p.ns, true
			}
		case "gzip_size_bytes":
			t.CompressedBytes += number[int64](f)
		case "duration_sec":
			t.DurationSum += number[float64](f)
			t.DurationCount++
		}
	}
	return isDump
}

// DumpsOfVM is what is true of the dumps of one vmid.
type DumpsOfVM struct {
	Dumps           int64
	CompressedBytes int64
	Sized           bool  // some dump has a gzip_size_bytes
	LastNs          int64 // Unix time in nanoseconds
	Dom, Host       string
}

// DumpsByVM counts the dumps of each vmid that is not empty. The size is that of all its points, dumps or not.
func (h *History) DumpsByVM() map[string]DumpsOfVM {
	all := map[string]DumpsOfVM{}
	for _, p := range h.points {
		if p.series.measurement != Dumps || p.series.id == "" {
			continue
		}
		vm := all[p.series.id]
		for _, f := range p.fields {
			switch f.key {
			case "gzip_size_bytes":
				vm.CompressedBytes += number[int64](f)
				vm.Sized = true
			case "sha256":
				if vm.Dumps == 0 || p.ns > vm.LastNs {
					vm.LastNs, vm.Dom, vm.Host = p.ns, p.series.tags["dom"], p.series.tags["host"]
				}
				vm.Dumps++
			}
		}
		all[p.series.id] = vm
	}
	for id, vm := range all {
		if vm.Dumps == 0 {
			delete(all, id)
		}
	}
	return all
}

// Monitored returns the newest dump of each VM with telemetry in the look-back, as Truth counts it, by VMID; nil where
// there is none. A dump is a VM's when its vmid is the VM's VMID or the name in the VM's newest telemetry.
func (h *History) Monitored(nowNs int64, lookback time.Duration) map[string]*DumpsOfVM {
	newest := map[string]stored{}
	for _, p := range h.points {
		id := p.series.id
		if p.series.measurement != Telemetry || id == "" || p.ns < nowNs-lookback.Nanoseconds() || p.ns > nowNs {
			continue
		}
		if known, ok := newest[id]; !ok || p.ns > known.ns {
			newest[id] = p
		}
	}
	dumped := h.DumpsByVM()
	monitored := map[string]*DumpsOfVM{}
	for id, p := range newest {
		monitored[id] = nil
		for _, vmid := range []string{id, p.series.tags["name"]} {
			if vm, ok := dumped[vmid]; ok && (monitored[id] == nil || vm.LastNs > monitored[id].LastNs) {
				monitored[id] = &vm
			}
		}
	}
	return monitored
}

func number[T int64 | float64](f field) T {
	switch v := f.value.(type) {
	case int64:
		return T(v)
	case float64:
		return T(v)
	}
	panic(fmt.Sprintf("influxtest: %s = %v is not a number", f.key, f.value))
}
