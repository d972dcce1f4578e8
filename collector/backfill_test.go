package collector_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// backfillParts are a part of each question of a backfill, and its answer: three dumps before
// the first step at 1000 s, and four records until the last at 1030 s.
var backfillParts = map[string]string{
	`COUNT("sha256")`:     answerOf(`"value"`, `[0,3]`),
	`SUM("gzip`:           answerOf(`"value"`, `[0,30]`),
	`DESC LIMIT 1`:        answerOf(`"value"`, `[900000000000,"x"]`),
	`GROUP BY "vmid"`:     `{"results":[{"series":[{"tags":{"vmid":"a"},"columns":["time","value"],"values":[[900000000000,"x"]]}]}]}`,
	`SELECT "sha256","vm`: answerOf(`"sha256","vmid","gzip_size_bytes"`, `[1005000000000,"x","a",5],[1010000000000,"x","b",7],[1010000000001,null,"c",1],[1030000000000,"x",null,null]`),
	`SHOW FIELD KEYS`:     fieldKeys("sha256", "gzip_size_bytes"),
}

func backfill(ctx context.Context, col *collector.Collector) (steps []collector.Step, err error) {
	err = col.Backfill(ctx, collector.Backfill{From: time.Unix(1000, 0), To: time.Unix(1030, 0), Every: 10 * time.Second, Timeout: time.Second}, func(s collector.Step) error {
		steps = append(steps, s)
		return nil
	})
	return steps, err
}

var backfilled = []collector.Step{
	{At: time.Unix(1000, 0), Dumps: 3, VMs: 1, Bytes: 30, LastNs: 900e9},
	{At: time.Unix(1010, 0), Dumps: 5, VMs: 2, Bytes: 42, LastNs: 1010e9},
	{At: time.Unix(1020, 0), Dumps: 5, VMs: 2, Bytes: 43, LastNs: 1010e9},
	{At: time.Unix(1030, 0), Dumps: 6, VMs: 2, Bytes: 43, LastNs: 1030e9},
}

// TestBackfill_untrue: what fails, or can't be true, ends a backfill; it is never a step.
func TestBackfill_untrue(t *testing.T) {
	const fails, empty = `{"results":[{"error":"not executed"}]}`, `{"results":[{}]}`
	records := func(rows string) string { return answerOf(`"sha256","vmid","gzip_size_bytes"`, rows) }
	for name, tt := range map[string]struct {
		part, answer, reason string
		steps                []collector.Step
	}{
		"all is well":           {`SHOW FIELD KEYS`, fails, "", backfilled}, // which need not be asked for
		"dumps fail":            {`COUNT("sha256")`, fails, "refused", nil},
		"bytes fail":            {`SUM("gzip`, fails, "refused", nil},
		"last dump fails":       {`DESC LIMIT 1`, fails, "refused", nil},
		"VMs fail":              {`GROUP BY "vmid"`, fails, "refused", nil},
		"records fail":          {`SELECT "sha256","vm`, fails, "refused", backfilled[:1]},
		"not proven":            {`SHOW FIELD KEYS`, fails, "refused", nil},
		"dumps overflow":        {`COUNT("sha256")`, answerOf(`"value"`, `[0,9223372036854775807]`), "out_of_range", nil},
		"bytes overflow":        {`SUM("gzip`, answerOf(`"value"`, `[0,9223372036854775800]`), "out_of_range", nil},
		"overflow in a step":    {`SELECT "sha256","vm`, records(`[1005000000000,"x","a",9223372036854775807],[1006000000000,"x","a",1]`), "out_of_range", backfilled[:1]},
		"at no time":            {`SELECT "sha256","vm`, records(`["soon","x","a",1]`), "malformed", backfilled[:1]},
		"at a time before":      {`SELECT "sha256","vm`, records(`[1000000000000,"x","a",1]`), "malformed", backfilled[:1]},
		"at a time after":       {`SELECT "sha256","vm`, records(`[1030000000001,"x","a",1]`), "malformed", backfilled[:1]},
		"size that is no size":  {`SELECT "sha256","vm`, records(`[1005000000000,"x","a","1"]`), "malformed", backfilled[:1]},
		"nothing before, known": {`GROUP BY "vmid"`, empty, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, func(statement string) string {
				for part, answer := range backfillParts {
					switch {
					case !strings.Contains(statement, part):
					case name == "not proven" && part == `DESC LIMIT 1`:
						return empty
					case part == tt.part:
						return tt.answer
					default:
						return answer
					}
				}
				return fails
			})
			steps, err := backfill(t.Context(), newCollector(t, newClient(t, server, "db")))
			if tt.reason == "" && err != nil || tt.reason != "" && (err == nil || !strings.Contains(err.Error(), tt.reason)) {
				t.Errorf("%v, want %q", err, tt.reason)
			}
			switch {
			case name == "nothing before, known":
				if len(steps) != 4 || steps[0].VMs != 0 || steps[3].VMs != 2 {
					t.Errorf("%+v", steps)
				}
			case strings.HasSuffix(name, "overflow"): // at a step, or at the one before the records
				if len(steps) > 1 {
					t.Errorf("%+v", steps)
				}
			case !slices.Equal(steps, tt.steps):
				t.Errorf("%+v, want %+v", steps, tt.steps)
			}
		})
	}
}

// TestBackfill_ends: a step that can't be written ends it, and a gateway is not asked.
func TestBackfill_ends(t *testing.T) {
	full := errors.New("the disk is full")
	col := newCollector(t, newClient(t, newServer(t, func(statement string) string {
		for part, answer := range backfillParts {
			if strings.Contains(statement, part) {
				return answer
			}
		}
		return `{}`
	}), "db"))
	for want := range 4 {
		n := 0
		err := col.Backfill(t.Context(), collector.Backfill{From: time.Unix(1000, 0), To: time.Unix(1030, 0), Every: 10 * time.Second, Timeout: time.Minute}, func(collector.Step) error {
			if n++; n > want {
				return full
			}
			return nil
		})
		if !errors.Is(err, full) || n != want+1 {
			t.Errorf("%d steps, %v", n, err)
		}
	}
	var asked []string
	gateway := newCollector(t, gatewayClient(t, gatewayServer(t, &asked, func(string) string { return `{"results":[{}]}` })))
	if steps, err := backfill(t.Context(), gateway); err == nil || len(steps) > 0 || slices.Contains(asked, "/query") {
		t.Errorf("%v, %v, asked %q", steps, err, asked)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestBackfill_slow: what takes longer than a request may is asked in parts, as long as there is
// time at all.
func TestBackfill_slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows := map[int64]string{1005e9: `"x","a",5`, 1010e9: `"x","b",7`, 1010e9 + 1: `null,"c",1`, 1030e9: `"x",null,null`}
		longest, hung := int64(15*time.Second), 0
		client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			statement := r.URL.Query().Get("q")
			for part, answer := range backfillParts {
				if !strings.Contains(statement, part) {
					continue
				}
				if _, of, ok := strings.Cut(statement, `"gzip_size_bytes" FROM "mem_dumps" WHERE time >= `); ok {
					var from, to int64
					if _, err := fmt.Sscanf(of, "%d AND time < %d", &from, &to); err != nil || to-from > longest {
						hung++
						return hangs("", r)
					}
					var within []string
					for ns, row := range rows {
						if from <= ns && ns < to {
							within = append(within, fmt.Sprintf("[%d,%s]", ns, row))
						}
					}
					answer = answerOf(`"sha256","vmid","gzip_size_bytes"`, strings.Join(within, ","))
				}
				return says(http.StatusOK, answer)("", r)
			}
			return says(http.StatusNoContent, "")("", r)
		})})
		if err != nil {
			t.Fatal(err)
		}
		col := collectorAt(t, client, ranges.Auto, &clock{time.Now()})
		if steps, err := backfill(t.Context(), col); err != nil || !slices.Equal(steps, backfilled) || hung == 0 {
			t.Errorf("%d questions hung, %+v, %v", hung, steps, err)
		}
		rows[1009e9] = `"x","a",9223372036854775807`
		longest = int64(3 * time.Second)
		if steps, err := backfill(t.Context(), col); err == nil || !strings.Contains(err.Error(), "out_of_range") || len(steps) != 1 {
			t.Errorf("a step that overflows from part to part: %+v, %v", steps, err)
		}
		longest, hung = 0, 0
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if steps, err := backfill(ctx, col); err == nil || len(steps) != 1 || hung != 1 {
			t.Errorf("with no time left: %d questions hung, %+v, %v", hung, steps, err)
		}
	})
}

// TestBackfill_parts: parts of the time before that add up to more than 64 bits hold are none.
func TestBackfill_parts(t *testing.T) {
	asked := 0
	client, err := influx.New(influx.Config{URL: "http://memory", Database: "db", Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		statement := r.URL.Query().Get("q")
		if !strings.Contains(statement, `COUNT("sha256")`) {
			return says(http.StatusNoContent, "")("", r)
		}
		if asked++; asked == 1 {
			return says(http.StatusBadRequest, `{"error":"query would exceed file limit of 432"}`)("", r)
		}
		return says(http.StatusOK, answerOf(`"value"`, `[0,9223372036854775807]`))("", r)
	})})
	if err != nil {
		t.Fatal(err)
	}
	if steps, err := backfill(t.Context(), collectorAt(t, client, ranges.Auto, &clock{recordedNow})); err == nil || !strings.Contains(err.Error(), "out_of_range") || len(steps) > 0 || asked != 3 {
		t.Errorf("asked %d times: %v, %v", asked, steps, err)
	}
}
