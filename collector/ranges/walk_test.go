package ranges

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestWalk: newest first, each point once, at any limit and with any map.
func TestWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(11)
		s.history(100, 500)
		now := time.Now().UnixNano()
		maps := map[string][]Range{
			"none":   nil,
			"coarse": {{All.From, now - 24*hour}, {now - 24*hour, All.To}},
		}
		for name, known := range maps {
			for _, files := range []int{0, 20, 2} {
				for span, parts := range map[Range]int{All: 2, {now - 50*24*hour, now}: 2, {now - 24*hour, now}: 1, {now - 5, now - 4}: 1} {
					s.files, s.questions = files, 0
					seen, newest, visits := ids{}, All.To, 0
					err := Walk(t.Context(), now, span, known, func(ctx context.Context, r Range) error {
						found, err := s.ask(ctx, r)
						if err != nil {
							return err
						}
						if r.To > newest {
							t.Fatalf("%s, %d files: from %v to %v", name, files, newest, r)
						}
						newest = r.From
						visits++
						seen, err = seen.Merge(found)
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					sameIDs(t, seen, s.truth(span))
					if known == nil {
						parts = 1
					}
					if files == 0 && visits != parts || files == 20 && s.questions > 150 {
						t.Errorf("%s, %d files: %v in %d pieces, want %d, by %d questions", name, files, span, visits, parts, s.questions)
					}
				}
			}
		}
		visits := 0
		s.files = 2
		if err := Walk(t.Context(), now, All, nil, func(ctx context.Context, r Range) error {
			if _, err := s.ask(ctx, r); err != nil {
				return err
			}
			visits++
			return ErrStop
		}); err != nil || visits != 1 {
			t.Errorf("%v after %d visits, want to stop at the first", err, visits)
		}
		own := errors.New("own")
		if err := Walk(t.Context(), now, All, nil, func(context.Context, Range) error { return own }); !errors.Is(err, own) {
			t.Error(err)
		}
		refused := 0
		if err := Walk(t.Context(), now, All, nil, func(context.Context, Range) error { refused++; return ErrTooWide }); !errors.Is(err, ErrTooWide) || refused > mostRanges+1 {
			t.Errorf("%v after %d visits that were all refused", err, refused)
		}
	})
}
