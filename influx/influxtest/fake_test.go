package influxtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeForms are the forms of statements that the exporter sends, without their time ranges.
var fakeForms = []string{
	`SELECT COUNT("sha256"::field) AS "dumps" FROM "mem_dumps"%s`,
	`SELECT LAST("sha256"::field) AS "newest" FROM "mem_dumps"%s GROUP BY "vmid","dom"`,
	`SELECT SUM("gzip_size_bytes"::field) AS "compressed" FROM "mem_dumps"%s`,
	`SELECT SUM("raw_size_bytes"::field) AS "raw" FROM "mem_dumps"%s`,
	`SELECT SUM("duration_sec"::field) AS "sum", COUNT("duration_sec"::field) AS "count", ` +
		`MEAN("duration_sec"::field) AS "mean" FROM "mem_dumps"%s`,
	`SELECT "sha256"::field AS "last" FROM "mem_dumps"%s ORDER BY time DESC LIMIT 1`,
	`SELECT COUNT("sha256"::field) AS "dumps", SUM("gzip_size_bytes"::field) AS "compressed", SUM("raw_size_bytes"::field) AS "raw", ` +
		`SUM("duration_sec"::field) AS "seconds", COUNT("duration_sec"::field) AS "timed" FROM "mem_dumps"%s GROUP BY "vmid","dom"`,
	`SELECT "sha256"::field AS "sha256", "host"::tag AS "host" FROM "mem_dumps"%s GROUP BY "vmid","dom" ORDER BY time DESC LIMIT 1`,
	`SELECT "dom"::tag AS "dom","vmid"::tag AS "vmid","host"::tag AS "host","sha256"::field AS "sha256",` +
		`"duration_sec"::field AS "duration_sec","gzip_size_bytes"::field AS "gzip_size_bytes",` +
		`"raw_size_bytes"::field AS "raw_size_bytes" FROM "mem_dumps"%s`,
	`SELECT "sha256"::field AS "nth" FROM "mem_dumps"%s ORDER BY time DESC LIMIT 1 OFFSET 7`,
	`SELECT "sha256"::field,"dom"::tag FROM "autogen"."mem_dumps"%s ORDER BY time DESC LIMIT 7`,
	`SELECT COUNT("nothing"::field) AS "dumps" FROM "mem_dumps"%s`,
	`SELECT COUNT("sha256"::field) AS "dumps" FROM "nothing"%s`,
	`SELECT LAST("sha256"::field) AS "newest" FROM "mem_dumps"%s GROUP BY "nothing"`,
	`SELECT *::field FROM "vm_info","vm_totals","vm_metrics"%s GROUP BY * ORDER BY time DESC LIMIT 1`,
	`SELECT *::field FROM "nothing"%s GROUP BY * ORDER BY time DESC LIMIT 1`,
}

// TestFake: the rows of a real InfluxDB 1.7.11, over any time range.
func TestFake(t *testing.T) {
	now := worldStart
	h := Believable(5, now)
	server := MustStart(t)
	server.MustStore(t, "fake", h)
	fake := &Fake{}
	for _, measurement := range []string{Dumps, "vm_info", Telemetry, OlderTelemetry, "vm_devices"} {
		fake.Add(h.Points(measurement)...)
	}
	at := func(age time.Duration) int64 { return now.Add(-age).UnixNano() }
	newest := h.Points(Dumps)[0].TimeNs
	var statements []string
	for _, where := range []string{
		"",
		fmt.Sprintf(` WHERE time >= %d AND time < %d`, at(20*day), at(3*day)),
		fmt.Sprintf(` WHERE time >= %d AND time < %d`, at(day), at(0)+1),
		fmt.Sprintf(` WHERE time < %d`, at(30*day)),
		fmt.Sprintf(` WHERE time >= %d`, at(day)),
		fmt.Sprintf(` WHERE time < %d`, newest),
		fmt.Sprintf(` WHERE time >= %d`, newest),
		fmt.Sprintf(` WHERE time >= %d AND time < %d`, at(400*day), at(399*day)),
		fmt.Sprintf(` WHERE time >= %d AND time < %d`, at(3*day), at(4*day)),
	} {
		for _, form := range fakeForms {
			statements = append(statements, fmt.Sprintf(form, where))
		}
		if strings.Contains(where, ">=") {
			statements = append(statements, fmt.Sprintf(`SELECT COUNT("sha256"::field) AS "dumps", SUM("gzip_size_bytes"::field) AS "compressed" `+
				`FROM "mem_dumps"%s GROUP BY time(1d) fill(none)`, where))
		}
	}
	statements = append(statements, `SHOW FIELD KEYS FROM "mem_dumps"`, `SHOW TAG KEYS FROM "mem_dumps"`, `SHOW FIELD KEYS FROM "nothing"`,
		`SHOW FIELD KEYS FROM "vm_info","vm_totals"`, `SHOW TAG KEYS FROM "autogen"."vm_totals","vm_metrics"`, `SHOW TAG KEYS FROM "nothing"`)
	rows := 0
	for _, statement := range statements {
		want, err := server.Query(t.Context(), "fake", statement)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		got := fakeRows(t, fake, statement)
		bySeries(got)
		bySeries(want)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %d rows %.2000v\nwant %d rows %.2000v", statement, len(got), got, len(want), want)
		}
		rows += len(want)
	}
	if unknown := fake.Unknown(); len(unknown) > 0 {
		t.Errorf("unknown: %q", unknown)
	}
	t.Logf("%d statements, %d rows", len(statements), rows)
}

// bySeries sorts rows as the series may come in any order.
func bySeries(rows []ResponseRow) {
	key := func(r ResponseRow) string {
		text := r.Name
		for _, tag := range slices.Sorted(maps.Keys(r.Tags)) {
			text += "\x00" + tag + "\x00" + r.Tags[tag]
		}
		return text
	}
	slices.SortStableFunc(rows, func(a, b ResponseRow) int { return cmp.Compare(key(a), key(b)) })
}

func fakeRows(t *testing.T, fake *Fake, statement string) []ResponseRow {
	t.Helper()
	response, err := fake.RoundTrip(fakeRequest(t.Context(), statement))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("HTTP status %d: %s", response.StatusCode, body)
	}
	rows, err := ReadResponse(body)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func fakeRequest(ctx context.Context, statement string) *http.Request {
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://memory/query?"+url.Values{"q": {statement}}.Encode(), nil)
	return request
}

// TestFake_rejects: what it does not support, and what an InfluxDB 3 with a file limit rejects.
func TestFake_rejects(t *testing.T) {
	fake := &Fake{}
	for i := range 4 {
		fake.Add(Point{Dumps, tags{"dom": "a"}, fields{"sha256": "x"}, int64(i) * fileBlock})
	}
	fake.LimitFiles(3)
	for statement, want := range map[string]int{
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps"`:                                          http.StatusInternalServerError,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 1`:                          http.StatusOK,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time < 1800000000000`:               http.StatusOK,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time < 1800000000001`:               http.StatusInternalServerError,
		`SELECT MEDIAN("sha256"::field) AS "n" FROM "mem_dumps"`:                                         599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE "dom"::tag = 'a'`:                   599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" GROUP BY time(1h) fill(none)`:             599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps"; DROP MEASUREMENT "mem_dumps"`:            599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 99999999999999999999`:       599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 1 AND time > 5`:             599,
		`SELECT COUNT("sha256"::field) AS "n", "dom" FROM "mem_dumps" WHERE time >= 1 AND time < 5`:      599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 5 ORDER BY time ASC`:        599,
		`SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 5 ORDER BY time DESC LIMIT`: 599,
	} {
		response, err := fake.RoundTrip(fakeRequest(t.Context(), statement))
		if err != nil || response.StatusCode != want {
			t.Errorf("%s: status %d, %v, want %d", statement, response.StatusCode, err, want)
		}
	}
	if got := len(fake.Statements()); got != 13 {
		t.Errorf("%d statements, want 13", got)
	}
	if got := fake.Rejected(); got != 2 {
		t.Errorf("%d rejected, want 2", got)
	}
	if got := len(fake.Unknown()); got != 9 {
		t.Errorf("%d unknown, want 9", got)
	}
}

// TestFake_waits: a response takes its cost, or until the client leaves, and passes the intercept first.
func TestFake_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := &Fake{}
		for i := range 5 {
			fake.Add(Point{Dumps, tags{"dom": "a"}, fields{"sha256": "x"}, int64(i)})
		}
		fake.SetCost(time.Second)
		const statement = `SELECT COUNT("sha256"::field) AS "n" FROM "mem_dumps" WHERE time >= 2`
		begin := time.Now()
		fakeRows(t, fake, statement)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("three points take %v, want 3s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := fake.RoundTrip(fakeRequest(ctx, statement)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after a second: %v, want %v", err, context.DeadlineExceeded)
		}
		broken := errors.New("broken")
		fake.Intercept(func(*http.Request) (*http.Response, error) { return nil, broken })
		if _, err := fake.RoundTrip(fakeRequest(t.Context(), statement)); !errors.Is(err, broken) {
			t.Errorf("intercepted: %v, want %v", err, broken)
		}
	})
}
