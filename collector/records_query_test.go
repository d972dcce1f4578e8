package collector

import (
	"encoding/json"
	"math"
	"testing"
)

// TestQuery_texts: the questions to both kinds of servers, with names that need quoting.
func TestQuery_texts(t *testing.T) {
	q, err := parseQuery(`vmid=it%27s&dom=a%5Cb&from=1&to=2`, 0)
	if err != nil {
		t.Fatal(err)
	}
	columns := `"dom","vmid","sha256","duration_sec","gzip_size_bytes","ctime","mtime","atime","dump_path"`
	if got, want := q.statement(influxQL, recordsInfluxQL, 3, 4).over(`m"x`, q.span, influxQL), `SELECT `+columns+` FROM "m\"x" WHERE "vmid" = 'it\'s' AND "dom" = 'a\\b' AND time >= 1000000000 AND time < 2000000000 ORDER BY time DESC LIMIT 3 OFFSET 4`; got != want {
		t.Errorf("InfluxQL\n got %s\nwant %s", got, want)
	}
	selected := `SELECT time, dom, vmid, sha256, duration_sec, gzip_size_bytes, ctime, mtime, atime, dump_path FROM `
	if got, want := q.statement(sql, recordsSQL, 3, 4).over(`My WHERE`, q.span, sql), selected+`"My WHERE" WHERE vmid = 'it''s' AND dom = 'a\b' AND time >= '1970-01-01T00:00:01Z' AND time < '1970-01-01T00:00:02Z' ORDER BY time DESC LIMIT 3 OFFSET 4`; got != want {
		t.Errorf("SQL\n got %s\nwant %s", got, want)
	}
	if q, err = parseQuery("to=2", 0); err != nil {
		t.Fatal(err)
	}
	if got, want := q.statement(sql, recordsSQL, 1, 0).over(`m`, q.span, sql), selected+`m WHERE time < '1970-01-01T00:00:02Z' ORDER BY time DESC LIMIT 1 OFFSET 0`; got != want {
		t.Errorf("SQL\n got %s\nwant %s", got, want)
	}
}

// TestFilterTime: a time that 64 bits of nanoseconds can't hold is refused, not bent.
func TestFilterTime(t *testing.T) {
	for text, want := range map[string]int64{
		"1.5":                            1_500_000_000,
		"9223372036.854775807":           math.MaxInt64,
		"9223372036.854775808":           0,
		"9999999999":                     0,
		"1678-01-01T00:00:00Z":           -9214560000 * 1e9,
		"1677-12-31T23:59:59Z":           0,
		"2261-12-31T23:59:59.999999999Z": 9214646400*1e9 - 1,
		"2262-01-01T00:00:00Z":           0,
		"2261-02-29T00:00:00Z":           0,
	} {
		if got, err := filterTime(text); got != want || (err != nil) != (want == 0) {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
}

// TestRecord_values: a value is of the kind that is asked for, or is none.
func TestRecord_values(t *testing.T) {
	r := Record{values: make([]any, len(recordColumns))}
	r.values[0], r.values[3], r.values[4] = "d", json.Number("1.5"), json.Number("1e999")
	if text, ok := r.Text("dom"); text != "d" || !ok {
		t.Errorf("%q, %v", text, ok)
	}
	if number, ok := r.Number("duration_sec"); number != 1.5 || !ok {
		t.Errorf("%v, %v", number, ok)
	}
	for _, column := range []string{"dom", "vmid", "gzip_size_bytes"} {
		if number, ok := r.Number(column); ok {
			t.Errorf("%s is the number %v", column, number)
		}
	}
	if text, ok := r.Text("vmid"); ok {
		t.Errorf("vmid is %q", text)
	}
}
