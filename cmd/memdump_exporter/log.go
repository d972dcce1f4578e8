package main

import (
	"io"
	stdlog "log"
	"log/slog"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	sloggokit "github.com/tjhop/slog-gokit"
)

// newLoggers returns a logger without a time and a caller, for the adapters below, which add their
// own, and the logger of this program. Every line begins with level, ts, caller and msg.
func newLoggers(o options, writer io.Writer) (base, logger log.Logger) {
	base = log.NewLogfmtLogger(writer)
	if o.logFormat == "json" {
		base = log.NewJSONLogger(writer)
	}
	// Around log.With, the filter would be the caller of every line.
	base = level.NewFilter(base, level.Allow(level.ParseDefault(o.logLevel, level.InfoValue())))
	return base, log.With(base, "ts", log.DefaultTimestampUTC, "caller", log.DefaultCaller)
}

// errorLog returns a logger of the standard library that logs errors.
func errorLog(base log.Logger) *stdlog.Logger {
	errors := level.Error(log.With(base, "ts", log.DefaultTimestampUTC))
	// Without the name of the file in front, the adapter takes the address of a client for one.
	return stdlog.New(log.NewStdlibAdapter(errors), "", stdlog.Lshortfile)
}

// toolkitLog returns the logger of the exporter-toolkit.
func toolkitLog(base log.Logger) *slog.Logger {
	return slog.New(sloggokit.NewGoKitHandler(log.LoggerFunc(func(pairs ...any) error {
		return base.Log(withTS(pairs)...)
	}), slog.LevelDebug))
}

// withTS replaces the time of slog's lines by ts, behind the level.
func withTS(pairs []any) []any {
	for i := 2; i+1 < len(pairs); i += 2 {
		if at, ok := pairs[i+1].(time.Time); ok && pairs[i] == slog.TimeKey {
			copy(pairs[4:i+2], pairs[2:i])
			pairs[2], pairs[3] = "ts", at.UTC().Format(time.RFC3339Nano)
			break
		}
	}
	return pairs
}
