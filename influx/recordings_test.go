package influx_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// decoded is a recorded body, decoded at once by encoding/json.
type decoded struct {
	Error   string `json:"error"`
	Results []struct {
		Error  string `json:"error"`
		Series []struct {
			Name    string            `json:"name"`
			Tags    map[string]string `json:"tags"`
			Columns []string          `json:"columns"`
			Values  [][]any           `json:"values"`
		} `json:"series"`
	} `json:"results"`
}

func decodeWhole(t *testing.T, body string) (rows []map[string]any) {
	t.Helper()
	var d decoded
	dec := json.NewDecoder(strings.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&d); err != nil {
		t.Fatalf("the recorded body: %v", err)
	}
	for _, series := range d.Results[0].Series {
		for _, row := range series.Values {
			values := map[string]any{"measurement": series.Name}
			for tag, value := range series.Tags {
				values["tag "+tag] = value
			}
			for i, column := range series.Columns {
				values[column] = row[i]
			}
			rows = append(rows, values)
		}
	}
	return rows
}

// sentByClient reports whether our client can send the recorded request.
func sentByClient(e influxtest.Exchange) bool {
	query := e.Request.Query
	return e.Request.Method == "GET" && e.Request.Path == "/query" && len(e.Request.Headers) == 0 &&
		len(query) == 3 && query["db"] != "" && query["epoch"] == "ns" && query["q"] != ""
}

func TestRows_recordings(t *testing.T) {
	for _, server := range influxtest.Servers() {
		scenarios, err := influxtest.Scenarios(server)
		if err != nil {
			t.Fatal(err)
		}
		for _, scenario := range scenarios {
			t.Run(server+"/"+scenario, func(t *testing.T) { replayAll(t, server, scenario) })
		}
	}
}

func replayAll(t *testing.T, server, scenario string) {
	recording := influxtest.MustLoad(t, server, scenario)
	replay := influxtest.Serve(t, recording)
	sent := 0
	for _, e := range recording.Exchanges {
		if !sentByClient(e) {
			continue
		}
		sent++
		client := newClient(t, replay.URL, e.Request.Query["db"], "")
		rows, err := collect(t, client, e.Request.Query["q"])
		if want := failure(recording, server, e); want != "" {
			if !errors.Is(err, want) {
				t.Errorf("%s: error %v, want %s", e.Label, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", e.Label, err, e.Response.Body)
			continue
		}
		if want := decodeWhole(t, e.Response.Body); !reflect.DeepEqual(rows, want) {
			t.Errorf("%s:\n got %v\nwant %v", e.Label, rows, want)
		}
	}
	if sent == 0 && scenario != "identity" {
		t.Error("no exchange of this recording was requested")
	}
	if unknown := replay.Unknown(); len(unknown) > 0 {
		t.Errorf("requests without a recording: %q", unknown)
	}
}

// TestRows_truth compares the client's values for each recording with the truth of its
// writer.
func TestRows_truth(t *testing.T) {
	for _, scenario := range []string{"traps", "one-point", "no-rows-in-range", "writers"} {
		for _, server := range influxtest.Servers(scenario) {
			t.Run(server+"/"+scenario, func(t *testing.T) {
				recording := influxtest.MustLoad(t, server, scenario)
				replay := influxtest.Serve(t, recording)
				got := influxtest.RecordedTruth{}
				seen := make(map[string]bool)
				for _, e := range recording.Exchanges {
					if !sentByClient(e) || seen[e.Label] || failure(recording, server, e) != "" { // the first of a label is about all time
						continue
					}
					seen[e.Label] = true
					readTruth(t, newClient(t, replay.URL, e.Request.Query["db"], ""), e, &got)
				}
				read := given(got)
				for name, want := range given(recording.Truth) {
					if strings.HasSuffix(name, "Domains") || name == "NeverDumped" {
						continue // no single query returns these
					}
					if read[name] != want {
						t.Errorf("%s: read %v, written %v", name, read[name], want)
					}
				}
			})
		}
	}
}

// readTruth reads what one exchange returns of the truth.
func readTruth(t *testing.T, client *influx.Client, e influxtest.Exchange, got *influxtest.RecordedTruth) {
	t.Helper()
	var rows, value, last, count int64
	var sum, mean float64
	byTag := make(map[string]map[string]bool)
	for row, err := range client.Rows(context.Background(), influx.Request{Statement: e.Request.Query["q"]}) {
		if err != nil {
			t.Fatalf("%s: %v", e.Label, err)
		}
		rows++
		for tag, name := range row.Tags {
			if byTag[tag] == nil {
				byTag[tag] = make(map[string]bool)
			}
			byTag[tag][name] = name != ""
		}
		switch e.Label {
		case "dumps", "compressed_bytes", "raw_bytes":
			var column string
			if column, err = row.Only(); err == nil {
				value, err = row.Int64(column)
			}
		case "durations":
			sum, err = row.Float64("sum")
			if err == nil {
				count, err = row.Int64("count")
			}
		case "duration_mean":
			mean, err = row.Float64("value")
		case "last_dump_ordered", "last_dump":
			last, err = row.Time()
		}
		if err != nil {
			t.Fatalf("%s: %v", e.Label, err)
		}
	}
	distinct := func(tag string) *int64 {
		names := int64(0)
		for _, named := range byTag[tag] {
			if named {
				names++
			}
		}
		return &names
	}
	switch {
	case e.Label == "dumps":
		got.Dumps = &value
	case e.Label == "compressed_bytes":
		got.CompressedBytes = &value
	case e.Label == "raw_bytes":
		got.RawBytes = &value
	case e.Label == "durations":
		got.DurationSum, got.WithDuration = &sum, &count
	case e.Label == "dumped_vms_list", e.Label == "newest_by_vm":
		got.DumpedVMs = distinct("vmid")
	case e.Label == "monitored_list", e.Label == "telemetry":
		got.MonitoredVMs = distinct("VMID")
	case e.Label == "duration_mean" && rows > 0:
		got.DurationMean = &mean
	case (e.Label == "last_dump_ordered" || e.Label == "last_dump") && rows > 0:
		got.LastDumpNs = &last
	}
}

// given returns the fields that are not nil.
func given(r influxtest.RecordedTruth) map[string]any {
	all := make(map[string]any)
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		if field := v.Field(i); !field.IsNil() {
			all[v.Type().Field(i).Name] = field.Elem().Interface()
		}
	}
	return all
}

func TestIdentify_recordings(t *testing.T) {
	want := map[string]influx.Server{
		"influxdb-1.7.11": {Major: 1, Version: "unknown"},
		"influxdb-2.7.12": {Major: 2, Version: "dev"},
		"influxdb-3.6.0":  {Major: 3, Version: "3.6.0"},
		"influxdb-3.8.3":  {Major: 3, Version: "3.8.3"},
	}
	for _, server := range influxtest.Servers("identity") {
		t.Run(server, func(t *testing.T) {
			replay := influxtest.Serve(t, influxtest.MustLoad(t, server, "identity"))
			client := newClient(t, replay.URL, "x", "")
			for range 2 { // the second one is stored
				got, err := client.Identify(context.Background())
				if err != nil || got != want[server] {
					t.Errorf("got %+v, %v; want %+v", got, err, want[server])
				}
			}
			if got := replay.Requests(); !slices.Equal(got, []string{"GET /ping"}) {
				t.Errorf("requests %q, want one ping", got)
			}
		})
	}
}

// TestServerError_recordings: a rejected statement is no failure of the server, whatever its
// status.
func TestServerError_recordings(t *testing.T) {
	for _, server := range influxtest.Servers() {
		scenarios, err := influxtest.Scenarios(server)
		if err != nil {
			t.Fatal(err)
		}
		for _, scenario := range scenarios {
			for _, e := range influxtest.MustLoad(t, server, scenario).Exchanges {
				if e.Request.Path != "/query" || e.Response.Status == http.StatusOK || e.Request.Headers["Accept"] != "" { // never sent by us
					continue
				}
				err := influx.ServerError(e.Response.Status, []byte(e.Response.Body))
				if errors.Is(err, influx.ErrServer) || errors.Is(err, influx.ErrMalformed) {
					t.Errorf("%s, %s, %s: %v", server, scenario, e.Label, err)
				}
			}
		}
	}
}

// TestRows_token: with only a token set, as in existing deployments, each server accepts the
// header; a wrong token is unauthorized.
func TestRows_token(t *testing.T) {
	for _, server := range influxtest.Servers("auth") {
		t.Run(server, func(t *testing.T) {
			recording := influxtest.MustLoad(t, server, "auth")
			replay := influxtest.Serve(t, recording)
			if server == "influxdb-1.7.11" {
				// 1.x has no tokens: user and password go as "Token user:password".
				replay.Token = "s3cr3t"
			}
			token := map[bool]string{true: "root:s3cr3t", false: replay.Token}[server == "influxdb-1.7.11"]
			client := newClient(t, replay.URL, "a", token)
			rows, err := collect(t, client, `SELECT COUNT("sha256") AS "value" FROM "mem_dumps"`)
			if err != nil || len(rows) != 1 {
				t.Errorf("%v, %v", rows, err)
			}
			if unknown := replay.Unknown(); len(unknown) > 0 {
				t.Errorf("requests without a recording: %q", unknown)
			}
			for _, e := range recording.Exchanges {
				if e.Request.Path != "/query" || e.Response.Status == 200 {
					continue
				}
				if err := influx.ServerError(e.Response.Status, []byte(e.Response.Body)); !errors.Is(err, influx.ErrUnauthorized) {
					t.Errorf("%s: %v, want unauthorized", e.Label, err)
				}
			}
		})
	}
}
