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
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-kit/log/level"
	"github.com/prometheus/common/version"
)

func main() {
	// Only net/http writes there: what a server sends that nobody asked for, in its words.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
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
	base, logger := newLoggers(o, stderr)
	conns := newConnections(openFiles())
	handler, err := newHandler(o, conns, base, logger)
	if err != nil {
		return err
	}
	_ = level.Info(logger).Log("msg", "starting", "version", version.Info(), "build", version.BuildContext())
	if err := serve(ctx, o, handler, conns, base); err != nil {
		return err
	}
	_ = level.Info(logger).Log("msg", "stopped")
	return nil
}
