package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-kit/log"
	promconfig "github.com/prometheus/common/config"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

// configuration checks the flags, without a request.
func (c *check) configuration() {
	client, err := newClient(c.options)
	if err != nil {
		c.wrong("configuration", "", err)
		return
	}
	c.client, c.exporter = client, newExporter(c.options, client, log.NewNopLogger())
	where := c.influxURL
	if proxy, err := c.proxy(); err == nil && proxy != nil {
		where += " through the proxy " + proxy.Host // the URL may contain a password
	}
	c.ok("configuration", "InfluxDB at %s, database %q, %s (sent as: %s), API: %s\ndumps in %q, telemetry in %s for the last %s",
		where, c.influxDatabase, c.credentials(), c.influxScheme, c.influxAPI,
		c.dumpsMeasurement, collector.Quoted(c.telemetryMeasurements), c.telemetryLookback)
}

// credentials describes the credentials without a secret.
func (c *check) credentials() string {
	switch {
	case c.influxTokenFile != "":
		return fmt.Sprintf("the token in %q", c.influxTokenFile)
	case c.influxToken != "":
		return "a token"
	case c.influxPasswordFile != "":
		return fmt.Sprintf("the user %q and the password in %q", c.influxUsername, c.influxPasswordFile)
	case c.influxUsername != "":
		return fmt.Sprintf("the user %q", c.influxUsername)
	}
	return "no credentials"
}

const urlFlag = "--influx.url (INFLUX_URL)"

// network resolves the name of InfluxDB, or of the proxy in front of it, connects, and makes the
// TLS handshake.
func (c *check) network(ctx context.Context) bool {
	target, err := url.Parse(c.influxURL)
	if err != nil {
		return c.wrong("name", urlFlag, errors.New("the URL can't be parsed"))
	}
	proxy, err := c.proxy()
	if err != nil {
		return c.wrong("name", proxyFlag, err)
	}
	first, flag, refused := target, urlFlag, "does InfluxDB run there? 1.x and 2.x listen on 8086, 3.x on 8181"+ignoredProxy()
	noName := "no such name, or no name server" + ignoredProxy()
	if proxy != nil {
		first, flag, noName, refused = proxy, proxyFlag, "no such name, or no name server", "does the proxy run there?"
	}
	host, port := first.Hostname(), first.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[first.Scheme]
	}
	c.waiting("name")
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return c.wrong("name", flag+": "+noName, err)
	}
	c.ok("name", "%s is %s", host, strings.Join(addresses, ", "))
	c.waiting("connection")
	dialer := &net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return c.wrong("connection", flag+": "+refused, err)
	}
	_ = conn.Close()
	c.ok("connection", "port %s accepts connections", port)
	return target.Scheme != "https" || c.handshake(ctx, target, proxy)
}

// ignoredProxy is a part of a hint that names a variable which sets a proxy for other programs.
func ignoredProxy() string {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"} {
		if os.Getenv(name) != "" {
			return "; " + name + " is set, but the exporter ignores it: set " + proxyFlag
		}
	}
	return ""
}

// handshake sends a request without credentials, for its TLS handshake only.
func (c *check) handshake(ctx context.Context, target, proxy *url.URL) bool {
	c.waiting("TLS")
	ctx, cancel := context.WithTimeout(ctx, c.scrapeTimeout)
	defer cancel()
	config, err := promconfig.NewTLSConfig(&c.tls)
	if err != nil {
		return c.wrong("TLS", "--influx.tls.*", err)
	}
	transport := influx.NewTransport(config)
	transport.Proxy = proxy
	defer transport.CloseIdleConnections()
	handshakes := make(chan tls.ConnectionState, 1)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{TLSHandshakeDone: func(state tls.ConnectionState, err error) {
		if err == nil {
			handshakes <- state // the only one: one request makes one connection
		}
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, target.JoinPath("ping").String(), nil)
	if err != nil {
		return c.wrong("TLS", urlFlag, errors.New("the URL can't be used in a request"))
	}
	resp, err := transport.RoundTrip(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	select {
	case state := <-handshakes:
		certificate := state.PeerCertificates[0]
		c.ok("TLS", "%s, certificate of %s until %s",
			tls.VersionName(state.Version), certificate.Subject, certificate.NotAfter.UTC().Format(time.DateOnly))
		return true
	default:
	}
	if errors.Is(err, influx.ErrProxy) {
		return c.wrong("proxy", c.hint(err), err)
	}
	return c.wrong("TLS", "--influx.tls.ca-file, --influx.tls.server-name; http:// in --influx.url for a server without TLS", err)
}

// hints maps a kind of failure to what to change.
var hints = map[influx.Kind]string{
	influx.ErrUnauthorized: "--influx.token (INFLUX_TOKEN) or --influx.token-file, --influx.username and --influx.password-file, " +
		"--influx.auth-scheme",
	influx.ErrCredentials:      "--influx.token-file (INFLUX_TOKEN_FILE) or --influx.password-file",
	influx.ErrDatabaseNotFound: "--influx.db (INFLUX_DB); or the token may not read it",
	influx.ErrNotFound:         urlFlag + ": is it an InfluxDB, and is the path prefix right?",
	influx.ErrRedirected:       urlFlag + ": set it to the URL that the redirect points to",
	influx.ErrTimeout:          "--scrape.timeout, or InfluxDB is overloaded",
	influx.ErrOverloaded: "--influx.max-concurrency (INFLUX_MAX_CONCURRENCY), which limits the concurrent requests; " +
		"or InfluxDB is overloaded",
	influx.ErrStale:     urlFlag + ": a cache is in between: exclude /query and /ping from it",
	influx.ErrProxy:     urlFlag + ": a proxy is in between: does it accept requests from this host, and does it reach InfluxDB?",
	influx.ErrMalformed: urlFlag + ": the responses are not those of InfluxDB",
}

// hint names what to change for an error; empty when nothing is known.
func (c *check) hint(err error) string {
	var kind influx.Kind
	switch {
	case !errors.As(err, &kind):
		return ""
	case kind == influx.ErrProxy && c.influxProxyURL != "":
		return proxyFlag + ": does the proxy accept these credentials, and requests to InfluxDB's host and port?"
	}
	return hints[kind]
}

// server checks the server, the credentials and the database with a query: a proxy may respond to
// /ping differently, and no query depends on that.
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
	described := "InfluxDB, which reports no version"
	if server.Major != 0 {
		described = fmt.Sprintf("InfluxDB %d.x, version %s", server.Major, server.Version)
	}
	switch {
	case errors.Is(err, influx.ErrNotFound):
		return c.wrong("server", c.hint(err), errors.New("this is not an InfluxDB: it serves neither /query nor /api/v3/query"))
	case errors.Is(err, influx.ErrUnauthorized), errors.Is(err, influx.ErrCredentials):
		if server.Major != 0 {
			c.ok("server", "%s", described)
		}
		return c.wrong("credentials", c.hint(err), err)
	case errors.Is(err, influx.ErrDatabaseNotFound), errors.Is(err, influx.ErrRefused):
		c.ok("server", "%s", described)
		flag := c.hint(err)
		if errors.Is(err, influx.ErrRefused) && c.dumpsPolicy != "" {
			flag = "--dumps.retention-policy, or InfluxDB rejects queries for another reason"
		}
		return c.wrong("database", flag, err)
	case err != nil:
		return c.wrong("server", c.hint(err), err)
	}
	c.ok("server", "%s", described)
	c.ok("database", "%q can be read", c.influxDatabase)
	return true
}

// isGateway reports that the server is a v3-query gateway.
func (c *check) isGateway() bool {
	c.ok("server", "a v3-query gateway (/api/v3/query), which does not list fields")
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

// measurements compares the fields and tags of the database with those that the queries need. A
// gateway does not list them.
func (c *check) measurements() {
	for _, m := range c.examined {
		name, flag := m.Source+"_measurement", "--"+m.Source+".measurement"
		existing := collector.Quoted(m.Existing)
		switch {
		case m.Err != nil:
			c.wrong(name, c.hint(m.Err), m.Err)
		case len(m.Existing) == 0 && len(m.Candidates) > 0:
			c.wrong(name, flag+"="+m.Candidates[0],
				fmt.Errorf("the database has no measurement %s; these have the tag VMID: %s",
					collector.Quoted(m.Names), collector.Quoted(m.Candidates)))
		case len(m.Existing) == 0:
			c.wrong(name, flag+", or nothing has been written yet", fmt.Errorf("the database has no measurement %s", collector.Quoted(m.Names)))
		case len(m.MissingFields) > 0:
			c.wrong(name, flag+", or the program that writes it",
				fmt.Errorf("%s has no field %s; it has %s", existing, collector.Quoted(m.MissingFields), typed(m.Fields)))
		case len(m.MissingTags) > 0:
			c.wrong(name, flag+", or the program that writes it",
				fmt.Errorf("%s has no tag %s; it has %s", existing, collector.Quoted(m.MissingTags), collector.Quoted(m.Tags)))
		case len(m.Conflicts) > 0:
			c.wrong(name, "the program that writes it: InfluxDB reads the values of one type and drops the others", errors.Join(m.Conflicts...))
		default:
			found := fmt.Sprintf("%s has the fields %s and the tags %s", existing, typed(m.Fields), collector.Quoted(m.Tags))
			if len(m.Unwritten) > 0 {
				found += fmt.Sprintf("\nno writer has recorded %s yet: its metrics are absent", collector.Quoted(m.Unwritten))
			}
			c.ok(name, "%s", found)
		}
	}
}

// typed returns the fields and their types, by name.
func typed(fields map[string][]string) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		all = append(all, fmt.Sprintf("%q (%s)", name, strings.Join(fields[name], ", ")))
	}
	return strings.Join(all, ", ")
}

// queries runs all queries as a scrape does, and reports what the scrape would return.
func (c *check) queries(ctx context.Context) {
	c.waiting("queries")
	up, metrics := 1, ""
	found := c.inspect(ctx)
	for _, q := range found.Queries {
		if q.Err != nil {
			up = 0
			c.wrong(q.Query, c.hint(q.Err), fmt.Errorf("%s\n%w", q.Statement, q.Err))
			continue
		}
		var values []string
		for _, m := range q.Metrics {
			if m.HasValue {
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
	if found.HasVMs {
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
		c.wrong("scrape", "", fmt.Errorf("memdump_up 0%s\nthe metrics of the queries that failed are absent", metrics))
		return
	}
	c.ok("scrape", "memdump_up 1%s", metrics)
}
