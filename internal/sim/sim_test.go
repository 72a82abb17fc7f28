package sim

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// ladder is three OPPs, 1 to 3 GHz, at 1, 4 and 9 W busy (0.5 W of it static).
func ladder() cpufreq.Curve {
	var c cpufreq.Curve
	for i := 1.0; i <= 3; i++ {
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: units.Frequency(i * 1e6), Speed: i / 3, Dynamic: units.Power((i*i - 0.5) * 1e6), Static: 0.5e6})
	}
	return c
}

func c6() []cstates.Model {
	return []cstates.Model{{Name: "C1", Power: 0.2e6, Residency: 1e-6}, {Name: "C6", Power: 0.1e6, Exit: 0, Residency: 100e-6}}
}

func machine(t testing.TB, c Config) *Machine {
	t.Helper()
	if c.Spec.Clusters == nil {
		c.Spec = FromCurve("test", ladder(), c6(), 1, 2, 1*units.Watt)
	}
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *Machine) set(t testing.TB, name, value string) {
	t.Helper()
	if err := m.WriteFile(name, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

func (m *Machine) get(t testing.TB, name string) string {
	t.Helper()
	b, err := m.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// One batch of 1 s of work on one of two cores at 1 GHz (a third of the speed):
// it takes 3 s at 1 W, the cluster awake (1 W); the other core and the last
// second are slept at 0.1 W a core and 0.02 W for the cluster.
func TestEnergyByHand(t *testing.T) {
	m := machine(t, Config{Governor: "powersave", Workloads: []Workload{{Cgroup: "a", Work: time.Second}}})
	m.set(t, cpuDir+"/cpufreq/policy0/scaling_governor", "powersave")
	m.Advance(4 * time.Second)
	total, base, groups := m.Energy()
	if math.Abs(float64(groups["a"])-3e9) > 10 {
		t.Errorf("the batch used %d nJ, want 3e9", groups["a"])
	}
	want := 3e9*1 + 1e9*0.02 + 0.1*1e9 + 0.1*4e9
	if math.Abs(float64(base)-want) > 10 || total != base+groups["a"] {
		t.Errorf("base %d nJ, want %.0f; total %d", base, want, total)
	}
	if j := m.Jobs()["a"]; j.Done != 1 || j.Quantile(0.99) != 3*time.Second || j.Work != time.Second {
		t.Errorf("%+v", j)
	}
	if got := m.get(t, raplDir+"/energy_uj"); got != fmt.Sprint(total/1000) {
		t.Errorf("the meter reads %s, the truth is %d nJ", got, total)
	}
}

// The governors, by hand (energy.md 1.5): a load of 40 % at 3 GHz.
func TestGovernors(t *testing.T) {
	for governor, want := range map[string]int{
		"performance": 2,
		"powersave":   0,
		"schedutil":   1, // 1.25 x 0.4 x 3 GHz = 1.5 GHz: 2 GHz
		"ondemand":    1, // 1 + 0.4 x 2 = 1.8 GHz: 2 GHz is nearest
	} {
		m := machine(t, Config{Governor: governor})
		d := m.domains[0]
		m.choose(d, 0.4, 0.4)
		if d.opp != want {
			t.Errorf("%s chooses OPP %d, want %d", governor, d.opp, want)
		}
	}
	m := machine(t, Config{Governor: "ondemand"})
	d := m.domains[0]
	if m.choose(d, 0.96, 0); d.opp != 2 {
		t.Errorf("ondemand above its threshold chooses %d", d.opp)
	}
	if m.choose(d, 0.25, 0); d.opp != 0 { // 1.5 GHz is as near to 1 as to 2: the lower
		t.Errorf("ondemand's tie chooses %d", d.opp)
	}
	m = machine(t, Config{Governor: "conservative"})
	d = m.domains[0]
	m.setOPP(d, 0)
	for _, step := range []struct {
		load float64
		opp  int
	}{{0.9, 0}, {0.9, 0}, {0.9, 0}, {0.9, 0}, {0.9, 0}, {0.9, 0}, {0.9, 1}, {0.5, 1}, {0.1, 1}, {0.1, 1}, {0.1, 1}, {0.1, 1}, {0.1, 1}, {0.1, 1}, {0.1, 0}} {
		// From 1 GHz by 5 % of 3 GHz: 2 GHz is reached at 2.05, and left at 1 again.
		if m.choose(d, step.load, 0); d.opp != step.opp {
			t.Errorf("conservative at a load of %g and a wish of %g kHz is at %d, want %d", step.load, d.wish, d.opp, step.opp)
		}
	}
}

// A clock of one cpu that has not idled is not lowered by schedutil.
func TestSchedutilHolds(t *testing.T) {
	spec := FromCurve("test", ladder(), c6(), 1, 1, units.Watt)
	m := machine(t, Config{Spec: spec})
	d := m.domains[0]
	if m.choose(d, 1, 0.1); d.opp != 2 {
		t.Errorf("busy all the time, its clock is lowered to %d", d.opp)
	}
	if m.choose(d, 0.9, 0.1); d.opp != 0 {
		t.Errorf("having idled, its clock is %d", d.opp)
	}
}

// Jobs that come from outside are a surprise to the idle governor until it has seen
// eight gaps; those of a timer are not.
func TestIdlePrediction(t *testing.T) {
	for timer, want := range map[bool]uint64{true: 0, false: 9} {
		every := func(*rand.Rand) func() (Job, bool) {
			n := 0
			return func() (Job, bool) {
				n++
				return Job{At: time.Duration(n) * 50 * time.Microsecond, Work: 10 * time.Microsecond}, n <= 100
			}
		}
		m := machine(t, Config{Governor: "performance", Workloads: []Workload{{Cgroup: "a", Jobs: every, Timer: timer}}})
		before := m.cpus[0].stays[1].usage
		m.Advance(4 * time.Millisecond) // C6 would pay from 100 us
		if got := m.cpus[0].stays[1].usage - before; got > want || !timer && got < 7 {
			t.Errorf("timer %v: C6 was entered %d times in gaps of 40 us, want %d", timer, got, want)
		}
	}
}

// Containers come and go; what they did is still told, and every joule kept.
func TestStartAndEnd(t *testing.T) {
	m := machine(t, Config{Workloads: []Workload{{Cgroup: "p/a", Period: 10 * time.Millisecond, Work: time.Millisecond}}})
	for range 5 {
		if err := m.Start(Workload{Cgroup: "p/b", Period: 20 * time.Millisecond, Work: 30 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		m.Advance(time.Second)
		if err := m.End("p/b"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.ReadFile(cgroupDir + "/p/b/cpu.stat"); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("the cgroup is still there: %v", err)
		}
	}
	j := m.Jobs()["p/b"]
	if j.Done < 150 || j.Missed < 200 || j.Work > 5*time.Second || j.Work < 4*time.Second {
		t.Errorf("done %d, missed %d, work %v", j.Done, j.Missed, j.Work)
	}
	total, base, groups := m.Energy()
	for _, e := range groups {
		base += e
	}
	if base != total {
		t.Errorf("parts %d, total %d", base, total)
	}
	if err := m.End("p/none"); err == nil {
		t.Error("a cgroup that is not there is ended")
	}
}

// What a kernel refuses, by the errnos that the testbed saw
// (internal/testbed/testdata/errnos.txt).
func TestRefusals(t *testing.T) {
	m := machine(t, Config{Workloads: []Workload{{Cgroup: "t", Period: 10 * time.Millisecond, Work: time.Millisecond}}})
	pol, cg := cpuDir+"/cpufreq/policy0/", cgroupDir+"/t/"
	for _, tt := range []struct {
		file, value string
		err         error
		reads       string
	}{
		{pol + "scaling_max_freq", "garbage", syscall.EINVAL, "3000000"},
		{pol + "scaling_max_freq", "2500000", nil, "2000000"},
		{pol + "scaling_min_freq", "3000000", nil, "2000000"},
		{pol + "scaling_max_freq", "9999999", nil, "3000000"},
		{pol + "scaling_min_freq", "1100000", nil, "2000000"},
		{pol + "scaling_min_freq", "1", nil, "1000000"},
		{pol + "scaling_governor", "nonesuch", syscall.EINVAL, "schedutil"},
		{pol + "scaling_setspeed", "1000000", syscall.EINVAL, "<unsupported>"},
		{pol + "related_cpus", "0", syscall.EACCES, "0 1"},
		{cpuDir + "/cpu1/cpuidle/state1/disable", "2", nil, "1"},
		{cpuDir + "/cpu1/cpuidle/state1/disable", "-1", syscall.EINVAL, "1"},
		{cpuDir + "/cpu1/power/pm_qos_resume_latency_us", "n/a", nil, "n/a"},
		{cpuDir + "/cpu1/power/pm_qos_resume_latency_us", "2147483647", syscall.EINVAL, "n/a"},
		{cpuDir + "/cpu1/online", "2", syscall.EINVAL, "1"},
		{cg + "cpu.max", "999", syscall.EINVAL, "max 100000"},
		{cg + "cpu.max", "50000 999", syscall.EINVAL, "max 100000"},
		{cg + "cpu.max", "50000 1000001", syscall.EINVAL, "max 100000"},
		{cg + "cpu.max", "50000 100000", nil, "50000 100000"},
		{cg + "cpu.max", "max", nil, "max 100000"},
		{cg + "cpu.weight", "10001", syscall.ERANGE, "100"},
		{cg + "cpuset.cpus", "1-0", syscall.EINVAL, ""},
		{cg + "cpuset.cpus", "7", syscall.ERANGE, ""},
		{cg + "cpuset.cpus", "1", nil, "1"},
		{cg + "cpuset.cpus", "", nil, "1"},
		{cg + "cpuset.cpus", "\n", syscall.ENOSPC, "1"},
		{cg + "cgroup.procs", "99999", syscall.ESRCH, "1000"},
		{cg + "cgroup.subtree_control", "+nonesuch", syscall.EINVAL, ""},
		{cg + "cgroup.subtree_control", "+cpu", nil, "cpu"},
		{cg + "cgroup.subtree_control", "+memory", syscall.ENOENT, "cpu"},
	} {
		if err := m.WriteFile(tt.file, []byte(tt.value)); !errors.Is(err, tt.err) && (err != nil || tt.err != nil) {
			t.Errorf("%s < %q: %v, want %v", tt.file, tt.value, err, tt.err)
		}
		if got := m.get(t, tt.file); got != tt.reads {
			t.Errorf("%s < %q: reads %q, want %q", tt.file, tt.value, got, tt.reads)
		}
	}
	m.set(t, cpuDir+"/cpu1/online", "0")
	if _, err := m.ReadFile(cpuDir + "/cpu1/topology/core_id"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("an offline cpu's core_id: %v", err)
	}
	for name, want := range map[string]error{cgroupDir + "/t": syscall.EBUSY, cgroupDir + "/none": syscall.ENOENT} {
		if err := m.Remove(name); !errors.Is(err, want) {
			t.Errorf("rmdir %s: %v", name, err)
		}
	}
	if err := m.Mkdir(cgroupDir + "/t"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("mkdir twice: %v", err)
	}
	if err := m.WriteFile("sys/none", []byte("1")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// cpu.max: a quota of 0.2 cpus lets an endless task use 0.2 s a second.
func TestQuota(t *testing.T) {
	m := machine(t, Config{Workloads: []Workload{{Cgroup: "t"}}})
	m.set(t, cgroupDir+"/t/cpu.max", "20000 100000")
	m.Advance(10 * time.Second)
	g := m.find("t")
	if got := g.used(m.now).Seconds(); math.Abs(got-2) > 0.05 {
		t.Errorf("used %g s of 10, want 2", got)
	}
	if g.stops < 95 || g.waited < 7*time.Second {
		t.Errorf("throttled %d times for %v", g.stops, g.waited)
	}
	m.set(t, cgroupDir+"/t/cpu.max", "max")
	m.Advance(10 * time.Second)
	if got := m.find("t").used(m.now).Seconds(); math.Abs(got-12) > 0.1 {
		t.Errorf("without the quota used %g s, want 12", got)
	}
}

// cpuset.cpus confines, and an offline cpu's tasks go elsewhere.
func TestCpuset(t *testing.T) {
	m := machine(t, Config{Workloads: []Workload{{Cgroup: "t", Threads: 2}}})
	m.set(t, cgroupDir+"/t/cpuset.cpus", "1")
	m.Advance(time.Second)
	if a, b := m.busyFor(m.cpus[0]), m.busyFor(m.cpus[1]); a > 5*time.Millisecond || b < 990*time.Millisecond {
		t.Errorf("cpu0 was busy %v, cpu1 %v", a, b)
	}
	m.set(t, cpuDir+"/cpu1/online", "0")
	m.Advance(time.Second)
	if got := m.busyFor(m.cpus[0]); got < 990*time.Millisecond {
		t.Errorf("with cpu1 offline cpu0 was busy %v", got)
	}
}

// hostile is a machine on which everything goes wrong.
func hostile(seed uint64) Config {
	spec := FromCurve("hostile", ladder(), c6(), 2, 3, 1*units.Watt)
	spec.Range = 5e6
	return Config{Seed: seed, Spec: spec, Governor: governors[seed%uint64(len(governors))], Workloads: []Workload{
		{Cgroup: "p/a", Period: 16 * time.Millisecond, Work: 4 * time.Millisecond},
		{Cgroup: "p/b", Period: 30 * time.Millisecond, Work: 9 * time.Millisecond, Poisson: true, Threads: 3, CPUBound: 0.6},
		{Cgroup: "q", Threads: 1},
	}, Faults: Faults{Write: 0.05, Meter: 0.1, Foreign: 0.2, Hotplug: 0.1, Churn: 0.1}}
}

// Whatever happens, the parts sum to the meter to the nanojoule; and one seed
// makes one history.
func TestConservationAndDeterminism(t *testing.T) {
	for seed := range uint64(12) {
		var histories [2]string
		for k := range histories {
			m := machine(t, hostile(seed))
			for range 40 {
				m.Advance(500 * time.Millisecond)
				total, base, groups := m.Energy()
				sum := base
				for _, e := range groups {
					sum += e
				}
				if sum != total {
					t.Fatalf("seed %d at %v: parts %d, total %d", seed, m.Elapsed(), sum, total)
				}
			}
			knobs := m.Knobs()
			for _, name := range slices.Sorted(maps.Keys(knobs)) {
				histories[k] += name + "=" + knobs[name] + "\n"
			}
			histories[k] += fmt.Sprintln(m.Energy())
		}
		if diff := cmp.Diff(histories[0], histories[1]); diff != "" {
			t.Fatalf("seed %d has two histories: %s", seed, diff)
		}
	}
}

// What is read, and where Advance is cut, changes nothing: not a nanojoule.
func TestReadsChangeNothing(t *testing.T) {
	for seed := range uint64(12) {
		var histories [2]string
		for k := range histories {
			c := hostile(seed)
			c.Faults = Faults{Foreign: 0.2, Hotplug: 0.1, Churn: 0.1} // of reads and writes chance is consumed
			m := machine(t, c)
			m.set(t, cgroupDir+"/p/cpu.max", "70000 100000")
			m.set(t, cgroupDir+"/p/b/cpu.weight", "30")
			if k == 0 {
				m.Advance(40 * time.Second)
			}
			for step := 0; m.Elapsed() < 40*time.Second; step++ {
				m.Advance(min(time.Duration(1+step*step%1999)*time.Millisecond/3, 40*time.Second-m.Elapsed()))
				for name := range m.files {
					m.ReadFile(name) //nolint:errcheck // of an offline cpu
				}
				m.Energy()
				m.Jobs()
				m.Activity()
				m.Knobs()
			}
			knobs := m.Knobs()
			for _, name := range slices.Sorted(maps.Keys(m.files)) {
				data, err := m.ReadFile(name)
				histories[k] += fmt.Sprintln(name, string(data), err, knobs[name])
			}
			total, base, groups := m.Energy()
			histories[k] += fmt.Sprintln(total, base, groups, m.Activity())
			jobs := m.Jobs()
			for _, name := range slices.Sorted(maps.Keys(jobs)) {
				histories[k] += fmt.Sprintln(name, jobs[name])
			}
		}
		if diff := cmp.Diff(histories[0], histories[1]); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

// A queue gives what a sorted list would.
func TestQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	q := newQueue(0, 3)
	at := map[int]time.Duration{}
	for range 20000 {
		id, when := rng.IntN(100), time.Duration(rng.IntN(50))
		if rng.IntN(3) == 0 {
			when = never
		}
		q.set(id, when)
		at[id] = when
		want := due{at: never}
		for id, when := range at {
			if when < want.at || when == want.at && id < want.id {
				want = due{when, id}
			}
		}
		if q.at(id) != when || q.next.at != want.at || want.at < never && q.next.id != want.id {
			t.Fatalf("next is %+v, want %+v", q.next, want)
		}
	}
}

// Sums are those of whole numbers, in pieces of any length.
func TestSum(t *testing.T) {
	rate := scaled(1.0 / 3)
	var pieces sum
	for range 1000 {
		pieces = pieces.plus(rate, 3*time.Hour)
	}
	if all := (sum{}).plus(rate, 3000*time.Hour); pieces != all || all.whole()-int64(1000*time.Hour) > 100 {
		t.Errorf("%v in pieces, %v at once", pieces.whole(), all.whole())
	}
	for _, tt := range []struct {
		left int64
		rate float64
		want time.Duration
	}{{0, 1, 0}, {1e9, 1, 1e9}, {1e9, 1.0 / 3, 3e9}, {1, 0.3, 4}, {1, 0, never}, {int64(never), 1e-9, never}} {
		if got := after(0, sumOf(tt.left).over(scaled(tt.rate))); got != tt.want {
			t.Errorf("%d at %g lasts %d, want %d", tt.left, tt.rate, got, tt.want)
		}
	}
	if got := sumOf(5).minus(sumOf(7)); got != (sum{}) {
		t.Errorf("5 - 7 = %v", got.whole())
	}
}

// Who waits for quota and is moved out of it runs.
func TestMovedWhileThrottled(t *testing.T) {
	m := machine(t, Config{Workloads: []Workload{{Cgroup: "t"}, {Cgroup: "free", Period: time.Hour, Work: 1}}})
	m.set(t, cgroupDir+"/t/cpu.max", "1000 1000000")
	m.Advance(500 * time.Millisecond)
	m.set(t, cgroupDir+"/free/cgroup.procs", "1000")
	m.Advance(time.Second)
	if got := m.find("free").used(m.now); got < 999*time.Millisecond {
		t.Errorf("it ran %v of a second", got)
	}
	m.Advance(time.Second)
	if n := len(m.cpus[0].runnable) + len(m.cpus[1].runnable); n != 1 {
		t.Errorf("one task runs %d times", n)
	}
}

// Masks and queues hold more cpus than a word has bits.
func TestManyCPUs(t *testing.T) {
	spec := FromCurve("wide", ladder(), c6(), 10, 16, units.Watt)
	for i := range spec.Clusters {
		spec.Clusters[i].Threads = 2
	}
	m := machine(t, Config{Spec: spec, Workloads: []Workload{{Cgroup: "a", Threads: 200}, {Cgroup: "b", Threads: 3}}})
	m.set(t, cgroupDir+"/a/cpuset.cpus", "0-199")
	m.set(t, cgroupDir+"/b/cpuset.cpus", "300,302-303")
	m.Advance(time.Second)
	if a, b := m.find("a").used(m.now), m.find("b").used(m.now); a < 199*time.Second || b < 2990*time.Millisecond {
		t.Errorf("a ran %v, b %v", a, b)
	}
	if busy := m.busyFor(m.cpus[300]) + m.busyFor(m.cpus[302]) + m.busyFor(m.cpus[303]); busy < 2990*time.Millisecond {
		t.Errorf("b's cpus were busy for %v", busy)
	}
}

func FuzzWrite(f *testing.F) {
	f.Add(uint8(0), "1000000")
	f.Add(uint8(9), "max 100000")
	f.Add(uint8(20), "+cpuset -cpu")
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		m := machine(t, Config{Workloads: []Workload{{Cgroup: "p/a", Period: 16 * time.Millisecond, Work: 4 * time.Millisecond}}})
		knobs := m.Knobs()
		names := slices.Sorted(maps.Keys(knobs))
		m.WriteFile(names[int(which)%len(names)], []byte(value)) //nolint:errcheck // it must only not panic
		m.Advance(200 * time.Millisecond)
	})
}

// BenchmarkAdvance tells how many times faster than real a machine of 8 cpus with
// 12 tasks runs.
func BenchmarkAdvance(b *testing.B) {
	spec := FromCurve("bench", ladder(), c6(), 2, 4, 1*units.Watt)
	c := Config{Spec: spec}
	for i := range 12 {
		c.Workloads = append(c.Workloads, Workload{Cgroup: fmt.Sprint("c", i), Period: 16 * time.Millisecond, Work: 4 * time.Millisecond})
	}
	m := machine(b, c)
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		m.Advance(100 * time.Millisecond)
	}
	b.ReportMetric(m.Elapsed().Seconds()/b.Elapsed().Seconds(), "x-real-time")
	b.ReportMetric(m.Elapsed().Seconds()/(cpuTime(b)-began).Seconds(), "x-cpu-time")
}

// BenchmarkServer is a machine of 64 cpus in eight clusters with 200 containers, whose
// jobs are as long as those of internal/loads and come less often: together they keep a
// quarter of the cpus busy.
func BenchmarkServer(b *testing.B) {
	const ms, us = time.Millisecond, time.Microsecond
	idle := []cstates.Model{{Name: "C1", Power: 0.2e6, Exit: 2e-6, Residency: 2e-6}, {Name: "C6", Power: 0.1e6, Exit: 130e-6, Residency: 600e-6, Transition: 90}}
	periodic := []Workload{{Period: 15 * ms, Work: 600 * us}, {Period: 41667 * us, Work: 4 * ms}, {Period: 83333 * us, Work: 9 * ms}}
	for _, governor := range []string{"schedutil", "performance"} {
		b.Run(governor, func(b *testing.B) {
			c := Config{Spec: FromCurve("server", ladder(), idle, 8, 8, 1*units.Watt), Governor: governor}
			for i := range 200 {
				var w Workload
				switch i % 3 {
				case 0:
					w = periodic[i/3%3]
				case 1: // requests, at random
					w = Workload{Threads: 2, CPUBound: 0.8, Jobs: func(rng *rand.Rand) func() (Job, bool) {
						at := time.Duration(0)
						return func() (Job, bool) {
							at += time.Duration(rng.ExpFloat64() * float64(100*ms))
							return Job{At: at, Work: 2*ms + time.Duration(rng.ExpFloat64()*float64(2*ms))}, true
						}
					}}
				case 2: // a batch
					work := time.Duration(800+i*12) * ms
					w = Workload{Period: work * 25 / 2, Work: work, CPUBound: []float64{1, 0.8, 0.5}[i/3%3]}
				}
				w.Cgroup = fmt.Sprint("powerd/c", i)
				c.Workloads = append(c.Workloads, w)
			}
			m := machine(b, c)
			m.Advance(time.Minute)
			before, began, spent := m.served(), m.Elapsed(), cpuTime(b)
			b.ReportAllocs()
			for b.Loop() {
				m.Advance(time.Second)
			}
			spent = cpuTime(b) - spent
			jobs, span := m.served(), (m.Elapsed() - began).Seconds()
			b.ReportMetric(span/b.Elapsed().Seconds(), "x-real-time")
			b.ReportMetric(span/spent.Seconds(), "x-cpu-time")
			b.ReportMetric(float64(jobs.Done-before.Done)/span, "jobs/s")
			b.ReportMetric(100*(jobs.Work-before.Work).Seconds()/span/64, "%-busy")
		})
	}
}

// cpuTime is what this process has used: on a busy machine a truer measure than the clock.
func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// served sums up what came of all workloads.
func (m *Machine) served() (all Jobs) {
	for _, j := range m.Jobs() {
		all.Done += j.Done
		all.Work += j.Work
	}
	return all
}

// The kernel spreads what starts over the caches, and wakes it where it ran.
func TestPlacementOfTheKernel(t *testing.T) {
	spec := FromCurve("test", ladder(), c6(), 2, 2, units.Watt)
	m := machine(t, Config{Spec: spec, Governor: "performance", Workloads: []Workload{{Cgroup: "a"}, {Cgroup: "b"}, {Cgroup: "c", Period: 10 * time.Millisecond, Work: time.Millisecond}}})
	m.Advance(100 * time.Millisecond)
	where := map[string]int{}
	for _, task := range m.tasks {
		where[task.w.Cgroup] = int(task.last.id)
	}
	if where["a"] != 0 || where["b"] != 2 || where["c"] != 1 {
		t.Errorf("a, b, c run on cpus %v, want 0, 2 (the other cache) and 1", where)
	}
}

// Groups' periods interleave, and go together from then on that both had one of a
// millisecond at the same time: both run and both are stopped.
func TestPeriods(t *testing.T) {
	for _, begin := range []bool{false, true} {
		m := machine(t, Config{Workloads: []Workload{{Cgroup: "a"}, {Cgroup: "b"}}})
		for _, g := range []string{"a", "b"} {
			m.Advance(7 * time.Millisecond)
			m.set(t, cgroupDir+"/"+g+"/cpu.max", "max")
		}
		for _, g := range []string{"a", "b"} {
			if begin {
				m.set(t, cgroupDir+"/"+g+"/cpu.max", "1000000 1000")
			}
			m.set(t, cgroupDir+"/"+g+"/cpu.max", "100000 200000")
		}
		m.Advance(time.Second)
		alike := 0
		for range 2000 {
			m.Advance(time.Millisecond)
			if m.find("a").stopped == m.find("b").stopped {
				alike++
			}
		}
		if begin != (alike > 1950) {
			t.Errorf("begun together %v: they are alike in %d of 2000 ms", begin, alike)
		}
		if used := m.find("a").used(m.now); used < 1500*time.Millisecond || used > 1700*time.Millisecond {
			t.Errorf("it used %v of 3 s", used)
		}
	}
}
