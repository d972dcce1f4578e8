// Package records serves /records: the points of the dumps' measurement, as JSON.
//
// It imports the standard library and package influx only.
package records

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"memdump_exporter/influx"
)

// Database is the InfluxDB that has the records; *influx.Client implements it.
type Database interface {
	// Rows yields the rows of the response to one request. After an error, the caller must
	// discard the rows before it.
	Rows(ctx context.Context, q influx.Request) iter.Seq2[influx.Row, error]
	// API returns the API of the database; APIAuto where a gateway may respond.
	API() influx.API
}

// Source is a measurement of dumps.
type Source struct {
	Database    Database
	Measurement string
	// Policy is the retention policy of the measurement; empty for the default one.
	Policy string
	// Now is the clock.
	Now func() time.Time
	// Accepted returns the time ranges within which InfluxDB accepts a query, oldest first; none
	// if it accepts any range or if they are unknown. It may be nil.
	Accepted func() []influx.TimeRange
	// Verify returns nil if the measurement exists. It is called when no record is found,
	// as InfluxDB returns the same for "no record" and "no such measurement".
	Verify func(context.Context) error
}

// Query selects records.
type Query struct {
	// Limit is the maximum number of records, Offset the number of newest records to skip.
	Limit, Offset int64
	// Dom and VMID are the values of these tags; empty for any.
	Dom, VMID string
	Time      influx.TimeRange
}

const (
	// maxWindows limits the requests for one list.
	maxWindows = 5000
	// maxWindowRecords limits the records in one response.
	maxWindowRecords = 20_000
	// A response may have minResponseBytes, which suffices for all dumps of one scheduled time,
	// and maxRecordBytes, which is more than the average record, for each expected record.
	maxRecordBytes   = 8 << 10
	minResponseBytes = 4 << 20
)

// List yields the records that a query selects, newest first, each once. Records with the same
// time are ordered by their values, because InfluxDB guarantees no order. After an error, the
// caller must discard the records before it.
func (s Source) List(ctx context.Context, q Query) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		l := listing{source: s, query: q, skip: q.Offset, left: q.Limit, yield: yield}
		if err := l.run(ctx); err != nil && !errors.Is(err, errStopped) {
			yield(Record{}, err)
		}
	}
}

// Newest returns at most limit records, newest first.
func (s Source) Newest(ctx context.Context, limit int64) ([]Record, error) {
	var newest []Record
	for r, err := range s.List(ctx, Query{Limit: limit, Time: influx.AllTime}) {
		if err != nil {
			return nil, err
		}
		newest = append(newest, r)
	}
	return newest, nil
}

// errStopped ends a listing whose reader has stopped.
var errStopped = errors.New("stopped")

// listing is one execution of List.
type listing struct {
	source     Source
	query      Query
	skip, left int64 // how many records are still to be skipped and yielded
	found      bool  // a record, which may be skipped
	unplaced   bool  // the places of the records are unknown
	begun      bool  // a record of the current window has been yielded
	yield      func(Record, error) bool
}

func (l *listing) run(ctx context.Context) error {
	if l.source.Database.API() == influx.APIV3Query {
		return l.gateway(ctx)
	}
	err := l.windows(ctx)
	if errors.Is(err, influx.ErrNotFound) && !l.found && l.source.Database.API() != influx.APIInfluxQL {
		return l.gateway(ctx)
	}
	if err == nil && !l.found {
		err = l.source.Verify(ctx)
	}
	return err
}

// windows lists the records window by window.
func (l *listing) windows(ctx context.Context) error {
	var known []influx.TimeRange
	if l.source.Accepted != nil {
		known = l.source.Accepted()
	}
	ws := newWindows(l.query.Time, l.source.Now().UnixNano(), known)
	for n := 0; l.left > 0 && !ws.done(); n++ {
		if n == maxWindows {
			return fmt.Errorf("%w: more than %d time ranges to read: set from and to", influx.ErrTooLarge, maxWindows)
		}
		w := ws.next()
		from, err := l.window(ctx, w)
		switch {
		case err == nil:
			ws.accepted(w, from)
		case l.begun || !tooWide(ctx, err) || !ws.rejected(w):
			return err
		}
	}
	return nil
}

// tooWide reports whether a narrower window may succeed.
func tooWide(ctx context.Context, err error) bool {
	return errors.Is(err, influx.ErrFileLimit) || errors.Is(err, influx.ErrTooLarge) || errors.Is(err, influx.ErrTimeout) && ctx.Err() == nil
}

// window lists the newest records of a window: as many as are needed, at most maxWindowRecords.
// It returns the time from which on it has listed the window.
func (l *listing) window(ctx context.Context, w influx.TimeRange) (from int64, err error) {
	l.begun = false
	n := min(l.skip+l.left, maxWindowRecords)
	if w.From, err = l.nth(ctx, w, n); err != nil {
		return 0, err
	}
	return w.From, l.read(ctx, w, influx.Request{Statement: l.selectRecords(w), MaxBytes: minResponseBytes + n*maxRecordBytes})
}

// nth returns the time of the n-th newest record with a hash, or the beginning of the window if
// there are fewer. Every writer records a hash, so the window from that time on has n records and
// few more. The query gets half of the time that is left, which leaves time for a narrower window.
func (l *listing) nth(ctx context.Context, w influx.TimeRange, n int64) (int64, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	at := w.From
	for row, err := range l.source.Database.Rows(ctx, influx.Request{Statement: l.selectNth(w, n)}) {
		if err != nil {
			return 0, err
		}
		if at, err = row.Time(); err != nil {
			return 0, err
		}
		if _, ok := row.Value(nthColumn); !ok || !w.Contains(at) {
			return 0, fmt.Errorf("%w: another column or time than the query selects", influx.ErrMalformed)
		}
	}
	return at, nil
}

// gateway lists the records of a v3-query gateway. A gateway has no query for the schema, so an
// empty response is not verified.
func (l *listing) gateway(ctx context.Context) error {
	l.skip, l.unplaced = 0, true
	return l.read(ctx, l.query.Time, influx.Request{
		Statement: l.selectSQL(), API: influx.APIV3Query, MaxBytes: minResponseBytes + l.left*maxRecordBytes,
	})
}

// read yields the records of a response.
func (l *listing) read(ctx context.Context, w influx.TimeRange, request influx.Request) error {
	skip := l.skip // l.skip keeps its value if the response fails
	var tie []Record
	for row, err := range l.source.Database.Rows(ctx, request) {
		if err != nil {
			return err
		}
		r, err := newRecord(row)
		if err != nil {
			return err
		}
		_, ok := row.Value(recordsColumn)
		if !ok && request.API != influx.APIV3Query || !w.Contains(r.TimeNs) || len(tie) > 0 && r.TimeNs > tie[0].TimeNs {
			return fmt.Errorf("%w: another column, time or order than the query selects", influx.ErrMalformed)
		}
		l.found = true
		if len(tie) > 0 && r.TimeNs != tie[0].TimeNs {
			if skip, err = l.pass(tie, skip); err != nil || l.left == 0 {
				return err
			}
			tie = tie[:0]
		}
		tie = append(tie, r)
	}
	skip, err := l.pass(tie, skip)
	l.skip = skip
	return err
}

// pass skips and yields records with the same time, and returns how many are still to be skipped.
func (l *listing) pass(tie []Record, skip int64) (int64, error) {
	if skip >= int64(len(tie)) {
		return skip - int64(len(tie)), nil
	}
	if err := sortTie(tie); err != nil {
		return 0, err
	}
	for i, r := range tie[skip:] {
		if l.left == 0 {
			break
		}
		if r.place = skip + int64(i); l.unplaced {
			r.place = -1
		}
		l.left--
		l.begun = true
		if !l.yield(r, nil) {
			return 0, errStopped
		}
	}
	return 0, nil
}

// sortTie orders records with the same time by their values: a page may end between them, and
// InfluxDB may return them in another order for the next page.
func sortTie(tie []Record) error {
	if len(tie) < 2 {
		return nil
	}
	type entry struct {
		record Record
		text   []byte
	}
	entries := make([]entry, len(tie))
	for i, r := range tie {
		text, err := r.MarshalJSON()
		if err != nil {
			return err
		}
		entries[i] = entry{r, text}
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare(a.text, b.text) })
	for i, e := range entries {
		tie[i] = e.record
	}
	return nil
}
