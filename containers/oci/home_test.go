package oci

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestHome(t *testing.T) {
	lower, upper, host := t.TempDir(), t.TempDir(), t.TempDir()
	put := func(file, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put(lower+"/usr/share/passwd", "# comment\nroot:x:0:0:root:/root:/bin/sh\nbroken:x:7\nnul:x:8:8::/a\x00b:\nempty:x:9:9:::\nweb:x:33:33::/srv/web:/bin/false")
	if err := errors.Join(os.MkdirAll(lower+"/etc", 0o755), os.Symlink("/usr/share/passwd", lower+"/etc/passwd")); err != nil {
		t.Fatal(err)
	}
	put(host+"/passwd", "root:x:0:0::/mounted:\n")
	pipe := t.TempDir()
	if err := errors.Join(os.Mkdir(pipe+"/etc", 0o755), unix.Mkfifo(pipe+"/etc/passwd", 0o644)); err != nil {
		t.Fatal(err)
	}
	bind := func(to, from string) *specs.Spec {
		return &specs.Spec{Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}, {Destination: to, Type: "bind", Source: from}}}
	}
	for _, tt := range []struct {
		spec  *specs.Spec
		roots []string
		uid   uint32
		want  string
	}{
		{&specs.Spec{}, []string{upper, lower}, 0, "/root"},
		{&specs.Spec{}, []string{upper, lower}, 33, "/srv/web"},
		{&specs.Spec{}, []string{lower}, 7, "/"},
		{&specs.Spec{}, []string{lower}, 8, "/"},
		{&specs.Spec{}, []string{lower}, 9, "/"},
		{&specs.Spec{}, []string{lower}, 1000, "/"},
		{&specs.Spec{}, []string{upper}, 0, "/"},
		{&specs.Spec{}, []string{pipe}, 0, "/"},
		{bind("/etc/passwd", host+"/passwd"), []string{lower}, 0, "/mounted"},
		{bind("/etc/", host), []string{lower}, 0, "/mounted"},
		{bind("/etc", "tmpfs"), []string{lower}, 0, "/"},
		{bind("/etc/pass", host), []string{lower}, 0, "/root"},
	} {
		got := environment([]string{"A=b"}, tt.uid, passwdOf(tt.spec, tt.roots))
		if !slices.Equal(got, []string{"A=b", "HOME=" + tt.want}) {
			t.Errorf("user %d of %v with %v: %q, want %s", tt.uid, tt.roots, tt.spec.Mounts, got, tt.want)
		}
	}
	if got := environment([]string{"HOME=/x", "A=1", "B=2", "A=3", "HOME=/y"}, 0, nil); !slices.Equal(got, []string{"HOME=/y", "A=3", "B=2"}) {
		t.Errorf("the environment becomes %q", got)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{"TERM": 15, "sigkill": 9, "9": 9, "0": 0, "RTMIN": 34, "SIGRTMIN+3": 37, "rtmax-14": 50, "SIGRTMAX": 64} {
		if got, err := ParseSignal(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "NOSIG", "65", "-1", "RTMIN-1", "RTMIN3", "RTMAX+1", "RTMIN+"} {
		if got, err := ParseSignal(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}
