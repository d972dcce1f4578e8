package records

import (
	"testing"

	"memdump_exporter/influx"
)

// TestListing_statements: the statements for InfluxDB and for a gateway, with names that need quotes.
func TestListing_statements(t *testing.T) {
	filtered, err := parseQuery(`vmid=it%27s&dom=a%5Cb&from=1&to=2&limit=3&offset=4`, 10)
	if err != nil {
		t.Fatal(err)
	}
	newest, err := parseQuery("to=2&limit=1", 0)
	if err != nil {
		t.Fatal(err)
	}
	const (
		columns = `"dom"::tag AS "dom","vmid"::tag AS "vmid","sha256"::field AS "sha256","duration_sec"::field AS "duration_sec",` +
			`"gzip_size_bytes"::field AS "gzip_size_bytes","ctime"::field AS "ctime","mtime"::field AS "mtime",` +
			`"atime"::field AS "atime","dump_path"::field AS "dump_path"`
		where      = ` WHERE "dom"::tag = 'a\\b' AND "vmid"::tag = 'it\'s' AND time >= 1000000000 AND time < 2000000000`
		sqlColumns = "time, dom, vmid, sha256, duration_sec, gzip_size_bytes, ctime, mtime, atime, dump_path"
	)
	for name, tt := range map[string]struct {
		measurement, policy string
		query               Query
		statement           func(*listing) string
		want                string
	}{
		"records": {
			`m"x`, "", filtered, func(l *listing) string { return l.selectRecords(l.query.Time) },
			`SELECT ` + columns + ` FROM "m\"x"` + where + ` ORDER BY time DESC`,
		},
		"records of a retention policy": {
			"m", `a"b`, Query{Time: influx.AllTime}, func(l *listing) string { return l.selectRecords(l.query.Time) },
			`SELECT ` + columns + ` FROM "a\"b"."m" ORDER BY time DESC`,
		},
		"the n-th newest": {
			"m", "", filtered, func(l *listing) string { return l.selectNth(l.query.Time, 7) },
			`SELECT "sha256"::field AS "nth" FROM "m"` + where + ` ORDER BY time DESC LIMIT 1 OFFSET 6`,
		},
		"SQL": {
			"My WHERE", "", filtered, (*listing).selectSQL,
			`SELECT ` + sqlColumns + ` FROM "My WHERE" WHERE dom = 'a\b' AND vmid = 'it''s' AND ` +
				`time >= '1970-01-01T00:00:01Z' AND time < '1970-01-01T00:00:02Z' ORDER BY time DESC LIMIT 3 OFFSET 4`,
		},
		"SQL with plain names": {
			"m", "", newest, (*listing).selectSQL,
			`SELECT ` + sqlColumns + ` FROM m WHERE time < '1970-01-01T00:00:02Z' ORDER BY time DESC LIMIT 1 OFFSET 0`,
		},
	} {
		l := &listing{source: Source{Measurement: tt.measurement, Policy: tt.policy}, query: tt.query}
		if got := tt.statement(l); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
}
