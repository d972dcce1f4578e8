package dashboards

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// source is what every panel, query and variable must query.
var source = map[string]any{"type": "prometheus", "uid": "${datasource}"}

type dashboard struct {
	UID, Title, Timezone, Refresh string
	Tags                          []string
	Editable                      bool
	GraphTooltip, SchemaVersion   int
	Templating                    struct {
		List []struct {
			Name, Type, Definition string
			Query                  any
			Datasource             map[string]any
			Multi, IncludeAll      bool
		}
	}
	Annotations struct {
		List []struct {
			BuiltIn    int
			Name, Expr string
			Datasource map[string]any
		}
	}
	Panels []panel
}

type panel struct {
	ID                                      int
	Type, Title, Description, PluginVersion string
	GridPos                                 struct{ X, Y, W, H int }
	Datasource                              map[string]any
	Targets                                 []struct {
		RefID, Expr, LegendFormat, Format, Interval string
		Instant, Range                              bool
		Datasource                                  map[string]any
	}
	FieldConfig struct {
		Defaults struct {
			Unit, NoValue string
			Thresholds    struct {
				Steps []struct{ Value *float64 }
			}
			Mappings []struct {
				Type    string
				Options struct {
					Match  string
					Result struct{ Text string }
				}
			}
		}
	}
}

func load(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal([]byte(read(t, "memdump.json")), &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Panels) == 0 {
		t.Fatal("no panels")
	}
	return d
}

// TestDashboard: the dashboard can be imported anywhere, is for one or more instances, and has
// nothing that an old or a new Grafana would have to change.
func TestDashboard(t *testing.T) {
	d := load(t)
	if d.UID != "memdump" || d.Title == "" || !slices.Contains(d.Tags, "memdump") || d.Timezone != "browser" || !d.Editable || d.GraphTooltip != 1 {
		t.Errorf("uid %q, title %q, tags %q, timezone %q, editable %v, graphTooltip %d", d.UID, d.Title, d.Tags, d.Timezone, d.Editable, d.GraphTooltip)
	}
	if !regexp.MustCompile(`^([3-9]\ds|[1-9]\d*[mh])$`).MatchString(d.Refresh) {
		t.Errorf("refreshed every %q, want 30 s or more", d.Refresh)
	}
	if d.SchemaVersion < 39 || d.SchemaVersion > 42 {
		t.Errorf("schemaVersion %d, want one of Grafana 11 to 13", d.SchemaVersion)
	}
	if text := read(t, "memdump.json"); strings.Contains(text, "__inputs") || strings.Contains(text, "${DS_") {
		t.Error("has __inputs, which provisioning does not fill in")
	}

	want := map[string]string{"datasource": "", "job": "label_values(memdump_up, job)", "instance": `label_values(memdump_up{job=~"$job"}, instance)`}
	for _, v := range d.Templating.List {
		definition, known := want[v.Name]
		delete(want, v.Name)
		query := v.Query
		if fields, ok := v.Query.(map[string]any); ok {
			query = fields["query"]
		}
		if v.Name == "datasource" {
			definition = "prometheus"
			if v.Type != "datasource" {
				t.Errorf("variable %s is of type %s", v.Name, v.Type)
			}
		} else if v.Type != "query" || v.Definition != definition || !v.Multi || !v.IncludeAll || fmt.Sprint(v.Datasource) != fmt.Sprint(source) {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
		if !known || query != definition {
			t.Errorf("variable %s queries %v, want %q", v.Name, query, definition)
		}
	}
	if len(want) > 0 {
		t.Errorf("no variables %v", want)
	}
	for _, a := range d.Annotations.List {
		if a.BuiltIn == 0 && (fmt.Sprint(a.Datasource) != fmt.Sprint(source) || !strings.HasPrefix(a.Expr, "ALERTS{")) {
			t.Errorf("annotation %s queries %v for %s", a.Name, a.Datasource, a.Expr)
		}
	}
}

// TestDashboard_panels: each panel describes what to do, and shows nothing that is unknown as a
// number.
func TestDashboard_panels(t *testing.T) {
	d := load(t)
	alerts := uncommented(t, "alerts.yaml")
	var limits []float64
	for _, found := range regexp.MustCompile(`> (\d+)(?: \* (\d+))?\b`).FindAllStringSubmatch(alerts, -1) {
		limit := float64(mustAtoi(t, found[1]))
		if found[2] != "" {
			limit *= float64(mustAtoi(t, found[2]))
		}
		limits = append(limits, limit)
	}
	ids, titles, cells := make(map[int]bool), make(map[string]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || titles[p.Title] || p.ID == 0 || p.Title == "" {
			t.Errorf("%d %q: the id or the title is missing, or not the only one", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		g := p.GridPos
		if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := cells[[2]int{x, y}]; taken {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if !slices.Contains([]string{"stat", "timeseries", "table", "state-timeline", "bargauge"}, p.Type) {
			t.Errorf("%s is of type %q", p.Title, p.Type)
		}
		if p.PluginVersion == "" {
			t.Errorf("%s has no pluginVersion: Grafana would take it for one to migrate", p.Title)
		}
		defaults := p.FieldConfig.Defaults
		if len(p.Description) < 80 || defaults.Unit == "" || !strings.Contains(defaults.NoValue, "unknown") {
			t.Errorf("%s: description %q, unit %q, no value %q", p.Title, p.Description, defaults.Unit, defaults.NoValue)
		}
		unknown := false
		for _, m := range defaults.Mappings {
			unknown = unknown || m.Type == "special" && m.Options.Match == "null+nan" && m.Options.Result.Text == "unknown"
		}
		if !unknown {
			t.Errorf("%s does not show null and NaN as unknown", p.Title)
		}
		if fmt.Sprint(p.Datasource) != fmt.Sprint(source) || len(p.Targets) == 0 {
			t.Errorf("%s has %d queries of %v", p.Title, len(p.Targets), p.Datasource)
		}
		for _, step := range defaults.Thresholds.Steps {
			// 1 is that of what is 0 or 1.
			if step.Value != nil && *step.Value != 1 && !slices.Contains(limits, math.Abs(*step.Value)) {
				t.Errorf("%s changes its colour at %v, at which no alert fires: %v", p.Title, *step.Value, limits)
			}
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			if refs[target.RefID] || target.RefID == "" || fmt.Sprint(target.Datasource) != fmt.Sprint(source) {
				t.Errorf("%s: query %q of %v", p.Title, target.RefID, target.Datasource)
			}
			refs[target.RefID] = true
			// A range's last value is that of before the metric became absent.
			now := p.Type == "stat" || p.Type == "table" || p.Type == "bargauge"
			if target.Instant != now || target.Range == now || (p.Type == "table") != (target.Format == "table") {
				t.Errorf("%s: instant %v, range %v, format %q", p.Title, target.Instant, target.Range, target.Format)
			}
		}
	}

	for _, name := range regexp.MustCompile(`\bMemdump[A-Z]\w+`).FindAllString(read(t, "memdump.json"), -1) {
		if !strings.Contains(alerts, "- alert: "+name+"\n") {
			t.Errorf("%s is no alert", name)
		}
	}
}

// divided is a mean of dumps in a time range: absent where there is none.
var divided = regexp.MustCompile(` / \((memdump_dumps_with_duration\{[^}]*\}) - (memdump_dumps_with_duration\{[^}]*\}) offset \w+ > 0\)`)

// TestDashboard_expressions: every metric and label exists, every selector is bound to the
// variables, and nothing makes a number of what is unknown.
func TestDashboard_expressions(t *testing.T) {
	labels := metrics(t)
	// Prometheus' own, and those of every Go exporter.
	for _, name := range []string{"up", "scrape_duration_seconds", "scrape_timeout_seconds", "process_resident_memory_bytes", "go_memstats_heap_alloc_bytes"} {
		labels[name] = nil
	}
	for _, p := range load(t).Panels {
		for _, target := range p.Targets {
			where := p.Title + ": " + target.Expr
			if found := regexp.MustCompile(`\b(vector|avg|avg_over_time|last_over_time|absent|clamp_min|clamp)\b|/`).FindString(divided.ReplaceAllString(target.Expr, "")); found != "" {
				t.Errorf("%s has %s: it hides, or makes up, what is unknown", where, found)
			}
			// Grafana takes the data source's 15 s otherwise, and a minute's range of two
			// scrapes a minute apart holds one.
			if strings.Contains(target.Expr, "$__rate_interval") && target.Interval != "1m" {
				t.Errorf("%s with a minimal step of %q, want 1m, the README's scrape_interval", where, target.Interval)
			}
			var known []string
			bare := target.Expr
			for _, found := range regexp.MustCompile(`([a-z_]+)\{([^}]*)\}`).FindAllStringSubmatch(target.Expr, -1) {
				bare = strings.Replace(bare, found[0], "", 1)
				of, ok := labels[found[1]]
				if !ok {
					t.Errorf("%s: %s is no metric of the exporter", where, found[1])
				}
				if !strings.HasPrefix(found[2], `job=~"$job",instance=~"$instance"`) {
					t.Errorf("%s: %s is not bound to the variables", where, found[0])
				}
				checkLabels(t, where, labelsOf(found[0]), of)
				known = append(known, of...)
			}
			if found := regexp.MustCompile(`\b(memdump|go|process|scrape)_[a-z_]+`).FindString(bare); found != "" {
				t.Errorf("%s: %s is not bound to the variables", where, found)
			}
			for _, found := range regexp.MustCompile(`label_replace\(.*?, "(\w+)"`).FindAllStringSubmatch(target.Expr, -1) {
				known = append(known, found[1])
			}
			for _, found := range regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`).FindAllStringSubmatch(target.Expr, -1) {
				checkLabels(t, where, strings.Split(strings.ReplaceAll(found[1], " ", ""), ","), known)
			}
			for _, found := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				checkLabels(t, where, found[1:], known)
			}
			if p.Type != "table" && !strings.Contains(target.LegendFormat, "{{instance}}") {
				t.Errorf("%s: the legend %q does not tell instances apart", where, target.LegendFormat)
			}
		}
	}
}
