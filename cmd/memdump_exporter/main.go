// Command memdump_exporter is a Prometheus exporter that queries InfluxDB, on each scrape, for the
// memory dumps of virtual machines.
//
// This package contains the flags, the environment, signals, the HTTP server and the commands. It
// contains no query.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"os/signal"
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
	// Kingpin would replace an argument that begins with @ by the lines of a file.
	kingpin.EnableFileExpansion = false
	// net/http logs there what a server sends without a request, which may contain secrets.
	stdlog.SetOutput(io.Discard)
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

// exitCode returns 0 for no error, 2 for a usageError, and 1 for any other, and prints the error.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if !errors.Is(err, errCheck) { // check has printed it
		fmt.Fprintln(stderr, name+":", err)
	}
	if usage := (usageError{}); errors.As(err, &usage) {
		return 2
	}
	return 1
}

// run parses the arguments and runs their command; serve ends with the context. The environment is
// read through the flags that name a variable, and by check for its hints.
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
	if err := serve(ctx, o, handler, connections, base, logger); err != nil {
		return err
	}
	_ = level.Info(logger).Log("msg", "stopped")
	return nil
}
