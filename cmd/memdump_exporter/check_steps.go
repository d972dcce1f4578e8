package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	promconfig "github.com/prometheus/common/config"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

func (c *check) configuration() {
	client, err := newClient(c.options)
	if err != nil {
		c.wrong("configuration", "", err)
		return
	}
	c.client, c.collector = client, newCollector(c.options, client, log.NewNopLogger())
	credentials := "no credentials"
	for _, given := range []struct {
		set  bool
		says string
	}{
		{c.influxTokenFile != "", "the token in " + c.influxTokenFile}, {c.influxToken != "", "a token"},
		{c.influxUsername != "" && c.influxPasswordFile != "", "the user " + c.influxUsername + " and the password in " + c.influxPasswordFile},
		{c.influxUsername != "", "the user " + c.influxUsername},
	} {
		if given.set {
			credentials = given.says
			break
		}
	}
	c.ok("configuration", "InfluxDB at %s, database %s, %s (sent as: %s), API: %s\ndumps in %s, telemetry in %s for the last %s, ranges: %s",
		c.influxURL, c.influxDatabase, credentials, c.influxScheme, c.influxAPI,
		c.dumpsMeasurement, c.telemetryMeasurement, c.telemetryLookback, c.influxRanges)
}

const urlHint = "--influx.url (INFLUX_URL)"

// network looks the name up, connects, and speaks TLS.
func (c *check) network(ctx context.Context) bool {
	u, err := url.Parse(c.influxURL)
	if err != nil {
		return c.wrong("name", urlHint, errors.New("the URL can't be parsed"))
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c.asking("name")
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return c.wrong("name", urlHint+": no such name, or no name server", err)
	}
	c.ok("name", "%s is %s", host, strings.Join(addresses, ", "))
	c.asking("connection")
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return c.wrong("connection", urlHint+": does InfluxDB run there? 1.x and 2.x listen on 8086, 3.x on 8181", err)
	}
	defer conn.Close()
	c.ok("connection", "port %s takes connections", port)
	if u.Scheme != "https" {
		return true
	}
	config, err := promconfig.NewTLSConfig(&c.tls)
	if err != nil {
		return c.wrong("TLS", "--influx.tls.*", err)
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	c.asking("TLS")
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return c.wrong("TLS", "--influx.tls.ca-file, --influx.tls.server-name; http:// in --influx.url for a server without TLS", err)
	}
	certificate := secured.ConnectionState().PeerCertificates[0]
	c.ok("TLS", "%s, certificate of %s until %s", tls.VersionName(secured.ConnectionState().Version), certificate.Subject, certificate.NotAfter.UTC().Format(time.DateOnly))
	return true
}

// hints name what to change for a kind of failure.
var hints = map[influx.Kind]string{
	influx.ErrUnauthorized:     "--influx.token (INFLUX_TOKEN) or --influx.token-file, --influx.username and --influx.password-file, --influx.auth-scheme",
	influx.ErrCredentials:      "--influx.token-file (INFLUX_TOKEN_FILE) or --influx.password-file",
	influx.ErrDatabaseNotFound: "--influx.db (INFLUX_DB); or the token may not read it",
	influx.ErrNotFound:         urlHint + ": is it an InfluxDB, and is the path prefix right?",
	influx.ErrRedirected:       urlHint + ": give the URL that it points to",
	influx.ErrTimeout:          "--scrape.timeout, or InfluxDB has too much to do",
	influx.ErrMalformed:        urlHint + ": what answers does not speak InfluxDB's language",
}

func hint(err error) string {
	var kind influx.Kind
	if errors.As(err, &kind) {
		return hints[kind]
	}
	return ""
}

// server finds out who answers, and whether the credentials and the database are right.
func (c *check) server(ctx context.Context) bool {
	c.asking("server")
	server, err := c.client.Identify(ctx)
	switch {
	case errors.Is(err, influx.ErrUnauthorized), errors.Is(err, influx.ErrCredentials):
		return c.wrong("credentials", hint(err), err)
	case err != nil:
		return c.wrong("server", hint(err), err)
	}
	if c.client.API() == influx.APIV3Query || server.Major == 0 && c.gateway(ctx) {
		c.ok("server", "a v3-query gateway (/api/v3/query); it can't be asked for fields")
		return true
	}
	c.examined = c.collector.Examine(ctx)
	fields := c.examined[0]
	if errors.Is(fields.Err, influx.ErrNotFound) {
		return c.wrong("server", hint(fields.Err), errors.New("what answers is no InfluxDB: it has neither /query nor /api/v3/query"))
	}
	known := "InfluxDB of an unknown kind"
	if server.Major != 0 {
		known = fmt.Sprintf("InfluxDB %d.x, version %s", server.Major, server.Version)
	}
	switch {
	case errors.Is(fields.Err, influx.ErrUnauthorized), errors.Is(fields.Err, influx.ErrCredentials):
		c.ok("server", "%s", known)
		return c.wrong("credentials", hint(fields.Err), fields.Err)
	case fields.Err != nil:
		c.ok("server", "%s", known)
		return c.wrong("database", hint(fields.Err), fields.Err)
	}
	c.ok("server", "%s", known)
	c.ok("database", "%s can be read", c.influxDatabase)
	return true
}

// gateway reports whether what answers is a v3-query gateway.
func (c *check) gateway(ctx context.Context) bool {
	if c.client.API() != influx.APIAuto {
		return false
	}
	figures, _, _ := c.collector.Figures(ctx)
	for _, f := range figures {
		if f.Err == nil {
			return c.client.API() == influx.APIV3Query
		}
	}
	return false
}

// measurements says what server has found; nothing of a gateway.
func (c *check) measurements() {
	for _, m := range c.examined {
		name, flag := m.Role+"_measurement", "--"+m.Role+".measurement"
		switch {
		case m.Err != nil:
			c.wrong(name, hint(m.Err), m.Err)
		case len(m.Fields) == 0:
			c.wrong(name, flag+", or nothing has been written yet", fmt.Errorf("there is no measurement %s in the database", m.Name))
		case len(m.MissingFields) > 0:
			c.wrong(name, flag+", or what writes it", fmt.Errorf("%s has no field %s; it has %s", m.Name, strings.Join(m.MissingFields, ", "), typed(m.Fields)))
		case len(m.MissingTags) > 0:
			c.wrong(name, flag+", or what writes it", fmt.Errorf("%s has no tag %s; it has %s", m.Name, strings.Join(m.MissingTags, ", "), strings.Join(m.Tags, ", ")))
		default:
			c.ok(name, "%s has the fields %s and the tags %s", m.Name, typed(m.Fields), strings.Join(m.Tags, ", "))
		}
	}
}

func typed(fields map[string]string) string {
	var all []string
	for name, kind := range fields {
		all = append(all, name+" ("+kind+")")
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (c *check) queries(ctx context.Context) {
	c.asking("queries")
	ctx, cancel := context.WithTimeout(ctx, c.scrapeTimeout)
	defer cancel()
	up, gauges := 1, ""
	figures, vms, vmsKnown := c.collector.Figures(ctx)
	for _, f := range figures {
		if f.Err != nil {
			up = 0
			c.wrong(f.Query, hint(f.Err), fmt.Errorf("%s\n%w", f.Statement, f.Err))
			continue
		}
		value := "no value, as there is none yet"
		switch {
		case f.Gauge == "":
			value = "metrics per VM"
		case f.Known:
			value = fmt.Sprint(f.Value)
			gauges += fmt.Sprintf("\n%s %v", f.Gauge, f.Value)
		}
		how := ""
		if f.Ranges.Ranged {
			how = fmt.Sprintf(", in %d ranges of time", f.Ranges.Ranges)
		}
		c.ok(f.Query, "%s\n%s, in %s%s", f.Statement, value, f.Took.Round(100*time.Microsecond), how)
	}
	if vmsKnown {
		c.ok("coverage", "%s", c.covered(vms))
	}
	says := fmt.Sprintf("memdump_up %d%s", up, gauges)
	if up == 0 {
		c.wrong("scrape", "", errors.New(says+"\nand none of the gauges whose query failed"))
		return
	}
	c.ok("scrape", "%s", says)
}

// mostNamed is how many VMs are named at most.
const mostNamed = 20

// covered names the monitored VMs that have no dump; they come first.
func (c *check) covered(vms []collector.VM) string {
	var never []string
	for _, vm := range vms {
		if vm.LastDump.IsZero() {
			never = append(never, strings.TrimSpace(fmt.Sprintf("%s (%s)", visible(vm.Name), visible(vm.ID))))
		}
	}
	found, more := len(never), ""
	if extra := len(never) - mostNamed; extra > 0 {
		never, more = never[:mostNamed], fmt.Sprintf(" and %d more", extra)
	}
	if len(never) == 0 {
		return fmt.Sprintf("each of %d monitored VMs has been dumped", len(vms))
	}
	return fmt.Sprintf("%d of %d monitored VMs never dumped: %s%s", found, len(vms), strings.Join(never, ", "), more)
}
