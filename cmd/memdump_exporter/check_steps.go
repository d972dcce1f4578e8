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
	c.client, c.exporter = client, newExporter(c.options, client, log.NewNopLogger())
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
	c.ok("configuration", "InfluxDB at %s, database %s, %s (sent as: %s), API: %s\ndumps in %s, telemetry in %s for the last %s",
		c.influxURL, c.influxDatabase, credentials, c.influxScheme, c.influxAPI,
		c.dumpsMeasurement, strings.Join(c.telemetryMeasurements, ", "), c.telemetryLookback)
}

const urlHint = "--influx.url (INFLUX_URL)"

// network resolves the name, connects, and makes the TLS handshake.
func (c *check) network(ctx context.Context) bool {
	u, err := url.Parse(c.influxURL)
	if err != nil {
		return c.wrong("name", urlHint, errors.New("the URL can't be parsed"))
	}
	host, port := u.Hostname(), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	c.waiting("name")
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return c.wrong("name", urlHint+": no such name, or no name server", err)
	}
	c.ok("name", "%s is %s", host, strings.Join(addresses, ", "))
	c.waiting("connection")
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return c.wrong("connection", urlHint+": does InfluxDB run there? 1.x and 2.x listen on 8086, 3.x on 8181", err)
	}
	defer conn.Close()
	c.ok("connection", "port %s accepts connections", port)
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
	c.waiting("TLS")
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
	influx.ErrRedirected:       urlHint + ": set it to the URL that the redirect points to",
	influx.ErrTimeout:          "--scrape.timeout, or InfluxDB is overloaded",
	influx.ErrOverloaded:       "--influx.max-concurrency (INFLUX_MAX_CONCURRENCY), which limits the requests at once; or InfluxDB has too much to do",
	influx.ErrStale:            urlHint + ": a cache is in between: exclude /query and /ping from it",
	influx.ErrProxy:            urlHint + ": a proxy is in between: does it accept requests from this host, and does it reach InfluxDB?",
	influx.ErrMalformed:        urlHint + ": the responses are not those of InfluxDB",
}

func hint(err error) string {
	var kind influx.Kind
	if errors.As(err, &kind) {
		return hints[kind]
	}
	return ""
}

// server checks the server, the credentials and the database, by a query: a proxy may respond
// to /ping in another way, which matters to no query.
func (c *check) server(ctx context.Context) bool {
	c.waiting("server")
	server, _ := c.client.Identify(ctx)
	if c.client.API() == influx.APIV3Query {
		return c.isGateway()
	}
	limited, cancel := context.WithTimeout(ctx, c.scrapeTimeout)
	defer cancel()
	c.examined = c.exporter.Examine(limited)
	err := c.examined[0].Err
	if errors.Is(err, influx.ErrNotFound) && c.gateway(ctx) {
		c.examined = nil
		return c.isGateway()
	}
	known := "InfluxDB, which reports no version"
	if server.Major != 0 {
		known = fmt.Sprintf("InfluxDB %d.x, version %s", server.Major, server.Version)
	}
	switch {
	case errors.Is(err, influx.ErrNotFound):
		return c.wrong("server", hint(err), errors.New("this is not an InfluxDB: it serves neither /query nor /api/v3/query"))
	case errors.Is(err, influx.ErrUnauthorized), errors.Is(err, influx.ErrCredentials):
		if server.Major != 0 {
			c.ok("server", "%s", known)
		}
		return c.wrong("credentials", hint(err), err)
	case errors.Is(err, influx.ErrDatabaseNotFound), errors.Is(err, influx.ErrRefused):
		c.ok("server", "%s", known)
		flag := hint(err)
		if errors.Is(err, influx.ErrRefused) && c.dumpsPolicy != "" {
			flag = "--dumps.retention-policy, or InfluxDB rejects queries for another reason"
		}
		return c.wrong("database", flag, err)
	case err != nil:
		return c.wrong("server", hint(err), err)
	}
	c.ok("server", "%s", known)
	c.ok("database", "%s can be read", c.influxDatabase)
	return true
}

func (c *check) isGateway() bool {
	c.ok("server", "a v3-query gateway (/api/v3/query), which has no query for fields")
	return true
}

// gateway reports whether the server is a v3-query gateway.
func (c *check) gateway(ctx context.Context) bool {
	if c.client.API() != influx.APIAuto {
		return false
	}
	for _, q := range c.inspect(ctx).Queries {
		if q.Err == nil {
			return c.client.API() == influx.APIV3Query
		}
	}
	return false
}

// inspect runs the queries as a scrape does.
func (c *check) inspect(ctx context.Context) collector.Inspection {
	ctx, cancel := context.WithTimeout(ctx, c.scrapeTimeout)
	defer cancel()
	return c.exporter.Inspect(ctx)
}

// measurements reports what the database has; nothing of a gateway.
func (c *check) measurements() {
	for _, m := range c.examined {
		name, flag := m.Source+"_measurement", "--"+m.Source+".measurement"
		names, existing := strings.Join(m.Names, ", "), strings.Join(m.Existing, ", ")
		switch {
		case m.Err != nil:
			c.wrong(name, hint(m.Err), m.Err)
		case len(m.Existing) == 0 && len(m.Candidates) > 0:
			c.wrong(name, flag+"="+m.Candidates[0], fmt.Errorf("the database has no measurement %s; these have the tag VMID: %s", names, strings.Join(m.Candidates, ", ")))
		case len(m.Existing) == 0:
			c.wrong(name, flag+", or nothing has been written yet", fmt.Errorf("the database has no measurement %s", names))
		case len(m.MissingFields) > 0:
			c.wrong(name, flag+", or what writes it", fmt.Errorf("%s has no field %s; it has %s", existing, strings.Join(m.MissingFields, ", "), typed(m.Fields)))
		case len(m.MissingTags) > 0:
			c.wrong(name, flag+", or what writes it", fmt.Errorf("%s has no tag %s; it has %s", existing, strings.Join(m.MissingTags, ", "), strings.Join(m.Tags, ", ")))
		case len(m.Conflicts) > 0:
			c.wrong(name, "what writes it: InfluxDB reads the values of one type and drops the others", errors.Join(m.Conflicts...))
		default:
			found := fmt.Sprintf("%s has the fields %s and the tags %s", existing, typed(m.Fields), strings.Join(m.Tags, ", "))
			if len(m.Unwritten) > 0 {
				found += fmt.Sprintf("\nno writer has recorded %s yet: its metrics are absent", strings.Join(m.Unwritten, ", "))
			}
			c.ok(name, "%s", found)
		}
	}
}

func typed(fields map[string][]string) string {
	var all []string
	for name, kinds := range fields {
		all = append(all, name+" ("+strings.Join(kinds, ", ")+")")
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func (c *check) queries(ctx context.Context) {
	c.waiting("queries")
	up, metrics := 1, ""
	found := c.inspect(ctx)
	for _, q := range found.Queries {
		if q.Err != nil {
			up = 0
			c.wrong(q.Query, hint(q.Err), fmt.Errorf("%s\n%w", q.Statement, q.Err))
			continue
		}
		var values []string
		for _, m := range q.Metrics {
			if m.Known {
				values = append(values, fmt.Sprintf("%s %v", m.Name, m.Value))
				metrics += "\n" + values[len(values)-1]
			} else {
				values = append(values, m.Name+" is absent: it has no value")
			}
		}
		if len(values) == 0 {
			values = []string{"metrics per VM"}
		}
		how := ""
		if q.Ranges > 1 {
			how = fmt.Sprintf(", in %d time ranges", q.Ranges)
		}
		c.ok(q.Query, "%s\n%s\nin %s%s", q.Statement, strings.Join(values, "\n"), q.Took.Round(100*time.Microsecond), how)
	}
	if found.VMsKnown {
		coverage, never := found.NeverDumped()
		if len(never) > 0 {
			coverage += ": " + collector.VMNames(never)
		}
		if shared := found.SharedNames(); shared != "" {
			coverage += "\n" + shared
		}
		c.ok("coverage", "%s", coverage)
	}
	if up == 0 {
		c.wrong("scrape", "", fmt.Errorf("memdump_up 0%s\nand none of the metrics whose query failed", metrics))
		return
	}
	c.ok("scrape", "memdump_up 1%s", metrics)
}
