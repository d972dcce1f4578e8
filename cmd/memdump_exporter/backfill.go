package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
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
	allowRecent      bool
	step             time.Duration
	labels           map[string]string
}

const (
	// maxSteps limits the output of a mistake in --step.
	maxSteps = 2_000_000
	// recent is the minimum age of the last step. Prometheus writes a block every two hours, and when
	// it starts it drops the samples that are older than the end of the newest block.
	recent = 3 * time.Hour
)

// runBackfill writes past values as OpenMetrics text that promtool accepts.
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
	exporter := newExporter(o, client, log.NewNopLogger())
	defer exporter.Close()
	if _, err := os.Stat(o.backfill.output); err == nil {
		return fmt.Errorf("--output: %s exists: expected the name of a new file", o.backfill.output)
	}
	total := int(b.To.Sub(b.From)/b.Every) + 1
	written, err := o.backfill.write(ctx, exporter, b, &progress{out: stderr, shown: isTerminal(stderr), begun: time.Now(), total: total})
	if err != nil {
		return fmt.Errorf("after %d of %d steps: %w", written, total, err)
	}
	fmt.Fprintf(stderr, "wrote %d steps to %s; next, as the user of Prometheus: "+
		"promtool tsdb create-blocks-from openmetrics %[2]s DATA_FOLDER_OF_PROMETHEUS\n",
		total, o.backfill.output)
	if time.Since(b.To) < recent {
		fmt.Fprintf(stderr, "warning: the last step is less than %s old: at its next start, Prometheus drops the samples of all targets "+
			"that are older than it and not in a block yet\n", recent)
	}
	return nil
}

// labelName matches the name of a label.
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

// plan checks the flags, and returns the backfill that they describe.
func (o backfillOptions) plan(now time.Time) (b collector.Backfill, err error) {
	b.Every = o.step
	if b.From, err = flagTime("--from", o.from); err != nil {
		return b, err
	}
	b.To = now.Add(-recent).Truncate(time.Second)
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
		return b, fmt.Errorf("--to is in the future: expected a time before now")
	case now.Sub(b.To) < recent && !o.allowRecent:
		return b, fmt.Errorf("--to is less than %s ago: at its next start, Prometheus would drop the samples of all targets "+
			"that are older than --to and not in a block yet; expected an earlier time, or --allow-recent", recent)
	case b.To.Sub(b.From)/o.step >= maxSteps:
		return b, fmt.Errorf("--step is %v: expected one that makes at most %d steps between --from and --to", o.step, maxSteps)
	}
	for name := range o.labels {
		if !labelName.MatchString(name) || strings.HasPrefix(name, "__") {
			return b, fmt.Errorf("--label %q: expected a name such as instance, = and a value", name)
		}
	}
	return b, nil
}

// flagTime parses the time of a flag: RFC 3339, or seconds since 1970.
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

// write writes the output, one metric after the other, as OpenMetrics requires. It collects the lines
// of each metric in a temporary file, so that the output is complete or missing. It returns the number
// of steps.
func (o backfillOptions) write(ctx context.Context, e *collector.Exporter, b collector.Backfill, bar *progress) (steps int, err error) {
	dir, err := os.MkdirTemp(filepath.Dir(o.output), "."+filepath.Base(o.output)+"-")
	if err != nil {
		return 0, fmt.Errorf("--output: %w", err)
	}
	defer os.RemoveAll(dir)
	metrics := e.BackfillMetrics()
	lines := make([]*bufio.Writer, len(metrics))
	for i := range metrics {
		file, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return 0, fmt.Errorf("--output: %w", err)
		}
		defer file.Close()
		lines[i] = bufio.NewWriter(file)
	}
	labels := o.labelText()
	err = e.Backfill(ctx, b, func(s collector.Step) error {
		steps++
		bar.show(steps, s.At)
		for i, m := range s.Values {
			if m.HasValue {
				if _, err := fmt.Fprintf(lines[i], "%s%s %s %d\n", m.Name, labels, strconv.FormatFloat(m.Value, 'g', -1, 64), s.At.Unix()); err != nil {
					return fmt.Errorf("write a step: %w", err)
				}
			}
		}
		return nil
	})
	bar.end()
	for _, l := range lines {
		err = errors.Join(err, l.Flush())
	}
	if err != nil {
		return steps, err
	}
	return steps, o.join(dir, metrics)
}

// join concatenates the files of the metrics into the output.
func (o backfillOptions) join(dir string, metrics []collector.MetricValue) error {
	path := filepath.Join(dir, "whole")
	whole, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	defer whole.Close()
	text := bufio.NewWriter(whole)
	for i, m := range metrics {
		fmt.Fprintf(text, "# HELP %s %s\n# TYPE %[1]s gauge\n", m.Name, openMetricsEscape(m.Help))
		lines, err := os.Open(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return fmt.Errorf("join the metrics: %w", err)
		}
		_, err = io.Copy(text, lines)
		if err := errors.Join(err, lines.Close()); err != nil {
			return fmt.Errorf("join the metrics: %w", err)
		}
	}
	fmt.Fprintln(text, "# EOF")
	if err := errors.Join(text.Flush(), whole.Sync(), whole.Chmod(0o644), whole.Close()); err != nil {
		return fmt.Errorf("join the metrics: %w", err)
	}
	return os.Rename(path, o.output)
}

// labelText returns the labels in the syntax of OpenMetrics; empty without a label.
func (o backfillOptions) labelText() string {
	if len(o.labels) == 0 {
		return ""
	}
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(o.labels)) {
		labels = append(labels, name+"="+openMetricsQuote(o.labels[name]))
	}
	return "{" + strings.Join(labels, ",") + "}"
}

var openMetricsEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func openMetricsEscape(text string) string { return openMetricsEscapes.Replace(text) }
func openMetricsQuote(text string) string  { return `"` + openMetricsEscape(text) + `"` }

// progress is a line on a terminal that shows the progress.
type progress struct {
	out         io.Writer
	shown       bool
	begun, last time.Time
	total       int
}

// show updates the line, at most ten times a second.
func (p *progress) show(done int, at time.Time) {
	now := time.Now()
	if !p.shown || done < p.total && now.Sub(p.last) < 100*time.Millisecond {
		return
	}
	p.last = now
	const width = 30
	filled := width * done / p.total
	left := time.Duration(float64(now.Sub(p.begun)) / float64(done) * float64(p.total-done))
	fmt.Fprintf(p.out, "\r\033[K[%s%s] %d of %d steps, %s, %s left", strings.Repeat("#", filled), strings.Repeat(".", width-filled),
		done, p.total, at.UTC().Format(time.DateOnly), left.Round(time.Second))
}

// end ends the line.
func (p *progress) end() {
	if p.shown {
		fmt.Fprintln(p.out)
	}
}
