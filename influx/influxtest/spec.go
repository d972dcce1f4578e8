package influxtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// ServerSpec is an InfluxDB that can be started, or a remote one.
type ServerSpec struct {
	Name       string // unique in the result of Available: the version, or the name in TEST_SERVERS
	Version    string // such as 1.13.2
	Major      int    // 1, 2 or 3
	Auth       bool   // 1.x only: the server requires credentials, as 2.x and 3.x always do
	Path       string // of the program; empty for a remote server
	url, token string // of a remote server
}

// Remote reports whether somebody else runs the server: tests can read and write it, but not stop it.
func (spec ServerSpec) Remote() bool { return spec.Path == "" }

// Available returns the servers that tests can use on this machine, and a line about each one that they can't use:
//
//   - 1.7.11, 1.13.2 and 2.7.12 from the user's cache. Missing ones are built, with output to progress, if this machine has
//     the tools. With the variable SERVERS=cached, only 1.7.11 is built.
//   - the programs whose paths are in the variables INFLUXD and INFLUXDB3, separated by ':'.
//   - the remote servers in the variable TEST_SERVERS, separated by spaces: name=URL or name=URL=token. The token must have
//     all permissions (1.x: user:password).
func Available(ctx context.Context, progress io.Writer) (specs []ServerSpec, missing []string, err error) {
	return available(ctx, progress, os.Getenv)
}

func available(ctx context.Context, progress io.Writer, getenv func(string) string) (specs []ServerSpec, missing []string, err error) {
	for i, r := range recipes {
		path, err := r.path()
		if err != nil {
			return nil, nil, err
		}
		if i > 0 && getenv("SERVERS") == "cached" && !isExecutable(path) {
			missing = append(missing, fmt.Sprintf("InfluxDB %s: not in the cache: make servers builds it", r.version))
			continue
		}
		spec, err := r.spec(ctx, progress)
		if errors.Is(err, errCannotBuild) {
			missing = append(missing, fmt.Sprintf("InfluxDB %s: %v", r.version, err))
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		specs = append(specs, spec)
	}
	given, err := Programs(ctx, getenv("INFLUXD"), getenv("INFLUXDB3"))
	if err != nil {
		return nil, nil, err
	}
	if len(given) == 0 || given[len(given)-1].Major != 3 {
		missing = append(missing, "InfluxDB 3: the variable INFLUXDB3 is empty")
	}
	remote, err := remoteServers(ctx, getenv("TEST_SERVERS"))
	if err != nil {
		return nil, nil, err
	}
	return unique(append(append(specs, given...), remote...)), missing, nil
}

// Programs returns the servers for programs of the user. influxd (1.x or 2.x) and influxdb3 are lists of paths, separated by
// ':'.
func Programs(ctx context.Context, influxd, influxdb3 string) ([]ServerSpec, error) {
	var specs []ServerSpec
	for _, list := range []struct {
		variable, paths string
		args            []string
	}{
		{"INFLUXD", influxd, []string{"version"}},
		{"INFLUXDB3", influxdb3, []string{"--version"}},
	} {
		for _, path := range filepath.SplitList(list.paths) {
			output, err := exec.CommandContext(ctx, path, list.args...).Output()
			if err != nil {
				return nil, fmt.Errorf("version of %s in %s: %w", path, list.variable, err)
			}
			version := versionOf(string(output))
			if version == "" {
				return nil, fmt.Errorf("version of %s in %s: no version in %q", path, list.variable, output)
			}
			specs = append(specs, ServerSpec{Name: version, Version: version, Major: majorOf(version), Path: path})
		}
	}
	return specs, nil
}

// remoteServers returns the servers in a list such as TEST_SERVERS, and requests the version of each. An error contains no
// token.
func remoteServers(ctx context.Context, list string) ([]ServerSpec, error) {
	var specs []ServerSpec
	for i, entry := range strings.Fields(list) {
		parts := append(strings.SplitN(entry, "=", 3), "", "")
		spec := ServerSpec{Name: parts[0], url: parts[1], token: parts[2], Auth: parts[2] != ""}
		if spec.Name == "" || spec.url == "" {
			return nil, fmt.Errorf("TEST_SERVERS: entry %d is not name=URL or name=URL=token", i+1)
		}
		w := Writer{URL: spec.url, Token: spec.token}
		version, err := w.version(ctx)
		if err != nil {
			return nil, fmt.Errorf("TEST_SERVERS: version of %s: %w", spec.Name, err)
		}
		spec.Version, spec.Major = version, majorOf(version)
		specs = append(specs, spec)
	}
	return specs, nil
}

// version returns the version that the server reports.
func (w *Writer) version(ctx context.Context) (string, error) {
	resp, text, err := w.exchange(ctx, http.MethodGet, "/ping", "", nil)
	if err != nil {
		return "", err
	}
	reported := resp.Header.Get("X-Influxdb-Version")
	if reported == "" {
		reported = string(text) // 3.0 has no header
	}
	version := versionOf(reported)
	if version == "" {
		return "", fmt.Errorf("no version in %q", w.clean(reported))
	}
	return version, nil
}

var versionPattern = regexp.MustCompile(`\d+\.\d+\.\d+[\w.+~-]*`)

// versionOf returns the first version in a text; empty if there is none.
func versionOf(text string) string { return versionPattern.FindString(text) }

func majorOf(version string) int {
	digits, _, _ := strings.Cut(version, ".")
	major, _ := strconv.Atoi(digits)
	return major
}

// unique appends a number to the second and later ones of equal names.
func unique(specs []ServerSpec) []ServerSpec {
	seen := map[string]int{}
	for i, spec := range specs {
		seen[spec.Name]++
		if n := seen[spec.Name]; n > 1 {
			specs[i].Name += "#" + strconv.Itoa(n)
		}
	}
	return specs
}
