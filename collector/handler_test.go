package collector

import (
	"net/http"
	"testing"
	"time"
)

func TestHandlerConfig_budget(t *testing.T) {
	h := HandlerConfig{Timeout: 10 * time.Second, TimeoutOffset: 500 * time.Millisecond}
	for header, want := range map[string]time.Duration{
		"":        9500 * time.Millisecond,
		"15":      14500 * time.Millisecond,
		"2.5":     2 * time.Second,
		"0.5":     250 * time.Millisecond, // the offset would leave nothing
		"0":       9500 * time.Millisecond,
		"-1":      9500 * time.Millisecond,
		"NaN":     9500 * time.Millisecond,
		"Inf":     9500 * time.Millisecond,
		"1e300":   24*time.Hour - 500*time.Millisecond,
		"soon":    9500 * time.Millisecond,
		"10, 20":  9500 * time.Millisecond,
		"0x1p-20": 476 * time.Nanosecond,
	} {
		if got := h.budget(http.Header{timeoutHeader: {header}}); got != want {
			t.Errorf("%q: %v, want %v", header, got, want)
		}
	}
}
