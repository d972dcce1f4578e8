//go:build kubernetes

package test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery"
	_ "github.com/prometheus/prometheus/discovery/kubernetes" // the configuration names it
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/scrape"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

const restricted = `{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {pod-security.kubernetes.io/enforce: restricted}}}`

// TestKubernetes checks that a real API server accepts the manifests, and that the real operator writes a scrape
// configuration from them that finds the exporter's pod and no other.
func TestKubernetes(t *testing.T) {
	c := startControlPlane(t)
	c.startOperator(t)
	for _, namespace := range []string{"kustomized", "monitoring", "released"} {
		c.must(t, fmt.Sprintf(restricted, namespace), "kubectl", "apply", "-f", "-")
	}

	// The chart "password" names this Secret.
	c.must(t, "", "kubectl", "--namespace=monitoring", "create", "secret", "generic", "s", "--from-literal=u=u", "--from-literal=p=p")

	c.must(t, "", "kubectl", "apply", "--server-side", "--namespace=kustomized", "-k", "../kubernetes")
	for _, chart := range charts {
		text, _, err := render(load(t), chart.release, chart.values, operatorKinds)
		must(t, err)
		c.must(t, text, "kubectl", "apply", "--server-side", "-f", "-")
	}
	c.refuses(t)
	c.release(t)
	pods := 0
	for _, namespace := range []string{"kustomized", "monitoring", "released"} {
		pods += c.admit(t, namespace)
	}
	if pods != len(charts)+2 {
		t.Errorf("%d pods", pods)
	}
	t.Logf("%d pods admitted to namespaces that enforce the restricted standard", pods)

	c.targets(t, c.prometheusConfig(t))
}

// refuses checks that the API server rejects what is wrong: what it accepts is right.
func (c *controlPlane) refuses(t *testing.T) {
	t.Helper()
	monitor := strings.Replace(read(t, "../kubernetes/servicemonitor.yaml"), "interval", "intervall", 1)
	_, err := c.run(monitor, "kubectl", "apply", "--server-side", "--namespace=kustomized", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "field not declared in schema") {
		t.Errorf("a misspelt field: %v", err)
	}
	pod := `{apiVersion: v1, kind: Pod, metadata: {name: root},
		spec: {serviceAccountName: memdump-exporter, containers: [{name: c, image: i}]}}`
	_, err = c.run(pod, "kubectl", "create", "--namespace=kustomized", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), "violates PodSecurity") {
		t.Errorf("a pod that may do more than ours: %v", err)
	}
}

// release installs, upgrades and rolls back by helm itself.
func (c *controlPlane) release(t *testing.T) {
	t.Helper()
	db := func() string {
		return c.must(t, "", "kubectl", "--namespace=released", "get", "deployment/memdump", `-o=jsonpath={..env[?(@.name=="INFLUX_DB")].value}`)
	}
	notes := c.must(t, "", "helm", "install", "memdump", chartFolder, "--namespace=released", "--set=influx.token=first")
	c.must(t, "", "helm", "upgrade", "memdump", chartFolder, "--namespace=released", "--reuse-values", "--set=influx.db=other")
	upgraded := db()
	c.must(t, "", "helm", "rollback", "memdump", "1", "--namespace=released")
	if back := db(); upgraded != "other" || back != "vmstats" || !strings.Contains(notes, "deployment/memdump") {
		t.Errorf("database %q after the upgrade, %q after the rollback, and the notes:\n%s", upgraded, back, notes)
	}
	got := c.must(t, "", "kubectl", "--namespace=released", "get", "servicemonitors,prometheusrules", "-o=name")
	if strings.Count(got, "/memdump\n") != 2 {
		t.Errorf("helm made %s of the operator's kinds", got)
	}
}

// admit makes a pod from the template of each Deployment, as its controller would, and gives it an address.
func (c *controlPlane) admit(t *testing.T, namespace string) int {
	t.Helper()
	var deployments appsv1.DeploymentList
	must(t, json.Unmarshal([]byte(c.must(t, "", "kubectl", "--namespace="+namespace, "get", "deployments", "-o=json")), &deployments))
	for i, deployment := range deployments.Items {
		pod := corev1.Pod{ObjectMeta: deployment.Spec.Template.ObjectMeta, Spec: deployment.Spec.Template.Spec}
		pod.APIVersion, pod.Kind, pod.Name = "v1", "Pod", deployment.Name
		text, err := json.Marshal(pod)
		must(t, err)
		c.must(t, string(text), "kubectl", "create", "--namespace="+namespace, "-f", "-")
		c.must(t, "", "kubectl", "patch", "pod", pod.Name, "--namespace="+namespace, "--subresource=status", "--type=merge",
			fmt.Sprintf(`--patch={"status": {"phase": "Running", "podIP": "192.0.2.%d", "podIPs": [{"ip": "192.0.2.%d"}]}}`, i+1, i+1))
	}
	return len(deployments.Items)
}

// prometheusConfig lets the operator reconcile a Prometheus that selects everything, and returns the configuration that
// the Prometheus would run with, after promtool has checked it and its rules.
func (c *controlPlane) prometheusConfig(t *testing.T) *config.Config {
	t.Helper()
	version, err := exec.Command("promtool", "--version").CombinedOutput()
	if err != nil {
		t.Fatalf("promtool, which checks the configuration: %v", err)
	}
	c.must(t, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: prometheus}
---
apiVersion: monitoring.coreos.com/v1
kind: Prometheus
metadata: {name: all, namespace: prometheus}
spec:
  version: v%s
  apiserverConfig: {host: %s}
  serviceMonitorSelector: {}
  serviceMonitorNamespaceSelector: {}
  podMonitorSelector: {}
  podMonitorNamespaceSelector: {}
  ruleSelector: {}
  ruleNamespaceSelector: {}
`, regexp.MustCompile(`\d+\.\d+\.\d+`).Find(version), c.url), "kubectl", "apply", "-f", "-")

	// Of each namespace one, and the PodMonitor.
	jobs := []string{
		"serviceMonitor/kustomized/memdump-exporter/0", "serviceMonitor/monitoring/memdump/0", "serviceMonitor/released/memdump/0",
		"podMonitor/monitoring/memdump-exporter-pods/0",
	}
	var text string
	until(t, "the operator's configuration", func() string {
		var secret corev1.Secret
		out, err := c.run("", "kubectl", "--namespace=prometheus", "get", "secret", "prometheus-all", "-o=json")
		if err != nil {
			return err.Error()
		}
		must(t, json.Unmarshal([]byte(out), &secret))
		zipped, err := gzip.NewReader(strings.NewReader(string(secret.Data["prometheus.yaml.gz"])))
		if err != nil {
			return err.Error()
		}
		plain, err := io.ReadAll(zipped)
		if text = string(plain); err != nil {
			return err.Error()
		}
		for _, job := range jobs {
			if !strings.Contains(text, "job_name: "+job+"\n") {
				return "no job " + job + " in:\n" + text
			}
		}
		return ""
	})
	job := regexp.MustCompile(`(?s)- job_name: serviceMonitor/kustomized/.*?\n(- job_name|[a-z])`).FindString(text)
	t.Logf("the scrape job that the operator wrote of deploy/kubernetes:\n%s", job[:strings.LastIndex(job, "\n")])

	var rules corev1.ConfigMapList
	configMaps := c.must(t, "", "kubectl", "--namespace=prometheus", "get", "configmaps", "-l=prometheus-name=all", "-o=json")
	must(t, json.Unmarshal([]byte(configMaps), &rules))
	files := 0
	for _, rules := range rules.Items {
		must(t, os.MkdirAll(filepath.Join(c.dir, "rules", rules.Name), 0o700))
		for name, text := range rules.Data {
			files++
			must(t, os.WriteFile(filepath.Join(c.dir, "rules", rules.Name, name), []byte(text), 0o600))
		}
	}
	if want := len(charts) - 1 + 2; files != want { // one chart has none
		t.Errorf("%d files of rules, want %d", files, want)
	}
	// The reloader beside Prometheus puts the shard's number in.
	text = strings.NewReplacer("/etc/prometheus/rules/", c.dir+"/rules/", "$(SHARD)", "0").Replace(text)
	cfg := c.load(t, text)
	// Debian's promtool is built without the discovery of Kubernetes, which has been read just now.
	text = regexp.MustCompile(`(?m)^  kubernetes_sd_configs:\n(  - .*\n|    .*\n)+`).ReplaceAllString(text, "")
	c.load(t, text)
	out, err := exec.Command("promtool", "check", "config", filepath.Join(c.dir, "prometheus.yaml")).CombinedOutput()
	success := fmt.Sprintf("SUCCESS: %d rules found", strings.Count(read(t, "../../dashboards/alerts.yaml"), "- alert: "))
	if err != nil || strings.Count(string(out), success) != files {
		t.Fatalf("promtool check config: %v\n%s", err, out)
	}
	t.Logf("promtool accepts it and its %d files of rules", files)
	return cfg
}

// load reads the configuration with Prometheus' own code, from a file that remains.
func (c *controlPlane) load(t *testing.T, text string) *config.Config {
	t.Helper()
	file := filepath.Join(c.dir, "prometheus.yaml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	cfg, err := config.LoadFile(file, false, promslog.NewNopLogger())
	must(t, err)
	return cfg
}

// targets discovers and relabels the targets with Prometheus' own code.
func (c *controlPlane) targets(t *testing.T, cfg *config.Config) {
	t.Helper()
	// As the endpoints controller would: ours, one of another Service, and another port of a Service labelled as ours.
	for i, service := range []struct{ name, label, port string }{
		{"memdump-exporter", "memdump-exporter", "http-metrics"},
		{"foreign", "foreign", "http-metrics"},
		{"memdump-exporter-debug", "memdump-exporter", "debug"},
	} {
		pod := "null"
		if i == 0 {
			pod = "{kind: Pod, name: memdump-exporter, namespace: kustomized}"
		}
		c.must(t, fmt.Sprintf(`
{apiVersion: v1, kind: Service, metadata: {name: %[1]s, labels: {app.kubernetes.io/name: %[2]s}},
 spec: {ports: [{name: %[3]s, port: 10147}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: %[1]s, labels: {app.kubernetes.io/name: %[2]s}},
 subsets: [{addresses: [{ip: 192.0.2.%[4]d, targetRef: %[5]s}], ports: [{name: %[3]s, port: 10147}]}]}
`, service.name, service.label, service.port, i+1, pod),
			"kubectl", "apply", "--server-side", "--force-conflicts", "--field-manager=test", "--namespace=kustomized", "-f", "-")
	}

	scrapes, err := cfg.GetScrapeConfigs()
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	registry := prometheus.NewRegistry()
	metrics, err := discovery.CreateAndRegisterSDMetrics(registry)
	must(t, err)
	manager := discovery.NewManager(ctx, promslog.NewNopLogger(), registry, metrics)
	go manager.Run()

	discoveries, byName := map[string]discovery.Configs{}, map[string]*config.ScrapeConfig{}
	for _, job := range scrapes {
		discoveries[job.JobName], byName[job.JobName] = job.ServiceDiscoveryConfigs, job
	}
	must(t, manager.ApplyConfig(discoveries))
	var found map[string][]*targetgroup.Group
	for _, want := range []struct {
		job, labels       string
		discovered        int
		interval, timeout time.Duration
	}{
		{"serviceMonitor/kustomized/memdump-exporter/0",
			`container="memdump-exporter", endpoint="http-metrics", instance="192.0.2.1:10147", job="memdump-exporter", ` +
				`namespace="kustomized", pod="memdump-exporter", service="memdump-exporter"`,
			3, 30 * time.Second, 25 * time.Second},
		{"podMonitor/monitoring/memdump-exporter-pods/0",
			`app_kubernetes_io_instance="pods", container="memdump-exporter", endpoint="http-metrics", instance="192.0.2.?:10147", ` +
				`job="memdump-exporter", namespace="monitoring", pod="memdump-exporter-pods"`,
			len(charts), time.Minute, 50 * time.Second},
	} {
		scrape := byName[want.job]
		interval, timeout := time.Duration(scrape.ScrapeInterval), time.Duration(scrape.ScrapeTimeout)
		if interval != want.interval || timeout != want.timeout || scrape.MetricsPath != "/metrics" || scrape.HonorLabels {
			t.Errorf("%s: every %v, for %v, %s, honor_labels %v", want.job, interval, timeout, scrape.MetricsPath, scrape.HonorLabels)
		}
		var kept []string
		discovered := 0
		until(t, "discovery for "+want.job, func() string {
			select {
			case found = <-manager.SyncCh():
			case <-time.After(time.Second):
			}
			kept, discovered = relabelled(t, scrape, found[want.job])
			if discovered != want.discovered {
				return fmt.Sprintf("%d targets, want %d: %v", discovered, want.discovered, found[want.job])
			}
			return ""
		})
		pattern := regexp.MustCompile("^{" + strings.ReplaceAll(regexp.QuoteMeta(want.labels), `\?`, `\d+`) + "}$")
		if len(kept) != 1 || !pattern.MatchString(kept[0]) {
			t.Errorf("%s keeps %s, want %s", want.job, kept, want.labels)
		}
		t.Logf("%s: of %d targets that are there it keeps\n%s", want.job, discovered, strings.Join(kept, "\n"))
	}
}

// relabelled returns the labels of the targets that are kept, and how many were discovered.
func relabelled(t *testing.T, cfg *config.ScrapeConfig, groups []*targetgroup.Group) (kept []string, discovered int) {
	t.Helper()
	for _, group := range groups {
		for _, target := range group.Targets {
			discovered++
			all, err := scrape.PopulateLabels(labels.NewBuilder(labels.EmptyLabels()), cfg, target, group.Labels)
			must(t, err)
			if all.IsEmpty() {
				continue
			}
			visible := labels.NewBuilder(all)
			all.Range(func(l labels.Label) {
				if strings.HasPrefix(l.Name, "__") {
					visible.Del(l.Name)
				}
			})
			kept = append(kept, visible.Labels().String())
		}
	}
	slices.Sort(kept)
	return kept, discovered
}
