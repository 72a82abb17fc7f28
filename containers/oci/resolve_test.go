package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestInImage(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	link := func(root, name, target string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.Symlink(target, file)); err != nil {
			t.Fatal(err)
		}
	}
	link(lower, "etc/resolv.conf", "../run/systemd/resolve/stub.conf")
	link(lower, "var/run", "/run")
	link(lower, "a", "b")
	link(lower, "b", "/a")
	link(lower, "up", "../../../../out")
	link(lower, "run/lock", "/var/lock")
	link(lower, "opt/x", "lower")
	link(upper, "opt/x", "upper")
	if err := os.MkdirAll(filepath.Join(upper, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/etc/resolv.conf": "/run/systemd/resolve/stub.conf",
		"/var/run/x/y":     "/run/x/y",
		"var/run":          "/run",
		"/up/x":            "/out/x",
		"/opt/x/y":         "/opt/upper/y",
		"/none/../etc":     "/etc",
		"/run/lock/x":      "/var/lock/x",
		"/tmp/run/lock":    "/tmp/run/lock",
	} {
		if got := inImage([]string{upper, lower}, name, []string{"/tmp"}); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	inImage([]string{lower}, "/a/x", nil) // ends
	// In what covers /run there is no such link.
	if got := inImage([]string{lower}, "/var/run/lock/x", []string{"/run"}); got != "/run/lock/x" {
		t.Errorf("it is %s", got)
	}
}
