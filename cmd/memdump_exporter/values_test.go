package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRun_invisible: a value with characters that an editor does not show, or with quotes, is
// refused, and the message names its flag or variable and not the secret.
func TestRun_invisible(t *testing.T) {
	for setting, want := range map[string]string{
		"INFLUX_DB=memdump_demo\r":                   `INFLUX_DB ends with a control character ('\r')`,
		"INFLUX_DB=vmstats\r\n":                      `INFLUX_DB ends with a control character ('\r')`,
		"INFLUX_DB=vm\x01stats":                      `INFLUX_DB contains a control character ('\x01')`,
		"INFLUX_DB=\ufeffvmstats":                    `INFLUX_DB begins with a byte order mark ('\ufeff')`,
		"INFLUX_DB=vmstats ":                         `INFLUX_DB ends with a blank (' ')`,
		"INFLUX_DB=\u00a0vmstats":                    `INFLUX_DB begins with a blank ('\u00a0')`,
		"INFLUX_DB=vmstats\u200b":                    `INFLUX_DB ends with an invisible character ('\u200b')`,
		`INFLUX_DB="vmstats"`:                        `INFLUX_DB begins with the quote "`,
		"INFLUX_DB=“vmstats”":                        `INFLUX_DB begins with the quote “`,
		"INFLUX_URL='http://localhost:8086'":         `INFLUX_URL begins with the quote '`,
		"INFLUX_MAX_CONCURRENCY=6\r":                 `INFLUX_MAX_CONCURRENCY ends with a control character ('\r')`,
		"INFLUX_PROXY_URL=http://u:s3cr3t@h\r":       `INFLUX_PROXY_URL ends with a control character ('\r')`,
		"INFLUX_TOKEN=\ufeffs3cr3t":                  `INFLUX_TOKEN begins with a byte order mark`,
		"INFLUX_TOKEN=s3cr3t\nmore":                  `INFLUX_TOKEN contains a control character ('\n')`,
		"INFLUX_TOKEN=Bearer s3cr3t":                 `INFLUX_TOKEN begins with "Bearer "`,
		"INFLUX_TOKEN=token s3cr3t":                  `INFLUX_TOKEN begins with "Token "`,
		`INFLUX_TOKEN="s3cr3t"`:                      `INFLUX_TOKEN begins with the quote "`,
		"INFLUX_TOKEN=\t\n":                          `INFLUX_TOKEN is blank`,
		"INFLUX_PASSWORD='s3cr3t'":                   `INFLUX_PASSWORD begins and ends with the quote '`,
		"INFLUX_PASSWORD=s3cr3t\x7fmore":             `INFLUX_PASSWORD contains a control character`,
		"INFLUX_TOKEN_FILE=/token ":                  `INFLUX_TOKEN_FILE ends with a blank`,
		"--influx.db=vmstats\r":                      `--influx.db ends with a control character`,
		"--influx.token=Token s3cr3t":                `--influx.token begins with "Token "`,
		"--telemetry.measurement=\tvm_info":          `--telemetry.measurement begins with a control character`,
		"--web.listen-address=:10147 ":               `--web.listen-address ends with a blank`,
		"INFLUX_TLS_INSECURE_SKIP_VERIFY=yes":        `INFLUX_TLS_INSECURE_SKIP_VERIFY is "yes": expected true or false`,
		"INFLUX_MAX_CONCURRENCY=many":                `INFLUX_MAX_CONCURRENCY is "many": expected a whole number such as 6`,
		"INFLUX_API=v4":                              `INFLUX_API: enum value must be one of auto,influxql,v3-query`,
		"--collect.per-vm=true":                      `--collect.per-vm is set with a value: expected --collect.per-vm or --no-collect.per-vm`,
		"--no-collect.per-vm=false":                  `--collect.per-vm is set with a value`,
		"--influx.tls.insecure-skip-verify=no":       `--influx.tls.insecure-skip-verify is set with a value`,
		"backfill --from=1 --allow-recent=yes":       `--allow-recent is set with a value`,
		"--collect.per-vm s3cr3t":                    `unexpected argument after --collect.per-vm`,
		"backfill --output=f --from=1 --step=1h\r\n": `--step ends with a control character`,
		"--influx.password my s3cr3t": `argument 3 is unexpected: expected a flag, ` +
			`or one of the commands serve, check and backfill`,
	} {
		t.Run(fmt.Sprintf("%q", setting), func(t *testing.T) {
			args := []string{setting}
			if variable, text, found := strings.Cut(setting, "="); found && strings.HasPrefix(setting, "INFLUX_") {
				t.Setenv(variable, text)
				args = nil
			} else if !strings.HasPrefix(setting, "--influx.token=") {
				args = strings.Split(setting, " --")
				for i := 1; i < len(args); i++ {
					args[i] = "--" + args[i]
				}
				if before, after, found := strings.Cut(args[0], " "); found && after != "" {
					args = append(append([]string{before}, strings.Split(after, " ")...), args[1:]...)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it serves if it refuses nothing
			defer cancel()
			err := run(ctx, args, io.Discard, io.Discard)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
			if code := exitCode(err, io.Discard); code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the message contains the secret: %v", err)
			}
		})
	}
}

// TestExporter_values: a secret is used without surrounding blanks, wherever it comes from, and as it
// is if it begins with @ or, a password, with a quote.
func TestExporter_values(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "  from-a-file\r\n")
	write(t, filepath.Join(dir, "bearer"), "Bearer canary")
	write(t, filepath.Join(dir, "bom"), "\ufeffcanary")
	argsFile := filepath.Join(dir, "args")
	write(t, argsFile, "--influx.db=from-the-file\n")
	for name, tt := range map[string]struct {
		env, args []string
		header    string // Authorization; empty: no request
		log       string
	}{
		"variable":            {env: []string{"INFLUX_TOKEN=  from-a-variable\r\n"}, header: "Token from-a-variable"},
		"argument":            {args: []string{"--influx.token=from-an-argument\n"}, header: "Token from-an-argument"},
		"file":                {args: []string{"--influx.token-file=" + filepath.Join(dir, "file")}, header: "Token from-a-file"},
		"at":                  {args: []string{"--influx.token", "@" + argsFile}, header: "Token @" + argsFile},
		"file with a scheme":  {args: []string{"--influx.token-file=" + filepath.Join(dir, "bearer")}, log: `begins with \"Bearer \"`},
		"file with a BOM":     {args: []string{"--influx.token-file=" + filepath.Join(dir, "bom")}, log: "begins with a byte order mark"},
		"command line over a": {env: []string{"INFLUX_DB=\r"}, args: []string{"--influx.db=vmstats", "--influx.token=a"}, header: "Token a"},
		"password": {env: []string{"INFLUX_USERNAME=u", `INFLUX_PASSWORD="quote `},
			args: []string{"--influx.auth-scheme=Token"}, header: `Token u:"quote`},
	} {
		t.Run(name, func(t *testing.T) {
			front := newFront(t, "http://127.0.0.1:1")
			e := startExporter(t, append(tt.env, "INFLUX_URL="+front.URL), tt.args...)
			e.scrape(t)
			requests := front.taken()
			if tt.header == "" {
				if len(requests) > 0 {
					t.Errorf("%d requests were sent", len(requests))
				}
				if log := e.logsWith(0, tt.log); !strings.Contains(log, tt.log) || strings.Contains(log, "canary") {
					t.Errorf("no %q, or the secret, in\n%s", tt.log, log)
				}
				return
			}
			if len(requests) == 0 {
				t.Fatal("no request was sent")
			}
			if got := requests[0].Header.Get("Authorization"); got != tt.header {
				t.Errorf("Authorization %q, want %q", got, tt.header)
			}
		})
	}
}

// TestMain_at: an argument that begins with @ is not replaced by the lines of a file.
func TestMain_at(t *testing.T) {
	file := filepath.Join(t.TempDir(), "args")
	write(t, file, "--version\n")
	cmd := exec.Command(binary, "@"+file)
	cmd.Env = os.Environ()
	output, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(output), "argument 1 is unexpected") {
		t.Errorf("%v\n%s", err, output)
	}
}
