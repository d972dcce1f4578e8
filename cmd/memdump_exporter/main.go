// Command memdump_exporter is a Prometheus exporter that asks InfluxDB, on each
// scrape, whether the memory of virtual machines is still being dumped.
//
// This package is the only place that knows flags, the environment, signals and the
// HTTP server; it must not know what is asked.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/go-kit/log/level"
	"github.com/prometheus/common/version"

	"memdump_exporter/cmd/memdump_exporter/connlimit"
	"memdump_exporter/cmd/memdump_exporter/logqueue"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	// A value that begins with @ is no name of a file.
	kingpin.EnableFileExpansion = false
	// net/http repeats there what a server sends unasked, whatever that holds.
	stdlog.SetOutput(io.Discard)
	// Most of what a crowd of scrapers costs is garbage: it is collected when there is a
	// quarter of what lives, not as much again, unless GOGC says otherwise.
	if percent := debug.SetGCPercent(25); percent != 100 {
		debug.SetGCPercent(percent)
	}
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

// exitCode says what ended run: 0 all well, 1 something is wrong, 2 usage.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if !errors.Is(err, errCheck) { // which has said it
		fmt.Fprintln(stderr, name+":", err)
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		return 2
	}
	return 1
}

// run is the program: it parses the arguments and serves until the context ends.
// The environment is read only through the flags that name a variable.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, done, err := parse(args, stdout, stderr)
	if done || err != nil {
		return err
	}
	if o.command == checkCommand {
		return runCheck(ctx, o, stdout)
	}
	if o.command == backfillCommand {
		return runBackfill(ctx, o, stderr)
	}
	lines := logqueue.New(stderr)
	defer lines.Close()
	base, logger := newLoggers(o, lines)
	connections := connlimit.New()
	handler, end, err := newHandler(o, base, logger, connections.Closed, lines.Dropped)
	if err != nil {
		return err
	}
	defer end()
	_ = level.Info(logger).Log("msg", "starting", "version", version.Info(), "build", version.BuildContext())
	if err := serve(ctx, o, handler, connections, base); err != nil {
		return err
	}
	_ = level.Info(logger).Log("msg", "stopped")
	return nil
}
