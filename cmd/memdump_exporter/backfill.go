package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-kit/log"

	"memdump_exporter/collector"
)

// backfillOptions are the flags of the command backfill.
type backfillOptions struct {
	from, to, output string
	step             time.Duration
	labels           map[string]string
}

// mostSteps bounds how much is asked for by mistake.
const mostSteps = 10_000_000

// runBackfill writes history as OpenMetrics text that promtool takes. Steps that are done
// stand in a work file beside the output, from which a run that was stopped goes on.
func runBackfill(ctx context.Context, o options, stderr io.Writer) error {
	b, err := o.backfill.plan(time.Now())
	if err != nil {
		return usageError{err}
	}
	b.Timeout = o.scrapeTimeout
	client, err := newClient(o)
	if err != nil {
		return err
	}
	c := newCollector(o, client, log.NewNopLogger())
	if _, err := os.Stat(o.backfill.output); err == nil {
		return fmt.Errorf("--output: %s is there already: expected the name of a new file", o.backfill.output)
	}
	work, done, err := openWork(o.backfill.output+".part", fmt.Sprintf("%s of %s in %s: %s every %s", o.dumpsMeasurement, o.influxDatabase, o.influxURL, b.From.UTC().Format(time.RFC3339), b.Every))
	if err != nil {
		return err
	}
	defer work.Close()
	total := int(b.To.Sub(b.From)/b.Every) + 1
	if first := done; first < total {
		b.From = b.From.Add(time.Duration(first) * b.Every)
		bar := progress{out: stderr, shown: isTerminal(stderr), begun: time.Now(), first: first, total: total}
		lines := bufio.NewWriter(work)
		err = c.Backfill(ctx, b, func(s collector.Step) error {
			done++
			bar.show(done, s.At)
			return writeStep(lines, s)
		})
		bar.end()
		if err := errors.Join(err, lines.Flush()); err != nil {
			return fmt.Errorf("after %d of %d steps, which %s keeps (the same command goes on from there): %w", done, total, work.Name(), err)
		}
	}
	if err := o.backfill.write(c, work, total); err != nil {
		return fmt.Errorf("writing %s: %w", o.backfill.output, err)
	}
	fmt.Fprintf(stderr, "%d steps in %s; next: promtool tsdb create-blocks-from openmetrics %[2]s DATA_FOLDER_OF_PROMETHEUS\n", total, o.backfill.output)
	return os.Remove(work.Name())
}

// labelName is what Prometheus takes as the name of a label.
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// plan checks the flags.
func (o backfillOptions) plan(now time.Time) (b collector.Backfill, err error) {
	b.Every = o.step
	if b.From, err = flagTime("--from", o.from); err != nil {
		return b, err
	}
	b.To = now.Truncate(time.Second)
	if o.to != "" {
		if b.To, err = flagTime("--to", o.to); err != nil {
			return b, err
		}
	}
	switch {
	case o.step < time.Second || o.step%time.Second != 0:
		return b, fmt.Errorf("--step is %v: expected whole seconds, such as 5m", o.step)
	case b.To.Before(b.From):
		return b, fmt.Errorf("--to is before --from")
	case b.To.After(now):
		return b, fmt.Errorf("--to is in the future: what was true then is not known")
	case b.To.Sub(b.From)/o.step >= mostSteps:
		return b, fmt.Errorf("--step is %v: expected one that makes at most %d steps between --from and --to", o.step, mostSteps)
	}
	for name := range o.labels {
		if !labelName.MatchString(name) || strings.HasPrefix(name, "__") {
			return b, fmt.Errorf("--label %q: expected a name such as instance, and a value behind =", name)
		}
	}
	return b, nil
}

func flagTime(flag, text string) (time.Time, error) {
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil && seconds >= 0 && seconds < math.MaxInt32 {
		return time.Unix(seconds, 0), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Nanosecond() != 0 || t.Unix() < 0 {
		return t, fmt.Errorf("%s is %q: expected a time such as 2026-01-31T00:00:00Z, or seconds since 1970", flag, text)
	}
	return t, nil
}

// openWork opens the work file behind its last whole line, and returns how many steps it
// holds. A work file of another run is refused.
func openWork(path, what string) (work *os.File, steps int, err error) {
	if work, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, 0, fmt.Errorf("--output: %w", err)
	}
	defer func() {
		if err != nil {
			_ = work.Close()
		}
	}()
	whole, first := int64(0), ""
	for lines := bufio.NewReader(work); ; {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("reading %s: %w", path, err)
		}
		if whole == 0 {
			first = strings.TrimSuffix(line, "\n")
			steps = -1
		}
		whole += int64(len(line))
		steps++
	}
	if first != "" && first != what {
		return nil, 0, fmt.Errorf("%s holds steps of another run (%s): remove it, or give another --output", path, first)
	}
	if _, err = work.Seek(whole, io.SeekStart); err != nil {
		return nil, 0, err
	}
	if first == "" {
		_, err = fmt.Fprintln(work, what)
	}
	return work, steps, err
}

func writeStep(w io.Writer, s collector.Step) error {
	_, err := fmt.Fprintln(w, s.At.Unix(), s.Dumps, s.VMs, s.Bytes, s.LastNs)
	return err
}

// write makes the output of the work file: one metric after the other, as OpenMetrics
// wants it, each read anew. It appears whole or not at all.
func (o backfillOptions) write(c *collector.Collector, work *os.File, steps int) error {
	made := o.output + ".tmp"
	out, err := os.Create(made)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(made) }() // renamed, when all went well
	defer out.Close()
	text := bufio.NewWriter(out)
	var labels []string
	for name, value := range o.labels {
		labels = append(labels, name+"="+openMetricsQuote(value))
	}
	slices.Sort(labels)
	for _, series := range collector.BackfillSeries {
		name, help := c.Gauge(series.Query)
		fmt.Fprintf(text, "# HELP %s %s\n# TYPE %s gauge\n", name, openMetricsEscape(help), name)
		if len(labels) > 0 {
			name += "{" + strings.Join(labels, ",") + "}"
		}
		if _, err := work.Seek(0, io.SeekStart); err != nil {
			return err
		}
		lines := bufio.NewReader(work)
		if _, err := lines.ReadString('\n'); err != nil {
			return err
		}
		for range steps {
			var s collector.Step
			var at int64
			if _, err := fmt.Fscanln(lines, &at, &s.Dumps, &s.VMs, &s.Bytes, &s.LastNs); err != nil {
				return fmt.Errorf("reading %s: %w", work.Name(), err)
			}
			if value, ok := series.Value(s); ok {
				fmt.Fprintf(text, "%s %s %d\n", name, strconv.FormatFloat(value, 'g', -1, 64), at)
			}
		}
	}
	fmt.Fprintln(text, "# EOF")
	if err := errors.Join(text.Flush(), out.Sync(), out.Close()); err != nil {
		return err
	}
	return os.Rename(made, o.output)
}

var openMetricsEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func openMetricsEscape(text string) string { return openMetricsEscapes.Replace(text) }
func openMetricsQuote(text string) string  { return `"` + openMetricsEscape(text) + `"` }

// progress is a line that shows how far it has come, where a person looks on.
type progress struct {
	out          io.Writer
	shown        bool
	begun, last  time.Time
	first, total int
}

func (p *progress) show(done int, at time.Time) {
	now := time.Now()
	if !p.shown || done < p.total && now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	const width = 30
	filled := width * done / p.total
	left := time.Duration(float64(now.Sub(p.begun)) / float64(done-p.first) * float64(p.total-done))
	fmt.Fprintf(p.out, "\r\033[K[%s%s] %d of %d steps, %s, %s left", strings.Repeat("#", filled), strings.Repeat(".", width-filled),
		done, p.total, at.UTC().Format(time.DateOnly), left.Round(time.Second))
}

func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.out)
	}
}
