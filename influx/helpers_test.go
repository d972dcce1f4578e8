package influx_test

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// influxdb is a real one.
var influxdb influxtest.Shared

// drain reads all rows.
func drain(rows iter.Seq2[influx.Row, error]) error {
	for _, err := range rows {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(influxtest.Tests{M: m, Server: &influxdb})
}

const (
	token = "t0p-s3cr3t"
	whole = `{"results":[{"statement_id":0,"series":[{"name":"m","columns":["time","value"],"values":[[0,25]]}]}]}`
)

// count reads a response to its end and returns the number of its rows.
func count(ctx context.Context, client *influx.Client, maxBytes int64) (rows int, err error) {
	for _, err := range client.Rows(ctx, influx.Request{Statement: "SELECT 1", MaxBytes: maxBytes}) {
		if err != nil {
			return rows, err
		}
		rows++
	}
	return rows, nil
}

func secret(text string) influx.Secret { return func() (string, error) { return text, nil } }

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

// collect returns every row of a response as column → value, and the tags.
func collect(t *testing.T, client *influx.Client, statement string) ([]map[string]any, error) {
	t.Helper()
	var rows []map[string]any
	for row, err := range client.Rows(context.Background(), influx.Request{Statement: statement}) {
		if err != nil {
			return rows, err
		}
		values := map[string]any{"measurement": row.Measurement}
		for tag, value := range row.Tags {
			values["tag "+tag] = value
		}
		for _, column := range influx.Columns(row) {
			if value, ok := row.Value(column); ok {
				values[column] = value
			}
		}
		rows = append(rows, values)
	}
	return rows, nil
}

// failures are the kinds of error of exchanges, by label, or by server and label, which has
// precedence; empty for no error.
var failures = map[string]influx.Kind{
	"syntax":                         influx.ErrRefused,
	"sum_of_string":                  influx.ErrRefused,
	"unknown_function":               influx.ErrRefused,
	"two_statements":                 influx.ErrMalformed, // two results for one statement
	"influxdb-3.6.0/two_statements":  influx.ErrRefused,
	"second_fails":                   influx.ErrRefused,
	"policy_missing":                 influx.ErrRefused,
	"influxdb-3.6.0/policy_missing":  "", // 3.x ignores the policy
	"influxdb-3.8.3/policy_missing":  "",
	"influxdb-3.10.1/policy_missing": "",
	"none_query":                     influx.ErrUnauthorized,
}

// failure returns the kind of error of a recorded exchange; empty for none.
func failure(recording influxtest.Recording, server string, e influxtest.Exchange) influx.Kind {
	switch {
	case recording.Scenario == "no-database":
		return influx.ErrDatabaseNotFound
	case recording.Scenario == "file-limit" && strings.Contains(e.Response.Body, "file limit"):
		return influx.ErrFileLimit
	}
	if kind, ok := failures[server+"/"+e.Label]; ok {
		return kind
	}
	return failures[e.Label]
}

// column queries one number, whose column has a name of its own, as each metric's has.
func column(t *testing.T, client *influx.Client, aggregate, name string) (int64, error) {
	t.Helper()
	var value int64
	statement := fmt.Sprintf(`SELECT %s("size"::field) AS %q FROM "m"`, aggregate, name)
	for row, err := range client.Rows(t.Context(), influx.Request{Statement: statement}) {
		if err != nil {
			return 0, err
		}
		if value, err = row.Int64(name); err != nil {
			return 0, err
		}
	}
	return value, nil
}
