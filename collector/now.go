package collector

import (
	"context"
	"sync"
	"time"

	"memdump_exporter/collector/ranges"
)

// FigureNow is one figure.
type FigureNow struct {
	Query, Gauge, Help string
	Statement          string // as a whole, as it goes out
	Value              float64
	Known              bool   // false when there is no value to give
	Err                error  // why not, when the query failed
	Reason             string // its name, as in the label {reason}
	Took               time.Duration
	Ranges             ranges.State
}

// Figures asks for every figure of the table side by side, and returns the monitored VMs
// as Overview does. It counts for none of the metrics.
func (c *Collector) Figures(ctx context.Context) (figures []FigureNow, vms []VM, known bool) {
	run, _ := c.begin(ctx)
	figures, answers := c.figuresNow(run)
	vms, known = c.monitored(answers, run.now)
	return figures, vms, known
}

func (c *Collector) figuresNow(run *scrape) ([]FigureNow, []answer) {
	figures, answers := make([]FigureNow, len(c.figures)), make([]answer, len(c.figures))
	var requests sync.WaitGroup
	for i, f := range c.figures {
		requests.Go(func() {
			a := c.ask(run, f)
			answers[i] = a
			now := FigureNow{Query: f.query, Gauge: f.name, Help: f.help, Value: a.value, Known: a.known && a.err == nil,
				Err: a.err, Took: a.took, Ranges: a.ranges, Statement: f.statement(run)}
			if a.err != nil {
				now.Reason = reasonOf(a.err)
			}
			figures[i] = now
		})
	}
	requests.Wait()
	return figures, answers
}
