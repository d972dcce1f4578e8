package influx

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Row is one row of an answer. It is valid only during the call it is passed to.
type Row struct {
	// Measurement is the name of the series that the row belongs to.
	Measurement string
	// Tags are the tags of a GROUP BY, empty without one. A point without the tag
	// has the empty string.
	Tags map[string]string

	columns []string
	values  []any // string, json.Number, bool or nil
}

// Value returns the value of a column: a string, json.Number, bool, or nil for
// null; and whether there is such a column.
func (r Row) Value(column string) (any, bool) {
	for i, name := range r.columns {
		if name == column {
			return r.values[i], true
		}
	}
	return nil, false
}

// Only returns the name of the one column that is not "time".
func (r Row) Only() (column string, err error) {
	for _, name := range r.columns {
		switch {
		case name == "time":
		case column != "":
			return "", malformed("%d columns where one beside the time was expected", len(r.columns))
		default:
			column = name
		}
	}
	if column == "" {
		return "", malformed("no column beside the time")
	}
	return column, nil
}

func (r Row) number(column string) (json.Number, error) {
	value, ok := r.Value(column)
	if !ok {
		return "", malformed("no column %q in the answer", column)
	}
	number, ok := value.(json.Number)
	if !ok {
		return "", malformed("column %q holds a %T where a number was expected", column, value)
	}
	return number, nil
}

// Int64 returns a column as a whole number, exactly. A float that is whole and below
// 2^53, where others would be rounded to it, is taken, as a server may hold the field
// as a float; anything else is ErrMalformed.
func (r Row) Int64(column string) (int64, error) {
	number, err := r.number(column)
	if err != nil {
		return 0, err
	}
	if n, err := strconv.ParseInt(number.String(), 10, 64); err == nil {
		return n, nil
	}
	const exact = 1 << 53
	f, err := strconv.ParseFloat(number.String(), 64)
	// What is too small for a float64 is parsed as 0.
	tiny := f == 0 && strings.ContainsAny(number.String(), "123456789")
	if err != nil || tiny || f != math.Trunc(f) || math.Abs(f) >= exact {
		return 0, malformed("column %q holds %.40q where a whole number of 64 bits was expected", column, number.String())
	}
	return int64(f), nil
}

// Float64 returns a column as a float; a number beyond float64 is ErrMalformed.
func (r Row) Float64(column string) (float64, error) {
	number, err := r.number(column)
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(number.String(), 64)
	if err != nil {
		return 0, malformed("column %q holds %.40q where a float was expected", column, number.String())
	}
	return f, nil
}

// Time returns the column "time" in nanoseconds since 1970: a number, as epoch=ns
// asks for, or RFC 3339, in UTC where it names no zone.
func (r Row) Time() (int64, error) {
	value, _ := r.Value("time")
	text, ok := value.(string)
	if !ok {
		return r.Int64("time")
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05.999999999", text)
	}
	if err != nil || t.Before(time.Unix(0, math.MinInt64)) || t.After(time.Unix(0, math.MaxInt64)) {
		return 0, malformed("the time is a text where nanoseconds or RFC 3339 were expected")
	}
	return t.UnixNano(), nil
}

// maxHeldBytes bounds what is read before a row is complete, as that is held.
const maxHeldBytes = 1 << 20

// bounded reads at most left bytes, and at most hold of them before the next row, and
// fails with ErrTooLarge beyond, so that a cut answer can't pass for a whole one. It
// refuses what is not UTF-8, of which encoding/json would make one name of many.
type bounded struct {
	r          io.Reader
	left, hold int64
	text       utf8Check
	err        error // json.Decoder.More drops an error, and asks again
}

func (b *bounded) Read(p []byte) (n int, err error) {
	if b.err == nil {
		n, b.err = b.read(p)
	}
	return n, b.err
}

func (b *bounded) read(p []byte) (int, error) {
	most := min(b.left, b.hold)
	if most <= 0 {
		if n, err := b.r.Read(p[:1]); n == 0 {
			return 0, err
		}
		return 0, &Error{Kind: ErrTooLarge, Err: errors.New("the answer exceeds the bound for this question")}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), most)])
	b.left -= int64(n)
	b.hold -= int64(n)
	if !b.text.valid(p[:n]) {
		return 0, malformed("the answer is not UTF-8")
	}
	return n, err
}

// utf8Check checks a text that comes in pieces.
type utf8Check struct{ cut []byte } // the beginning of a rune that the next piece ends

func (c *utf8Check) valid(piece []byte) bool {
	for len(c.cut) > 0 && len(piece) > 0 {
		c.cut, piece = append(c.cut, piece[0]), piece[1:]
		if !utf8.FullRune(c.cut) {
			continue
		}
		if !utf8.Valid(c.cut) {
			return false
		}
		c.cut = c.cut[:0]
	}
	for i := len(piece) - 1; i >= max(0, len(piece)-utf8.UTFMax); i-- {
		if utf8.RuneStart(piece[i]) {
			if !utf8.FullRune(piece[i:]) {
				c.cut, piece = append(c.cut, piece[i:]...), piece[:i]
			}
			break
		}
	}
	return utf8.Valid(piece)
}

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
