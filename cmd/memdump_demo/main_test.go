package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

// standInEnv makes the test binary a stand-in for the exporter: "serve" serves /-/ready, and its settings at /settings;
// "exit" ends at once.
const standInEnv = "MEMDUMP_DEMO_STAND_IN"

func TestMain(m *testing.M) {
	switch os.Getenv(standInEnv) {
	case "serve":
		http.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
		http.HandleFunc("/settings", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, os.Args[2:])
			for _, s := range os.Environ() {
				if strings.HasPrefix(s, "INFLUX_") {
					fmt.Fprintln(w, s)
				}
			}
		})
		fmt.Fprintln(os.Stderr, http.ListenAndServe(strings.TrimPrefix(os.Args[1], "--web.listen-address="), nil))
		os.Exit(1)
	case "exit":
		os.Exit(3)
	}
	os.Exit(m.Run())
}

// screen is standard output.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
	failAt  string // writing this fails, when not empty; set before the first use
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failAt != "" && bytes.Contains(p, []byte(s.failAt)) {
		return 0, syscall.EPIPE
	}
	s.text.Write(p)
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// waitFor returns the first match in what follows the first from bytes, and where it ends.
func (s *screen) waitFor(t *testing.T, from int, pattern string) (groups []string, end int) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(2 * time.Minute) // InfluxDB may have to be built
	for {
		s.mu.Lock()
		text := s.text.String()[from:]
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if at := re.FindStringIndex(text); at != nil {
			return re.FindStringSubmatch(text), from + at[1]
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no %s in\n%s", pattern, s)
		}
	}
}

// demoRun is a run in the background.
type demoRun struct {
	screen
	listen string
	cancel func()
	ended  chan error
}

func start(t *testing.T, mode string, env map[string]string, args ...string) *demoRun {
	t.Helper()
	t.Setenv(standInEnv, mode)
	t.Setenv("INFLUX_TOKEN_FILE", "/of/another/influxdb") // must not reach the exporter
	r := &demoRun{listen: freeAddress(t), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	args = append([]string{"--exporter=" + os.Args[0], "--listen=" + r.listen, "--warning=1ms"}, args...)
	go func() { r.ended <- run(ctx, args, func(key string) string { return env[key] }, &r.screen, io.Discard) }()
	t.Cleanup(cancel)
	return r
}

func (r *demoRun) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(time.Minute):
		t.Fatalf("does not end:\n%s", r)
		return nil
	}
}

// must ends the test where there is an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(body)
}

// counted returns what InfluxDB holds, in the form of a line of printTruth.
func counted(t *testing.T, influx *influxtest.Writer, database string) string {
	t.Helper()
	query := func(statement string) []influxtest.ResponseRow {
		rows, err := influx.Query(t.Context(), database, statement)
		if err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
		return rows
	}
	float := func(selected string) float64 {
		f, err := query(`SELECT ` + selected + ` FROM mem_dumps`)[0].Values[1].(json.Number).Float64()
		must(t, err)
		return f
	}
	vmids, domains := map[string]bool{}, map[string]int64{} // and their newest dumps
	for _, s := range query(`SELECT LAST(sha256) FROM mem_dumps GROUP BY dom, vmid`) {
		ns, err := s.Values[0].(json.Number).Int64()
		must(t, err)
		domain := cmp.Or(s.Tags["dom"], s.Tags["vmid"])
		domains[domain] = max(domains[domain], ns)
		vmids[s.Tags["vmid"]] = true
	}
	delete(vmids, "")
	ids, names := map[string]bool{}, map[string]map[string]bool{} // by uuid
	for _, s := range query(`SELECT * FROM vm_totals, vm_metrics WHERE time > now() - 24h GROUP BY * ORDER BY time DESC LIMIT 1`) {
		ids[s.Tags["VMID"]] = true
		uuid := cmp.Or(s.Tags["uuid"], s.Tags["UUID"])
		if names[uuid] == nil {
			names[uuid] = map[string]bool{}
		}
		names[uuid][cmp.Or(s.Tags["name"], s.Tags["Dom"])] = true
	}
	never, overdue := 0, 0
	for _, of := range names {
		var last int64
		for name := range of {
			last = max(last, domains[name])
		}
		if last == 0 {
			never++
		} else if time.Since(time.Unix(0, last)) > maxAge {
			overdue++
		}
	}
	newest := query(`SELECT sha256 FROM mem_dumps ORDER BY time DESC LIMIT 1`)[0].Values[0]
	return fmt.Sprintf("dumps %s, dumped_domains %d, dumped_vms %d, dumps_compressed_bytes %s, dumps_raw_bytes %s, "+
		"dump_duration_mean_seconds %s, last_dump_timestamp_seconds %s, "+
		"monitored_domains %d, monitored_vms %d, vms_never_dumped %d, vms_dump_overdue %d",
		number(float(`COUNT(sha256)`)), len(domains), len(vmids), number(float(`SUM(gzip_size_bytes)`)), number(float(`SUM(raw_size_bytes)`)),
		number(float(`SUM(duration_sec)`)/float(`COUNT(duration_sec)`)), seconds(t, newest),
		len(names), len(ids), never, overdue)
}

// seconds writes nanoseconds as /metrics does.
func seconds(t *testing.T, ns any) string {
	t.Helper()
	digits := ns.(json.Number).String()
	at := len(digits) - 9
	f, err := strconv.ParseFloat(digits[:at]+"."+digits[at:], 64)
	must(t, err)
	return number(f)
}

const truthLine = `truth: (.*vms_dump_overdue \d+)`

// agree compares a truth printed after the first from bytes with InfluxDB. A dump may be written between the two, so it
// tries several times.
func agree(t *testing.T, r *demoRun, from int, influx *influxtest.Writer, database string) {
	t.Helper()
	var truth []string
	var got string
	for range 5 {
		truth, from = r.waitFor(t, from, truthLine)
		if got = counted(t, influx, database); got == truth[1] {
			return
		}
	}
	t.Errorf("printed  %s\nInfluxDB %s", truth[1], got)
}

func sorted(lines string) string {
	return strings.Join(slices.Sorted(strings.Lines(lines)), "")
}

func TestRun_on_somebodys_InfluxDB(t *testing.T) {
	server := influxtest.MustStart(t)
	const token = "s3cr3t"
	env := map[string]string{"INFLUX_URL": server.URL, "INFLUX_TOKEN": token, "INFLUX_DB": "real"}
	databases := func() string {
		return get(t, server.URL+"/query?q=SHOW+DATABASES")
	}

	t.Run("writes nothing after Ctrl-C", func(t *testing.T) {
		r := start(t, "serve", env, "--warning=1h")
		r.waitFor(t, 0, `about to write \d+ points into the database memdump_demo on 127.0.0.1:\d+`)
		r.cancel()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		if got := databases(); strings.Contains(got, "demo") {
			t.Errorf("there is a database: %s", got)
		}
	})

	t.Run("exporter ends", func(t *testing.T) {
		r := start(t, "exit", env)
		if err := r.wait(t); err == nil || err.Error() != "the exporter ended: exit status 3" {
			t.Errorf("got %v", err)
		}
	})

	t.Run("output is gone", func(t *testing.T) {
		t.Setenv(standInEnv, "serve")
		gone := &screen{failAt: "truth"}
		args := []string{"--exporter=" + os.Args[0], "--listen=" + freeAddress(t), "--warning=1ms"}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("goes on"))
		defer cancel()
		err := run(ctx, args, func(key string) string { return env[key] }, gone, io.Discard)
		if err != nil || ctx.Err() != nil {
			t.Errorf("got %v, %v", err, context.Cause(ctx))
		}
	})

	t.Run("writes without an exporter", func(t *testing.T) {
		must(t, server.Exec(t.Context(), "DROP DATABASE memdump_demo"))
		r := start(t, "exit", env, "--exporter=", "--dump-every=5s", "--telemetry-every=100ms")
		_, end := r.waitFor(t, 0, `truth: `)
		agree(t, r, end, &server.Writer, "memdump_demo")
		r.cancel()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		r.waitFor(t, 0, `data is still there`)
	})

	t.Run("writes and leaves it", func(t *testing.T) {
		must(t, server.Exec(t.Context(), "DROP DATABASE memdump_demo"))
		r := start(t, "serve", env, "--dump-every=5s", "--telemetry-every=100ms")
		_, end := r.waitFor(t, 0, `The exporter runs`)
		want := "INFLUX_DB=memdump_demo\nINFLUX_TOKEN=" + token + "\nINFLUX_URL=" + server.URL + "\n[--dumps.max-age=24h0m0s]\n"
		if got := sorted(get(t, "http://"+r.listen+"/settings")); got != want {
			t.Errorf("settings of the exporter: want %s, got %s", want, got)
		}
		agree(t, r, end, &server.Writer, "memdump_demo")
		r.cancel()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		r.waitFor(t, 0, `data is still there; DROP DATABASE memdump_demo`)
		if strings.Contains(r.String(), token) {
			t.Errorf("the token is printed:\n%s", r)
		}
		if got := databases(); !strings.Contains(got, "memdump_demo") || strings.Contains(got, "real") || strings.Contains(got, "vmstats") {
			t.Errorf("databases: %s", got)
		}
	})
}

// others returns the servers of a major version that are built already.
func others(t *testing.T, major int) []influxtest.ServerSpec {
	t.Helper()
	t.Setenv("SERVERS", "cached")
	specs, missing, err := influxtest.Available(t.Context(), io.Discard)
	must(t, err)
	specs = slices.DeleteFunc(specs, func(s influxtest.ServerSpec) bool { return s.Major != major || s.Remote() })
	if len(specs) == 0 {
		t.Skipf("no InfluxDB %d.x to start; make servers builds one, as CI does: %s", major, strings.Join(missing, "; "))
	}
	return specs
}

func TestRun_starts_INFLUXD(t *testing.T) {
	spec := others(t, 2)[0]
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	r := start(t, "serve", map[string]string{"INFLUXD": spec.Path}, "--dump-every=1s", "--telemetry-every=100ms")
	where, _ := r.waitFor(t, 0, `InfluxDB (\S+) runs at (\S+), pid \d+`)
	if where[1] != spec.Version {
		t.Errorf("want InfluxDB %s, got %s", spec.Version, where[1])
	}
	_, end := r.waitFor(t, 0, `The exporter runs`)
	influx := &influxtest.Writer{URL: where[2]}
	for line := range strings.Lines(get(t, "http://"+r.listen+"/settings")) {
		if token, ok := strings.CutPrefix(line, "INFLUX_TOKEN="); ok {
			influx.Token = strings.TrimSpace(token)
		}
	}
	agree(t, r, end, influx, "vmstats")
	r.cancel()
	if err := r.wait(t); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRun_on_somebodys_InfluxDB_2(t *testing.T) {
	server := others(t, 2)[0].MustStart(t)
	const bucket = "memdump_demo"

	t.Run("a token that may not create buckets", func(t *testing.T) {
		reader := tokenOf(t, server, `{"action":"read","resource":{"type":"buckets"}}`)
		err := start(t, "serve", map[string]string{"INFLUX_URL": server.URL, "INFLUX_TOKEN": reader}).wait(t)
		for _, want := range []string{"no dbrp mapping found", "create the bucket: status 401", "create the bucket memdump_demo"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %s, got %v", want, err)
			}
		}
		if err != nil && strings.Contains(err.Error(), reader) {
			t.Errorf("contains the token: %v", err)
		}
	})

	writer := tokenOf(t, server, `{"action":"read","resource":{"type":"buckets"}},{"action":"write","resource":{"type":"buckets"}}`)
	for _, name := range []string{"creates the bucket", "finds the bucket"} {
		t.Run(name, func(t *testing.T) {
			r := start(t, "serve", map[string]string{"INFLUX_URL": server.URL, "INFLUX_TOKEN": writer}, "--dump-every=5s", "--telemetry-every=100ms")
			_, end := r.waitFor(t, 0, `The exporter runs`)
			if name == "creates the bucket" {
				agree(t, r, end, &influxtest.Writer{URL: server.URL, Token: writer}, bucket)
			}
			r.cancel()
			if err := r.wait(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// tokenOf creates a token of InfluxDB 2.x with these permissions only.
func tokenOf(t *testing.T, server *influxtest.Server, permissions string) string {
	t.Helper()
	call := func(method, path, body string, result any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		must(t, err)
		req.Header.Set("Authorization", "Token "+server.Token)
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		defer resp.Body.Close()
		must(t, json.NewDecoder(resp.Body).Decode(result))
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s %s: status %d", method, path, resp.StatusCode)
		}
	}
	var orgs struct{ Orgs []struct{ ID string } }
	call(http.MethodGet, "/api/v2/orgs", "", &orgs)
	var authorization struct{ Token string }
	call(http.MethodPost, "/api/v2/authorizations", fmt.Sprintf(`{"orgID":%q,"permissions":[%s]}`,
		orgs.Orgs[0].ID, strings.ReplaceAll(permissions, `"buckets"`, `"buckets","orgID":"`+orgs.Orgs[0].ID+`"`)), &authorization)
	return authorization.Token
}

func TestRun_refuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	refusing := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, `{"error":"no to `+r.URL.Path+`"}`, http.StatusForbidden)
	})}
	go refusing.Serve(taken)
	defer refusing.Close()

	this := "--exporter=" + os.Args[0]
	free := "--listen=" + freeAddress(t)
	for _, tc := range []struct {
		name string
		url  string
		args []string
		want string // part of the error; empty: none
	}{
		{"help", "", []string{"--help"}, ""},
		{"flag", "", []string{"--nonsense"}, "not defined: -nonsense"},
		{"argument", "", []string{"nonsense"}, `unexpected argument "nonsense"`},
		{"period", "", []string{"--dump-every=0"}, "must be positive"},
		{"no exporter", "", []string{"--exporter=/no/such"}, "no exporter"},
		{"no exporter and no INFLUX_URL", "", []string{"--exporter="}, "requires INFLUX_URL"},
		{"address taken", "", []string{this, "--listen=" + taken.Addr().String()}, "--listen"},
		{"not a URL", "s3cr3t", []string{this, free}, "INFLUX_URL is not a URL"},
		{"not a URL either", "http://u:s3cr3t@h:x", []string{this, free}, "INFLUX_URL is not a URL"},
		{"writing refused", "http://u:s3cr3t@" + taken.Addr().String(), []string{this, free, "--warning=1ms"}, "create the bucket memdump_demo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr screen
			env := func(key string) string { return map[string]string{"INFLUX_URL": tc.url}[key] }
			err := run(t.Context(), tc.args, env, &stdout, &stderr)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
			if all := fmt.Sprint(err, stdout.String(), stderr.String()); strings.Contains(all, "s3cr3t") {
				t.Errorf("a secret was printed: %s", all)
			}
		})
	}
}

func TestBrowsable(t *testing.T) {
	for address, want := range map[string]string{
		":10147": "localhost:10147", "0.0.0.0:1": "localhost:1", "[::]:1": "localhost:1", "[::1]:1": "[::1]:1", "host:1": "host:1",
	} {
		if got := browsable(address); got != want {
			t.Errorf("%s: want %s, got %s", address, want, got)
		}
	}
}
