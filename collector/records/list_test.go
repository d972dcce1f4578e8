package records_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/collector/records"
	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// pages follows the links from a page, and returns all records and the number of pages.
func pages(t *testing.T, from string, limit int, between func()) (all []map[string]any, n int) {
	t.Helper()
	for target := from; target != ""; n++ {
		status, p, next := get(t, target)
		if status != http.StatusOK {
			t.Fatalf("%s: HTTP %d, %s", target, status, p.Error)
		}
		if len(p.Records) > limit || fmt.Sprint(len(p.Records)) != p.Count.String() {
			t.Fatalf("%s: %d records, count %s, want at most %d", target, len(p.Records), p.Count, limit)
		}
		all = append(all, p.Records...)
		target = next
		between()
	}
	return all, n
}

func nothing() {}

// TestList_fieldLimit: if LIMIT counts the values of each field, the pages still have each record of
// two writers once. One statement with LIMIT and OFFSET returns incomplete records there.
func TestList_fieldLimit(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := twoWriters(rand.New(rand.NewPCG(1, 1)), now, 403, 200)
	server.MustStore(t, "two", h)
	if err := server.Exec(t.Context(), `CREATE DATABASE "writers"`); err != nil {
		t.Fatal(err)
	}
	recording := influxtest.MustLoad(t, "influxdb-3.8.3", "writers")
	if err := server.Write(t.Context(), "writers", recording.Written); err != nil {
		t.Fatal(err)
	}
	for database, tt := range map[string]struct {
		records, limit int
		now            time.Time
	}{"two": {403, 100, now}, "writers": {43, 5, recordedNow}} {
		front := limitFields(t, server.URL)
		torn := 0
		for offset := 0; offset < tt.records; offset += tt.limit {
			torn += rowsOf(t, front.URL, database, fmt.Sprintf(`SELECT "dom","vmid","sha256","duration_sec","gzip_size_bytes","ctime",`+
				`"mtime","atime","dump_path" FROM "mem_dumps" ORDER BY time DESC LIMIT %d OFFSET %d`, tt.limit, offset))
		}
		if torn <= tt.records {
			t.Errorf("%s: LIMIT and OFFSET give %d rows of %d records: the front tears nothing", database, torn, tt.records)
		}
		before := front.requests()
		base := serve(t, newSource(newClient(t, front.URL, database), tt.now))
		all, n := pages(t, fmt.Sprint(base, "/records?limit=", tt.limit), tt.limit, nothing)
		if len(all) != tt.records {
			t.Errorf("%s: %d records, want %d (by LIMIT and OFFSET: %d)", database, len(all), tt.records, torn)
		}
		t.Logf("%s: %d records in %d pages of %d by %d requests; by LIMIT and OFFSET %d rows",
			database, len(all), n, tt.limit, front.requests()-before, torn)
		_, whole, _ := get(t, base+"/records?limit=10000")
		sameRecords(t, database, all, whole.Records)
		if database == "two" {
			sameRecords(t, database, all, h.Records())
		}
	}
}

// TestList_pages: each record is on one page, with any limit, if many records have the same time,
// with a file limit, and while dumps are recorded that are newer or older than a page.
func TestList_pages(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := twoWriters(rand.New(rand.NewPCG(5, 5)), now, 403, 120)
	server.MustStore(t, "pages", h)
	fields := limitFields(t, server.URL)
	rng := rand.New(rand.NewPCG(7, 7))
	late := 0
	for _, tt := range []struct{ files, limit, requests int }{
		{1e6, 100, 6}, {1e6, 1000, 8}, {1e6, 7, 6}, {432, 100, 20}, {20, 100, 60}, {20, 1000, 250}, {2, 37, 150},
	} {
		front := influxtest.LimitFiles(t, fields.URL, "influxdb-3.8.3", tt.files)
		front.Holds(h)
		base := serve(t, newSource(newClient(t, front.URL, "pages"), now))
		want := h.Records()
		lateBefore := late
		got, n := pages(t, fmt.Sprint(base, "/records?limit=", tt.limit), tt.limit, func() {
			var points []influxtest.Point
			for _, at := range []time.Time{now.Add(41 * 24 * time.Hour), now.Add(-time.Duration(rng.Int64N(100 * 24 * int64(time.Hour))))} {
				late++
				p := dump(rng, "late", fmt.Sprint("late", late), at.Add(time.Duration(late)))
				p.Fields["dump_path"] = fmt.Sprint("late", late)
				points = append(points, p)
			}
			server.MustAdd(t, "pages", h, points...)
			front.Holds(h)
		})
		// What was recorded since then may be on a page, once, or on none.
		for i := lateBefore + 1; i <= late; i++ {
			path := fmt.Sprint("late", i)
			if at := slices.IndexFunc(got, func(r map[string]any) bool { return r["dump_path"] == path }); at >= 0 {
				got = slices.Delete(got, at, at+1)
			}
		}
		sameRecords(t, fmt.Sprint(tt), got, want)
		requests, rejected := front.Queries()
		t.Logf("%d files, limit %d: %d pages, %d requests, %d of them rejected", tt.files, tt.limit, n, requests, rejected)
		if requests > n*tt.requests {
			t.Errorf("%d files, limit %d: %d requests for %d pages, want at most %d for one", tt.files, tt.limit, requests, n, tt.requests)
		}
	}
}

// TestList_offset: an offset skips that number of newest records, with and without filters.
func TestList_offset(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Now()
	h := twoWriters(rand.New(rand.NewPCG(6, 6)), now, 300, 300)
	server.MustStore(t, "offset", h)
	all := h.Records()
	for _, files := range []int{1e6, 20} {
		front := influxtest.LimitFiles(t, limitFields(t, server.URL).URL, "influxdb-3.8.3", files)
		front.Holds(h)
		base := serve(t, newSource(newClient(t, front.URL, "offset"), now))
		for _, filter := range []string{"", "dom=vm3", "vmid=7", "dom=vm5&vmid=4"} {
			want := slices.DeleteFunc(slices.Clone(all), func(r map[string]any) bool {
				values, _ := url.ParseQuery(filter)
				return values.Has("dom") && r["dom"] != values.Get("dom") || values.Has("vmid") && r["vmid"] != values.Get("vmid")
			})
			status, whole, _ := get(t, base+"/records?limit=10000&"+filter)
			if status != http.StatusOK {
				t.Fatalf("%d files, %q: HTTP %d, %s", files, filter, status, whole.Error)
			}
			sameRecords(t, filter, whole.Records, want)
			for _, limit := range []int{1, 3, 50} {
				for offset := 0; offset <= len(want); offset += 1 + len(want)/7 {
					_, p, _ := get(t, fmt.Sprintf("%s/records?limit=%d&offset=%d&%s", base, limit, offset, filter))
					got, want := texts(p.Records), texts(whole.Records[offset:min(len(whole.Records), offset+limit)])
					if !slices.Equal(got, want) {
						t.Errorf("%d files, %q, limit %d, offset %d:\n got %v\nwant %v", files, filter, limit, offset, got, want)
					}
				}
			}
			paged, _ := pages(t, base+"/records?limit=3&"+filter, 3, nothing)
			if filter != "" {
				sameRecords(t, filter, paged, want)
			}
		}
	}
}

// TestList_servers: on each real server that is available, each record is on one page.
func TestList_servers(t *testing.T) {
	t.Setenv("SERVERS", "cached")
	specs, _, err := influxtest.Available(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range specs {
		t.Run(spec.Name, func(t *testing.T) {
			server := spec.MustStart(t)
			now := time.Now()
			h := twoWriters(rand.New(rand.NewPCG(1, 1)), now, 403, 200)
			server.MustStore(t, "servers", h)
			transport := influx.NewTransport(nil)
			t.Cleanup(transport.CloseIdleConnections)
			config := influx.Config{URL: server.URL, Database: "servers", Transport: transport}
			if server.Token != "" {
				config.Token = func() (string, error) { return server.Token, nil }
			}
			client, err := influx.New(config)
			if err != nil {
				t.Fatal(err)
			}
			base := serve(t, newSource(client, now))
			want := h.Records()
			for _, limit := range []int{7, 100, 1000} {
				all, _ := pages(t, fmt.Sprint(base, "/records?limit=", limit), limit, nothing)
				sameRecords(t, fmt.Sprint("limit ", limit), all, want)
			}
			all, _ := pages(t, base+"/records?limit=3&dom=vm3", 3, nothing)
			sameRecords(t, "vm3", all, slices.DeleteFunc(want, func(r map[string]any) bool { return r["dom"] != "vm3" }))
		})
	}
}

// TestList_filters: by name and by time, with values that need quoting.
func TestList_filters(t *testing.T) {
	server := influxdb.Server(t)
	now := time.Unix(1762857000, 0)
	h := &influxtest.History{}
	for i, name := range []string{`it's`, `a"b`, `c\d`, `x' OR '1'='1`, `ünï`, `;DROP DATABASE filters--`, `e f,g=h`} {
		h.Add(influxtest.Point{
			Measurement: influxtest.Dumps, TimeNs: now.Add(-time.Duration(i) * time.Minute).UnixNano(),
			Tags:   map[string]string{"dom": name, "vmid": fmt.Sprint("id", i%2)},
			Fields: map[string]any{"sha256": name, "duration_sec": 1.5, "gzip_size_bytes": int64(1)<<60 + int64(i)},
		})
	}
	server.MustStore(t, "filters", h)
	base := serve(t, newSource(newClient(t, server.URL, "filters"), now))
	all := h.Records()
	for _, r := range all {
		_, got, _ := get(t, base+"/records?dom="+url.QueryEscape(r["dom"].(string)))
		sameRecords(t, fmt.Sprint("dom ", r["dom"]), got.Records, []map[string]any{r})
	}
	for query, want := range map[string][]map[string]any{
		"vmid=id1":                           {all[1], all[3], all[5]},
		"vmid=id1&dom=a%22b":                 {all[1]},
		"vmid=none":                          nil,
		"from=2025-11-11T10:28:00Z":          all[:3],
		"to=1762857000":                      all[1:],
		"to=1762857000.000000001&limit=2":    all[:2],
		"from=1762856760&to=1762856820":      {all[4]},
		"from=2025-11-11T11:26:00%2B01:00":   all[:5],
		"vmid=id0&from=1762856880&offset=1":  {all[2]},
		"limit=10000&offset=100000&vmid=id0": nil,
	} {
		status, got, _ := get(t, base+"/records?"+query)
		if status != 200 {
			t.Errorf("%s: HTTP %d, %s", query, status, got.Error)
		}
		sameRecords(t, query, got.Records, want)
	}
}

func texts(all []map[string]any) []string {
	var each []string
	for _, r := range all {
		each = append(each, influxtest.RecordText(r))
	}
	return each
}

// TestList_recordings: the records in the recorded response of each server. The list has one
// unbounded window, as the recordings have no other.
func TestList_recordings(t *testing.T) {
	const names = `"dom"::tag AS "dom","vmid"::tag AS "vmid","sha256"::field AS "sha256","duration_sec"::field AS "duration_sec",` +
		`"gzip_size_bytes"::field AS "gzip_size_bytes","ctime"::field AS "ctime","mtime"::field AS "mtime","atime"::field AS "atime",` +
		`"dump_path"::field AS "dump_path"`
	for _, tt := range []struct{ scenario, label, parameters, where string }{
		{"traps", "records_1000_0", "", ""}, {"edges", "records_1000_0", "", ""}, {"one-point", "records_1000_0", "", ""},
		{"writers", "records_limit_1000_0", "", ""},
		{
			"writers", "records_of_domain", "&dom=web&from=1761129000&to=1762770600",
			` WHERE "dom"::tag = 'web' AND time >= 1761129000000000000 AND time < 1762770600000000000`,
		},
	} {
		tested := 0
		for _, version := range []string{"1.7.11", "1.13.2", "2.7.12", "3.6.0", "3.8.3", "3.10.1"} {
			server := "influxdb-" + version
			recording, err := influxtest.Load(server, tt.scenario)
			if err != nil {
				continue // of two servers, only some scenarios are recorded
			}
			tested++
			replay := influxtest.Serve(t, recording)
			recorded := exchange(t, recording, tt.label)
			none := influxtest.Exchange{}
			none.Request, none.Response = recorded.Request, recorded.Response
			none.Request.Query = map[string]string{"db": recorded.Request.Query["db"], "epoch": "ns",
				"q": `SELECT "sha256"::field AS "nth" FROM "mem_dumps"` + tt.where + ` ORDER BY time DESC LIMIT 1 OFFSET 999`}
			none.Response.Body = noRows
			replay.Also(none)
			replay.Alias(`SELECT `+names+` FROM "mem_dumps"`+tt.where+` ORDER BY time DESC`, recorded.Request.Query["q"])
			now := time.Unix(0, math.MinInt64) // before which a window has no beginning
			if tt.where != "" {
				now = time.Unix(1761129000, 0)
			}
			base := serve(t, newSource(newClient(t, replay.URL, recorded.Request.Query["db"]), now))
			status, got, _ := get(t, base+"/records?limit=1000"+tt.parameters)
			if status != http.StatusOK {
				t.Errorf("%s, %s: HTTP %d, %s; not recorded: %q", server, tt.label, status, got.Error, replay.Unknown())
			}
			sameRecords(t, server+" "+tt.label, got.Records, recordedRows(t, recorded))
		}
		if tested < 4 {
			t.Errorf("%s of %d servers", tt.scenario, tested)
		}
	}
}

// recordedRows reads the rows of a recorded response in another way.
func recordedRows(t *testing.T, e influxtest.Exchange) (rows []map[string]any) {
	t.Helper()
	all, err := seriesOf([]byte(e.Response.Body))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		for _, values := range s.Values {
			row := map[string]any{}
			for i, column := range s.Columns {
				row[column] = values[i]
			}
			ns, _ := row["time"].(json.Number).Int64()
			row["timestamp"] = time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000Z")
			delete(row, "time")
			rows = append(rows, row)
		}
	}
	return rows
}

// measurement is a measurement in memory with a dump at each of the times, newest first.
type measurement struct {
	times []int64
	// reject returns what InfluxDB returns for a statement about a window instead of rows;
	// nothing where it accepts it. It may wait for the end of a request.
	reject   func(r *http.Request, w influx.TimeRange, rows int) string
	requests []influx.TimeRange
}

// RoundTrip makes a measurement the transport of a client.
func (m *measurement) RoundTrip(r *http.Request) (*http.Response, error) {
	statement := r.URL.Query().Get("q")
	if !strings.HasPrefix(statement, "SELECT") {
		return fake(func(string, string) (int, string, string) { return http.StatusOK, "1.8.10", noRows }).RoundTrip(r)
	}
	w := windowOf(statement)
	m.requests = append(m.requests, w)
	var rows []string
	for _, ns := range m.times {
		if w.Contains(ns) {
			rows = append(rows, fmt.Sprintf(`[%d,"hash"]`, ns))
		}
	}
	if m.reject != nil {
		if body := m.reject(r, w, len(rows)); body != "" {
			return fake(func(string, string) (int, string, string) { return http.StatusOK, "1.8.10", body }).RoundTrip(r)
		}
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
	}
	if limit := limitOf.FindStringSubmatch(statement); limit != nil {
		var offset int
		if _, err := fmt.Sscan(limit[3], &offset); err != nil {
			return nil, err
		}
		rows = rows[min(len(rows), offset):min(len(rows), offset+1)]
	}
	body := noRows
	switch {
	case len(rows) > 0 && strings.Contains(statement, "LIMIT"):
		body = nthResponse(rows[0])
	case len(rows) > 0:
		body = response(`"sha256"`, strings.Join(rows, ","))
	}
	return fake(func(string, string) (int, string, string) { return http.StatusOK, "1.8.10", body }).RoundTrip(r)
}

func (m *measurement) source(t testing.TB, now time.Time) records.Source {
	t.Helper()
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", API: influx.APIInfluxQL, Transport: m})
	if err != nil {
		t.Fatal(err)
	}
	return newSource(client, now)
}

// windowOf reads the time range of a statement.
func windowOf(statement string) influx.TimeRange {
	w := influx.AllTime
	for pattern, bound := range map[string]*int64{"time >= %d": &w.From, "time < %d": &w.To} {
		if _, after, ok := strings.Cut(statement, pattern[:len(pattern)-2]); ok {
			if _, err := fmt.Sscan(strings.Fields(after)[0], bound); err != nil {
				panic(err)
			}
		}
	}
	return w
}

// every returns n times, newest first.
func every(d time.Duration, newest time.Time, n int) []int64 {
	var times []int64
	for i := range n {
		times = append(times, newest.Add(-time.Duration(i)*d).UnixNano())
	}
	return times
}

// fileLimit is the response of InfluxDB 3.8.3 to a statement that reads too many files.
func fileLimit(t testing.TB) string {
	t.Helper()
	return exchange(t, influxtest.MustLoad(t, "influxdb-3.8.3", "file-limit"), "dumps").Response.Body
}

// TestList_windows: the number of requests of a list, by the density of the dumps and by what
// InfluxDB rejects. Each window takes two: for the time where the records begin, and for these.
func TestList_windows(t *testing.T) {
	now, rejected := time.Unix(1762857000, 0), fileLimit(t)
	week := func(_ *http.Request, w influx.TimeRange, rows int) string {
		if rows > 0 && w.From < min(w.To, now.UnixNano())-int64(7*24*time.Hour) {
			return rejected
		}
		return ""
	}
	rows := func(n int) func(*http.Request, influx.TimeRange, int) string {
		return func(r *http.Request, _ influx.TimeRange, rows int) string {
			if rows > n && !strings.Contains(r.URL.Query().Get("q"), "LIMIT") {
				return rejected
			}
			return ""
		}
	}
	known := []influx.TimeRange{{From: influx.AllTime.From, To: now.Add(-21 * 24 * time.Hour).UnixNano()}}
	for age := 21; age > 0; age -= 7 {
		known = append(known, influx.TimeRange{From: now.AddDate(0, 0, -age).UnixNano(), To: now.AddDate(0, 0, 7-age).UnixNano()})
	}
	known[len(known)-1].To = influx.AllTime.To
	const day = 24 * time.Hour
	minutes, hours, months := every(time.Minute, now, 5000), every(time.Hour, now, 500), every(30*day, now, 40)
	for name, tt := range map[string]struct {
		times         []int64
		limit, offset int64
		want          int // records
		requests      int
		oldest        time.Duration // no request is about what is older; 0 for any age
		reject        func(*http.Request, influx.TimeRange, int) string
		known         []influx.TimeRange
	}{
		"dense":                   {times: minutes, limit: 100, want: 100, requests: 2, oldest: day},
		"sparse":                  {times: months, limit: 100, want: 40, requests: 8},
		"sparse, few wanted":      {times: months, limit: 5, want: 5, requests: 6, oldest: 1058 * day},
		"none":                    {limit: 100, requests: 8},
		"old":                     {times: every(time.Minute, now.AddDate(-3, 0, 0), 500), limit: 100, want: 100, requests: 8},
		"future":                  {times: every(time.Minute, now.AddDate(1, 0, 0), 500), limit: 100, want: 100, requests: 2},
		"an offset":               {times: minutes, limit: 10, offset: 4995, want: 5, requests: 8},
		"more than a window":      {times: every(time.Second, now, 50_000), limit: 10, offset: 45_000, want: 10, requests: 6},
		"all at one time":         {times: every(0, now, 3000), limit: 1000, offset: 1500, want: 1000, requests: 2},
		"before 1970, and beyond": {times: every(1000*day, now, 100), limit: 1000, want: 100, requests: 8},
		"file limit":              {times: hours, limit: 400, want: 400, requests: 18, reject: week},
		"file limit, known":       {times: hours, limit: 400, want: 400, requests: 8, reject: week, known: known},
		"rejected for its rows":   {times: minutes, limit: 1000, want: 1000, requests: 60, reject: rows(300)},
	} {
		t.Run(name, func(t *testing.T) {
			m := &measurement{times: tt.times, reject: tt.reject}
			s := m.source(t, now)
			s.Accepted = func() []influx.TimeRange { return tt.known }
			s.Verify = func(context.Context) error { return nil }
			var got []int64
			for r, err := range s.List(t.Context(), records.Query{Limit: tt.limit, Offset: tt.offset, Time: influx.AllTime}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r.TimeNs)
			}
			want := tt.times[tt.offset : int(tt.offset)+tt.want]
			if !slices.Equal(got, want) {
				t.Errorf("%d records, want %d", len(got), len(want))
			}
			if len(m.requests) > tt.requests {
				t.Errorf("%d requests, want at most %d: %v", len(m.requests), tt.requests, m.requests)
			}
			for _, w := range m.requests {
				if tt.oldest > 0 && w.From < now.Add(-tt.oldest).UnixNano() {
					t.Errorf("a request about %v, want none of what is older than %v", w, tt.oldest)
				}
			}
		})
	}
}

// TestList_slow: if InfluxDB is too slow for a window, narrower ones follow while there is time.
func TestList_slow(t *testing.T) {
	for name, tt := range map[string]struct {
		slow time.Duration // windows wider than this never end
		err  error
	}{"narrow ones are quick": {time.Hour, nil}, "none is": {0, influx.ErrTimeout}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				m := &measurement{times: every(time.Minute, now, 500), reject: func(r *http.Request, w influx.TimeRange, _ int) string {
					if now.UnixNano()-w.From > int64(tt.slow) {
						<-r.Context().Done()
					}
					return ""
				}}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				n := 0
				var failure error
				for _, err := range m.source(t, now).List(ctx, records.Query{Limit: 10, Time: influx.AllTime}) {
					if failure = err; err == nil {
						n++
					}
				}
				if !errors.Is(failure, tt.err) || tt.err == nil && n != 10 {
					t.Errorf("%d records, %v, want %v", n, failure, tt.err)
				}
				if took := time.Since(now); took > 10*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// TestList_stops: a list ends when its reader stops.
func TestList_stops(t *testing.T) {
	now := time.Unix(1762857000, 0)
	m := &measurement{times: every(time.Minute, now, 500)}
	n := 0
	for _, err := range m.source(t, now).List(t.Context(), records.Query{Limit: 100, Time: influx.AllTime}) {
		if err != nil {
			t.Error(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if n != 3 || len(m.requests) != 2 {
		t.Errorf("%d records by %d requests", n, len(m.requests))
	}
}

// TestList_bounded: a list ends even if each window requires another one.
func TestList_bounded(t *testing.T) {
	sent := 0
	client := fake(func(_, statement string) (int, string, string) {
		sent++
		if !strings.Contains(statement, "LIMIT") {
			return http.StatusOK, "1.8.10", noRows
		}
		return http.StatusOK, "1.8.10", nthResponse(fmt.Sprintf(`[%d,"h"]`, min(windowOf(statement).To, recordedNow.UnixNano())-1))
	}).client(t, influx.APIInfluxQL)
	var failure error
	for _, err := range newSource(client, recordedNow).List(t.Context(), records.Query{Limit: 100, Time: influx.AllTime}) {
		failure = err
	}
	if !errors.Is(failure, influx.ErrTooLarge) || sent > 10_000 {
		t.Errorf("%v after %d requests", failure, sent)
	}
}

// TestList_untrue: rows that the statement cannot have selected are an error.
func TestList_untrue(t *testing.T) {
	now := time.Unix(100, 0)
	for name, tt := range map[string]struct{ nth, rows, nthBody, body string }{
		"a time that is none":        {rows: `["soon","h"]`},
		"a number beyond 64 bits":    {body: response(`"duration_sec"`, `[5,1e999]`)},
		"newer than the window":      {nth: `[50,"h"]`, rows: `[60000000000,"h"]`},
		"older than the window":      {nth: `[50000000000,"h"]`, rows: `[50000000000,"h"],[49999999999,"h"]`},
		"ascending":                  {rows: `[5,"h"],[6,"h"]`},
		"records without a column":   {body: nthResponse(`[5,"h"]`)},
		"the n-th without a time":    {nth: `["soon","h"]`},
		"the n-th out of the window": {nth: `[-90000000000000,"h"]`},
		"the n-th newer than that":   {nth: `[60000000000,"h"]`},
		"the n-th of another query":  {nth: `[5,"h"]`, rows: `[5,"h"]`, nthBody: response(`"sha256"`, `[5,"h"]`)},
	} {
		client := fake(func(_, statement string) (int, string, string) {
			switch {
			case !strings.Contains(statement, "LIMIT"):
				return http.StatusOK, "1.8.10", cmp.Or(tt.body, response(`"sha256"`, tt.rows))
			case tt.nth == "":
				return http.StatusOK, "1.8.10", noRows
			}
			return http.StatusOK, "1.8.10", cmp.Or(tt.nthBody, nthResponse(tt.nth))
		}).client(t, influx.APIInfluxQL)
		n := 0
		var failure error
		q := records.Query{Limit: 100, Time: influx.TimeRange{From: influx.AllTime.From, To: 60e9}}
		for _, err := range newSource(client, now).List(t.Context(), q) {
			if failure = err; err == nil {
				n++
			}
		}
		if !errors.Is(failure, influx.ErrMalformed) || n != 0 {
			t.Errorf("%s: %d records, %v", name, n, failure)
		}
	}
}
