package influx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// decodeResponse reads one response of /query, in the JSON of InfluxDB 1.x that 2.x and 3.x
// share, and calls row for each row while it reads. With an error, the rows so far are
// invalid.
// https://docs.influxdata.com/influxdb/v1/tools/api/#query-http-endpoint
func decodeResponse(r *limitedReader, status int, hidden secrets, row func(Row) error) error {
	r.hold = maxHeldBytes
	d := &decoder{limit: r, json: json.NewDecoder(r), status: status, hidden: hidden, row: row}
	d.json.UseNumber()
	if err := d.document(); err != nil {
		if callback := (*callbackError)(nil); errors.As(err, &callback) {
			return callback.error
		}
		return readError(status, err)
	}
	return nil
}

// callbackError marks an error of the callback, so that decodeResponse returns it unchanged.
type callbackError struct{ error }

type decoder struct {
	limit  *limitedReader
	json   *json.Decoder
	status int
	hidden secrets
	row    func(Row) error

	current Row // reused for each series

	raw, rawColumns json.RawMessage
	lastColumns     []string // of the latest series, decoded from rawColumns
}

func (d *decoder) document() error {
	results, message := 0, ""
	err := d.object(func(key string) (err error) {
		switch key {
		case "results":
			return d.array(func() error {
				results++
				return d.result()
			})
		case "error":
			message, err = d.string()
			return err
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if _, err := d.json.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = malformed("the response has data after its end")
		}
		return err
	}
	if message != "" {
		return serverError(d.status, message, d.hidden)
	}
	if results != 1 {
		return malformed("%d results for one statement", results)
	}
	return nil
}

func (d *decoder) result() error {
	message, partial := "", false
	err := d.object(func(key string) (err error) {
		switch key {
		case "series":
			return d.array(d.series)
		case "error":
			message, err = d.string()
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
	case message != "":
		return serverError(d.status, message, d.hidden)
	case partial:
		return &Error{Kind: ErrTruncated, Err: errors.New("the response is marked as partial")}
	}
	return nil
}

// series reads one series. It decodes names and columns at once, because json.Decoder is
// slow token by token, and rows one by one, because there is no limit to their number.
func (d *decoder) series() error {
	row := &d.current
	row.Measurement = ""
	clear(row.Tags)
	row.columns = nil
	return d.object(func(key string) (err error) {
		switch key {
		case "name":
			err = d.json.Decode(&row.Measurement)
		case "tags":
			err = d.json.Decode(&row.Tags)
		case "columns":
			row.columns, err = d.columns()
		case "values":
			err = d.array(func() error { return d.values(row) })
		case "partial":
			var partial bool
			if err = d.json.Decode(&partial); partial {
				err = &Error{Kind: ErrTruncated, Err: errors.New("a series is marked as partial")}
			}
		default:
			err = d.skip()
		}
		return err
	})
}

// columns reads the columns of a series. It decodes them only if they differ from those of the
// series before, which is rare.
func (d *decoder) columns() ([]string, error) {
	if err := d.json.Decode(&d.raw); err != nil {
		return nil, err
	}
	if d.lastColumns != nil && bytes.Equal(d.raw, d.rawColumns) {
		return d.lastColumns, nil
	}
	d.lastColumns, d.rawColumns = nil, append(d.rawColumns[:0], d.raw...)
	err := json.Unmarshal(d.raw, &d.lastColumns)
	return d.lastColumns, err
}

// values reads one row, which must have a value for each column.
func (d *decoder) values(row *Row) error {
	if err := d.json.Decode(&row.values); err != nil {
		return err
	}
	if len(row.values) != len(row.columns) {
		return malformed("a row of %d values under %d columns", len(row.values), len(row.columns))
	}
	for _, value := range row.values {
		if value[0] == '[' || value[0] == '{' {
			return malformed("a value is not a scalar")
		}
	}
	if err := d.row(*row); err != nil {
		return &callbackError{err}
	}
	d.limit.hold = maxHeldBytes
	return nil
}

func (d *decoder) object(value func(key string) error) error {
	if err := d.open('{'); err != nil {
		return err
	}
	for d.json.More() {
		key, err := d.string()
		if err != nil {
			return err
		}
		if err := value(key); err != nil {
			return err
		}
	}
	return d.close()
}

func (d *decoder) array(element func() error) error {
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

func (d *decoder) open(want json.Delim) error {
	token, err := d.json.Token()
	if err != nil {
		return err
	}
	if token != want {
		return malformed("%s: expected %q", describe(token), want)
	}
	return nil
}

// close reads the end of an object or array. The decoder itself rejects an end that does not
// match.
func (d *decoder) close() error {
	_, err := d.json.Token()
	return err
}

func (d *decoder) string() (string, error) {
	token, err := d.json.Token()
	if err != nil {
		return "", err
	}
	text, ok := token.(string)
	if !ok {
		return "", malformed("%s: expected a string", describe(token))
	}
	return text, nil
}

func (d *decoder) skip() error {
	var ignored json.RawMessage
	return d.json.Decode(&ignored)
}

// describe returns the type of a token without its text, which may be confidential.
func describe(token json.Token) string {
	if delim, ok := token.(json.Delim); ok {
		return strconv.Quote(delim.String())
	}
	return fmt.Sprintf("a %T", token)
}
