package collector_test

import (
	"slices"
	"strings"
	"testing"

	"memdump_exporter/collector"
	"memdump_exporter/collector/ranges"
)

// TestExamine: what a measurement lacks of what the table asks is named once, and nothing is
// said to be missing where it could not be asked for.
func TestExamine(t *testing.T) {
	tags := func(names ...string) string {
		rows := make([]string, 0, len(names))
		for _, name := range names {
			rows = append(rows, `["`+name+`"]`)
		}
		return `{"results":[{"series":[{"columns":["tagKey"],"values":[` + strings.Join(rows, ",") + `]}]}]}`
	}
	const fails = `{"results":[{"error":"not executed"}]}`
	for name, tt := range map[string]struct {
		fields, tags string // of both measurements
		dumps        collector.Measurement
		fails        bool
	}{
		"all is there":   {fieldKeys("sha256", "gzip_size_bytes", "duration_sec"), tags("dom", "vmid", "VMID"), collector.Measurement{}, false},
		"half is there":  {fieldKeys("duration_sec"), tags("VMID"), collector.Measurement{MissingFields: []string{"sha256", "gzip_size_bytes"}, MissingTags: []string{"vmid"}}, false},
		"fields fail":    {fails, tags("vmid", "VMID"), collector.Measurement{}, true},
		"tags fail":      {fieldKeys("sha256"), fails, collector.Measurement{}, true},
		"tag of no text": {fieldKeys("sha256"), strings.Replace(tags("vmid"), `"vmid"`, `1`, 1), collector.Measurement{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got := perVMCollectorAt(t, newClient(t, newServer(t, func(statement string) string {
				switch {
				case strings.HasPrefix(statement, "SHOW FIELD KEYS"):
					return tt.fields
				case strings.HasPrefix(statement, "SHOW TAG KEYS"):
					return tt.tags
				}
				return fails
			}), "db"), ranges.Whole, &clock{recordedNow}, 1).Examine(t.Context())
			if len(got) != 2 || got[0].Name != "mem_dumps" || got[1].Name != "vm_info" {
				t.Fatalf("%+v", got)
			}
			if m := got[0]; (m.Err != nil) != tt.fails || !slices.Equal(m.MissingFields, tt.dumps.MissingFields) || !slices.Equal(m.MissingTags, tt.dumps.MissingTags) {
				t.Errorf("of the dumps: %+v", m)
			}
			if m := got[1]; (m.Err != nil) != tt.fails || m.MissingFields != nil || m.MissingTags != nil {
				t.Errorf("of the telemetry: %+v", m)
			}
		})
	}
}
