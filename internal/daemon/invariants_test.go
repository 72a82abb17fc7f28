package daemon

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// gate is a machine that holds every write against the rules that no write may
// break, whatever the daemon wants.
type gate struct {
	sysfs.FS
	t       testing.TB
	journal *sysfs.Journal // set once it is open
	writes  int
	// notes of cgroups, by the last part of their names.
	notes map[string]map[string]string
}

// open opens a journal of what is written through the gate.
func (g *gate) open() *sysfs.Journal {
	g.t.Helper()
	j, err := sysfs.OpenJournal(g.t.TempDir(), g, "/", "boot")
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { j.Close() })
	g.journal = j
	return j
}

func (g *gate) Attribute(name, attribute string) ([]byte, error) {
	return []byte(g.notes[path.Base(name)][attribute]), nil
}

func (g *gate) WriteFile(name string, data []byte) error {
	g.writes++
	if g.journal != nil {
		if _, ok := g.journal.First(name); !ok {
			g.t.Errorf("%s is written before its first value is saved", name)
		}
	}
	value := strings.TrimSpace(string(data))
	if dir, file := path.Split(name); strings.HasPrefix(file, "scaling_m") {
		// A kernel before 6.x refuses what crosses; a newer one takes it.
		other := map[string]string{"scaling_min_freq": "scaling_max_freq", "scaling_max_freq": "scaling_min_freq"}[file]
		limit, err := g.FS.ReadFile(dir + other)
		if err == nil {
			l, _ := strconv.Atoi(strings.TrimSpace(string(limit)))
			v, err := strconv.Atoi(value)
			if err != nil || file == "scaling_min_freq" && v > l || file == "scaling_max_freq" && v < l {
				g.t.Errorf("%s is set to %s while %s is %d", name, value, other, l)
			}
		}
	}
	if path.Base(name) == "cpu.max" {
		// The longest delay that a class bears.
		if m, err := containers.ParseCPUMax(value); err != nil || m.Period > 200*time.Millisecond {
			g.t.Errorf("%s is set to %q, %v", name, value, err)
		}
	}
	return g.FS.WriteFile(name, data)
}

// ladder is five OPPs with voltage: 0.6 to 3 GHz, the critical one in between.
func ladder() cpufreq.Curve {
	var c cpufreq.Curve
	for i, v := range []float64{0.7, 0.7, 0.8, 0.95, 1.15} {
		f := float64(i+1) * 0.6
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: units.Frequency(i+1) * 600 * units.MHz, Speed: f / 3, Dynamic: units.Power(f * v * v * 1e6), Static: 0.4e6})
	}
	return c
}

var c1c6 = []cstates.Model{
	{Name: "C1", Power: 200e3, Exit: 2e-6, Residency: 2e-6},
	{Name: "C6", Power: 50e3, Exit: 130e-6, Residency: 600e-6, Transition: 90},
}

// machineOf varies with the seed: one kind of core or two, own clocks or shared,
// SMT or not, either kind of meter or none.
func machineOf(seed uint64, faults sim.Faults) sim.Config {
	big := sim.Cluster{Cores: 2 + int(seed%3), Threads: 1 + int(seed%2), Curve: ladder(), Idle: c1c6, Shared: 300 * units.Milliwatt, Asleep: 10 * units.Milliwatt, OwnClocks: seed%4 == 1}
	other := big
	if seed%3 == 0 {
		other.Capacity, other.Cores, other.Threads = 0.5, 4, 1
	}
	other.Package = int(seed / 5 % 2)
	spec := sim.Spec{Name: "sim", Driver: []string{"acpi-cpufreq", "cpufreq-dt"}[seed%2], Meter: []string{"rapl", "acpi", ""}[seed%3], Range: 20e6,
		Clusters: []sim.Cluster{big, other}}
	const ms = time.Millisecond
	return sim.Config{Spec: spec, Seed: seed, Governor: sim.Governors()[seed%uint64(len(sim.Governors()))], Faults: faults, Workloads: []sim.Workload{
		{Cgroup: "powerd/latency-a", Period: 20 * ms, Work: 3 * ms, Poisson: true, Threads: 2},
		{Cgroup: "powerd/video", Period: 33 * ms, Work: 9 * ms, CPUBound: 0.7},
		{Cgroup: "powerd/batch-a"},
		{Cgroup: "powerd/batch-b", Period: 7 * time.Second, Work: 2 * time.Second, Threads: 3},
		{Cgroup: "system/other", Period: 50 * ms, Work: 5 * ms},
	}}
}

// platformOf tells what a cluster of cores of ladder costs.
func platformOf(c sim.Cluster) *energy.Platform {
	return &energy.Platform{Name: "ladder", Curve: ladder(), Idle: c1c6, Cluster: &energy.Cluster{Cores: c.Cores, Power: c.Shared}}
}

// policy has every kind of bound, tight enough to act in a small machine.
func policy(t testing.TB) configs.Config {
	t.Helper()
	c, err := configs.Parse(configs.File{Name: "test.yaml", Data: []byte(`
interval: 1s
idle: {disable: []}
classes:
  - {name: latency, cgroups: ["powerd/latency-*"], objective: latency, priority: 10, max_wake_latency: 50us}
  - {name: batch, cgroups: ["powerd/batch-*"], objective: energy, cpu_limit: 0.7}
  - {name: deferred, cgroups: ["powerd/deferred-*"], objective: energy, max_slowdown: 300%, max_delay: 200ms}
  - {name: bounded, cgroups: ["powerd/*"], objective: energy, priority: 5, max_slowdown: 25%}
`)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// govern makes a machine and a daemon for it, with its first knobs.
func govern(t testing.TB, c sim.Config, config configs.Config) (*sim.Machine, *gate, *Daemon, map[string]string) {
	t.Helper()
	m, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	first := knobs(m)
	g := &gate{FS: m, t: t}
	j := g.open()
	return m, g, New(Options{FS: g, Label: "sim", Journal: j, Config: config, Counters: m}), first
}

// knobs are the files that powerd may change.
func knobs(m *sim.Machine) map[string]string {
	k := m.Knobs()
	for name := range k {
		if strings.HasSuffix(name, "/online") || strings.HasSuffix(name, "cgroup.procs") {
			delete(k, name)
		}
	}
	return k
}

// invariants holds what must be true after any tick on any machine.
func (d *Daemon) invariants(t testing.TB, s *Snapshot) {
	t.Helper()
	// Every microjoule that was metered or modelled is charged, once.
	l := d.ledger
	sum := l.Other + l.Base
	for _, e := range l.Containers {
		if e < 0 {
			t.Errorf("a container is charged %v", e)
		}
		sum += e
	}
	if sum != l.Measured+l.Modelled || l.Total() != l.Measured+l.Modelled {
		t.Errorf("charged %d uJ of %d", sum, l.Measured+l.Modelled)
	}
	// Places are not empty, and where the container may be.
	allowed := map[string]cpuset.Set{}
	for _, c := range d.last.Containers {
		allowed[string(c.ID)] = c.Allowed
	}
	for _, a := range s.Plan.Assignments {
		if a.Reason == "" {
			t.Errorf("%s is assigned without a reason", a.ID)
		}
		if a.CPUs == nil {
			continue
		}
		if may := allowed[a.ID].Intersect(d.last.Hardware.Topology.Online); a.CPUs.Empty() || !a.CPUs.SubsetOf(may) {
			t.Errorf("%s is put on %q of %q", a.ID, a.CPUs, may)
		}
	}
	for _, b := range s.Plan.Bands {
		if b.Floor > b.Ceiling || b.Floor == 0 || b.Reason == "" {
			t.Errorf("band of cpus %s: %v to %v, %q", b.CPUs, b.Floor, b.Ceiling, b.Reason)
		}
	}
	// The same question has the same answer, and a plan in force stands.
	if again := placement.Decide(d.lastInput); !again.Same(*d.lastPlan) {
		t.Errorf("decided differently: %s", cmp.Diff(*d.lastPlan, again))
	}
	if again := placement.Decide(d.lastInput.With(*d.lastPlan)); !again.Same(*d.lastPlan) {
		t.Errorf("the plan does not stand: %s", cmp.Diff(*d.lastPlan, again))
	}
	// What is in force is the plan, but for looks at another clock.
	inForce := *s.Plan
	inForce.Bands = slices.Clone(inForce.Bands)
	for i, b := range inForce.Bands {
		if strings.HasPrefix(b.Reason, "for a moment at ") && b.Floor == b.Ceiling {
			inForce.Bands[i] = d.lastPlan.Bands[i]
		}
	}
	if !inForce.Same(*d.lastPlan) {
		t.Errorf("another plan is in force: %s", cmp.Diff(*d.lastPlan, inForce))
	}
	if open := d.counting.descriptors(); open > maxDescriptors {
		t.Errorf("counting keeps %d descriptors open", open)
	}
	if n := len(s.Outcome.Done) + len(s.Outcome.Failures); n > maxWrites {
		t.Errorf("%d writes in one tick", n)
	}
}

// Ten thousand ticks over twenty seeds on machines on which everything goes wrong.
func TestInvariants(t *testing.T) {
	faults := sim.Faults{Write: 0.05, Meter: 0.05, Foreign: 0.1, Hotplug: 0.05, Churn: 0.1}
	deferred := []sim.Workload{
		{Cgroup: "powerd/deferred-a", Period: 2 * time.Second, Work: 250 * time.Millisecond},
		{Cgroup: "powerd/deferred-b", Period: 900 * time.Millisecond, Work: 90 * time.Millisecond, Poisson: true, Threads: 2},
	}
	platform := platformOf(sim.Cluster{Cores: 4, Shared: 4 * units.Watt})
	var gathered atomic.Int64
	t.Cleanup(func() {
		if gathered.Load() < 100 {
			t.Errorf("work was gathered in %d ticks", gathered.Load())
		}
	})
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			config := policy(t)
			config.Reclaim = seed%2 == 1
			c := machineOf(seed, faults)
			if seed%5 == 0 { // else somebody is always awake
				c.Workloads = nil
			}
			c.Workloads = append(c.Workloads, deferred...)
			m, g, d, first := govern(t, c, config)
			d.platform = platform
			if seed%4 >= 2 { // some have wishes of their own
				g.notes = map[string]map[string]string{"batch-a": {tenantNote: "red", budgetNote: "300mW"}, "batch-b": {tenantNote: "blue", slowdownNote: "2"}, "video": {budgetNote: "30J/60s"}}
			}
			counts := Counters{}
			for tick := range 500 {
				before := g.writes
				s := d.Tick(m.Now())
				d.invariants(t, s)
				if g.writes-before > maxWrites {
					t.Errorf("%d writes in tick %d", g.writes-before, tick)
				}
				if t.Failed() {
					t.Fatalf("at tick %d", tick)
				}
				if slices.ContainsFunc(s.Plan.Assignments, func(a placement.Assignment) bool { return a.Share > 0 }) {
					gathered.Add(1)
				}
				counts = s.Counters
				m.Advance(time.Second)
			}
			if counts.Writes < 20 || counts.Failures < 1 {
				t.Errorf("nothing much happened: %+v", counts)
			}
			// The operator brings all cpus back; then stop. What a fault keeps
			// from its first value stays in the journal for the next try.
			m.SetFaults(sim.Faults{})
			for name := range m.Knobs() {
				if strings.HasSuffix(name, "/online") {
					if err := m.WriteFile(name, []byte("1")); err != nil {
						t.Fatal(err)
					}
				}
			}
			m.SetFaults(sim.Faults{Write: 0.3})
			kept := map[string]bool{}
			failed := 0
			for try := 0; ; try++ {
				outcomes, err := d.Close()
				for _, o := range outcomes {
					switch o.Outcome {
					case sysfs.OutcomeKept:
						kept[o.File] = true
					case sysfs.OutcomeFailed:
						failed++
					}
				}
				if err == nil {
					break
				}
				if try == 100 {
					t.Fatalf("cannot restore after %d tries: %v", try, err)
				}
			}
			for name := range kept {
				if !slices.Contains(m.Foreign(), name) || config.Reclaim {
					t.Errorf("%s is left to others, but nobody changed it", name)
				}
			}
			for name, now := range knobs(m) {
				// A minimum and a maximum hide each other: what somebody did to
				// one can show in both.
				sibling := strings.NewReplacer("min_freq", "max_freq", "max_freq", "min_freq").Replace(name)
				if foreign := m.Foreign(); slices.Contains(foreign, name) || slices.Contains(foreign, sibling) {
					continue
				}
				if now != first[name] {
					t.Errorf("%s was %q and is %q", name, first[name], now)
				}
			}
			if g.journal.Pending() != 0 {
				t.Errorf("%d files wait to be restored", g.journal.Pending())
			}
		})
	}
}

// On a machine without trouble the books agree with the truth, nothing is written
// once the load is known, and every knob goes back.
func TestQuiet(t *testing.T) {
	for _, meter := range []string{"rapl", "acpi", ""} {
		c := machineOf(2, sim.Faults{})
		c.Spec.Meter = meter
		c.Spec.Range = 15e6 // wraps every second or two
		for i := range c.Workloads {
			c.Workloads[i].Poisson = false
		}
		m, g, d, first := govern(t, c, policy(t))
		d.Look(m.Now())
		began, _, _ := m.Energy()
		var s *Snapshot
		for tick := range 120 {
			m.Advance(time.Second)
			s = d.Tick(m.Now())
			d.invariants(t, s)
			if tick == 60 {
				g.writes = 0
			}
		}
		if g.writes > 30 {
			t.Errorf("%d writes in a minute of steady load", g.writes)
		}
		if len(s.Outcome.Failures)+len(s.Outcome.Drift) > 0 {
			t.Errorf("trouble: %+v", s.Outcome)
		}
		total, _, groups := m.Energy()
		truth := (total - began) / 1000
		charged := int64(s.Energy.MeasuredUJ + s.Energy.ModelledUJ)
		switch meter {
		case "rapl": // it counts: to the microjoule
			if charged != truth && charged != truth-1 && charged != truth+1 || s.Energy.ModelledUJ != 0 {
				t.Errorf("charged %d uJ, the truth is %d", charged, truth)
			}
		case "acpi": // an average over a second
			if d := float64(charged-truth) / float64(truth); d < -0.05 || d > 0.05 {
				t.Errorf("charged %d uJ, the truth is %d", charged, truth)
			}
		case "":
			if s.Energy.Method != "modelled" || s.Energy.MeasuredUJ != 0 {
				t.Errorf("without a meter %+v", s.Energy)
			}
		}
		if meter != "" { // by class, for two of one class run at clocks that cannot be told apart
			used, charged := map[string]int64{}, map[string]int64{}
			for _, c := range s.Containers {
				used[c.Class] += groups[c.ID] / 1000
				charged[c.Class] += int64(c.Energy)
			}
			for class, uj := range used {
				if ratio := float64(charged[class]) / float64(uj); ratio < 0.7 || ratio > 1.4 {
					t.Errorf("%s: class %s used %d uJ and is charged %d", meter, class, uj, charged[class])
				}
			}
		}
		if outcomes, err := d.Close(); err != nil {
			t.Errorf("%v: %+v", err, outcomes)
		}
		if diff := cmp.Diff(first, knobs(m)); diff != "" {
			t.Errorf("left behind: %s", diff)
		}
	}
}

func TestDryRun(t *testing.T) {
	m, err := sim.New(machineOf(4, sim.Faults{}))
	if err != nil {
		t.Fatal(err)
	}
	first := knobs(m)
	d := New(Options{FS: m, Label: "sim", Config: policy(t)})
	d.Look(m.Now())
	for range 10 {
		m.Advance(time.Second)
		if s := d.Tick(m.Now()); !s.DryRun {
			t.Error("it says it is no dry run")
		}
	}
	if d.counters.Writes == 0 {
		t.Error("it would have written nothing")
	}
	if _, err := d.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(first, knobs(m)); diff != "" {
		t.Errorf("a dry run changed %s", diff)
	}
}

// Somebody else's change is theirs, unless the policy says reclaim.
func TestDrift(t *testing.T) {
	for _, reclaim := range []bool{false, true} {
		config := policy(t)
		config.Reclaim = reclaim
		m, _, d, first := govern(t, machineOf(2, sim.Faults{}), config)
		d.Look(m.Now())
		m.Advance(time.Second)
		s := d.Tick(m.Now())
		at := slices.IndexFunc(s.Outcome.Done, func(w sysfs.Write) bool { return strings.HasSuffix(w.File, "batch-a/cpuset.cpus") })
		if at < 0 {
			t.Fatalf("batch-a was not placed: %+v", s.Outcome)
		}
		w := s.Outcome.Done[at]
		theirs := "0-1"
		if w.Value == theirs {
			theirs = "1-2"
		}
		if err := m.WriteFile(w.File, []byte(theirs)); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			m.Advance(time.Second)
			s = d.Tick(m.Now())
		}
		now, _ := m.ReadFile(w.File)
		got := strings.TrimSpace(string(now))
		if reclaim != (got != theirs) || s.Counters.Drift != 1 {
			t.Errorf("reclaim %v: %s is %q, of the other's %q and ours %q; %+v", reclaim, w.File, got, theirs, w.Value, s.Counters)
		}
		outcomes, err := d.Close()
		if err != nil {
			t.Fatal(err)
		}
		want := first[w.File]
		if !reclaim {
			want = theirs
			if i := slices.IndexFunc(outcomes, func(o sysfs.Restored) bool { return o.File == w.File }); i < 0 || outcomes[i].Outcome != sysfs.OutcomeKept {
				t.Errorf("the other's change is not reported: %+v", outcomes)
			}
		}
		if got := knobs(m)[w.File]; got != want {
			t.Errorf("reclaim %v: in the end %s is %q, want %q", reclaim, w.File, got, want)
		}
	}
}

// A write that fails is tried again after 1, 2, 4 ... ticks, and said so.
func TestBackoff(t *testing.T) {
	m, _, d, _ := govern(t, machineOf(2, sim.Faults{}), policy(t))
	d.Look(m.Now())
	m.Advance(time.Second)
	m.SetFaults(sim.Faults{Write: 1})
	tries := 0
	for tick := range 20 {
		s := d.Tick(m.Now())
		for _, f := range s.Outcome.Failures {
			tries = max(tries, f.Tries)
		}
		if len(s.Outcome.Failures) == 0 || len(s.Outcome.Done) > 0 {
			t.Fatalf("tick %d: %+v", tick, s.Outcome)
		}
		m.Advance(time.Second)
	}
	// In ticks 0, 1, 3, 7 and 15 of those for which a file's value was wanted.
	if tries < 4 || tries > 5 {
		t.Errorf("the most that a file was tried is %d times", tries)
	}
	m.SetFaults(sim.Faults{})
	for range 70 {
		d.Tick(m.Now())
		m.Advance(time.Second)
	}
	if s := d.Tick(m.Now()); len(s.Outcome.Failures) > 0 {
		t.Errorf("it has not recovered: %+v", s.Outcome.Failures)
	}
	if _, err := d.Close(); err != nil {
		t.Error(err)
	}
}
