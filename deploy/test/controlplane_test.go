//go:build kubernetes

package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// controlPlane is etcd, the API server and the prometheus-operator, built from go.mod, on 127.0.0.1 alone. There is
// no kubelet and no controller: nothing runs, and who needs a Pod or an Endpoints makes it.
type controlPlane struct {
	bin, dir string
	url      string // of the API server, as an administrator without TLS
}

// build takes minutes the first time. Go's build cache makes the next ones short.
func build(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	bin := filepath.Join(cache, "memdump_exporter", "kubernetes")
	began := time.Now()
	// The folder's / at the end makes go build put each tool of go.mod there.
	if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", bin+"/", "tool").CombinedOutput(); err != nil {
		t.Fatalf("build the control plane: %v\n%s", err, out)
	}
	t.Logf("control plane built in %v", time.Since(began).Round(time.Second))
	return bin
}

// start starts a process that ends with the test. When the test fails, the end of its output is shown.
func (c *controlPlane) start(t *testing.T, name string, args ...string) (logged func() string) {
	t.Helper()
	file := filepath.Join(c.dir, name+".log")
	output, err := os.Create(file)
	must(t, err)
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when this test is killed
	must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		output.Close()
		if text := read(t, file); t.Failed() {
			t.Logf("%s: …%s", name, text[max(0, len(text)-2000):])
		}
	})
	return func() string { return read(t, file) }
}

func startControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	c := &controlPlane{bin: build(t), dir: t.TempDir()}
	etcd, peer, port := "http://127.0.0.1:"+freePort(t), "http://127.0.0.1:"+freePort(t), freePort(t)
	c.start(t, "server", "--data-dir=etcd", "--unsafe-no-fsync", "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	for file, text := range map[string]string{
		"service-account.key": string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"tokens.csv":          "of-this-test,admin,admin,system:masters\n",
		"kubeconfig": fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
			clusters: [{name: c, cluster: {server: "https://127.0.0.1:%s", certificate-authority: certificates/apiserver.crt}}],
			users: [{name: u, user: {token: of-this-test}}]}`, port),
	} {
		must(t, os.WriteFile(filepath.Join(c.dir, file), []byte(text), 0o600))
	}
	c.start(t, "kube-apiserver", "--etcd-servers="+etcd, "--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir=certificates",
		"--service-account-issuer=https://127.0.0.1", "--service-account-key-file=service-account.key",
		"--service-account-signing-key-file=service-account.key",
		"--token-auth-file=tokens.csv", "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none")
	until(t, "API server", func() string {
		if _, err := c.run("", "kubectl", "get", "--raw=/readyz"); err != nil {
			return err.Error()
		}
		return ""
	})

	proxied := c.start(t, "kubectl", "--kubeconfig=kubeconfig", "proxy", "--port=0")
	until(t, "kubectl proxy", func() string {
		_, address, _ := strings.Cut(strings.TrimSpace(proxied()), "Starting to serve on ")
		c.url = "http://" + address
		response, err := http.Get(c.url + "/readyz")
		if err != nil {
			return err.Error()
		}
		response.Body.Close()
		return ""
	})
	return c
}

// startOperator installs the operator's kinds, and starts the operator.
func (c *controlPlane) startOperator(t *testing.T) {
	t.Helper()
	module, err := exec.Command("go", "list", "-m", "-f={{.Dir}}", "github.com/prometheus-operator/prometheus-operator").Output()
	must(t, err)
	definitions := filepath.Join(strings.TrimSpace(string(module)), "example/prometheus-operator-crd")
	c.must(t, "", "kubectl", "apply", "--server-side", "-f", definitions)
	c.must(t, "", "kubectl", "wait", "--for=condition=Established", "--timeout=1m", "customresourcedefinitions", "--all")
	c.start(t, "operator", "--apiserver="+c.url, "--web.listen-address=127.0.0.1:0")
}

// run runs kubectl or helm as the administrator. The error contains its standard error.
func (c *controlPlane) run(stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, name), args...)
	cmd.Env = append(os.Environ(), "HOME="+c.dir, "KUBECONFIG="+filepath.Join(c.dir, "kubeconfig"))
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

func (c *controlPlane) must(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	out, err := c.run(stdin, name, args...)
	must(t, err)
	return out
}
