package topology

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/sysfs/sysfstest"
)

// TestRead reads the machines of testdata; each archive's file "want" is what
// tell says of it.
func TestRead(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no machines in testdata", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := ""
			a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool {
				if f.Name == "want" {
					want = string(f.Data)
				}
				return f.Name == "want"
			})
			m, _ := sysfstest.Tree(t, string(txtar.Format(a)))
			r := sysfs.NewReader(m)
			if diff := cmp.Diff(want, tell(Read(r), r.Warnings())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// tell puts in lines what a topology says; what it does not know is left out.
func tell(t *Topology, warnings []sysfs.Warning) string {
	var b strings.Builder
	line := func(format string, args ...any) {
		b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
	}
	sets := func(what string, sets []cpuset.Set) {
		if sets != nil {
			words := []string{what}
			for _, s := range sets {
				words = append(words, s.String())
			}
			line("%s", strings.Join(words, " "))
		}
	}
	line("online %v", t.Online)
	if !t.Offline.Empty() {
		line("offline %v", t.Offline)
	}
	if t.Source != nil && *t.Source != "sysfs" {
		line("source %s", *t.Source)
	}
	if t.Model != nil {
		line("model %s", *t.Model)
	}
	if t.Unplaced != nil {
		line("unplaced %v", t.Unplaced)
	}
	if t.Strangers != nil {
		line("strangers %v", t.Strangers)
	}
	if t.PackageCount != nil {
		line("package_count %d", *t.PackageCount)
	}
	if t.Packages != nil {
		words := ""
		for _, p := range t.Packages {
			words += fmt.Sprintf(" %d:%v", p.ID, p.CPUs)
		}
		line("packages%s", words)
	}
	sets("packages_by_siblings", t.PackagesBySiblings)
	sets("cores", t.Cores)
	if t.ThreadsPerCore != nil {
		line("threads %d-%d", t.ThreadsPerCore.Min, t.ThreadsPerCore.Max)
	}
	if t.CoreIDsUnique != nil {
		line("core ids unique %t dense %t", *t.CoreIDsUnique, *t.CoreIDsDense)
	}
	if t.LLCs != nil {
		words := ""
		for _, l := range t.LLCs {
			name := l.From
			if l.Level != nil {
				name = fmt.Sprintf("L%d", *l.Level)
			}
			words += fmt.Sprintf(" %s:%v", name, l.CPUs)
		}
		line("llc%s", words)
	}
	for _, n := range t.Nodes {
		words := ""
		if n.MemTotal != nil {
			words = fmt.Sprintf("%d kB %v", *n.MemTotal, n.Distance)
		}
		line("node %d: %v online %v %s", n.ID, n.CPUs, n.Online, words)
	}
	for _, k := range t.Kinds.Groups {
		line("kind %d %s: %v", k.Rank, k.Label, k.CPUs)
	}
	var midr []cpuset.Set
	for _, k := range t.Kinds.ByMIDR {
		midr = append(midr, k.CPUs)
	}
	sets("by_midr", midr)
	for _, w := range warnings {
		line("warning %v", w)
	}
	return b.String()
}

func TestReadNothing(t *testing.T) {
	m, _ := sysfstest.Tree(t, "-- sys/firmware/acpi/tables/FACP --\n")
	out, err := json.Marshal(Read(sysfs.NewReader(m)))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"cores":null`, `"packages":null`, `"core_kinds":null`} {
		if !strings.Contains(string(out), want) {
			t.Errorf("a root without cpus reads as %s, want %s", out, want)
		}
	}
	if strings.Contains(string(out), `"cpus":`) {
		t.Errorf("a root without cpus has cpus: %s", out)
	}
}

func TestKinds(t *testing.T) {
	online := cpuset.Range(0, 5)
	u := func(values ...any) []Signal[uint64] { // value, list, value, list, ...
		var out []Signal[uint64]
		for i := 0; i < len(values); i += 2 {
			set, err := cpuset.Parse(values[i+1].(string))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, Signal[uint64]{uint64(values[i].(int)), set})
		}
		return out
	}
	pmu := map[string]cpuset.Set{"cpu_core": cpuset.Range(0, 3), "cpu_atom": cpuset.Range(4, 5)}
	for _, c := range []struct {
		name    string
		signals *Signals
		want    string
	}{
		{"nothing known", nil, "0-5"},
		{"hybrid, favoured P cores aside", &Signals{PMU: pmu, MaxKHz: u(3500000, "4-5", 4800000, "0-2", 5000000, "3")}, "4-5|0-3"},
		{"a PMU that leaves cpus out is no signal", &Signals{PMU: map[string]cpuset.Set{"cpu_core": cpuset.Range(0, 3)}}, "0-5"},
		{"preferred cores are one kind", &Signals{HighestPerf: u(166, "0-2", 231, "3-5"), MaxKHz: u(5300000, "0-2", 5700000, "3-5")}, "0-5"},
		{"compact cores are another", &Signals{MaxKHz: u(3300000, "2-5", 5100000, "0-1")}, "2-5|0-1"},
		{"Speed Select's base clocks are not", &Signals{BaseKHz: u(2100000, "0-2", 2800000, "3-5"), MaxKHz: u(3900000, "0-5")}, "0-5"},
		{"capacity before parts", &Signals{Capacity: u(400, "0-1", 1024, "2-5"), MIDR: []Signal[string]{{"0x410fd034", online}}}, "0-1|2-5"},
		{"a capacity that some lack is no signal", &Signals{Capacity: u(400, "0-1", 1024, "2-4"), MaxKHz: u(2000000, "0-5")}, "0-5"},
		{"parts, in order of clock", &Signals{
			MIDR:   []Signal[string]{{"0x41:0xc07", cpuset.Range(0, 2)}, {"0x41:0xc0f", cpuset.Range(3, 5)}},
			MaxKHz: u(1400000, "3-5", 1500000, "0-2"),
		}, "3-5|0-2"},
		{"parts, where clocks are equal", &Signals{
			MIDR: []Signal[string]{{"0x41:0xd41", cpuset.Range(0, 2)}, {"0x41:0xd46", cpuset.Range(3, 5)}},
		}, "3-5|0-2"},
		{"revisions are one kind", &Signals{
			MIDR: []Signal[string]{{"0x00000000410fd034", cpuset.Range(0, 2)}, {"0x00000000412fd035", cpuset.Range(3, 5)}},
		}, "0-5"},
		{"MIDRs that are none", &Signals{MIDR: []Signal[string]{{"?", cpuset.Range(0, 2)}, {"!", cpuset.Range(3, 5)}}}, "0-5"},
	} {
		top := &Topology{CPUs: CPUs{Online: online}, Signals: c.signals}
		var got []string
		for i, k := range top.kinds().Groups {
			got = append(got, k.CPUs.String())
			if k.Rank != i {
				t.Errorf("%s: kind %d has rank %d", c.name, i, k.Rank)
			}
		}
		if s := strings.Join(got, "|"); s != c.want {
			t.Errorf("%s: got %s, want %s", c.name, s, c.want)
		}
	}
}

func TestHypervisor(t *testing.T) {
	const flag = "-- proc/cpuinfo --\nprocessor : 0\nflags : fpu hypervisor\n"
	const metal = "-- proc/cpuinfo --\nprocessor : 0\nflags : fpu\n"
	const amazon = "-- sys/class/dmi/id/sys_vendor --\nAmazon EC2\n"
	for _, c := range []struct{ name, tree, want string }{
		{"flag alone", flag, "unknown"},
		{"flag and DMI", flag + amazon, "kvm"},
		{"rented metal", metal + amazon, ""},
		{"flag and clock", flag + "-- sys/devices/system/clocksource/clocksource0/available_clocksource --\nhyperv_clocksource_tsc_page acpi_pm\n", "hyperv"},
		{"arm has no flags", "-- proc/cpuinfo --\nprocessor : 0\n-- sys/class/dmi/id/product_name --\nQEMU Virtual Machine\n", "qemu"},
		{"xen's guest", "-- sys/hypervisor/type --\nxen\n", "xen"},
		{"xen's dom0", metal + "-- sys/hypervisor/type --\nxen\n-- proc/xen/capabilities --\ncontrol_d\n", ""},
		{"device tree", "-- sys/firmware/devicetree/base/hypervisor/compatible --\nlinux,kvm\x00\n", "kvm"},
	} {
		m, _ := sysfstest.Tree(t, c.tree)
		got := ""
		if h := ReadHypervisor(sysfs.NewReader(m)); h != nil {
			got = h.Name
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestCPUInfo(t *testing.T) {
	arm, err := parseCPUInfo("Processor\t: ARMv7 rev 4\nprocessor\t: 0\n\nprocessor\t: 1\n\nFeatures\t: swp\nCPU implementer\t: 0x41\nCPU part\t: 0xc0f\n")
	if err != nil || arm.part[0] != "0x41:0xc0f" || arm.part[1] != "0x41:0xc0f" {
		t.Errorf("the last block's part holds for all: %v, %v", arm.part, err)
	}
	s390, err := parseCPUInfo("vendor_id : IBM/S390\n# processors : 2\nprocessor 0: version = FF, identification = 1\nprocessor 1: version = FF\n")
	if err != nil || s390.cpus.String() != "0-1" {
		t.Errorf("s390 has cpus %v, %v", s390.cpus, err)
	}
	if _, err := parseCPUInfo("nothing"); err == nil {
		t.Error("a file without processors is no cpuinfo")
	}
}

func FuzzCPUInfo(f *testing.F) {
	f.Add("processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\nflags\t: hypervisor\n")
	f.Add("processor 0: version = FF\nCPU implementer : 0x41\nCPU part : 0xd03\n")
	f.Fuzz(func(t *testing.T, s string) {
		info, err := parseCPUInfo(s)
		if err == nil && info.cpus.Empty() {
			t.Fatalf("%q reads as no cpus and no error", s)
		}
		for c := range info.core {
			if !info.cpus.Contains(c) {
				t.Fatalf("%q: cpu %d has a core but is none", s, c)
			}
		}
	})
}

func FuzzNode(f *testing.F) {
	f.Add("Node 0 MemTotal:       16775084 kB", "10 21")
	f.Fuzz(func(t *testing.T, meminfo, distance string) {
		if kb, err := parseMemTotal(meminfo); err == nil && !strings.Contains(meminfo, fmt.Sprint(kb)) {
			t.Fatalf("%q holds %d kB?", meminfo, kb)
		}
		if d, err := parseDistance(distance); err == nil && len(d) != len(strings.Fields(distance)) {
			t.Fatalf("%q reads as %v", distance, d)
		}
	})
}

func FuzzPart(f *testing.F) {
	f.Add("0x00000000411fd461")
	f.Add("0x41:0xc0f")
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := parsePart(s); ok && id > 0xfffff {
			t.Fatalf("%q reads as %#x", s, id)
		}
	})
}

// Cores are of online threads only, and cpus of no known core are cores of their own; what
// shares a cache falls back to packages, and to all.
func TestOnlineCoresAndCacheGroups(t *testing.T) {
	topo := &Topology{Cores: Cores{cpuset.Of(0, 4), cpuset.Of(1, 5)}}
	topo.Online = cpuset.Of(0, 1, 5, 6)
	want := []cpuset.Set{cpuset.Of(0), cpuset.Of(1, 5), cpuset.Of(6)}
	if got := topo.OnlineCores(); !slices.EqualFunc(got, want, cpuset.Set.Equal) {
		t.Errorf("cores %v, want %v", got, want)
	}
	groups := func(want ...cpuset.Set) {
		t.Helper()
		if got := topo.CacheGroups(); !slices.EqualFunc(got, want, cpuset.Set.Equal) {
			t.Errorf("groups %v, want %v", got, want)
		}
	}
	groups(topo.Online)
	topo.PackagesBySiblings = []cpuset.Set{cpuset.Of(0, 1), cpuset.Of(5, 6)}
	groups(topo.PackagesBySiblings...)
	topo.LLCs = []LLC{{CPUs: cpuset.Of(0)}, {CPUs: cpuset.Of(1, 5, 6)}}
	groups(cpuset.Of(0), cpuset.Of(1, 5, 6))
}
