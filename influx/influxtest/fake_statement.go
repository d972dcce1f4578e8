package influxtest

import (
	"cmp"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	identPattern = `"((?:[^"\\]|\\.)*)"`
	fromPattern  = ` FROM ((?:` + identPattern + `[.,]?)+)`
)

var (
	identRegexp  = regexp.MustCompile(identPattern)
	showRegexp   = regexp.MustCompile(`^SHOW (FIELD|TAG) KEYS` + fromPattern + `$`)
	selectRegexp = regexp.MustCompile(`^SELECT (.*?)` + fromPattern + `(?: WHERE (time [^"']*?))?` +
		`(?: GROUP BY (?:(\*)|(time\(1d\) fill\(none\))|((?:` + identPattern + `,?)+)))?` +
		`( ORDER BY time DESC)?(?: LIMIT (\d+)(?: OFFSET (\d+))?)?$`)
	columnRegexp = regexp.MustCompile(`^(?:([A-Z]+)\()?(?:` + identPattern + `::(field|tag)|(\*)::field)\)?` +
		`(?: AS ` + identPattern + `)?(?:, ?|$)`)
	timeRegexp = regexp.MustCompile(`^time (>=|<) (-?\d+)(?: AND |$)`)
)

var unescaper = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n")

// idents returns the names in a list such as "a","b" or "policy"."a", without retention policies, which the Fake ignores.
func idents(text string) (names []string) {
	for _, at := range identRegexp.FindAllStringSubmatchIndex(text, -1) {
		if !strings.HasPrefix(text[at[1]:], ".") {
			names = append(names, unescaper.Replace(text[at[2]:at[3]]))
		}
	}
	return names
}

// showStatement lists the fields or tags of measurements.
type showStatement struct {
	kind string
	from []string
}

func parseShow(text string) (s showStatement, ok bool) {
	m := showRegexp.FindStringSubmatch(text)
	if m == nil {
		return s, false
	}
	return showStatement{m[1], idents(m[2])}, true
}

// selectStatement is a SELECT.
type selectStatement struct {
	columns      []fakeColumn
	every        bool // *::field
	from         []string
	lower, upper int64
	tags         []string // to group by
	allTags      bool
	daily        bool
	descending   bool
	limit        int
	offset       int
}

// fakeColumn is a field or a tag, or a function of a field.
type fakeColumn struct {
	function, name, alias string
	tag                   bool
	kind                  string // type of the field's values
}

func parseSelect(text string) (s selectStatement, ok bool) {
	m := selectRegexp.FindStringSubmatch(text)
	if m == nil {
		return s, false
	}
	s = selectStatement{from: idents(m[2]), lower: math.MinInt64, upper: math.MaxInt64, limit: math.MaxInt}
	for rest := m[1]; rest != ""; {
		c := columnRegexp.FindStringSubmatch(rest)
		if c == nil {
			return s, false
		}
		rest = rest[len(c[0]):]
		if s.every = c[4] != ""; s.every {
			continue
		}
		name := unescaper.Replace(c[2])
		alias := cmp.Or(unescaper.Replace(c[5]), strings.ToLower(c[1]), name)
		column := fakeColumn{function: c[1], name: name, alias: alias, tag: c[3] == "tag"}
		if !slices.Contains([]string{"", "COUNT", "SUM", "MEAN", "LAST"}, column.function) {
			return s, false
		}
		s.columns = append(s.columns, column)
	}
	for rest := m[4]; rest != ""; {
		c := timeRegexp.FindStringSubmatch(rest)
		if c == nil {
			return s, false
		}
		rest = rest[len(c[0]):]
		ns, err := strconv.ParseInt(c[2], 10, 64)
		if err != nil {
			return s, false
		}
		if c[1] == "<" {
			s.upper = ns
		} else {
			s.lower = ns
		}
	}
	s.allTags, s.daily, s.tags, s.descending = m[5] != "", m[6] != "", idents(m[7]), m[9] != ""
	if m[10] != "" {
		s.limit, _ = strconv.Atoi(m[10])
		s.offset, _ = strconv.Atoi(cmp.Or(m[11], "0"))
	}
	return s, true
}
