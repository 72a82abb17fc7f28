package oci

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Without a mount namespace there is one to make the root in, and a way back to ours, for
// root; nothing of a folder without mounts has to be dropped.
func TestInheritMounts(t *testing.T) {
	spec := func(namespaces ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: namespaces}}
	}
	p, err := planNamespaces(spec(specs.LinuxNamespace{Type: specs.PIDNamespace}), nil)
	if os.Geteuid() != 0 {
		if fe := new(FieldError); !errors.As(err, &fe) || fe.Field != "linux.namespaces" {
			t.Errorf("an ordinary user: %v", err)
		}
	} else {
		if err != nil {
			t.Fatal(err)
		}
		if p.clone != unix.CLONE_NEWPID|unix.CLONE_NEWNS || p.back == nil {
			t.Errorf("%+v", p)
		} else if kind, err := unix.IoctlRetInt(int(p.back.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNS {
			t.Errorf("the way back is %x, %v", kind, err)
		}
		p.Close()
	}
	own, err := planNamespaces(spec(specs.LinuxNamespace{Type: specs.MountNamespace}), nil)
	if err != nil || own.back != nil || own.clone != unix.CLONE_NEWNS {
		t.Errorf("%+v, %v", own, err)
	}
	dir := t.TempDir()
	if err := dropMounts(dir); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(dir+"/"+keptMounts, 0o700); err != nil { // killed before the first mount
		t.Fatal(err)
	}
	if err := dropMounts(dir); os.Geteuid() == 0 && err != nil {
		t.Error(err)
	}
	if err := keepMounts(dir, os.Getpid()); err == nil || !strings.Contains(err.Error(), "cannot keep the container's mounts: ") {
		t.Errorf("where there is one already: %v", err)
	}
}

// A namespace that is not there is an error of its field.
func TestPlanNamespacesRefuses(t *testing.T) {
	for path, want := range map[string]string{
		"/nonesuch":         "linux.namespaces[1].path: open /nonesuch: no such file",
		"/proc/self/ns/uts": "linux.namespaces[1].path: /proc/self/ns/uts is no ipc namespace",
	} {
		_, err := planNamespaces(&specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace, Path: path}}}}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A process that only has the number of the container's first is not joined.
func TestEnterAnother(t *testing.T) {
	r := &record{State: specs.State{Pid: os.Getpid()}, Started: 1}
	if _, err := enterProcess(&builder{}, r, true); !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
	r.Started, _ = startTime(r.Pid)
	b := &builder{}
	e, err := enterProcess(b, r, true)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if e.root == nil || e.fork || b.Len() != 3 { // fchdir, chroot, open
		t.Errorf("%+v, %d calls", e, b.Len())
	}
}
