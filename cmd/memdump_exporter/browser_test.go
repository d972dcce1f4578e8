package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a Chromium, controlled over its debugging pipe.
// https://chromedevtools.github.io/devtools-protocol/
type browser struct {
	commands *os.File
	session  string

	mu        sync.Mutex
	last      int
	responses map[int]chan message
	events    []message
	loaded    chan struct{}
}

type message struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
}

// startBrowser starts a browser until the test ends, and skips the test if there is none.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium (Debian's package chromium, which .ci/run installs)")
	}
	ourRead, theirWrite, err := os.Pipe()
	must(t, err)
	theirRead, ourWrite, err := os.Pipe()
	must(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-pipe")
	cmd.ExtraFiles = []*os.File{theirRead, theirWrite}
	must(t, cmd.Start())
	theirRead.Close()
	theirWrite.Close()
	b := &browser{commands: ourWrite, responses: map[int]chan message{}, loaded: make(chan struct{}, 10)}
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
		if response, ok := b.responses[m.ID]; ok && m.ID != 0 {
			response <- m
			delete(b.responses, m.ID)
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
	response := make(chan message, 1)
	b.responses[m.ID] = response
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
	case got := <-response:
		if got.Error != nil {
			t.Fatalf("%s: %s", method, got.Error)
		}
		if result != nil {
			must(t, json.Unmarshal(got.Result, result))
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s: no response within a minute", method)
	}
}

// look opens a page and takes a picture of its whole height.
func (b *browser) look(t *testing.T, url, scheme string, width int, file string) {
	t.Helper()
	b.mu.Lock()
	b.events = nil
	b.mu.Unlock()
	b.do(t, "Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false}, nil)
	preference := map[string]string{"name": "prefers-color-scheme", "value": scheme}
	b.do(t, "Emulation.setEmulatedMedia", map[string]any{"features": []any{preference}}, nil)
	b.do(t, "Page.navigate", map[string]any{"url": url}, nil)
	select {
	case <-b.loaded:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not load", url)
	}
	b.capture(t, file, map[string]any{"captureBeyondViewport": true})
}

// capture writes a PNG of what look has opened. The options are those of Page.captureScreenshot.
func (b *browser) capture(t *testing.T, file string, options map[string]any) {
	t.Helper()
	var picture struct{ Data string }
	b.do(t, "Page.captureScreenshot", options, &picture)
	data, err := base64.StdEncoding.DecodeString(picture.Data)
	must(t, err)
	must(t, os.WriteFile(file, data, 0o644))
}

func (b *browser) evaluate(t *testing.T, script string) any {
	t.Helper()
	var response struct {
		Result           struct{ Value any }
		ExceptionDetails any
	}
	b.do(t, "Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &response)
	if response.ExceptionDetails != nil {
		t.Fatalf("%s: %v", script, response.ExceptionDetails)
	}
	return response.Result.Value
}

// troubles returns what the page should not have caused since look: messages on the console, dialogs, and requests to
// other hosts.
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
