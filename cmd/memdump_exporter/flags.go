package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/version"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/prometheus/exporter-toolkit/web/kingpinflag"

	"memdump_exporter/influx"
)

const name = "memdump_exporter"

// options are the values of the flags.
type options struct {
	influxURL, influxDatabase, influxAPI string
	influxUsername, influxScheme         string
	influxToken, influxTokenFile         string
	influxPassword, influxPasswordFile   string
	influxMaxConcurrency                 int
	influxProxyURL                       string
	tls                                  promconfig.TLSConfig

	dumpsMeasurement, dumpsPolicy               string
	dumpsAllowedLateness, dumpsMaxAge           time.Duration
	telemetryMeasurements                       []string
	telemetryPolicy                             string
	telemetryLookback, telemetryAllowedLateness time.Duration

	perVM      bool
	perVMLimit int

	scrapeTimeout, scrapeTimeoutOffset time.Duration

	recordsMaxOffset int64

	telemetryPath string
	web           *web.FlagConfig

	logLevel, logFormat string

	command     string // checkCommand, backfillCommand, or serveCommand
	checkOutput string
	backfill    backfillOptions
}

const (
	serveCommand    = "serve"
	checkCommand    = "check"
	backfillCommand = "backfill"

	tokenFlag    = "influx.token"
	passwordFlag = "influx.password"
	proxyFlag    = "--influx.proxy-url (INFLUX_PROXY_URL)"
)

// newApplication declares the flags. INFLUX_URL, INFLUX_DB and INFLUX_TOKEN are the variables of the
// Python service that this exporter replaces.
func newApplication(o *options) *kingpin.Application {
	app := kingpin.New(name, "Prometheus exporter for memory dumps of virtual machines that are recorded in InfluxDB 1.x, 2.x or 3.x.")
	app.HelpFlag.Short('h')
	app.Version(version.Print(name))
	o.influxFlags(app)
	o.collectorFlags(app)
	o.serverFlags(app)
	o.commands(app)
	return app
}

func (o *options) influxFlags(app *kingpin.Application) {
	app.Flag("influx.url", "Base URL of InfluxDB or of a gateway in front of it; it may have a path prefix.").
		Envar("INFLUX_URL").Default("http://localhost:8181").StringVar(&o.influxURL)
	app.Flag("influx.db", "Name of the database; on 2.x, of a bucket or of a DBRP mapping.").
		Envar("INFLUX_DB").Default("vmstats").StringVar(&o.influxDatabase)
	app.Flag("influx.api", "API for the queries: influxql (/query), v3-query (/api/v3/query of a gateway), or auto (v3-query "+
		"where /query does not exist).").
		Envar("INFLUX_API").Default(string(influx.APIAuto)).
		EnumVar(&o.influxAPI, string(influx.APIAuto), string(influx.APIInfluxQL), string(influx.APIV3Query))
	app.Flag(tokenFlag, "Token with the right to read the database (on 1.x: user:password); other users of the machine can "+
		"read arguments, so prefer the variable or a file.").
		Envar("INFLUX_TOKEN").StringVar(&o.influxToken)
	app.Flag("influx.token-file", "File that contains the token; it is read for each request.").
		Envar("INFLUX_TOKEN_FILE").StringVar(&o.influxTokenFile)
	app.Flag("influx.username", "User name, instead of a token.").
		Envar("INFLUX_USERNAME").StringVar(&o.influxUsername)
	app.Flag(passwordFlag, "Password of the user; other users of the machine can read arguments, so prefer the variable or a file.").
		Envar("INFLUX_PASSWORD").StringVar(&o.influxPassword)
	app.Flag("influx.password-file", "File that contains the password; it is read for each request.").
		Envar("INFLUX_PASSWORD_FILE").StringVar(&o.influxPasswordFile)
	app.Flag("influx.auth-scheme", "Authentication scheme: Basic, Token, Bearer, or auto (Basic for a user, Bearer for a JSON Web Token, "+
		"Token for any other token).").
		Envar("INFLUX_AUTH_SCHEME").Default(string(influx.SchemeAuto)).
		EnumVar(&o.influxScheme, string(influx.SchemeAuto), string(influx.SchemeBasic), string(influx.SchemeToken), string(influx.SchemeBearer))
	app.Flag("influx.max-concurrency", "Maximum number of concurrent requests to InfluxDB; further requests wait, within the scrape timeout.").
		Envar("INFLUX_MAX_CONCURRENCY").Default(strconv.Itoa(influx.DefaultMaxConcurrency)).IntVar(&o.influxMaxConcurrency)
	app.Flag("influx.proxy-url", "URL of the HTTP proxy for all requests to InfluxDB, such as http://proxy.example:3128; proxy "+
		"variables such as HTTP_PROXY are ignored.").
		Envar("INFLUX_PROXY_URL").StringVar(&o.influxProxyURL)
	app.Flag("influx.tls.ca-file", "File with the CA certificates that verify InfluxDB's certificate, instead of the system's; it is "+
		"read for each request.").
		Envar("INFLUX_TLS_CA_FILE").StringVar(&o.tls.CAFile)
	app.Flag("influx.tls.cert-file", "File with the client certificate for InfluxDB; it is read for each request.").
		Envar("INFLUX_TLS_CERT_FILE").StringVar(&o.tls.CertFile)
	app.Flag("influx.tls.key-file", "File with the private key of the client certificate; it is read for each request.").
		Envar("INFLUX_TLS_KEY_FILE").StringVar(&o.tls.KeyFile)
	app.Flag("influx.tls.server-name", "Host name in InfluxDB's certificate, if it is not the host of --influx.url.").
		Envar("INFLUX_TLS_SERVER_NAME").StringVar(&o.tls.ServerName)
	app.Flag("influx.tls.insecure-skip-verify", "Do not verify InfluxDB's certificate; anyone on the network path can "+
		"then read the token and forge responses.").
		Envar("INFLUX_TLS_INSECURE_SKIP_VERIFY").BoolVar(&o.tls.InsecureSkipVerify)
}

func (o *options) collectorFlags(app *kingpin.Application) {
	app.Flag("dumps.measurement", "Measurement with one point for each memory dump.").
		Default("mem_dumps").StringVar(&o.dumpsMeasurement)
	app.Flag("dumps.retention-policy", "Retention policy of the measurement of the dumps; empty means the default policy of the database.").
		StringVar(&o.dumpsPolicy)
	app.Flag("dumps.allowed-lateness", "How long after the start of a dump its point may arrive and still be counted at the next scrape.").
		Default("24h").DurationVar(&o.dumpsAllowedLateness)
	app.Flag("dumps.max-age", "Maximum age of the newest dump of a monitored VM before memdump_vms_dump_overdue counts the VM; 0 "+
		"disables that metric.").
		Default("0s").DurationVar(&o.dumpsMaxAge)
	app.Flag("telemetry.measurement", "Measurement with a point every few seconds for each running VM; repeatable: a VM with a point in any "+
		"of them is monitored.").
		Default("vm_info", "vm_totals", "vm_metrics").StringsVar(&o.telemetryMeasurements)
	app.Flag("telemetry.retention-policy", "Retention policy of the measurements of the telemetry; empty means the default policy of the "+
		"database.").
		StringVar(&o.telemetryPolicy)
	app.Flag("telemetry.allowed-lateness", "How late a point of the telemetry may arrive and still be counted at the next scrape.").
		Default("5m").DurationVar(&o.telemetryAllowedLateness)
	app.Flag("telemetry.lookback", "How long a VM remains monitored after its newest point of telemetry.").
		Default("24h").DurationVar(&o.telemetryLookback)

	app.Flag("collect.per-vm", "Serve metrics for each dumped VM (memdump_vm_*), which takes two more queries per scrape.").
		BoolVar(&o.perVM)
	app.Flag("collect.per-vm.limit", "Maximum number of VMs with metrics of their own, the most recently dumped; memdump_vms_omitted "+
		"counts the others.").
		Default("500").IntVar(&o.perVMLimit)
}

func (o *options) serverFlags(app *kingpin.Application) {
	app.Flag("scrape.timeout", "Scrape timeout for scrapers that do not send one (Prometheus does).").
		Default("10s").DurationVar(&o.scrapeTimeout)
	app.Flag("scrape.timeout-offset", "How long before the scrape timeout the response is sent, with the results that are available then.").
		Default("500ms").DurationVar(&o.scrapeTimeoutOffset)

	app.Flag("records.max-offset", "Maximum offset of /records, in records; InfluxDB reads all records that an offset skips.").
		Default("100000").Int64Var(&o.recordsMaxOffset)

	app.Flag("web.telemetry-path", "Path of the metrics.").
		Default("/metrics").StringVar(&o.telemetryPath)
	o.web = kingpinflag.AddFlags(app, ":10147")

	app.Flag("log.level", "Minimum level of the log: debug, info, warn or error.").
		Default("info").EnumVar(&o.logLevel, "debug", "info", "warn", "error")
	app.Flag("log.format", "Format of the log: logfmt or json.").
		Default("logfmt").EnumVar(&o.logFormat, "logfmt", "json")
}

func (o *options) commands(app *kingpin.Application) {
	app.Command(serveCommand, "Serve the metrics; this is the default command.").Default()
	check := app.Command(checkCommand, "Check step by step whether a scrape would succeed, and print what to change; the exit code is 1 "+
		"if a step is wrong.")
	check.Flag("output", "Format of the result: text or json.").Default("text").EnumVar(&o.checkOutput, "text", "json")

	backfill := app.Command(backfillCommand, "Write past values of the metrics about dumps as OpenMetrics text, for "+
		"promtool tsdb create-blocks-from openmetrics.")
	backfill.Flag("from", "Time of the first step, such as 2026-01-31T00:00:00Z, or in seconds since 1970.").
		Required().StringVar(&o.backfill.from)
	backfill.Flag("to", "Time of the last step; the default is three hours ago, and a later time requires --allow-recent.").
		StringVar(&o.backfill.to)
	backfill.Flag("allow-recent", "Allow a --to within the last three hours; at its next start, Prometheus then drops the samples of "+
		"all targets that are older than --to and not in a block yet.").
		BoolVar(&o.backfill.allowRecent)
	backfill.Flag("step", "Time between two steps; Prometheus shows a value for five minutes.").Default("5m").DurationVar(&o.backfill.step)
	backfill.Flag("output", "File to write; it must not exist.").Required().StringVar(&o.backfill.output)
	o.backfill.labels = make(map[string]string)
	backfill.Flag("label", "Label that Prometheus adds to the live series, such as job=memdump and instance=HOST:PORT, so that "+
		"both form one series; repeatable.").
		StringMapVar(&o.backfill.labels)
}

// parse reads the arguments and the variables. done is true when --help or --version was printed.
func parse(args []string, stdout, stderr io.Writer) (o options, done bool, err error) {
	app := newApplication(&o)
	// Kingpin goes on parsing after it has printed the help or the version.
	app.Terminate(func(int) { done = true })
	app.UsageWriter(stdout)
	app.ErrorWriter(stderr)
	o.command, err = app.Parse(args)
	if done {
		return o, true, nil
	}
	if err := checkValues(app, args, err); err != nil {
		return o, false, usageError{fmt.Errorf("%w, try --help", err)}
	}
	// A file with a secret ends with a line feed in most cases; so does a variable made from one.
	o.influxToken = strings.TrimSpace(o.influxToken)
	o.influxPassword = strings.TrimSpace(o.influxPassword)
	if err := o.check(); err != nil {
		return o, false, usageError{err}
	}
	return o, false, nil
}

// usageError is an invalid flag or argument; the exit code is 2.
type usageError struct{ error }

// check returns an error for values that do not fit. influx.New checks the settings of the client.
func (o options) check() error {
	switch {
	case o.scrapeTimeout <= 0:
		return fmt.Errorf("--scrape.timeout is %v: expected a time longer than 0, such as 10s", o.scrapeTimeout)
	case o.scrapeTimeoutOffset < 0:
		return fmt.Errorf("--scrape.timeout-offset is %v: expected 0 or longer, such as 500ms", o.scrapeTimeoutOffset)
	case o.influxToken != "" && o.influxTokenFile != "":
		return errors.New("--influx.token (INFLUX_TOKEN) and --influx.token-file (INFLUX_TOKEN_FILE) are both set: expected one of them")
	case o.influxPassword != "" && o.influxPasswordFile != "":
		return errors.New("--influx.password (INFLUX_PASSWORD) and --influx.password-file (INFLUX_PASSWORD_FILE) are both set: " +
			"expected one of them")
	case o.influxMaxConcurrency < 1:
		return fmt.Errorf("--influx.max-concurrency (INFLUX_MAX_CONCURRENCY) is %d: expected 1 or more, such as %d",
			o.influxMaxConcurrency, influx.DefaultMaxConcurrency)
	case (o.tls.CertFile == "") != (o.tls.KeyFile == ""):
		return errors.New("--influx.tls.cert-file and --influx.tls.key-file: expected both or neither")
	case o.dumpsAllowedLateness < 0:
		return fmt.Errorf("--dumps.allowed-lateness is %v: expected 0 or longer, such as 24h", o.dumpsAllowedLateness)
	case o.telemetryAllowedLateness < 0:
		return fmt.Errorf("--telemetry.allowed-lateness is %v: expected 0 or longer, such as 5m", o.telemetryAllowedLateness)
	case o.dumpsMaxAge < 0:
		return fmt.Errorf("--dumps.max-age is %v: expected 0 or longer, such as 48h", o.dumpsMaxAge)
	case o.perVMLimit <= 0:
		return fmt.Errorf("--collect.per-vm.limit is %d: expected 1 or more, such as 500", o.perVMLimit)
	case o.recordsMaxOffset < 0:
		return fmt.Errorf("--records.max-offset is %d: expected 0 or more", o.recordsMaxOffset)
	case o.telemetryLookback <= 0:
		return fmt.Errorf("--telemetry.lookback is %v: expected a time longer than 0, such as 24h", o.telemetryLookback)
	case o.dumpsMeasurement == "":
		return fmt.Errorf("--dumps.measurement is empty: expected the name of a measurement, such as mem_dumps")
	case slices.Contains(o.telemetryMeasurements, ""):
		return fmt.Errorf("--telemetry.measurement is empty: expected the name of a measurement, such as vm_totals")
	}
	return checkPath(o.telemetryPath)
}
