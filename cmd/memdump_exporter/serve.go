package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/prometheus/exporter-toolkit/web"
	sloggokit "github.com/tjhop/slog-gokit"

	"memdump_exporter/cmd/memdump_exporter/connlimit"
)

const (
	// shutdownGrace is how long requests in flight may go on after a signal.
	shutdownGrace = 5 * time.Second
	// cancelGrace is when their requests to InfluxDB are given up, so that they
	// are still answered within the grace.
	cancelGrace = 4 * time.Second
)

// newLoggers returns a logger without decoration, for other libraries' adapters,
// which add a time and a caller of their own, and the one that this program uses.
func newLoggers(o options, writer io.Writer) (base, logger log.Logger) {
	base = log.NewLogfmtLogger(writer)
	if o.logFormat == "json" {
		base = log.NewJSONLogger(writer)
	}
	// Filtered first: around log.With, the filter would be named as every caller.
	base = level.NewFilter(base, level.Allow(level.ParseDefault(o.logLevel, level.InfoValue())))
	return base, log.With(base, "ts", log.DefaultTimestampUTC, "caller", log.DefaultCaller)
}

// errorLog is the standard library's form of a logger of errors.
func errorLog(base log.Logger) *stdlog.Logger {
	return stdlog.New(log.NewStdlibAdapter(level.Error(base)), "", 0)
}

// serve listens until the context ends, then lets requests in flight finish.
func serve(ctx context.Context, o options, handler http.Handler, connections *connlimit.Limiter, base log.Logger) error {
	requests, cancelRequests := context.WithCancel(context.Background())
	defer cancelRequests()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 3 * time.Second,
		ReadTimeout:       5 * time.Second,
		// Routes that may take longer set their own.
		WriteTimeout:   o.scrapeTimeout + 5*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       errorLog(base),
		BaseContext:    func(net.Listener) context.Context { return requests },
		ConnState:      connections.ConnState,
	}
	ended := make(chan error, 1)
	go func() {
		ended <- web.ListenAndServe(server, o.web, slog.New(sloggokit.NewGoKitHandler(base, slog.LevelDebug)))
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serving HTTP (--web.listen-address, --web.config.file): %w", err)
	case <-ctx.Done():
	}
	defer time.AfterFunc(cancelGrace, cancelRequests).Stop()
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	connections.CloseSilent()
	if err := server.Shutdown(grace); err != nil {
		return fmt.Errorf("waiting for requests in flight: %w", err)
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP: %w", err)
	}
	return nil
}
