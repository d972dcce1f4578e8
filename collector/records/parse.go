package records

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"memdump_exporter/influx"
)

const (
	defaultLimit = 1000
	maxLimit     = 10_000
	// maxFilterBytes limits the length of a name.
	maxFilterBytes = 512
)

// parseQuery parses the parameters of /records. Its errors name the parameter and the expected
// value, and omit the given value.
func parseQuery(raw string, maxOffset int64) (Query, error) {
	q := Query{Limit: defaultLimit, Time: influx.AllTime}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		// url.ParseQuery drops a pair with a semicolon, so its error could not name the parameter.
		key, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(key)
		if err != nil {
			return q, errors.New("the name of a parameter can't be decoded: expected limit, offset, vmid, dom, from or to")
		}
		parameter, ok := parameters[name]
		switch {
		case !ok:
			return q, fmt.Errorf("unknown parameter %.40q: expected limit, offset, vmid, dom, from or to", name)
		case seen[name]:
			return q, fmt.Errorf("%s is set more than once", name)
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
	if q.Time.From >= q.Time.To {
		return q, errors.New("from: expected a time before that of to")
	}
	return q, nil
}

var parameters = map[string]func(q *Query, text string, maxOffset int64) error{
	"limit": func(q *Query, text string, _ int64) (err error) {
		q.Limit, err = whole64(text, 1, maxLimit)
		return err
	},
	"offset": func(q *Query, text string, maxOffset int64) (err error) {
		q.Offset, err = whole64(text, 0, maxOffset)
		return err
	},
	"vmid": func(q *Query, text string, _ int64) (err error) { q.VMID, err = filterName(text); return err },
	"dom":  func(q *Query, text string, _ int64) (err error) { q.Dom, err = filterName(text); return err },
	"from": func(q *Query, text string, _ int64) (err error) { q.Time.From, err = filterTime(text); return err },
	"to":   func(q *Query, text string, _ int64) (err error) { q.Time.To, err = filterTime(text); return err },
}

func whole64(text string, minimum, maximum int64) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63) // rejects a sign
	if err != nil || int64(n) < minimum || int64(n) > maximum {
		return 0, fmt.Errorf("expected a whole number from %d to %d", minimum, maximum)
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
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1678 || t.Year() > 2261 {
		return 0, errors.New("expected a time such as 2025-11-11T10:30:00Z, or seconds since 1970")
	}
	return t.UnixNano(), nil
}
