package test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

const chartFolder = "../helm/memdump-exporter"

var operatorKinds = chartutil.VersionSet{
	"monitoring.coreos.com/v1/PodMonitor", "monitoring.coreos.com/v1/PrometheusRule", "monitoring.coreos.com/v1/ServiceMonitor",
}

func load(t *testing.T) *chart.Chart {
	t.Helper()
	log.SetOutput(io.Discard) // helm logs each symbolic link
	c, err := loader.Load(chartFolder)
	must(t, err)
	return c
}

// render returns the manifests and the notes, for an API server that also serves kinds. The schema checks the values first.
func render(c *chart.Chart, release, values string, kinds chartutil.VersionSet) (text, notes string, err error) {
	return renderIn("monitoring", c, release, values, kinds)
}

func renderIn(namespace string, c *chart.Chart, release, values string, kinds chartutil.VersionSet) (text, notes string, err error) {
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return "", "", err
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.APIVersions = append(slices.Clone(capabilities.APIVersions), kinds...)
	all, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: release, Namespace: namespace}, capabilities)
	if err != nil {
		return "", "", err
	}
	files, err := engine.Render(c, all)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = files[name]
		} else {
			text += "---\n" + files[name] + "\n"
		}
	}
	return text, notes, err
}

const usual = "ConfigMap Deployment NetworkPolicy PrometheusRule Service ServiceAccount ServiceMonitor"
const withSecret = "ConfigMap Deployment NetworkPolicy PrometheusRule Secret Service ServiceAccount ServiceMonitor"

// charts are installations of the chart, for the API server too.
var charts = []struct {
	release, kinds, holds, values string
}{
	{"memdump", usual, "image: \"memdump_exporter:", "{}"},
	{"x", withSecret, "token: \"a \\\"b: c\"\n", "{influx: {url: 'https://influx.example:8086', db: dumps, token: 'a \"b: c'}}"},
	{"prod", usual, "key: api-token\n", "{influx: {existingSecret: influx-reader, existingSecretKey: api-token, token: unused}}"},
	{"a-release-with-a-name-as-long-as-helm-allows-at-most", usual, `image: "registry.example/exporter:v1"`,
		"{image: {repository: registry.example/exporter, tag: v1}}"},
	{"pods", "ConfigMap Deployment NetworkPolicy PodMonitor PrometheusRule Service ServiceAccount", "interval: 1m\n",
		"{serviceMonitor: {enabled: false}, podMonitor: {enabled: true, labels: {release: prom}, interval: 1m, scrapeTimeout: 50s}}"},
	{"bare", "Deployment Service ServiceAccount", "",
		"{serviceMonitor: {enabled: false}, prometheusRule: {enabled: false}, dashboard: {enabled: false}, networkPolicy: {enabled: false}}"},
	{"selected", usual, "release: prom\n", `
serviceMonitor: {labels: {release: prom}, endpoint: {metricRelabelings: [{action: labeldrop, regex: branch}]}}
prometheusRule: {labels: {release: prom}}`},
	{"tls", withSecret, "scheme: HTTPS\n", `
web:
  tlsSecret: memdump-tls
  config: {tls_server_config: {cert_file: /etc/memdump_exporter/tls/tls.crt, key_file: /etc/memdump_exporter/tls/tls.key}}
serviceMonitor: {endpoint: {tlsConfig: {insecureSkipVerify: true}}}`},
	{"password", withSecret, "tcpSocket:\n", `
web: {config: {basic_auth_users: {prometheus: $2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi}}}
serviceMonitor: {endpoint: {basicAuth: {username: {name: s, key: u}, password: {name: s, key: p}}}}`},
	{"client-certificate", withSecret, "scheme: https\n", `
web:
  tlsSecret: memdump-tls
  config:
    tls_server_config:
      cert_file: /etc/memdump_exporter/tls/tls.crt
      key_file: /etc/memdump_exporter/tls/tls.key
      client_auth_type: RequireAndVerifyClientCert
      client_ca_file: /etc/memdump_exporter/tls/ca.crt`},
	{"rate-limit", withSecret, "tcpSocket:\n", "{web: {config: {rate_limit: {interval: 1h, burst: 3}}}}"},
	{"no-limits", usual, "", "{resources: {limits: null}, networkPolicy: {influxPorts: []}}"},
	{"extras", usual, "- port: 443\n", `
imagePullSecrets: [{name: registry}]
extraArgs: [--log.level=debug, --telemetry.measurement=vm_metrics]
extraEnv: [{name: INFLUX_TLS_CA_FILE, value: /etc/ca/ca.crt}, {name: INFLUX_PASSWORD, valueFrom: {secretKeyRef: {name: s, key: password}}}]
extraVolumes: [{name: ca, secret: {secretName: influx-ca, defaultMode: 0440}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca}]
service: {port: 80}
networkPolicy: {from: [{namespaceSelector: {matchLabels: {name: monitoring}}}], influxPorts: [443]}
resources: {limits: {cpu: 100m}}
podLabels: {team: dumps}
podAnnotations: {note: "1"}
nodeSelector: {kubernetes.io/os: linux}
affinity:
  nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}
tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]`},
}

func TestChart(t *testing.T) {
	for _, c := range charts {
		t.Run(c.release, func(t *testing.T) {
			text, notes, err := render(load(t), c.release, c.values, operatorKinds)
			must(t, err)
			m := decode(t, text)
			if m.kinds != c.kinds || !strings.Contains(text, c.holds) {
				t.Errorf("got %s, want %s, with %s in:\n%s", m.kinds, c.kinds, c.holds, text)
			}
			m.check(t)
			if !strings.HasPrefix(m.Service.Name, "memdump") || len(m.Service.Name) > 63 {
				t.Errorf("the Service's name is %s", m.Service.Name)
			}
			for _, name := range []string{
				" deployment/" + m.Deployment.Name + "\n", fmt.Sprintf(" service/%s %d\n", m.Service.Name, m.Service.Spec.Ports[0].Port),
			} {
				if !strings.Contains(notes, name) {
					t.Errorf("no%s in the notes:\n%s", name, notes)
				}
			}
		})
	}
}

// TestChart_without_the_operator checks that the chart omits the kinds that the API server does not serve.
func TestChart_without_the_operator(t *testing.T) {
	for _, values := range []string{"{}", "{serviceMonitor: {enabled: false}, podMonitor: {enabled: true}}"} {
		text, notes, err := render(load(t), "memdump", values, nil)
		must(t, err)
		if got := decode(t, text).kinds; got != "ConfigMap Deployment NetworkPolicy Service ServiceAccount" {
			t.Errorf("%s: got %s", values, got)
		}
		if !strings.Contains(notes, "memdump.monitoring.svc:10147") {
			t.Errorf("%s: the notes do not name the Service:\n%s", values, notes)
		}
	}
}

// TestChart_influxPorts checks that the pod may connect to InfluxDB where influx.url has it, as the exporter reads that URL.
func TestChart_influxPorts(t *testing.T) {
	const dns = "UDP 53 TCP 53 UDP 5353 TCP 5353 "
	for values, want := range map[string]string{
		"{}": "TCP 8181 TCP 8086",
		"{influx: {url: 'https://influx.example'}}":                                               "TCP 443 TCP 8086 TCP 8181",
		"{influx: {url: 'http://influx.example/prefix:9999/'}}":                                   "TCP 80 TCP 8086 TCP 8181",
		"{influx: {url: 'https://influx.example:9443/prefix'}, networkPolicy: {influxPorts: []}}": "TCP 9443",
		"{influx: {url: 'http://influx.example:'}, networkPolicy: {influxPorts: [80]}}":           "TCP 80",
		"{influx: {url: 'http://[fd00::8086]'}, networkPolicy: {influxPorts: []}}":                "TCP 80",
		"{influx: {url: 'https://[fd00::1]:8087'}, networkPolicy: {influxPorts: [443]}}":          "TCP 8087 TCP 443",
		"{influx: {url: 'http://reader:443@influx.example'}, networkPolicy: {influxPorts: [80]}}": "TCP 80",
	} {
		text, _, err := render(load(t), "memdump", values, nil)
		must(t, err)
		if got := strings.Join(allowed(decode(t, text).NetworkPolicy), " "); got != dns+want {
			t.Errorf("%s: the pod may connect to %s, want %s", values, got, dns+want)
		}
	}
}

// TestChart_restarts checks which values make a new pod: those that the exporter reads only when it starts, among them the
// web configuration, whose rate limit and whose TLS it does not read again.
func TestChart_restarts(t *testing.T) {
	template := func(values string) string {
		text, _, err := render(load(t), "memdump", values, nil)
		must(t, err)
		template, err := json.Marshal(decode(t, text).Deployment.Spec.Template)
		must(t, err)
		return string(template)
	}
	for _, c := range []struct {
		before, after string
		restarts      bool
	}{
		{"{web: {config: {rate_limit: {interval: 1s, burst: 5}}}}", "{web: {config: {rate_limit: {interval: 1s, burst: 9}}}}", true},
		{"{web: {config: {basic_auth_users: {a: p}}}}", "{web: {config: {basic_auth_users: {a: q}}}}", true},
		{"{web: {config: {basic_auth_users: {a: p, b: q}}}}", "{web: {config: {basic_auth_users: {b: q, a: p}}}}", false},
		{"{web: {config: {http_server_config: {http2: true}}}}", "{web: {config: {http_server_config: {http2: false}}}}", true},
		{"{influx: {token: a}}", "{influx: {token: b}}", false}, // read again for each request
		{"{influx: {db: a}}", "{influx: {db: b}}", true},
		{"{serviceMonitor: {interval: 30s}}", "{serviceMonitor: {interval: 60s}}", false},
	} {
		if got := template(c.before) != template(c.after); got != c.restarts {
			t.Errorf("from %s to %s: a new pod %v, want %v", c.before, c.after, got, c.restarts)
		}
	}
}

// TestChart_runbooks checks that each alert links to its heading of docs/runbooks.md, under the URL that is set.
func TestChart_runbooks(t *testing.T) {
	for _, url := range []string{
		"https://wiki.example/memdump/docs/runbooks.md", "http://{{$labels.instance}}/runbooks", "https://x.example/$1:a?b=${c}",
	} {
		text, _, err := render(load(t), "memdump", fmt.Sprintf("{prometheusRule: {runbookURL: '%s'}}", url), operatorKinds)
		must(t, err)
		checkRunbooks(t, decode(t, text), url)
	}
}

// TestChart_twice checks that two releases do not write one file of Grafana's folder in turns.
func TestChart_twice(t *testing.T) {
	files := map[string]string{}
	for _, release := range []string{"prod/memdump", "prod/second", "test/memdump"} {
		namespace, name, _ := strings.Cut(release, "/")
		text, notes, err := renderIn(namespace, load(t), name, "{}", nil)
		must(t, err)
		for _, config := range decode(t, text).ConfigMap {
			for file := range config.Data {
				if other, taken := files[file]; taken {
					t.Errorf("%s and %s both write %s", other, release, file)
				}
				files[file] = release
			}
		}
		if !strings.Contains(notes, "dashboard.enabled=false") {
			t.Errorf("%s: the notes do not name dashboard.enabled=false:\n%s", release, notes)
		}
	}
	if len(files) != 3 {
		t.Errorf("the files are %v", files)
	}
}

// each calls do with each value and the table that it stands in, two levels deep.
func each(c *chart.Chart, do func(path string, within map[string]any, key string)) {
	for key, value := range maps.Clone(c.Values) {
		do(key, c.Values, key)
		inner, _ := value.(map[string]any)
		for k := range maps.Clone(inner) {
			do(key+"."+k, inner, k)
		}
	}
}

func TestChart_refuses(t *testing.T) {
	refused := []string{
		"service.port: http", "serviceMonitor.interval: 30", "serviceMonitor.interval: 30s1m", "podMonitor.scrapeTimeout: ''",
		"influx.url: influxdb:8181", "extraArgs: [log.level=debug]",
		"image.pullPolicy: Sometimes", "web.config: {tls_config: {}}", "podMonitor.enabled: true",
		"prometheusRule.runbookURL: docs/runbooks.md", "prometheusRule.runbookURL: 'https://a.example/runbooks#b'",
		"prometheusRule.runbookURL: 'https://a.example/a b'",
		"global.compatibility: {openshift: {adaptSecurityContext: yes}}",
	}
	each(load(t), func(path string, _ map[string]any, _ string) {
		if !strings.HasPrefix(path, "global.") { // where other charts have their values too
			refused = append(refused, path+"x: misspelt")
		}
	})
	for _, value := range refused {
		if outer, inner, nested := strings.Cut(value, "."); nested && !strings.Contains(outer, ":") {
			value = outer + ": {" + inner + "}"
		}
		if text, _, err := render(load(t), "memdump", value, operatorKinds); err == nil {
			t.Errorf("%s is accepted:\n%s", value, text)
		}
	}
}

// removable are the tables whose values a user may remove.
var removable = []string{"resources", "podSecurityContext", "securityContext"}

// TestChart_reuse_values: helm upgrade --reuse-values puts the values of the chart that was installed in the place of
// the new one's, which may have more.
func TestChart_reuse_values(t *testing.T) {
	want, _, err := render(load(t), "memdump", "{}", operatorKinds)
	must(t, err)
	each(load(t), func(path string, _ map[string]any, _ string) {
		old := load(t)
		each(old, func(p string, within map[string]any, key string) {
			table, _, _ := strings.Cut(p, ".")
			if p == path && (table == p || !slices.Contains(removable, table)) {
				delete(within, key)
			}
		})
		if got, _, err := render(old, "memdump", "{}", operatorKinds); err != nil || got != want {
			t.Errorf("without %s: %v\n%s", path, err, got)
		}
	})
}

// TestChart_README: the table has each value with its default.
func TestChart_README(t *testing.T) {
	var want []string
	each(load(t), func(path string, within map[string]any, key string) {
		outer, _, nested := strings.Cut(path, ".")
		whole := slices.Contains(removable, outer)
		if inner, _ := within[key].(map[string]any); len(inner) > 0 && !nested && !whole || nested && whole {
			return // a table whose own values are listed, or the value of one that is not
		}
		text, err := json.Marshal(within[key])
		must(t, err)
		want = append(want, fmt.Sprintf("| `%s` | `%s` |", path, text))
	})
	got := regexp.MustCompile("(?m)^\\| `[^|]*` \\| `[^|]*` \\|").FindAllString(read(t, chartFolder+"/README.md"), -1)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("README.md has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
