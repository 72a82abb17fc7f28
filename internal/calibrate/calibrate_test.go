package calibrate

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// truth is a simulated machine of a platform: clusters of cores, with shared power.
func truth(t *testing.T, name string, clusters, cores int, meter string) (energy.Platform, sim.Spec) {
	t.Helper()
	p, err := configs.LoadPlatform(name)
	if err != nil {
		t.Fatal(err)
	}
	shared := p.Curve.OPPs[0].Active()
	s := sim.FromCurve(name, p.Curve, p.Idle, clusters, cores, shared)
	s.Meter = meter
	return p, s
}

// bound is the share of the simulated memory worker's work that scales with the clock.
const bound = 0.35

// calibrate runs a whole calibration of a simulated machine, whose files are seen through
// through.
func calibrate(t *testing.T, spec sim.Spec, through func(*sim.Machine) sysfs.FS) (*Machine, *Result, *sim.Machine) {
	t.Helper()
	s, err := sim.New(sim.Config{Spec: spec, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	fs := sysfs.FS(s)
	if through != nil {
		fs = through(s)
	}
	m, err := Read(fs)
	if err != nil {
		t.Fatal(err)
	}
	first := s.Knobs()
	out, err := run1(t, t.Context(), m, fs, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, s.Knobs()); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
	return m, m.Fit(out.Observations), s
}

// run1 runs a calibration once.
func run1(t *testing.T, ctx context.Context, m *Machine, fs sysfs.FS, s *sim.Machine, store *Store) (Outcome, error) {
	t.Helper()
	plan, err := m.NewPlan(9 * time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	j, err := sysfs.OpenJournal(t.TempDir(), fs, "/", "boot")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	load := &Simulated{Machine: s, Bound: bound}
	return Run(ctx, Options{Machine: m, Plan: plan, Journal: j, Load: load, Clock: load, Store: store})
}

// want is the truth of a parameter of a simulated machine of one kind; ok is false where
// there is none.
func want(p Parameter, spec sim.Spec) (float64, bool) {
	c := spec.Clusters[0]
	o := cpufreq.OPP{}
	if p.Clock != nil {
		i := slices.IndexFunc(c.Curve.OPPs, func(o cpufreq.OPP) bool { return o.Frequency == *p.Clock })
		o = c.Curve.OPPs[i]
	}
	deepest := c.Curve.OPPs[0].Static
	if n := len(c.Idle); n > 0 {
		deepest = c.Idle[n-1].Power
	}
	core := units.Power(0) // what a cluster of one core has beside
	if c.Cores == 1 {
		core = c.Shared - c.Asleep
	}
	switch p.Name {
	case NameAsleep:
		total := units.Power(0)
		for _, c := range spec.Clusters {
			if total += deepest*units.Power(c.Cores) + c.Asleep; len(c.Idle) == 0 {
				total += c.Shared - c.Asleep
			}
		}
		return float64(total), true
	case NameBusy, NameWaiting:
		return float64(o.Active() - deepest + core), true
	case NameStatic:
		return float64(o.Static - deepest + core), true
	case NameDynamic:
		return float64(o.Dynamic), true
	case NameIdle:
		for _, s := range c.Idle {
			if s.Name == *p.State {
				return float64(s.Power - deepest), true
			}
		}
	case NameCluster:
		return float64(c.Shared - c.Asleep), true
	case NameSpeed:
		return o.Speed, true
	case NameBound:
		return bound, true
	case NameStall:
		return 1, true
	}
	return 0, false
}

// check holds every parameter that is claimed to be known against the truth, and returns
// the names of what is known.
func check(t *testing.T, r *Result, spec sim.Spec) map[string]int {
	t.Helper()
	known := map[string]int{}
	for _, p := range r.Parameters {
		at := ""
		if p.Clock != nil {
			at = p.Clock.String()
		}
		if p.State != nil {
			at += *p.State
		}
		if p.Value != nil {
			w, _ := want(p, spec)
			t.Logf("%-45s %-12s %12.4f +- %-12.4f truth %12.4f known %v %s", p.Name, at, *p.Value, *p.Error, w, p.Known, p.Why)
		} else {
			t.Logf("%-45s %-12s unknown: %s", p.Name, at, p.Why)
		}
		if !p.Known {
			continue
		}
		known[p.Name]++
		w, ok := want(p, spec)
		if !ok || math.Abs(*p.Value-w) > 0.05*math.Abs(w) {
			t.Errorf("%s %s: %.4g is known to be within %.2g, the truth is %.4g (%v)", p.Name, at, *p.Value, *p.Error, w, ok)
		}
	}
	return known
}

// critical is the true critical clock of a spec of one kind.
func critical(p energy.Platform, spec sim.Spec) units.Frequency {
	c := spec.Clusters[0]
	p.Cluster = nil
	if c.Cores > 1 && len(c.Idle) > 0 {
		sleep := c.Asleep + units.Power(c.Cores)*c.Idle[len(c.Idle)-1].Power
		p.Cluster = &energy.Cluster{Cores: c.Cores, Power: c.Shared, Sleep: sleep}
	} else if c.Cores == 1 {
		for i := range p.Curve.OPPs {
			p.Curve.OPPs[i].Static += c.Shared - c.Asleep
		}
	}
	if len(c.Idle) == 0 {
		p.Awake = energy.AwakeGated
	}
	p.Workload.CPUBound, p.Workload.Stall = 1, 1
	return p.Curve.OPPs[p.Choose().Critical].Frequency
}

// On every platform each parameter that is claimed to be known is within 5 % of the truth,
// and the critical clock is the truth's.
func TestTruth(t *testing.T) {
	for _, name := range configs.PlatformNames() {
		for _, meter := range []string{"rapl", "acpi"} {
			t.Run(name+" "+meter, func(t *testing.T) {
				p, spec := truth(t, name, 2, 4, meter)
				m, r, s := calibrate(t, spec, nil)
				known := check(t, r, spec)
				n := min(MaxClocks, len(p.Curve.OPPs))
				for _, name := range []string{NameBusy, NameDynamic, NameSpeed} {
					if known[name] != n {
						t.Errorf("%s is known of %d of %d clocks", name, known[name], n)
					}
				}
				if len(r.Critical) != 1 || r.Critical[0].Clock != critical(p, spec) {
					t.Errorf("critical %+v, the truth is %v", r.Critical, critical(p, spec))
				}
				if len(m.Kinds) != 1 || s.Elapsed() > 9*time.Minute {
					t.Errorf("%d kinds, %v", len(m.Kinds), s.Elapsed())
				}
				t.Log(r.Miss, r.Misfit, r.Notes, s.Elapsed(), r.Critical)
			})
		}
	}
}
