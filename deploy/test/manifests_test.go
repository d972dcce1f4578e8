// Package test compares the files of deploy/ with the real types of Kubernetes and of the prometheus-operator, and
// with the exporter's README, which the exporter's own tests compare with the exporter. It is a module of its own,
// so that the exporter does not depend on Kubernetes. make test-kubernetes applies the files to a real API server too.
package test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus-operator/prometheus-operator/pkg/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/json"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write ../kubernetes/prometheusrule.yaml from ../../dashboards/alerts.yaml")

// manifests are the objects of one installation.
type manifests struct {
	Deployment     appsv1.Deployment
	Service        corev1.Service
	ServiceAccount corev1.ServiceAccount
	NetworkPolicy  networkingv1.NetworkPolicy
	ServiceMonitor monitoringv1.ServiceMonitor
	PodMonitor     monitoringv1.PodMonitor
	PrometheusRule monitoringv1.PrometheusRule
	ConfigMap      map[string]corev1.ConfigMap
	Secret         map[string]corev1.Secret

	kinds string // in order, joined by blanks
}

// must ends the test where there is an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}

// strictly decodes text, and rejects fields that the type does not have, also in another case, and duplicates.
func strictly[T any](t *testing.T, text string, into *T) T {
	t.Helper()
	plain, err := yaml.YAMLToJSONStrict([]byte(text))
	strict, err2 := json.UnmarshalStrict(plain, into)
	if err := errors.Join(append(strict, err, err2)...); err != nil {
		t.Errorf("%v in:\n%s", err, text)
	}
	return *into
}

func decode(t *testing.T, text string) *manifests {
	t.Helper()
	m := &manifests{ConfigMap: map[string]corev1.ConfigMap{}, Secret: map[string]corev1.Secret{}}
	var kinds []string
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			slices.Sort(kinds)
			m.kinds = strings.Join(kinds, " ")
			return m
		}
		var meta metav1.PartialObjectMetadata
		if err := yaml.Unmarshal(document, &meta); err != nil {
			t.Fatalf("%v in:\n%s", err, document)
		}
		switch text := string(document); meta.APIVersion + "/" + meta.Kind {
		case "/": // nothing but comments
			continue
		case "apps/v1/Deployment":
			strictly(t, text, &m.Deployment)
		case "v1/Service":
			strictly(t, text, &m.Service)
		case "v1/ServiceAccount":
			strictly(t, text, &m.ServiceAccount)
		case "networking.k8s.io/v1/NetworkPolicy":
			strictly(t, text, &m.NetworkPolicy)
		case "monitoring.coreos.com/v1/ServiceMonitor":
			strictly(t, text, &m.ServiceMonitor)
		case "monitoring.coreos.com/v1/PodMonitor":
			strictly(t, text, &m.PodMonitor)
		case "monitoring.coreos.com/v1/PrometheusRule":
			strictly(t, text, &m.PrometheusRule)
		case "v1/ConfigMap":
			m.ConfigMap[meta.Name] = strictly(t, text, new(corev1.ConfigMap))
		case "v1/Secret":
			m.Secret[meta.Name] = strictly(t, text, new(corev1.Secret))
		default:
			t.Errorf("an object of an unexpected kind:\n%s", text)
		}
		kinds = append(kinds, meta.Kind)
	}
}

// check checks that the labels, ports and names by which the objects refer to each other match.
func (m *manifests) check(t *testing.T) {
	t.Helper()
	readme := read(t, "../../README.md")
	pod := m.Deployment.Spec.Template
	container, services, present := pod.Spec.Containers[0], m.Service.Spec.Ports, strings.Fields(m.kinds)
	if len(pod.Spec.Containers) != 1 || len(container.Ports) != 1 || len(services) != 1 {
		t.Fatalf("more than one container or port: %v, %v", pod.Spec.Containers, services)
	}
	selects := func(who string, selector metav1.LabelSelector, whose map[string]string) {
		t.Helper()
		if s, err := metav1.LabelSelectorAsSelector(&selector); err != nil || s.Empty() || !s.Matches(labels.Set(whose)) {
			t.Errorf("%s selects %s, not %v (%v)", who, s, whose, err)
		}
	}
	port := func(who, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: port %q, want %q", who, got, want)
		}
	}
	scraped := func(who, job string, labels map[string]string, path string, honorLabels bool) {
		t.Helper()
		if !strings.HasPrefix(labels[job], "memdump") {
			t.Errorf("%s: the job is named by the label %q of %v, and the alerts select memdump.* only", who, job, labels)
		}
		if !strings.Contains(readme, "| `"+path+"` |") || honorLabels {
			t.Errorf("%s scrapes %q, honorLabels %v", who, path, honorLabels)
		}
	}

	selects("Deployment", *m.Deployment.Spec.Selector, pod.Labels)
	selects("Service", metav1.LabelSelector{MatchLabels: m.Service.Spec.Selector}, pod.Labels)
	port("Service", services[0].TargetPort.String(), container.Ports[0].Name)
	if listens := fmt.Sprintf("| `--web.listen-address` |  | `:%d` |", container.Ports[0].ContainerPort); !strings.Contains(readme, listens) {
		t.Errorf("the README has no %s", listens)
	}
	if slices.Contains(present, "ServiceMonitor") {
		endpoint := m.ServiceMonitor.Spec.Endpoints[0]
		selects("ServiceMonitor", m.ServiceMonitor.Spec.Selector, m.Service.Labels)
		port("ServiceMonitor", endpoint.Port, services[0].Name)
		scraped("ServiceMonitor", m.ServiceMonitor.Spec.JobLabel, m.Service.Labels, endpoint.Path, endpoint.HonorLabels)
	}
	if slices.Contains(present, "PodMonitor") {
		endpoint := m.PodMonitor.Spec.PodMetricsEndpoints[0]
		selects("PodMonitor", m.PodMonitor.Spec.Selector, pod.Labels)
		if got := m.PodMonitor.Spec.PodTargetLabels; len(got) != 1 || pod.Labels[got[0]] == "" {
			t.Errorf("the PodMonitor copies the labels %q: want a label of the pod that distinguishes releases", got)
		}
		port("PodMonitor", *endpoint.Port, container.Ports[0].Name)
		scraped("PodMonitor", m.PodMonitor.Spec.JobLabel, pod.Labels, endpoint.Path, endpoint.HonorLabels)
	}
	if interval, timeout := scrapeTimes(m); interval != "" {
		if err := prometheus.CompareScrapeTimeoutToScrapeInterval(timeout, interval); err != nil {
			t.Errorf("the operator drops the monitor: %v", err)
		}
	}
	if slices.Contains(present, "NetworkPolicy") {
		selects("NetworkPolicy", m.NetworkPolicy.Spec.PodSelector, pod.Labels)
		port("NetworkPolicy", m.NetworkPolicy.Spec.Ingress[0].Ports[0].Port.String(), container.Ports[0].Name)
		for _, want := range []string{"UDP 53", "TCP 53", "UDP 5353", "TCP 5353"} { // 5353 is OpenShift's
			if allowed := allowed(m.NetworkPolicy); !slices.Contains(allowed, want) {
				t.Errorf("DNS needs %s, and the pod may only send to %v", want, allowed)
			}
		}
	}
	for path, probe := range map[string]*corev1.Probe{"/-/healthy": container.LivenessProbe, "/-/ready": container.ReadinessProbe} {
		if probe.TCPSocket != nil {
			port(path, probe.TCPSocket.Port.String(), container.Ports[0].Name)
			continue
		}
		port(path, probe.HTTPGet.Port.String(), container.Ports[0].Name)
		if probe.HTTPGet.Path != path || !strings.Contains(readme, "`"+path+"`") {
			t.Errorf("probe of %s, want %s", probe.HTTPGet.Path, path)
		}
	}

	evaluator, err := policy.NewEvaluator(policy.DefaultChecks())
	must(t, err)
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	if result := policy.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec)); !result.Allowed {
		t.Errorf("not a restricted pod: %s", result.ForbiddenDetail())
	}
	if !*container.SecurityContext.ReadOnlyRootFilesystem || pod.Spec.ServiceAccountName != m.ServiceAccount.Name ||
		*pod.Spec.AutomountServiceAccountToken || *m.ServiceAccount.AutomountServiceAccountToken {
		t.Error("the root file system can be written, or the pod has another service account or a token of it")
	}
	m.checkSettings(t, readme, container)

	rules := strictly(t, read(t, "../../dashboards/alerts.yaml"), new(monitoringv1.PrometheusRuleSpec))
	if slices.Contains(present, "PrometheusRule") && !reflect.DeepEqual(m.PrometheusRule.Spec, rules) {
		t.Errorf("the PrometheusRule does not hold dashboards/alerts.yaml, but %+v", m.PrometheusRule.Spec)
	}
	for name, config := range m.ConfigMap {
		if !strings.HasSuffix(name, "-dashboard") {
			continue
		}
		if config.Labels["grafana_dashboard"] != "1" || len(config.Data) != 1 {
			t.Errorf("not one dashboard for the side-car: labels %v, %d files", config.Labels, len(config.Data))
		}
		for file, text := range config.Data {
			if path.Ext(file) != ".json" || text != read(t, "../../dashboards/memdump.json") {
				t.Errorf("%s is not dashboards/memdump.json, but %.200s", file, text)
			}
		}
	}
}

// checkRunbooks checks that each alert links to a heading under url, of those that docs/runbooks.md has.
func checkRunbooks(t *testing.T, m *manifests, url string) {
	t.Helper()
	runbooks := strings.ToLower(read(t, "../../docs/runbooks.md"))
	alerts := 0
	for _, group := range m.PrometheusRule.Spec.Groups {
		for _, rule := range group.Rules {
			alerts++
			anchor, found := strings.CutPrefix(rule.Annotations["runbook_url"], url+"#")
			if !found || anchor != strings.ToLower(rule.Alert) {
				t.Errorf("%s links to %s", rule.Alert, rule.Annotations["runbook_url"])
			}
			if !strings.Contains(runbooks, "\n## "+anchor+"\n") {
				t.Errorf("docs/runbooks.md has no heading %s", anchor)
			}
		}
	}
	if alerts == 0 {
		t.Error("no alerts")
	}
}

// allowed returns the ports to which the policy lets the pod connect, at any address.
func allowed(policy networkingv1.NetworkPolicy) (ports []string) {
	for _, rule := range policy.Spec.Egress {
		for _, port := range rule.Ports {
			protocol := corev1.ProtocolTCP
			if port.Protocol != nil {
				protocol = *port.Protocol
			}
			ports = append(ports, fmt.Sprintf("%s %s", protocol, port.Port))
		}
	}
	return ports
}

// checkSettings checks that the exporter has these flags and variables, and that the files that they name are mounted.
func (m *manifests) checkSettings(t *testing.T, readme string, container corev1.Container) {
	t.Helper()
	given := map[string]string{}
	for _, arg := range container.Args {
		name, value, _ := strings.Cut(arg, "=")
		given[name] = value
	}
	for _, env := range container.Env {
		given[env.Name] = env.Value
	}
	for _, from := range container.EnvFrom {
		for name, value := range m.ConfigMap[from.ConfigMapRef.Name].Data {
			given[name] = value
		}
	}
	if given["INFLUX_URL"] == "" || given["INFLUX_DB"] == "" {
		t.Errorf("INFLUX_URL or INFLUX_DB is not set: %v", given)
	}
	for name, value := range given {
		if name != "GOMEMLIMIT" && !regexp.MustCompile("(?m)^\\| .*`"+regexp.QuoteMeta(name)+"` \\| ").MatchString(readme) {
			t.Errorf("the exporter has no flag or variable %s", name)
		}
		mounted := func(mount corev1.VolumeMount) bool { return mount.MountPath == path.Dir(value) && mount.SubPath == "" }
		if strings.HasPrefix(value, "/") && !slices.ContainsFunc(container.VolumeMounts, mounted) {
			t.Errorf("%s=%s is in no mounted folder of %+v", name, value, container.VolumeMounts)
		}
	}
	for _, volume := range m.Deployment.Spec.Template.Spec.Volumes {
		if secret, ours := m.Secret[volume.Secret.SecretName]; ours && len(secret.StringData) != 1 || *volume.Secret.DefaultMode != 0o440 {
			t.Errorf("volume %s: %d files, mode %#o", volume.Name, len(secret.StringData), *volume.Secret.DefaultMode)
		}
	}
}

func TestKustomization(t *testing.T) {
	// kustomize cannot include one file in another, so there is a copy.
	rule := "# From dashboards/alerts.yaml: cd deploy/test && go test . -update\n" +
		"apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: memdump-exporter\nspec:\n" +
		regexp.MustCompile("(?m)^.").ReplaceAllString(read(t, "../../dashboards/alerts.yaml"), "  $0")
	if *update {
		must(t, os.WriteFile("../kubernetes/prometheusrule.yaml", []byte(rule), 0o644))
	}
	if read(t, "../kubernetes/prometheusrule.yaml") != rule {
		t.Error("prometheusrule.yaml is not dashboards/alerts.yaml; go test . -update writes it")
	}
	m := kustomize(t, "../kubernetes")
	if want := "ConfigMap ConfigMap Deployment NetworkPolicy PrometheusRule Service ServiceAccount ServiceMonitor"; m.kinds != want {
		t.Errorf("got %s, want %s", m.kinds, want)
	}
	m.check(t)
}

// kustomize returns what kubectl apply -k applies.
func kustomize(t *testing.T, folder string) *manifests {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	must(t, err)
	text, err := built.AsYaml()
	must(t, err)
	return decode(t, string(text))
}

// TestKustomization_examples builds the kustomization of docs/kubernetes.md, and with each of its additions.
func TestKustomization_examples(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, "../../docs/kubernetes.md"), -1)
	example := func(t *testing.T, addition string) *manifests {
		t.Helper()
		text := blocks[0][1]
		if addition != "" {
			text += only(t, blocks[1:], addition)
		}
		folder := t.TempDir()
		base, err := filepath.Abs("../kubernetes")
		must(t, err)
		base, err = filepath.Rel(folder, base)
		must(t, err)
		text = strings.Replace(text, "../memdump_exporter/deploy/kubernetes", base, 1)
		must(t, os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o600))
		m := kustomize(t, folder)
		image := m.Deployment.Spec.Template.Spec.Containers[0].Image
		if m.Deployment.Namespace != "memdump" || image != "YOUR-REGISTRY/memdump_exporter:TAG" {
			t.Errorf("namespace %s, image %s", m.Deployment.Namespace, image)
		}
		return m
	}
	t.Run("none", func(t *testing.T) {
		m := example(t, "")
		m.check(t)
		checkRunbooks(t, m, "docs/runbooks.md")
	})
	t.Run("port", func(t *testing.T) {
		m := example(t, "NetworkPolicy")
		m.check(t)
		if ports := allowed(m.NetworkPolicy); !slices.Contains(ports, "TCP 443") {
			t.Errorf("the pod may connect to %v", ports)
		}
	})
	t.Run("no authentication", func(t *testing.T) {
		m := example(t, "INFLUX_TOKEN_FILE")
		m.check(t)
		pod := m.Deployment.Spec.Template.Spec
		tokenFile := func(e corev1.EnvVar) bool { return e.Name == "INFLUX_TOKEN_FILE" }
		if len(pod.Volumes) > 0 || slices.ContainsFunc(pod.Containers[0].Env, tokenFile) {
			t.Errorf("a token's volume or variable is left: %v, %v", pod.Volumes, pod.Containers[0].Env)
		}
	})
	t.Run("OpenShift", func(t *testing.T) {
		if restrictedV2(example(t, "").Deployment.Spec.Template.Spec) == nil {
			t.Error("without the addition, OpenShift would accept the pod")
		}
		m := example(t, "runAsUser")
		m.check(t)
		if reasons := restrictedV2(m.Deployment.Spec.Template.Spec); reasons != nil {
			t.Errorf("OpenShift rejects the pod: %q", reasons)
		}
	})
	t.Run("runbooks", func(t *testing.T) {
		checkRunbooks(t, example(t, "runbook_url"), "https://memdump.example/runbooks")
	})
	t.Run("no operator", func(t *testing.T) {
		if m := example(t, "ServiceMonitor|PrometheusRule"); m.kinds != "ConfigMap ConfigMap Deployment NetworkPolicy Service ServiceAccount" {
			t.Errorf("left is %s", m.kinds)
		}
	})
}

// only returns the one block that has the text.
func only(t *testing.T, blocks [][]string, text string) string {
	t.Helper()
	var found []string
	for _, block := range blocks {
		if strings.Contains(block[1], text) {
			found = append(found, block[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d examples have %s", len(found), text)
	}
	return found[0]
}
