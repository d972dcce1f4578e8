package influxtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"time"
)

// fakeSeries is one series of a response.
type fakeSeries struct {
	Name    string            `json:"name"`
	Tags    map[string]string `json:"tags,omitempty"`
	Columns []string          `json:"columns"`
	Values  [][]any           `json:"values"`
}

// result returns the body of a response.
func result(series []fakeSeries) string {
	type statementResult struct {
		ID     int          `json:"statement_id"`
		Series []fakeSeries `json:"series,omitempty"`
	}
	var body bytes.Buffer
	err := json.NewEncoder(&body).Encode(map[string]any{"results": []statementResult{{Series: series}}})
	if err != nil {
		panic(err)
	}
	return body.String()
}

// rows returns the rows for the points of one group, which are in the order of time.
func (s selectStatement) rows(points []stored) (rows [][]any) {
	switch {
	case len(s.columns) > 0 && s.columns[0].function == "":
		rows = s.rawRows(points)
	case s.daily:
		var days []int64
		byDay := make(map[int64][]stored)
		for _, p := range points {
			start := time.Unix(0, p.ns).UTC().Truncate(day).UnixNano()
			if byDay[start] == nil {
				days = append(days, start)
			}
			byDay[start] = append(byDay[start], p)
		}
		for _, start := range days {
			rows = append(rows, s.aggregated(byDay[start], start)...)
		}
	default:
		start := s.lower
		if start == math.MinInt64 {
			start = 0
		}
		rows = s.aggregated(points, start)
	}
	rows = rows[min(len(rows), s.offset):]
	return rows[:min(len(rows), s.limit)]
}

// rawRows returns a row for each point with one of the fields, up to offset and limit.
func (s selectStatement) rawRows(points []stored) (rows [][]any) {
	for i := range points {
		p := points[i]
		if s.descending {
			p = points[len(points)-1-i]
		}
		if len(rows)-s.offset == s.limit {
			break
		}
		row, hasField := []any{p.ns}, false
		for _, c := range s.columns {
			var value any
			if c.tag {
				if text := p.series.tags[c.name]; text != "" {
					value = text
				}
			} else if value = p.value(c); value != nil {
				hasField = true
			}
			row = append(row, value)
		}
		if hasField {
			rows = append(rows, row)
		}
	}
	return rows
}

// value returns the value of a field; nil if the point has none, or one of another type than the column.
func (p stored) value(c fakeColumn) any {
	i, found := slices.BinarySearchFunc(p.fields, c.name, func(f field, name string) int { return cmp.Compare(f.key, name) })
	if !found {
		return nil
	}
	value := p.fields[i].value
	if whole, ok := value.(int64); ok && c.kind == "float" {
		return float64(whole)
	}
	if kindOf(value) != c.kind {
		return nil
	}
	return value
}

// fakeKinds are the types of fields, in ascending precedence: that of a column whose field has several types in several
// measurements is the last one.
var fakeKinds = []string{"", "boolean", "string", "integer", "float"}

func kindOf(value any) string {
	switch value.(type) {
	case float64:
		return "float"
	case int64:
		return "integer"
	case string:
		return "string"
	}
	return "boolean"
}

// aggregated returns one row with the values of the functions, or none if no point has one of the fields. Its time is start,
// or that of the point if LAST is the only function.
func (s selectStatement) aggregated(points []stored, start int64) [][]any {
	row, hasField := []any{start}, false
	for _, c := range s.columns {
		values, integers, count, sum := []any{}, int64(0), int64(0), 0.0
		for _, p := range points {
			value := p.value(c)
			switch v := value.(type) {
			case nil:
				continue
			case int64:
				integers += v
				sum += float64(v)
			case float64:
				sum += v
			}
			values = append(values, value)
			count++
			if c.function == "LAST" && len(s.columns) == 1 {
				row[0] = p.ns
			}
		}
		if count == 0 {
			row = append(row, nil)
			continue
		}
		hasField = true
		switch _, whole := values[0].(int64); {
		case c.function == "COUNT":
			row = append(row, count)
		case c.function == "MEAN":
			row = append(row, sum/float64(count))
		case c.function == "LAST":
			row = append(row, values[len(values)-1])
		case whole:
			row = append(row, integers)
		default:
			row = append(row, sum)
		}
	}
	if !hasField {
		return nil
	}
	return [][]any{row}
}
