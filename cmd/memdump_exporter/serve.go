package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/exporter-toolkit/web"

	"memdump_exporter/cmd/memdump_exporter/connlimit"
)

const (
	// shutdownTimeout limits how long requests in flight continue after a signal.
	shutdownTimeout = 5 * time.Second
	// cancelTimeout limits how long their requests to InfluxDB continue, so that they still get a
	// response within shutdownTimeout.
	cancelTimeout = 4 * time.Second
)

// serve listens until the context ends, and then waits for the requests in flight.
func serve(ctx context.Context, o options, handler http.Handler, connections *connlimit.Limiter, base, logger log.Logger) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	requests, cancelRequests := context.WithCancel(context.Background())
	defer cancelRequests()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 3 * time.Second,
		ReadTimeout:       5 * time.Second,
		// Routes that may take longer set their own timeout.
		WriteTimeout:   o.scrapeTimeout + 5*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       errorLog(base),
		BaseContext:    func(net.Listener) context.Context { return requests },
		ConnState:      connections.ConnState,
	}
	ended := make(chan error, 1)
	go func() {
		ended <- web.ListenAndServe(server, o.web, toolkitLog(base))
	}()
	for running := true; running; {
		select {
		case err := <-ended:
			return fmt.Errorf("serve HTTP (--web.listen-address, --web.config.file): %w", err)
		case <-hangups:
			_ = level.Info(logger).Log("msg", "SIGHUP ignored: files are read again for each request, flags and variables only at the start")
		case <-ctx.Done():
			running = false
		}
	}
	defer time.AfterFunc(cancelTimeout, cancelRequests).Stop()
	limited, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	connections.CloseSilent()
	if err := server.Shutdown(limited); err != nil {
		return fmt.Errorf("wait for requests in flight: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}
