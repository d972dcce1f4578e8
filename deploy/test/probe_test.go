package test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/probe"
	probehttp "k8s.io/kubernetes/pkg/probe/http"
	probetcp "k8s.io/kubernetes/pkg/probe/tcp"
)

// TestChart_probes runs the kubelet's own probes, several at once, against the exporter-toolkit's own server with the web
// configuration of each installation: a password, a client certificate or a rate limit must not end a healthy pod.
func TestChart_probes(t *testing.T) {
	for _, c := range charts {
		t.Run(c.release, func(t *testing.T) {
			text, _, err := render(load(t), c.release, c.values, nil)
			must(t, err)
			m := decode(t, text)
			container := m.Deployment.Spec.Template.Spec.Containers[0]
			container.Ports[0].ContainerPort = serveWeb(t, m)
			for range 5 {
				for _, p := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
					if result, output, err := runProbe(p, &container); result != probe.Success || err != nil {
						t.Errorf("probe %+v: %s, %v: %s", p.ProbeHandler, result, err, output)
					}
				}
			}
		})
	}
}

// serveWeb serves 200s on a port of 127.0.0.1, with the web configuration that the chart makes a Secret of.
func serveWeb(t *testing.T, m *manifests) int32 {
	t.Helper()
	file := ""
	if secret, ok := m.Secret[m.Deployment.Name+"-web"]; ok {
		dir := t.TempDir()
		writeCertificate(t, dir)
		file = filepath.Join(dir, "web-config.yml")
		text := strings.ReplaceAll(secret.StringData["web-config.yml"], "/etc/memdump_exporter/tls", dir)
		must(t, os.WriteFile(file, []byte(text), 0o600))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := &http.Server{
		Handler:  http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	ended := make(chan error, 1)
	go func() {
		ended <- web.Serve(l, server, &web.FlagConfig{WebConfigFile: &file}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	}()
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the server: %v", err)
		}
	})
	return int32(l.Addr().(*net.TCPAddr).Port)
}

// writeCertificate writes the files of a Secret of type kubernetes.io/tls.
func writeCertificate(t *testing.T, dir string) {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	server.Close()
	key, err := x509.MarshalPKCS8PrivateKey(server.TLS.Certificates[0].PrivateKey)
	must(t, err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for name, text := range map[string][]byte{
		"tls.crt": certificate, "ca.crt": certificate, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
}

func runProbe(p *corev1.Probe, container *corev1.Container) (probe.Result, string, error) {
	const timeout = 10 * time.Second
	if p.TCPSocket != nil {
		return probetcp.New().Probe("127.0.0.1", int(container.Ports[0].ContainerPort), timeout)
	}
	request, err := probehttp.NewRequestForHTTPGetAction(p.HTTPGet, container, "127.0.0.1", "probe")
	if err != nil {
		return probe.Unknown, "", err
	}
	return probehttp.New(false).Probe(request, timeout)
}
