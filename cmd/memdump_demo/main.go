// Command memdump_demo demonstrates memdump_exporter: it starts a real InfluxDB, writes six weeks of generated dumps,
// starts the exporter on it, and continues to write. When it ends, it stops both and removes the data. With INFLUX_URL it
// writes into a database of its own on that InfluxDB instead; INFLUXD or INFLUXDB3 names the program of an InfluxDB to
// start.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	// SIGPIPE would end the process before its cleanup when the reader of its output is gone (`| head`, or Ctrl-C with
	// `| tee`). With a handler, the write fails instead, and that ends the demo.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// Never stopped: a second Ctrl-C must not interrupt the cleanup, which takes seconds.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "memdump_demo:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	exporter       string        // path of the binary
	listen         string        // host:port of the exporter
	seed           uint64        // of the generated data
	telemetryEvery time.Duration // between two samples of each VM
	dumpEvery      time.Duration // between two dumps
	restartEvery   time.Duration // between two restarts of a VM
	warning        time.Duration // before the first write to the InfluxDB of INFLUX_URL
}

// parse parses the arguments.
func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("memdump_demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.exporter, "exporter", "bin/memdump_exporter", "`path` of the exporter to start; empty: none, which requires INFLUX_URL")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:10147", "`address` on which the exporter listens")
	flags.Uint64Var(&o.seed, "seed", 1, "seed of the data; equal seeds give equal dumps")
	flags.DurationVar(&o.telemetryEvery, "telemetry-every", 5*time.Second, "time between two samples of each VM")
	flags.DurationVar(&o.dumpEvery, "dump-every", 15*time.Second, "time between two dumps")
	flags.DurationVar(&o.restartEvery, "restart-every", time.Minute, "time between two restarts of a VM")
	flags.DurationVar(&o.warning, "warning", 5*time.Second, "time for Ctrl-C before the first write to INFLUX_URL")
	flags.Usage = func() {
		fmt.Fprint(stderr, `Usage: memdump_demo [flags]

Starts a real InfluxDB with six weeks of generated dumps, and memdump_exporter on it, and continues to write. INFLUXD
(1.x or 2.x) or INFLUXDB3 is the path of the program to start, instead of the InfluxDB 1.7.11 that is built once. With
INFLUX_URL (and INFLUX_TOKEN) it starts no InfluxDB, and writes into the database memdump_demo there; on 2.x it creates
the bucket.

`)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.telemetryEvery <= 0 || o.dumpEvery <= 0 || o.restartEvery <= 0 {
		return o, errors.New("--telemetry-every, --dump-every and --restart-every must be positive")
	}
	return o, nil
}

// run runs the demo until ctx ends. It is an error if the exporter ends first. When run returns, every process that it
// started has ended, and its temporary directory is removed. The log of the exporter goes to stderr.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	// Building InfluxDB takes a minute: check the exporter first.
	if o.exporter != "" {
		if _, err := exec.LookPath(o.exporter); err != nil {
			return fmt.Errorf("no exporter (build it, or set --exporter): %w", err)
		}
		if err := checkFree(ctx, o.listen); err != nil {
			return err
		}
	} else if env("INFLUX_URL") == "" {
		return errors.New("an empty --exporter requires INFLUX_URL")
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &demo{options: o, out: &printer{w: stdout, broken: cancel}, logs: stderr}
	if url := env("INFLUX_URL"); url != "" {
		err = d.runOn(ctx, url, env("INFLUX_TOKEN"))
	} else {
		err = d.runLocal(ctx, env)
	}
	// Ctrl-C may interrupt any step: the error of that step is expected.
	if ctx.Err() != nil && !errors.Is(err, errCleanup) {
		return nil
	}
	return err
}

// checkFree returns an error if another program listens on the exporter's address, which could be mistaken for it.
func checkFree(ctx context.Context, address string) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("the exporter cannot listen on the address of --listen: %w", err)
	}
	return l.Close()
}

// printer writes to standard output. A failed write ends the demo.
type printer struct {
	w      io.Writer
	broken func()
}

func (p *printer) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if err != nil {
		p.broken()
	}
	return n, err
}

func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p, format, args...) }

// number formats v as /metrics does.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
