// Package influxtest is for tests and for the demo. It contains recorded responses of
// real InfluxDB servers and a server that replays them byte for byte, starts real
// InfluxDB servers, and generates data together with the truth about it.
//
// It must not import the packages that it helps to test: the truth must not depend on
// them.
package influxtest

import (
	"embed"
	"encoding/json"
	"fmt"
	"path"
	"slices"
)

//go:embed testdata/recordings
var recordings embed.FS

// Recording is what one real server responded in one scenario. The files are unedited;
// testdata/recordings/README.md describes them.
type Recording struct {
	Server    string        `json:"server"`
	Scenario  string        `json:"scenario"`
	About     string        `json:"about"`
	Written   []string      `json:"written,omitempty"` // line protocol
	Truth     RecordedTruth `json:"truth,omitzero"`
	Exchanges []Exchange    `json:"exchanges"`
}

// RecordedTruth is the truth about the written points. A value is nil if the recording
// does not have it. DumpedVMs and MonitoredVMs count runtime IDs.
type RecordedTruth struct {
	Dumps            *int64   `json:"dumps"`
	DumpedVMs        *int64   `json:"dumped_vms"`
	DumpedDomains    *int64   `json:"dumped_domains"`
	CompressedBytes  *int64   `json:"compressed_bytes"`
	RawBytes         *int64   `json:"raw_bytes"`
	DurationMean     *float64 `json:"duration_mean"`
	DurationSum      *float64 `json:"duration_sum"`
	WithDuration     *int64   `json:"with_duration"`
	LastDumpNs       *int64   `json:"last_dump_ns"`
	MonitoredVMs     *int64   `json:"monitored_vms"`
	MonitoredDomains *int64   `json:"monitored_domains"`
	NeverDumped      *int64   `json:"never_dumped"`
}

// Exchange is one request and its response.
type Exchange struct {
	Label   string `json:"label"`
	Request struct {
		Method  string            `json:"method"`
		Path    string            `json:"path"`
		Query   map[string]string `json:"query"`
		Headers map[string]string `json:"headers,omitempty"`
	} `json:"request"`
	Response struct {
		Status  int               `json:"status"`
		Headers map[string]string `json:"headers"`
		Body    string            `json:"body"`
	} `json:"response"`
}

// Servers returns the servers, such as "influxdb-3.6.0", with recordings of all the
// scenarios, oldest version first.
func Servers(scenarios ...string) []string {
	all := []string{"influxdb-1.7.11", "influxdb-1.13.2", "influxdb-2.7.12", "influxdb-3.6.0", "influxdb-3.8.3", "influxdb-3.10.1"}
	return slices.DeleteFunc(all, func(server string) bool {
		return slices.ContainsFunc(scenarios, func(scenario string) bool {
			_, err := recordings.Open(path.Join("testdata/recordings", server, scenario+".json"))
			return err != nil
		})
	})
}

// Load returns one recording, such as Load("influxdb-3.6.0", "traps").
func Load(server, scenario string) (Recording, error) {
	var r Recording
	text, err := recordings.ReadFile(path.Join("testdata/recordings", server, scenario+".json"))
	if err != nil {
		return r, fmt.Errorf("no recording %q of %q: %w", scenario, server, err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read the recording %q of %q: %w", scenario, server, err)
	}
	return r, nil
}

// Scenarios returns the names of the recorded scenarios of a server.
func Scenarios(server string) ([]string, error) {
	files, err := recordings.ReadDir(path.Join("testdata/recordings", server))
	if err != nil {
		return nil, fmt.Errorf("no recordings of %q: %w", server, err)
	}
	names := make([]string, 0, len(files))
	for _, file := range files {
		name := file.Name()
		names = append(names, name[:len(name)-len(".json")])
	}
	return names, nil
}
