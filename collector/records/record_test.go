package records

import (
	"testing"
)

// TestRecord_values: a value of another type is no value.
func TestRecord_values(t *testing.T) {
	r := Record{values: []any{"d", nil, true, 1.5, int64(1) << 62, nil, nil, nil, nil}}
	for column, want := range map[string]string{"dom": "d", "vmid": "", "sha256": "", "duration_sec": ""} {
		if got, ok := r.Text(column); got != want || ok != (want != "") {
			t.Errorf("%s is the text %q (%v), want %q", column, got, ok, want)
		}
	}
	for column, want := range map[string]float64{"duration_sec": 1.5, "gzip_size_bytes": 1 << 62, "dom": 0, "vmid": 0, "sha256": 0} {
		if got, ok := r.Number(column); got != want || ok != (want != 0) {
			t.Errorf("%s is the number %v (%v), want %v", column, got, ok, want)
		}
	}
}
