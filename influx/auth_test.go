package influx_test

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"

	"memdump_exporter/influx"
	"memdump_exporter/influx/influxtest"
)

// TestAuth_recordings: each scheme that a server accepts, as recorded. Nothing but the
// query is sent: no scheme depends on an earlier response.
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
		{"influxdb-1.7.11", influx.Config{Token: secret(token), Scheme: influx.SchemeBearer}, false},
		{"influxdb-2.7.12", influx.Config{Token: secret(token)}, true},
		{"influxdb-2.7.12", influx.Config{Username: "any", Password: secret(token)}, true},
		{"influxdb-2.7.12", influx.Config{Token: secret(token), Scheme: influx.SchemeBearer}, false},
		{"influxdb-3.6.0", influx.Config{Token: secret(token)}, true},
		{"influxdb-3.6.0", influx.Config{Token: secret(token), Scheme: influx.SchemeBearer}, true},
		{"influxdb-3.6.0", influx.Config{Username: "any", Password: secret(token)}, true},
		{"influxdb-3.8.3", influx.Config{Token: secret(token)}, true},
		{"influxdb-3.8.3", influx.Config{Token: secret(token), Scheme: influx.SchemeBearer}, true},
		{"influxdb-3.8.3", influx.Config{Username: "any", Password: secret(token)}, true},
	} {
		replay := influxtest.Serve(t, influxtest.MustLoad(t, tt.server, "auth"))
		replay.Token = token
		transport := influx.NewTransport(nil)
		tt.config.URL, tt.config.Database, tt.config.Transport = replay.URL, "a", transport
		client, err := influx.New(tt.config)
		if err != nil {
			t.Fatal(err)
		}
		const statement = `SELECT COUNT("sha256") AS "value" FROM "mem_dumps"`
		rows, err := collect(t, client, statement)
		if tt.wants && (err != nil || len(rows) != 1) || !tt.wants && !errors.Is(err, influx.ErrUnauthorized) || len(replay.Unknown()) > 0 {
			t.Errorf("%s, scheme %q, user %q: %v, %v; not recorded: %q",
				tt.server, tt.config.Scheme, tt.config.Username, rows, err, replay.Unknown())
		}
		if got := replay.Requests(); !slices.Equal(got, []string{statement}) {
			t.Errorf("%s, scheme %q: requests %q, want the query only", tt.server, tt.config.Scheme, got)
		}
		transport.CloseIdleConnections()
	}
}

// jwt returns a token with a header and a payload, as RFC 7519 writes it.
func jwt(header string) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(header)) + "." + part([]byte(`{"username":"memdump","exp":4102444800}`)) + "." + part([]byte("\xff\xfe signature"))
}

// TestAuth_header: the header Authorization for each kind of credentials, whatever the server
// and the API are.
func TestAuth_header(t *testing.T) {
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	const noSignature = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UifQ." // RFC 7519, 6.1, shortened
	signed := jwt(`{"typ":"JWT","alg":"HS256"}`)
	for name, tt := range map[string]struct {
		config influx.Config
		want   string
	}{
		"none":                          {influx.Config{}, ""},
		"empty token":                   {influx.Config{Token: secret("")}, ""},
		"user":                          {influx.Config{Username: "u"}, basic("u:")},
		"user and password":             {influx.Config{Username: "u v", Password: secret("p q")}, basic("u v:p q")},
		"user, JWT for a password":      {influx.Config{Username: "u", Password: secret(signed)}, basic("u:" + signed)},
		"user as Token":                 {influx.Config{Username: "u", Password: secret("p"), Scheme: influx.SchemeToken}, "Token u:p"},
		"token":                         {influx.Config{Token: secret("t")}, "Token t"},
		"token of 3.x":                  {influx.Config{Token: secret("apiv3_k5R-x.y_z")}, "Token apiv3_k5R-x.y_z"},
		"token of 2.x":                  {influx.Config{Token: secret("Zm9v-_YmFy==")}, "Token Zm9v-_YmFy=="},
		"user:password":                 {influx.Config{Token: secret("u:p")}, "Token u:p"},
		"token as Basic":                {influx.Config{Token: secret("t"), Scheme: influx.SchemeBasic}, basic("token:t")},
		"token as Bearer":               {influx.Config{Token: secret("t"), Scheme: influx.SchemeBearer}, "Bearer t"},
		"JWT":                           {influx.Config{Token: secret(signed)}, "Bearer " + signed},
		"JWT without signature":         {influx.Config{Token: secret(noSignature)}, "Bearer " + noSignature},
		"JWT as Token":                  {influx.Config{Token: secret(signed), Scheme: influx.SchemeToken}, "Token " + signed},
		"three parts":                   {influx.Config{Token: secret("a.b.c")}, "Token a.b.c"},
		"three parts, no alg":           {influx.Config{Token: secret(jwt(`{"typ":"JWT"}`))}, "Token " + jwt(`{"typ":"JWT"}`)},
		"three parts, no object":        {influx.Config{Token: secret(jwt(`["alg"]`))}, "Token " + jwt(`["alg"]`)},
		"three parts, not base64url":    {influx.Config{Token: secret("eyJhbGciOiJub25lIn0.a+b/.c")}, "Token eyJhbGciOiJub25lIn0.a+b/.c"},
		"two parts of a JWT":            {influx.Config{Token: secret("eyJhbGciOiJub25lIn0.e30")}, "Token eyJhbGciOiJub25lIn0.e30"},
		"JWT with another part (a JWE)": {influx.Config{Token: secret(signed + ".e30.e30")}, "Token " + signed + ".e30.e30"},
	} {
		for _, api := range []influx.API{influx.APIInfluxQL, influx.APIV3Query} {
			var got []string
			url := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
				got = append(got, r.Header.Get("Authorization"))
				_, _ = io.WriteString(w, whole)
			})
			transport := influx.NewTransport(nil)
			tt.config.URL, tt.config.Database, tt.config.Transport = url, "db", transport
			client, err := influx.New(tt.config)
			if err != nil {
				t.Fatal(err)
			}
			err = drain(client.Rows(t.Context(), influx.Request{Statement: "SELECT 1", API: api}))
			_, _ = client.Identify(t.Context())
			if err != nil || !slices.Equal(got, []string{tt.want, tt.want}) {
				t.Errorf("%s, %s: %q, %v; want %q, also for /ping", name, api, got, err, tt.want)
			}
			transport.CloseIdleConnections()
		}
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
