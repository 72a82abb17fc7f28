package calibrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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

func machine(t *testing.T, spec sim.Spec) *sim.Machine {
	t.Helper()
	s, err := sim.New(sim.Config{Spec: spec, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// calibrate runs a whole calibration of a simulated machine, whose files are seen through
// through.
func calibrate(t *testing.T, spec sim.Spec, through func(*sim.Machine) sysfs.FS) (*Machine, *Result, *sim.Machine) {
	t.Helper()
	s := machine(t, spec)
	fs := sysfs.FS(s)
	if through != nil {
		fs = through(s)
	}
	m, err := Read(fs)
	if err != nil {
		t.Fatal(err)
	}
	first := s.Knobs()
	out, err := once(t, t.Context(), m, fs, s, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, s.Knobs()); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
	return m, m.Fit(out.Observations), s
}

// once runs a calibration once.
func once(t *testing.T, ctx context.Context, m *Machine, fs sysfs.FS, s *sim.Machine, store *Store, progress func(Progress)) (Outcome, error) {
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
	return Run(ctx, Options{Machine: m, Plan: plan, Journal: j, Load: load, Clock: load, Store: store, Progress: progress})
}

// clusterOf is the cluster of a machine that has a parameter's first cpu.
func clusterOf(p Parameter, spec sim.Spec) sim.Cluster {
	first := 0
	for _, c := range spec.Clusters {
		if first += c.Cores * max(1, c.Threads); p.CPUs == nil || int(p.CPUs.Min()) < first {
			return c
		}
	}
	panic("no cluster has " + p.CPUs.String())
}

// want is the truth of a parameter of a simulated machine; ok is false where there is
// none.
func want(p Parameter, spec sim.Spec) (float64, bool) {
	c := clusterOf(p, spec)
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
			if len(c.Idle) == 0 {
				total += c.Curve.OPPs[0].Static*units.Power(c.Cores) + c.Shared
			} else {
				total += c.Idle[len(c.Idle)-1].Power*units.Power(c.Cores) + c.Asleep
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
			w, _ := want(p, spec) // 0 where there is none
			t.Logf("%-45s %-12s %12.4f +- %-12.4f truth %12.4f known %v %s", p.Name, at, *p.Value, *p.Error, w, p.Known, p.Why)
		} else {
			t.Logf("%-45s %-12s unknown: %s", p.Name, at, p.Why)
		}
		w, ok := want(p, spec)
		if ok && p.Value != nil && math.Abs(*p.Value-w) > 5**p.Error+1e-9 {
			t.Errorf("%s %s: %.6g is said to be within %.2g, the truth is %.6g", p.Name, at, *p.Value, *p.Error, w)
		}
		if !p.Known {
			continue
		}
		known[p.Name]++
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

// veil is a simulated machine that is not quite as it is: its meter scatters, files are
// hidden, others refuse.
type veil struct {
	*sim.Machine
	noise   *rand.Rand
	hidden  string // the name of files that are not there
	refuses string // the name of files that cannot be written
}

func (v veil) ReadFile(name string) ([]byte, error) {
	if v.hidden != "" && path.Base(name) == v.hidden {
		return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
	}
	data, err := v.Machine.ReadFile(name)
	if err != nil || v.noise == nil {
		return data, err
	}
	number, _ := strconv.ParseFloat(strings.TrimSpace(string(data)), 64)
	switch path.Base(name) {
	case "energy_uj": // the processor counts each millisecond, in steps of 61 uJ
		number = math.Max(0, math.Floor((number+1000*v.noise.NormFloat64())/61)*61)
	case "power1_average": // a cheap sensor
		number = math.Round(number*(1+0.02*v.noise.NormFloat64())/1000) * 1000
	default:
		return data, nil
	}
	return []byte(strconv.FormatFloat(number, 'f', 0, 64)), nil
}

func (v veil) WriteFile(name string, data []byte) error {
	if v.refuses != "" && path.Base(name) == v.refuses {
		return &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
	}
	return v.Machine.WriteFile(name, data)
}

// A meter that scatters makes errors larger, and what is still claimed is true.
func TestNoise(t *testing.T) {
	for _, meter := range []string{"rapl", "acpi"} {
		for seed := range uint64(5) {
			t.Run(fmt.Sprint(meter, seed), func(t *testing.T) {
				p, spec := truth(t, "rk3399-a72", 2, 4, meter)
				_, r, _ := calibrate(t, spec, func(m *sim.Machine) sysfs.FS {
					return veil{Machine: m, noise: rand.New(rand.NewPCG(seed, 1))}
				})
				known := check(t, r, spec)
				if known[NameBusy] != len(p.Curve.OPPs) {
					t.Errorf("known: %v", known)
				}
				if got, want := r.Critical[0], critical(p, spec); got.Clock != want && !slices.Contains(got.Also, want) {
					t.Errorf("critical %+v, the truth is %v", got, want)
				}
			})
		}
	}
}

// Machines of other shapes: kinds of cores, threads, own clocks, many cores.
func TestShapes(t *testing.T) {
	little, _ := configs.LoadPlatform("rk3399-a53")
	big, _ := configs.LoadPlatform("rk3399-a72")
	shapes := map[string]func(*sim.Spec){
		"hybrid": func(s *sim.Spec) {
			s.Clusters[0] = sim.Cluster{Cores: 4, Curve: little.Curve, Idle: little.Idle, Capacity: 0.4, Shared: 40 * units.Milliwatt, Asleep: units.Milliwatt}
			s.Clusters[1] = sim.Cluster{Cores: 2, Curve: big.Curve, Idle: big.Idle, Shared: 300 * units.Milliwatt, Asleep: 5 * units.Milliwatt}
		},
		"threads":    func(s *sim.Spec) { s.Clusters[0].Threads, s.Clusters[1].Threads = 2, 2 },
		"own clocks": func(s *sim.Spec) { s.Clusters[0].OwnClocks, s.Clusters[1].OwnClocks = true, true },
		"two sockets": func(s *sim.Spec) {
			s.Clusters = append(s.Clusters, s.Clusters...)
			s.Clusters[2].Package, s.Clusters[3].Package = 1, 1
		},
	}
	for name, change := range shapes {
		t.Run(name, func(t *testing.T) {
			_, spec := truth(t, "rk3399-a72", 2, 4, "acpi")
			change(&spec)
			m, r, s := calibrate(t, spec, nil)
			known := check(t, r, spec)
			clocks := 0
			for _, k := range m.Kinds {
				clocks += len(k.Steps)
			}
			if known[NameBusy] != clocks || known[NameDynamic] != clocks || known[NameCluster] == 0 {
				t.Errorf("known: %v, of %d clocks", known, clocks)
			}
			if len(r.Platforms(s.Now())) != len(m.Kinds) {
				t.Errorf("%d platforms for %d kinds", len(r.Platforms(s.Now())), len(m.Kinds))
			}
		})
	}
}

// Sixteen cores with the longest table and the slowest meter take less than ten minutes.
func TestTime(t *testing.T) {
	_, spec := truth(t, "exynos5422-a15", 4, 4, "acpi")
	for i := range spec.Clusters {
		spec.Clusters[i].OwnClocks = true
	}
	_, r, s := calibrate(t, spec, nil)
	if s.Elapsed() > 10*time.Minute {
		t.Errorf("it took %v", s.Elapsed())
	}
	if known := check(t, r, spec); known[NameDynamic] != MaxClocks {
		t.Errorf("known: %v", known)
	}
}

// What the data cannot tell is said so, with the reason, and nothing is claimed of it.
func TestUnknown(t *testing.T) {
	for _, tt := range []struct {
		name    string
		clocks  int // of the table that are left
		cores   int
		change  func(*sim.Spec)
		through func(*sim.Machine) sysfs.FS
		unknown map[string]string // parameter to a part of the reason
		known   []string
	}{
		{name: "one clock", clocks: 1, cores: 4,
			unknown: map[string]string{NameBound: "one clock only", NameStall: "one clock only", NameBase: "together with sleeping cores", NameDeepest: "together with"},
			known:   []string{NameBusy, NameStatic, NameDynamic, NameIdle, NameCluster, NameAsleep}},
		{name: "states are fixed", clocks: 8, cores: 4,
			through: func(m *sim.Machine) sysfs.FS { return veil{Machine: m, hidden: "disable"} },
			unknown: map[string]string{NameStatic: "no core is awake without work", NameDynamic: "no core is awake without work", NameIdle: "does not let", NameStall: "told apart"},
			known:   []string{NameBusy, NameCluster, NameAsleep, NameSpeed, NameBound}},
		{name: "states cannot be written", clocks: 8, cores: 4,
			through: func(m *sim.Machine) sysfs.FS { return veil{Machine: m, refuses: "disable"} },
			unknown: map[string]string{NameStatic: "permission denied", NameDynamic: "permission denied", NameIdle: "permission denied"},
			known:   []string{NameBusy, NameCluster}},
		{name: "one core", clocks: 8, cores: 1, change: func(s *sim.Spec) { s.Clusters = s.Clusters[:1] },
			unknown: map[string]string{NameCluster: "in that core's power"},
			known:   []string{NameBusy, NameStatic, NameDynamic, NameIdle}},
		{name: "no idle states", clocks: 8, cores: 4, change: func(s *sim.Spec) { s.Clusters[0].Idle, s.Clusters[1].Idle = nil, nil },
			unknown: map[string]string{NameCluster: "never asleep"},
			known:   []string{NameBusy, NameDynamic}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, spec := truth(t, "rk3399-a72", 2, tt.cores, "rapl")
			for i := range spec.Clusters {
				c := &spec.Clusters[i]
				c.Curve.OPPs = c.Curve.OPPs[len(c.Curve.OPPs)-tt.clocks:]
			}
			if tt.change != nil {
				tt.change(&spec)
			}
			_, r, _ := calibrate(t, spec, tt.through)
			known := check(t, r, spec)
			for _, p := range r.Parameters {
				if why, ok := tt.unknown[p.Name]; ok && (p.Known || p.Value != nil || !strings.Contains(p.Why, why)) {
					t.Errorf("%s: known %v, because %q: want it unknown because %q", p.Name, p.Known, p.Why, why)
				}
				delete(tt.unknown, p.Name)
			}
			if len(tt.unknown) > 0 {
				t.Errorf("nothing is said of %v", tt.unknown)
			}
			for _, name := range tt.known {
				if known[name] == 0 {
					t.Errorf("%s is not known", name)
				}
			}
		})
	}
}

// An interrupted run restores every file; the next measures what is left, and comes to
// the same result. Points of another machine are not used.
func TestResume(t *testing.T) {
	_, spec := truth(t, "hi3660-a53", 2, 2, "rapl")
	s := machine(t, spec)
	m, err := Read(s)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "points")
	open := func(m *Machine) *Store {
		store, err := OpenStore(name, m)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	first := s.Knobs()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun := 0
	out, err := once(t, ctx, m, s, s, open(m), func(p Progress) {
		if begun++; begun == 8 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || len(out.Observations) != 7 {
		t.Fatalf("%d points, %v", len(out.Observations), err)
	}
	if diff := cmp.Diff(first, s.Knobs()); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
	// A crash may cut the last line short.
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"point":"cut"}`)
	f.Close()

	again := open(m)
	if again.Len() != 7 {
		t.Errorf("%d points are kept, want 7", again.Len())
	}
	var lefts []time.Duration
	out, err = once(t, t.Context(), m, s, s, again, func(p Progress) { lefts = append(lefts, p.Left) })
	if err != nil {
		t.Fatal(err)
	}
	plan, _ := m.NewPlan(9 * time.Minute)
	points := 2 * len(plan.Points) // each twice, which is enough here
	if out.Kept != 7 || len(lefts) != points-7 || len(out.Observations) != points {
		t.Errorf("%d kept, %d measured, %d in all of %d", out.Kept, len(lefts), len(out.Observations), points)
	}
	if !slices.IsSortedFunc(lefts, func(a, b time.Duration) int { return int(b - a) }) || lefts[len(lefts)-1] <= 0 {
		t.Errorf("time left: %v", lefts)
	}
	check(t, m.Fit(out.Observations), spec)

	other, err := Read(machine(t, sim.Spec{Clusters: spec.Clusters[:1], Driver: spec.Driver, Meter: spec.Meter}))
	if err != nil {
		t.Fatal(err)
	}
	if n := open(other).Len(); n != 0 {
		t.Errorf("%d points of another machine are used", n)
	}
}

// Without a meter or a clock to set there is nothing to calibrate, and all that is missing
// is said.
func TestMissing(t *testing.T) {
	_, spec := truth(t, "rk3399-a72", 1, 2, "")
	_, err := Read(machine(t, spec))
	if err == nil || !strings.Contains(err.Error(), "no energy meter") || strings.Contains(err.Error(), "frequency") {
		t.Errorf("without a meter: %v", err)
	}
	_, err = Read(veil{Machine: machine(t, spec), hidden: "scaling_min_freq"})
	if err == nil || !strings.Contains(err.Error(), "no energy meter") || !strings.Contains(err.Error(), "no frequency control") {
		t.Errorf("without a meter and limits: %v", err)
	}
	spec.Meter = "rapl"
	m, err := Read(machine(t, spec))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.NewPlan(20 * time.Second); err == nil || !strings.Contains(err.Error(), "points") {
		t.Errorf("in too short a time: %v", err)
	}
}
