package containers

import (
	"strings"
	"testing"

	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

func TestReadMode(t *testing.T) {
	for _, c := range []struct {
		name, tree string
		mode       Mode
		v2         string
	}{
		{"v2", "-- proc/mounts --\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", V2, "sys/fs/cgroup"},
		{"v1", "-- proc/mounts --\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ntmpfs /tmp tmpfs rw 0 0\n", V1, ""},
		{"hybrid, not where one expects it", "-- proc/mounts --\ncgroup /cgroup/memory cgroup rw,memory 0 0\nnone /cgroup/all\\040of\\040it cgroup2 rw 0 0\n", Hybrid, "cgroup/all of it"},
		{"of the first process", "-- proc/1/mounts --\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", V2, "sys/fs/cgroup"},
		{"mountinfo", "-- proc/self/mountinfo --\n30 23 0:26 /docker/1 /sys/fs/cgroup ro,nosuid shared:4 - cgroup2 cgroup2 rw\n", V2, "sys/fs/cgroup"},
		{"mounts without cgroups", "-- proc/mounts --\nproc /proc proc rw 0 0\n-- proc/1/mounts --\ncgroup2 /cg cgroup2 rw 0 0\n", V2, "cg"},
		{"none", "-- proc/mounts --\nproc /proc proc rw 0 0\n", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, _ := sysfstest.Tree(t, c.tree)
			got := ReadMode(sysfs.NewReader(m))
			if c.mode == "" {
				if got != nil {
					t.Fatalf("got %+v of no cgroups", got)
				}
				return
			}
			if got == nil || got.Mode != c.mode {
				t.Fatalf("got %+v, want mode %s", got, c.mode)
			}
			if dir, ok := got.V2(); dir != c.v2 || ok != (c.v2 != "") {
				t.Errorf("v2 is at %q, %t; want %q", dir, ok, c.v2)
			}
		})
	}
}

func TestReadModeBesides(t *testing.T) {
	m, _ := sysfstest.Tree(t, `
-- proc/mounts --
cgroup2 /sys/fs/cgroup cgroup2 rw 0 0
-- proc/self/cgroup --
0::/user.slice
-- proc/self/status --
Name:	powerd
Cpus_allowed:	f
Cpus_allowed_list:	0-2,5
-- proc/cgroups --
#subsys_name
-- sys/fs/cgroup/cgroup.controllers --
cpuset cpu
`)
	r := sysfs.NewReader(m)
	c := ReadMode(r)
	if c.Self == nil || *c.Self != "0::/user.slice" || !c.Registered || c.V2Controllers == nil || *c.V2Controllers != "cpuset cpu" {
		t.Errorf("read %+v", c)
	}
	if s := SelfAllowed(r); s == nil || s.String() != "0-2,5" {
		t.Errorf("allowed on %v", s)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n")
	f.Add("30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n")
	f.Add("none /a\\040b cgroup rw 0 0")
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) ([]Mount, error){parseMounts, parseMountInfo} {
			mounts, err := parse(s)
			if err != nil {
				continue
			}
			for _, m := range mounts {
				if !strings.HasPrefix(m.FSType, "cgroup") || m.Mountpoint == "" {
					t.Fatalf("%q reads as %+v", s, m)
				}
			}
		}
	})
}

func FuzzAllowed(f *testing.F) {
	f.Add("Name:\tpowerd\nCpus_allowed_list:\t0-2,5\n")
	f.Fuzz(func(t *testing.T, s string) {
		if set, err := parseAllowed(s); err == nil && set != nil && !strings.Contains(s, "Cpus_allowed_list:") {
			t.Fatalf("%q allows %v", s, set)
		}
	})
}
