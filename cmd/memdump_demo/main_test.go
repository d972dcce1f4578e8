package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
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

// standInEnv makes the test binary a stand-in for the exporter: "serve" answers /-/ready and tells its settings at
// /settings, "exit" ends at once.
const standInEnv = "MEMDUMP_DEMO_STAND_IN"

func TestMain(m *testing.M) {
	switch os.Getenv(standInEnv) {
	case "serve":
		http.HandleFunc("/-/ready", func(http.ResponseWriter, *http.Request) {})
		http.HandleFunc("/settings", func(w http.ResponseWriter, _ *http.Request) {
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

// screen is what a person would see.
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

// must ends a test that can't go on.
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

// figures asks InfluxDB for the six, in the form of tell's line.
func figures(t *testing.T, base, database string) string {
	t.Helper()
	query := func(statement string) (series [][]any) {
		var answer struct {
			Results []struct {
				Error  string
				Series []struct{ Values [][]any }
			}
		}
		body := get(t, base+"/query?"+url.Values{"db": {database}, "epoch": {"ns"}, "q": {statement}}.Encode())
		decoder := json.NewDecoder(strings.NewReader(body))
		decoder.UseNumber()
		if err := decoder.Decode(&answer); err != nil || len(answer.Results) != 1 || answer.Results[0].Error != "" {
			t.Fatalf("%s: %v: %s", statement, err, body)
		}
		for _, s := range answer.Results[0].Series {
			series = append(series, s.Values[0])
		}
		return series
	}
	float := func(statement string, column int) float64 {
		f, err := query(statement)[0][column].(json.Number).Float64()
		must(t, err)
		return f
	}
	return fmt.Sprintf("dumps %s, dumped_vms %d, compressed_bytes %s, duration_mean %s, last_dump %s, monitored_vms %d",
		query(`SELECT COUNT(sha256) FROM mem_dumps`)[0][1],
		len(query(`SELECT LAST(sha256) FROM mem_dumps WHERE vmid != '' GROUP BY vmid`)),
		number(float(`SELECT SUM(gzip_size_bytes) FROM mem_dumps`, 1)),
		number(float(`SELECT SUM(duration_sec) FROM mem_dumps`, 1)/float(`SELECT COUNT(duration_sec) FROM mem_dumps`, 1)),
		seconds(t, query(`SELECT sha256 FROM mem_dumps ORDER BY time DESC LIMIT 1`)[0][0]),
		len(query(`SELECT * FROM vm_info WHERE time > now() - 24h AND "VMID" != '' GROUP BY "VMID" ORDER BY time DESC LIMIT 1`)))
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

const truthLine = `truth: (.*monitored_vms \d+)`

func TestRun_on_its_own_InfluxDB(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	r := start(t, "serve", nil, "--dump-every=1s", "--telemetry-every=100ms")
	where, _ := r.waitFor(t, 0, `InfluxDB 1.7.11 runs at (\S+), pid (\d+), data in (\S+)`)
	influxPid, err := strconv.Atoi(where[2])
	must(t, err)
	exporter, end := r.waitFor(t, 0, `The exporter runs, pid (\d+)`)
	exporterPid, err := strconv.Atoi(exporter[1])
	must(t, err)
	if want, got := "INFLUX_DB=vmstats\nINFLUX_URL="+where[1]+"\n", sorted(get(t, "http://"+r.listen+"/settings")); got != want {
		t.Errorf("settings of the exporter: want %s, got %s", want, got)
	}
	if filepath.Dir(where[3]) != temp {
		t.Errorf("the data is in %s, not under %s", where[3], temp)
	}
	agree(t, r, end, where[1], "vmstats")

	for _, step := range []struct {
		signal syscall.Signal
		want   string
	}{
		{syscall.SIGSTOP, `InfluxDB does not take the points: .*deadline exceeded`},
		{syscall.SIGCONT, `InfluxDB takes points again: wrote all \d+ that waited`},
		{syscall.SIGSTOP, `InfluxDB does not take the points`},
	} {
		must(t, syscall.Kill(influxPid, step.signal))
		_, end = r.waitFor(t, end, step.want)
		if step.signal == syscall.SIGCONT {
			agree(t, r, end, where[1], "vmstats")
		}
	}

	// InfluxDB still hangs.
	r.cancel()
	if err := r.wait(t); err != nil {
		t.Errorf("Ctrl-C is no error: %v", err)
	}
	for _, pid := range []int{influxPid, exporterPid} {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// agree compares a truth that is told after the first from bytes with InfluxDB. The next dump may come between telling
// and asking, so there are several tries.
func agree(t *testing.T, r *demoRun, from int, influx, database string) {
	t.Helper()
	var truth []string
	var got string
	for range 5 {
		truth, from = r.waitFor(t, from, truthLine)
		if got = figures(t, influx, database); got == truth[1] {
			return
		}
	}
	t.Errorf("told     %s\nInfluxDB %s", truth[1], got)
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

	t.Run("changes nothing when told not to", func(t *testing.T) {
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
		r := start(t, "exit", env, "--exporter=", "--dump-every=500ms", "--telemetry-every=100ms")
		_, end := r.waitFor(t, 0, `truth: `)
		agree(t, r, end, server.URL, "memdump_demo")
		r.cancel()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		r.waitFor(t, 0, `data is still there`)
	})

	t.Run("writes and leaves it", func(t *testing.T) {
		must(t, server.Exec(t.Context(), "DROP DATABASE memdump_demo"))
		r := start(t, "serve", env, "--dump-every=500ms", "--telemetry-every=100ms")
		_, end := r.waitFor(t, 0, `The exporter runs`)
		want := "INFLUX_DB=memdump_demo\nINFLUX_TOKEN=" + token + "\nINFLUX_URL=" + server.URL + "\n"
		if got := sorted(get(t, "http://"+r.listen+"/settings")); got != want {
			t.Errorf("settings of the exporter: want %s, got %s", want, got)
		}
		agree(t, r, end, server.URL, "memdump_demo")
		r.cancel()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		r.waitFor(t, 0, `data is still there; DROP DATABASE memdump_demo`)
		if strings.Contains(r.String(), token) {
			t.Errorf("the token is told:\n%s", r)
		}
		if got := databases(); !strings.Contains(got, "memdump_demo") || strings.Contains(got, "real") || strings.Contains(got, "vmstats") {
			t.Errorf("databases: %s", got)
		}
	})
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
		{"no exporter", "", []string{"--exporter=/no/such"}, "no exporter to start"},
		{"no exporter and nobody's InfluxDB", "", []string{"--exporter="}, "nobody could see what is written"},
		{"address taken", "", []string{this, "--listen=" + taken.Addr().String()}, "choose another --listen"},
		{"not a URL", "s3cr3t", []string{this, free}, "INFLUX_URL is not a URL"},
		{"not a URL either", "http://u:s3cr3t@h:x", []string{this, free}, "INFLUX_URL is not a URL"},
		{"writing refused", "http://u:s3cr3t@" + taken.Addr().String(), []string{this, free, "--warning=1ms"}, "InfluxDB 2.x: make the bucket memdump_demo"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var stdout, stderr screen
			env := func(key string) string { return map[string]string{"INFLUX_URL": tc.url}[key] }
			err := run(t.Context(), tc.args, env, &stdout, &stderr)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %v", tc.want, err)
			}
			if all := fmt.Sprint(err, stdout.String(), stderr.String()); strings.Contains(all, "s3cr3t") {
				t.Errorf("tells a secret: %s", all)
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
