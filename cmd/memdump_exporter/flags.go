package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"
)

const name = "memdump_exporter"

// options are the flags, as given or by default.
type options struct {
	influxURL, influxDatabase, influxToken string

	dumpsMeasurement, telemetryMeasurement string
	telemetryLookback                      time.Duration

	scrapeTimeout, scrapeTimeoutOffset time.Duration

	telemetryPath string
	web           *web.FlagConfig

	logLevel, logFormat string
}

// newApplication declares the flags. The variables of the environment are those of
// the Python service that this exporter replaces.
func newApplication(o *options) *kingpin.Application {
	app := kingpin.New(name, "Prometheus exporter for the memory dumps of virtual machines, as recorded in InfluxDB 1.x, 2.x or 3.x.")
	app.HelpFlag.Short('h')
	app.Version(version.Print(name))

	app.Flag("influx.url", "Base URL of InfluxDB or of a gateway in front of it; a path prefix is kept.").
		Envar("INFLUX_URL").Default("http://localhost:8181").StringVar(&o.influxURL)
	app.Flag("influx.db", "Database: on 2.x the name of a bucket or of a DBRP mapping.").
		Envar("INFLUX_DB").Default("vmstats").StringVar(&o.influxDatabase)
	app.Flag("influx.token", "Token with the right to read the database (on 1.x: user:password). Better set in the environment: arguments can be read by every user of the machine.").
		Envar("INFLUX_TOKEN").StringVar(&o.influxToken)

	app.Flag("dumps.measurement", "Measurement that holds a point for each memory dump.").
		Default("mem_dumps").StringVar(&o.dumpsMeasurement)
	app.Flag("telemetry.measurement", "Measurement that holds a point every few seconds for each running VM.").
		Default("vm_info").StringVar(&o.telemetryMeasurement)
	app.Flag("telemetry.lookback", "How far back telemetry makes a VM count as monitored.").
		Default("24h").DurationVar(&o.telemetryLookback)

	app.Flag("scrape.timeout", "Time that a scrape may take when the scraper does not announce its own (Prometheus does).").
		Default("10s").DurationVar(&o.scrapeTimeout)
	app.Flag("scrape.timeout-offset", "How much earlier than the scraper's timeout a scrape is answered with what is there by then.").
		Default("500ms").DurationVar(&o.scrapeTimeoutOffset)

	app.Flag("web.telemetry-path", "Path under which the metrics are served.").
		Default("/metrics").StringVar(&o.telemetryPath)
	o.web = kingpinflag.AddFlags(app, ":10147")

	app.Flag("log.level", "Least severe level to log: debug, info, warn or error.").
		Default("info").StringVar(&o.logLevel)
	app.Flag("log.format", "Form of a log line: logfmt or json.").
		Default("logfmt").StringVar(&o.logFormat)
	return app
}

// parse reads the arguments; done is true when --help or --version was answered.
func parse(args []string, stdout, stderr io.Writer) (o options, done bool, err error) {
	app := newApplication(&o)
	// Kingpin goes on parsing after it has answered --help or --version.
	app.Terminate(func(int) { done = true })
	app.UsageWriter(stdout)
	app.ErrorWriter(stderr)
	_, err = app.Parse(args)
	switch {
	case done:
		return o, true, nil
	case err != nil:
		return o, false, fmt.Errorf("%w, try --help", err)
	}
	return o, false, o.check()
}

// check refuses what can't be meant; what belongs to InfluxDB, influx.New checks.
func (o options) check() error {
	switch {
	case o.scrapeTimeout <= 0:
		return fmt.Errorf("--scrape.timeout is %v: expected a time longer than 0, such as 10s", o.scrapeTimeout)
	case o.scrapeTimeoutOffset < 0:
		return fmt.Errorf("--scrape.timeout-offset is %v: expected 0 or longer, such as 500ms", o.scrapeTimeoutOffset)
	case o.telemetryLookback <= 0:
		return fmt.Errorf("--telemetry.lookback is %v: expected a time longer than 0, such as 24h", o.telemetryLookback)
	case o.dumpsMeasurement == "":
		return fmt.Errorf("--dumps.measurement is empty: expected the name of a measurement, such as mem_dumps")
	case !slices.Contains([]string{"debug", "info", "warn", "error"}, o.logLevel):
		return fmt.Errorf("--log.level is %q: expected debug, info, warn or error", o.logLevel)
	case !slices.Contains([]string{"logfmt", "json"}, o.logFormat):
		return fmt.Errorf("--log.format is %q: expected logfmt or json", o.logFormat)
	case o.telemetryMeasurement == "":
		return fmt.Errorf("--telemetry.measurement is empty: expected the name of a measurement, such as vm_info")
	}
	return checkPath(o.telemetryPath)
}
