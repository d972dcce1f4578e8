package collector

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"memdump_exporter/influx"
)

// TestReasonOf: each error has a name of the closed list, and the most telling one.
func TestReasonOf(t *testing.T) {
	for want, err := range map[string]error{
		"out_of_range":      fmt.Errorf("%w: %w", &influx.Error{Kind: influx.ErrMalformed}, errOutOfRange),
		"unreachable":       fmt.Errorf("asking: %w", &influx.Error{Kind: influx.ErrUnreachable, Err: context.Canceled}),
		"timeout":           fmt.Errorf("waiting: %w", context.DeadlineExceeded),
		"canceled":          fmt.Errorf("waiting: %w", context.Canceled),
		string(errInternal): errors.New("something else"),
	} {
		if got := reasonOf(err); got != want {
			t.Errorf("%v is %q, want %q", err, got, want)
		}
	}
}
