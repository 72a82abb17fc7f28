package placement

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// cubic is an ideal scaled-voltage core of n OPPs up to 2 GHz: dynamic power
// peak s^3, static power on top.
func cubic(n int, peak, static units.Power) cpufreq.Curve {
	var c cpufreq.Curve
	for i := 1; i <= n; i++ {
		s := float64(i) / float64(n)
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: units.Frequency(2e6 * s), Speed: s, Dynamic: peak * units.Power(s*s*s), Static: static})
	}
	return c
}

// clusters is a machine of so many clusters of so many cores, one clock and one
// cache a cluster.
func clusters(n, cores int, curve cpufreq.Curve, shared units.Power) Machine {
	var m Machine
	for k := range n {
		cpus := cpuset.Range(cpuset.CPU(k*cores), cpuset.CPU(k*cores+cores-1))
		m.Domains = append(m.Domains, Domain{Policies: []units.PolicyID{units.PolicyID(k * cores)}, CPUs: cpus, Curve: curve,
			Sleep: 10 * units.Milliwatt, CanSleep: true, Ceiling: 2 * units.GHz, Floor: curve.OPPs[0].Frequency})
		m.Islands = append(m.Islands, Island{Name: fmt.Sprintf("cluster %d", k), CPUs: cpus, Awake: shared})
		m.Groups = append(m.Groups, cpus)
		for c := range cpus.All() {
			m.Cores = append(m.Cores, Core{CPUs: cpuset.Of(c), Domain: k, Capacity: 1})
		}
	}
	return m
}

func contain(m Machine, class string, demands ...float64) []Container {
	var out []Container
	for i, d := range demands {
		out = append(out, Container{ID: fmt.Sprintf("%s/%d", class, i), Class: class, Demand: d, Allowed: m.Online(), CanPlace: true, CanLimit: true})
	}
	return out
}

func energyClass() Policy {
	return Policy{Headroom: 0.8, Classes: []Class{{Name: "batch", Objective: Energy}}}
}

// With static power P0 and dynamic power b s^3, the critical speed is
// (P0/2b)^(1/3) (energy.md 1.1). P0 = 0.864 W, b = 2 W: s = 0.6 when a core works
// alone, so the band is at 0.6 x 2 GHz.
func TestCriticalBand(t *testing.T) {
	m := clusters(2, 4, cubic(10, 2*units.Watt, 0.874*units.Watt), 0)
	plan := Decide(Input{Policy: energyClass(), Machine: m, Containers: contain(m, "batch", 0.3)})
	b := plan.Bands[0]
	if b.FloorKHz != 1_200_000 || b.CeilingKHz != 1_200_000 || b.CriticalKHz != 1_200_000 {
		t.Errorf("band %d-%d, critical %d: %s", b.FloorKHz, b.CeilingKHz, b.CriticalKHz, b.Reason)
	}
	if idle := plan.Bands[1]; idle.FloorKHz != 1_200_000 || idle.CeilingKHz != 2_000_000 {
		t.Errorf("a domain without a class has band %d-%d", idle.FloorKHz, idle.CeilingKHz)
	}
}

// The lecture's rows: fixed voltage and sleep runs at maximum; no sleep runs at
// the slowest that keeps up.
func TestLectureRows(t *testing.T) {
	fixed := cubic(10, 0, 1*units.Watt)
	for i := range fixed.OPPs {
		fixed.OPPs[i].Dynamic = 2 * units.Watt * units.Power(fixed.OPPs[i].Speed) // V fixed: linear in f
	}
	m := clusters(1, 4, fixed, 0)
	if b := Decide(Input{Policy: energyClass(), Machine: m, Containers: contain(m, "batch", 0.3)}).Bands[0]; b.FloorKHz != 2_000_000 {
		t.Errorf("fixed voltage and sleep: floor %d", b.FloorKHz)
	}
	m = clusters(1, 1, cubic(10, 2*units.Watt, 0.874*units.Watt), 0)
	m.Domains[0].CanSleep = false
	b := Decide(Input{Policy: energyClass(), Machine: m, Containers: contain(m, "batch", 0.3)}).Bands[0]
	// 0.3 of a core at 80 % headroom needs speed 0.375: 0.4.
	if b.CeilingKHz != 800_000 {
		t.Errorf("scaled voltage, no sleep: ceiling %d: %s", b.CeilingKHz, b.Reason)
	}
}

func TestBoundHolds(t *testing.T) {
	slow := 0.25
	p := energyClass()
	p.Classes[0].MaxSlowdown = &slow
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	b := Decide(Input{Policy: p, Machine: m, Containers: contain(m, "batch", 0.3)}).Bands[0]
	if b.CeilingKHz != 1_600_000 { // 1/0.8 = 1.25
		t.Errorf("ceiling %d: %s", b.CeilingKHz, b.Reason)
	}
}

// A cluster with dear shared power is worth keeping asleep; with none, and a
// tight clock, spreading over both lowers the frequency.
func TestPackOrSpread(t *testing.T) {
	for _, tt := range []struct {
		shared units.Power
		want   int // clusters used
	}{{2 * units.Watt, 1}, {0, 2}} {
		m := clusters(2, 2, cubic(10, 2*units.Watt, 0.05*units.Watt), tt.shared)
		plan := Decide(Input{Policy: energyClass(), Machine: m, Containers: contain(m, "batch", 0.5, 0.5)})
		used := 0
		for _, g := range m.Groups {
			if g.Overlaps(plan.Pools[0].CPUs) {
				used++
			}
		}
		if used != tt.want {
			t.Errorf("shared %v: %d clusters, want %d: %s", tt.shared, used, tt.want, plan.Pools[0].Reason)
		}
	}
}

// Work shares a latency class' cores where that leaves a cluster asleep and half of their
// time free; where nothing is saved, or the governor would drive its clock too high, it
// has cores of its own.
func TestLatencyKeepsItsMaximum(t *testing.T) {
	wake := 100 * time.Microsecond
	p := Policy{Headroom: 0.8, Classes: []Class{{Name: "batch", Objective: Energy}, {Name: "web", Objective: Latency, Priority: 1, MaxWakeLatency: &wake}}}
	for name, tt := range map[string]struct {
		shared units.Power
		batch  []float64
		share  bool
	}{
		"a cluster sleeps":   {0.5 * units.Watt, []float64{0.5}, true},
		"crowded":            {0.5 * units.Watt, []float64{0.5, 0.5, 0.5, 0.5}, false},
		"nothing to save":    {0, []float64{0.5}, false},
		"driven to the most": {0.1 * units.Watt, []float64{1, 0.1}, false},
	} {
		m := clusters(2, 4, cubic(10, 2*units.Watt, 0.874*units.Watt), tt.shared)
		plan := Decide(Input{Policy: p, Machine: m, Containers: append(contain(m, "batch", tt.batch...), contain(m, "web", 0.5)...)})
		byClass := map[string]Pool{}
		for _, pool := range plan.Pools {
			byClass[pool.Class] = pool
		}
		if got := byClass["web"].CPUs.Overlaps(byClass["batch"].CPUs); got != tt.share {
			t.Errorf("%s: web on %v, batch on %v: %s", name, byClass["web"].CPUs, byClass["batch"].CPUs, byClass["batch"].Reason)
		}
		for _, b := range plan.Bands {
			if b.CPUs.Overlaps(byClass["web"].CPUs) && b.CeilingKHz != 2_000_000 {
				t.Errorf("%s: a latency class has ceiling %d", name, b.CeilingKHz)
			}
		}
		if len(plan.Idle) != 1 || !plan.Idle[0].CPUs.Equal(byClass["web"].CPUs) || plan.Idle[0].MaxExit != wake {
			t.Errorf("%s: idle bounds %+v", name, plan.Idle)
		}
	}
}

// A bound is kept by the floor: a governor that sees little to do may not go below it.
func TestBoundIsTheFloor(t *testing.T) {
	slow := 0.25
	p := Policy{Headroom: 0.8, Classes: []Class{{Name: "web", Objective: Latency, MaxSlowdown: &slow}, {Name: "batch", Objective: Energy}}}
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	for _, class := range []string{"web", "batch"} {
		b := Decide(Input{Policy: p, Machine: m, Containers: contain(m, class, 0.3)}).Bands[0]
		if want := map[string]uint64{"web": 1_600_000, "batch": 600_000}[class]; b.FloorKHz != want {
			t.Errorf("%s: floor %d, want %d: %s", class, b.FloorKHz, want, b.Reason)
		}
	}
}

// Work that goes on for ever keeps the cluster awake at any speed and runs slowly; a burst
// of as much work is done fast, for then all sleeps. What carries it is the same.
func TestBurstsAreDoneFast(t *testing.T) {
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), 6*units.Watt)
	in := Input{Policy: energyClass(), Machine: m, Containers: contain(m, "batch", 0.8, 0.8)}
	always := Decide(in)
	in.Average = map[string]float64{"batch": 0.1}
	burst := Decide(in)
	if a, b := always.Bands[0].CeilingKHz, burst.Bands[0].CeilingKHz; a > 1_000_000 || b < 1_600_000 {
		t.Errorf("work without end at %d kHz, a burst at %d: %s", a, b, burst.Bands[0].Reason)
	}
	if !burst.Pools[0].Feasible || burst.Pools[0].Demand != always.Pools[0].Demand {
		t.Errorf("%+v", burst.Pools[0])
	}
}

// A bound counts the wait for a busy core, too: where many share few cores the clock is
// higher than where each has its own.
func TestBoundCountsTheWait(t *testing.T) {
	slow := 1.0
	p := Policy{Headroom: 0.9, Classes: []Class{{Name: "batch", Objective: Energy, MaxSlowdown: &slow}}}
	m := clusters(1, 2, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	few := Decide(Input{Policy: p, Machine: m, Containers: contain(m, "batch", 0.05)}).Bands[0]
	many := Decide(Input{Policy: p, Machine: m, Containers: contain(m, "batch", 0.5, 0.5)}).Bands[0]
	if few.CeilingKHz != 1_000_000 || many.CeilingKHz < 1_600_000 { // at 0.8, 62 % of the time both are busy 39 %
		t.Errorf("ceilings %d and %d", few.CeilingKHz, many.CeilingKHz)
	}
}

// On a hybrid a bound is against the fastest kind of core: a core that is slower at its
// fastest is for those who bear that.
func TestBoundOnHybrid(t *testing.T) {
	m := clusters(2, 2, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	for i := range m.Cores {
		if m.Cores[i].Domain == 0 {
			m.Cores[i].Capacity = 0.4
		}
	}
	m.Domains[0].Curve = cubic(10, 0.2*units.Watt, 0.01*units.Watt)
	for slow, little := range map[float64]bool{0.25: false, 2: true} {
		p := energyClass()
		p.Classes[0].MaxSlowdown = &slow
		plan := Decide(Input{Policy: p, Machine: m, Containers: contain(m, "batch", 0.2)})
		if got := plan.Pools[0].CPUs.SubsetOf(cpuset.Range(0, 1)); got != little {
			t.Errorf("with a slowdown of %g: cpus %v: %s", slow, plan.Pools[0].CPUs, plan.Pools[0].Reason)
		}
	}
}

func TestLimitGrowsAsTheClockFalls(t *testing.T) {
	limit := 0.3
	p := energyClass()
	p.Classes[0].CPULimit = &limit
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.874*units.Watt), 0)
	plan := Decide(Input{Policy: p, Machine: m, Containers: contain(m, "batch", 5)})
	if got := float64(*plan.Assignments[0].Limit); math.Abs(got-0.5) > 1e-9 { // 0.3 cores at 0.6 speed
		t.Errorf("limit %g cpus, want 0.5: %s", got, plan.Assignments[0].Reason)
	}
}

// random makes any machine, policy and load.
func random(rng *rand.Rand) Input {
	curve := cubic(1+rng.IntN(12), units.Power(rng.Float64()*4e6), units.Power(rng.Float64()*1e6))
	m := clusters(1+rng.IntN(4), 1+rng.IntN(8), curve, units.Power(rng.Float64()*3e6))
	if rng.IntN(2) == 0 { // the first cluster is a small kind
		for i := range m.Cores {
			if m.Cores[i].Domain == 0 {
				m.Cores[i].Capacity = 0.4
			}
		}
		m.Domains[0].Curve = cubic(1+rng.IntN(8), units.Power(rng.Float64()*1e6), units.Power(rng.Float64()*1e5))
	}
	for i := range m.Domains {
		m.Domains[i].CanSleep = rng.IntN(5) > 0
		if rng.IntN(8) == 0 {
			m.Domains[i].Curve = cpufreq.Curve{}
		}
	}
	keep := m.Cores[:0:0]
	for _, c := range m.Cores { // some are offline
		if len(keep) == 0 || rng.IntN(6) > 0 {
			keep = append(keep, c)
		}
	}
	m.Cores = keep
	p := Policy{Headroom: 0.5 + 0.5*rng.Float64()}
	var cs []Container
	average := map[string]float64{}
	for i := range 1 + rng.IntN(4) {
		c := Class{Name: fmt.Sprint("class", i), Objective: []Objective{Energy, Latency}[rng.IntN(2)], Priority: rng.IntN(2)}
		if rng.IntN(2) == 0 {
			v := rng.Float64()
			c.MaxSlowdown = &v
		}
		if rng.IntN(2) == 0 {
			v := 0.1 + 3*rng.Float64()
			c.CPULimit = &v
		}
		if rng.IntN(2) == 0 {
			v := time.Duration(rng.IntN(300)) * time.Microsecond
			c.MaxWakeLatency = &v
		}
		if c.Objective == Energy && rng.IntN(2) == 0 {
			c.MaxDelay = time.Duration(10+rng.IntN(500)) * time.Millisecond
		}
		p.Classes = append(p.Classes, c)
		for range rng.IntN(5) {
			ct := contain(m, c.Name, rng.ExpFloat64())[0]
			if c.MaxDelay > 0 {
				ct.Usual, ct.Parallel = ct.Demand*rng.Float64()/3, rng.IntN(4)
				average[c.Name] += ct.Usual
			}
			ct.ID = fmt.Sprint(c.Name, "/", len(cs))
			if rng.IntN(2) == 0 {
				ct.MemoryBound = rng.Float64()
			}
			ct.CanPlace, ct.CanLimit = rng.IntN(6) > 0, rng.IntN(6) > 0
			if rng.IntN(4) == 0 {
				ct.Allowed = cpuset.Of(cpuset.CPU(rng.IntN(40)), cpuset.CPU(rng.IntN(40)))
			}
			cs = append(cs, ct)
		}
	}
	return Input{Policy: p, Machine: m, Containers: cs, Other: max(0, 2*rng.Float64()-1), Average: average}
}

func TestProperties(t *testing.T) {
	gathered := 0
	for seed := range uint64(3000) {
		in := random(rand.New(rand.NewPCG(seed, 7)))
		plan := Decide(in)
		if diff := cmp.Diff(plan, Decide(in)); diff != "" {
			t.Fatalf("seed %d: not deterministic: %s", seed, diff)
		}
		online := in.Machine.Online()
		if len(plan.Assignments) != len(in.Containers) {
			t.Fatalf("seed %d: %d assignments for %d containers", seed, len(plan.Assignments), len(in.Containers))
		}
		allowed := map[string]cpuset.Set{}
		for _, c := range in.Containers {
			allowed[c.ID] = c.Allowed
		}
		for _, a := range plan.Assignments {
			if a.CPUs != nil && (a.CPUs.Empty() || !a.CPUs.SubsetOf(online.Intersect(allowed[a.ID]))) {
				t.Fatalf("seed %d: %s gets cpus %q of online %q, allowed %q", seed, a.ID, a.CPUs, online, allowed[a.ID])
			}
			if a.Limit != nil && !(*a.Limit > 0) {
				t.Fatalf("seed %d: %s gets limit %g", seed, a.ID, float64(*a.Limit))
			}
			if a.Reason == "" {
				t.Fatalf("seed %d: %s has no reason", seed, a.ID)
			}
			if (a.Share > 0) != (a.Period > 0) || a.Share >= 1 || a.Share > 0 && a.Limit == nil {
				t.Fatalf("seed %d: %s gets a share of %g, a period of %v, a limit of %v", seed, a.ID, a.Share, a.Period, a.Limit)
			}
			if a.Share > 0 {
				gathered++
			}
		}
		for _, b := range plan.Bands {
			if b.Floor > b.Ceiling || b.Floor == 0 || b.Reason == "" {
				t.Fatalf("seed %d: band %+v", seed, b)
			}
		}
		var bound cpuset.Set
		for _, b := range plan.Idle {
			if b.CPUs.Overlaps(bound) {
				t.Fatalf("seed %d: cpus %q have two bounds", seed, b.CPUs.Intersect(bound))
			}
			bound = bound.Union(b.CPUs)
		}
		if math.IsNaN(float64(plan.Power)) || plan.Power < 0 {
			t.Fatalf("seed %d: power %g", seed, float64(plan.Power))
		}
		again := Decide(in.With(plan))
		ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Reason" || p.Last().String() == ".Mode" }, cmp.Ignore())
		if diff := cmp.Diff(plan, again, ignore); diff != "" {
			t.Fatalf("seed %d: deciding again changes the plan: %s", seed, diff)
		}
	}
	if gathered < 10 {
		t.Errorf("only %d containers were gathered", gathered)
	}
}

func BenchmarkDecide(b *testing.B) { benchmarkDecide(b, 0) }

// A quarter of the containers wait for memory.
func BenchmarkDecideWaiting(b *testing.B) { benchmarkDecide(b, 0.5) }

func benchmarkDecide(b *testing.B, waits float64) {
	m := clusters(16, 8, cubic(16, 4*units.Watt, 0.5*units.Watt), 5*units.Watt)
	p := Policy{Headroom: 0.8, Classes: []Class{{Name: "batch", Objective: Energy}, {Name: "web", Objective: Latency}}}
	in := Input{Policy: p, Machine: m}
	for i := range 200 {
		in.Containers = append(in.Containers, contain(m, []string{"batch", "web"}[i%2], 0.2)[0])
		in.Containers[i].ID = fmt.Sprint(i)
		if i%4 == 0 {
			in.Containers[i].MemoryBound = waits
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		Decide(in)
	}
}
