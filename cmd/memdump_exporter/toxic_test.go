//go:build faults || soak

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// newToxic is a way to InfluxDB that can be poisoned, until the test ends.
func newToxic(t *testing.T, influxdb string) *toxiproxy.Proxy {
	t.Helper()
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics have a logger of their own
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, "influxdb", "127.0.0.1:0", strings.TrimPrefix(influxdb, "http://"))
	must(t, proxy.Start())
	t.Cleanup(proxy.Stop)
	return proxy
}

func poison(proxy *toxiproxy.Proxy, kind, attributes string) (remove func() error, err error) {
	toxic, err := proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(`{"type":%q,"attributes":{%s}}`, kind, attributes)))
	if err != nil {
		return nil, err
	}
	return func() error { return proxy.Toxics.RemoveToxic(context.Background(), toxic.Name) }, nil
}
