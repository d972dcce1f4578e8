package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-kit/log"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/version"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

// newClient makes the one client of InfluxDB from the flags. It asks nothing yet.
func newClient(o options) (*influx.Client, error) {
	transport, err := newTransport(&o.tls, o.influxMaxConcurrency)
	if err != nil {
		return nil, err
	}
	client, err := influx.New(influx.Config{
		URL:       o.influxURL,
		Database:  o.influxDatabase,
		API:       influx.API(o.influxAPI),
		Username:  o.influxUsername,
		Password:  secret(o.influxPassword, "--influx.password-file", o.influxPasswordFile),
		Token:     secret(o.influxToken, "--influx.token-file", o.influxTokenFile),
		Scheme:    influx.Scheme(o.influxScheme),
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

// newExporter makes the exporter from the flags, which parse has checked.
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

// flagOf names the flag behind a setting of the client.
var flagOf = map[string]string{
	"URL":      "--influx.url (INFLUX_URL)",
	"Database": "--influx.db (INFLUX_DB)",
	"API":      "--influx.api (INFLUX_API)",
	"Username": "--influx.username (INFLUX_USERNAME)",
	"Password": "--influx.password (INFLUX_PASSWORD) or --influx.password-file (INFLUX_PASSWORD_FILE)",
	"Scheme":   "--influx.auth-scheme (INFLUX_AUTH_SCHEME)",
}

// secret is one from a flag, or from a file where that is named; nil when neither is.
func secret(text, flag, file string) influx.Secret {
	switch {
	case file != "":
		return func() (string, error) { return readSecret(flag, file) }
	case text != "":
		return func() (string, error) { return text, nil }
	}
	return nil
}

const (
	maxSecretBytes = 64 << 10
	maxPEMBytes    = 1 << 20
)

// readSecret reads a secret without the line's end that editors add. Errors name the
// flag and the file, and hold nothing of what is in it.
func readSecret(flag, file string) (string, error) {
	text, err := readBounded(flag, file, maxSecretBytes)
	if err != nil {
		return "", err
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return "", fmt.Errorf("%s: the file %s is empty", flag, file)
	}
	return text, nil
}

// readBounded reads a regular file of at most so many bytes.
func readBounded(flag, file string, most int64) (string, error) {
	// Looked at before it is opened, as opening a pipe would wait for its writer.
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %s is not a file", flag, file)
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w", flag, err)
	case int64(len(text)) > most:
		return "", fmt.Errorf("%s: the file %s has more than %d bytes", flag, file, most)
	}
	return string(text), nil
}

// newTransport returns an influx.Transport with the TLS of the flags. The files are read again
// for each request, and connections are made anew when they change.
func newTransport(c *promconfig.TLSConfig, maxConns int) (http.RoundTripper, error) {
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
		t.MaxConns = maxConns
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
	for _, file := range []struct {
		flag, path string
		reader     *promconfig.SecretReader
	}{
		{"--influx.tls.ca-file", c.CAFile, &s.CA},
		{"--influx.tls.cert-file", c.CertFile, &s.Cert},
		{"--influx.tls.key-file", c.KeyFile, &s.Key},
	} {
		if file.path == "" {
			continue
		}
		pem := pemFile{file.flag, file.path}
		if _, err := pem.Fetch(context.Background()); err != nil {
			return s, err
		}
		*file.reader = pem
	}
	return s, nil
}

// pemFile is a promconfig.SecretReader whose size is bounded.
type pemFile struct{ flag, path string }

func (p pemFile) Fetch(context.Context) (string, error) {
	return readBounded(p.flag, p.path, maxPEMBytes)
}
func (p pemFile) Description() string { return p.flag + " " + p.path }
func (p pemFile) Immutable() bool     { return false }
