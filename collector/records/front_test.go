package records_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// fieldLimit is a proxy that makes a real InfluxDB 1.x behave as InfluxDB 3.8 and later: LIMIT and
// OFFSET count the values of each field separately, and records with the same time are in another
// order in each response.
type fieldLimit struct {
	URL string

	mu         sync.Mutex
	rng        *rand.Rand
	statements []string
}

// limitFields starts a fieldLimit until the test ends.
func limitFields(tb testing.TB, server string) *fieldLimit {
	tb.Helper()
	l := &fieldLimit{rng: rand.New(rand.NewPCG(38, 3))}
	forward := influxtest.Forward(tb, server)
	l.URL = influxtest.Handle(tb, func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		statement := query.Get("q")
		l.mu.Lock()
		l.statements = append(l.statements, statement)
		l.mu.Unlock()
		limit, offset := int64(1)<<62, int64(0)
		if m := limitOf.FindStringSubmatch(statement); m != nil {
			limit, _ = strconv.ParseInt(m[2], 10, 64)
			offset, _ = strconv.ParseInt(m[3], 10, 64)
			query.Set("q", m[1])
			r.URL.RawQuery = query.Encode()
		}
		r.Header.Del("Accept-Encoding")
		recorder := httptest.NewRecorder()
		forward.ServeHTTP(recorder, r)
		body, err := l.change(recorder.Body.Bytes(), limit, offset)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("X-Influxdb-Version", recorder.Header().Get("X-Influxdb-Version"))
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(body)
	})
	return l
}

// requests returns how many statements select records or their times.
func (l *fieldLimit) requests() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, statement := range l.statements {
		if selects.MatchString(statement) {
			n++
		}
	}
	return n
}

var (
	selects = regexp.MustCompile(`^SELECT `)
	limitOf = regexp.MustCompile(`^(SELECT .*?) LIMIT (\d+)(?: OFFSET (\d+))?$`)
)

// series is a series of a response.
type series struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
	Values  [][]any  `json:"values"`
}

// seriesOf decodes a response.
func seriesOf(body []byte) ([]series, error) {
	var response struct{ Results []struct{ Series []series } }
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(&response); err != nil {
		return nil, err
	}
	if len(response.Results) != 1 {
		return nil, fmt.Errorf("%d results", len(response.Results))
	}
	return response.Results[0].Series, nil
}

// change applies a limit to each field of a response, and shuffles rows with the same time.
func (l *fieldLimit) change(body []byte, limit, offset int64) ([]byte, error) {
	if len(body) == 0 { // of /ping
		return nil, nil
	}
	all, err := seriesOf(body)
	if err != nil || len(all) != 1 || !slices.Contains(all[0].Columns, "sha256") && !slices.Contains(all[0].Columns, "nth") {
		return body, nil // an error, nothing, or no records: as it is
	}
	s := &all[0]
	l.mu.Lock()
	l.rng.Shuffle(len(s.Values), func(i, j int) { s.Values[i], s.Values[j] = s.Values[j], s.Values[i] })
	l.mu.Unlock()
	slices.SortStableFunc(s.Values, func(a, b []any) int {
		return bytes.Compare(digits(b[0]), digits(a[0]))
	})
	counts := make([]int64, len(s.Columns))
	s.Values = slices.DeleteFunc(s.Values, func(row []any) bool {
		kept := false
		for i, name := range s.Columns {
			if i == 0 || name == "dom" || name == "vmid" || row[i] == nil {
				continue
			}
			if counts[i]++; counts[i] <= offset || counts[i] > offset+limit {
				row[i] = nil
				continue
			}
			kept = true
		}
		return !kept
	})
	if len(s.Values) == 0 {
		return []byte(noRows), nil
	}
	return json.Marshal(map[string]any{"results": []any{map[string]any{"statement_id": 0, "series": all}}})
}

// digits returns a time since 1970 with a fixed number of digits.
func digits(ns any) []byte {
	n, _ := ns.(json.Number).Int64()
	return fmt.Appendf(nil, "%020d", n)
}

// TestFieldLimit: the proxy returns what InfluxDB 3.8.3 and 3.10.1 returned.
func TestFieldLimit(t *testing.T) {
	server := influxdb.Server(t)
	if err := server.Exec(t.Context(), `CREATE DATABASE "writers"`); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"influxdb-3.8.3", "influxdb-3.10.1"} {
		recording := influxtest.MustLoad(t, version, "writers")
		if err := server.Write(t.Context(), "writers", recording.Written); err != nil {
			t.Fatal(err)
		}
		front := limitFields(t, server.URL)
		for _, label := range []string{"records_limit_5_0", "records_limit_5_5", "records_limit_1000_0", "records_of_domain"} {
			e := exchange(t, recording, label)
			want, err := seriesOf([]byte(e.Response.Body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := seriesOf(query(t, front.URL, "writers", e.Request.Query["q"]))
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s, %s:\n got %v\nwant %v", version, label, got, want)
			}
		}
	}
}

func exchange(t testing.TB, recording influxtest.Recording, label string) influxtest.Exchange {
	t.Helper()
	for _, e := range recording.Exchanges {
		if e.Label == label {
			return e
		}
	}
	t.Fatalf("%s of %s has no %s", recording.Scenario, recording.Server, label)
	return influxtest.Exchange{}
}

// query returns the response to a statement.
func query(t testing.TB, server, database, statement string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server+"/query", nil)
	if err != nil {
		t.Fatal(err)
	}
	values := req.URL.Query()
	values.Set("db", database)
	values.Set("epoch", "ns")
	values.Set("q", statement)
	req.URL.RawQuery = values.Encode()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// rowsOf returns how many rows a database has for a statement.
func rowsOf(t testing.TB, server, database, statement string) (n int) {
	t.Helper()
	for _, err := range newClient(t, server, database).Rows(t.Context(), influx.Request{Statement: statement}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}
