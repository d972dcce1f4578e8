package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"memdump_exporter/influx/influxtest"
)

const units = "../../deploy/systemd/"

// settings returns the words NAME=VALUE of the lines that the pattern matches.
func settings(t *testing.T, file, pattern string) (words []string) {
	t.Helper()
	text, err := os.ReadFile(units + file)
	must(t, err)
	for _, line := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(text), -1) {
		words = append(words, strings.Fields(line[1])...)
	}
	if len(words) == 0 {
		t.Fatalf("%s has nothing like %s", file, pattern)
	}
	return words
}

// TestUnit does what systemd would with the unit and its socket: hands over the listening
// socket, the credential and the environment. Make units has systemd's own view of them.
func TestUnit(t *testing.T) {
	for name, c := range map[string]struct {
		defaults      []string // as in /etc/default/memdump_exporter, behind what is there
		authorization string
	}{
		"token":    {authorization: "Token from-the-credential"},
		"no token": {defaults: []string{"INFLUX_TOKEN_FILE="}},
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan string, 100)
			influxdb := influxtest.Handle(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/query" {
					sent <- r.Header.Get("Authorization")
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			})
			credentials := t.TempDir()
			loaded, _, _ := strings.Cut(settings(t, "memdump_exporter.service", `(?m)^LoadCredential=(.*)`)[0], ":")
			must(t, os.WriteFile(filepath.Join(credentials, loaded), []byte("from-the-credential\n"), 0o400))

			env := settings(t, "memdump_exporter.service", `(?m)^Environment=(.*)`)
			env = append(env, settings(t, "memdump_exporter.default", `(?m)^(\w+=.*)`)...)
			env = append(append(env, c.defaults...), "INFLUX_URL="+influxdb)
			asSystemd := strings.NewReplacer("/run/credentials/%n", credentials, `""`, "")
			for i := range env {
				env[i] = asSystemd.Replace(env[i])
			}
			start := settings(t, "memdump_exporter.service", `(?m)^ExecStart=(.*)`)
			if !slices.Equal(start, []string{"/usr/bin/memdump_exporter", "$ARGS"}) {
				t.Fatalf("ExecStart is %q", start)
			}
			s := newSocket(t)
			s.start(t, `exec "$@"`, env, nil)
			get(t, s.URL+"/metrics", http.StatusOK)
			select {
			case got := <-sent:
				if got != c.authorization {
					t.Errorf("sent InfluxDB Authorization %q, want %q", got, c.authorization)
				}
			default:
				t.Error("sent no query to InfluxDB")
			}
		})
	}
}

// TestUnit_defaults: what /etc/default/memdump_exporter names are variables of ours.
func TestUnit_defaults(t *testing.T) {
	known := map[string]bool{"ARGS": true}
	for _, f := range newApplication(new(options)).Model().Flags {
		known[f.Envar] = true
	}
	for _, word := range settings(t, "memdump_exporter.default", `(?m)^#?(\w+=.*)`) {
		if variable, _, _ := strings.Cut(word, "="); !known[variable] {
			t.Errorf("%s is no variable of the exporter", variable)
		}
	}
}
