package influxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Records returns the records of a history as /records must return them, newest first.
func (h *History) Records() []map[string]any {
	var all []map[string]any
	for _, p := range h.Points(Dumps) {
		r := map[string]any{"timestamp": time.Unix(0, p.TimeNs).UTC().Format("2006-01-02T15:04:05.000Z")}
		for _, name := range []string{"dom", "vmid", "sha256", "duration_sec", "gzip_size_bytes", "ctime", "mtime", "atime", "dump_path"} {
			r[name] = p.Fields[name]
			if tag := p.Tags[name]; tag != "" {
				r[name] = tag
			}
		}
		all = append(all, r)
	}
	return all
}

// RecordDifferences compares records by RecordText, and ignores the order of records with equal times. Each record that is
// missing, too many, or out of order is one difference.
func RecordDifferences(got, want []map[string]any) []string {
	var differences []string
	count := map[string]int{}
	for _, r := range want {
		count[RecordText(r)]++
	}
	for _, r := range got {
		if count[RecordText(r)]--; count[RecordText(r)] < 0 {
			differences = append(differences, "not written, or too many times: "+RecordText(r))
		}
	}
	for r, n := range count {
		if n > 0 {
			differences = append(differences, "missing: "+r)
		}
	}
	for i := 1; i < len(got); i++ {
		if before, after := fmt.Sprint(got[i-1]["timestamp"]), fmt.Sprint(got[i]["timestamp"]); before < after {
			differences = append(differences, fmt.Sprintf("not newest first: %s before %s", before, after))
		}
	}
	slices.Sort(differences)
	return differences
}

// RecordText returns a record as JSON in a canonical form: integers by their digits, other numbers by their value.
func RecordText(r map[string]any) string {
	encoded, _ := json.Marshal(r)
	var normal map[string]any
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	_ = decoder.Decode(&normal)
	for name, value := range normal {
		n, ok := value.(json.Number)
		if !ok {
			continue
		}
		if _, err := n.Int64(); err != nil {
			f, _ := n.Float64()
			normal[name] = f
		}
	}
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(normal)
	return strings.TrimSpace(text.String())
}
