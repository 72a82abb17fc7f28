package sim

import (
	"math"
	"testing"
	"time"
)

// twoKinds is two small cores of 40 % of the capacity of the two large ones, and a quarter
// of the power.
func twoKinds() Spec {
	small, large := Cluster{Cores: 2, Curve: ladder(), Idle: c6(), Capacity: 0.4}, Cluster{Cores: 2, Curve: ladder(), Idle: c6()}
	for i := range small.Curve.OPPs {
		small.Curve.OPPs[i].Dynamic /= 4
		small.Curve.OPPs[i].Static /= 4
	}
	return Spec{Name: "test", Driver: "acpi-cpufreq", Clusters: []Cluster{small, large}}
}

// A task that is busy for a half-life comes half the way to 1, and idle for one back by
// half. util_est rises at once and falls by quarters.
func TestAverage(t *testing.T) {
	a := &average{}
	a.change(0, 1)
	a.change(pelt, 0)
	if v := a.now(pelt); math.Abs(v-0.5) > 1e-9 {
		t.Errorf("after a half-life at work: %g", v)
	}
	a.sleep(pelt)
	if v := a.now(2 * pelt); math.Abs(v-0.25) > 1e-9 || a.need(2*pelt) != 0.5 {
		t.Errorf("after another asleep: %g, need %g", v, a.need(2*pelt))
	}
	if a.sleep(2 * pelt); math.Abs(a.est-(0.5-0.25/4)) > 1e-9 {
		t.Errorf("the estimate falls to %g", a.est)
	}
}

// Worked by hand: a task of 0.1 is a quarter of a small core, which a headroom of a quarter
// makes 0.94 GHz, so 1 GHz: a quarter of the work of a core that draws 0.125 W for a third
// of its speed.
func TestEnergyModel(t *testing.T) {
	m := machine(t, Config{Spec: twoKinds(), Workloads: []Workload{{Cgroup: "a", Period: time.Second, Work: time.Millisecond}}})
	task := m.tasks[0]
	task.util.est = 0.1
	for cpu, want := range map[int]float64{0: 0.25 * 0.125 * 3, 3: 0.1 * 0.5 * 3} {
		p := m.cpus[cpu]
		if got := p.dom.energy(0, task, p); math.Abs(got-want) > 1e-9 {
			t.Errorf("on cpu %d: %g W, want %g", cpu, got, want)
		}
		if got := p.dom.energy(0, task, nil); got != 0 {
			t.Errorf("without it: %g W", got)
		}
	}
}

// Light tasks wake on the small cores under schedutil, and where they were before under
// another governor; nothing is placed by energy while a core is overutilised.
func TestEnergyAware(t *testing.T) {
	light := func(cgroup string) Workload {
		return Workload{Cgroup: cgroup, Period: 20 * time.Millisecond, Work: time.Millisecond}
	}
	large := func(governor string) (n int, m *Machine) {
		m = machine(t, Config{Spec: twoKinds(), Governor: governor, Workloads: []Workload{light("a"), light("b"), light("c")}})
		m.Advance(time.Second)
		for _, task := range m.tasks {
			if task.last.capacity == 1 {
				n++
			}
		}
		return n, m
	}
	if n, _ := large("performance"); n == 0 {
		t.Error("performance has everything on small cores")
	}
	n, m := large("schedutil")
	if n != 0 || !m.frugal() {
		t.Errorf("schedutil has %d of 3 on large cores, by energy %v", n, m.frugal())
	}
	if err := m.Start(Workload{Cgroup: "hog"}); err != nil {
		t.Fatal(err)
	}
	if m.Advance(time.Second); m.frugal() {
		t.Error("places by energy beside a core that is full")
	}
	if err := m.End("hog"); err != nil {
		t.Fatal(err)
	}
	if m.Advance(time.Second); !m.frugal() {
		t.Error("does not place by energy again")
	}
}

// What needs more than a small core has goes to a large one that is idle, also while it
// runs, and not to where its cpuset forbids.
func TestMisfit(t *testing.T) {
	for _, governor := range []string{"schedutil", "performance"} {
		m := machine(t, Config{Spec: twoKinds(), Governor: governor, Workloads: []Workload{{Cgroup: "a"}, {Cgroup: "b"}}})
		m.set(t, "sys/fs/cgroup/cgroup.subtree_control", "+cpuset")
		m.set(t, "sys/fs/cgroup/b/cpuset.cpus", "0-1")
		m.Advance(300 * time.Millisecond)
		if a, b := m.tasks[0].last, m.tasks[1].last; a.capacity != 1 || b.capacity == 1 {
			t.Errorf("%s: a is on cpu %d, b on cpu %d", governor, a.id, b.id)
		}
		for _, p := range m.cpus {
			for _, task := range p.home {
				if task.last != p {
					t.Errorf("a task of cpu %d is still cpu %d's", task.last.id, p.id)
				}
			}
		}
		// A job that a small core takes twice the time for is done on a large one.
		if err := m.Start(Workload{Cgroup: "c", Period: 100 * time.Millisecond, Work: 50 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		if m.Advance(2 * time.Second); m.tasks[2].last.capacity != 1 {
			t.Errorf("%s: half a core's work is on a small one", governor)
		}
	}
}
