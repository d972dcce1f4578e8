package test

import (
	"encoding/json"
	"errors"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
)

const dashboardFile = "../../dashboards/memdump.json"

// grafanaDashboard is the version of dashboards that every supported Grafana imports.
type grafanaDashboard = dashboard.Dashboard //nolint:staticcheck // its successor is another file format

// strictlyGrafana decodes with a type of Grafana's, which refuses fields that it does not have and misses those that it
// requires. Its UnmarshalJSONStrict returns an error that holds no errors where there are none.
func strictlyGrafana(t *testing.T, where string, text []byte, into interface{ UnmarshalJSONStrict([]byte) error }) {
	t.Helper()
	err := into.UnmarshalJSONStrict(text)
	var all cog.BuildErrors
	if err != nil && (!errors.As(err, &all) || len(all) > 0) {
		t.Errorf("%s: %v", where, err)
	}
}

// loadDashboard decodes the dashboard strictly: panels' options, queries and custom fields by the types of their plugins.
func loadDashboard(t *testing.T) grafanaDashboard {
	t.Helper()
	plugins.RegisterDefaultPlugins()
	text := []byte(read(t, dashboardFile))
	strictlyGrafana(t, "the dashboard", text, new(grafanaDashboard))
	// The strict decoder leaves the panels out, also where they have no errors.
	var d grafanaDashboard
	must(t, json.Unmarshal(text, &d))
	// A panel's own decoder reads fieldConfig leniently, but for its custom fields.
	var raw struct {
		Panels []struct {
			Title       string
			FieldConfig json.RawMessage
		}
	}
	must(t, json.Unmarshal(text, &raw))
	if len(raw.Panels) == 0 || len(d.Panels) != len(raw.Panels) {
		t.Fatalf("decoded %d panels of %d", len(d.Panels), len(raw.Panels))
	}
	for _, p := range raw.Panels {
		if p.FieldConfig != nil {
			strictlyGrafana(t, p.Title+": fieldConfig", p.FieldConfig, new(dashboard.FieldConfigSource))
		}
	}
	return d
}

// of is the value of an optional field.
func of[T any](field *T) T {
	if field == nil {
		return *new(T)
	}
	return *field
}

// fromVariable is whether a panel, query, variable or annotation uses the data source that the user chooses.
func fromVariable(source *common.DataSourceRef) bool {
	return of(of(source).Type) == "prometheus" && of(of(source).Uid) == "${datasource}"
}

// TestDashboard: the dashboard fits every Grafana from 11 to 13 without a migration, and one or more exporters.
func TestDashboard(t *testing.T) {
	d := loadDashboard(t)
	if of(d.Uid) != "memdump" || of(d.Title) == "" || !slices.Contains(d.Tags, "memdump") || of(d.Timezone) != "browser" || !of(d.Editable) ||
		of(d.GraphTooltip) != dashboard.DashboardCursorSyncCrosshair {
		t.Errorf("uid %q, title %q, tags %q, timezone %q, editable %v, graphTooltip %d",
			of(d.Uid), of(d.Title), d.Tags, of(d.Timezone), of(d.Editable), of(d.GraphTooltip))
	}
	if !regexp.MustCompile(`^([3-9]\ds|[1-9]\d*[mh])$`).MatchString(of(d.Refresh)) {
		t.Errorf("refreshes every %q, want 30 s or more", of(d.Refresh))
	}
	if d.SchemaVersion < 39 || d.SchemaVersion > 42 {
		t.Errorf("schemaVersion %d, want one of Grafana 11 to 13", d.SchemaVersion)
	}
	if text := read(t, dashboardFile); strings.Contains(text, "__inputs") || strings.Contains(text, "${DS_") {
		t.Error("has __inputs, which provisioning does not fill in")
	}

	want := map[string]string{
		"datasource": "prometheus",
		"job":        "label_values(memdump_up, job)",
		"instance":   `label_values(memdump_up{job=~"$job"}, instance)`,
	}
	for _, v := range d.Templating.List {
		definition, known := want[v.Name]
		delete(want, v.Name)
		query := any(of(of(v.Query).String))
		if fields := of(v.Query).Map; fields != nil {
			query = fields["query"]
		}
		if !known || query != definition {
			t.Errorf("variable %s queries %v, want %q", v.Name, query, definition)
		}
		if v.Name == "datasource" {
			if v.Type != dashboard.VariableTypeDatasource {
				t.Errorf("variable %s is of type %s", v.Name, v.Type)
			}
		} else if v.Type != dashboard.VariableTypeQuery || of(v.Definition) != definition || !of(v.Multi) || !of(v.IncludeAll) ||
			!fromVariable(v.Datasource) {
			t.Errorf("variable %s: %s", v.Name, cog.Dump(v))
		}
	}
	if len(want) > 0 {
		t.Errorf("no variables %v", want)
	}
	for _, a := range d.Annotations.List {
		if of(a.BuiltIn) == 0 && (!fromVariable(a.Datasource) || !strings.HasPrefix(of(a.Expr), "ALERTS{")) {
			t.Errorf("annotation %s queries %s", a.Name, of(a.Expr))
		}
	}
}

// TestDashboard_panels: each panel describes what to do, and shows nothing that is unknown as a number.
func TestDashboard_panels(t *testing.T) {
	alerts := read(t, "../../dashboards/alerts.yaml")
	limits := []float64{1} // of what is 0 or 1
	for _, found := range regexp.MustCompile(`> (\d+)(?: \* (\d+))?\b`).FindAllStringSubmatch(alerts, -1) {
		limit, err := strconv.ParseFloat(found[1], 64)
		must(t, err)
		if found[2] != "" {
			factor, err := strconv.ParseFloat(found[2], 64)
			must(t, err)
			limit *= factor
		}
		limits = append(limits, limit)
	}
	ids, titles, cells := map[uint32]bool{}, map[string]bool{}, map[[2]uint32]string{}
	place := func(id uint32, title string, g dashboard.GridPos) {
		if ids[id] || titles[title] || id == 0 || title == "" {
			t.Errorf("%d %q: the id or the title is missing, or not the only one", id, title)
		}
		ids[id], titles[title] = true, true
		if g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s is at %+v", title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, taken := cells[[2]uint32{x, y}]; taken {
					t.Fatalf("%s lies on %s", title, other)
				}
				cells[[2]uint32{x, y}] = title
			}
		}
	}
	for _, panelOrRow := range loadDashboard(t).Panels {
		if row := panelOrRow.RowPanel; row != nil {
			place(row.Id, of(row.Title), of(row.GridPos))
			continue
		}
		p := *panelOrRow.Panel
		title := of(p.Title)
		place(of(p.Id), title, of(p.GridPos))
		checkPanel(t, p, limits)
	}
	for _, name := range regexp.MustCompile(`\bMemdump[A-Z]\w+`).FindAllString(read(t, dashboardFile), -1) {
		if !strings.Contains(alerts, "- alert: "+name+"\n") {
			t.Errorf("%s is no alert", name)
		}
	}
}

func checkPanel(t *testing.T, p dashboard.Panel, limits []float64) {
	t.Helper()
	title, defaults := of(p.Title), of(p.FieldConfig).Defaults
	if _, known := cog.ConfigForPanelcfgVariant(p.Type); !known || p.Options == nil {
		t.Errorf("%s is of type %q, whose options Grafana's types do not check", title, p.Type)
	}
	if of(p.PluginVersion) == "" {
		t.Errorf("%s has no pluginVersion: Grafana would migrate it", title)
	}
	if len(of(p.Description)) < 80 || of(defaults.Unit) == "" || !strings.Contains(of(defaults.NoValue), "unknown") {
		t.Errorf("%s: description %q, unit %q, no value %q", title, of(p.Description), of(defaults.Unit), of(defaults.NoValue))
	}
	if !slices.ContainsFunc(defaults.Mappings, func(m dashboard.ValueMapping) bool {
		special := of(m.SpecialValueMap).Options
		return special.Match == dashboard.SpecialValueMatchNullAndNan && of(special.Result.Text) == "unknown"
	}) {
		t.Errorf("%s does not show null and NaN as unknown", title)
	}
	for _, step := range of(defaults.Thresholds).Steps {
		if step.Value != nil && !slices.Contains(limits, math.Abs(*step.Value)) {
			t.Errorf("%s changes its colour at %v, at which no alert fires: %v", title, *step.Value, limits)
		}
	}
	if !fromVariable(p.Datasource) || len(p.Targets) == 0 {
		t.Errorf("%s has %d queries of %s", title, len(p.Targets), cog.Dump(p.Datasource))
	}
	refs := map[string]bool{}
	for _, target := range p.Targets {
		query, ok := target.(*prometheus.Dataquery)
		if !ok {
			t.Fatalf("%s: a query is of type %s", title, target.DataqueryType())
		}
		if ref := of(query.RefId); refs[ref] || ref == "" || !fromVariable(query.Datasource) {
			t.Errorf("%s: query %q of %s", title, ref, cog.Dump(query.Datasource))
		}
		refs[of(query.RefId)] = true
		// A range's last value is that of before the metric became absent.
		now := p.Type == "stat" || p.Type == "table" || p.Type == "bargauge"
		isTable := of(query.Format) == prometheus.PromQueryFormatTable
		if of(query.Instant) != now || of(query.Range) == now || (p.Type == "table") != isTable {
			t.Errorf("%s: instant %v, range %v, format %q", title, of(query.Instant), of(query.Range), of(query.Format))
		}
	}
}
