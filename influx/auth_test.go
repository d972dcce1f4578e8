package influx_test

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

func secret(text string) influx.Secret { return func() (string, error) { return text, nil } }

// TestAuth_recordings: each scheme that a server accepts, as recorded.
func TestAuth_recordings(t *testing.T) {
	const token = "s3cr3t-t0k3n"
	for _, tt := range []struct {
		server string
		config influx.Config
		wants  bool
	}{
		{"influxdb-1.7.11", influx.Config{Username: "root", Password: secret(token)}, true},
		{"influxdb-1.7.11", influx.Config{Username: "root", Password: secret(token), Scheme: influx.SchemeToken}, true},
		{"influxdb-1.7.11", influx.Config{Token: secret("root:" + token)}, true},
		{"influxdb-1.7.11", influx.Config{Token: secret("root:" + token), Scheme: influx.SchemeBasic}, true},
		{"influxdb-1.7.11", influx.Config{Token: secret(token)}, false},
		{"influxdb-2.7.12", influx.Config{Token: secret(token)}, true},
		{"influxdb-2.7.12", influx.Config{Username: "any", Password: secret(token)}, true},
		{"influxdb-2.7.12", influx.Config{Token: secret(token), Scheme: influx.SchemeBearer}, false},
		{"influxdb-3.6.0", influx.Config{Token: secret(token)}, true},
		{"influxdb-3.6.0", influx.Config{Token: secret(token), Scheme: influx.SchemeToken}, true},
		{"influxdb-3.6.0", influx.Config{Username: "any", Password: secret(token)}, true},
		{"influxdb-3.8.3", influx.Config{Token: secret(token)}, true},
		{"influxdb-3.8.3", influx.Config{Token: secret(token), Scheme: influx.SchemeToken}, true},
		{"influxdb-3.8.3", influx.Config{Username: "any", Password: secret(token)}, true},
	} {
		recording := influxtest.MustLoad(t, tt.server, "auth")
		replay := influxtest.Serve(t, recording)
		replay.Token = token
		replay.Also(identityOf(t, recording)) // /ping is recorded with some credentials only
		transport := influx.NewTransport(nil)
		tt.config.URL, tt.config.Database, tt.config.Transport = replay.URL, "a", transport
		client, err := influx.New(tt.config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Identify(t.Context()); err != nil {
			t.Errorf("%s: %v", tt.server, err)
		}
		rows, err := collect(t, client, `SELECT COUNT("sha256") AS "value" FROM "mem_dumps"`)
		if tt.wants && (err != nil || len(rows) != 1) || !tt.wants && !errors.Is(err, influx.ErrUnauthorized) && len(replay.Unknown()) == 0 {
			t.Errorf("%s, scheme %q, user %q: %v, %v; not recorded: %q", tt.server, tt.config.Scheme, tt.config.Username, rows, err, replay.Unknown())
		}
		transport.CloseIdleConnections()
	}
}

// TestAuth_header: the header Authorization for each kind of credentials.
func TestAuth_header(t *testing.T) {
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	for _, tt := range []struct {
		version string
		config  influx.Config
		want    string
	}{
		{"1.8.10", influx.Config{}, ""},
		{"1.8.10", influx.Config{Token: secret("")}, ""},
		{"1.8.10", influx.Config{Username: "u"}, basic("u:")},
		{"v2.7.1", influx.Config{Token: secret("t")}, "Token t"},
		{"v2.7.1", influx.Config{Token: secret("t"), Scheme: influx.SchemeBasic}, basic("token:t")},
		{"3.1.0", influx.Config{Token: secret("t")}, "Bearer t"},
		{"", influx.Config{Token: secret("t")}, "Bearer t"},
		{"unknown", influx.Config{Token: secret("u:p")}, "Token u:p"},
		{"1.8.10", influx.Config{Token: secret("t")}, "Bearer t"},
		{"3.1.0", influx.Config{Token: secret("a:b")}, "Bearer a:b"},
		{"3.1.0", influx.Config{Username: "u v", Password: secret("p q")}, basic("u v:p q")},
	} {
		var got string
		url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/ping" && tt.version == "" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("X-Influxdb-Version", tt.version)
			got = r.Header.Get("Authorization")
			_, _ = io.WriteString(w, whole)
		})
		transport := influx.NewTransport(nil)
		tt.config.URL, tt.config.Database, tt.config.Transport = url, "db", transport
		client, err := influx.New(tt.config)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = client.Identify(t.Context())
		if _, err := count(context.Background(), client, 0); err != nil || got != tt.want {
			t.Errorf("%s, %+v: %q, %v; want %q", tt.version, tt.config, got, err, tt.want)
		}
		if api := client.API(); (api == influx.APIInfluxQL) != (tt.version != "") {
			t.Errorf("%s: the API is %s", tt.version, api)
		}
		transport.CloseIdleConnections()
	}
}

// TestAuth_control: credentials that would be two lines of a header are not sent.
func TestAuth_control(t *testing.T) {
	url := influxtest.Handle(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	for _, text := range []string{token + "\n", "\x1f" + token, token + "\x7f"} {
		if _, err := count(t.Context(), newClient(t, url, "db", text), 0); !errors.Is(err, influx.ErrCredentials) {
			t.Errorf("%q: %v, want credentials", text, err)
		}
	}
}

// TestAuth_gateway: the API of a gateway is used after its first success, until it fails.
func TestAuth_gateway(t *testing.T) {
	failing, pings := false, 0
	url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/pre/ping" {
			pings++
		}
		switch {
		case r.URL.Path != "/pre/api/v3/query":
			http.NotFound(w, r)
		case failing:
			http.Error(w, "no", http.StatusInternalServerError)
		default:
			if want := "/pre/api/v3/query?db=db&q=SELECT+1"; r.URL.RequestURI() != want {
				t.Errorf("requested %s, want %s", r.URL.RequestURI(), want)
			}
			w.Header().Set("X-Influxdb-Version", "1.8.10") // of the InfluxDB behind it
			_, _ = io.WriteString(w, whole)
		}
	})
	client := newClient(t, url+"/pre", "db", "")
	if got := client.API(); got != influx.APIInfluxQL {
		t.Errorf("before the first request: %s", got)
	}
	for range 2 {
		if server, err := client.Identify(t.Context()); err != nil || server.Major != 0 {
			t.Errorf("%+v, %v", server, err)
		}
	}
	if got := client.API(); got != influx.APIAuto {
		t.Errorf("a server without /ping: %s", got)
	}
	gateway := func() (err error) {
		for _, err = range client.Rows(t.Context(), influx.Request{Statement: "SELECT 1", API: influx.APIV3Query}) {
		}
		return err
	}
	for range 2 {
		if err := gateway(); err != nil || client.API() != influx.APIV3Query {
			t.Errorf("%v, %s", err, client.API())
		}
		if _, err := client.Identify(t.Context()); err != nil || pings != 1 {
			t.Errorf("%v after %d pings, want one", err, pings)
		}
	}
	failing = true
	if err := gateway(); !errors.Is(err, influx.ErrServer) || client.API() == influx.APIV3Query {
		t.Errorf("%v, %s", err, client.API())
	}
	client, err := influx.New(influx.Config{URL: url, Database: "db", API: influx.APIV3Query, Transport: influx.NewTransport(nil)})
	if err != nil || client.API() != influx.APIV3Query {
		t.Errorf("%v, and the API is not the one that was set", err)
	}
}
