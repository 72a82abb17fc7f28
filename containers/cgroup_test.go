package containers_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

func TestParseCPUMax(t *testing.T) {
	for _, tt := range []struct {
		in, out string
		cpus    float64
		ok      bool
	}{
		{"max 100000\n", "max 100000", 0, true},
		{"50000 100000", "50000 100000", 0.5, true},
		{"200000", "200000 100000", 2, true},
		{"", "", 0, false},
		{"1 2 3", "", 0, false},
		{"0 100000", "", 0, false},
		{"-1 100000", "", 0, false},
		{"50000 max", "", 0, false},
		{"99999999999999999999 100000", "", 0, false},
	} {
		m, err := containers.ParseCPUMax(tt.in)
		if (err == nil) != tt.ok {
			t.Errorf("ParseCPUMax(%q): %v", tt.in, err)
			continue
		}
		if cpus, _ := m.CPUs(); err == nil && (m.String() != tt.out || cpus != tt.cpus) {
			t.Errorf("ParseCPUMax(%q) = %s, %v cpus", tt.in, m, cpus)
		}
	}
}

func TestParseCPUStat(t *testing.T) {
	got, err := containers.ParseCPUStat("usage_usec 1500\nuser_usec 1000\nnr_periods 4\nnr_throttled 2\nthrottled_usec 30\n")
	want := containers.CPUStat{Usage: 1500 * time.Microsecond, Periods: 4, Throttled: 2, Waited: 30 * time.Microsecond}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "user_usec 1\n", "usage_usec x\n"} {
		if _, err := containers.ParseCPUStat(bad); err == nil {
			t.Errorf("ParseCPUStat(%q) is no error", bad)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern string
		id      containers.ID
		want    bool
	}{
		{"a/*", "a/b", true},
		{"/a/*/", "a/b", true},
		{"a/*", "a", false},
		{"a/*", "a/b/c", false},
		{"a/**", "a/b/c", true},
		{"a/**", "a", true},
		{"**/c", "a/b/c", true},
		{"**/c", "c", true},
		{"a/**/c-*", "a/c-1", true},
		{"a/**/c-*", "a/x/y/c-1", true},
		{"a/**/c-*", "b/c-1", false},
	} {
		g, err := containers.ParseGlob(tt.pattern)
		if err != nil || g.Match(tt.id) != tt.want {
			t.Errorf("%q on %q is not %v (%v)", tt.pattern, tt.id, tt.want, err)
		}
	}
	for _, bad := range []string{"", "/", "a/[", "a//b", "../x"} {
		if _, err := containers.ParseGlob(bad); err == nil {
			t.Errorf("ParseGlob(%q) is no error", bad)
		}
	}
}

const hierarchy = `
-- cg/cgroup.controllers --
cpuset cpu memory
-- cg/cgroup.subtree_control --
memory
-- cg/cpu.stat --
usage_usec 9
-- cg/a.slice/cgroup.subtree_control --
-- cg/a.slice/cpu.stat --
usage_usec 1
-- cg/a.slice/one.scope/cpu.stat --
usage_usec 2
-- cg/a.slice/one.scope/cpuset.cpus --

-- cg/a.slice/one.scope/cpuset.cpus.effective --
0-3
-- cg/a.slice/one.scope/cpu.max --
max 100000
-- cg/a.slice/cpu.slice/cpu.stat --
usage_usec 3
-- cg/b/deep/er/c-1/cpu.stat --
usage_usec 4
`

func TestTree(t *testing.T) {
	m, _ := sysfstest.Tree(t, hierarchy)
	tree := containers.NewTree(m, "cg")
	var globs []containers.Glob
	for _, p := range []string{"a.slice/*", "**/c-*"} {
		g, err := containers.ParseGlob(p)
		if err != nil {
			t.Fatal(err)
		}
		globs = append(globs, g)
	}
	ids, err := tree.Find(globs)
	want := []containers.ID{"a.slice/cpu.slice", "a.slice/one.scope", "b/deep/er/c-1"}
	if diff := cmp.Diff(want, ids); diff != "" || err != nil {
		t.Fatal(diff, err)
	}
	r := sysfs.NewReader(m)
	c, ok := tree.Read(r, "a.slice/one.scope")
	if !ok || c.CPUs == nil || !c.CPUs.Empty() || c.Effective.String() != "0-3" || c.Max.Quota != 0 {
		t.Errorf("%+v, %v", c, ok)
	}
	c, ok = tree.Read(r, "a.slice/cpu.slice")
	if !ok || c.CPUs != nil || c.Max != nil {
		t.Errorf("without controllers: %+v, %v", c, ok)
	}
	if _, ok := tree.Read(r, "none"); ok {
		t.Error("a cgroup that is not there was read")
	}
	writes, missing := tree.EnableWrites(r, "a.slice/one.scope", "cpuset", "cpu", "io")
	wantWrites := []sysfs.Write{{File: "cg/cgroup.subtree_control", Value: "+cpuset +cpu"}, {File: "cg/a.slice/cgroup.subtree_control", Value: "+cpuset +cpu"}}
	if diff := cmp.Diff(wantWrites, writes); diff != "" || !cmp.Equal(missing, []string{"io"}) {
		t.Error(diff, missing)
	}
	if w := r.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %v", w)
	}
}

func FuzzParseCPUMax(f *testing.F) {
	f.Add("max 100000")
	f.Add("50000")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := containers.ParseCPUMax(s)
		if err != nil {
			return
		}
		if again, err := containers.ParseCPUMax(m.String()); err != nil || again != m {
			t.Errorf("%q parses as %v, which parses as %v, %v", s, m, again, err)
		}
	})
}

func FuzzParseCPUStat(f *testing.F) {
	f.Add("usage_usec 1500\nnr_periods 4\n")
	f.Fuzz(func(t *testing.T, s string) {
		if st, err := containers.ParseCPUStat(s); err == nil && (st.Usage < 0 || st.Waited < 0) {
			t.Errorf("%q parses as %+v", s, st)
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a/**/c-*", "a/b/c-1")
	f.Fuzz(func(t *testing.T, p, id string) {
		if len(p) > 64 || len(id) > 64 {
			return
		}
		if g, err := containers.ParseGlob(p); err == nil {
			g.Match(containers.ID(id))
		}
	})
}
