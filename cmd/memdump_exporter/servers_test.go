//go:build servers

package main

import (
	"context"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// modes are the ways to get at the same values: by queries over all time, as long as InfluxDB responds
// soon, or from a history that is loaded in the time ranges that it accepts.
var modes = []struct {
	name  string
	files int // that InfluxDB reads at most for one query; 0: any number
}{{"any number of files", 0}, {"432 files", 432}, {"20 files", 20}, {"2 files", 2}}

// maxLoads is the maximum number of scrapes until a history is loaded.
const maxLoads = 60

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
