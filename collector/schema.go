package collector

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"memdump_exporter/influx"
)

// schema lists the fields of a source's measurements, of points of any age.
type schema struct {
	// fields maps the name of a field to its types. InfluxDB 1.x and 2.x have several if the
	// types of a field differ between shards.
	fields   map[string][]string
	existing []string // the measurements that exist
	fetched  time.Time
}

// schemaLife is how long a schema is valid while responses are not empty: the time until a second
// type of a field is detected.
const schemaLife = 5 * time.Minute

// fetchSchema requests the fields of a source's measurements.
// https://docs.influxdata.com/influxdb/v1/query_language/explore-schema/#show-field-keys
func (e *Exporter) fetchSchema(ctx context.Context, s source) (*schema, error) {
	policy, names := e.config.measurements(s)
	found := &schema{fields: make(map[string][]string), fetched: e.config.Now()}
	for _, name := range names {
		request := influx.Request{Statement: influx.ShowFieldKeys(policy, name), MaxBytes: maxSetBytes}
		for row, err := range e.config.Database.Rows(ctx, request) {
			if err != nil {
				return nil, fmt.Errorf("fetch the fields of %q: %w", name, err)
			}
			key, kind := text(row, "fieldKey"), text(row, "fieldType")
			if key == "" || kind == "" {
				return nil, fmt.Errorf("fetch the fields of %q: %w: a row without fieldKey and fieldType", name, influx.ErrMalformed)
			}
			if !slices.Contains(found.existing, name) {
				found.existing = append(found.existing, name)
			}
			if !slices.Contains(found.fields[key], kind) {
				found.fields[key] = append(found.fields[key], kind)
			}
		}
	}
	return found, nil
}

// fetchTags requests the tags of measurements.
func (e *Exporter) fetchTags(ctx context.Context, policy string, names ...string) ([]string, error) {
	var tags []string
	for _, name := range names {
		for row, err := range e.config.Database.Rows(ctx, influx.Request{Statement: influx.ShowTagKeys(policy, name), MaxBytes: maxSetBytes}) {
			if err != nil {
				return nil, fmt.Errorf("fetch the tags of %q: %w", name, err)
			}
			if tag := text(row, "tagKey"); !slices.Contains(tags, tag) {
				tags = append(tags, tag)
			}
		}
	}
	return tags, nil
}

// Quoted lists names in quotes, so that a blank at an end is visible.
func Quoted(names []string) string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = strconv.Quote(name)
	}
	return strings.Join(all, ", ")
}

// conflict returns errTypeConflict if a field of the query has values of a kind that the query
// can't read, or of several kinds, of which InfluxDB reads one and ignores the others.
func (s *schema) conflict(q *query) error {
	for _, f := range q.fields {
		kinds := make(map[fieldKind]bool)
		for _, kind := range s.fields[f.name] {
			kinds[kindOf(kind)] = true
		}
		if len(kinds) > 1 || len(kinds) == 1 && f.kind == numeric && !kinds[numeric] {
			return fmt.Errorf("%w: the field %q has the types %s", errTypeConflict, f.name, strings.Join(s.fields[f.name], ", "))
		}
	}
	return nil
}

// kindOf returns the kind of an InfluxDB type. Integers and floats are one kind: they add up.
func kindOf(fieldType string) fieldKind {
	switch fieldType {
	case "integer", "float", "unsigned":
		return numeric
	case "string":
		return textual
	}
	return fieldKind(fieldType)
}

// schemas fetches the schema of each source at most once, for all queries of a batch.
type schemas struct {
	exporter *Exporter
	ctx      context.Context
	sources  [numSources]struct {
		fieldsOnce, tagsOnce once
		schema               *schema
		tags                 []string
	}
}

func (e *Exporter) newSchemas(ctx context.Context) *schemas { return &schemas{exporter: e, ctx: ctx} }

// schema returns the schema of a source, and stores it for later batches.
func (s *schemas) schema(source source) (*schema, error) {
	shared := &s.sources[source]
	err := shared.fieldsOnce.do(func() (err error) {
		if shared.schema, err = s.exporter.fetchSchema(s.ctx, source); err == nil {
			s.exporter.schemas[source].Store(shared.schema)
		}
		return err
	})
	return shared.schema, err
}

// tags returns the tags of the measurements of a source.
func (s *schemas) tags(source source) ([]string, error) {
	shared := &s.sources[source]
	err := shared.tagsOnce.do(func() (err error) {
		policy, names := s.exporter.config.measurements(source)
		shared.tags, err = s.exporter.fetchTags(s.ctx, policy, names...)
		return err
	})
	return shared.tags, err
}

// recentSchema returns the stored schema of a source, or nil if it is too old.
func (e *Exporter) recentSchema(s source, now time.Time) *schema {
	stored := e.schemas[s].Load()
	if stored == nil || now.Sub(stored.fetched) >= schemaLife || stored.fetched.After(now) {
		return nil
	}
	return stored
}

// missing returns the fields of a query that the measurements do not have: those that every
// writer records, and those that some do not.
func (s *schema) missing(q *query) (required, optional []string) {
	for _, f := range q.fields {
		switch {
		case len(s.fields[f.name]) > 0:
		case q.optional && f != sha256:
			optional = append(optional, f.name)
		default:
			required = append(required, f.name)
		}
	}
	return required, optional
}

// unwritten reports whether there are dumps, but none with some field of an optional query.
func (s *schema) unwritten(q *query) bool {
	_, optional := s.missing(q)
	return len(optional) > 0 && len(s.fields[sha256.name]) > 0
}

// checkTypes returns errTypeConflict if a field of the query has types that InfluxDB or the query
// can't read together.
func (e *Exporter) checkTypes(s *schemas, q *query, now time.Time) (err error) {
	if len(q.fields) == 0 {
		return nil
	}
	found := e.recentSchema(q.source, now)
	if found == nil {
		if found, err = s.schema(q.source); err != nil {
			return err
		}
	}
	return found.conflict(q)
}

// checkEmpty verifies an empty response against the schema: InfluxDB returns the same bytes for no
// rows, no such measurement, no such field and no such tag. The error is nil only for no rows.
// written is false if no writer has recorded a field of an optional query.
func (e *Exporter) checkEmpty(s *schemas, q *query, now time.Time) (written bool, err error) {
	if recent := e.recentSchema(q.source, now); recent != nil && recent.unwritten(q) {
		return false, nil
	}
	found, err := s.schema(q.source)
	if err != nil {
		return false, err
	}
	if len(found.fields) == 0 {
		_, names := e.config.measurements(q.source)
		return false, fmt.Errorf("%w: the database has no measurement %s", errMeasurementMissing, Quoted(names))
	}
	required, optional := found.missing(q)
	switch missing := append(required, optional...); {
	case found.unwritten(q):
		return false, nil
	case len(missing) > 0:
		return false, fmt.Errorf("%w: the measurement %s has no field %q", errFieldMissing, Quoted(found.existing), missing[0])
	case q.tag == "":
		return true, nil
	}
	tags, err := s.tags(q.source)
	if err == nil && !slices.Contains(tags, q.tag) {
		err = fmt.Errorf("%w: the measurement %s has no tag %q", errTagMissing, Quoted(found.existing), q.tag)
	}
	return err == nil, err
}
