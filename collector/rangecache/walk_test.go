package rangecache

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

func isRejected(err error) bool { return errors.Is(err, errRejected) }

// TestWalk: each point is visited once, newest first, with any limit and any accepted ranges.
func TestWalk(t *testing.T) {
	d := newDatabase(11)
	d.fill(100, 500)
	for name, accepted := range map[string][]Range{
		"nothing": nil,
		"coarse":  {{All.From, d.now - 24*hour}, {d.now - 24*hour, All.To}},
	} {
		for _, files := range []int{0, 20, 2} {
			for relevant, parts := range map[Range]int{
				All: 2, {d.now - 50*24*hour, d.now}: 2, {d.now - 24*hour, d.now}: 1, {d.now - 5, d.now - 4}: 1,
			} {
				t.Run(fmt.Sprint(name, files, relevant), func(t *testing.T) {
					d.files, d.queried = files, nil
					var seen []int64
					newest, visits := All.To, 0
					err := Walk(d.now, relevant, accepted, isRejected, func(r Range) error {
						found, err := d.query(r)
						if err != nil {
							return err
						}
						if r.To > newest {
							t.Errorf("from %v to %v", newest, r)
						}
						newest = r.From
						visits++
						seen = append(seen, found.times...)
						return nil
					})
					if err != nil {
						t.Fatal(err)
					}
					slices.Sort(seen)
					if want := d.truth(relevant); !slices.Equal(seen, want) {
						t.Errorf("%d points are seen, there are %d", len(seen), len(want))
					}
					if accepted == nil {
						parts = 1
					}
					if files == 0 && visits != parts {
						t.Errorf("%d visits, want %d", visits, parts)
					}
					if n := len(d.queried); files == 20 && n > 150 {
						t.Errorf("%d queries", n)
					}
				})
			}
		}
	}
}

func TestWalk_stops(t *testing.T) {
	own := errors.New("own")
	for name, tt := range map[string]struct{ visit, want error }{
		"at once":         {ErrStop, nil},
		"at an error":     {own, own},
		"all is rejected": {errRejected, errRejected},
	} {
		t.Run(name, func(t *testing.T) {
			visits := 0
			err := Walk(now, All, nil, isRejected, func(Range) error { visits++; return tt.visit })
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if visits > 100 || visits > 1 && !errors.Is(tt.visit, errRejected) {
				t.Errorf("%d visits", visits)
			}
		})
	}
}
