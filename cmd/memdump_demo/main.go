// Command memdump_demo shows memdump_exporter at work: it starts a real InfluxDB, fills it with six weeks of believable
// dumps, starts the exporter on it, and goes on writing. Everything ends with it, and nothing stays behind. With
// INFLUX_URL set it writes into a database of its own on that InfluxDB instead; INFLUXD or INFLUXDB3 names the program of
// an InfluxDB to start.
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
	// Not SIGPIPE, which would end us before the cleaning up when a reader of our output is gone (`| head`, or Ctrl-C
	// with `| tee`); with a handler, a write to a broken pipe is an error, and that ends us in order.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// Never undone: a second, impatient Ctrl-C must not cut the cleaning up, which takes seconds at most.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	if err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "memdump_demo:", err)
		os.Exit(1)
	}
}

type options struct {
	exporter       string        // path of the binary
	listen         string        // host:port of the exporter
	seed           uint64        // of the believable data
	telemetryEvery time.Duration // between two samples of each VM
	dumpEvery      time.Duration
	restartEvery   time.Duration // of some VM
	warning        time.Duration // before something is written to somebody's InfluxDB
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("memdump_demo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.exporter, "exporter", "bin/memdump_exporter", "`path` of the exporter to start; empty for none: with INFLUX_URL set, only points are written")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:10147", "`address` for the exporter to listen on")
	flags.Uint64Var(&o.seed, "seed", 1, "seed of the data; equal seeds give equal dumps")
	flags.DurationVar(&o.telemetryEvery, "telemetry-every", 5*time.Second, "time between two samples of each VM")
	flags.DurationVar(&o.dumpEvery, "dump-every", 15*time.Second, "time between two dumps")
	flags.DurationVar(&o.restartEvery, "restart-every", time.Minute, "time between two restarts of a VM")
	flags.DurationVar(&o.warning, "warning", 5*time.Second, "time to change your mind before INFLUX_URL is written to")
	flags.Usage = func() {
		fmt.Fprint(stderr, `Usage: memdump_demo [flags]

Starts a real InfluxDB with six weeks of believable dumps and memdump_exporter on it, and goes on writing. INFLUXD (1.x
or 2.x) or INFLUXDB3 names the program to start, instead of the InfluxDB 1.7.11 that is built once. With INFLUX_URL (and
INFLUX_TOKEN) set it starts no InfluxDB, but writes there, into the database memdump_demo; on 2.x it makes the bucket.

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

// run shows the demo until ctx ends, which is no error, or until the exporter ends, which is one. When it returns, all
// that it started has ended and its temporary directory is gone. What the exporter logs goes to stderr.
func run(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	// What can be wrong with the exporter is cheaper to know before InfluxDB is built.
	if o.exporter != "" {
		if _, err := exec.LookPath(o.exporter); err != nil {
			return fmt.Errorf("no exporter to start (build it, or say --exporter=PATH): %w", err)
		}
		if err := checkFree(ctx, o.listen); err != nil {
			return err
		}
	} else if env("INFLUX_URL") == "" {
		return errors.New("--exporter= without INFLUX_URL: nobody could see what is written")
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &demo{options: o, out: &printer{w: stdout, broken: cancel}, logs: stderr}
	if url := env("INFLUX_URL"); url != "" {
		err = d.runOn(ctx, url, env("INFLUX_TOKEN"))
	} else {
		err = d.runLocal(ctx, env)
	}
	// Ctrl-C may meet any step; what it breaks there is no news.
	if ctx.Err() != nil && !errors.Is(err, errCleanup) {
		return nil
	}
	return err
}

// checkFree makes sure that nobody else can answer on the exporter's address and be taken for it.
func checkFree(ctx context.Context, address string) error {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("the exporter cannot listen there, choose another --listen: %w", err)
	}
	return l.Close()
}

// printer writes for the person who watches. Nothing can be said any more after a failed write, so it ends the demo.
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

// number is v as /metrics shows it.
func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
