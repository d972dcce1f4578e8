package influxtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// AnswerRow is one row of an answer of /query.
type AnswerRow struct {
	Name    string
	Tags    map[string]string
	Columns []string
	Values  []any // string, json.Number, bool or nil
}

// ErrTwice says that an object names a member twice, which means what its reader likes.
var ErrTwice = errors.New("a member is named twice")

// ReadAnswer reads an answer of /query as plainly as can be, to hold other readers
// against. The error is not nil unless it is one whole and faultless answer to one
// statement, and ErrTwice for one that can't be judged.
func ReadAnswer(body []byte) (rows []AnswerRow, err error) {
	defer func() {
		if r := recover(); r != nil {
			rows, err = nil, fmt.Errorf("not of the form: %v", r)
		}
	}()
	var document any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if !utf8.Valid(body) || !json.Valid(body) {
		return nil, errors.New("no JSON in UTF-8")
	}
	if twice(json.NewDecoder(bytes.NewReader(body))) {
		return nil, ErrTwice
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

func seriesRows(series map[string]any) (rows []AnswerRow) {
	row := AnswerRow{Name: text(series["name"]), Tags: map[string]string{}}
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
			panic("a row that does not fit")
		}
		for _, value := range row.Values {
			switch value.(type) {
			case []any, map[string]any:
				panic("a value that is no scalar")
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// text and flag take null for nothing, as encoding/json does.
func text(value any) string {
	if value == nil {
		return ""
	}
	return value.(string)
}

func flag(value any) bool { return value != nil && value.(bool) }

// twice reports whether an object of the JSON names a member twice.
func twice(d *json.Decoder) bool {
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
		if twice(d) {
			return true
		}
	}
	_, _ = d.Token()
	return false
}
