package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"memdump_exporter/collector"
	"memdump_exporter/influx"
)

// errCheck is the error of a check that has printed what is wrong.
var errCheck = errors.New("something is wrong")

// step is the result of one check.
type step struct {
	Name  string `json:"step"`
	State string `json:"state"` // ok, wrong, or untried
	Text  string `json:"text,omitempty"`
	Hint  string `json:"hint,omitempty"` // the flag or variable to change
}

// check runs step by step from the flags to what Prometheus would scrape. After a step that is
// wrong, it runs the steps that do not depend on it.
type check struct {
	options
	out      io.Writer
	terminal bool
	steps    []step

	client   *influx.Client
	exporter *collector.Exporter
	examined []collector.Measurements
}

// runCheck runs all steps and prints their results. The error is errCheck if one is wrong.
func runCheck(ctx context.Context, o options, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 6*o.scrapeTimeout)
	defer cancel()
	c := &check{options: o, out: stdout, terminal: o.checkOutput == "text" && isTerminal(stdout)}
	c.all(ctx)
	if c.exporter != nil {
		c.exporter.Close()
	}
	wrong := slices.ContainsFunc(c.steps, func(s step) bool { return s.State == "wrong" })
	if o.checkOutput == "json" {
		encoder := json.NewEncoder(stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(map[string]any{"ok": !wrong, "steps": c.steps}); err != nil {
			return fmt.Errorf("write the result: %w", err)
		}
	}
	if wrong {
		return errCheck
	}
	return nil
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// all runs the steps in order.
func (c *check) all(ctx context.Context) {
	c.configuration()
	reached := c.client != nil && c.network(ctx)
	readable := reached && c.server(ctx)
	for _, name := range []string{"server", "measurements", "queries"} {
		if !readable && (name != "server" || !reached) {
			c.report(step{name, "untried", "skipped: an earlier check failed", ""})
		}
	}
	if !readable {
		return
	}
	c.measurements()
	c.queries(ctx)
}

// waiting shows the running step on a terminal.
func (c *check) waiting(name string) {
	if c.terminal {
		fmt.Fprintf(c.out, "\r\033[K…     %s", name)
	}
}

// report adds the result of a step, and prints it unless the output is JSON.
func (c *check) report(s step) {
	// Names from the database may contain what controls a terminal.
	s.Text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return -1
		}
		return r
	}, s.Text)
	c.steps = append(c.steps, s)
	if c.checkOutput != "text" {
		return
	}
	mark := map[string]string{"ok": "ok", "wrong": "WRONG", "untried": "-"}[s.State]
	colour := map[string]string{"ok": "32", "wrong": "31", "untried": "2"}[s.State]
	if c.terminal {
		fmt.Fprintf(c.out, "\r\033[K\033[%sm%-6s\033[0m", colour, mark)
	} else {
		fmt.Fprintf(c.out, "%-6s", mark)
	}
	fmt.Fprintf(c.out, "%-21s %s\n", s.Name, strings.ReplaceAll(s.Text, "\n", "\n"+strings.Repeat(" ", 28)))
	if s.Hint != "" {
		fmt.Fprintf(c.out, "%28s→ %s\n", "", s.Hint)
	}
}

// ok reports a step without a problem.
func (c *check) ok(name, format string, args ...any) {
	c.report(step{name, "ok", fmt.Sprintf(format, args...), ""})
}

// wrong reports a step with a problem, and returns false.
func (c *check) wrong(name, hint string, err error) bool {
	c.report(step{name, "wrong", err.Error(), hint})
	return false
}
