package main

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBuild_reproducible: two folders, two caches and two times, one binary. What the stamp
// says is the commit's, so it is given here.
func TestBuild_reproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles everything anew")
	}
	var first []byte
	for _, folder := range []string{"a", "another/folder"} {
		dir := filepath.Join(t.TempDir(), folder)
		for _, part := range []string{"cmd", "collector", "influx"} {
			must(t, os.CopyFS(filepath.Join(dir, part), os.DirFS("../../"+part)))
		}
		for _, file := range []string{"Makefile", "go.mod", "go.sum"} {
			text, err := os.ReadFile("../../" + file)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(dir, file), text, 0o644))
		}
		build := exec.Command("make", "build", "VERSION=1.2.3", "REVISION=r", "BRANCH=b", "DATE=d")
		build.Dir = dir
		build.Env = append(os.Environ(), "GOFLAGS=")
		if first != nil { // compiled anew: the first one's results would prove nothing
			build.Env = append(build.Env, "GOCACHE="+filepath.Join(dir, "cache"))
		}
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("make build: %v\n%s", err, output)
		}
		built, err := os.ReadFile(filepath.Join(dir, "bin", name))
		must(t, err)
		if first == nil {
			first = built
			t.Logf("%x", sha256.Sum256(built))
		} else if !bytes.Equal(first, built) {
			t.Error("two builds of the same sources differ")
		}
	}
}
