package influx_test

import (
	"math"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

func TestIdent(t *testing.T) {
	if got, want := influx.Ident(`a"b\c; DROP`), `"a\"b\\c; DROP"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := influx.String("it's\\\n"), `'it\'s\\\n'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestStatement_Text: the text of a statement in both dialects.
func TestStatement_Text(t *testing.T) {
	const second = 1_762_857_000_000_000_000 // 2025-11-11T10:30:00Z
	for name, tt := range map[string]struct {
		statement     influx.Statement
		influxQL, sql string
	}{
		"all time": {
			influx.Statement{Columns: "COUNT(x)", From: []string{"mem_dumps"}, Time: influx.AllTime},
			`SELECT COUNT(x) FROM "mem_dumps"`,
			`SELECT COUNT(x) FROM mem_dumps`,
		},
		"from": {
			influx.Statement{Columns: "x", From: []string{"m"}, Time: influx.TimeRange{From: second, To: math.MaxInt64}},
			`SELECT x FROM "m" WHERE time >= 1762857000000000000`,
			`SELECT x FROM m WHERE time >= '2025-11-11T10:30:00Z'`,
		},
		"to": {
			influx.Statement{Columns: "x", From: []string{"m"}, Time: influx.TimeRange{From: math.MinInt64, To: second + 1}},
			`SELECT x FROM "m" WHERE time < 1762857000000000001`,
			`SELECT x FROM m WHERE time < '2025-11-11T10:30:00.000000001Z'`,
		},
		"the zero range is empty, not unbounded": {
			influx.Statement{Columns: "x", From: []string{"m"}},
			`SELECT x FROM "m" WHERE time >= 0 AND time < 0`,
			`SELECT x FROM m WHERE time >= '1970-01-01T00:00:00Z' AND time < '1970-01-01T00:00:00Z'`,
		},
		"everything": {
			influx.Statement{
				Columns: `"a"::field`, Policy: `r"p`, From: []string{"m", `n"1`}, Where: []string{"p = 1", "q = 2"},
				Time: influx.TimeRange{From: -1, To: 1}, Tail: "GROUP BY * LIMIT 1",
			},
			`SELECT "a"::field FROM "r\"p"."m","r\"p"."n\"1" WHERE p = 1 AND q = 2 AND time >= -1 AND time < 1 GROUP BY * LIMIT 1`,
			`SELECT "a"::field FROM "r""p".m,"r""p"."n""1" WHERE p = 1 AND q = 2 AND time >= '1969-12-31T23:59:59.999999999Z'` +
				` AND time < '1970-01-01T00:00:00.000000001Z' GROUP BY * LIMIT 1`,
		},
	} {
		where := append(make([]string, 0, 8), tt.statement.Where...)
		tt.statement.Where = where
		for range 2 { // the second text must not contain the first one's conditions
			if got := tt.statement.Text(influx.InfluxQL); got != tt.influxQL {
				t.Errorf("%s, InfluxQL:\n got %s\nwant %s", name, got, tt.influxQL)
			}
			if got := tt.statement.Text(influx.SQL); got != tt.sql {
				t.Errorf("%s, SQL:\n got %s\nwant %s", name, got, tt.sql)
			}
		}
		for i, condition := range where[len(where):cap(where)] {
			if condition != "" {
				t.Errorf("%s: Text wrote %q behind the caller's condition %d", name, condition, i)
			}
		}
	}
}

// TestTimeRange_Contains: a range contains its first and not its last nanosecond.
func TestTimeRange_Contains(t *testing.T) {
	r := influx.TimeRange{From: 10, To: 20}
	for ns, want := range map[int64]bool{math.MinInt64: false, 9: false, 10: true, 19: true, 20: false, math.MaxInt64: false} {
		if got := r.Contains(ns); got != want {
			t.Errorf("[10, 20) contains %d: %v, want %v", ns, got, want)
		}
	}
	if !influx.AllTime.Contains(math.MinInt64) {
		t.Error("all time does not contain its beginning")
	}
}

// TestNames: names in both dialects, and the statements that list them.
func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		influx.Tag(`a"b`):                    `"a\"b"::tag`,
		influx.Field(`a\b`):                  `"a\\b"::field`,
		influx.ShowFieldKeys("", "m"):        `SHOW FIELD KEYS FROM "m"`,
		influx.ShowFieldKeys("p", "m", `n"`): `SHOW FIELD KEYS FROM "p"."m","p"."n\""`,
		influx.ShowTagKeys("", "m", "n"):     `SHOW TAG KEYS FROM "m","n"`,
		influx.ShowTagKeys("autogen", "m"):   `SHOW TAG KEYS FROM "autogen"."m"`,
		influx.SQL.Ident("plain_1"):          `plain_1`,
		influx.SQL.Ident("Upper"):            `"Upper"`,
		influx.SQL.Ident("1st"):              `"1st"`,
		influx.SQL.Ident(`a"; DROP`):         `"a""; DROP"`,
		influx.SQL.Ident("é"):                `"é"`,
		influx.SQL.Ident(""):                 `""`,
		influx.SQL.String(`it's`):            `'it''s'`,
		influx.InfluxQL.Ident("plain"):       `"plain"`,
		influx.InfluxQL.String(`it's`):       `'it\'s'`,
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestStatement_recordings builds the recorded statements, whose responses on every server
// are known.
func TestStatement_recordings(t *testing.T) {
	const dumps, vmTotals = "mem_dumps", "vm_totals"
	bounded := influx.TimeRange{From: 1761129000000000000, To: 1762770600000000000}
	count := `COUNT(` + influx.Field("sha256") + `) AS "dumps"`
	statement := func(s influx.Statement) string { return s.Text(influx.InfluxQL) }
	built := map[string]string{
		"dumps":         statement(influx.Statement{Columns: count, From: []string{dumps}, Time: influx.AllTime}),
		"dumps_bounded": statement(influx.Statement{Columns: count, From: []string{dumps}, Time: bounded}),
		"policy":        statement(influx.Statement{Columns: count, Policy: "autogen", From: []string{dumps}, Time: influx.AllTime}),
		"missing_tag_filter": statement(influx.Statement{
			Columns: count, From: []string{dumps}, Where: []string{influx.Tag("nope") + " != ''"}, Time: influx.AllTime,
		}),
		"last_dump_bounded": statement(influx.Statement{
			Columns: influx.Field("sha256") + ` AS "last"`, From: []string{dumps}, Time: bounded, Tail: "ORDER BY time DESC LIMIT 1",
		}),
		"telemetry": statement(influx.Statement{
			Columns: "*::field", From: []string{"vm_info", vmTotals, "vm_metrics"}, Tail: "GROUP BY * ORDER BY time DESC LIMIT 1",
			Time: influx.TimeRange{From: 1762770600000000000, To: 1762857000000000001},
		}),
		"fields_mem_dumps": influx.ShowFieldKeys("", dumps),
		"tags_vm_totals":   influx.ShowTagKeys("", vmTotals),
	}
	for _, server := range influxtest.Servers("writers") {
		found := 0
		for _, e := range influxtest.MustLoad(t, server, "writers").Exchanges {
			text, ok := built[e.Label]
			if !ok {
				continue
			}
			found++
			if recorded := e.Request.Query["q"]; text != recorded {
				t.Errorf("%s, %s:\n built %s\nrecorded %s", server, e.Label, text, recorded)
			}
		}
		if found != len(built) {
			t.Errorf("%s: %d of %d statements are recorded", server, found, len(built))
		}
	}
}
