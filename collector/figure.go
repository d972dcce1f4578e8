package collector

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// stat is a row of the table, whatever its partial answer.
type stat interface {
	label() string // value of the label {query}
	gauge() string // name of the gauge; empty for a row that has none of its own
	about() string // help of the gauge
	desc() *prometheus.Desc
	source() source
	// needs returns the fields, and the tag, that the question is about; any field where
	// none is named.
	needs() (fields []string, tag string)
	// keep returns the row with the place where its partial answers are kept.
	keep(ranges.Config) figure
}

// figure is a row in use.
type figure interface {
	stat
	// ask answers the row's question in one scrape.
	ask(*scrape) answer
	// question returns the question about the whole, as it goes out.
	question(*scrape) string
	// ranges returns the ranges of time that it is asked about; nil for the whole.
	ranges() []ranges.Range
}

func (r row[P]) label() string  { return r.query }
func (r row[P]) gauge() string  { return r.name }
func (r row[P]) about() string  { return r.help }
func (r row[P]) source() source { return r.text.from }
func (r row[P]) needs() ([]string, string) {
	return r.fields, r.tag
}
func (r row[P]) desc() *prometheus.Desc {
	return prometheus.NewDesc(r.name, r.help, nil, nil)
}
func (r row[P]) keep(c ranges.Config) figure { return kept[P]{r, ranges.New[P](c)} }

// kept is a row and its partial answers.
type kept[P partial[P]] struct {
	row[P]
	partials *ranges.Figure[P]
}

func (k kept[P]) question(run *scrape) string {
	measurement, span := run.measurement(k.text.from), run.span(k.text.from)
	if run.Database.API() == influx.APIV3Query {
		return k.gateway.over(measurement, span)
	}
	return k.text.over(measurement, span)
}

func (k kept[P]) ranges() []ranges.Range { return k.partials.Map() }

func (k kept[P]) ask(run *scrape) (a answer) {
	if run.api != influx.APIV3Query {
		if a = k.askInfluxQL(run); !run.mayBeGateway(a.err) {
			return a
		}
	}
	a = answer{ranges: ranges.State{Ranges: 1}}
	if k.gateway.value == nil {
		a.err = fmt.Errorf("%w: a gateway of the old service's kind is not asked for series of VMs", influx.ErrRefused)
		return a
	}
	if a.value, a.known, a.err = k.askGateway(run); a.err == nil {
		a.ranges.OldestCheck, a.err = run.now, finite(a.value)
	}
	return a
}

func (k kept[P]) askInfluxQL(run *scrape) (a answer) {
	span := run.span(k.text.from)
	var found P
	found, a.ranges, a.err = k.partials.Over(run.ctx, span, func(ctx context.Context, r ranges.Range) (part P, err error) {
		err = contain(func() (err error) {
			part, err = k.over(ctx, run, r)
			return err
		})
		return part, err
	})
	if a.err == nil && found.empty() {
		a.err = run.prove(k.text.from, k.fields)
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

// over asks the row's question about one range of time.
func (k kept[P]) over(ctx context.Context, run *scrape, r ranges.Range) (P, error) {
	var found, nothing P
	question := influx.Question{Statement: k.text.over(run.measurement(k.text.from), r), MaxBytes: k.maxBytes}
	err := run.Database.Query(ctx, question, func(row influx.Row) (err error) {
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
