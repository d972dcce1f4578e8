package influxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const math54 = 1<<54 + 1 // no float64

// TestServer has one server for all, as a start costs seconds of processor time, and each its own database.
func TestServer(t *testing.T) {
	t.Parallel()
	path, err := Influxd(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), path, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	for _, tc := range []struct {
		database string
		test     func(*testing.T, *Server, string)
	}{
		{"agrees_with_Truth", testAgreement},
		{"reads_back_what_Line_escapes", testEscapes},
		{"refuses", testRefusals},
		{"goes_and_comes_back", testRestart},
	} {
		t.Run(tc.database, func(t *testing.T) {
			if err := s.Exec(t.Context(), "CREATE DATABASE "+tc.database); err != nil {
				t.Fatal(err)
			}
			tc.test(t, s, tc.database)
		})
	}
}

// query returns the rows of all series of one statement's answer, the time column left out, and how many series there are.
func query(t *testing.T, s *Server, db, statement string) (rows [][]string, series int) {
	t.Helper()
	form := url.Values{"db": {db}, "epoch": {"ns"}, "q": {statement}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/query?"+form.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Results []struct {
			Error  string
			Series []struct {
				Columns []string
				Values  [][]any
			}
		}
	}
	decoder := json.NewDecoder(resp.Body)
	decoder.UseNumber()
	if err := decoder.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Results) != 1 || answer.Results[0].Error != "" {
		t.Fatalf("%s: %+v", statement, answer)
	}
	for _, s := range answer.Results[0].Series {
		for _, values := range s.Values {
			var row []string
			for i, v := range values {
				if s.Columns[i] != "time" {
					row = append(row, fmt.Sprint(v))
				}
			}
			rows = append(rows, row)
		}
	}
	return rows, len(answer.Results[0].Series)
}

func one(t *testing.T, s *Server, db, statement string) string {
	t.Helper()
	rows, _ := query(t, s, db, statement)
	if len(rows) != 1 || len(rows[0]) != 1 {
		t.Fatalf("%s: %v", statement, rows)
	}
	return rows[0][0]
}

func testAgreement(t *testing.T, s *Server, db string) {
	now := time.Now()
	h := Believable(3, now)
	if err := s.Write(t.Context(), db, h.Lines()); err != nil {
		t.Fatal(err)
	}
	h.Delete(Dumps, now.Add(-20*day).UnixNano(), now.Add(-19*day).UnixNano())
	if err := s.ExecIn(t.Context(), db, fmt.Sprintf("DELETE FROM mem_dumps WHERE time >= %d AND time < %d",
		now.Add(-20*day).UnixNano(), now.Add(-19*day).UnixNano())); err != nil {
		t.Fatal(err)
	}

	want := h.Truth(now.UnixNano(), day)
	float := func(statement string) float64 {
		f, err := strconv.ParseFloat(one(t, s, db, statement), 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	integer := func(statement string) int64 {
		n, err := strconv.ParseInt(one(t, s, db, statement), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	got := Truth{
		Dumps:           integer(`SELECT COUNT(sha256) FROM mem_dumps`),
		CompressedBytes: integer(`SELECT SUM(gzip_size_bytes) FROM mem_dumps`),
		DurationSum:     float(`SELECT SUM(duration_sec) FROM mem_dumps`),
		DurationCount:   integer(`SELECT COUNT(duration_sec) FROM mem_dumps`),
		LastDumpNs:      newest(t, s, db),
		HasLast:         true,
	}
	_, got.DumpedVMs = query(t, s, db, `SELECT LAST(sha256) FROM mem_dumps WHERE vmid != '' GROUP BY vmid`)
	_, got.MonitoredVMs = query(t, s, db, fmt.Sprintf(`SELECT * FROM vm_info WHERE "VMID" != '' AND time >= %d AND time <= %d GROUP BY "VMID" ORDER BY time DESC LIMIT 1`,
		now.Add(-day).UnixNano(), now.UnixNano()))
	if got != want {
		t.Errorf("want %+v\n got %+v", want, got)
	}
	mean, _ := want.Mean()
	if got := float(`SELECT MEAN(duration_sec) FROM mem_dumps`); got != mean {
		t.Errorf("want a mean of %v, got %v", mean, got)
	}
}

// newest asks for the time, which query leaves out, as a value.
func newest(t *testing.T, s *Server, db string) int64 {
	t.Helper()
	resp, err := s.HTTP.Get(s.URL + "/query?" + url.Values{"db": {db}, "epoch": {"ns"},
		"q": {`SELECT sha256 FROM mem_dumps ORDER BY time DESC LIMIT 1`}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(body), `"values":[[`)
	digits, _, _ := strings.Cut(rest, ",")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return n
}

func testEscapes(t *testing.T, s *Server, db string) {
	const odd = `a\b ,c,=d "é' \\x`
	p := Point{Measurement: odd, Tags: tags{odd: odd}, Fields: fields{odd + " field": odd + `\`, "f": 1e-9, "n": math54}, TimeNs: 1}
	if err := s.Write(t.Context(), db, []string{p.Line()}); err != nil {
		t.Fatal(err)
	}
	rows, _ := query(t, s, db, `SHOW MEASUREMENTS`)
	if got := fmt.Sprint(rows); got != "[["+odd+"]]" {
		t.Errorf("measurement: want %s, got %s", odd, got)
	}
	rows, _ = query(t, s, db, `SELECT * FROM /.*/`)
	want := []string{odd, odd + `\`, "1e-9", fmt.Sprint(math54)}
	for _, value := range want {
		if len(rows) != 1 || !strings.Contains(strings.Join(rows[0], "\n")+"\n", value+"\n") {
			t.Errorf("no %s in %v", value, rows)
		}
	}
}

func testRestart(t *testing.T, s *Server, db string) {
	address, first := s.URL, s.Pid()
	if err := s.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	if err := s.Write(t.Context(), db, []string{"m x=1i 1"}); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func() error{s.Stop, s.Kill} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if s.Pid() != 0 {
			t.Error("a pid without a process")
		}
		if err := s.Write(t.Context(), db, []string{"m x=1i 1"}); err == nil || strings.Contains(err.Error(), "http:") {
			t.Errorf("want an error without URL, got %v", err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.URL != address || s.Pid() == first || s.Pid() == 0 {
			t.Errorf("started at %s with pid %d, was %s and %d", s.URL, s.Pid(), address, first)
		}
		if err := s.Write(t.Context(), db, []string{fmt.Sprintf("m x=1i %d", i+2)}); err != nil {
			t.Fatal(err)
		}
		if got, want := one(t, s, db, `SELECT COUNT(x) FROM m`), strconv.Itoa(i+2); got != want {
			t.Errorf("want %s points, got %s", want, got)
		}
	}
}

func TestStart_fails(t *testing.T) {
	t.Parallel()
	path, err := Influxd(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), path, file); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("want influxd's words, got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, path, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

func testRefusals(t *testing.T, s *Server, db string) {
	for _, statement := range []string{"CREATE NONSENSE", "DELETE FROM m", "DROP DATABASE"} {
		if err := s.Exec(t.Context(), statement); err == nil {
			t.Errorf("%s: no error", statement)
		}
	}
	if err := s.Write(t.Context(), "nodb", []string{"m x=1i 1"}); err == nil || !strings.Contains(err.Error(), "database not found") {
		t.Errorf("want InfluxDB's words, got %v", err)
	}
	if err := s.Write(t.Context(), db, []string{"m x=1i 1", "m x=1.5 2"}); err == nil || !strings.Contains(err.Error(), "field type conflict") {
		t.Errorf("want InfluxDB's words, got %v", err)
	}
}

func TestWriter_hides_the_token(t *testing.T) {
	const token = "s3cr3t"
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, r.Header.Get("Authorization"), strings.Repeat(" no", 1000))
	}))
	defer echo.Close()
	for _, base := range []string{echo.URL, "http://u:" + token + "@127.0.0.1:1", "http://u:" + token + "@127.0.0.1:x"} {
		w := Writer{URL: base, Token: token}
		for _, err := range []error{w.Exec(t.Context(), "SHOW DATABASES"), w.Write(t.Context(), "d", []string{"m x=1i 1"})} {
			if err == nil || strings.Contains(err.Error(), token) || len(err.Error()) > 400 {
				t.Errorf("want a short error without the token, got %v", err)
			}
		}
	}
}

// fakeGo puts a go command into the way that leaves a mark and then does what the script says.
func fakeGo(t *testing.T, script string) (mark string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs flock and a shell")
	}
	dir := t.TempDir()
	mark = filepath.Join(dir, "mark")
	script = "#!/bin/sh\necho x >>" + mark + "\n" + script
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	return mark
}

func TestInfluxd_builds_once(t *testing.T) {
	mark := fakeGo(t, `printf '#!/bin/sh\n' >"$GOBIN/influxd"; chmod 700 "$GOBIN/influxd"`)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			path, err := Influxd(t.Context(), io.Discard)
			if err != nil || !isExecutable(path) {
				t.Errorf("got %q, %v", path, err)
			}
		})
	}
	wg.Wait()
	if marks, err := os.ReadFile(mark); string(marks) != "x\n" {
		t.Errorf("want one build, got %q, %v", marks, err)
	}
}

func TestInfluxd_tells_why_not(t *testing.T) {
	fakeGo(t, `echo no such module >&2; exit 3`)
	_, err := Influxd(t.Context(), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: no such module") {
		t.Errorf("want the go command's words, got %v", err)
	}
}

func TestInfluxd_gives_up(t *testing.T) {
	// The fifo tells when the build runs; the build itself waits for ever.
	mark := fakeGo(t, `echo running >"$XDG_CACHE_HOME/fifo"; exec tail -f /dev/null`)
	fifo := filepath.Join(os.Getenv("XDG_CACHE_HOME"), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	builder, cancelBuilder := context.WithCancel(t.Context())
	waiter, cancelWaiter := context.WithCancel(t.Context())
	defer cancelBuilder()
	defer cancelWaiter()
	ended := make(chan error, 2)
	go func() {
		_, err := Influxd(builder, io.Discard)
		ended <- err
	}()
	if _, err := os.ReadFile(fifo); err != nil {
		t.Fatal(err)
	}
	told, tell := io.Pipe()
	go func() {
		_, err := Influxd(waiter, tell)
		ended <- err
	}()
	line := make([]byte, 200)
	if n, err := told.Read(line); err != nil || !strings.HasPrefix(string(line[:n]), "waiting") {
		t.Errorf("got %q, %v", line[:n], err)
	}
	for _, cancel := range []func(){cancelWaiter, cancelBuilder} {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("want %v, got %v", context.Canceled, err)
		}
	}
	if marks, err := os.ReadFile(mark); string(marks) != "x\n" {
		t.Errorf("want one build, got %q, %v", marks, err)
	}
}
