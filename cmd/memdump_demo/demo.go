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
	demoDatabase  = "memdump_demo" // on the InfluxDB of INFLUX_URL; never a database with real data

	lookback     = 24 * time.Hour
	maxAge       = 24 * time.Hour   // --dumps.max-age of the exporter
	historyBatch = 2000             // points per write
	writeTimeout = 3 * time.Second  // for live points: an InfluxDB that hangs must not delay Ctrl-C
	readyTimeout = 30 * time.Second // for the exporter
	readyPoll    = 50 * time.Millisecond
	maxQueue     = 20_000 // points queued while InfluxDB is unreachable
	pruneEvery   = time.Hour
)

// errCleanup means that a process or a directory is left; it is reported also after Ctrl-C.
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

// runLocal starts an InfluxDB, the first program of INFLUXD and INFLUXDB3 or the default one, and the exporter on it.
func (d *demo) runLocal(ctx context.Context, env func(string) string) (err error) {
	d.out.printf("memdump_demo: a real InfluxDB with generated data, and %s\n", d.exporter)
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
  kill -STOP %[1]d    InfluxDB hangs: the metrics are absent, memdump_up is 0
  kill -CONT %[1]d    InfluxDB continues: the metrics are back
  Ctrl-C             stops everything and removes the data
`, server.Pid()))
}

// settings returns the variables with which the exporter finds an InfluxDB.
func settings(url, token string) []string {
	variables := []string{"INFLUX_URL=" + url}
	if token != "" {
		variables = append(variables, "INFLUX_TOKEN="+token)
	}
	return variables
}

// runOn writes into the InfluxDB of INFLUX_URL, and starts the exporter on it.
func (d *demo) runOn(ctx context.Context, url, token string) error {
	u, err := neturl.Parse(url)
	if err != nil || u.Host == "" {
		return errors.New("INFLUX_URL is not a URL such as http://localhost:8181") // without the value, which may contain a password
	}
	d.influx = &influxtest.Writer{URL: url, Token: token, HTTP: &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		// A redirect would send the points to another host, or turn the POST into a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	defer d.influx.HTTP.CloseIdleConnections()
	d.database = demoDatabase
	d.history = influxtest.Believable(d.seed, time.Now())

	d.out.printf("INFLUX_URL is set: about to write %d points into the database %s on %s, and more every %s.\n"+
		"Press Ctrl-C within %s to write nothing…\n",
		len(d.history.Lines()), d.database, u.Host, d.telemetryEvery, d.warning)
	warning := time.NewTimer(d.warning)
	defer warning.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-warning.C:
	}

	// This also fails where the database exists, and where the first write creates it.
	createErr := d.influx.CreateDatabase(ctx, d.database)
	if err := d.writeHistory(ctx); err != nil {
		if createErr != nil {
			err = fmt.Errorf("%w (create the database: %w)", err, createErr)
		}
		return fmt.Errorf("%w\nInfluxDB 1.x: the user needs the right to write to %[2]s, or to create it. "+
			"InfluxDB 2.x: grant INFLUX_TOKEN the creation of buckets, or create the bucket %[2]s, "+
			"or a DBRP mapping from the database %[2]s to a bucket, and grant the token reading and writing. "+
			"InfluxDB 3 Core: there are at most five databases", err, d.database)
	}
	defer d.out.printf("the data is still there; DROP DATABASE %[1]s (1.x), deleting the bucket (2.x), "+
		"or influxdb3 delete database %[1]s (3.x) removes it\n", d.database)

	if d.exporter == "" {
		d.introduce()
		d.printTruth("")
		return d.live(ctx, nil)
	}
	return d.show(ctx, settings(url, token), `
  The truth below is that of this run: points of an earlier demo in the database count on /metrics too.
  Ctrl-C             stops the exporter; the data stays
`)
}

// cleanup adds an error of the cleanup to the error that ended the run.
func cleanup(err, left error) error {
	if left != nil {
		return errors.Join(err, fmt.Errorf("%w: %w", errCleanup, left))
	}
	return err
}

// writeHistory writes all points of the history.
func (d *demo) writeHistory(ctx context.Context) error {
	lines := d.history.Lines()
	d.out.printf("writing %d points into %s:", len(lines), d.database)
	shown := 0
	for done := 0; done < len(lines); {
		n := min(historyBatch, len(lines)-done)
		if err := d.influx.Write(ctx, d.database, lines[done:done+n]); err != nil {
			d.out.printf("\n")
			return err
		}
		done += n
		for ; shown+10 <= 100*done/len(lines); shown += 10 {
			d.out.printf(" %d%%", shown+10)
		}
	}
	d.out.printf("\n")
	return nil
}

// show starts the exporter with the settings in its environment, and writes until ctx or the exporter ends.
func (d *demo) show(ctx context.Context, settings []string, hints string) (err error) {
	cmd := exec.Command(d.exporter, "--web.listen-address="+d.listen, fmt.Sprint("--dumps.max-age=", maxAge))
	cmd.Stdout, cmd.Stderr = d.logs, d.logs
	// Variables of the shell may describe another InfluxDB.
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
	d.printTruth("")
	return d.live(ctx, exporter)
}

// browsable returns a listen address with a host, for a URL.
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

// waitReady waits until the exporter is ready.
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
			return fmt.Errorf("request /-/ready: %w", err)
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

// ended returns the error for an exporter that ended by itself.
func ended(exporter *influxtest.Process) error {
	if err := exporter.Err(); err != nil {
		return fmt.Errorf("the exporter ended: %w", err)
	}
	return errors.New("the exporter ended")
}
