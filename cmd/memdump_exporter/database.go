package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-kit/log"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

// newClient returns the client of InfluxDB that the flags describe. It sends no request yet.
func newClient(o options) (*influx.Client, error) {
	proxy, err := o.proxy()
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(&o.tls, o.influxMaxConcurrency, proxy)
	if err != nil {
		return nil, err
	}
	client, err := influx.New(influx.Config{
		URL:       o.influxURL,
		Database:  o.influxDatabase,
		API:       influx.API(o.influxAPI),
		Username:  o.influxUsername,
		Password:  secret(o.influxPassword, "--influx.password-file", o.influxPasswordFile, passwordProblem),
		Token:     secret(o.influxToken, "--influx.token-file", o.influxTokenFile, tokenProblem),
		Scheme:    influx.Scheme(o.influxScheme),
		Hidden:    proxySecrets(proxy),
		UserAgent: name + "/" + version.Version,
		Transport: transport,

		MaxConcurrency: o.influxMaxConcurrency,
	})
	if wrong := (*influx.ConfigError)(nil); errors.As(err, &wrong) {
		if flag, ok := flagOf[wrong.Setting]; ok {
			return nil, usageError{errors.New(flag + " " + wrong.Problem)}
		}
	}
	return client, err
}

// newExporter returns the exporter that the flags describe, which parse has checked.
func newExporter(o options, client *influx.Client, logger log.Logger) *collector.Exporter {
	perVM := 0
	if o.perVM {
		perVM = o.perVMLimit
	}
	return collector.New(collector.Config{
		Database:                 client,
		DumpsMeasurement:         o.dumpsMeasurement,
		DumpsPolicy:              o.dumpsPolicy,
		DumpsAllowedLateness:     o.dumpsAllowedLateness,
		DumpsMaxAge:              o.dumpsMaxAge,
		TelemetryMeasurements:    o.telemetryMeasurements,
		TelemetryPolicy:          o.telemetryPolicy,
		TelemetryLookback:        o.telemetryLookback,
		TelemetryAllowedLateness: o.telemetryAllowedLateness,
		PerVM:                    perVM,
		Insecure:                 o.tls.InsecureSkipVerify,
		Logger:                   log.With(logger, "component", "collector"),
		Now:                      time.Now,
	})
}

// proxy returns the URL of --influx.proxy-url; nil means no proxy. The error does not contain the
// value, which may contain a password.
func (o options) proxy() (*url.URL, error) {
	if o.influxProxyURL == "" {
		return nil, nil
	}
	u, err := url.Parse(o.influxProxyURL)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		return nil, usageError{errors.New(proxyFlag + " is not the URL of an HTTP proxy: expected one such as http://proxy.example:3128")}
	}
	return u, nil
}

// proxySecrets returns the texts that would disclose the credentials of a proxy.
func proxySecrets(proxy *url.URL) []string {
	if proxy == nil || proxy.User == nil {
		return nil
	}
	user := proxy.User.Username()
	password, found := proxy.User.Password()
	hidden := []string{base64.StdEncoding.EncodeToString([]byte(user + ":" + password)), proxy.User.String(), password}
	if !found { // the user's name is the secret
		hidden = append(hidden, user)
	}
	return hidden
}

// flagOf maps a setting of the client to its flag.
var flagOf = map[string]string{
	"URL":      "--influx.url (INFLUX_URL)",
	"Database": "--influx.db (INFLUX_DB)",
	"API":      "--influx.api (INFLUX_API)",
	"Username": "--influx.username (INFLUX_USERNAME)",
	"Password": "--influx.password (INFLUX_PASSWORD) or --influx.password-file (INFLUX_PASSWORD_FILE)",
	"Scheme":   "--influx.auth-scheme (INFLUX_AUTH_SCHEME)",
}

// secret returns the source of a token or a password: the file, if it is set, or else the text;
// nil when neither is. problem returns what is wrong with a secret that was read.
func secret(text, flag, path string, problem func(string) string) influx.Secret {
	switch {
	case path != "":
		return func() (string, error) {
			text, err := file{flag, path, maxSecretBytes}.Fetch(context.Background())
			if err != nil {
				return "", err
			}
			if wrong := problem(text); wrong != "" {
				return "", fmt.Errorf("%s: the content of the file %s %s", flag, path, wrong)
			}
			return text, nil
		}
	case text != "":
		return func() (string, error) { return text, nil }
	}
	return nil
}

const (
	maxSecretBytes = 64 << 10
	maxPEMBytes    = 1 << 20
)

// file is a promconfig.SecretReader of a regular file of limited size. Its errors name the flag and
// the file, and contain nothing of what is in it.
type file struct {
	flag, path string
	maxBytes   int64
}

// Fetch reads the file, without surrounding blanks and line feeds.
func (f file) Fetch(ctx context.Context) (string, error) {
	// Opening a named pipe would block until something writes to it.
	info, err := os.Stat(f.path)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", f.flag, err)
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s: %s is not a file", f.flag, f.path)
	case info.Size() > f.maxBytes:
		return "", fmt.Errorf("%s: the file %s has more than %d bytes", f.flag, f.path, f.maxBytes)
	}
	text, err := promconfig.NewFileSecret(f.path).Fetch(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: %w", f.flag, err)
	}
	return text, nil
}

// Description names the flag and the file.
func (f file) Description() string { return f.flag + " " + f.path }

// Immutable is false: the file is read for each request.
func (file) Immutable() bool { return false }

// newTransport returns an influx.Transport with the TLS files and the proxy of the flags. The files
// are read again for each request; when they change, new connections replace the old ones.
func newTransport(c *promconfig.TLSConfig, maxConns int, proxy *url.URL) (http.RoundTripper, error) {
	files, err := readPEMs(c)
	if err != nil {
		return nil, err
	}
	config, err := promconfig.NewTLSConfig(c)
	if err != nil {
		return nil, fmt.Errorf("--influx.tls.*: %w", err)
	}
	transport := func(config *tls.Config) (http.RoundTripper, error) {
		t := influx.NewTransport(config)
		t.MaxConns, t.Proxy = maxConns, proxy
		return t, nil
	}
	if c.CAFile+c.CertFile == "" {
		return transport(config)
	}
	roundTripper, err := promconfig.NewTLSRoundTripper(config, files, transport)
	if err != nil {
		return nil, fmt.Errorf("--influx.tls.*: %w", err)
	}
	return roundTripper, nil
}

// readPEMs reads each file of a TLS configuration once, for its error, and returns
// where to read them again.
func readPEMs(c *promconfig.TLSConfig) (promconfig.TLSRoundTripperSettings, error) {
	var s promconfig.TLSRoundTripperSettings
	for _, pem := range []struct {
		file
		reader *promconfig.SecretReader
	}{
		{file{"--influx.tls.ca-file", c.CAFile, maxPEMBytes}, &s.CA},
		{file{"--influx.tls.cert-file", c.CertFile, maxPEMBytes}, &s.Cert},
		{file{"--influx.tls.key-file", c.KeyFile, maxPEMBytes}, &s.Key},
	} {
		if pem.path == "" {
			continue
		}
		if _, err := pem.Fetch(context.Background()); err != nil {
			return s, err
		}
		*pem.reader = pem.file
	}
	return s, nil
}
