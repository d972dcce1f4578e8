//go:build servers

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"memdump_exporter/influx/influxtest"
)

// modes are the ways to get at the same values: by queries over all time, as long as InfluxDB answers
// them soon, or from a history that is loaded in the time ranges that it accepts.
var modes = []struct {
	name  string
	files int // that InfluxDB reads at most for one query; 0: any number
}{{"any number of files", 0}, {"432 files", 432}, {"20 files", 20}, {"2 files", 2}}

// mostLoads is after how many scrapes a history must be loaded.
const mostLoads = 60

// TestServers compares what the exporter serves with what was written, on every InfluxDB that is
// here, and prints the number of wrong values of each situation on each server.
func TestServers(t *testing.T) {
	specs, missing, err := influxtest.Available(t.Context(), os.Stderr)
	must(t, err)
	results := &results{missing: missing}
	for _, spec := range specs {
		results.servers = append(results.servers, spec.Name)
	}
	t.Cleanup(results.print)
	for _, spec := range specs {
		t.Run(spec.Name, func(t *testing.T) {
			t.Parallel()
			server := spec.MustStart(t)
			for number, g := range groups(time.Now()) {
				t.Run(g.name, func(t *testing.T) {
					t.Parallel()
					g.run(&stage{T: t, results: results, group: number, name: g.name, spec: spec, server: server})
				})
			}
		})
	}
}

// group is situations that share a database.
type group struct {
	name string
	run  func(*stage)
}

func groups(now time.Time) (all []group) {
	rows := truthRows(now)
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if row := rows[name]; row.files == 0 { // else it is there without a limit, too
			all = append(all, group{name, func(s *stage) { s.row(name, func(v *tally) { s.truth(v, row) }) }})
		}
	}
	domains := domainRows(now)
	for _, name := range slices.Sorted(maps.Keys(domains)) {
		all = append(all, group{name, func(s *stage) { s.row(name, func(v *tally) { s.domains(v, domains[name]) }) }})
	}
	return append(all, group{"edges", edgesOfTime}, group{"commands", commands}, group{"away", away})
}

// stage is a group on one server.
type stage struct {
	*testing.T
	results *results
	group   int
	name    string
	spec    influxtest.ServerSpec
	server  *influxtest.Server
	rows    int
}

// row runs one situation, whose wrong values are counted.
func (s *stage) row(name string, run func(*tally)) {
	s.rows++
	place := [2]int{s.group, s.rows}
	s.Run(name, func(t *testing.T) {
		v := &tally{T: t}
		defer func() { s.results.add(place, name, s.spec.Name, v) }()
		run(v)
	})
}

// database is the name of one that does not exist, and is dropped when the test ends.
func (s *stage) database(t *testing.T) string {
	t.Helper()
	name := "memdump test " + s.name
	drop := func() error { return s.server.DropDatabase(context.Background(), name) }
	if s.spec.Remote() {
		_ = drop() // left by a run that was killed
	}
	t.Cleanup(func() { _ = drop() }) // where the test has made it
	return name
}

// flags are those for a database.
func (s *stage) flags(url, database string) []string {
	flags := []string{"--influx.url=" + url, "--influx.db=" + database}
	if s.server.Token != "" {
		flags = append(flags, "--influx.token="+s.server.Token)
	}
	return flags
}

// exporter runs one until the test ends.
func (s *stage) exporter(t *testing.T, url, database string, args ...string) *exporter {
	t.Helper()
	return &exporter{URL: "http://" + runHere(t, append(s.flags(url, database), args...)...)}
}

// limited is the server behind a file limit.
func (s *stage) limited(t *testing.T, files int, h *influxtest.History) *influxtest.FileLimit {
	t.Helper()
	front := influxtest.LimitFiles(t, s.server.URL, "influxdb-3.8.3", files)
	front.Holds(h)
	return front
}

// each runs an exporter in each mode.
func (s *stage) each(v *tally, h *influxtest.History, database string, args []string, run func(mode string, e *exporter)) {
	for _, mode := range modes {
		url := s.server.URL
		if mode.files > 0 {
			url = s.limited(v.T, mode.files, h).URL
		}
		run(mode.name, s.exporter(v.T, url, database, args...))
	}
}

// truth compares two scrapes in each mode: the second may use what the first has stored.
func (s *stage) truth(v *tally, row truthRow) {
	if row.deleted != nil && s.spec.Major == 3 {
		v.leave("InfluxDB 3 Core cannot delete points")
		return
	}
	database := s.database(v.T)
	want := row.store(v.T, s.server, database)
	h := row.history
	if h == nil {
		h = &influxtest.History{}
	}
	s.each(v, h, database, row.args, func(mode string, e *exporter) {
		for range 2 {
			v.scrape(mode, want, e)
		}
	})
}

func (s *stage) domains(v *tally, row domainRow) {
	database := s.database(v.T)
	h := &influxtest.History{}
	h.Add(row.points...)
	s.server.MustStore(v.T, database, h)
	s.each(v, h, database, row.args, func(mode string, e *exporter) {
		v.add(mode, len(row.want), row.differences(v.scrape(mode, row.expected(h), e)))
	})
}

// edgesOfTime is a history that is hard to cut into ranges: its metrics, its records, and what
// changes in it.
func edgesOfTime(s *stage) {
	now := time.Now()
	h := edges(rand.New(rand.NewPCG(1, 2)), now)
	database := s.database(s.T)
	s.server.MustStore(s.T, database, h)
	s.row("edges of time", func(v *tally) {
		s.each(v, h, database, nil, func(mode string, e *exporter) {
			for range 2 {
				v.scrape(mode, truth(h), e)
			}
		})
	})
	s.row("pages of records", func(v *tally) {
		s.each(v, h, database, nil, func(mode string, e *exporter) {
			for _, limit := range []int{37, 10_000} {
				v.records(fmt.Sprint(mode, ", ", limit, " a page"), v.pages(e, limit, func() {}), h.Records())
			}
		})
	})
	s.row("pages while dumps are recorded", func(v *tally) {
		e := s.exporter(v.T, s.server.URL, database)
		want, late := h.Records(), 0
		got := v.pages(e, 37, func() {
			for _, age := range []time.Duration{-100 * 24 * time.Hour, 3 * 24 * time.Hour, 70 * 24 * time.Hour} {
				late++
				p := dump("late", now.Add(time.Duration(late)-age), first(7))
				p.Fields["dump_path"] = "late"
				s.server.MustAdd(v.T, database, h, p)
			}
		})
		// One that is recorded meanwhile may be on a page, or on none.
		got = slices.DeleteFunc(got, func(r map[string]any) bool { return r["dump_path"] == "late" })
		v.records("", got, want)
	})
	s.row("late points", func(v *tally) {
		s.changes(v, h, database, []change{
			{"a dump of three hours ago", true, func() { s.server.MustAdd(v.T, database, h, dump("late", now.Add(-3*time.Hour), first(9))) }},
			{"the first telemetry of a VM", true, func() {
				s.server.MustAdd(v.T, database, h, sample("new", time.Now().Add(-time.Minute), map[string]any{"cpu": 1.5}))
			}},
			{"another name of a VM", true, func() {
				p := sample("new", time.Now(), map[string]any{"cpu": 2.5})
				p.Tags["name"] = "another"
				s.server.MustAdd(v.T, database, h, p)
			}},
			{"a dump of a month ago", false, func() { s.server.MustAdd(v.T, database, h, dump("late", now.Add(-30*24*time.Hour), first(9))) }},
		})
	})
	s.row("deleted points", func(v *tally) {
		if s.spec.Major == 3 {
			v.leave("InfluxDB 3 Core cannot delete points")
			return
		}
		remove := func(from, to time.Duration) func() {
			return func() {
				fromNs, toNs := now.Add(-from).UnixNano(), now.Add(-to).UnixNano()
				must(v.T, s.server.Delete(v.T.Context(), database, influxtest.Dumps, fromNs, toNs))
				h.Delete(influxtest.Dumps, fromNs, toNs)
				must(v.T, s.server.Verify(v.T.Context(), database, h))
			}
		}
		s.changes(v, h, database, []change{
			{"the last five hours", true, remove(5*time.Hour, 0)},
			{"two weeks", false, remove(24*24*time.Hour, 10*24*time.Hour)},
		})
	})
}

// change is something that happens to a database.
type change struct {
	what string
	soon bool // it shows at the next scrape in every mode
	do   func()
}

// changes makes changes under exporters that have scraped before, and starts others after each.
// What is older than the allowed lateness is not in a history until that is refreshed: the values are
// those from before, all of them.
func (s *stage) changes(v *tally, h *influxtest.History, database string, changes []change) {
	front := s.limited(v.T, 20, h)
	start := func(what string) map[string]*exporter {
		exporters := map[string]*exporter{"directly": s.exporter(v.T, s.server.URL, database), "by a history": s.exporter(v.T, front.URL, database)}
		for name, e := range exporters {
			v.scrape(what+", "+name, truth(h), e)
		}
		return exporters
	}
	exporters := start("before")
	for _, c := range changes {
		before := truth(h)
		c.do()
		front.Holds(h)
		for name, e := range exporters {
			want, got := truth(h), e.scrape(v.T)
			if !c.soon && len(before.differences(got)) == 0 {
				want = before
			}
			v.metrics(c.what+", "+name, want, got)
		}
		exporters = start("after " + c.what)
	}
}

// edges are dumps around the borders of what is likely to be a time range, with gaps of weeks.
func edges(rng *rand.Rand, now time.Time) *influxtest.History {
	h := &influxtest.History{}
	add := func(at time.Time) {
		h.Add(dump(fmt.Sprint("vm", rng.IntN(40)), at, map[string]any{
			"sha256": fmt.Sprint(rng.Uint64()), "duration_sec": float64(rng.IntN(800)) / 8, "gzip_size_bytes": rng.Int64N(1 << 40),
		}))
	}
	for range 250 {
		age := time.Duration(rng.Int64N(int64(150 * 24 * time.Hour)))
		if age > 30*24*time.Hour && age < 65*24*time.Hour {
			age /= 100
		}
		at := now.Add(-age)
		if rng.IntN(3) == 0 {
			at = at.Truncate(10 * time.Minute)
		}
		add(at)
	}
	for age := 24 * time.Hour; age < 150*24*time.Hour; age *= 2 {
		for _, beside := range []time.Duration{-1, 0, 1} {
			add(now.Add(-age + beside))
			add(now.Add(-age).Truncate(24 * time.Hour).Add(beside))
		}
	}
	for _, at := range []time.Time{now, now.Add(1), now.Add(time.Hour), now.Add(50 * 24 * time.Hour), time.Unix(0, 0), time.Unix(0, -1)} {
		add(at)
	}
	for i := range 30 {
		h.Add(sample(fmt.Sprint("vm", i), now.Add(-time.Duration(rng.Int64N(int64(22*time.Hour)))), map[string]any{"cpu": 1.5}))
	}
	// The tests take less than an hour.
	for i, age := range []time.Duration{23 * time.Hour, 24*time.Hour + 1, -2 * time.Hour} {
		h.Add(sample(fmt.Sprint("edge", i), now.Add(-age), map[string]any{"cpu": 1.5}))
	}
	return h
}

// commands are check, backfill, and the page, on a believable history.
func commands(s *stage) {
	now := time.Now().Truncate(time.Second)
	h := influxtest.Believable(9, now.Add(-time.Second))
	database := s.database(s.T)
	s.server.MustStore(s.T, database, h)
	s.row("page", func(v *tally) {
		wrong := pageDifferences(get(v.T, s.exporter(v.T, s.server.URL, database).URL+"/", http.StatusOK), h, fmt.Sprintf("InfluxDB %d.x, version %s", s.spec.Major, s.spec.Version))
		v.add("", 12, wrong)
	})
	s.row("check", func(v *tally) { s.check(v, h, database) })
	for _, files := range []int{0, 20} {
		name, url := "backfill", s.server.URL
		if files > 0 {
			name, url = name+" behind a file limit", s.limited(s.T, files, h).URL
		}
		s.row(name, func(v *tally) {
			file := filepath.Join(v.TempDir(), "history")
			from := now.Add(-300 * time.Hour)
			args := append(s.flags(url, database), "backfill", "--allow-recent", "--step=1h", fmt.Sprint("--from=", from.Unix()), fmt.Sprint("--to=", now.Unix()), "--output="+file)
			must(v.T, run(v.T.Context(), args, io.Discard, io.Discard))
			got, want := samples(v.T, file), backfilled(h, from, now, time.Hour, "")
			compared := 0
			for _, lines := range want {
				compared += strings.Count(lines, "\n")
			}
			v.add("", compared, lineDifferences(got, want))
			v.add("", len(got), lastDifferences(got, v.scrape("", truth(h), s.exporter(v.T, url, database)), now))
		})
	}
	s.row("records of a believable history", func(v *tally) {
		v.records("", v.pages(s.exporter(v.T, s.server.URL, database), 1000, func() {}), h.Records())
	})
}

// check compares the values of a check with the truth, and its text with that from the same
// version.
func (s *stage) check(v *tally, h *influxtest.History, database string) {
	text := checked(v.T, 0, s.flags(s.server.URL, database)...)
	var wrong []string
	known := h.Truth(time.Now().UnixNano(), 24*time.Hour)
	lines := []string{fmt.Sprintf("%d of %d monitored VMs have never been dumped: jump-host", known.NeverDumped, known.MonitoredDomains)}
	for metric, value := range truth(h).values {
		if !strings.HasPrefix(metric, "memdump_vms_") { // in words
			lines = append(lines, fmt.Sprintf(" %s %v\n", metric, value))
		}
	}
	for _, line := range lines {
		if !strings.Contains(text, line) {
			wrong = append(wrong, fmt.Sprintf("no %q in\n%s", line, text))
		}
	}
	v.add("", len(lines), wrong)

	small := &influxtest.History{}
	old, cpu := time.Unix(1.7e9, 0), map[string]any{"cpu": 1.0}
	small.Add(dump("1", old, first(5)), dump("2", old.Add(time.Second), second()), sample("1", time.Now(), cpu), sample("3", time.Now(), cpu))
	database = "memdump test golden"
	s.server.MustStore(v.T, database, small)
	v.Cleanup(func() { _ = s.server.DropDatabase(context.Background(), database) })
	text = checked(v.T, 0, s.flags(s.server.URL, database)...)
	golden := filepath.Join("testdata", "check", "servers", s.spec.Version+".txt")
	if *update {
		write(v.T, golden, text)
	}
	want, err := os.ReadFile(golden)
	if errors.Is(err, os.ErrNotExist) && (s.spec.Remote() || os.Getenv("INFLUXD")+os.Getenv("INFLUXDB3") != "") {
		v.Logf("there is no %s: a server of somebody's own needs none", golden)
		return
	}
	must(v.T, err)
	wrong = nil
	if text != string(want) {
		wrong = []string{fmt.Sprintf("%s differs (after reading the difference: -update)\n%s", golden, text)}
	}
	v.add("", strings.Count(string(want), "\n"), wrong)
}

// away has a server of its own, which demands credentials and is ended.
func away(s *stage) {
	server := s.server
	if !s.spec.Remote() {
		spec := s.spec
		spec.Auth = true
		server = spec.MustStart(s.T)
	}
	database := s.database(s.T)
	own := *s
	own.server = server
	h := &influxtest.History{}
	now := time.Now()
	h.Add(dump("1", now.Add(-48*time.Hour), first(5)), dump("2", now, second()), sample("1", now, map[string]any{"cpu": 1.5}))
	server.MustStore(s.T, database, h)
	s.row("credentials", func(v *tally) { own.credentials(v, h, database) })
	s.row("a server that is stopped, killed, halted", func(v *tally) {
		if s.spec.Remote() {
			v.leave(influxtest.ErrRemote.Error())
			return
		}
		// Built, as a user runs it, and by the environment.
		e := startExporter(v.T, []string{"INFLUX_URL=" + server.URL, "INFLUX_DB=" + database, "INFLUX_TOKEN=" + server.Token})
		v.metrics("before", truth(h), e.scrape(v.T))
		for _, o := range outages(v.T, server) {
			must(v.T, o.away())
			v.metrics(o.name, allFail(o.reason), e.scrape(v.T, timeoutHeader, "2"))
			must(v.T, o.back())
			v.metrics("after it was "+o.name, truth(h), e.scrape(v.T))
		}
	})
}

// credentials are right, wrong, none, and replaced in their file.
func (s *stage) credentials(v *tally, h *influxtest.History, database string) {
	if s.server.Token == "" {
		v.leave("it demands no credentials")
		return
	}
	wrongToken := "wrong:wrong"
	file := filepath.Join(v.TempDir(), "token")
	write(v.T, file, wrongToken)
	env := []string{"INFLUX_URL=" + s.server.URL, "INFLUX_DB=" + database}
	e := startExporter(v.T, append(env, "INFLUX_TOKEN_FILE="+file))
	v.metrics("wrong", allFail("unauthorized"), e.scrape(v.T))
	putInPlace(v.T, file, s.server.Token)
	v.metrics("replaced by the right ones", truth(h), e.scrape(v.T))
	write(v.T, file, wrongToken)
	v.metrics("overwritten by wrong ones", allFail("unauthorized"), e.scrape(v.T))
	must(v.T, os.Remove(file))
	v.metrics("without the file", allFail("credentials"), e.scrape(v.T))
	v.metrics("none", allFail("unauthorized"), startExporter(v.T, env).scrape(v.T))
	v.metrics("right", truth(h), startExporter(v.T, append(env, "INFLUX_TOKEN="+s.server.Token)).scrape(v.T))
	if s.spec.Major == 1 {
		user, password, _ := strings.Cut(s.server.Token, ":")
		write(v.T, file, password)
		e := startExporter(v.T, env, "--influx.username="+user, "--influx.password-file="+file)
		v.metrics("user and password", truth(h), e.scrape(v.T))
	}
	token, err := s.server.ReadToken(v.T.Context(), database)
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	must(v.T, err)
	e = startExporter(v.T, append(env, "INFLUX_TOKEN="+token))
	v.metrics("that may only read", truth(h), e.scrape(v.T))
	v.records("that may only read", v.pages(e, 1000, func() {}), h.Records())
}

// tally counts the values of a situation.
type tally struct {
	*testing.T
	compared, wrong int
	left            string // why nothing was compared
}

// leave says why this server does not have the situation.
func (v *tally) leave(why string) { v.left = why }

// add counts values that were compared, and reports those that are wrong.
func (v *tally) add(when string, compared int, wrong []string) {
	v.Helper()
	v.compared += compared
	v.wrong += len(wrong)
	for _, w := range wrong {
		v.Errorf("%s: %s", when, w)
	}
}

func (v *tally) metrics(when string, want expected, got families) {
	v.Helper()
	v.add(when, len(want.values)+len(metricsOf)+1, want.differences(got))
}

// scrape compares a scrape. While a history is loaded, which may take several, a metric is true or
// absent.
func (v *tally) scrape(when string, want expected, e *exporter) families {
	v.Helper()
	for n := 1; ; n++ {
		got := e.scrape(v.T)
		if got.value("memdump_up") == 1 || len(want.reasons) > 0 || n == mostLoads {
			v.metrics(when, want, got)
			return got
		}
		var wrong []string
		seen := got.gauges(knownMetrics()...)
		for metric, value := range seen {
			if right, ok := want.values[metric]; !ok || right != value {
				wrong = append(wrong, fmt.Sprintf("%s is %v while the history is loaded, want %v", metric, value, right))
			}
		}
		v.add(when, len(seen), wrong)
	}
}

func (v *tally) records(when string, got, want []map[string]any) {
	v.Helper()
	v.add(when, len(want), influxtest.RecordDifferences(got, want))
}

// pages are the records of all pages, by their links.
func (v *tally) pages(e *exporter, limit int, between func()) (all []map[string]any) {
	v.Helper()
	for path := fmt.Sprint("?limit=", limit); path != ""; {
		r := ask(nil, http.MethodGet, e.URL+"/records"+path, timeoutHeader, "30")
		if r.err != nil || r.status != http.StatusOK {
			v.Fatalf("/records%s: HTTP %d, %v\n%.300s", path, r.status, r.err, r.body)
		}
		var page struct{ Records []map[string]any }
		decoder := json.NewDecoder(strings.NewReader(r.body))
		decoder.UseNumber()
		must(v.T, decoder.Decode(&page))
		all = append(all, page.Records...)
		path, _ = strings.CutPrefix(r.header.Get("Link"), "<")
		path, _, _ = strings.Cut(path, ">")
		between()
	}
	return all
}

// results are the tallies of all situations on all servers.
type results struct {
	servers, missing []string

	mu    sync.Mutex
	rows  map[[2]int]string            // names, by place
	cells map[[2]int]map[string]string // by place and server
	wrong map[string]int               // by server
	left  []string
}

func (r *results) add(place [2]int, row, server string, v *tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rows == nil {
		r.rows, r.cells, r.wrong = map[[2]int]string{}, map[[2]int]map[string]string{}, map[string]int{}
	}
	r.rows[place] = row
	if r.cells[place] == nil {
		r.cells[place] = map[string]string{}
	}
	cell := fmt.Sprintf("%d of %d", v.wrong, v.compared)
	switch {
	case v.left != "":
		cell = "-"
		r.left = append(r.left, fmt.Sprintf("- %s, %s: %s", server, row, v.left))
	case v.Failed() && v.wrong == 0:
		cell = "FAILED"
		r.wrong[server]++
	}
	r.cells[place][server] = cell
	r.wrong[server] += v.wrong
}

// print prints a table of the numbers of wrong values.
func (r *results) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "wrong values\t"+strings.Join(r.servers, "\t"))
	line := func(name string, cell func(server string) string) {
		fmt.Fprint(w, name)
		for _, server := range r.servers {
			fmt.Fprint(w, "\t"+cell(server))
		}
		fmt.Fprintln(w)
	}
	for _, place := range slices.SortedFunc(maps.Keys(r.rows), func(a, b [2]int) int { return slices.Compare(a[:], b[:]) }) {
		line(r.rows[place], func(server string) string { return r.cells[place][server] })
	}
	line("all", func(server string) string { return fmt.Sprint(r.wrong[server]) })
	_ = w.Flush()
	for _, text := range append(slices.Sorted(slices.Values(r.left)), r.missing...) {
		fmt.Println(text)
	}
}
