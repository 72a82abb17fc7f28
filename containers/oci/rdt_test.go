package oci

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestResctrlMount(t *testing.T) {
	const info = "23 28 0:21 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n40 28 0:35 / /sys/fs/resctrl rw,relatime shared:18 - resctrl resctrl rw\n"
	if dir, ok := resctrlMount(info); !ok || dir != "/sys/fs/resctrl" {
		t.Errorf("%q, %v", dir, ok)
	}
	if dir, ok := resctrlMount(strings.ReplaceAll(info, "- resctrl", "- tmpfs")); ok {
		t.Errorf("a tmpfs at %q is taken for it", dir)
	}
}

// A folder stands for the file system: no test machine has one.
func TestRdt(t *testing.T) {
	root := t.TempDir()
	have := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	have("gold/schemata", "    MB:0=100;1=100\n    L3:0=07ff;1=7ff\n")
	have("mon_groups/.keep", "")
	for _, tt := range []struct {
		spec specs.LinuxIntelRdt
		want string // why it is refused
	}{
		{specs.LinuxIntelRdt{ClosID: "gold"}, ""},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7FF;1=7ff", MemBwSchema: "MB:1=100"}, ""},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, "has L3:0=7ff, not f"},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f", Schemata: []string{"L3:0=7ff"}}, ""},
		{specs.LinuxIntelRdt{ClosID: "none"}, `there is no class "none"`},
	} {
		p, err := rdtIn(root, &tt.spec, "c1")
		if tt.want == "" && (err != nil || p.make || len(p.made) > 0) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: %+v, %v", tt.spec, p, err)
		}
	}

	// A class of its own goes with the container, one by name stays.
	p, err := rdtIn(root, &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L2:0=1"}}, "c1")
	if err == nil {
		err = p.create()
	}
	if err != nil || len(p.made) != 1 || p.made[0] != filepath.Join(root, "c1") {
		t.Fatalf("%+v, %v", p, err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "c1/schemata")); string(data) != "L3:0=f\nMB:0=20\nL2:0=1\n" {
		t.Errorf("schemata %q, %v", data, err)
	}
	if _, err := rdtIn(root, &specs.LinuxIntelRdt{}, "c1"); err == nil {
		t.Error("another's folder of the container's name is taken")
	}
	os.Remove(filepath.Join(root, "c1/schemata")) // the kernel's files are no hindrance
	if err := removeRdt(p.made); err != nil {
		t.Error(err)
	}
	if err := removeRdt(p.made); err != nil {
		t.Errorf("removed again: %v", err)
	}
	p, err = rdtIn(root, &specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true}, "c1")
	if err == nil {
		err = p.create()
	}
	if err != nil || p.group != root || len(p.made) != 1 || p.made[0] != filepath.Join(root, "mon_groups/c1") || !exists(p.made[0]) {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = rdtIn(root, &specs.LinuxIntelRdt{ClosID: "new", Schemata: []string{"L3:0=1"}}, "c1")
	if err == nil {
		err = p.create()
	}
	if err != nil || len(p.made) > 0 || !exists(filepath.Join(root, "new/schemata")) {
		t.Errorf("%+v, %v", p, err)
	}
}
