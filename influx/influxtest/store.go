package influxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// shard is how long the shards of InfluxDB 1.x and 2.x are where points are kept for ever; they begin at multiples of it.
const shard = 7 * day

// MustStore makes a database that holds the history.
func (s *Server) MustStore(tb testing.TB, database string, h *History) {
	tb.Helper()
	if err := s.CreateDatabase(tb.Context(), database); err != nil {
		tb.Fatal(err)
	}
	if err := s.Store(tb.Context(), database, h, h.Lines()); err != nil {
		tb.Fatal(err)
	}
}

// MustAdd adds points to a history and to the database that holds it.
func (s *Server) MustAdd(tb testing.TB, database string, h *History, points ...Point) {
	tb.Helper()
	h.Add(points...)
	lines := make([]string, len(points))
	for i, p := range points {
		lines[i] = p.Line()
	}
	if err := s.Store(tb.Context(), database, h, lines); err != nil {
		tb.Fatal(err)
	}
}

// Store writes lines of a history into the database that holds its other points, and proves that it holds all of them.
//
// It writes them again where the first write has left no trace. InfluxDB 1.x and 2.x free the caches of shards without
// data, every ten seconds and without a lock between the check and the release: of a write to a new shard in between,
// with its 204, nothing is found until the server starts again and reads its log. (monitorShards in tsdb/store.go of
// 1.7.11, 1.13.2 and 2.7.12.) The cache then counts as used, so that the second write stays.
func (w *Writer) Store(ctx context.Context, database string, h *History, lines []string) error {
	for again := false; ; again = true {
		if err := w.Write(ctx, database, lines); err != nil {
			return err
		}
		if err := w.Prove(ctx, database, h); again || !errors.Is(err, errUnproven) {
			return err
		}
	}
}

// errUnproven is the error of a count that is not the history's.
var errUnproven = errors.New("the count is another")

// Prove is an error unless the database counts, of each measurement and field of the history, as many values as the
// history has. A response of 204 to a write proves nothing.
func (w *Writer) Prove(ctx context.Context, database string, h *History) error {
	for measurement, want := range h.stored() {
		if err := w.proveAll(ctx, database, measurement, want); err != nil {
			return fmt.Errorf("prove that %s holds the history: %w", database, err)
		}
	}
	return nil
}

// stored returns the values of each measurement.
func (h *History) stored() map[string][]stored {
	all := map[string][]stored{}
	for _, p := range h.points {
		all[p.series.measurement] = append(all[p.series.measurement], p)
	}
	return all
}

func (w *Writer) proveAll(ctx context.Context, database, measurement string, points []stored) error {
	got, err := w.count(ctx, database, measurement, countValues(points), math.MinInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	want := countValues(points)
	if maps.Equal(got, want) {
		return nil
	}
	// A field of two types, each in shards of its own, is counted as a whole by one of them only.
	byShard := map[time.Time][]stored{}
	for _, p := range points {
		from := time.Unix(0, p.ns).UTC().Truncate(shard)
		byShard[from] = append(byShard[from], p)
	}
	var wrong []string
	for _, from := range slices.SortedFunc(maps.Keys(byShard), time.Time.Compare) {
		want := countValues(byShard[from])
		got, err := w.count(ctx, database, measurement, want, nanoseconds(from), nanoseconds(from.Add(shard)))
		if err != nil {
			return err
		}
		if !maps.Equal(got, want) {
			wrong = append(wrong, fmt.Sprintf("in the week from %s %s", from.Format(time.DateOnly), difference(got, want)))
		}
	}
	if len(wrong) == 0 && !mixed(points) {
		wrong = []string{"as a whole " + difference(got, want) + ", though each week is right"}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s: %w: %s", measurement, errUnproven, strings.Join(wrong, "; "))
	}
	return nil
}

// nanoseconds is a time since 1970, the nearest that an int64 holds.
func nanoseconds(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// countValues counts the values of each field.
func countValues(points []stored) map[string]int64 {
	counts := map[string]int64{}
	for _, p := range points {
		for _, f := range p.fields {
			counts[f.key]++
		}
	}
	return counts
}

// mixed reports whether a field has values of two types.
func mixed(points []stored) bool {
	types := map[string]string{}
	for _, p := range points {
		for _, f := range p.fields {
			kind := fmt.Sprintf("%T", f.value)
			if before := types[f.key]; before != "" && before != kind {
				return true
			}
			types[f.key] = kind
		}
	}
	return false
}

func difference(got, want map[string]int64) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if got[key] != want[key] {
			parts = append(parts, fmt.Sprintf("%d of %d values of %s", got[key], want[key], key))
		}
	}
	return strings.Join(parts, ", ")
}

// count returns how many values of the fields the server counts with fromNs <= time < toNs, where both are not the ends
// of all time. It halves a range that InfluxDB 3 refuses for the number of its files.
func (w *Writer) count(ctx context.Context, database, measurement string, fields map[string]int64, fromNs, toNs int64) (map[string]int64, error) {
	keys := slices.Sorted(maps.Keys(fields))
	var columns []string
	for i, key := range keys {
		columns = append(columns, fmt.Sprintf(`COUNT(%s::field) AS "c%d"`, identifier(key), i))
	}
	statement := "SELECT " + strings.Join(columns, ", ") + " FROM " + identifier(measurement)
	var bounds []string
	if fromNs > math.MinInt64 {
		bounds = append(bounds, fmt.Sprintf("time >= %d", fromNs))
	}
	if toNs < math.MaxInt64 {
		bounds = append(bounds, fmt.Sprintf("time < %d", toNs))
	}
	if len(bounds) > 0 {
		statement += " WHERE " + strings.Join(bounds, " AND ")
	}
	rows, err := w.Query(ctx, database, statement)
	if err != nil && strings.Contains(err.Error(), "file limit") && toNs/2-fromNs/2 > 1 {
		middle := fromNs/2 + toNs/2
		older, err := w.count(ctx, database, measurement, fields, fromNs, middle)
		if err != nil {
			return nil, err
		}
		newer, err := w.count(ctx, database, measurement, fields, middle, toNs)
		for key, n := range newer {
			newer[key] = n + older[key]
		}
		return newer, err
	}
	if err != nil {
		return nil, err
	}
	counts := map[string]int64{}
	for key := range fields {
		counts[key] = 0
	}
	if len(rows) == 0 {
		return counts, nil
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("count: %d rows", len(rows))
	}
	for i, column := range rows[0].Columns {
		var at int
		if _, err := fmt.Sscanf(column, "c%d", &at); err != nil {
			continue // time
		}
		if n, ok := rows[0].Values[i].(json.Number); ok {
			count, err := n.Int64()
			if err != nil {
				return nil, fmt.Errorf("count: %w", err)
			}
			counts[keys[at]] = count
		}
	}
	return counts, nil
}
