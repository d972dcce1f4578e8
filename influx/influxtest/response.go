package influxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// ResponseRow is one row of a response of /query.
type ResponseRow struct {
	Name    string
	Tags    map[string]string
	Columns []string
	Values  []any // string, json.Number, bool or nil
}

// ErrDuplicateKey means that a JSON object has a key twice. Which value counts depends on the reader.
var ErrDuplicateKey = errors.New("a JSON object has a key twice")

// ReadResponse reads a response of /query in the simplest possible way, as a reference for other
// readers. The error is nil only for a complete and valid response to one statement. It is
// ErrDuplicateKey for a response that can't be judged.
func ReadResponse(body []byte) (rows []ResponseRow, err error) {
	defer func() {
		if r := recover(); r != nil {
			rows, err = nil, fmt.Errorf("unexpected structure: %v", r)
		}
	}()
	var document any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, errors.New("no JSON in UTF-8")
	}
	if hasDuplicateKey(json.NewDecoder(bytes.NewReader(body))) {
		return nil, ErrDuplicateKey
	}
	if err := d.Decode(&document); err != nil {
		return nil, err
	}
	top := document.(map[string]any)
	results := top["results"].([]any)
	if len(results) != 1 {
		return nil, errors.New("not one result")
	}
	result := results[0].(map[string]any)
	for _, part := range []map[string]any{top, result} {
		if text, ok := part["error"]; ok && text.(string) != "" {
			return nil, errors.New("an error")
		}
	}
	all, ok := result["series"]
	if !ok {
		all = []any{}
	}
	for _, one := range all.([]any) {
		series := one.(map[string]any)
		rows = append(rows, seriesRows(series)...)
		if flag(series["partial"]) {
			return nil, errors.New("a partial series")
		}
	}
	if flag(result["partial"]) {
		return nil, errors.New("a partial result")
	}
	return rows, nil
}

func seriesRows(series map[string]any) (rows []ResponseRow) {
	row := ResponseRow{Name: text(series["name"]), Tags: map[string]string{}}
	if tags := series["tags"]; tags != nil {
		for tag, value := range tags.(map[string]any) {
			row.Tags[tag] = text(value)
		}
	}
	if columns := series["columns"]; columns != nil {
		for _, column := range columns.([]any) {
			row.Columns = append(row.Columns, text(column))
		}
	}
	values, ok := series["values"]
	if !ok {
		return nil
	}
	for _, one := range values.([]any) {
		row.Values, _ = one.([]any)
		if len(row.Values) != len(row.Columns) || one != nil && row.Values == nil {
			panic("a row with another number of values than columns")
		}
		for _, value := range row.Values {
			switch value.(type) {
			case []any, map[string]any:
				panic("a value is not a scalar")
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// text returns a string; null is the empty one, as in encoding/json.
func text(value any) string {
	if value == nil {
		return ""
	}
	return value.(string)
}

// flag returns a bool; null is false, as in encoding/json.
func flag(value any) bool { return value != nil && value.(bool) }

// hasDuplicateKey reports whether an object of the JSON has a key twice.
func hasDuplicateKey(d *json.Decoder) bool {
	token, err := d.Token()
	if delim, ok := token.(json.Delim); err != nil || !ok || delim == ']' || delim == '}' {
		return false
	}
	names := map[any]bool{}
	for d.More() {
		if token == json.Delim('{') {
			name, _ := d.Token()
			if names[name] {
				return true
			}
			names[name] = true
		}
		if hasDuplicateKey(d) {
			return true
		}
	}
	_, _ = d.Token()
	return false
}
