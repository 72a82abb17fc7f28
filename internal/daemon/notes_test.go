package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// noting governs a simulated machine of two clusters of two cores with endless work in
// some cgroups.
func noting(t *testing.T, notes map[string]map[string]string, yaml string, cgroups ...string) (*sim.Machine, *Daemon) {
	t.Helper()
	cluster := sim.Cluster{Cores: 2, Curve: ladder(), Idle: c1c6}
	c := sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Meter: "rapl", Clusters: []sim.Cluster{cluster, cluster}}, Seed: 1}
	for _, name := range cgroups {
		c.Workloads = append(c.Workloads, sim.Workload{Cgroup: "powerd/" + name})
	}
	m, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	config, err := configs.Parse(configs.File{Name: "test.yaml", Data: []byte("interval: 1s\nclasses: [{name: batch, cgroups: [\"powerd/*\"], objective: energy}]\n" + yaml)})
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{FS: m, t: t, notes: notes}
	j := g.open()
	d := New(Options{FS: g, Label: "sim", Journal: j, Config: config})
	d.Look(m.Now())
	return m, d
}

func ticks(t *testing.T, m *sim.Machine, d *Daemon, n int) (s *Snapshot) {
	t.Helper()
	for range n {
		m.Advance(time.Second)
		s = d.Tick(m.Now())
		d.invariants(t, s)
	}
	return s
}

// Three tenants' work has three parts of the machine; by caches there are only two, which
// is told.
func TestTenants(t *testing.T) {
	notes := map[string]map[string]string{"a": {tenantNote: "red"}, "b": {tenantNote: "blue"}, "c": {tenantNote: "red"}}
	for _, by := range []string{"core", "cache"} {
		m, d := noting(t, notes, "tenants: "+by, "a", "b", "c")
		ticks(t, m, d, 10)
		w := simWorld{m}
		a, b, c := placed(t, w, "powerd/a"), placed(t, w, "powerd/b"), placed(t, w, "powerd/c")
		if a.Overlaps(b) || !a.Equal(c) {
			t.Errorf("by %s: red is on %q and %q, blue on %q", by, a, c, b)
		}
		if group := a.Min() / 2; by == "cache" && b.Min()/2 == group {
			t.Errorf("red on %q and blue on %q share a cache", a, b)
		}
	}
	notes["c"][tenantNote] = "green"
	m, d := noting(t, notes, "tenants: cache", "a", "b", "c")
	s := ticks(t, m, d, 10)
	told := 0
	for _, a := range s.Plan.Assignments {
		if strings.Contains(a.Reason, "too few last-level caches for the tenants") {
			told++
		}
	}
	if told < 2 {
		t.Errorf("three tenants with two caches: %+v", s.Plan.Assignments)
	}
	w := simWorld{m}
	if a, b, c := placed(t, w, "powerd/a"), placed(t, w, "powerd/b"), placed(t, w, "powerd/c"); a.Overlaps(b) || b.Overlaps(c) || a.Overlaps(c) {
		t.Errorf("tenants share cores: %q, %q, %q", a, b, c)
	}
}

// A container with a budget is charged no more than that, and its neighbour is left
// alone; with more to spend it is let go.
func TestEnergyBudget(t *testing.T) {
	const budget = 300 * units.Milliwatt
	notes := map[string]map[string]string{"a": {budgetNote: "18J/60s"}, "c": {budgetNote: "much"}}
	m, d := noting(t, notes, "", "a", "b", "c")
	s := ticks(t, m, d, 20)
	before := charges(s)
	s = ticks(t, m, d, 20)
	after := charges(s)
	if p := units.Power(after["powerd/a"]-before["powerd/a"]) / 20; p > budget*11/10 || p < budget*8/10 {
		t.Errorf("it is charged %v, its budget is %v: %+v", p, budget, s.Plan.Assignments)
	}
	if p := units.Power(after["powerd/b"]-before["powerd/b"]) / 20; p < budget*12/10 {
		t.Errorf("its neighbour without a budget is charged %v", p)
	}
	w := simWorld{m}
	if got := text(t, w, "sys/fs/cgroup/powerd/a/cpu.max"); strings.HasPrefix(got, "max") {
		t.Errorf("cpu.max is %q", got)
	}
	for _, a := range s.Plan.Assignments {
		if want := "of its budget of 300 mW"; (a.ID == "powerd/a") != strings.Contains(a.Reason, want) {
			t.Errorf("%s: %s", a.ID, a.Reason)
		}
	}
	problems := ""
	for _, p := range s.Warnings {
		problems += p.Problem
	}
	if !strings.Contains(problems, `an energy budget of "much"`) {
		t.Errorf("problems: %q", problems)
	}
	notes["a"][budgetNote] = "50W"
	d.PlaceNow(m.Now())
	ticks(t, m, d, 10)
	if got := text(t, w, "sys/fs/cgroup/powerd/a/cpu.max"); !strings.HasPrefix(got, "max") {
		t.Errorf("with 50 W to spend cpu.max is %q", got)
	}
}

func charges(s *Snapshot) map[string]units.Energy {
	out := map[string]units.Energy{}
	for _, c := range s.Containers {
		out[c.ID] = c.Energy
	}
	return out
}
