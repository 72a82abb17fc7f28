package sim

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/cpuset"
)

// counted is the sum over the cpus.
func counted(t *testing.T, c counters.Counter) (sum counters.Count) {
	t.Helper()
	list, err := c.Read(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range list {
		if n.Running != n.Enabled {
			t.Errorf("%+v ran for part of the time", n)
		}
		sum.Cycles += n.Cycles
		sum.Instructions += n.Instructions
		sum.Running += n.Running
	}
	return sum
}

// At every clock instructions take the cycles that the work's bound makes of it, the cycles
// are the clock's, the time is the cgroup's; a cgroup around counts what is in it.
func TestCounters(t *testing.T) {
	for _, bound := range []float64{1, 0.8, 0.3} {
		m := machine(t, Config{Governor: "userspace", Spec: FromCurve("two", ladder(), nil, 1, 2, 0),
			Workloads: []Workload{{Cgroup: "p/a", CPUBound: bound}, {Cgroup: "p/b", Period: 20 * time.Millisecond, Work: 5 * time.Millisecond}}})
		a, b, all := openAll(t, m, "p/a"), openAll(t, m, "p/b"), openAll(t, m, "p")
		for i, o := range ladder().OPPs {
			if err := m.WriteFile("sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed", []byte(fmt.Sprint(uint64(o.Frequency)))); err != nil {
				t.Fatal(err)
			}
			m.Advance(10 * time.Millisecond)
			was, others, sum, used := counted(t, a), counted(t, b), counted(t, all), m.find("p/a").used(m.now)
			m.Advance(3 * time.Second)
			now := counted(t, a)
			ran := now.Running - was.Running
			if ran != m.find("p/a").used(m.now)-used {
				t.Errorf("counted for %v", ran)
			}
			cycles, instructions := float64(now.Cycles-was.Cycles), float64(now.Instructions-was.Instructions)
			if ghz := cycles / float64(ran); math.Abs(ghz*1e6/float64(o.Frequency)-1) > 1e-6 {
				t.Errorf("the clock is %g GHz, want %v", ghz, o.Frequency)
			}
			if want := ladder().Tau(i, bound) * o.Speed; math.Abs(cycles/instructions/want-1) > 1e-6 {
				t.Errorf("bound %g at %v: %g cycles an instruction, want %g", bound, o.Frequency, cycles/instructions, want)
			}
			both := float64(counted(t, all).Instructions - sum.Instructions)
			if want := instructions + float64(counted(t, b).Instructions-others.Instructions); math.Abs(both/want-1) > 1e-6 || both <= instructions {
				t.Errorf("around them %g instructions are counted, want %g", both, want)
			}
		}
	}
}

func openAll(t *testing.T, m *Machine, group string) counters.Counter {
	t.Helper()
	c, err := m.Open(cgroupDir+"/"+group, m.online())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// As on a real machine nothing is counted in a cgroup that has gone, or without counters,
// or on cpus that are offline; and who is counted may go.
func TestCountersRefuse(t *testing.T) {
	m := machine(t, Config{Spec: FromCurve("two", ladder(), nil, 1, 2, 0), Workloads: []Workload{{Cgroup: "p/a"}}})
	if _, err := m.Open(cgroupDir+"/p/none", m.online()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such cgroup: %v", err)
	}
	if _, err := m.Open(cgroupDir+"/p/a", cpuset.Of(7)); !errors.Is(err, syscall.ENODEV) {
		t.Errorf("no such cpu: %v", err)
	}
	c := openAll(t, m, "p/a")
	m.Advance(time.Second)
	if err := m.End("p/a"); err != nil {
		t.Fatal(err)
	}
	was := counted(t, c)
	if m.Advance(time.Second); counted(t, c) != was || was.Running < time.Second {
		t.Errorf("%+v, and after its end %+v", was, counted(t, c))
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Read(nil); err == nil || c.Close() == nil {
		t.Error("a counter that is closed counts")
	}
	spec := FromCurve("two", ladder(), nil, 1, 2, 0)
	spec.NoCounters = true
	m = machine(t, Config{Spec: spec, Workloads: []Workload{{Cgroup: "p/a"}}})
	if _, err := m.Open(cgroupDir+"/p/a", m.online()); !errors.Is(err, counters.ErrNone) || !strings.Contains(err.Error(), "simulated") {
		t.Errorf("without counters: %v", err)
	}
}

// Noise is the seed's, of the size asked for, and nobody's work; counting changes nothing.
func TestCountersFlicker(t *testing.T) {
	run := func(open bool, flicker float64) (ipc []float64, files string, energy int64) {
		spec := FromCurve("two", ladder(), nil, 1, 2, 0)
		spec.Flicker = flicker
		m := machine(t, Config{Spec: spec, Seed: 3, Workloads: []Workload{{Cgroup: "p/a", CPUBound: 0.6}, {Cgroup: "p/b", Period: 30 * time.Millisecond, Work: 9 * time.Millisecond, Poisson: true}}})
		var c counters.Counter
		for i := range 200 {
			if open && i%50 == 0 {
				c = openAll(t, m, "p/a")
			}
			var was counters.Count
			if open {
				was = counted(t, c)
			}
			m.Advance(time.Second)
			if open {
				now := counted(t, c)
				ipc = append(ipc, float64(now.Instructions-was.Instructions)/float64(now.Cycles-was.Cycles))
			}
		}
		data, err := m.ReadFile(cgroupDir + "/p/a/cpu.stat")
		if err != nil {
			t.Fatal(err)
		}
		total, _, _ := m.Energy()
		return ipc, string(data), total
	}
	_, files, energy := run(false, 0.1)
	first, counting, same := run(true, 0.1)
	if files != counting || energy != same {
		t.Errorf("counting changes what happens: %d nJ instead of %d", same, energy)
	}
	again, _, _ := run(true, 0.1)
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("two runs differ: %s", diff)
	}
	deviation := func(v []float64) float64 {
		mean, sum := 0.0, 0.0
		for _, x := range v {
			mean += x / float64(len(v))
		}
		for _, x := range v {
			sum += (x/mean - 1) * (x/mean - 1)
		}
		return math.Sqrt(sum / float64(len(v)))
	}
	quiet, _, _ := run(true, 0)
	if noisy, none := deviation(first[1:]), deviation(quiet[1:]); noisy < 0.07 || noisy > 0.13 || none > 1e-6 {
		t.Errorf("the deviation is %g, and without noise %g", noisy, none)
	}
}
