package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"html/template"
	"image/png"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"memdump_exporter/influx/influxtest"
)

var pictures = flag.String("pictures", "", "directory for the pictures of the page; by default they are deleted")

// TestPage_metrics: every metric on the page has its true value, and a page counts as no scrape.
func TestPage_metrics(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(6, time.Now())
	server.MustStore(t, "vmstats", h)
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	for _, wrong := range pageDifferences(get(t, e.URL+"/", http.StatusOK), h, "InfluxDB 1.x, version 1.7.11") {
		t.Error(wrong)
	}
	if failures := e.scrape(t).failures(); len(failures) > 0 {
		t.Errorf("the page's queries count as failures of scrapes: %v", failures)
	}
}

// pageDifferences returns what a page without a scrape lacks of a history in which every metric has a value.
func pageDifferences(body string, h *influxtest.History, server string) (wrong []string) {
	known := h.Truth(time.Now().UnixNano(), 24*time.Hour)
	mean, _ := known.Mean()
	today := time.Now().UTC().Format(time.DateOnly)
	var dumpsToday, bytesToday int64
	for _, p := range h.Points(influxtest.Dumps) {
		if time.Unix(0, p.TimeNs).UTC().Format(time.DateOnly) == today {
			if p.Fields["sha256"] != nil {
				dumpsToday++
			}
			if bytes, ok := p.Fields["gzip_size_bytes"].(int64); ok {
				bytesToday += bytes
			}
		}
	}
	for metric, want := range map[string]float64{
		"memdump_dumps":                      float64(known.Dumps),
		"memdump_dumped_vms":                 float64(known.DumpedVMs),
		"memdump_dumped_domains":             float64(known.DumpedDomains),
		"memdump_dumps_compressed_bytes":     float64(known.CompressedBytes),
		"memdump_dumps_raw_bytes":            float64(known.RawBytes),
		"memdump_dump_duration_mean_seconds": mean,
		"memdump_dumps_duration_seconds":     known.DurationSum,
		"memdump_dumps_with_duration":        float64(known.DurationCount),
		"memdump_monitored_vms":              float64(known.MonitoredVMs),
		"memdump_monitored_domains":          float64(known.MonitoredDomains),
	} {
		shown := regexp.MustCompile(`<strong title="` + metric + ` ([^"]*)">[^<]+</strong>`).FindStringSubmatch(body)
		if shown == nil {
			wrong = append(wrong, "the page does not show "+metric)
			continue
		}
		value, err := strconv.ParseFloat(html.UnescapeString(shown[1]), 64)
		if err != nil || math.Abs(value-want) > 1e-9*want {
			wrong = append(wrong, fmt.Sprintf("the page shows %s as %q, want %v", metric, shown[1], want))
		}
	}
	for _, want := range []string{
		time.Unix(0, known.LastDumpNs).UTC().Format("2006-01-02 15:04:05 UTC"),
		fmt.Sprintf(`<th scope="row">%s</th><td class="number">%d</td><td class="number" title="%d bytes">`, today, dumpsToday, bytesToday),
		fmt.Sprintf(`<p class="bad">%d of %d monitored VMs have never been dumped.</p>`, known.NeverDumped, known.MonitoredDomains),
		server, "no scrape yet",
	} {
		if !strings.Contains(body, want) {
			wrong = append(wrong, fmt.Sprintf("no %q in the page", want))
		}
	}
	for _, vm := range h.MonitoredDomains(time.Now().UnixNano(), 24*time.Hour) {
		row := fmt.Sprintf(`<tr><td class="name">%s</td><td class="name">%s</td>`, template.HTMLEscapeString(vm.Name), vm.UUID)
		if strings.Contains(body, row) == vm.Dumped {
			wrong = append(wrong, fmt.Sprintf("%s is listed as never dumped: %v", vm.Name, vm.Dumped))
		}
	}
	if n := strings.Count(body, "<rect "); n != 60 {
		wrong = append(wrong, fmt.Sprintf("%d bars, want two for each of thirty days", n))
	}
	return wrong
}

// TestPage_domains: the page shows the domains whose dumps cannot be told apart, and omits the
// chart of a size that no point has.
func TestPage_domains(t *testing.T) {
	server := influxdb.Server(t)
	h := &influxtest.History{}
	h.Add(dump("1", time.Now(), second()))
	for i, uuid := range []string{"u1", "u2"} {
		tags := map[string]string{"VMID": fmt.Sprint(i), "name": "twin", "uuid": uuid}
		h.Add(point(influxtest.Telemetry, time.Now(), map[string]any{"cpu": 1.0}, tags))
	}
	server.MustStore(t, "vmstats", h)
	body := get(t, startExporter(t, []string{"INFLUX_URL=" + server.URL}).URL+"/", http.StatusOK)
	for _, want := range []string{
		`dumps can&#39;t be told apart: twin (u1), twin (u2).`, `<td class="name">u1</td>`, `<td class="name">u2</td>`,
		`<p class="bad">2 of 2 monitored VMs`, "<strong>none yet</strong>",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if n := strings.Count(body, "<rect "); n != 30 {
		t.Errorf("%d bars, want one for each of thirty days, and none of compressed bytes", n)
	}
}

// TestPage_browser opens the page in a real Chromium, which .ci/run installs where it can. The
// console stays empty, no request goes to another server, and no text is cut.
func TestPage_browser(t *testing.T) {
	b, dir := startBrowser(t), picturesDir(t)
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(6, time.Now()))
	server.MustStore(t, "empty", &influxtest.History{})
	hostile := &influxtest.History{}
	for i, name := range []string{
		`<script>alert(1)</script>`, `"><img src=//evil.example/x onerror=alert(2)>`, `javascript:alert(3)`, `{{.Secret}}`,
		strings.Repeat("long-", 60),
		"ünï-日本-العربية-\u202egnp.exe", `'; DROP MEASUREMENT mem_dumps; --`, "&lt;b&gt;", strings.Repeat("W", 200),
	} {
		hostile.Add(dump(name, time.Now().Add(-time.Duration(i)*time.Minute), map[string]any{
			"sha256": name, "duration_sec": 1e7, "gzip_size_bytes": int64(1) << 58,
		}))
	}
	server.MustStore(t, "hostile", hostile)
	gone := influxtest.MustStart(t)
	away := startExporter(t, []string{"INFLUX_URL=" + gone.URL, "INFLUX_TOKEN=canary"})
	must(t, gone.Stop())
	of := func(database string) string {
		return startExporter(t, []string{"INFLUX_URL=" + server.URL, "INFLUX_DB=" + database}).URL
	}
	healthy := of("vmstats")
	for _, tt := range []struct {
		name, url, scheme string
		width             int
		text              string
	}{
		{"healthy", healthy + "/", "light", 1200, "jump-host"},
		{"dark", healthy + "/", "dark", 1200, "jump-host"},
		{"narrow", healthy + "/", "light", 380, "jump-host"},
		{"away", away.URL + "/", "light", 1200, "unreachable"},
		{"empty", of("empty") + "/", "light", 1200, "measurement_missing"},
		{"hostile", of("hostile") + "/", "light", 1200, "DROP MEASUREMENT"},
		{"hostile-narrow", of("hostile") + "/", "dark", 380, "DROP MEASUREMENT"},
		{"runbooks", healthy + "/runbooks#memdumpmetricsmissing", "light", 1200, "MemdumpNoRecentDump"},
		{"runbooks-narrow", healthy + "/runbooks", "dark", 380, "MemdumpNoRecentDump"},
	} {
		b.look(t, tt.url, tt.scheme, tt.width, filepath.Join(dir, tt.name+".png"))
		if text := b.evaluate(t, `document.body.innerText`); !strings.Contains(fmt.Sprint(text), tt.text) {
			t.Errorf("%s: no %q in the page:\n%v", tt.name, tt.text, text)
		}
		if info, err := os.Stat(filepath.Join(dir, tt.name+".png")); err != nil || info.Size() < 10_000 {
			t.Errorf("%s: no picture: %v", tt.name, err)
		}
		if cut := b.evaluate(t, `[...document.querySelectorAll("body *")].filter(e =>
			!e.matches(".scroll") && !e.closest("svg") && getComputedStyle(e).overflowX != "visible" && e.scrollWidth > e.clientWidth + 1
			).map(e => e.outerHTML.slice(0, 80)).join("\n")`); cut != "" {
			t.Errorf("%s: cut: %v", tt.name, cut)
		}
		if wide := b.evaluate(t, `document.documentElement.scrollWidth - innerWidth`); wide.(float64) > 0 {
			t.Errorf("%s: %v pixels too wide", tt.name, wide)
		}
		if status := b.evaluate(t, `fetch(location.pathname).then(r => r.status)`); status != 200.0 {
			t.Errorf("%s: the page can't refresh itself: %v", tt.name, status)
		}
		host, _ := url.Parse(tt.url)
		for _, trouble := range b.troubles(host.Host) {
			t.Errorf("%s: %s", tt.name, trouble)
		}
	}
	if text := get(t, away.URL+"/", http.StatusOK); strings.Contains(text, "canary") || strings.Contains(text, gone.URL) {
		t.Error("the page contains the token or the URL")
	}
}

func picturesDir(t *testing.T) string {
	t.Helper()
	return cmp.Or(*pictures, t.TempDir())
}

// TestPage_picture takes the picture of the README: the upper part of the page on the data of make demo, without
// a history that is being loaded.
func TestPage_picture(t *testing.T) {
	b, file := startBrowser(t), filepath.Join(picturesDir(t), "page.png")
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(6, time.Now()))
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL})
	until(t, time.Minute, "the page is without a history that is being loaded", func() error {
		if strings.Contains(get(t, e.URL+"/", http.StatusOK), "Loading the history") {
			return errors.New("it is being loaded")
		}
		return nil
	})
	b.look(t, e.URL+"/", "light", 1000, filepath.Join(t.TempDir(), "whole.png"))
	b.capture(t, file, map[string]any{"clip": map[string]int{"x": 0, "y": 0, "width": 985, "height": 900, "scale": 1}})
	checkPicture(t, file)
}

// TestREADME_picture: the picture is there, and small enough for a repository.
func TestREADME_picture(t *testing.T) {
	text, err := os.ReadFile(readme)
	must(t, err)
	if !strings.Contains(string(text), "](docs/page.png)") {
		t.Error("README.md does not show docs/page.png")
	}
	checkPicture(t, "../../docs/page.png")
}

func checkPicture(t *testing.T, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	if len(data) > 200<<10 {
		t.Errorf("%s has %d bytes, want at most 200 KiB", file, len(data))
	}
	config, err := png.DecodeConfig(bytes.NewReader(data))
	if err != nil || config.Width < 900 || config.Height < 600 {
		t.Errorf("%s: a picture of %d by %d pixels, %v", file, config.Width, config.Height, err)
	}
}

// TestPage_prefix: behind a real nginx that strips a path prefix, every link of the page, the pages of /records and the
// server of openapi.json stay below the prefix.
func TestPage_prefix(t *testing.T) {
	b := startBrowser(t)
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(6, time.Now()))
	// Without the slash, the path would be a URL with the scheme metrics.
	e := startExporter(t, []string{"INFLUX_URL=" + server.URL}, "--web.telemetry-path=/metrics:1")
	base := influxtest.Nginx(t, "", "location /memdump/ { proxy_pass "+e.URL+"/; }\nlocation / { return 404; }") + "/memdump/"

	b.look(t, base, "light", 1200, filepath.Join(t.TempDir(), "prefix.png"))
	links := fmt.Sprint(b.evaluate(t, `[...new Set([...document.links].map(a => a.href))].join("\n")`))
	for link := range strings.Lines(links) {
		link = strings.TrimSpace(link)
		if !strings.HasPrefix(link, base) {
			t.Errorf("the page links to %s, which is not below %s", link, base)
		}
		if status := b.evaluate(t, fmt.Sprintf("fetch(%q).then(r => r.status)", link)); status != 200.0 {
			t.Errorf("the link %s: %v, want 200", link, status)
		}
	}
	for _, want := range []string{"metrics:1", "records", "openapi.json", "runbooks", "records?dom=web-02"} {
		if !strings.Contains(links+"\n", base+want+"\n") {
			t.Errorf("no link to %s%s in\n%s", base, want, links)
		}
	}
	if status := b.evaluate(t, `fetch(location.pathname).then(r => r.status)`); status != 200.0 {
		t.Errorf("the page can't refresh itself: %v", status)
	}
	b.look(t, base+"runbooks", "light", 1200, filepath.Join(t.TempDir(), "runbooks.png"))
	if home := b.evaluate(t, `document.querySelector("header a").href`); home != base {
		t.Errorf("the runbooks link to %v, want %s", home, base)
	}
	for _, trouble := range b.troubles(strings.TrimSuffix(strings.TrimPrefix(base, "http://"), "/memdump/")) {
		t.Error(trouble)
	}

	first := send(nil, http.MethodGet, base+"records?limit=5")
	next, ok := strings.CutSuffix(strings.TrimPrefix(first.header.Get("Link"), "<"), `>; rel="next"`)
	if !ok {
		t.Fatalf("the header Link of a full page is %q", first.header.Get("Link"))
	}
	second := get(t, resolve(t, base+"records?limit=5", next), http.StatusOK)
	if want := get(t, e.URL+"/records?limit=5&offset=5", http.StatusOK); recordsIn(second) != recordsIn(want) {
		t.Errorf("the next page behind the prefix is\n%s\nwant\n%s", second, want)
	}
	var api struct{ Servers []struct{ URL string } }
	must(t, json.Unmarshal([]byte(get(t, base+"openapi.json", http.StatusOK)), &api))
	if len(api.Servers) != 1 {
		t.Fatalf("openapi.json has %d servers, want 1", len(api.Servers))
	}
	// Clients append the path, which begins with a slash, to the URL of the server.
	root := strings.TrimSuffix(resolve(t, base+"openapi.json", api.Servers[0].URL), "/")
	if body := get(t, root+"/records?limit=5", http.StatusOK); recordsIn(body) != recordsIn(first.body) {
		t.Errorf("the records at %s are not those at %s", root, base)
	}
}

// recordsIn returns a page of records without its numbers of records.
func recordsIn(page string) string {
	records, _, _ := strings.Cut(page, `],"count"`)
	return records
}

// resolve returns the URL of a reference in a document.
func resolve(t *testing.T, document, reference string) string {
	t.Helper()
	base, err := url.Parse(document)
	must(t, err)
	resolved, err := base.Parse(reference)
	must(t, err)
	return resolved.String()
}
