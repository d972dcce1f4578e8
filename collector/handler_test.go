package collector

import (
	"math"
	"net/http"
	"strconv"
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

// FuzzBudget: never more than announced, and what announces nothing counts as absent.
func FuzzBudget(f *testing.F) {
	for _, header := range []string{"", "15", "2.5", "0.5", "0", "-1", "NaN", "Inf", "1e300", "0x1p-20", "5e-324", "10, 20"} {
		f.Add(header)
	}
	h := HandlerConfig{Timeout: 10 * time.Second, TimeoutOffset: 500 * time.Millisecond}
	f.Fuzz(func(t *testing.T, header string) {
		got := h.budget(http.Header{timeoutHeader: {header}})
		announced, err := strconv.ParseFloat(header, 64)
		if err != nil || !(announced > 0) || math.IsInf(announced, 0) {
			announced = h.Timeout.Seconds()
		}
		if got < 0 || got.Seconds() > announced || got > 24*time.Hour {
			t.Errorf("%q: %v", header, got)
		}
	})
}
