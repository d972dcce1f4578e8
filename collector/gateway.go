package collector

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// gatewayStatement is a row's question to a gateway of the old service's kind: SQL in,
// the JSON of InfluxDB 1.x out. The texts are that service's own, as such a gateway
// may know no others; it answers with the figure itself, so nothing is merged, and
// there is nothing to prove an empty answer by.
type gatewayStatement struct {
	sel, where, tail string
	// value reads the one row of the answer; false when there is no value to give.
	value func(influx.Row) (float64, bool, error)
}

// over returns the text for a measurement and a range of time.
func (s gatewayStatement) over(measurement string, r ranges.Range) string {
	var conditions []string
	if s.where != "" {
		conditions = append(conditions, s.where)
	}
	if r.From != ranges.All.From {
		conditions = append(conditions, "time >= '"+sqlTime(r.From)+"'")
	}
	if r.To != ranges.All.To {
		conditions = append(conditions, "time < '"+sqlTime(r.To)+"'")
	}
	text := "SELECT " + s.sel + " FROM " + sqlIdent(measurement)
	if len(conditions) > 0 {
		text += " WHERE " + strings.Join(conditions, " AND ")
	}
	if s.tail != "" {
		text += " " + s.tail
	}
	return text
}

func sqlTime(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339Nano) }

var plainIdent = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// sqlIdent leaves a plain name as the old service wrote it.
func sqlIdent(name string) string {
	if plainIdent.MatchString(name) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// askGateway answers the row's question where InfluxQL is not spoken.
func (r row[P]) askGateway(run *scrape) (value float64, known bool, err error) {
	rows := 0
	question := influx.Question{
		Statement: r.gateway.over(run.measurement(r.text.from), run.span(r.text.from)),
		API:       influx.APIV3Query,
	}
	err = run.Database.Query(run.ctx, question, func(row influx.Row) (err error) {
		if rows++; rows > 1 {
			return fmt.Errorf("%w: more than one row", influx.ErrMalformed)
		}
		value, known, err = r.gateway.value(row)
		return err
	})
	if err != nil {
		return 0, false, err
	}
	return value, known, nil
}

// onlyNumber reads the one column that is not the time; null is no value.
func onlyNumber(row influx.Row) (float64, bool, error) {
	column, err := row.Only()
	if err != nil {
		return 0, false, err
	}
	if value, _ := row.Value(column); value == nil {
		return 0, false, nil
	}
	value, err := row.Float64(column)
	return value, err == nil, err
}

// onlyCount is onlyNumber for what can't be negative.
func onlyCount(row influx.Row) (float64, bool, error) {
	value, known, err := onlyNumber(row)
	if err == nil && value < 0 {
		return 0, false, fmt.Errorf("%w: the server says %v", errOutOfRange, value)
	}
	return value, known, err
}

func onlyTime(row influx.Row) (float64, bool, error) {
	ns, err := row.Time()
	return seconds(ns), err == nil, err
}

// mayBeGateway reports whether a failed InfluxQL question is worth asking again as a
// gateway's.
func (s *scrape) mayBeGateway(err error) bool {
	return s.api == influx.APIAuto && errors.Is(err, influx.ErrNotFound)
}
