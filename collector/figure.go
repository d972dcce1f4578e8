package collector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// stat is a row of the table, whatever its partial answer.
type stat interface{ keep(Config) figure }

// figure is a row in use.
type figure struct {
	about
	asker
}

// asker runs a row's query, and keeps its partial answers.
type asker interface {
	ask(*scrape) answer
	// known returns the ranges of time that it is asked about; nil for the whole.
	known() []ranges.Range
}

// telemetrySettle is DumpsSettle for telemetry, which is written as it is measured.
const telemetrySettle = time.Hour

func (r row[P]) keep(c Config) figure {
	settle := c.DumpsSettle
	if r.from == telemetry {
		settle = telemetrySettle
	}
	return figure{r.about, kept[P]{r, ranges.New[P](ranges.Config{Mode: c.Ranges, Settle: settle, Now: c.Now})}}
}

func (a about) desc() *prometheus.Desc { return prometheus.NewDesc(a.name, a.help, nil, nil) }

// statement returns the row's query as a whole, as it goes out.
func (a about) statement(run *scrape) string {
	if run.Database.API() == influx.APIV3Query {
		if a.gateway.value == nil {
			return "no query"
		}
		return a.gateway.over(run.measurement(a.from), run.span(a.from), sql)
	}
	return a.text.over(run.measurement(a.from), run.span(a.from), influxQL)
}

// kept is a row and its partial answers.
type kept[P partial[P]] struct {
	row[P]
	partials *ranges.Figure[P]
}

func (k kept[P]) known() []ranges.Range { return k.partials.Map() }

func (k kept[P]) ask(run *scrape) (a answer) {
	if run.api != influx.APIV3Query {
		if a = k.askInfluxQL(run); !run.mayBeGateway(a.err) {
			return a
		}
	}
	return k.askGateway(run)
}

func (k kept[P]) askInfluxQL(run *scrape) (a answer) {
	span := run.span(k.from)
	var found P
	found, a.ranges, a.err = k.partials.Over(run.ctx, span, func(ctx context.Context, r ranges.Range) (part P, err error) {
		err = contain(func() (err error) {
			part, err = k.over(ctx, run, r)
			return err
		})
		return part, err
	})
	if a.err == nil && found.empty() {
		a.err = run.prove(k.from, k.fields)
	}
	if a.err != nil {
		return a
	}
	a.partial = found
	if k.value == nil {
		return a
	}
	if a.value, a.known = k.value(found, span); a.known {
		a.err = finite(a.value)
	}
	return a
}

// over runs the row's query over one range of time.
func (k kept[P]) over(ctx context.Context, run *scrape, r ranges.Range) (P, error) {
	var found, nothing P
	request := influx.Request{Statement: k.text.over(run.measurement(k.from), r, influxQL), MaxBytes: k.maxBytes}
	err := run.Database.Query(ctx, request, func(row influx.Row) (err error) {
		found, err = k.read(found, row)
		return err
	})
	switch {
	case errors.Is(err, influx.ErrTimeout):
		return nothing, fmt.Errorf("%w: %w", ranges.ErrTooSlow, err)
	case err != nil:
		return nothing, tooWide(err)
	}
	return found, nil
}

// tooWide names a server's refusal for package ranges, which knows no server.
func tooWide(err error) error {
	if errors.Is(err, influx.ErrFileLimit) {
		return fmt.Errorf("%w: %w", ranges.ErrTooWide, err)
	}
	return err
}
