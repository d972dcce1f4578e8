// Command toxiproxy runs Toxiproxy's API on a free port, which it writes to stderr as the exporter does. The faults
// suite drives it over HTTP: in a module of its own, Toxiproxy is no requirement of the exporter's module.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

func main() {
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics use the global logger
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "msg=\"Listening on\" address=%s\n", listener.Addr())
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	server := http.Server{Handler: api.Routes(), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.Serve(listener))
}
