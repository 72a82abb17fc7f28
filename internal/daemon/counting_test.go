package daemon

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// steps is a core of ten OPPs whose critical one is in the middle.
func steps() (out []stepOPP) {
	for i := 1; i <= 10; i++ {
		s := float64(i) / 10
		out = append(out, stepOPP{Frequency: units.Frequency(i) * 200 * units.MHz, Speed: s, Dynamic: units.Power(2e6 * s * s * s), Static: 0.5e6})
	}
	return out
}

type stepOPP = cpuOPP

// waiting governs two clusters of two cores, with work bound by the clock for shares.
func waiting(t *testing.T, config string, change func(*sim.Config), source func(*sim.Machine) counters.Source, bounds ...float64) (*sim.Machine, *Daemon) {
	t.Helper()
	cluster := sim.Cluster{Cores: 2, Idle: c1c6}
	cluster.Curve.OPPs = steps()
	c := sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Meter: "rapl", Clusters: []sim.Cluster{cluster, cluster}}, Seed: 1}
	for i, bound := range bounds {
		c.Workloads = append(c.Workloads, sim.Workload{Cgroup: fmt.Sprintf("powerd/w%d", i), Period: 400 * time.Millisecond, Work: 80 * time.Millisecond, CPUBound: bound})
	}
	change(&c)
	m, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := configs.Parse(configs.File{Name: "test.yaml", Data: []byte("interval: 1s\nclasses: [{name: batch, cgroups: [\"powerd/*\"], objective: energy" + config + "}]\n")})
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{FS: m, t: t}
	j := g.open()
	p := energy.Platform{Name: "steps", Curve: cluster.Curve, Idle: c1c6}
	d := New(Options{FS: g, Label: "sim", Journal: j, Config: parsed, Platform: &p, Counters: source(m)})
	d.Look(m.Now())
	return m, d
}

func asIs(*sim.Config) {}

func itself(m *sim.Machine) counters.Source { return m }

func nobody(*sim.Machine) counters.Source { return nil }

// What work is bound by is learned to be rather more by the clock than less, with and without
// noise; its clock goes where the mix is cheapest, and it takes fewer joules for it.
func TestBoundIsLearned(t *testing.T) {
	for _, flicker := range []float64{0, 0.03} {
		span := 300
		if flicker > 0 {
			span = 3000
		}
		for _, bounds := range [][]float64{{1, 1}, {0.7, 0.7}, {0.3, 0.3}, {1, 0.3}} {
			m, d := waiting(t, "", func(c *sim.Config) { c.Spec.Flicker = flicker }, itself, bounds...)
			s := ticks(t, m, d, span)
			mean := 0.0
			for i, bound := range bounds {
				c := s.Containers[i]
				if c.CPUBound < bound-0.05 || c.CPUBound > bound+0.15 && (flicker == 0 || bound < 0.5) || c.CPUBound > 1 {
					t.Errorf("noise %g: %s is bound by %.3f (%s), want %g", flicker, c.ID, c.CPUBound, c.Bound, bound)
				}
				mean += bound / float64(len(bounds))
			}
			began, _, _ := m.Energy()
			s = ticks(t, m, d, 60)
			used, _, _ := m.Energy()
			blind, b := waiting(t, "", asIs, nobody, bounds...)
			ticks(t, blind, b, span)
			before, _, _ := blind.Energy()
			ticks(t, blind, b, 60)
			after, _, _ := blind.Energy()
			ratio := float64(used-began) / float64(after-before)
			if mean == 1 && math.Abs(ratio-1) > 3e-3 || mean < 0.5 && ratio > 0.97 || ratio > 1.01 {
				t.Errorf("noise %g: work bound by %v takes %.4f of what it takes uncounted", flicker, bounds, ratio)
			}
			for _, band := range s.Plan.Bands {
				dom := d.lastInput.Machine.Domains[band.Domain]
				if flicker > 0 {
					break // what is not certain is done as it was
				}
				if want := dom.Curve.OPPs[dom.Curve.Critical(dom.Sleep, mean, 1)].Frequency; band.CPUs.Contains(firstCPU(t, s)) && (band.Ceiling > want+200*units.MHz || band.Ceiling < want) {
					t.Errorf("noise %g: work bound by %v is done at %v, want %v: %s", flicker, bounds, band.Ceiling, want, band.Reason)
				}
			}
		}
	}
}

// firstCPU is one on which the plan puts a container.
func firstCPU(t *testing.T, s *Snapshot) cpuset.CPU {
	t.Helper()
	for _, a := range s.Plan.Assignments {
		if a.CPUs != nil {
			return a.CPUs.Min()
		}
	}
	t.Fatal("nothing is placed")
	return 0
}

// Other work of the same name is learned anew, and what has gone is not counted any more.
func TestBoundOfNewcomer(t *testing.T) {
	m, d := waiting(t, "", asIs, itself, 0.3)
	s := ticks(t, m, d, 100)
	if c := s.Containers[0]; c.Bound != "counted" || c.CPUBound > 0.5 {
		t.Fatalf("%+v", c)
	}
	if err := m.End("powerd/w0"); err != nil {
		t.Fatal(err)
	}
	if s = ticks(t, m, d, 1); s.Counting.Containers != 0 {
		t.Errorf("%+v is counted", s.Counting)
	}
	if err := m.Start(sim.Workload{Cgroup: "powerd/w0", Period: 400 * time.Millisecond, Work: 80 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	d.PlaceNow(m.Now())
	if s = ticks(t, m, d, 3); s.Counting.Containers != 1 || s.Containers[0].CPUBound != 1 || s.Containers[0].Bound != "assumed" {
		t.Errorf("another of its name: %+v, %+v", s.Counting, s.Containers[0])
	}
	if s = ticks(t, m, d, 200); s.Containers[0].CPUBound < 0.95 {
		t.Errorf("work bound by the clock: %+v", s.Containers[0])
	}
	// One that comes before the tick that would have seen that its forerunner has gone.
	first := d.counting.open["powerd/w0"]
	if err := m.End("powerd/w0"); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(sim.Workload{Cgroup: "powerd/w0", Period: 400 * time.Millisecond, Work: 80 * time.Millisecond, CPUBound: 0.3}); err != nil {
		t.Fatal(err)
	}
	if s = ticks(t, m, d, 2); s.Containers[0].Bound != "assumed" || d.counting.open["powerd/w0"] == first {
		t.Errorf("another of its name, at once: %+v", s.Containers[0])
	}
}

// Two that use about as much do not take turns.
func TestCountingStays(t *testing.T) {
	m, d := waiting(t, "", asIs, itself, 1, 1)
	ticks(t, m, d, 3)
	problem := func(file string, err error) { t.Errorf("%s: %v", file, err) }
	d.counting.limit = counters.Descriptors * d.last.Containers[0].CPUs.Len()
	for i, want := range []containers.ID{"powerd/w0", "powerd/w0", "powerd/w1", "powerd/w1"} {
		demand := [][2]float64{{0.5, 0.45}, {0.5, 0.6}, {0.5, 0.8}, {0.6, 0.5}}[i]
		d.counting.observe(d.last, map[containers.ID]float64{"powerd/w0": demand[0], "powerd/w1": demand[1]}, problem)
		if len(d.counting.open) != 1 || d.counting.open[want] == nil {
			t.Errorf("with demands of %v %d are counted, not %s", demand, len(d.counting.open), want)
		}
	}
}

// A ledger of counters lets a source refuse, and tells what is open.
type ledger struct {
	counters.Source
	opened, closed, refused, descriptors int
	refuse                               func(open int) error
}

func (l *ledger) Open(cgroup string, cpus cpuset.Set) (counters.Counter, error) {
	if l.refuse != nil {
		if err := l.refuse(l.descriptors + counters.Descriptors*cpus.Len()); err != nil {
			l.refused++
			return nil, err
		}
	}
	c, err := l.Source.Open(cgroup, cpus)
	if err != nil {
		return nil, err
	}
	l.opened++
	l.descriptors += counters.Descriptors * cpus.Len()
	return &entry{c, l, cpus.Len()}, nil
}

type entry struct {
	counters.Counter
	l    *ledger
	cpus int
}

func (e *entry) Close() error {
	e.l.closed++
	e.l.descriptors -= counters.Descriptors * e.cpus
	return e.Counter.Close()
}

// What cannot be counted is told with its reason, is not tried again and again, and leaves
// everything else as it is.
func TestNothingCounted(t *testing.T) {
	m, d := waiting(t, "", asIs, nobody, 0.3, 1)
	want := ticks(t, m, d, 40)
	for name, tt := range map[string]struct {
		change func(*sim.Config)
		refuse error
		why    string
	}{
		"none":    {func(c *sim.Config) { c.Spec.NoCounters = true }, nil, "counts no cycles and instructions"},
		"denied":  {asIs, fmt.Errorf("%w: that needs root", counters.ErrDenied), "needs root"},
		"crowded": {asIs, fmt.Errorf("%w: no descriptors are left", counters.ErrCrowded), "at most 0 descriptors"},
	} {
		l := &ledger{}
		m, d := waiting(t, "", tt.change, func(m *sim.Machine) counters.Source {
			l.Source = m
			if tt.refuse != nil {
				l.refuse = func(int) error { return tt.refuse }
			}
			return l
		}, 0.3, 1)
		s := ticks(t, m, d, 40)
		if !strings.Contains(s.Counting.Why, tt.why) || s.Counting.Containers+s.Counting.Descriptors+l.opened > 0 || l.refused > 1 {
			t.Errorf("%s: %+v, %+v", name, s.Counting, l)
		}
		if !s.Plan.Same(*want.Plan) || len(s.Warnings) != len(want.Warnings) {
			t.Errorf("%s: it changes the plan, or is a problem: %v", name, s.Warnings)
		}
		for _, c := range s.Containers {
			if c.CPUBound != 1 || c.Bound != "assumed" {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
	// One that cannot be counted does not keep the others from it, and is tried again later.
	tries := 0
	l := &ledger{refuse: func(open int) error {
		if tries++; tries == 2 {
			return errors.New("cannot: out of luck")
		}
		return nil
	}}
	m, d = waiting(t, "", asIs, func(m *sim.Machine) counters.Source { l.Source = m; return l }, 1, 1, 1)
	if s := ticks(t, m, d, 3); !strings.Contains(s.Counting.Why, "out of luck") || s.Counting.Containers != 2 {
		t.Errorf("%+v", s.Counting)
	}
	if s := ticks(t, m, d, vainFor); s.Counting.Why != "" || s.Counting.Containers != 3 {
		t.Errorf("later: %+v", s.Counting)
	}
}

// With few descriptors those are counted that use most cpu time, and no others; none is left
// open at the end.
func TestCountingIsBounded(t *testing.T) {
	l := &ledger{}
	m, d := waiting(t, "", func(c *sim.Config) {
		for i := range c.Workloads {
			c.Workloads[i].Work = time.Duration(i+1) * 8 * time.Millisecond
		}
	}, func(m *sim.Machine) counters.Source { l.Source = m; return l }, 1, 1, 1, 1, 1, 1, 1, 1)
	d.counting.limit = 24
	s := ticks(t, m, d, 20)
	if s.Counting.Descriptors != l.descriptors || l.descriptors > 24 || s.Counting.Containers < 3 || !strings.Contains(s.Counting.Why, "of 8 containers") {
		t.Errorf("%+v, %d are open", s.Counting, l.descriptors)
	}
	for id := range d.counting.open {
		for _, c := range s.Containers {
			if other := containers.ID(c.ID); d.counting.open[other] == nil && c.Demand > stays*d.model.demand[id] {
				t.Errorf("%s is counted, with a demand of %.3f, and not %s with %.3f", id, d.model.demand[id], c.ID, c.Demand)
			}
		}
	}
	if was := l.opened; ticks(t, m, d, 20) == nil || l.opened > was+2 {
		t.Errorf("%d counters are opened anew under the same load", l.opened-was)
	}
	// The machine has fewer than powerd allows itself.
	few := &ledger{refuse: func(n int) error {
		if n > 10 {
			return counters.ErrCrowded
		}
		return nil
	}}
	m, d = waiting(t, "", asIs, func(m *sim.Machine) counters.Source { few.Source = m; return few }, 1, 1, 1, 1)
	if s = ticks(t, m, d, 20); s.Counting.Containers == 0 || s.Counting.Descriptors > 10 || s.Counting.Why == "" || few.refused > 2 {
		t.Errorf("%+v, refused %d times", s.Counting, few.refused)
	}
	for _, o := range []*ledger{l, few} {
		if o == few {
			if _, err := d.Close(); err != nil {
				t.Error(err)
			}
			if o.opened != o.closed || o.descriptors != 0 {
				t.Errorf("%+v after the end", o)
			}
		}
	}
}

// A look goes where it costs least, never slower than a bound or the load allow, and not
// before it has been saved for; where a governor moves the clock there is none.
func TestLooks(t *testing.T) {
	dom := placement.Domain{CPUs: cpuset.Range(0, 1), Curve: ladder(), CanSleep: true}
	dom.Curve.OPPs = steps()
	m := placement.Machine{Domains: []placement.Domain{dom}, Cores: []placement.Core{{CPUs: cpuset.Of(0), Capacity: 1}, {CPUs: cpuset.Of(1), Capacity: 1}}}
	critical := dom.Curve.OPPs[dom.Curve.Critical(0, 1, 1)].Frequency
	for _, tt := range []struct {
		ceiling units.Frequency
		slowest float64
		want    units.Frequency
		free    bool
	}{
		{2000 * units.MHz, 0, critical, true},
		{2000 * units.MHz, 0.8, 1600 * units.MHz, true},
		{2000 * units.MHz, 1, 0, true},
		{1400 * units.MHz, 0.7, 1600 * units.MHz, false},
		{critical, 0, critical + 200*units.MHz, false},
	} {
		got, cost := otherClock(m, placement.Band{CPUs: dom.CPUs, Ceiling: tt.ceiling}, tt.slowest)
		if got != tt.want || (cost == 0) != tt.free {
			t.Errorf("from %v, not slower than %g: %v at %.4f, want %v", tt.ceiling, tt.slowest, got, cost, tt.want)
		}
	}
	for config, looks := range map[string]bool{"": true, ", objective: latency": false, ", max_slowdown: 0%": false} {
		mach, d := waiting(t, strings.Replace(config, ", objective: latency", ", priority: 1", 1), asIs, itself, 0.3, 1)
		if strings.Contains(config, "latency") {
			d.config.Policy.Classes[0].Objective = placement.Latency
		}
		seen := map[units.Frequency]bool{}
		spent, last := 0, 0
		for range 240 {
			s := ticks(t, mach, d, 1)
			for _, b := range s.Plan.Bands {
				if strings.HasPrefix(b.Reason, "for a moment at ") {
					seen[b.Ceiling] = true
					spent, last = spent+1, s.Tick
				}
			}
		}
		if (len(seen) > 0) != looks {
			t.Errorf("config %q: looks at %v", config, seen)
		}
		if spent > 6*probeTicks || last > 200 {
			t.Errorf("config %q: %d looks, the last at tick %d", config, spent, last)
		}
	}
}
