package influx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// decodeAnswer reads one answer of /query in the JSON of InfluxDB 1.x, which
// 2.x and 3.x share, and calls row for each row as it is read. Rows already
// passed on count for nothing when an error is returned.
// https://docs.influxdata.com/influxdb/v1/tools/api/#query-http-endpoint
func decodeAnswer(r *bounded, status int, hidden secrets, row func(Row) error) error {
	r.hold = maxHeldBytes
	d := &answerDecoder{bound: r, json: json.NewDecoder(r), status: status, hidden: hidden, row: row}
	d.json.UseNumber()
	if err := d.document(); err != nil {
		if callback := (*callbackError)(nil); errors.As(err, &callback) {
			return callback.error
		}
		return readError(status, err)
	}
	return nil
}

// callbackError carries the caller's own error past readError.
type callbackError struct{ error }

type answerDecoder struct {
	bound  *bounded
	json   *json.Decoder
	status int
	hidden secrets
	row    func(Row) error

	current Row // used again for each series
}

func (d *answerDecoder) document() error {
	results, refusal := 0, ""
	err := d.object(func(key string) (err error) {
		switch key {
		case "results":
			return d.array(func() error {
				results++
				return d.result()
			})
		case "error":
			refusal, err = d.string()
			return err
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = malformed("the answer goes on after its end")
		}
		return err
	}
	if refusal != "" {
		return serverError(d.status, refusal, d.hidden)
	}
	if results != 1 {
		return malformed("%d results for one statement", results)
	}
	return nil
}

func (d *answerDecoder) result() error {
	refusal, partial := "", false
	err := d.object(func(key string) (err error) {
		switch key {
		case "series":
			return d.array(d.series)
		case "error":
			refusal, err = d.string()
		case "partial":
			err = d.json.Decode(&partial)
		default:
			err = d.skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case refusal != "":
		return serverError(d.status, refusal, d.hidden)
	case partial:
		return &Error{Kind: ErrTruncated, Err: errors.New("the server marks its answer as partial")}
	}
	return nil
}

// series reads one series. What is small is decoded whole, as json.Decoder reads token
// by token only slowly; rows, of which there may be any number, one by one.
func (d *answerDecoder) series() error {
	row := &d.current
	row.Measurement = ""
	clear(row.Tags)
	// A null would leave what stands there from the series before.
	clear(row.columns)
	row.columns = row.columns[:0]
	return d.object(func(key string) (err error) {
		switch key {
		case "name":
			err = d.json.Decode(&row.Measurement)
		case "tags":
			err = d.json.Decode(&row.Tags)
		case "columns":
			err = d.json.Decode(&row.columns)
		case "values":
			err = d.array(func() error { return d.values(row) })
		case "partial":
			var partial bool
			if err = d.json.Decode(&partial); partial {
				err = &Error{Kind: ErrTruncated, Err: errors.New("the server marks a series as partial")}
			}
		default:
			err = d.skip()
		}
		return err
	})
}

// values reads one row, which must fit the columns exactly.
func (d *answerDecoder) values(row *Row) error {
	if err := d.json.Decode(&row.values); err != nil {
		return err
	}
	if len(row.values) != len(row.columns) {
		return malformed("a row of %d values under %d columns", len(row.values), len(row.columns))
	}
	for _, value := range row.values {
		switch value.(type) {
		case []any, map[string]any:
			return malformed("a value is not a scalar")
		}
	}
	if err := d.row(*row); err != nil {
		return &callbackError{err}
	}
	d.bound.hold = maxHeldBytes
	return nil
}

func (d *answerDecoder) object(member func(key string) error) error {
	if err := d.open('{'); err != nil {
		return err
	}
	for d.json.More() {
		key, err := d.string()
		if err != nil {
			return err
		}
		if err := member(key); err != nil {
			return err
		}
	}
	return d.close()
}

func (d *answerDecoder) array(element func() error) error {
	if err := d.open('['); err != nil {
		return err
	}
	for d.json.More() {
		if err := element(); err != nil {
			return err
		}
	}
	return d.close()
}

func (d *answerDecoder) open(want json.Delim) error {
	token, err := d.json.Token()
	if err != nil {
		return err
	}
	if token != want {
		return malformed("%s where %q was expected", describe(token), want)
	}
	return nil
}

// close reads the end of the object or array whose members ran out. The decoder
// itself refuses an end that does not match.
func (d *answerDecoder) close() error {
	_, err := d.json.Token()
	return err
}

func (d *answerDecoder) string() (string, error) {
	token, err := d.json.Token()
	if err != nil {
		return "", err
	}
	text, ok := token.(string)
	if !ok {
		return "", malformed("%s where a string was expected", describe(token))
	}
	return text, nil
}

func (d *answerDecoder) skip() error {
	var ignored json.RawMessage
	return d.json.Decode(&ignored)
}

// describe names a token by its type: its text is foreign.
func describe(token json.Token) string {
	if delim, ok := token.(json.Delim); ok {
		return strconv.Quote(delim.String())
	}
	return fmt.Sprintf("a %T", token)
}
