package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRun_printsAndEnds(t *testing.T) {
	for _, tt := range []struct{ arg, want string }{
		{"--help", "--influx.url"}, {"-h", "--influx.url"}, {"--version", "memdump_exporter, version"},
	} {
		var stdout, stderr bytes.Buffer
		if err := run(t.Context(), []string{tt.arg}, &stdout, &stderr); err != nil {
			t.Errorf("%s: %v", tt.arg, err)
		}
		if !strings.Contains(stdout.String(), tt.want) || stderr.Len() > 0 {
			t.Errorf("%s: stdout %q, stderr %q", tt.arg, stdout.String(), stderr.String())
		}
	}
}

// TestRun_refuses: each message names the flag to change, and none holds a secret.
func TestRun_refuses(t *testing.T) {
	// Outside the exporter, these may be in place at its next start.
	restarts := []string{"--influx.tls.ca-file", "--web.listen-address", "--web.config.file"}
	for arg, want := range map[string]string{
		"--no-such":                                       "unknown long flag '--no-such', try --help",
		"argument":                                        "unexpected argument after --web.listen-address, try --help",
		"--influx.url=localhost:8086":                     "--influx.url",
		"--influx.url=ftp://h":                            "--influx.url",
		"--influx.url=http://":                            "--influx.url",
		"--influx.url=http://u:s3cr3t@h":                  "--influx.url",
		"--influx.url=http://h/?p=s3cr3t":                 "--influx.url",
		"--influx.url=http://h:s3cr3t":                    "--influx.url",
		"--influx.proxy-url=proxy:3128":                   "--influx.proxy-url",
		"--influx.proxy-url=https://u:s3cr3t@h":           "--influx.proxy-url",
		"--influx.proxy-url=http://u:s3cr3t@h:x":          "--influx.proxy-url",
		"--influx.db=":                                    "--influx.db",
		"--dumps.measurement=":                            "--dumps.measurement",
		"--telemetry.measurement=":                        "--telemetry.measurement",
		"--telemetry.lookback=0":                          "--telemetry.lookback",
		"--telemetry.lookback=-1h":                        "--telemetry.lookback",
		"--scrape.timeout=0s":                             "--scrape.timeout",
		"--scrape.timeout-offset=-1s":                     "--scrape.timeout-offset",
		"--web.telemetry-path=metrics":                    "--web.telemetry-path",
		"--web.telemetry-path=/{x}":                       "--web.telemetry-path",
		"--web.telemetry-path=/-/ready":                   "--web.telemetry-path",
		"--influx.api=v4":                                 "--influx.api",
		"--influx.auth-scheme=basic":                      "--influx.auth-scheme",
		"--influx.password=s3cr3t":                        "--influx.password",
		"--influx.max-concurrency=0":                      "--influx.max-concurrency",
		"--influx.max-concurrency=many":                   "--influx.max-concurrency",
		"--dumps.allowed-lateness=-1s":                    "--dumps.allowed-lateness",
		"--telemetry.allowed-lateness=-1s":                "--telemetry.allowed-lateness",
		"--influx.token=s3cr3t --influx.token-file=f":     "--influx.token-file",
		"--influx.username=u --influx.token=s3cr3t":       "--influx.username",
		"--influx.username=u --influx.auth-scheme=Bearer": "--influx.auth-scheme",
		"--influx.username=u --influx.password=s3cr3t --influx.password-file=f": "--influx.password-file",
		"--influx.tls.cert-file=f":               "--influx.tls.key-file",
		"--influx.tls.ca-file=/no/such":          "--influx.tls.ca-file",
		"--influx.tls.ca-file=/":                 "--influx.tls.ca-file",
		"check --output=xml":                     "--output",
		"--scrape.timeout=soon":                  `--scrape.timeout is "soon": expected a duration such as 10s`,
		"--records.max-offset=1e3":               "--records.max-offset",
		"backfill --from=0 --output=f --label=a": "--label: expected KEY=VALUE",
		"--log.level=loud":                       "--log.level",
		"--log.format=xml":                       "--log.format",
		"--web.listen-address=127.0.0.1:xyz":     "--web.listen-address",
		"--web.config.file=/no/such":             "--web.config.file",
	} {
		var stdout, stderr bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it serves if it refuses nothing
		err := run(ctx, append([]string{"--web.listen-address=127.0.0.1:0"}, strings.Fields(arg)...), &stdout, &stderr)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		} else if code := exitCode(err, io.Discard); code != 2 && !slices.Contains(restarts, want) {
			t.Errorf("%s: exit %d, want 2, at which systemd does not start it again", arg, code)
		} else if strings.Contains(err.Error()+stdout.String()+stderr.String(), "s3cr3t") {
			t.Errorf("%s: %v holds the secret", arg, err)
		}
	}
}

// screen is what run prints, with a signal for its first match.
type screen struct {
	pattern *regexp.Regexp
	found   chan string

	mu   sync.Mutex
	text strings.Builder
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if match := s.pattern.FindStringSubmatch(s.text.String()); match != nil {
		select {
		case s.found <- match[1]:
		default:
		}
	}
	return len(p), nil
}

func TestRun_servesUntilItsContextEnds(t *testing.T) {
	base := "http://" + runHere(t, "--influx.url=http://127.0.0.1:1") // where no process listens
	for path, want := range map[string]string{
		"/-/healthy": "memdump_exporter is healthy.", "/-/ready": "memdump_exporter is ready.",
		"/metrics": "memdump_up 0", "/": `<a href="./metrics">`,
	} {
		if body := get(t, base+path, http.StatusOK); !strings.Contains(body, want) {
			t.Errorf("%s: no %q in\n%s", path, want, body)
		}
	}
	openMetrics := get(t, base+"/metrics", http.StatusOK, "Accept", "application/openmetrics-text; version=1.0.0")
	if !strings.HasSuffix(openMetrics, "# EOF\n") {
		t.Errorf("OpenMetrics ends with %q", openMetrics[max(0, len(openMetrics)-40):])
	}
	if body := get(t, base+"/", http.StatusOK); strings.Count(body, `<span class="bad">unreachable</span> in`) < len(metricsOf) {
		t.Errorf("the page lacks the state of each query:\n%s", body)
	}
	get(t, base+"/no/such", http.StatusNotFound)
}

// runHere runs the exporter in this process until the test ends.
func runHere(tb testing.TB, args ...string) (address string) {
	tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	stderr := &screen{pattern: listening, found: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"--web.listen-address=127.0.0.1:0"}, args...), io.Discard, stderr)
		close(ended)
	}()
	tb.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			tb.Error(err)
		}
	})
	select {
	case address = <-stderr.found:
	case err := <-ended:
		tb.Fatal(err)
	}
	return address
}

// TestExporter_unrequested: what a server sends after its response is in no log.
func TestExporter_unrequested(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var ended sync.WaitGroup
	ended.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			ended.Go(func() {
				defer conn.Close()
				requests := bufio.NewReader(conn)
				if _, err := http.ReadRequest(requests); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nX-Influxdb-Version: 1.8.10\r\n\r\n")
				_, _ = io.WriteString(conn, "t0p-s3cr3t")
				_, _ = requests.ReadByte() // until the exporter has seen it and closes
			})
		}
	})
	t.Cleanup(func() { listener.Close(); ended.Wait() })
	e := startExporter(t, []string{"INFLUX_URL=http://" + listener.Addr().String(), "INFLUX_TOKEN=t0p-s3cr3t"})
	for range 3 {
		e.scrape(t)
	}
	if logs := e.Logs(); strings.Contains(logs, "t0p-") || !strings.Contains(logs, "query failed") {
		t.Errorf("log:\n%s", logs)
	}
}
