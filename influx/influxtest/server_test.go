package influxtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const math54 = 1<<54 + 1 // no float64

// TestServer does everything that tests do with a server, on every available one. All but the default one require credentials.
func TestServer(t *testing.T) {
	t.Parallel()
	for i, spec := range cached(t) {
		spec.Auth = spec.Auth || i > 0 && !spec.Remote()
		t.Run(spec.Name, func(t *testing.T) {
			t.Parallel()
			testServer(t, spec)
		})
	}
}

func TestServer_credentials(t *testing.T) {
	t.Parallel()
	spec, err := Default(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	spec.Auth = true
	s := spec.MustStart(t)
	if _, err := s.Query(t.Context(), "", "SHOW DATABASES"); err != nil {
		t.Error(err)
	}
	testStranger(t, s, "any")
}

// cached returns the servers that need no build, which would exceed the timeout of the tests.
func cached(t *testing.T) []ServerSpec {
	t.Helper()
	specs, missing, err := available(t.Context(), os.Stderr, func(key string) string {
		if key == "SERVERS" {
			return "cached"
		}
		return os.Getenv(key)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range missing {
		t.Log("left out: " + line)
	}
	return specs
}

func testServer(t *testing.T, spec ServerSpec) {
	s := spec.MustStart(t)
	if version, err := s.version(t.Context()); err != nil || version != spec.Version {
		t.Errorf("want version %s, got %q, %v", spec.Version, version, err)
	}
	now := time.Now()
	floats := NewWorld(WorldConfig{Seed: 3, Start: now.Add(-5 * day), Floats: true, TelemetryEvery: 30 * time.Minute})
	floats.Advance(5 * day)
	for _, tc := range []struct {
		database string
		test     func(*testing.T, *Server, string)
	}{
		{"agrees_with_Truth", testAgreement(Believable(3, now), now)},
		{"agrees_in_floats", testAgreement(floats.History(), now)},
		{"reads_back_what_Line_escapes", testEscapes},
		{"refuses", testRefusals},
		{"goes_and_comes_back", testRestart},
		{"hangs", testHalt},
	} {
		t.Run(tc.database, func(t *testing.T) {
			if err := s.CreateDatabase(t.Context(), tc.database); err != nil {
				t.Fatal(err)
			}
			tc.test(t, s, tc.database)
			if err := s.DropDatabase(t.Context(), tc.database); err != nil {
				t.Fatal(err)
			}
			if rows, err := s.Query(t.Context(), "", "SHOW DATABASES"); err != nil || strings.Contains(fmt.Sprint(rows), tc.database) {
				t.Errorf("want no database %s, got %v, %v", tc.database, rows, err)
			}
		})
	}
}

// column returns the values of the rows' last column.
func column(t *testing.T, s *Server, db, statement string) []any {
	t.Helper()
	rows, err := s.Query(t.Context(), db, statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	values := make([]any, len(rows))
	for i, row := range rows {
		values[i] = row.Values[len(row.Values)-1]
	}
	return values
}

// testAgreement: the server accepts every point, and its counts are those of Truth.
func testAgreement(h *History, now time.Time) func(*testing.T, *Server, string) {
	return func(t *testing.T, s *Server, db string) {
		// A dump on each end of what is deleted: the first goes, the second stays, as does another measurement's point.
		from, to := now.Add(-3*day), now.Add(-2*day)
		h.Add(Point{Measurement: "other", Tags: tags{"dom": "ends"}, Fields: fields{"sha256": "e"}, TimeNs: from.UnixNano()})
		for _, at := range []time.Time{from, to} {
			h.Add(Point{Measurement: Dumps, Tags: tags{"dom": "ends"}, Fields: fields{"sha256": "e"}, TimeNs: at.UnixNano()})
		}
		if err := s.Store(t.Context(), db, h, h.Lines()); err != nil {
			t.Fatal(err)
		}
		err := s.Delete(t.Context(), db, Dumps, from.UnixNano(), to.UnixNano())
		if s.Major == 3 != errors.Is(err, errors.ErrUnsupported) || s.Major != 3 && err != nil {
			t.Fatal(err)
		}
		if err == nil {
			h.Delete(Dumps, from.UnixNano(), to.UnixNano())
		}
		if err := s.Verify(t.Context(), db, h); err != nil {
			t.Error(err)
		}

		number := func(statement string) json.Number {
			t.Helper()
			values := column(t, s, db, statement)
			if len(values) == 0 {
				return "0"
			}
			return values[0].(json.Number)
		}
		float := func(statement string) float64 {
			t.Helper()
			f, err := number(statement).Float64()
			if err != nil {
				t.Fatal(err)
			}
			return f
		}
		newest, err := s.Query(t.Context(), db, `SELECT sha256 FROM mem_dumps ORDER BY time DESC LIMIT 1`)
		if err != nil || len(newest) != 1 {
			t.Fatalf("got %v, %v", newest, err)
		}
		last, err := newest[0].Values[0].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		want := h.Truth(now.UnixNano(), day)
		// The model has the truth about a join of three measurements.
		got := want
		got.Dumps = int64(float(`SELECT COUNT(sha256) FROM mem_dumps`))
		got.DumpedVMs = len(column(t, s, db, `SELECT LAST(sha256) FROM mem_dumps WHERE vmid != '' GROUP BY vmid`))
		got.CompressedBytes = int64(float(`SELECT SUM(gzip_size_bytes) FROM mem_dumps`))
		got.RawBytes = int64(float(`SELECT SUM(raw_size_bytes) FROM mem_dumps`))
		got.DurationSum = float(`SELECT SUM(duration_sec) FROM mem_dumps`)
		got.DurationCount = int64(float(`SELECT COUNT(duration_sec) FROM mem_dumps`))
		got.LastDumpNs, got.HasLast = last, true
		if got != want {
			t.Errorf("want %+v\n got %+v", want, got)
		}
		mean, _ := want.Mean()
		if got := float(`SELECT MEAN(duration_sec) FROM mem_dumps`); got != mean {
			t.Errorf("want a mean of %v, got %v", mean, got)
		}
	}
}

func testEscapes(t *testing.T, s *Server, db string) {
	const odd = `a\b ,c,=d "é' \\x`
	p := Point{Measurement: odd, Tags: tags{odd: odd}, Fields: fields{odd + " field": odd + `\`, "f": 1e-9, "n": math54}, TimeNs: 1}
	h := &History{}
	h.Add(p)
	if err := s.Write(t.Context(), db, []string{p.Line()}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(column(t, s, db, `SHOW MEASUREMENTS`)); got != "["+odd+"]" {
		t.Errorf("measurement: want %s, got %s", odd, got)
	}
	rows, err := s.Query(t.Context(), db, `SELECT * FROM /.*/`)
	if err != nil || len(rows) != 1 {
		t.Fatalf("want a row, got %v, %v", rows, err)
	}
	values := fmt.Sprintln(rows[0].Values...)
	for _, want := range []string{odd, odd + `\`, "1e-9", fmt.Sprint(math54)} {
		if !strings.Contains(values, want) {
			t.Errorf("no %s in %s", want, values)
		}
	}
	if err := s.Verify(t.Context(), db, h); err != nil {
		t.Error(err)
	}
}

func testRefusals(t *testing.T, s *Server, db string) {
	if s.Major == 1 {
		for _, statement := range []string{"CREATE NONSENSE", "DELETE FROM m", "DROP DATABASE"} {
			if err := s.Exec(t.Context(), statement); err == nil {
				t.Errorf("%s: no error", statement)
			}
		}
		if err := s.Write(t.Context(), "nodb", []string{"m x=1i 1"}); err == nil || !strings.Contains(err.Error(), "database not found") {
			t.Errorf("want InfluxDB's words, got %v", err)
		}
	}
	if err := s.Write(t.Context(), db, []string{"m x=1i 1", "m x=1.5 2"}); err == nil || !strings.Contains(err.Error(), "type") {
		t.Errorf("want InfluxDB's words, got %v", err)
	}
	if s.auth || s.Major != 1 {
		testStranger(t, s, db)
	}
}

func testStranger(t *testing.T, s *Server, db string) {
	for _, token := range []string{"", "wrong:wrong"} {
		stranger := Writer{URL: s.URL, HTTP: s.HTTP, Token: token}
		if _, err := stranger.Query(t.Context(), db, "SHOW MEASUREMENTS"); err == nil || !strings.Contains(err.Error(), "status 401") {
			t.Errorf("credentials %q: want status 401, got %v", token, err)
		}
	}
}

// testRestart ends the server in every way and starts it again: same port, same data, same credentials.
func testRestart(t *testing.T, s *Server, db string) {
	if s.Remote() {
		for _, end := range []func() error{s.Stop, s.Kill, s.Halt, s.Resume, func() error { return s.Start(t.Context()) }} {
			if err := end(); !errors.Is(err, ErrRemote) {
				t.Errorf("want %v, got %v", ErrRemote, err)
			}
		}
		return
	}
	address, token, first := s.URL, s.Token, s.Pid()
	if err := s.Start(t.Context()); err == nil {
		t.Error("started twice")
	}
	h := &History{}
	add := func(ns int64) error {
		p := Point{Measurement: "m", Fields: fields{"x": 1}, TimeNs: ns}
		h.Add(p)
		return s.Write(t.Context(), db, []string{p.Line()})
	}
	if err := add(1); err != nil {
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
		if err := s.Halt(); err == nil {
			t.Error("halted without a process")
		}
		if err := s.Verify(t.Context(), db, h); err == nil || strings.Contains(err.Error(), "http:") {
			t.Errorf("want an error without URL, got %v", err)
		}
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.URL != address || s.Token != token || s.Pid() == first || s.Pid() == 0 {
			t.Errorf("started at %s with pid %d, was %s and %d", s.URL, s.Pid(), address, first)
		}
		if err := add(int64(i + 2)); err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), db, h); err != nil {
			t.Error(err)
		}
	}
}

// testHalt: a suspended server accepts a connection and does not respond.
func testHalt(t *testing.T, s *Server, db string) {
	if s.Remote() {
		return
	}
	if err := s.Halt(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Query(ctx, db, "SHOW MEASUREMENTS"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("want %v, got %v", context.DeadlineExceeded, err)
	}
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Query(t.Context(), db, "SHOW MEASUREMENTS"); err != nil {
		t.Error(err)
	}
}

func TestServer_Start_fails(t *testing.T) {
	t.Parallel()
	for _, spec := range cached(t) {
		if spec.Remote() {
			continue
		}
		t.Run(spec.Name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := spec.Start(t.Context(), file); err == nil || !strings.Contains(err.Error(), "not a directory") {
				t.Errorf("want the server's words, got %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := spec.Start(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
				t.Errorf("want %v, got %v", context.Canceled, err)
			}
		})
	}
}

// TestServer_port: another process has taken the port of a stopped server.
func TestServer_port(t *testing.T) {
	t.Parallel()
	s := MustStart(t)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("want the server's words, got %v", err)
	}
	if pid := s.Pid(); pid != 0 {
		t.Errorf("pid %d without a process", pid)
	}
}
