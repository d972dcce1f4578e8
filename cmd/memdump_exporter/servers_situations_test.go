//go:build servers

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"memdump_exporter/influx/influxtest"
)

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
				must(v.T, s.server.Delete(v.Context(), database, influxtest.Dumps, fromNs, toNs))
				h.Delete(influxtest.Dumps, fromNs, toNs)
				must(v.T, s.server.Verify(v.Context(), database, h))
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
		exporters := map[string]*exporter{
			"directly": s.exporter(v.T, s.server.URL, database), "by a history": s.exporter(v.T, front.URL, database),
		}
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

// edges returns dumps that are hard to cut into time ranges, and telemetry of VMs. The tests take less than an hour, so
// that no VM leaves the look-back meanwhile.
func edges(rng *rand.Rand, now time.Time) *influxtest.History {
	h := &influxtest.History{}
	for _, at := range influxtest.EdgeTimes(rng, now) {
		h.Add(dump(fmt.Sprint("vm", rng.IntN(40)), at, map[string]any{
			"sha256": fmt.Sprint(rng.Uint64()), "duration_sec": float64(rng.IntN(800)) / 8, "gzip_size_bytes": rng.Int64N(1 << 40),
		}))
	}
	for i := range 30 {
		h.Add(sample(fmt.Sprint("vm", i), now.Add(-time.Duration(rng.Int64N(int64(22*time.Hour)))), map[string]any{"cpu": 1.5}))
	}
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
		page := get(v.T, s.exporter(v.T, s.server.URL, database).URL+"/", http.StatusOK)
		v.add("", 12, pageDifferences(page, h, fmt.Sprintf("InfluxDB %d.x, version %s", s.spec.Major, s.spec.Version)))
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
			args := append(s.flags(url, database), "backfill", "--allow-recent", "--step=1h",
				fmt.Sprint("--from=", from.Unix()), fmt.Sprint("--to=", now.Unix()), "--output="+file)
			must(v.T, run(v.Context(), args, io.Discard, io.Discard))
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
		v.Logf("there is no %s, which a server of TEST_SERVERS does not need", golden)
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
	token, err := s.server.ReadToken(v.Context(), database)
	if errors.Is(err, errors.ErrUnsupported) {
		return
	}
	must(v.T, err)
	e = startExporter(v.T, append(env, "INFLUX_TOKEN="+token))
	v.metrics("that may only read", truth(h), e.scrape(v.T))
	v.records("that may only read", v.pages(e, 1000, func() {}), h.Records())
}
