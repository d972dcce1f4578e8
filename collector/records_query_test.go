package collector

import "testing"

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
