package ranges

import (
	"fmt"
	"slices"
	"time"
)

// This file is where time is cut: every function leaves the tiles ascending, without
// gap or overlap, from the beginning of the span to the end of time.

// open reports whether a tile is not known, or was asked about before it had settled.
func (f *Figure[P]) open(t *tile[P]) bool {
	return !t.known() || t.To > t.asked-int64(f.config.Settle)
}

// arrange makes the tiles fit for a call at now: they begin where the span does, the
// newest is cut where it has settled, and old neighbours are one.
func (f *Figure[P]) arrange(now int64, span Range) {
	// One a call, as what is forgotten may have to be refused again. The first is the oldest.
	if len(f.refusals) > 0 && now-f.refusals[0].at > int64(forgetRefusal) {
		f.refusals = slices.Delete(f.refusals, 0, 1)
	}
	if len(f.tiles) == 0 {
		f.lay(now, span)
		return
	}
	gone := 0
	for f.tiles[gone].To <= span.From { // the last has no end
		gone++
	}
	if gone > 0 {
		f.tiles, f.baseTiles = slices.Delete(f.tiles, 0, gone), 0
	}
	if first := f.tiles[0].From; first > span.From { // the clock was set back
		f.tiles, f.baseTiles = slices.Insert(f.tiles, 0, tile[P]{Range: Range{span.From, first}}), 0
	}
	// Not cut at each call: a step makes the open range a little longer, and the
	// number of ranges far smaller.
	settled, step := now-int64(f.config.Settle), int64(f.config.Settle/8)
	for i := range f.tiles {
		if t := f.tiles[i]; t.Contains(settled) && t.From != All.From && settled-t.From >= max(step, int64(narrowest)) {
			f.replace(i, Range{t.From, settled}, Range{settled, t.To})
			break
		}
	}
	f.join(now)
}

// lay cuts the span into ranges as long as they are old, so that a year is a dozen,
// and the share of them that is asked about again at each call stays the same.
func (f *Figure[P]) lay(now int64, span Range) {
	const lifetime = int64(50 * 365 * 24 * time.Hour) // what is older is all one
	f.tiles = []tile[P]{{Range: Range{0, All.To}}}
	age := max(int64(f.config.Settle), int64(narrowest))
	for {
		f.tiles[0].From = now - age
		if now-age <= span.From {
			f.tiles[0].From = span.From
			return
		}
		older := tile[P]{Range: Range{span.From, now - age}}
		f.tiles = slices.Insert(f.tiles, 0, older)
		if age *= 2; age > lifetime {
			return
		}
	}
}

// join makes neighbours one that have become old enough for the width of both,
// unless the server has refused as much there.
func (f *Figure[P]) join(now int64) {
	for i := 0; i+1 < len(f.tiles); {
		older, newer := &f.tiles[i], &f.tiles[i+1]
		both := Range{older.From, newer.To}
		if f.open(older) || f.open(newer) || !both.bounded() || both.To-both.From > now-both.To || f.refused(both) {
			i++
			continue
		}
		partial, err := older.partial.Merge(newer.partial)
		if err != nil { // merging everything says so, too
			i++
			continue
		}
		older.Range, older.partial = both, partial
		older.asked, older.took = min(older.asked, newer.asked), older.took+newer.took
		f.tiles, f.baseTiles = slices.Delete(f.tiles, i+1, i+2), 0
	}
}

// refused reports whether a range as wide as one was refused where it lies.
func (f *Figure[P]) refused(r Range) bool {
	return slices.ContainsFunc(f.refusals, func(old refusal) bool {
		return old.From < r.To && r.From < old.To && r.To-r.From >= old.To-old.From
	})
}

// cut makes two tiles of one that the server would not answer about.
func (f *Figure[P]) cut(at int, now int64, cause error) error {
	t := f.tiles[at]
	reach := time.Duration(0)
	for _, beside := range []int{at + 1, at - 1} {
		if beside >= 0 && beside < len(f.tiles) { // one, where the tile is endless
			reach = f.tiles[beside].width()
		}
	}
	older, newer, ok := t.halves(now, reach)
	switch {
	case !ok:
		return fmt.Errorf("a range too narrow to be cut further: %w", cause)
	case len(f.tiles) >= mostRanges:
		return fmt.Errorf("more than %d ranges: %w", mostRanges, cause)
	}
	f.replace(at, older, newer)
	// A refused range that holds a smaller one says nothing more.
	f.refusals = slices.DeleteFunc(f.refusals, func(r refusal) bool { return r.From <= t.From && t.To <= r.To })
	if t.bounded() {
		f.refusals = append(f.refusals, refusal{t.Range, now})
	}
	return nil
}

// replace puts two unknown tiles in the place of one.
func (f *Figure[P]) replace(at int, older, newer Range) {
	f.tiles, f.baseTiles = slices.Replace(f.tiles, at, at+1, tile[P]{Range: older}, tile[P]{Range: newer}), 0
}

// dueBy returns which tiles must be asked about in a call at now: those that are
// not known, open, or would be too old before the next call; and, so that they do
// not all become so at once, the one that is nearest to it.
func (f *Figure[P]) dueBy(now int64) func(*tile[P]) bool {
	gap := max(0, now-f.previous)
	nearest, most := int64(-1), 0.5
	for i := range f.tiles {
		t := &f.tiles[i]
		if !f.open(t) {
			if part := float64(now-t.asked) / float64(f.limit(t, now)); part >= most {
				nearest, most = t.From, part
			}
		}
	}
	return func(t *tile[P]) bool {
		return f.open(t) || t.From == nearest ||
			t.asked > now || now+gap-t.asked >= f.limit(t, now)
	}
}

// limit is checkWithin for a closed tile.
func (f *Figure[P]) limit(t *tile[P], now int64) int64 {
	return int64(checkWithin(time.Duration(now - t.To)))
}

// wave returns which tiles to ask about next, newest first.
func (f *Figure[P]) wave(due func(*tile[P]) bool) (wave []int) {
	for i := len(f.tiles) - 1; i >= 0 && len(wave) < sideBySide; i-- {
		if t := &f.tiles[i]; t.round != f.round && due(t) {
			wave = append(wave, i)
		}
	}
	return wave
}
