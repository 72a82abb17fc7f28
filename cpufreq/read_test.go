package cpufreq

import (
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
	"github.com/powerd/powerd/internal/units"
)

func TestRead(t *testing.T) {
	archive, err := os.ReadFile("testdata/policies.txtar")
	if err != nil {
		t.Fatal(err)
	}
	m, _ := sysfstest.Tree(t, string(archive))
	r := sysfs.NewReader(m)
	s := Read(r)
	if s == nil || len(s.Policies) != 3 || s.Boost == nil || *s.Boost != 1 {
		t.Fatalf("read %+v", s)
	}
	p := s.Policies[0]
	want := Policy{
		ID: 0, Dir: "sys/devices/system/cpu/cpufreq/policy0", Path: "cpufreq/policy0",
		Affected: new(cpuset.Of(0, 1, 3)), Related: new(cpuset.Range(0, 3)),
		Driver: new("cpufreq-dt"), Governor: new("schedutil"), Governors: []string{"performance", "schedutil"},
		CPUInfoMin: khz(600), CPUInfoMax: khz(2000), ScalingMin: khz(600),
		Available: []units.Frequency{600000, 1200000, 1800000}, BoostOPPs: []units.Frequency{2000000},
		SetSpeed: new("<unsupported>"),
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	if p := s.Policies[1]; !p.Inactive || !p.CPUs().Empty() || p.Steps() != nil {
		t.Errorf("policy4 is offline, read %+v with steps %v", p, p.Steps())
	}
	if p := s.Policies[2]; p.ID != 10 || p.Driver != nil || p.Available != nil || p.CPUs().String() != "10" {
		t.Errorf("read policy10 as %+v", p)
	}
	if w := r.Warnings(); len(w) != 1 || !strings.Contains(w[0].String(), `policy0/scaling_max_freq: "lots" is not a number`) {
		t.Errorf("want one warning, of scaling_max_freq; got %v", w)
	}
}

// Kernels before 4.3 have no policyN, but a directory or a link at each cpu.
func TestReadPerCPU(t *testing.T) {
	m, _ := sysfstest.Tree(t, `
-- sys/devices/system/cpu/cpu0/cpufreq/affected_cpus --
0 1
-- sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq --
200000
-- sys/devices/system/cpu/cpu1/cpufreq --
-> ../cpu0/cpufreq
-- sys/devices/system/cpu/cpu2/cpufreq/related_cpus --
2 3
-- sys/devices/system/cpu/cpu3/cpufreq/related_cpus --
2 3
-- sys/devices/system/cpu/cpu4/cpufreq/scaling_min_freq --
300000
-- sys/devices/system/cpu/cpu5/topology/core_id --
5
`)
	var got []string
	for _, p := range Read(sysfs.NewReader(m)).Policies {
		got = append(got, p.Path+"="+p.CPUs().String())
	}
	want := []string{"cpu0/cpufreq=0-1", "cpu2/cpufreq=2-3", "cpu4/cpufreq=4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadNothing(t *testing.T) {
	m, _ := sysfstest.Tree(t, "-- sys/devices/system/cpu/online --\n0-3\n")
	if s := Read(sysfs.NewReader(m)); s != nil {
		t.Errorf("a machine without cpufreq reads as %+v", s)
	}
}

// busy answers as the kernel does for a policy whose cpus are all offline.
type busy struct{ sysfs.FS }

func (b busy) ReadFile(name string) ([]byte, error) {
	if strings.Contains(name, "/policy4/") {
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EBUSY}
	}
	return b.FS.ReadFile(name)
}

func TestReadOfflinePolicyIsNoFault(t *testing.T) {
	m, _ := sysfstest.Tree(t, "-- sys/devices/system/cpu/cpufreq/policy4/affected_cpus --\n4\n")
	r := sysfs.NewReader(busy{m})
	if s := Read(r); len(s.Policies) != 1 || !s.Policies[0].Inactive {
		t.Errorf("read %+v", s)
	}
	if w := r.Warnings(); len(w) > 0 {
		t.Errorf("warned of what is no fault: %v", w)
	}
}

func FuzzCPUs(f *testing.F) {
	f.Add("0 1 2 3")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		set, err := parseCPUs(s)
		if err != nil {
			return
		}
		again, err := parseCPUs(strings.ReplaceAll(set.String(), ",", " "))
		if err != nil || !again.Equal(set) {
			t.Fatalf("%q reads as %v, and that as %v, %v", s, set, again, err)
		}
	})
}

func FuzzFrequencies(f *testing.F) {
	f.Add("2800000 2100000 1500000 \n")
	f.Add("<unsupported>")
	f.Fuzz(func(t *testing.T, s string) {
		table, err := parseFrequencies(s)
		if err != nil {
			return
		}
		if !slices.IsSorted(table) || len(slices.Compact(slices.Clone(table))) != len(table) {
			t.Fatalf("%q reads as %v: not ascending", s, table)
		}
	})
}
