package collector

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"memdump_exporter/collector/ranges"
)

// parseQuery reads the parameters of /records. Its errors name the parameter and what
// was expected, and quote nothing of what was given.
func parseQuery(raw string, maxOffset int64) (query, error) {
	q := query{limit: defaultRecords, span: ranges.All}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		// Not url.ParseQuery, which drops a pair with a semicolon before it can be named.
		key, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			return q, fmt.Errorf("the name of a parameter can't be decoded: expected limit, offset, vmid, dom, from or to")
		}
		parameter, ok := parameters[name]
		switch {
		case !ok:
			return q, fmt.Errorf("there is no parameter %.40q: expected limit, offset, vmid, dom, from or to", name)
		case seen[name]:
			return q, fmt.Errorf("%s is given more than once", name)
		}
		seen[name] = true
		text, err := url.QueryUnescape(value)
		if err != nil {
			return q, fmt.Errorf("%s: expected a percent-encoded value", name)
		}
		if err := parameter(&q, text, maxOffset); err != nil {
			return q, fmt.Errorf("%s: %w", name, err)
		}
	}
	if q.span.From >= q.span.To {
		return q, fmt.Errorf("from: expected a time before that of to")
	}
	return q, nil
}

var parameters = map[string]func(q *query, text string, maxOffset int64) error{
	"limit": func(q *query, text string, _ int64) (err error) {
		q.limit, err = whole64(text, 1, mostRecords)
		return err
	},
	"offset": func(q *query, text string, maxOffset int64) (err error) {
		q.offset, err = whole64(text, 0, maxOffset)
		return err
	},
	"vmid": func(q *query, text string, _ int64) (err error) { q.vmid, err = filterName(text); return err },
	"dom":  func(q *query, text string, _ int64) (err error) { q.dom, err = filterName(text); return err },
	"from": func(q *query, text string, _ int64) (err error) { q.span.From, err = filterTime(text); return err },
	"to":   func(q *query, text string, _ int64) (err error) { q.span.To, err = filterTime(text); return err },
}

func whole64(text string, least, most int64) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63) // which takes no sign
	if err != nil || int64(n) < least || int64(n) > most {
		return 0, fmt.Errorf("expected a whole number from %d to %d", least, most)
	}
	return int64(n), nil
}

func filterName(text string) (string, error) {
	control := func(r rune) bool { return r < ' ' || r == 0x7f }
	if text == "" || len(text) > maxFilterBytes || !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
		return "", fmt.Errorf("expected a name of 1 to %d bytes of UTF-8 without control characters", maxFilterBytes)
	}
	return text, nil
}

var epochSeconds = regexp.MustCompile(`^([0-9]{1,10})(?:\.([0-9]{1,9}))?$`)

func filterTime(text string) (int64, error) {
	if parts := epochSeconds.FindStringSubmatch(text); parts != nil {
		ns, err := strconv.ParseInt(parts[1]+(parts[2] + "000000000")[:9], 10, 64)
		if err == nil {
			return ns, nil
		}
	}
	t, _ := time.Parse(time.RFC3339Nano, text) // what is no time is of the year 1
	if t.Year() < 1678 || t.Year() > 2261 {
		return 0, fmt.Errorf("expected a time such as 2025-11-11T10:30:00Z, or seconds since 1970")
	}
	return t.UnixNano(), nil
}
