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

// shard is the length of the shards of InfluxDB 1.x and 2.x without an end of retention. They begin at multiples of it.
const shard = 7 * day

// MustStore creates a database and stores the history in it.
func (s *Server) MustStore(tb testing.TB, database string, h *History) {
	tb.Helper()
	if err := s.CreateDatabase(tb.Context(), database); err != nil {
		tb.Fatal(err)
	}
	if err := s.Store(tb.Context(), database, h, h.Lines()); err != nil {
		tb.Fatal(err)
	}
}

// MustAdd adds points to a history and to its database.
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

// Store writes lines of a history into the database of the history, and verifies that the database has all points.
//
// It writes them twice if necessary. Every ten seconds, InfluxDB 1.x and 2.x free the caches of shards without data. They
// hold no lock between the check and the release: a write to a new shard in between gets a 204, but its points are
// invisible until the server restarts and reads its log (monitorShards in tsdb/store.go of 1.7.11, 1.13.2 and 2.7.12). The
// cache is not free a second time, so that the second write is visible.
func (w *Writer) Store(ctx context.Context, database string, h *History, lines []string) error {
	for again := false; ; again = true {
		if err := w.Write(ctx, database, lines); err != nil {
			return err
		}
		if err := w.Verify(ctx, database, h); again || !errors.Is(err, errWrongCount) {
			return err
		}
	}
}

// errWrongCount means that the database and the history have different numbers of values.
var errWrongCount = errors.New("wrong number of values")

// Verify returns an error unless the database has, of each measurement and field of the history, as many values as the
// history. The status 204 of a write does not guarantee it.
func (w *Writer) Verify(ctx context.Context, database string, h *History) error {
	for measurement, want := range h.stored() {
		if err := w.verifyMeasurement(ctx, database, measurement, want); err != nil {
			return fmt.Errorf("verify that %s has the history: %w", database, err)
		}
	}
	return nil
}

// stored returns the points of each measurement.
func (h *History) stored() map[string][]stored {
	all := map[string][]stored{}
	for _, p := range h.points {
		all[p.series.measurement] = append(all[p.series.measurement], p)
	}
	return all
}

func (w *Writer) verifyMeasurement(ctx context.Context, database, measurement string, points []stored) error {
	got, err := w.count(ctx, database, measurement, countValues(points), math.MinInt64, math.MaxInt64)
	if err != nil {
		return err
	}
	want := countValues(points)
	if maps.Equal(got, want) {
		return nil
	}
	// If a field has two types, each in some of the shards, a count over all shards counts the values of one type only.
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
		wrong = []string{"over all time " + difference(got, want) + ", although each week is right"}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s: %w: %s", measurement, errWrongCount, strings.Join(wrong, "; "))
	}
	return nil
}

// nanoseconds returns a time in nanoseconds since 1970, or the nearest one in the range of an int64.
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

// count returns the number of values of each field with fromNs <= time < toNs, as the server counts them. math.MinInt64 and
// math.MaxInt64 are unbounded ends. It halves a range that InfluxDB 3 rejects because of its file limit.
func (w *Writer) count(
	ctx context.Context, database, measurement string, fields map[string]int64, fromNs, toNs int64,
) (map[string]int64, error) {
	keys := slices.Sorted(maps.Keys(fields))
	var columns []string
	for i, key := range keys {
		columns = append(columns, fmt.Sprintf(`COUNT(%s::field) AS "c%d"`, identifier(key), i))
	}
	statement := "SELECT " + strings.Join(columns, ", ") + " FROM " + identifier(measurement)
	var conditions []string
	if fromNs > math.MinInt64 {
		conditions = append(conditions, fmt.Sprintf("time >= %d", fromNs))
	}
	if toNs < math.MaxInt64 {
		conditions = append(conditions, fmt.Sprintf("time < %d", toNs))
	}
	if len(conditions) > 0 {
		statement += " WHERE " + strings.Join(conditions, " AND ")
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
	return readCounts(rows, keys)
}

// readCounts returns the numbers in the columns c0, c1, … of the only row, by the keys of the columns. Without a row, all
// are 0.
func readCounts(rows []ResponseRow, keys []string) (map[string]int64, error) {
	counts := map[string]int64{}
	for _, key := range keys {
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
