package influxtest

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fake is an InfluxDB 1.7.11 in memory: an http.RoundTripper that responds to the statements of the exporter like the real
// one, up to the order of series, and with status 599 to others. It never waits unless SetCost or Intercept makes it wait, so
// that time can be virtual. The zero value has no points. It is safe for concurrent use.
type Fake struct {
	mu         sync.Mutex
	history    History
	tables     map[string]*table
	files      int // number of files that a query may read; 0 for any
	rejection  Exchange
	perPoint   time.Duration
	intercept  func(*http.Request) (*http.Response, error)
	statements []string
	unknown    []string
	rejected   int
}

// table is a measurement.
type table struct {
	fields map[string]string // types by name; includes those of deleted points
	tags   map[string]bool
	points []stored // in the order of time; nil after a change
}

// Add stores points. It panics if a field gets a second type, which the real server rejects within a shard.
func (f *Fake) Add(points ...Point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables == nil {
		f.tables = make(map[string]*table)
	}
	f.history.Add(points...)
	for _, p := range points {
		t := f.tables[p.Measurement]
		if t == nil {
			t = &table{fields: make(map[string]string), tags: make(map[string]bool)}
			f.tables[p.Measurement] = t
		}
		t.points = nil
		for name, value := range p.Tags {
			if value != "" {
				t.tags[name] = true
			}
		}
		for _, field := range fieldsOf(p) {
			kind := kindOf(field.value)
			if before := cmp.Or(t.fields[field.key], kind); before != kind {
				panic(fmt.Sprintf("influxtest: the field %s is a %s and can't be a %s", field.key, before, kind))
			}
			t.fields[field.key] = kind
		}
	}
}

// Delete removes the points of a measurement with fromNs <= time < toNs.
func (f *Fake) Delete(measurement string, fromNs, toNs int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history.Delete(measurement, fromNs, toNs)
	if t := f.tables[measurement]; t != nil {
		t.points = nil
	}
}

// Read calls do with the points. do must not change them.
func (f *Fake) Read(do func(*History)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(&f.history)
}

// LimitFiles makes the Fake reject each query that reads more than limit blocks of ten minutes, like FileLimit.
func (f *Fake) LimitFiles(limit int) {
	recording, err := Load("influxdb-3.6.0", "file-limit")
	if err != nil {
		panic(err)
	}
	at := slices.IndexFunc(recording.Exchanges, func(e Exchange) bool { return e.Label == "dumps" })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files, f.rejection = limit, recording.Exchanges[at]
}

// SetCost sets the time that a query takes for each point in its time range.
func (f *Fake) SetCost(perPoint time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.perPoint = perPoint
}

// Intercept sets a function that is called with each request before the Fake responds. It may wait. The Fake responds only if
// the function returns neither a response nor an error.
func (f *Fake) Intercept(intercept func(*http.Request) (*http.Response, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.intercept = intercept
}

// Statements returns the statements since the last call, in the order of their requests.
func (f *Fake) Statements() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.statements
	f.statements = nil
	return all
}

// Rejected returns the number of queries that exceeded the limit of LimitFiles.
func (f *Fake) Rejected() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rejected
}

// Unknown returns the requests that the Fake does not support.
func (f *Fake) Unknown() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.unknown)
}

// RoundTrip responds to one request.
func (f *Fake) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Path == "/ping" {
		return FakeResponse(r, http.StatusNoContent, ""), nil
	}
	statement := r.URL.Query().Get("q")
	f.mu.Lock()
	f.statements = append(f.statements, statement)
	intercept := f.intercept
	f.mu.Unlock()
	if intercept != nil {
		if response, err := intercept(r); response != nil || err != nil {
			return response, err
		}
	}
	f.mu.Lock()
	status, body, cost := f.execute(r.URL.Path, statement)
	f.mu.Unlock()
	if cost > 0 {
		done := time.NewTimer(cost)
		defer done.Stop()
		select {
		case <-done.C:
		case <-r.Context().Done():
		}
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return FakeResponse(r, status, body), nil
}

// FakeResponse returns a response of the Fake's server.
func FakeResponse(r *http.Request, status int, body string) *http.Response {
	header := http.Header{"Content-Type": {"application/json"}, "X-Influxdb-Version": {"1.7.11"}, "X-Influxdb-Build": {"OSS"}}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}
}

// execute returns the response to a statement, and the time that it takes.
func (f *Fake) execute(path, text string) (status int, body string, cost time.Duration) {
	if s, ok := parseShow(text); ok && path == "/query" {
		return http.StatusOK, result(f.show(s)), 0
	}
	s, ok := parseSelect(text)
	if !ok || path != "/query" {
		f.unknown = append(f.unknown, path+" "+text)
		return 599, "not supported by the fake", 0
	}
	read, blocks := 0, make(map[int64]bool)
	for _, name := range s.from {
		for _, p := range f.points(name, s.lower, s.upper) {
			read++
			blocks[blockOf(p.ns)] = true
		}
	}
	if f.files > 0 && len(blocks) > f.files {
		f.rejected++
		return f.rejection.Response.Status, f.rejection.Response.Body, 0
	}
	return http.StatusOK, result(f.selectSeries(s)), time.Duration(read) * f.perPoint
}

// points returns the points of a measurement with from <= time < to, in the order of time.
func (f *Fake) points(measurement string, from, to int64) []stored {
	t := f.tables[measurement]
	if t == nil {
		return nil
	}
	if t.points == nil {
		for _, p := range f.history.points {
			if p.series.measurement == measurement {
				t.points = append(t.points, p)
			}
		}
		slices.SortStableFunc(t.points, func(a, b stored) int {
			return cmp.Or(cmp.Compare(a.ns, b.ns), cmp.Compare(a.series.key, b.series.key))
		})
	}
	at := func(ns int64) int {
		i, _ := slices.BinarySearchFunc(t.points, ns, func(p stored, ns int64) int { return cmp.Compare(p.ns, ns) })
		return i
	}
	return t.points[at(from):max(at(from), at(to))]
}

func (f *Fake) show(s showStatement) (all []fakeSeries) {
	for _, name := range slices.Sorted(slices.Values(s.from)) {
		t := f.tables[name]
		series := fakeSeries{Name: name, Columns: []string{"tagKey"}}
		if s.kind == "FIELD" {
			series.Columns = []string{"fieldKey", "fieldType"}
		}
		switch {
		case t == nil:
		case s.kind == "FIELD":
			for _, field := range slices.Sorted(maps.Keys(t.fields)) {
				series.Values = append(series.Values, []any{field, t.fields[field]})
			}
		default:
			for _, tag := range slices.Sorted(maps.Keys(t.tags)) {
				series.Values = append(series.Values, []any{tag})
			}
		}
		if series.Values != nil {
			all = append(all, series)
		}
	}
	return all
}

// selectSeries executes a SELECT.
func (f *Fake) selectSeries(s selectStatement) (all []fakeSeries) {
	kinds, tags := make(map[string]string), make(map[string]bool)
	for _, name := range s.from {
		if t := f.tables[name]; t != nil {
			for field, kind := range t.fields {
				if slices.Index(fakeKinds, kind) > slices.Index(fakeKinds, kinds[field]) {
					kinds[field] = kind
				}
			}
			maps.Copy(tags, t.tags)
		}
	}
	if s.every {
		for _, name := range slices.Sorted(maps.Keys(kinds)) {
			s.columns = append(s.columns, fakeColumn{name: name, alias: name})
		}
	}
	for i := range s.columns {
		s.columns[i].kind = kinds[s.columns[i].name]
	}
	if s.allTags {
		s.tags = slices.Sorted(maps.Keys(tags))
	}
	for _, name := range slices.Sorted(slices.Values(s.from)) {
		keys, groups := make(map[*series]string), make(map[string][]stored)
		for _, p := range f.points(name, s.lower, s.upper) {
			key, found := keys[p.series]
			if !found {
				for _, tag := range s.tags {
					key += p.series.tags[tag] + "\x00"
				}
				keys[p.series] = key
			}
			groups[key] = append(groups[key], p)
		}
		for _, key := range slices.Sorted(maps.Keys(groups)) {
			series := fakeSeries{Name: name, Columns: []string{"time"}, Values: s.rows(groups[key])}
			for _, tag := range s.tags {
				if series.Tags == nil {
					series.Tags = make(map[string]string)
				}
				series.Tags[tag] = groups[key][0].series.tags[tag]
			}
			for _, c := range s.columns {
				series.Columns = append(series.Columns, c.alias)
			}
			if len(series.Values) > 0 {
				all = append(all, series)
			}
		}
	}
	if s.descending {
		slices.Reverse(all)
	}
	return all
}
