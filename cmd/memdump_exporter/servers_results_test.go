//go:build servers

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"memdump_exporter/influx/influxtest"
)

// tally counts the values of a situation.
type tally struct {
	*testing.T
	compared, wrong int
	left            string // why nothing was compared
}

// leave sets the reason why this server does not have the situation.
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
		if got.value("memdump_up") == 1 || len(want.reasons) > 0 || n == maxLoads {
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
		r := send(nil, http.MethodGet, e.URL+"/records"+path, timeoutHeader, "30")
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
