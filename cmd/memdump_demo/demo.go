package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"memdump_exporter/influx/influxtest"
)

const (
	localDatabase = "vmstats"
	demoDatabase  = "memdump_demo" // on an InfluxDB that is not ours; never one that could hold real data

	lookback     = 24 * time.Hour
	maxAge       = 24 * time.Hour   // of the newest dump of a VM
	historyBatch = 2000             // points between two steps of progress
	writeTimeout = 3 * time.Second  // for live points; an InfluxDB that hangs must not hold up Ctrl-C or the clock
	readyTimeout = 30 * time.Second // for the exporter
	readyPoll    = 50 * time.Millisecond
	queueBound   = 20_000 // points kept while InfluxDB is away
	pruneEvery   = time.Hour
)

// errCleanup marks what could not be ended or removed: worth telling also after Ctrl-C.
var errCleanup = errors.New("left behind")

// demo is one run.
type demo struct {
	options
	out  *printer
	logs io.Writer // of the exporter

	influx   *influxtest.Writer
	database string
	history  *influxtest.History
	queue    []string // lines not yet stored, oldest first
}

// runLocal shows everything on an InfluxDB of its own: the first of the programs that INFLUXD and INFLUXDB3 name, or the
// default one.
func (d *demo) runLocal(ctx context.Context, env func(string) string) (err error) {
	d.out.printf("memdump_demo: a real InfluxDB, believable data, and %s on it\n", d.exporter)
	specs, err := influxtest.Programs(ctx, env("INFLUXD"), env("INFLUXDB3"))
	if err != nil {
		return err
	}
	if len(specs) == 0 {
		spec, err := influxtest.Default(ctx, d.out)
		if err != nil {
			return err
		}
		specs = append(specs, spec)
	}
	dir, err := os.MkdirTemp("", "memdump_demo-")
	if err != nil {
		return fmt.Errorf("directory for InfluxDB: %w", err)
	}
	defer func() { err = cleanup(err, os.RemoveAll(dir)) }()

	d.out.printf("starting InfluxDB…\n")
	server, err := specs[0].Start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = cleanup(err, server.Stop()) }()
	d.out.printf("InfluxDB %s runs at %s, pid %d, data in %s\n", server.Version, server.URL, server.Pid(), dir)

	d.influx, d.database = &server.Writer, localDatabase
	if err := d.influx.CreateDatabase(ctx, d.database); err != nil {
		return err
	}
	d.history = influxtest.Believable(d.seed, time.Now())
	if err := d.writeHistory(ctx); err != nil {
		return err
	}
	return d.show(ctx, settings(server.URL, server.Token), fmt.Sprintf(`
  kill -STOP %[1]d    InfluxDB hangs: the figures leave /metrics, memdump_up is 0
  kill -CONT %[1]d    and they come back
  Ctrl-C             ends all of it; nothing stays behind
`, server.Pid()))
}

// settings are the variables that lead the exporter to an InfluxDB.
func settings(url, token string) []string {
	variables := []string{"INFLUX_URL=" + url}
	if token != "" {
		variables = append(variables, "INFLUX_TOKEN="+token)
	}
	return variables
}

// runOn shows everything on an InfluxDB that is somebody's.
func (d *demo) runOn(ctx context.Context, url, token string) error {
	u, err := neturl.Parse(url)
	if err != nil || u.Host == "" {
		return errors.New("INFLUX_URL is not a URL such as http://localhost:8181") // without it: it may hold a password
	}
	d.influx = &influxtest.Writer{URL: url, Token: token, HTTP: &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		// A redirect would carry the points, and a POST become a GET, to where nobody said.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	defer d.influx.HTTP.CloseIdleConnections()
	d.database = demoDatabase
	d.history = influxtest.Believable(d.seed, time.Now())

	d.out.printf("INFLUX_URL is set: about to write %d points into the database %s on %s, and some more every %s.\nCtrl-C within %s to leave it alone…\n",
		len(d.history.Lines()), d.database, u.Host, d.telemetryEvery, d.warning)
	warning := time.NewTimer(d.warning)
	defer warning.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-warning.C:
	}

	// Refused it is also where the database is there already, and where a write makes it.
	createErr := d.influx.CreateDatabase(ctx, d.database)
	if err := d.writeHistory(ctx); err != nil {
		if createErr != nil {
			err = fmt.Errorf("%w (before: %w)", err, createErr)
		}
		return fmt.Errorf("%w\nInfluxDB 1.x: the user must be allowed to write to %[2]s, or to create it. "+
			"InfluxDB 2.x: give INFLUX_TOKEN the right to make buckets, or make the bucket %[2]s, "+
			"or a DBRP mapping from the database %[2]s to a bucket, and let the token write to it and read it. "+
			"InfluxDB 3 Core: five databases at most", err, d.database)
	}
	defer d.out.printf("the data is still there; DROP DATABASE %[1]s (1.x), delete the bucket (2.x), or influxdb3 delete database %[1]s (3.x) removes it\n", d.database)

	if d.exporter == "" {
		d.introduce()
		d.tell("")
		return d.live(ctx, nil)
	}
	return d.show(ctx, settings(url, token), `
  The truth below holds when nothing else is in that database: an earlier demo's points count on /metrics too.
  Ctrl-C             ends the exporter; the data stays
`)
}

// cleanup adds what went wrong at the end to what ended the run.
func cleanup(err, at error) error {
	if at != nil {
		return errors.Join(err, fmt.Errorf("%w: %w", errCleanup, at))
	}
	return err
}

func (d *demo) writeHistory(ctx context.Context) error {
	lines := d.history.Lines()
	d.out.printf("writing %d points into %s:", len(lines), d.database)
	told := 0
	for done := 0; done < len(lines); {
		n := min(historyBatch, len(lines)-done)
		if err := d.influx.Write(ctx, d.database, lines[done:done+n]); err != nil {
			d.out.printf("\n")
			return err
		}
		done += n
		for ; told+10 <= 100*done/len(lines); told += 10 {
			d.out.printf(" %d%%", told+10)
		}
	}
	d.out.printf("\n")
	return nil
}

// show starts the exporter with the settings in its environment and goes on writing until ctx or the exporter ends.
func (d *demo) show(ctx context.Context, settings []string, hints string) (err error) {
	cmd := exec.Command(d.exporter, "--web.listen-address="+d.listen, fmt.Sprint("--dumps.max-age=", maxAge))
	cmd.Stdout, cmd.Stderr = d.logs, d.logs
	// What the user's shell has set for another InfluxDB must not mix with this one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "INFLUX_") })
	cmd.Env = append(append(cmd.Env, settings...), "INFLUX_DB="+d.database)
	exporter, err := influxtest.StartProcess(cmd)
	if err != nil {
		return err
	}
	defer func() {
		if ctx.Err() != nil {
			d.out.printf("\nstopping…\n")
		}
		err = cleanup(err, exporter.Stop())
	}()
	base := "http://" + browsable(d.listen)
	if err := waitReady(ctx, base, exporter); err != nil {
		return err
	}
	d.introduce()
	d.out.printf("\nThe exporter runs, pid %d. Open\n\n  %s/\n  %s/metrics\n%s\n", exporter.Pid(), base, base, hints)
	d.tell("")
	return d.live(ctx, exporter)
}

// browsable is a listen address with a host, for a URL.
func browsable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

func waitReady(ctx context.Context, base string, exporter *influxtest.Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("the exporter is not ready after %s", readyTimeout))
	defer cancel()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-exporter.Done():
			return ended(exporter)
		case <-poll.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/-/ready", nil)
		if err != nil {
			return fmt.Errorf("ask the exporter: %w", err)
		}
		resp, err := client.Do(req)
		if err != nil {
			continue // it does not listen yet
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
}

func ended(exporter *influxtest.Process) error {
	if err := exporter.Err(); err != nil {
		return fmt.Errorf("the exporter ended: %w", err)
	}
	return errors.New("the exporter ended by itself")
}
