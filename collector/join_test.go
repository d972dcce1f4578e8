package collector

import (
	"context"
	"testing"
	"time"

	"github.com/go-kit/log"

	"memdump_exporter/collector/ranges"
	"memdump_exporter/influx"
)

// refuser is a Database that answers nothing, at once.
type refuser struct{}

func (refuser) Query(context.Context, influx.Request, func(influx.Row) error) error {
	return influx.ErrRefused
}
func (refuser) Identify(context.Context) (influx.Server, error) { return influx.Server{}, nil }
func (refuser) API() influx.API                                 { return influx.APIInfluxQL }

// TestFlight_finished: a run that is done serves no later scrape, though one that waited for
// it has not left yet.
func TestFlight_finished(t *testing.T) {
	f := &flight{Collector: New(Config{Database: refuser{}, TelemetryLookback: time.Hour, Ranges: ranges.Whole, Logger: log.NewNopLogger(), Now: time.Now})}
	first := f.join(time.Now().Add(time.Minute))
	<-first.done
	second := f.join(time.Now().Add(time.Minute))
	if second == first {
		t.Error("joined what was done")
	}
	f.leave(first, false)
	f.leave(second, false)
	<-second.done
}
