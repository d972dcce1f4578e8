package page

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRunbooks(t *testing.T) {
	for markdown, want := range map[string]string{
		"## MemdumpNoRecentDump\na\nb":                   `<h2 id="memdumpnorecentdump">MemdumpNoRecentDump</h2>` + "\n<p>a<br>\nb</p>",
		"see [reasons](#reasons).":                       `<p>see <a href="#reasons">reasons</a>.</p>`,
		"see [the *history*](metrics.md#history).":       `<p>see the <em>history</em> (docs/metrics.md#history).</p>`,
		"see [dashboards/a.yaml](../dashboards/a.yaml).": `<p>see dashboards/a.yaml.</p>`,
		"[x](https://example.org/)":                      `<a href="https://example.org/">x</a>`,
		"| a | b |\n| --- | --- |\n| [c](d.md) | e |":    "<td>c (docs/d.md)</td>\n<td>e</td>",
		"<script>alert(1)</script>":                      `<!-- raw HTML omitted -->`,
		"`{{.Secret}}` & <":                              `<code>{{.Secret}}</code> &amp; &lt;`,
	} {
		h, err := Runbooks("memdump_exporter", markdown)
		if err != nil {
			t.Errorf("%q: %v", markdown, err)
			continue
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/runbooks", nil))
		_, body, _ := strings.Cut(w.Body.String(), "<main")
		if !strings.Contains(body, want) {
			t.Errorf("%q: no %q in %q", markdown, want, body)
		}
	}
}
