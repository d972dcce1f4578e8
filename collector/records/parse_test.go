package records

import (
	"math"
	"testing"
)

// TestFilterTime: a time beyond 64 bits of nanoseconds is rejected, not rounded.
func TestFilterTime(t *testing.T) {
	for text, want := range map[string]int64{
		"1.5":                            1_500_000_000,
		"9223372036.854775807":           math.MaxInt64,
		"9223372036.854775808":           0,
		"9999999999":                     0,
		"1678-01-01T00:00:00Z":           -9214560000 * 1e9,
		"1677-12-31T23:59:59Z":           0,
		"2261-12-31T23:59:59.999999999Z": 9214646400*1e9 - 1,
		"2262-01-01T00:00:00Z":           0,
		"2261-02-29T00:00:00Z":           0,
	} {
		if got, err := filterTime(text); got != want || (err != nil) != (want == 0) {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
}
