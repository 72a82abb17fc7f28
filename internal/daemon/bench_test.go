package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/sysfs"
)

// server lays out a machine of 128 cpus (64 cores of two threads, eight caches, a
// policy a cpu as on amd-pstate) with 200 containers, as plain files.
func server(tb testing.TB) (root string) {
	tb.Helper()
	root = tb.TempDir()
	put := func(name, value string) {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	const cpus, containers = 128, 200
	all := fmt.Sprintf("0-%d", cpus-1)
	cpu := "sys/devices/system/cpu/"
	for _, f := range []string{"online", "present", "possible"} {
		put(cpu+f, all)
	}
	stat := "cpu  100 0 0 100 0 0 0 0 0 0"
	for c := range cpus {
		core, dir := c%64, fmt.Sprintf("%scpu%d/", cpu, c)
		siblings := fmt.Sprintf("%d,%d", core, core+64)
		ccx := fmt.Sprintf("%d-%d,%d-%d", core/8*8, core/8*8+7, core/8*8+64, core/8*8+71)
		put(dir+"topology/core_id", strconv.Itoa(core))
		put(dir+"topology/physical_package_id", "0")
		put(dir+"topology/thread_siblings_list", siblings)
		put(dir+"topology/core_cpus_list", siblings)
		put(dir+"topology/package_cpus_list", all)
		for i, level := range []string{"1", "1", "2", "3"} {
			shared, kind := siblings, "Unified"
			if level == "3" {
				shared = ccx
			}
			if level == "1" {
				kind = []string{"Data", "Instruction"}[i]
			}
			put(fmt.Sprintf("%scache/index%d/level", dir, i), level)
			put(fmt.Sprintf("%scache/index%d/type", dir, i), kind)
			put(fmt.Sprintf("%scache/index%d/shared_cpu_list", dir, i), shared)
		}
		put(dir+"power/pm_qos_resume_latency_us", "0")
		for i, s := range []string{"POLL", "C1", "C2"} {
			state := fmt.Sprintf("%scpuidle/state%d/", dir, i)
			put(state+"name", s)
			put(state+"latency", []string{"0", "1", "400"}[i])
			put(state+"residency", []string{"0", "2", "800"}[i])
			put(state+"disable", "0")
			put(state+"time", "1000")
			put(state+"usage", "10")
		}
		pol := fmt.Sprintf("%scpufreq/policy%d/", cpu, c)
		put(pol+"affected_cpus", strconv.Itoa(c))
		put(pol+"related_cpus", strconv.Itoa(c))
		put(pol+"scaling_driver", "amd-pstate-epp")
		put(pol+"scaling_governor", "powersave")
		put(pol+"scaling_available_governors", "performance powersave")
		put(pol+"cpuinfo_min_freq", "400000")
		put(pol+"cpuinfo_max_freq", "3700000")
		put(pol+"amd_pstate_lowest_nonlinear_freq", "1700000")
		put(pol+"scaling_min_freq", "400000")
		put(pol+"scaling_max_freq", "3700000")
		stat += fmt.Sprintf("\ncpu%d 1000 0 0 1000 0 0 0 0 0 0", c)
	}
	put("proc/stat", stat)
	put("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0")
	put("proc/self/cgroup", "0::/")
	put("sys/class/powercap/intel-rapl:0/name", "package-0")
	put("sys/class/powercap/intel-rapl:0/energy_uj", "1000000")
	put("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "65532610987")
	cg := "sys/fs/cgroup/"
	for _, dir := range []string{cg, cg + "powerd/"} {
		put(dir+"cgroup.controllers", "cpuset cpu io memory pids")
		put(dir+"cgroup.subtree_control", "cpuset cpu")
		put(dir+"cpuset.cpus.effective", all)
	}
	for i := range containers {
		dir := fmt.Sprintf("%spowerd/%s-%d/", cg, []string{"batch", "latency", "c"}[i%3], i)
		put(dir+"cpu.stat", "usage_usec 1000000\nuser_usec 1000000\nsystem_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0")
		put(dir+"cpuset.cpus", "")
		put(dir+"cpu.max", "max 100000")
		put(dir+"cgroup.procs", "1")
	}
	return root
}

// BenchmarkTick is observe, decide, apply and account on 128 cpus and 200
// containers, nothing changing ("steady") or every container's load ("moving").
func BenchmarkTick(b *testing.B) {
	for _, moving := range []bool{false, true} {
		name := map[bool]string{false: "steady", true: "moving"}[moving]
		b.Run(name, func(b *testing.B) {
			root := server(b)
			m, err := sysfs.Host(root)
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			j, err := sysfs.OpenJournal(b.TempDir(), m, root, "boot")
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			d := New(Options{FS: m, Label: "bench", Journal: j, Config: policy(b)})
			now := time.Now()
			d.Look(now)
			tick := func() {
				now = now.Add(time.Second)
				s := d.Tick(now)
				if len(s.Outcome.Failures) > 0 || len(s.Containers) != 200 {
					b.Fatalf("%d containers, failures %+v", len(s.Containers), s.Outcome.Failures)
				}
			}
			for range 5 {
				tick()
			}
			writes := d.counters.Writes
			usage := 1000000
			b.ReportAllocs()
			var spent time.Duration
			for b.Loop() {
				if moving {
					b.StopTimer()
					usage += 300000
					for i := range 200 {
						dir := fmt.Sprintf("sys/fs/cgroup/powerd/%s-%d/", []string{"batch", "latency", "c"}[i%3], i)
						value := fmt.Sprintf("usage_usec %d\nuser_usec 0\nsystem_usec 0", usage+(usage/300000*7919*i)%200000)
						if err := m.WriteFile(dir+"cpu.stat", []byte(value+strings.Repeat("\n", 100-len(value)))); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
				}
				began := cpuTime()
				tick()
				spent += cpuTime() - began
			}
			b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/tick")
			b.ReportMetric(float64(d.counters.Writes-writes)/float64(b.N), "writes/tick")
			debug.FreeOSMemory()
			b.ReportMetric(rss(b), "RSS-MiB")
		})
	}
}

// rss is this process' resident memory.
func rss(tb testing.TB) float64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		tb.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	if err != nil {
		tb.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}
