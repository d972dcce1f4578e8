package collector

import (
	"errors"
	"fmt"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// gatewayQuery is a row's query to a v3-query gateway: SQL in, the JSON of InfluxDB 1.x
// out. The texts are the Python service's, as such a gateway may know no others; it
// answers with the figure itself, so nothing is merged, and there is nothing to prove an
// empty answer by.
type gatewayQuery struct {
	statement
	// value reads the one row of the answer; false when there is no value to give.
	value func(influx.Row) (float64, bool, error)
}

// mayBeGateway reports whether a failed query is worth asking again of a gateway.
func (s *scrape) mayBeGateway(err error) bool {
	return s.api == influx.APIAuto && errors.Is(err, influx.ErrNotFound)
}

// askGateway runs the row's query where InfluxQL is not spoken.
func (a about) askGateway(run *scrape) answer {
	given := answer{ranges: ranges.State{Ranges: 1}}
	if a.gateway.value == nil {
		given.err = fmt.Errorf("%w: a v3-query gateway is not asked for %s", influx.ErrRefused, a.query)
		return given
	}
	rows := 0
	request := influx.Request{Statement: a.gateway.over(run.measurement(a.from), run.span(a.from), sql), API: influx.APIV3Query}
	given.err = run.Database.Query(run.ctx, request, func(row influx.Row) (err error) {
		if rows++; rows > 1 {
			return fmt.Errorf("%w: more than one row", influx.ErrMalformed)
		}
		given.value, given.known, err = a.gateway.value(row)
		return err
	})
	if given.err == nil {
		given.ranges.OldestCheck = run.now
	}
	return given
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
	if value < 0 {
		return 0, false, fmt.Errorf("%w: the server says %v", errOutOfRange, value)
	}
	return value, known, err
}

func onlyTime(row influx.Row) (float64, bool, error) {
	ns, err := row.Time()
	return seconds(ns), err == nil, err
}
