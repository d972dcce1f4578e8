package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"memdump_exporter/collector"
	"memdump_exporter/influx/influxtest"
)

var pictures = flag.String("pictures", "", "directory to keep the pictures of the page in")

// TestPage_metrics: every metric on the page has its true value, written for people.
func TestPage_metrics(t *testing.T) {
	server := influxdb.Server(t)
	h := influxtest.Believable(6, time.Now())
	server.MustStore(t, "vmstats", h)
	w := newFront(t, server.URL)
	e := startExporter(t, []string{"INFLUX_URL=" + w.URL})
	for _, wrong := range pageDifferences(get(t, e.URL+"/", http.StatusOK), h, "InfluxDB 1.x, version 1.7.11") {
		t.Error(wrong)
	}
	// Viewers share what was fetched for one of them, and scrapes count separately.
	w.taken()
	var viewers sync.WaitGroup
	for range 20 {
		viewers.Go(func() { get(t, e.URL+"/", http.StatusOK) })
	}
	viewers.Wait()
	if n := len(w.taken()); n != 0 {
		t.Errorf("twenty viewers within seconds made %d requests", n)
	}
	if failures := e.scrape(t).failures(); len(failures) > 0 {
		t.Errorf("the page's queries count as failures of scrapes: %v", failures)
	}
}

// pageDifferences are the texts that a page without a scrape lacks of a history, in which every
// metric has a value.
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
	for metric, text := range map[string]string{
		"memdump_dumps":                      separated(float64(known.Dumps)),
		"memdump_dumped_vms":                 fmt.Sprint(known.DumpedVMs),
		"memdump_dumped_domains":             fmt.Sprint(known.DumpedDomains),
		"memdump_dumps_compressed_bytes":     inBytes(float64(known.CompressedBytes)),
		"memdump_dumps_raw_bytes":            inBytes(float64(known.RawBytes)),
		"memdump_dump_duration_mean_seconds": inSeconds(mean),
		"memdump_dumps_duration_seconds":     inSeconds(known.DurationSum),
		"memdump_dumps_with_duration":        separated(float64(known.DurationCount)),
		"memdump_monitored_vms":              fmt.Sprint(known.MonitoredVMs),
		"memdump_monitored_domains":          fmt.Sprint(known.MonitoredDomains),
	} {
		shown := regexp.MustCompile(`<strong title="` + metric + ` [^"]*">([^<]*)</strong>`).FindStringSubmatch(body)
		if shown == nil || shown[1] != text {
			wrong = append(wrong, fmt.Sprintf("the page shows %s as %q, want %q", metric, shown, text))
		}
	}
	for _, want := range []string{
		time.Unix(0, known.LastDumpNs).UTC().Format("2006-01-02 15:04:05 UTC"),
		fmt.Sprintf(`<th scope="row">%s</th><td class="number">%d</td><td class="number">%s</td>`, today, dumpsToday, inBytes(float64(bytesToday))),
		fmt.Sprintf(`<strong class="bad">%d</strong> of %d monitored VMs have never been dumped`, known.NeverDumped, known.MonitoredDomains),
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

// TestPage_domains: the page shows the domains whose dumps can't be told apart, and omits the
// chart of a size that nobody has written.
func TestPage_domains(t *testing.T) {
	server := influxdb.Server(t)
	h := &influxtest.History{}
	h.Add(dump("1", time.Now(), second()))
	for i, uuid := range []string{"u1", "u2"} {
		h.Add(point(influxtest.Telemetry, time.Now(), map[string]any{"cpu": 1.0}, map[string]string{"VMID": fmt.Sprint(i), "name": "twin", "uuid": uuid}))
	}
	server.MustStore(t, "vmstats", h)
	body := get(t, startExporter(t, []string{"INFLUX_URL=" + server.URL}).URL+"/", http.StatusOK)
	for _, want := range []string{
		`dumps can't be told apart: <span class="name">twin (u1), twin (u2)</span>`, `<td class="name">u1</td>`, `<td class="name">u2</td>`,
		`<strong class="bad">2</strong> of 2 monitored VMs`, "<strong>none yet</strong>",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if n := strings.Count(body, "<rect "); n != 30 {
		t.Errorf("%d bars, want one for each of thirty days, and none of compressed bytes", n)
	}
}

func TestPage_words(t *testing.T) {
	now := time.Unix(1e9, 0)
	for said, want := range map[string]string{
		separated(0): "0", separated(999): "999", separated(1000): "1,000", separated(1234567): "1,234,567", separated(-1234): "-1,234",
		inBytes(0): "0 bytes", inBytes(1023): "1,023 bytes", inBytes(1536): "1.5 KiB", inBytes(1 << 40): "1.0 TiB", inBytes(1 << 62): "4.0 EiB",
		inSeconds(1.25): "1.2 s", inSeconds(600): "10.0 min", inSeconds(36000): "10.0 h", inSeconds(1e6): "11.6 days",
		visible("a\u202eb\x00ü"): `a\u202eb\u0000ü`,
		ago(now, now):            "just now", ago(now.Add(-90*time.Second), now): "90 s ago", ago(now.Add(-50*time.Minute), now): "50 min ago",
		ago(now.Add(-47*time.Hour), now): "47 h ago", ago(now.Add(-2000*24*time.Hour), now): "2,000 days ago", ago(now.Add(3*time.Hour), now): "in 3 h",
		metricTitle("Number of memory dumps (points with sha256)."): "Number of memory dumps", metricTitle("A b: c."): "A b",
	} {
		if said != want {
			t.Errorf("%q, want %q", said, want)
		}
	}
	if bars := chartColumns([]collector.Day{{Start: now, Dumps: 2, CompressedBytes: 5}, {Start: now, Dumps: 4}}, "dumps"); bars[0].Height != 50 || bars[1].Y != 0 {
		t.Errorf("%+v", bars)
	}
}

// TestPage_contrast: WCAG AA, 4.5 to 1, for every colour of text on its ground.
func TestPage_contrast(t *testing.T) {
	colours := regexp.MustCompile(`--(\w+): #([0-9a-f]{6})`)
	themes := strings.SplitN(pageCSS, "@media", 2)
	for i, theme := range []string{"light", "dark"} {
		of := map[string]float64{}
		for _, m := range colours.FindAllStringSubmatch(strings.SplitN(themes[i], "\n", 2)[0], -1) {
			of[m[1]] = luminance(t, m[2])
		}
		for _, text := range []string{"fg", "muted", "link", "bad", "good"} {
			bright, dim := max(of[text], of["bg"]), min(of[text], of["bg"])
			if ratio := (bright + 0.05) / (dim + 0.05); ratio < 4.5 || of[text] == 0 {
				t.Errorf("%s: %s on the ground is %.1f to 1", theme, text, ratio)
			}
		}
	}
}

func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		must(t, err)
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

// TestPage_browser looks at the page in a real Chromium, which .ci/run installs where it
// can: nothing on the console, no request to anywhere else, no text cut.
func TestPage_browser(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium on this machine: the page was not looked at (apt-get install chromium)")
	}
	dir := *pictures
	if dir == "" {
		dir = t.TempDir()
	}
	server := influxdb.Server(t)
	server.MustStore(t, "vmstats", influxtest.Believable(6, time.Now()))
	server.MustStore(t, "empty", &influxtest.History{})
	hostile := &influxtest.History{}
	for i, name := range []string{
		`<script>alert(1)</script>`, `"><img src=//evil.example/x onerror=alert(2)>`, `javascript:alert(3)`, `{{.Secret}}`, strings.Repeat("long-", 60),
		"ünï-日本-العربية-\u202egnp.exe", `'; DROP MEASUREMENT mem_dumps; --`, "&lt;b&gt;", strings.Repeat("W", 200),
	} {
		hostile.Add(dump(name, time.Now().Add(-time.Duration(i)*time.Minute), map[string]any{"sha256": name, "duration_sec": 1e7, "gzip_size_bytes": int64(1) << 58}))
	}
	server.MustStore(t, "hostile", hostile)
	gone := influxtest.MustStart(t)
	away := startExporter(t, []string{"INFLUX_URL=" + gone.URL, "INFLUX_TOKEN=canary"})
	must(t, gone.Stop())
	of := func(database string) string {
		return startExporter(t, []string{"INFLUX_URL=" + server.URL, "INFLUX_DB=" + database}).URL
	}
	healthy := of("vmstats")
	b := startBrowser(t, path)
	for _, tt := range []struct {
		name, url, scheme string
		width             int
		says              string
	}{
		{"healthy", healthy, "light", 1200, "jump-host"},
		{"dark", healthy, "dark", 1200, "jump-host"},
		{"narrow", healthy, "light", 380, "jump-host"},
		{"away", away.URL, "light", 1200, "unreachable"},
		{"empty", of("empty"), "light", 1200, "measurement_missing"},
		{"hostile", of("hostile"), "light", 1200, "DROP MEASUREMENT"},
		{"hostile-narrow", of("hostile"), "dark", 380, "DROP MEASUREMENT"},
	} {
		b.look(t, tt.url+"/", tt.scheme, tt.width, filepath.Join(dir, tt.name+".png"))
		if text := b.evaluate(t, `document.body.innerText`); !strings.Contains(fmt.Sprint(text), tt.says) {
			t.Errorf("%s: the page does not say %q:\n%v", tt.name, tt.says, text)
		}
		if cut := b.evaluate(t, `[...document.querySelectorAll("body *")].filter(e => !e.matches(".scroll") && !e.closest("svg") && getComputedStyle(e).overflowX != "visible" && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML.slice(0, 80)).join("\n")`); cut != "" {
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
	for _, file := range []string{"healthy", "dark", "narrow", "away", "empty", "hostile", "hostile-narrow"} {
		if info, err := os.Stat(filepath.Join(dir, file+".png")); err != nil || info.Size() < 10_000 {
			t.Errorf("no picture of %s: %v", file, err)
		}
	}
	if text := get(t, away.URL+"/", http.StatusOK); strings.Contains(text, "canary") || strings.Contains(text, gone.URL) {
		t.Error("the page tells the token or the URL")
	}
}

// browser is a Chromium that is driven over its debugging pipe.
// https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	commands *os.File
	session  string

	mu      sync.Mutex
	last    int
	answers map[int]chan message
	events  []message
	loaded  chan struct{}
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
}

func startBrowser(t *testing.T, path string) *browser {
	t.Helper()
	ourRead, theirWrite, err := os.Pipe()
	must(t, err)
	theirRead, ourWrite, err := os.Pipe()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{theirRead, theirWrite}
	must(t, cmd.Start())
	theirRead.Close()
	theirWrite.Close()
	b := &browser{commands: ourWrite, answers: map[int]chan message{}, loaded: make(chan struct{}, 10)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(ourRead)
	}()
	t.Cleanup(func() {
		_, _ = ourWrite.Write([]byte(`{"id":1000000,"method":"Browser.close"}` + "\x00"))
		<-read
		cancel()
		_ = cmd.Wait()
		ourWrite.Close()
		ourRead.Close()
	})
	var target struct{ TargetID, SessionID string }
	b.do(t, "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	b.do(t, "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.do(t, domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) read(from *os.File) {
	messages := bufio.NewReader(from)
	for {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(text[:len(text)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if answer, ok := b.answers[m.ID]; ok && m.ID != 0 {
			answer <- m
			delete(b.answers, m.ID)
		} else if m.Method != "" {
			b.events = append(b.events, m)
		}
		b.mu.Unlock()
		if m.Method == "Page.loadEventFired" {
			b.loaded <- struct{}{}
		}
	}
}

func (b *browser) do(t *testing.T, method string, params, result any) {
	t.Helper()
	encoded, err := json.Marshal(params)
	must(t, err)
	b.mu.Lock()
	b.last++
	m := message{ID: b.last, Method: method, Params: encoded, SessionID: b.session}
	answer := make(chan message, 1)
	b.answers[m.ID] = answer
	b.mu.Unlock()
	if params == nil {
		m.Params = nil
	}
	text, err := json.Marshal(m)
	must(t, err)
	if _, err := b.commands.Write(append(text, 0)); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-answer:
		if got.Error != nil {
			t.Fatalf("%s: %s", method, got.Error)
		}
		if result != nil {
			must(t, json.Unmarshal(got.Result, result))
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s: no answer", method)
	}
}

// look opens a page and takes its picture, whole.
func (b *browser) look(t *testing.T, url, scheme string, width int, file string) {
	t.Helper()
	b.mu.Lock()
	b.events = nil
	b.mu.Unlock()
	b.do(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.do(t, "Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	b.do(t, "Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.loaded:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not load", url)
	}
	var picture struct{ Data string }
	b.do(t, "Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &picture)
	data, err := base64.StdEncoding.DecodeString(picture.Data)
	must(t, err)
	must(t, os.WriteFile(file, data, 0o644))
}

func (b *browser) evaluate(t *testing.T, script string) any {
	t.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails any
	}
	b.do(t, "Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &answer)
	if answer.ExceptionDetails != nil {
		t.Fatalf("%s: %v", script, answer.ExceptionDetails)
	}
	return answer.Result.Value
}

// troubles are what a page should not have caused.
func (b *browser) troubles(host string) (troubles []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.events {
		switch e.Method {
		case "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Page.javascriptDialogOpening":
			troubles = append(troubles, e.Method+" "+string(e.Params))
		case "Network.requestWillBeSent":
			var sent struct{ Request struct{ URL string } }
			if json.Unmarshal(e.Params, &sent) == nil && !strings.HasPrefix(sent.Request.URL, "data:") {
				if u, err := url.Parse(sent.Request.URL); err != nil || u.Host != host {
					troubles = append(troubles, "a request to "+sent.Request.URL)
				}
			}
		}
	}
	return troubles
}
