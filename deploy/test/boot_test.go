//go:build systemd

package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSystemd boots the systemd of two Debian releases, the oldest that the packages allow among them, as the first process of
// namespaces of its own; installs the exporter there with the commands of docs/install.md; and runs the service and the check.
func TestSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can boot a system; CI is root")
	}
	for suite, version := range map[string]string{"bullseye": oldestSystemd, "bookworm": "252"} {
		t.Run(suite, func(t *testing.T) {
			s := startSystem(t, suite)
			if got := s.must(t, "systemctl --version"); !strings.HasPrefix(got, "systemd "+version+" ") {
				t.Fatalf("booted %s", got)
			}
			s.install(t)
			if text := s.must(t, "systemd-analyze verify memdump_exporter.service memdump_exporter.socket 2>&1"); text != "" {
				t.Errorf("systemd-analyze verify: %s", text)
			}
			authorizations := make(chan string, 1000)
			influxdb := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				authorizations <- r.Header.Get("Authorization")
				w.WriteHeader(http.StatusUnauthorized)
			}))
			t.Cleanup(influxdb.Close)
			address := "127.0.0.1:" + freePort(t)
			s.set(t, "INFLUX_URL="+influxdb.URL, `INFLUX_DB="vm stats"`, fmt.Sprintf(`ARGS="--log.level=debug --web.listen-address=%s"`, address))

			output, code := s.run(t, installCheck(t))
			for _, want := range []string{
				"database \"vm stats\", the token in \"/run/credentials/memdump_exporter_check.service/influx_token\"", "unauthorized (HTTP 401)",
			} {
				if !strings.Contains(output, want) || code != 1 {
					t.Errorf("the check exits with %d and prints no %q:\n%s", code, want, output)
				}
			}
			if got := sent(t, authorizations); got != "Token from-the-file" {
				t.Errorf("the check sent %q", got)
			}

			s.scrape(t, address)
			if got := sent(t, authorizations); got != "Token from-the-file" {
				t.Errorf("the service sent %q", got)
			}
			s.set(t, "INFLUX_TOKEN_FILE=")
			s.scrape(t, address)
			if got := sent(t, authorizations); got != "" {
				t.Errorf("the service sent %q without a token", got)
			}
		})
	}
}

// sent returns the first of the headers that InfluxDB got, and removes all.
func sent(t *testing.T, headers <-chan string) (first string) {
	t.Helper()
	if len(headers) == 0 {
		t.Error("InfluxDB got no request")
		return ""
	}
	for first = <-headers; len(headers) > 0; {
		<-headers
	}
	return first
}

// installCheck returns the check's command of docs/install.md.
func installCheck(t *testing.T) string {
	t.Helper()
	return regexp.MustCompile(`(?m)^systemd-run (.*\\\n)*.*$`).FindString(read(t, "../../docs/install.md"))
}

// system is a system that systemd runs.
type system struct{ root, pid string }

// boot makes $1 the root of namespaces of its own, but for the network, and systemd the first process there.
const boot = `set -e
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys" && mount -o remount,bind,ro "$root/proc/sys" # of the whole machine
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for folder in run tmp dev; do mount -t tmpfs tmpfs "$root/$folder"; done
for device in null zero full random urandom tty; do touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device"; done
mkdir "$root/dev/shm" "$root/dev/pts" "$root/run/old"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts" && ln -s pts/ptmx "$root/dev/ptmx" # for PrivateDevices=
cd "$root"
pivot_root . run/old
mount --make-rshared / # or the credentials of a service stay unseen
umount -l /run/old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target`

func startSystem(t *testing.T, suite string) *system {
	t.Helper()
	s := &system{root: unpack(t, suite)}
	cgroup := "/sys/fs/cgroup"
	if _, err := os.Stat(cgroup + "/unified"); err == nil { // both versions of cgroups
		cgroup += "/unified"
	}
	cgroup = filepath.Join(cgroup, "memdump_exporter_test_"+suite)
	must(t, os.MkdirAll(cgroup, 0o755))
	enter := fmt.Sprintf(`echo $$ >%s/cgroup.procs && exec "$@"`, cgroup)
	cmd := exec.Command("sh", "-c", enter, "sh", "unshare", "--pid", "--mount", "--fork", "--uts", "--ipc", "--cgroup", "--kill-child",
		"sh", "-c", boot, "sh", s.root)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := s.run(t, "journalctl --boot --no-pager --lines=30")
			t.Logf("the journal: %s", log)
		}
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("boot: %s", output.String())
		}
	})
	until(t, "boot", func() string {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
		if err != nil {
			return err.Error()
		}
		if s.pid = strings.TrimSpace(string(children)); s.pid == "" {
			return "no first process: " + output.String()
		}
		state, _ := s.run(t, "systemctl is-system-running")
		if state = strings.TrimSpace(state); state != "running" && state != "degraded" {
			return state
		}
		return ""
	})
	return s
}

// run runs a command of the system, and returns its output and its exit code.
func (s *system) run(t *testing.T, command string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	root := fmt.Sprintf("/proc/%s/root", s.pid)
	cmd := exec.CommandContext(ctx, "nsenter", "--target="+s.pid, "--pid", "--mount", "--uts", "--ipc", "--cgroup",
		"--root="+root, "--wd="+root, "sh", "-c", command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (s *system) must(t *testing.T, command string) string {
	t.Helper()
	out, code := s.run(t, command)
	if code != 0 {
		t.Fatalf("%s: exit code %d: %s", command, code, out)
	}
	return out
}

// install runs the commands of docs/install.md in a folder that is like the archive.
func (s *system) install(t *testing.T) {
	t.Helper()
	archive := filepath.Join(s.root, "archive")
	build := exec.Command("go", "build", "-o", filepath.Join(archive, "memdump_exporter"), "./cmd/memdump_exporter")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0") // a newer C library than the system's may be here
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	must(t, os.CopyFS(filepath.Join(archive, "deploy/systemd"), os.DirFS("../systemd")))
	commands := regexp.MustCompile("(?ms)^## Binary and systemd\n.*?^```\n(.*?)^```").FindStringSubmatch(read(t, "../../docs/install.md"))
	if commands == nil {
		t.Fatal("docs/install.md has no commands under Binary and systemd")
	}
	s.must(t, "set -e; cd /archive\n"+commands[1]+"printf 'from-the-file\\n' >/etc/memdump_exporter/influx_token; systemctl daemon-reload")
}

// set appends lines to the service's environment file: the last of a variable's lines wins.
func (s *system) set(t *testing.T, lines ...string) {
	t.Helper()
	s.must(t, "cat >>/etc/default/memdump_exporter <<'end'\n"+strings.Join(lines, "\n")+"\nend")
}

// scrape restarts the service and reads its metrics.
func (s *system) scrape(t *testing.T, address string) {
	t.Helper()
	s.must(t, "systemctl restart memdump_exporter")
	until(t, "scrape", func() string {
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return err.Error()
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || !bytes.Contains(text, []byte("\nmemdump_up 0\n")) {
			t.Errorf("%s, %v: %s", response.Status, err, text)
		}
		return ""
	})
}

// unpack returns a folder with the systemd of a Debian release and what it needs. The packages stay in the user's cache.
func unpack(t *testing.T, suite string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	cache = filepath.Join(cache, "memdump_exporter", "systemd", suite)
	root := t.TempDir()
	for _, folder := range []string{
		cache + "/lists/partial", cache + "/archives/partial",
		root + "/etc", root + "/proc", root + "/sys", root + "/run", root + "/dev", root + "/tmp", root + "/root", root + "/var/log",
	} {
		must(t, os.MkdirAll(folder, 0o755))
	}
	for name, text := range map[string]string{
		"passwd":     "root:x:0:0::/root:/bin/sh\nmessagebus:x:104:104::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
		"group":      "root:x:0:\nmessagebus:x:104:\nnogroup:x:65534:\n",
		"machine-id": strings.Repeat("1", 32) + "\n", // a first boot would enable every unit
	} {
		must(t, os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644))
	}
	// From where this machine's own packages are.
	script := `set -e
origin() {
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' | head -1
}
uri=$(origin)
[ -n "$uri" ] || { apt-get update; uri=$(origin); }
echo "deb $uri $1 main" >"$2/sources"
apt() {
  apt-get -o Dir::Etc::sourcelist="$2/sources" -o Dir::Etc::sourceparts=- -o Dir::State="$2" -o Dir::State::status=/dev/null \
    -o Dir::Cache="$2" -o APT::Sandbox::User=root "$1" -y --download-only --no-install-recommends $4
}
if ! [ -e "$2/complete" ]; then
  apt update "$2"
  apt install "$2" - "systemd dbus dash coreutils libc-bin mount util-linux"
  touch "$2/complete"
fi
for package in "$2"/archives/*.deb; do dpkg-deb --extract "$package" "$3"; done
[ -e "$3/bin/sh" ] || ln -s dash "$3/bin/sh"
chroot "$3" /sbin/ldconfig
for unit in systemd-networkd systemd-networkd-wait-online systemd-resolved systemd-timesyncd; do
  ln -sf /dev/null "$3/etc/systemd/system/$unit.service"
done`
	if out, err := exec.Command("sh", "-c", script, "sh", suite, cache, root).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v: %s", suite, err, out)
	}
	return root
}
