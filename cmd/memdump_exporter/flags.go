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

// options are the flags, as given or by default.
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

// newApplication declares the flags. The variables of the environment are those of
// the Python service that this exporter replaces.
func newApplication(o *options) *kingpin.Application {
	app := kingpin.New(name, "Prometheus exporter for the memory dumps of virtual machines, as recorded in InfluxDB 1.x, 2.x or 3.x.")
	app.HelpFlag.Short('h')
	app.Version(version.Print(name))
	o.influxFlags(app)
	o.collectorFlags(app)
	o.serverFlags(app)
	o.commands(app)
	return app
}

func (o *options) influxFlags(app *kingpin.Application) {
	app.Flag("influx.url", "Base URL of InfluxDB or of a gateway in front of it; a path prefix is kept.").
		Envar("INFLUX_URL").Default("http://localhost:8181").StringVar(&o.influxURL)
	app.Flag("influx.db", "Database: on 2.x the name of a bucket or of a DBRP mapping.").
		Envar("INFLUX_DB").Default("vmstats").StringVar(&o.influxDatabase)
	app.Flag("influx.api", "How to ask: influxql (/query of InfluxDB 1.x, 2.x and 3.x), v3-query (/api/v3/query of a gateway, as the Python service asked it), or auto: v3-query only where there is no /query.").
		Envar("INFLUX_API").Default(string(influx.APIAuto)).EnumVar(&o.influxAPI, string(influx.APIAuto), string(influx.APIInfluxQL), string(influx.APIV3Query))
	app.Flag(tokenFlag, "Token that may read the database (on 1.x: user:password). Better set in the environment or in a file: every user of the machine can read arguments.").
		Envar("INFLUX_TOKEN").StringVar(&o.influxToken)
	app.Flag("influx.token-file", "File that holds the token; read again for each request.").
		Envar("INFLUX_TOKEN_FILE").StringVar(&o.influxTokenFile)
	app.Flag("influx.username", "User, instead of a token.").
		Envar("INFLUX_USERNAME").StringVar(&o.influxUsername)
	app.Flag(passwordFlag, "The user's password. Better set in the environment or in a file.").
		Envar("INFLUX_PASSWORD").StringVar(&o.influxPassword)
	app.Flag("influx.password-file", "File that holds the password; read again for each request.").
		Envar("INFLUX_PASSWORD_FILE").StringVar(&o.influxPasswordFile)
	app.Flag("influx.auth-scheme", "Authentication scheme: Basic, Token, Bearer, or auto: Basic for a user, Bearer for a JSON Web Token, Token for any other token. Every InfluxDB accepts auto; a gateway may need another one.").
		Envar("INFLUX_AUTH_SCHEME").Default(string(influx.SchemeAuto)).EnumVar(&o.influxScheme, string(influx.SchemeAuto), string(influx.SchemeBasic), string(influx.SchemeToken), string(influx.SchemeBearer))
	app.Flag("influx.max-concurrency", "Limit of the requests to InfluxDB at once, of scrapes, pages, records and backfill together; a request above it waits, within the scrape timeout.").
		Envar("INFLUX_MAX_CONCURRENCY").Default(strconv.Itoa(influx.DefaultMaxConcurrency)).IntVar(&o.influxMaxConcurrency)
	app.Flag("influx.proxy-url", "URL of the HTTP proxy through which InfluxDB is reached, such as http://proxy.example:3128; none by default, whatever HTTP_PROXY is set to.").
		Envar("INFLUX_PROXY_URL").StringVar(&o.influxProxyURL)
	app.Flag("influx.tls.ca-file", "File with the CA certificates that InfluxDB's certificate is verified by, instead of the system's; read again for each request.").
		Envar("INFLUX_TLS_CA_FILE").StringVar(&o.tls.CAFile)
	app.Flag("influx.tls.cert-file", "File with the client certificate to show to InfluxDB; read again for each request.").
		Envar("INFLUX_TLS_CERT_FILE").StringVar(&o.tls.CertFile)
	app.Flag("influx.tls.key-file", "File with the key of the client certificate; read again for each request.").
		Envar("INFLUX_TLS_KEY_FILE").StringVar(&o.tls.KeyFile)
	app.Flag("influx.tls.server-name", "Name that InfluxDB's certificate must have, where it is not the host of --influx.url.").
		Envar("INFLUX_TLS_SERVER_NAME").StringVar(&o.tls.ServerName)
	app.Flag("influx.tls.insecure-skip-verify", "Do not verify InfluxDB's certificate: anyone in between can then read the token and answer in InfluxDB's place.").
		Envar("INFLUX_TLS_INSECURE_SKIP_VERIFY").BoolVar(&o.tls.InsecureSkipVerify)
}

func (o *options) collectorFlags(app *kingpin.Application) {
	app.Flag("dumps.measurement", "Measurement that holds a point for each memory dump.").
		Default("mem_dumps").StringVar(&o.dumpsMeasurement)
	app.Flag("dumps.retention-policy", "Retention policy of that measurement; by default the database's default policy.").
		StringVar(&o.dumpsPolicy)
	app.Flag("dumps.allowed-lateness", "How late after a dump's start its point may arrive and still be counted at the next scrape, in a database that is too large to be read whole at each scrape.").
		Default("24h").DurationVar(&o.dumpsAllowedLateness)
	app.Flag("dumps.max-age", "How old the newest dump of a monitored VM may be before memdump_vms_dump_overdue counts the VM; 0 leaves that metric out.").
		Default("0s").DurationVar(&o.dumpsMaxAge)
	app.Flag("telemetry.measurement", "Measurement that holds a point every few seconds for each running VM. Repeatable: a VM with a point in any of them is monitored.").
		Default("vm_info", "vm_totals", "vm_metrics").StringsVar(&o.telemetryMeasurements)
	app.Flag("telemetry.retention-policy", "Retention policy of these measurements; by default the database's default policy.").
		StringVar(&o.telemetryPolicy)
	app.Flag("telemetry.allowed-lateness", "How late a point of telemetry may arrive and still be counted at the next scrape, in a database that is too large to be read whole at each scrape.").
		Default("5m").DurationVar(&o.telemetryAllowedLateness)
	app.Flag("telemetry.lookback", "How far back the telemetry of a VM makes it a monitored VM (the look-back).").
		Default("24h").DurationVar(&o.telemetryLookback)

	app.Flag("collect.per-vm", "Serve metrics for each dumped VM too (memdump_vm_*): two more queries a scrape.").
		BoolVar(&o.perVM)
	app.Flag("collect.per-vm.limit", "For how many VMs these are served, the most recently dumped; memdump_vms_omitted counts the others.").
		Default("500").IntVar(&o.perVMLimit)
}

func (o *options) serverFlags(app *kingpin.Application) {
	app.Flag("scrape.timeout", "Scrape timeout where the scraper does not announce its own (Prometheus does).").
		Default("10s").DurationVar(&o.scrapeTimeout)
	app.Flag("scrape.timeout-offset", "How much before the scrape timeout a scrape is answered, with what is known by then.").
		Default("500ms").DurationVar(&o.scrapeTimeoutOffset)

	app.Flag("records.max-offset", "Largest offset that /records accepts: InfluxDB reads all records that the offset skips.").
		Default("100000").Int64Var(&o.recordsMaxOffset)

	app.Flag("web.telemetry-path", "Path under which the metrics are served.").
		Default("/metrics").StringVar(&o.telemetryPath)
	o.web = kingpinflag.AddFlags(app, ":10147")

	app.Flag("log.level", "Least severe level to log: debug, info, warn or error.").
		Default("info").EnumVar(&o.logLevel, "debug", "info", "warn", "error")
	app.Flag("log.format", "Format of the log: logfmt or json.").
		Default("logfmt").EnumVar(&o.logFormat, "logfmt", "json")
}

func (o *options) commands(app *kingpin.Application) {
	app.Command(serveCommand, "Serve the metrics; the default where no command is given.").Default()
	check := app.Command(checkCommand, "Check step by step whether a scrape would succeed, and say what to change. The exit code is 0 when all is well, 1 when something is wrong.")
	check.Flag("output", "Format of the result: text or json.").Default("text").EnumVar(&o.checkOutput, "text", "json")

	backfill := app.Command(backfillCommand, "Write the history of the metrics about dumps as OpenMetrics text with times, for promtool tsdb create-blocks-from openmetrics.")
	backfill.Flag("from", "First time, such as 2026-01-31T00:00:00Z, or seconds since 1970.").Required().StringVar(&o.backfill.from)
	backfill.Flag("to", "Latest time; by default three hours ago, and no later without --allow-recent.").StringVar(&o.backfill.to)
	backfill.Flag("allow-recent", "Accept a later --to. When Prometheus starts, it then drops the samples of all its targets that are older than --to and not in a block yet: up to the last three hours.").
		BoolVar(&o.backfill.allowRecent)
	backfill.Flag("step", "Time between two values. Prometheus shows a value for five minutes.").Default("5m").DurationVar(&o.backfill.step)
	backfill.Flag("output", "File to write; it must not exist yet.").Required().StringVar(&o.backfill.output)
	o.backfill.labels = make(map[string]string)
	backfill.Flag("label", "Label that Prometheus adds to the live series, such as job=memdump and instance=HOST:PORT, so that a graph runs on into them; repeatable.").
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
		return errors.New("--influx.password (INFLUX_PASSWORD) and --influx.password-file (INFLUX_PASSWORD_FILE) are both set: expected one of them")
	case o.influxMaxConcurrency < 1:
		return fmt.Errorf("--influx.max-concurrency (INFLUX_MAX_CONCURRENCY) is %d: expected 1 or more, such as %d", o.influxMaxConcurrency, influx.DefaultMaxConcurrency)
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
