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

// errCheck ends a check that has said itself what is wrong.
var errCheck = errors.New("something is wrong")

// step is one thing looked at.
type step struct {
	Name  string `json:"step"`
	State string `json:"state"` // ok, wrong, or untried
	Says  string `json:"says,omitempty"`
	Hint  string `json:"hint,omitempty"` // the flag or variable to change
}

// check goes step by step from the flags to what Prometheus would see, as a colleague
// would, and goes on after what is wrong where it can.
type check struct {
	options
	out      io.Writer
	terminal bool
	steps    []step

	client    *influx.Client
	collector *collector.Collector
	examined  []collector.Measurement
}

func runCheck(ctx context.Context, o options, stdout io.Writer) error {
	if !slices.Contains([]string{"text", "json"}, o.checkOutput) {
		return usageError{fmt.Errorf("--output is %q: expected text or json", o.checkOutput)}
	}
	ctx, cancel := context.WithTimeout(ctx, 6*o.scrapeTimeout)
	defer cancel()
	c := &check{options: o, out: stdout, terminal: o.checkOutput == "text" && isTerminal(stdout)}
	c.all(ctx)
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
			c.say(step{name, "untried", "what comes before must work first", ""})
		}
	}
	if !answers {
		return
	}
	c.measurements()
	c.queries(ctx)
}

// asking shows what is waited for, where a person looks on.
func (c *check) asking(name string) {
	if c.terminal {
		fmt.Fprintf(c.out, "\r\033[K…     %s", name)
	}
}

func (c *check) say(s step) {
	// It names fields and tags as the database has them, to a terminal.
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
