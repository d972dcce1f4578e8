package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kingpin/v2"
)

// flagValue is what a flag was set to: by an argument, or by the flag's variable.
type flagValue struct {
	source string // --flag or VARIABLE
	text   string
	flag   *kingpin.FlagModel
}

// checkValues returns the first problem with the value of a flag or a variable. cause is the
// error of the parser, which names neither in most cases; nil means that it could parse all.
func checkValues(app *kingpin.Application, args []string, cause error) error {
	parsed, err := app.ParseContext(args)
	for _, v := range valuesOf(app, parsed) {
		if err := v.check(cause != nil); err != nil {
			return err
		}
	}
	if token := parsed.Peek(); err != nil && token.Type == kingpin.TokenArg && err.Error() == "unexpected "+token.Value {
		return unexpectedArgument(args, token.Index-1)
	}
	return cause
}

// unexpectedArgument replaces an error of the parser that repeats the argument, which is a part of
// a secret where somebody has not quoted a password with a blank.
func unexpectedArgument(args []string, i int) error {
	if name, _, found := strings.Cut(args[i], "="); found && strings.HasPrefix(name, "--") {
		name = strings.TrimPrefix(strings.TrimPrefix(name, "--"), "no-")
		return fmt.Errorf("--%s is set with a value: expected --%[1]s or --no-%[1]s, without a value", name)
	}
	if i > 0 && strings.HasPrefix(args[i-1], "--") {
		flag, _, _ := strings.Cut(args[i-1], "=")
		return fmt.Errorf("unexpected argument after %s", flag)
	}
	return fmt.Errorf("argument %d is unexpected: expected a flag, or one of the commands %s, %s and %s",
		i+1, serveCommand, checkCommand, backfillCommand)
}

// valuesOf returns the values of all flags: those of the arguments first, and of the variables
// that no argument overrides.
func valuesOf(app *kingpin.Application, parsed *kingpin.ParseContext) []flagValue {
	var values []flagValue
	set := make(map[string]bool)
	for _, element := range parsed.Elements {
		if flag, ok := element.Clause.(*kingpin.FlagClause); ok && element.Value != nil {
			model := flag.Model()
			set[model.Name] = true
			values = append(values, flagValue{"--" + model.Name, *element.Value, model})
		}
	}
	for _, model := range app.Model().Flags {
		if text := os.Getenv(model.Envar); text != "" && !set[model.Name] {
			values = append(values, flagValue{model.Envar, text, model})
		}
	}
	return values
}

// check returns the problem with the text of a value. parse is true where the flag may reject it.
func (v flagValue) check(parse bool) error {
	var problem string
	switch v.flag.Name {
	case tokenFlag:
		problem = tokenProblem(strings.TrimSpace(v.text))
	case passwordFlag:
		problem = passwordProblem(strings.TrimSpace(v.text))
	default:
		problem = textProblem(v.text)
	}
	if problem != "" {
		return fmt.Errorf("%s %s", v.source, problem)
	}
	if !parse {
		return nil
	}
	err := v.flag.Value.Set(v.text)
	if err == nil {
		return nil
	}
	kind := ""
	if getter, ok := v.flag.Value.(kingpin.Getter); ok {
		switch getter.Get().(type) {
		case bool:
			return fmt.Errorf("%s is %q: expected true or false", v.source, v.text)
		case time.Duration:
			kind = "duration"
		case int, int64:
			kind = "whole number"
		}
	}
	if kind != "" && len(v.flag.Default) > 0 {
		return fmt.Errorf("%s is %q: expected a %s such as %s", v.source, v.text, kind, v.flag.Default[0])
	}
	return fmt.Errorf("%s: %w", v.source, err)
}

const (
	bom = '\uFEFF'
	// quotes includes those that a word processor inserts.
	quotes = "\"'`“”„‘’"
)

// textProblem returns what is wrong with a text that most editors do not show; empty when nothing
// is. It never contains the text, which may be a secret.
func textProblem(text string) string {
	if problem := invisible(text); problem != "" {
		return problem
	}
	first, last := ends(text)
	if strings.ContainsRune(quotes, first) {
		return fmt.Sprintf("begins with the quote %c: expected the value without quotes", first)
	}
	for _, end := range []struct {
		where string
		r     rune
	}{{"begins", first}, {"ends", last}} {
		switch {
		case unicode.IsSpace(end.r):
			return fmt.Sprintf("%s with a blank (%q): expected the value without it", end.where, end.r)
		case unicode.Is(unicode.Cf, end.r):
			return fmt.Sprintf("%s with an invisible character (%q): expected the value without it", end.where, end.r)
		}
	}
	return ""
}

// passwordProblem is textProblem for a password, which may begin with a quote.
func passwordProblem(text string) string {
	first, last := ends(text)
	switch problem := invisible(text); {
	case text == "":
		return "is blank: expected a password"
	case problem != "":
		return problem
	case len(text) > 1 && first == last && strings.ContainsRune(quotes, first):
		return fmt.Sprintf("begins and ends with the quote %c: expected the password without quotes", first)
	}
	return ""
}

// tokenProblem is textProblem for a token.
func tokenProblem(text string) string {
	if text == "" {
		return "is blank: expected a token"
	}
	for _, scheme := range []string{"Bearer ", "Token ", "Basic "} {
		if len(text) >= len(scheme) && strings.EqualFold(text[:len(scheme)], scheme) {
			return fmt.Sprintf("begins with %q: expected the token alone; --influx.auth-scheme sets the scheme", scheme)
		}
	}
	return textProblem(text)
}

// invisible returns which control character or byte order mark the text contains, and where.
func invisible(text string) string {
	unwanted := func(r rune) bool { return r == bom || unicode.IsControl(r) }
	i := strings.IndexFunc(text, unwanted)
	if i < 0 {
		return ""
	}
	where, what := "contains", "a control character"
	r, _ := utf8.DecodeRuneInString(text[i:])
	if r == bom {
		what = "a byte order mark"
	}
	switch {
	case i == 0:
		where = "begins with"
	case strings.TrimRightFunc(text[i:], unwanted) == "":
		where = "ends with"
	}
	return fmt.Sprintf("%s %s (%q): expected the value without it", where, what, r)
}

// ends returns the first and the last rune of a text; 0 for an empty one.
func ends(text string) (first, last rune) {
	if text == "" {
		return 0, 0
	}
	first, _ = utf8.DecodeRuneInString(text)
	last, _ = utf8.DecodeLastRuneInString(text)
	return first, last
}
