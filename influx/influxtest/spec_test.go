package influxtest

import (
	"context"
	"encoding/json"
	stdflag "flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pinged starts a server that reports a version.
func pinged(t *testing.T, version, token string) string {
	return Handle(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); token != "" && got != "Token "+token {
			http.Error(w, "not "+got, http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Influxdb-Version", version)
		w.WriteHeader(http.StatusNoContent)
	})
}

func TestAvailable_others(t *testing.T) {
	t.Parallel()
	const version1 = `[ "$*" = version ] && echo 'InfluxDB v1.8.10 (git: 1.8 688e697c51fd)'`
	variables := map[string]string{
		"SERVERS":   "cached",
		"INFLUXD":   script(t, "influxd", version1) + ":" + script(t, "influxd", version1),
		"INFLUXDB3": script(t, "influxdb3", `[ "$*" = --version ] && echo 'influxdb3 3.6.0, revision 1234567890'`),
		"TEST_SERVERS": fmt.Sprintf("old=%s\n core=%s=apiv3_a-b== 3.6.0=%s=",
			pinged(t, "1.8.10", ""), pinged(t, "3.10.1", "apiv3_a-b=="), pinged(t, "v2.7.12", "")),
	}
	specs, missing, err := available(t.Context(), os.Stderr, func(key string) string { return variables[key] })
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, spec := range specs {
		if !slices.ContainsFunc(recipes, func(r recipe) bool { return r.version == spec.Name }) {
			got = append(got, fmt.Sprint(spec.Name, " ", spec.Version, " ", spec.Major, " ", spec.Remote(), " ", spec.Auth))
		}
	}
	want := []string{
		"1.8.10 1.8.10 1 false false", "1.8.10#2 1.8.10 1 false false", "3.6.0 3.6.0 3 false false",
		"old 1.8.10 1 true false", "core 3.10.1 3 true true", "3.6.0#2 2.7.12 2 true false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("want %q\n got %q", want, got)
	}
	for _, line := range missing {
		if strings.Contains(line, "INFLUXDB3") {
			t.Errorf("missing although named: %s", line)
		}
	}
	for _, spec := range specs {
		if spec.Remote() {
			if s := spec.MustStart(t); s.Major != spec.Major || s.Pid() != 0 {
				t.Errorf("%s: got %d, pid %d", spec.Name, s.Major, s.Pid())
			}
		}
	}
}

func TestAvailable_refuses(t *testing.T) {
	t.Parallel()
	const token = "s3cr3t"
	for name, tc := range map[string]struct{ variable, value, want string }{
		"no program":    {"INFLUXD", "/no/such/influxd", "version of /no/such/influxd in INFLUXD"},
		"no version":    {"INFLUXDB3", script(t, "influxdb3", "echo hello"), `no version in "hello\n"`},
		"not an entry":  {"TEST_SERVERS", "a=" + pinged(t, "1.8.10", "") + " " + token, "entry 2 is not name=URL"},
		"no name":       {"TEST_SERVERS", "=http://127.0.0.1:1=" + token, "entry 1 is not name=URL"},
		"no server":     {"TEST_SERVERS", "a=http://127.0.0.1:1=" + token, "version of a"},
		"wrong token":   {"TEST_SERVERS", "a=" + pinged(t, "3.6.0", "other") + "=" + token, "status 401"},
		"other version": {"TEST_SERVERS", "a=" + pinged(t, "dev", "") + "=" + token, "no version in"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			variables := map[string]string{"SERVERS": "cached", tc.variable: tc.value}
			_, _, err := available(t.Context(), os.Stderr, func(key string) string { return variables[key] })
			wantError(t, err, tc.want)
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("contains the token: %v", err)
			}
		})
	}
}

func TestVersionOf(t *testing.T) {
	for text, want := range map[string]string{
		"InfluxDB v1.7.11 (git: unknown unknown)": "1.7.11",
		"1.6.7~rc0": "1.6.7~rc0",
		"v2.7.12":   "2.7.12",
		`{"version":"3.0.1","revision":"d7c071e0c4"}`: "3.0.1",
		"influxdb3 3.10.1, revision 0a1b2c3d4e":       "3.10.1",
		"3.0.0-0.beta.1":                              "3.0.0-0.beta.1",
		"unknown":                                     "",
		"dev":                                         "",
	} {
		if got := versionOf(text); got != want {
			t.Errorf("%s: want %q, got %q", text, want, got)
		}
	}
}

const standInEnv = "INFLUXTEST_INFLUXDB3_BEFORE"

// TestInfluxdb3 is TestServer with a stand-in for influxdb3, which is not available from the module proxy. The stand-in has the
// command line, the token and the routes that only 3.x has. Behind it is a real InfluxDB 1.x that stores and counts the points.
func TestInfluxdb3(t *testing.T) {
	t.Parallel()
	stored := MustStart(t)
	path := script(t, "influxdb3", fmt.Sprintf("[ \"$*\" = --version ] && exec echo influxdb3 3.6.0, revision 1234567890\n"+
		"%s=%s exec %s -test.run='^TestInfluxdb3_standIn$' -- \"$@\"\n", standInEnv, stored.URL, os.Args[0]))
	specs, err := Programs(t.Context(), "", path)
	if err != nil {
		t.Fatal(err)
	}
	testServer(t, specs[0])
}

// TestInfluxdb3_standIn is not a test but the program of the stand-in.
func TestInfluxdb3_standIn(t *testing.T) {
	before := os.Getenv(standInEnv)
	if before == "" {
		t.Skip("only TestInfluxdb3 runs it, as a process")
	}
	flags := stdflag.NewFlagSet("influxdb3", stdflag.PanicOnError)
	host := flags.String("host", "", "")
	_ = flags.Bool("admin", false, "")
	node, store := flags.String("node-id", "", ""), flags.String("object-store", "", "")
	dir, bind := flags.String("data-dir", "", ""), flags.String("http-bind", "", "")
	args := stdflag.Args()
	switch {
	case slices.Equal(args[:3], []string{"create", "token", "--admin"}):
		_ = flags.Parse(args[2:])
		resp, err := http.Post(*host+"/api/v3/configure/token/admin", "", nil)
		if err != nil || resp.StatusCode != http.StatusCreated {
			t.Fatal(resp, err)
		}
		fmt.Printf("\nNew token created successfully!\n\nToken: \x1b[1m%s\x1b[0m\n", resp.Header.Get("Token"))
	case args[0] == "serve":
		_ = flags.Parse(args[1:])
		if *node != "n1" || *store != "file" || os.MkdirAll(*dir, 0o700) != nil {
			t.Fatalf("arguments %q", args)
		}
		t.Fatal(http.ListenAndServe(*bind, standIn(t, before, filepath.Join(*dir, "token"))))
	default:
		t.Fatalf("arguments %q", args)
	}
}

// standIn has the routes of 3.x that 1.x does not have.
func standIn(t *testing.T, before, tokenFile string) http.Handler {
	target, err := url.Parse(before)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	behind := Writer{URL: before}
	reply := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, err := os.ReadFile(tokenFile)
		if r.URL.Path == "/api/v3/configure/token/admin" && err != nil {
			token := fmt.Sprintf("apiv3_stand-in_%d", os.Getpid())
			if err := os.WriteFile(tokenFile, []byte(token), 0o600); err != nil {
				t.Error(err)
			}
			w.Header().Set("Token", token)
			w.WriteHeader(http.StatusCreated)
			return
		}
		if err != nil || r.Header.Get("Authorization") != "Token "+string(token) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		query := r.URL.Query()
		switch r.Method + " " + r.URL.Path {
		case "GET /ping":
			w.Header().Set("X-Influxdb-Version", "3.6.0")
		case "POST /api/v3/configure/database":
			var body struct{ DB string }
			_ = json.NewDecoder(r.Body).Decode(&body)
			reply(w, behind.Exec(context.Background(), "CREATE DATABASE "+identifier(body.DB)))
		case "DELETE /api/v3/configure/database":
			reply(w, behind.Exec(context.Background(), "DROP DATABASE "+identifier(query.Get("db"))))
		case "POST /api/v3/write_lp":
			if query.Get("precision") != "nanosecond" {
				http.Error(w, "precision", http.StatusBadRequest)
				return
			}
			query.Set("precision", "ns")
			r.URL.Path, r.URL.RawQuery = "/write", query.Encode()
			proxy.ServeHTTP(w, r)
		case "GET /query":
			proxy.ServeHTTP(w, r)
		default:
			http.NotFound(w, r)
		}
	})
}
