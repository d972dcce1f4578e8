package collector

import (
	"context"
	"slices"

	"memdump_exporter/influx"
)

// Measurement is what the database holds of one of the two measurements, beside what
// the table needs of it.
type Measurement struct {
	Role   string            // "dumps" or "telemetry", as the flags are named
	Name   string            // in the database
	Fields map[string]string // type by name; empty where there is no such measurement
	Tags   []string
	// MissingFields and MissingTags are what some row of the table needs.
	MissingFields, MissingTags []string
	Err                        error
}

// Examine asks which fields and tags there are, of any age.
func (c *Collector) Examine(ctx context.Context) []Measurement {
	run := &scrape{Collector: c, ctx: ctx, now: c.Now()}
	examined := []Measurement{{Role: "dumps"}, {Role: "telemetry"}}
	for from := range examined {
		m := &examined[from]
		m.Name = run.measurement(source(from))
		if m.Err = c.examine(ctx, m); m.Err != nil {
			continue
		}
		for _, f := range c.figures {
			if f.from != source(from) {
				continue
			}
			for _, field := range f.fields {
				if m.Fields[field] == "" && !slices.Contains(m.MissingFields, field) {
					m.MissingFields = append(m.MissingFields, field)
				}
			}
			if f.tag != "" && !slices.Contains(m.Tags, f.tag) && !slices.Contains(m.MissingTags, f.tag) {
				m.MissingTags = append(m.MissingTags, f.tag)
			}
		}
	}
	return examined
}

func (c *Collector) examine(ctx context.Context, m *Measurement) (err error) {
	if m.Fields, err = c.fields(ctx, m.Name); err != nil {
		return err
	}
	return c.Database.Query(ctx, influx.Request{Statement: "SHOW TAG KEYS FROM " + influx.Ident(m.Name)}, func(row influx.Row) error {
		tag, err := textOf(row, "tagKey")
		m.Tags = append(m.Tags, tag)
		return err
	})
}
