package influx_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

func newClient(t *testing.T, url, database string, token string) *influx.Client {
	t.Helper()
	transport := influx.NewTransport(nil)
	t.Cleanup(transport.CloseIdleConnections)
	client, err := influx.New(influx.Config{
		URL: url, Database: database, UserAgent: "memdump_exporter/test", Transport: transport,
		Token: func() (string, error) { return token, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// collect returns every row of an answer as column → value, with the tags beside.
func collect(t *testing.T, client *influx.Client, statement string) ([]map[string]any, error) {
	t.Helper()
	var rows []map[string]any
	err := client.Query(context.Background(), influx.Request{Statement: statement}, func(row influx.Row) error {
		values := map[string]any{"measurement": row.Measurement}
		for tag, value := range row.Tags {
			values["tag "+tag] = value
		}
		for _, column := range allColumns {
			if value, ok := row.Value(column); ok {
				values[column] = value
			}
		}
		rows = append(rows, values)
		return nil
	})
	return rows, err
}

// allColumns are the columns that the recordings have.
var allColumns = []string{
	"time", "value", "sum", "count", "dumps", "bytes", "last", "last_cpu", "last_mem", "count_last_cpu", "count_last_mem",
	"fieldKey", "fieldType", "tagKey", "key", "dom", "vmid", "sha256", "duration_sec", "gzip_size_bytes", "ctime", "mtime", "atime", "dump_path",
}

// decoded is the recorded body read in another way: whole, by encoding/json.
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
				if !slices.Contains(allColumns, column) {
					t.Fatalf("allColumns misses %q", column)
				}
				values[column] = row[i]
			}
			rows = append(rows, values)
		}
	}
	return rows
}

// sentByClient reports whether our client can make the recorded request.
func sentByClient(e influxtest.Exchange) bool {
	query := e.Request.Query
	return e.Request.Method == "GET" && e.Request.Path == "/query" && len(e.Request.Headers) == 0 &&
		len(query) == 3 && query["db"] != "" && query["epoch"] == "ns" && query["q"] != ""
}

// refused are the labels whose answers are refusals, on every server unless named
// with it.
var refused = map[string]influx.Kind{
	"syntax":                        influx.ErrRefused,
	"sum_of_string":                 influx.ErrRefused,
	"unknown_function":              influx.ErrRefused,
	"two_statements":                influx.ErrMalformed, // two results for what should be one statement
	"influxdb-3.6.0/two_statements": influx.ErrRefused,
	"second_fails":                  influx.ErrRefused,
	"none_query":                    influx.ErrUnauthorized,
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
	asked := 0
	for _, e := range recording.Exchanges {
		if !sentByClient(e) {
			continue
		}
		asked++
		want, wantRefusal := refused[server+"/"+e.Label]
		if !wantRefusal {
			want, wantRefusal = refused[e.Label]
		}
		switch {
		case scenario == "no-database":
			want, wantRefusal = influx.ErrDatabaseNotFound, true
		case scenario == "file-limit" && strings.Contains(e.Response.Body, "file limit"):
			want, wantRefusal = influx.ErrFileLimit, true
		}
		client := newClient(t, replay.URL, e.Request.Query["db"], "")
		rows, err := collect(t, client, e.Request.Query["q"])
		if wantRefusal {
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
	if asked == 0 && scenario != "identity" {
		t.Error("no exchange of this recording was asked")
	}
	if unknown := replay.Unknown(); len(unknown) > 0 {
		t.Errorf("requests that were not recorded: %q", unknown)
	}
}

// TestRows_truth holds what the client reads in each recording against what the
// writer of that recording knew.
func TestRows_truth(t *testing.T) {
	for _, server := range influxtest.Servers() {
		for _, scenario := range []string{"traps", "one-point", "no-rows-in-range"} {
			t.Run(server+"/"+scenario, func(t *testing.T) {
				recording := influxtest.MustLoad(t, server, scenario)
				replay := influxtest.Serve(t, recording)
				got := influxtest.RecordedTruth{}
				seen := make(map[string]bool)
				for _, e := range recording.Exchanges {
					if !sentByClient(e) || seen[e.Label] { // the first of a label asks about all time
						continue
					}
					seen[e.Label] = true
					readTruth(t, newClient(t, replay.URL, e.Request.Query["db"], ""), e, &got)
				}
				read := given(got)
				for name, want := range given(recording.Truth) {
					if read[name] != want {
						t.Errorf("%s: read %v, written %v", name, read[name], want)
					}
				}
			})
		}
	}
}

func readTruth(t *testing.T, client *influx.Client, e influxtest.Exchange, got *influxtest.RecordedTruth) {
	t.Helper()
	var rows, last, value int64
	var mean float64
	err := client.Query(context.Background(), influx.Request{Statement: e.Request.Query["q"]}, func(row influx.Row) (err error) {
		rows++
		switch e.Label {
		case "dumps", "compressed_bytes":
			value, err = row.Int64("value")
		case "duration_mean":
			mean, err = row.Float64("value")
		case "last_dump_ordered":
			last, err = row.Time()
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v", e.Label, err)
	}
	switch {
	case e.Label == "dumps":
		got.Dumps = &value
	case e.Label == "compressed_bytes":
		got.CompressedBytes = &value
	case e.Label == "dumped_vms_list":
		got.DumpedVMs = &rows
	case e.Label == "monitored_list":
		got.MonitoredVMs = &rows
	case e.Label == "duration_mean" && rows > 0:
		got.DurationMean = &mean
	case e.Label == "last_dump_ordered" && rows > 0:
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
	for _, server := range influxtest.Servers() {
		t.Run(server, func(t *testing.T) {
			replay := influxtest.Serve(t, influxtest.MustLoad(t, server, "identity"))
			client := newClient(t, replay.URL, "x", "")
			for range 2 { // the second answer is the kept one
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

// TestServerError_recordings: whatever its status, a server's refusal is no failure of
// the server's.
func TestServerError_recordings(t *testing.T) {
	for _, server := range influxtest.Servers() {
		scenarios, err := influxtest.Scenarios(server)
		if err != nil {
			t.Fatal(err)
		}
		for _, scenario := range scenarios {
			for _, e := range influxtest.MustLoad(t, server, scenario).Exchanges {
				if e.Request.Path != "/query" || e.Response.Status == http.StatusOK || e.Request.Headers["Accept"] != "" { // which we never send
					continue
				}
				if err := influx.ServerError(e.Response.Status, []byte(e.Response.Body)); errors.Is(err, influx.ErrServer) || errors.Is(err, influx.ErrMalformed) {
					t.Errorf("%s, %s, %s: %v", server, scenario, e.Label, err)
				}
			}
		}
	}
}

// TestRows_token asks with nothing but a token, as an existing deployment does:
// the recorded servers accept the header, and say unauthorized to a wrong one.
func TestRows_token(t *testing.T) {
	for _, server := range influxtest.Servers() {
		t.Run(server, func(t *testing.T) {
			recording := influxtest.MustLoad(t, server, "auth")
			replay := influxtest.Serve(t, recording)
			if server == "influxdb-1.7.11" {
				// 1.x has no tokens: user and password go as "Token user:password".
				replay.Token = "s3cr3t"
			}
			token := map[bool]string{true: "root:s3cr3t", false: replay.Token}[server == "influxdb-1.7.11"]
			// /ping is recorded with some credentials only.
			replay.Also(identityOf(t, recording))
			client := newClient(t, replay.URL, "a", token)
			if _, err := client.Identify(context.Background()); err != nil {
				t.Fatal(err)
			}
			rows, err := collect(t, client, `SELECT COUNT("sha256") AS "value" FROM "mem_dumps"`)
			if err != nil || len(rows) != 1 {
				t.Errorf("%v, %v", rows, err)
			}
			if unknown := replay.Unknown(); len(unknown) > 0 {
				t.Errorf("requests that were not recorded: %q", unknown)
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

// identityOf is a recorded answer of /ping, whatever the credentials of the request.
func identityOf(t *testing.T, recording influxtest.Recording) influxtest.Exchange {
	t.Helper()
	for _, e := range recording.Exchanges {
		if e.Request.Path == "/ping" && e.Response.Status < 300 {
			e.Request.Headers = maps.Clone(e.Request.Headers)
			delete(e.Request.Headers, "Authorization")
			e.Request.Headers["Authorization"] = influxtest.AnyAuthorization
			return e
		}
	}
	t.Fatal("no ping was answered")
	return influxtest.Exchange{}
}
