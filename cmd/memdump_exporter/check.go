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

// errCheck ends a check that has printed what is wrong.
var errCheck = errors.New("something is wrong")

// step is the result of one check.
type step struct {
	Name  string `json:"step"`
	State string `json:"state"` // ok, wrong, or untried
	Says  string `json:"says,omitempty"`
	Hint  string `json:"hint,omitempty"` // the flag or variable to change
}

// check checks step by step from the flags to what Prometheus would scrape. Where a step is
// wrong, it goes on with those that do not depend on it.
type check struct {
	options
	out      io.Writer
	terminal bool
	steps    []step

	client   *influx.Client
	exporter *collector.Exporter
	examined []collector.Measurements
}

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
			return fmt.Errorf("writing the result: %w", err)
		}
	}
	if wrong {
		return errCheck
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (c *check) all(ctx context.Context) {
	c.configuration()
	reached := c.client != nil && c.network(ctx)
	answers := reached && c.server(ctx)
	for _, name := range []string{"server", "measurements", "queries"} {
		if !answers && (name != "server" || !reached) {
			c.say(step{name, "untried", "skipped: an earlier check failed", ""})
		}
	}
	if !answers {
		return
	}
	c.measurements()
	c.queries(ctx)
}

// waiting shows the step that is waited for, on a terminal.
func (c *check) waiting(name string) {
	if c.terminal {
		fmt.Fprintf(c.out, "\r\033[K…     %s", name)
	}
}

func (c *check) say(s step) {
	// Names from the database may hold what controls a terminal.
	s.Says = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return -1
		}
		return r
	}, s.Says)
	c.steps = append(c.steps, s)
	if c.checkOutput != "text" {
		return
	}
	mark, colour := map[string]string{"ok": "ok", "wrong": "WRONG", "untried": "-"}[s.State], map[string]string{"ok": "32", "wrong": "31", "untried": "2"}[s.State]
	if c.terminal {
		fmt.Fprintf(c.out, "\r\033[K\033[%sm%-6s\033[0m", colour, mark)
	} else {
		fmt.Fprintf(c.out, "%-6s", mark)
	}
	fmt.Fprintf(c.out, "%-21s %s\n", s.Name, strings.ReplaceAll(s.Says, "\n", "\n"+strings.Repeat(" ", 28)))
	if s.Hint != "" {
		fmt.Fprintf(c.out, "%28s→ %s\n", "", s.Hint)
	}
}

func (c *check) ok(name, says string, args ...any) {
	c.say(step{name, "ok", fmt.Sprintf(says, args...), ""})
}

func (c *check) wrong(name, hint string, err error) bool {
	c.say(step{name, "wrong", err.Error(), hint})
	return false
}
