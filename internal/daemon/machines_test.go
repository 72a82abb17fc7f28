package daemon

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/sysfs"
)

var update = flag.Bool("update", false, "write testdata/plans anew")

// A box is the files of a machine as one that was captured has them: they answer
// reads, and take writes without a kernel behind.
type box map[string]string

const cpuFiles = "sys/devices/system/cpu/"

// cpu adds a cpu's topology.
func (b box) cpu(c int, siblings, llc, pkg string, idle ...string) {
	dir := fmt.Sprintf("%scpu%d/", cpuFiles, c)
	first, _, _ := strings.Cut(strings.ReplaceAll(siblings, "-", ","), ",")
	b[dir+"topology/core_id"] = first
	b[dir+"topology/physical_package_id"] = "0"
	b[dir+"topology/thread_siblings_list"] = siblings
	b[dir+"topology/core_cpus_list"] = siblings
	b[dir+"topology/package_cpus_list"] = pkg
	for i, level := range []string{"1", "2", "3"} {
		index := fmt.Sprintf("%scache/index%d/", dir, i)
		b[index+"level"], b[index+"type"], b[index+"shared_cpu_list"] = level, "Unified", siblings
		if level == "3" {
			b[index+"shared_cpu_list"] = llc
		}
	}
	b[dir+"power/pm_qos_resume_latency_us"] = "0"
	for i, s := range append([]string{"POLL 0"}, idle...) {
		name, latency, _ := strings.Cut(s, " ")
		state := fmt.Sprintf("%scpuidle/state%d/", dir, i)
		b[state+"name"], b[state+"latency"], b[state+"residency"] = name, latency, latency+"0"
		b[state+"disable"], b[state+"time"], b[state+"usage"] = "0", "1000", "10"
	}
}

// policy adds a cpufreq policy.
func (b box) policy(id int, cpus, driver, governor, min, max string, more ...string) {
	dir := fmt.Sprintf("%scpufreq/policy%d/", cpuFiles, id)
	b[dir+"affected_cpus"], b[dir+"related_cpus"] = cpus, cpus
	b[dir+"scaling_driver"], b[dir+"scaling_governor"] = driver, governor
	b[dir+"scaling_available_governors"] = "performance " + governor
	b[dir+"cpuinfo_min_freq"], b[dir+"cpuinfo_max_freq"] = min, max
	b[dir+"scaling_min_freq"], b[dir+"scaling_max_freq"] = min, max
	for i := 0; i < len(more); i += 2 {
		b[dir+more[i]] = more[i+1]
	}
}

// finish adds what every machine has, with containers.
func (b box) finish(cpus, containers int) box {
	all := fmt.Sprintf("0-%d", cpus-1)
	b[cpuFiles+"online"], b[cpuFiles+"present"], b[cpuFiles+"possible"] = all, all, all
	b.load(cpus, 1000)
	b["proc/self/mounts"] = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"
	b["proc/self/cgroup"] = "0::/"
	cg := "sys/fs/cgroup/"
	for _, dir := range []string{cg, cg + "powerd/"} {
		b[dir+"cgroup.controllers"] = "cpuset cpu io memory pids"
		b[dir+"cgroup.subtree_control"] = "cpuset cpu"
		b[dir+"cpuset.cpus.effective"] = all
	}
	for i := range containers {
		dir := cg + nameOf(i) + "/"
		b[dir+"cpu.stat"] = "usage_usec 1000000\nuser_usec 1000000\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0"
		b[dir+"cpuset.cpus"], b[dir+"cpu.max"], b[dir+"cgroup.procs"] = "", "max 100000", "1"
	}
	return b
}

func nameOf(container int) string {
	return fmt.Sprintf("powerd/%s-%d", []string{"batch", "latency", "c"}[container%3], container)
}

// load sets /proc/stat: jiffies busy and idle alike since boot.
func (b box) load(cpus, jiffies int) {
	stat := "cpu  100 0 0 100 0 0 0 0 0 0"
	for c := range cpus {
		stat += fmt.Sprintf("\ncpu%d %d 0 0 %d 0 0 0 0 0 0", c, jiffies, jiffies)
	}
	b["proc/stat"] = stat
}

func (b box) lay(tb testing.TB) (root string) {
	tb.Helper()
	root = tb.TempDir()
	for name, value := range b {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

// server is 64 cores of two threads with eight caches and a policy a cpu, as an
// EPYC under amd-pstate, and 200 containers.
func server() box {
	b := box{}
	for c := range 128 {
		core := c % 64
		siblings, ccx := fmt.Sprintf("%d,%d", core, core+64), fmt.Sprintf("%d-%d,%d-%d", core/8*8, core/8*8+7, core/8*8+64, core/8*8+71)
		b.cpu(c, siblings, ccx, "0-127", "C1 1", "C2 400")
		b.policy(c, strconv.Itoa(c), "amd-pstate-epp", "powersave", "400000", "3700000", "amd_pstate_lowest_nonlinear_freq", "1700000")
	}
	b["sys/class/powercap/intel-rapl:0/name"] = "package-0"
	b["sys/class/powercap/intel-rapl:0/energy_uj"] = "1000000"
	b["sys/class/powercap/intel-rapl:0/max_energy_range_uj"] = "65532610987"
	return b.finish(128, 200)
}

// hybrid is a laptop of two P-cores with two threads and four E-cores, under
// intel_pstate, one cache for all.
func hybrid() box {
	b := box{}
	for c := range 8 {
		siblings, max := strconv.Itoa(c), "3300000"
		if c < 4 {
			siblings, max = fmt.Sprintf("%d-%d", c/2*2, c/2*2+1), "4700000"
		}
		b.cpu(c, siblings, "0-7", "0-7", "C1E 2", "C6 220", "C10 680")
		b.policy(c, strconv.Itoa(c), "intel_pstate", "powersave", "400000", max, "base_frequency", "1800000")
	}
	b["sys/devices/cpu_core/cpus"], b["sys/devices/cpu_atom/cpus"] = "0-3", "4-7"
	return b.finish(8, 3)
}

// phone is four little and four big cores with a clock for each kind.
func phone() box {
	b := box{}
	for c := range 8 {
		kind := c / 4 * 4
		cluster := fmt.Sprintf("%d-%d", kind, kind+3)
		b.cpu(c, strconv.Itoa(c), cluster, "0-7", "WFI 1", "cpu-sleep 370")
		b[fmt.Sprintf("%scpu%d/cpu_capacity", cpuFiles, c)] = []string{"416", "1024"}[c/4]
	}
	b.policy(0, "0 1 2 3", "cpufreq-dt", "schedutil", "408000", "1416000", "scaling_available_frequencies", "408000 816000 1008000 1200000 1416000")
	b.policy(4, "4 5 6 7", "cpufreq-dt", "schedutil", "408000", "1800000", "scaling_available_frequencies", "408000 816000 1200000 1416000 1608000 1800000")
	return b.finish(8, 3)
}

// virtual is a guest whose hypervisor keeps clocks and idle states to itself.
func virtual() box {
	b := box{}
	for c := range 4 {
		b.cpu(c, strconv.Itoa(c), "0-3", "0-3")
	}
	return b.finish(4, 3)
}

// Golden plans: what the daemon decides on captured machines, with its reasons.
// go test ./internal/daemon -run Golden -update writes them anew: read the diff.
func TestGoldenPlans(t *testing.T) {
	for _, m := range []struct {
		name  string
		make  func() box
		cpus  int
		usage []time.Duration // in the second looked at, by container
	}{
		{"server", server, 128, []time.Duration{700 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond}},
		{"server-idle", server, 128, []time.Duration{0}},
		{"hybrid", hybrid, 8, []time.Duration{time.Second, 100 * time.Millisecond, 300 * time.Millisecond}},
		{"phone", phone, 8, []time.Duration{time.Second, 100 * time.Millisecond, 300 * time.Millisecond}},
		{"virtual", virtual, 4, []time.Duration{900 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond}},
	} {
		t.Run(m.name, func(t *testing.T) {
			b := m.make()
			root := b.lay(t)
			fs, err := sysfs.Host(root)
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			d := New(Options{FS: fs, Label: m.name, Config: policy(t)})
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			d.Look(now)
			var total time.Duration
			for i := 0; b["sys/fs/cgroup/"+nameOf(i)+"/cpu.stat"] != ""; i++ {
				used := m.usage[i%len(m.usage)]
				total += used
				stat := fmt.Sprintf("usage_usec %d\nuser_usec 0\nsystem_usec 0\n", 1000000+used.Microseconds())
				if err := os.WriteFile(filepath.Join(root, "sys/fs/cgroup", nameOf(i), "cpu.stat"), []byte(stat), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b.load(m.cpus, 1000+int(total/time.Duration(m.cpus)/(10*time.Millisecond)))
			if err := os.WriteFile(filepath.Join(root, "proc/stat"), []byte(b["proc/stat"]+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			s := d.Tick(now.Add(time.Second))
			d.invariants(t, s)
			got := goldenOf(s)
			file := filepath.Join("testdata/plans", m.name+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the plan has changed:\n%s", diff)
			}
		})
	}
}

// goldenOf prints a plan, one line for all that are alike.
func goldenOf(s *Snapshot) string {
	var out strings.Builder
	for _, p := range s.Plan.Pools {
		fmt.Fprintf(&out, "pool %s: %s on %s (%d cores), %.2f of demand: %s\n", p.Class, p.Mode, p.CPUs, p.Cores, p.Demand, p.Reason)
	}
	seen := map[string]bool{}
	line := func(format string, args ...any) {
		if l := fmt.Sprintf(format, args...); !seen[l] {
			seen[l] = true
			out.WriteString(l)
		}
	}
	for _, b := range s.Plan.Bands {
		line("band %v to %v, critical %d kHz: %s\n", b.Floor, b.Ceiling, b.CriticalKHz, b.Reason)
	}
	for _, a := range s.Plan.Assignments {
		limit := "as it is"
		if a.Limit != nil {
			limit = cpuMax(*a.Limit, a.Period)
		}
		line("class %s: cpus %v, cpu.max %s: %s\n", a.Class, a.CPUs, limit, a.Reason)
	}
	for _, b := range s.Plan.Idle {
		fmt.Fprintf(&out, "idle %s: wake within %v: %s\n", b.CPUs, b.MaxExit, b.Reason)
	}
	fmt.Fprintf(&out, "writes: %d\n", len(s.Outcome.Done))
	for _, f := range s.Outcome.Failures {
		fmt.Fprintf(&out, "cannot set %s to %s: %s\n", f.File, f.Value, f.Problem)
	}
	return out.String()
}
