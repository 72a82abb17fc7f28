package placement

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/units"
)

// deferrable is a cluster of four cores that share a power, with containers of a class that
// bears a delay; each uses 0.15 of a fastest core with one thread.
func deferrable(shared units.Power, n int) Input {
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), shared)
	p := energyClass()
	p.Classes[0].MaxDelay = 200 * time.Millisecond
	in := Input{Policy: p, Machine: m}
	for range n {
		in.Containers = append(in.Containers, contain(m, "batch", 0.15, 0.15, 0.15, 0.15)[len(in.Containers)])
	}
	for i := range in.Containers {
		in.Containers[i].Usual, in.Containers[i].Parallel = 0.15, 1
	}
	return in
}

// Four containers that are busy the share p of the time each keep what they share awake
// 1-(1-p)^4 of it, and gathered in the share s only s(1-(1-p/s)^4).
func TestGather(t *testing.T) {
	in := deferrable(3*units.Watt, 4)
	s := newSearch(in)
	a := s.best()
	g := s.gather(a)
	share := g.share[0]
	if share < 0.5 || share >= 1 {
		t.Fatalf("the share is %g", share)
	}
	p := 0.15 / s.capacityOf(a, 0)
	awake := func(s float64) float64 { return s * (1 - math.Pow(1-p/s, 4)) }
	if want := 3e6 * (awake(1) - awake(share)); math.Abs(float64(g.saves[0])-want) > 1e-6*want {
		t.Errorf("gathering in %g saves %v, want %v", share, g.saves[0], units.Power(want))
	}
	plan := Decide(in)
	for _, as := range plan.Assignments {
		if as.Limit == nil || float64(*as.Limit) != share || as.Period != 200*time.Millisecond || as.Share != share {
			t.Errorf("%+v, want a share of %g", as, share)
		}
	}
	// To wake each once more in a period, for so long, costs more than is saved.
	for i := range in.Machine.Domains {
		in.Machine.Domains[i].States = []IdleState{{Latency: 150 * time.Millisecond, Power: 10 * units.Milliwatt}}
	}
	if as := Decide(in).Assignments[0]; as.Limit != nil {
		t.Errorf("with slow states: %s", as.Reason)
	}
}

// Two threads that run at once need the quota of two.
func TestGatherThreads(t *testing.T) {
	in := deferrable(9*units.Watt, 4)
	each(&in, func(c *Container) { c.Parallel, c.Usual, c.Demand = 2, 0.2, 0.2 })
	for _, as := range Decide(in).Assignments {
		if as.Limit == nil || float64(*as.Limit) != 2*as.Share || as.Share == 0 {
			t.Errorf("%+v", as)
		}
	}
}

func TestNotGathered(t *testing.T) {
	for name, change := range map[string]func(*Input){
		"nothing is shared":         func(in *Input) { in.Machine.Islands[0].Awake = 0 },
		"no delay is borne":         func(in *Input) { in.Policy.Classes[0].MaxDelay = 0 },
		"one alone":                 func(in *Input) { in.Containers = in.Containers[:1] },
		"unknown threads":           func(in *Input) { each(in, func(c *Container) { c.Parallel = 0 }) },
		"always busy":               func(in *Input) { each(in, func(c *Container) { c.Usual = 1 }) },
		"others' limits":            func(in *Input) { each(in, func(c *Container) { c.OwnLimit = 0.5 }) },
		"no cpu.max":                func(in *Input) { each(in, func(c *Container) { c.CanLimit = false }) },
		"cores that cannot sleep":   func(in *Input) { in.Machine.Domains[0].CanSleep = false },
		"a bound that takes it all": func(in *Input) { in.Policy.Classes[0].MaxSlowdown = new(float64) },
	} {
		in := deferrable(3*units.Watt, 4)
		change(&in)
		for _, a := range Decide(in).Assignments {
			if a.Limit != nil || a.Share != 0 {
				t.Errorf("%s: %s gets %g: %s", name, a.ID, float64(*a.Limit), a.Reason)
			}
		}
	}
}

func each(in *Input, f func(*Container)) {
	for i := range in.Containers {
		f(&in.Containers[i])
	}
}

// The slowest clock and the share together keep the bound, which the governor may go down
// to.
func TestGatherKeepsBound(t *testing.T) {
	raised := 0
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		in := deferrable(0, 4)
		in.Machine = clusters(1, 4, cubic(10, units.Power(rng.Float64()*4e6), units.Power(rng.Float64()*1e6)), units.Power(rng.Float64()*6e6))
		slow, usual, now := 3*rng.Float64(), 0.3*rng.Float64(), rng.Float64()
		in.Policy.Classes[0].MaxSlowdown = &slow
		in.Average = map[string]float64{"batch": 4 * usual}
		each(&in, func(c *Container) { c.Usual, c.Demand = usual, now })
		plan := Decide(in)
		share := plan.Assignments[0].Share
		if share == 0 {
			continue
		}
		speed := float64(plan.Bands[0].Floor) / 2e6
		if speed*share*(1+slow) < 1-1e-9 {
			t.Errorf("slowdown %.2f: floor %g in %g of the time", slow, speed, share)
		}
		each(&in, func(c *Container) { c.Parallel = 0 })
		if Decide(in).Bands[0].Floor < plan.Bands[0].Floor {
			raised++
		}
	}
	if raised == 0 {
		t.Error("no floor was raised")
	}
}

// What is in force stays as long as it saves and nothing else saves much more.
func TestGatherStands(t *testing.T) {
	in := deferrable(0, 4)
	in.Machine = clusters(1, 4, cubic(1, 2*units.Watt, 0.1*units.Watt), 3*units.Watt)
	in = in.With(Decide(in))
	first := Decide(in).Assignments[0].Share
	if first == 0 {
		t.Fatal("nothing was gathered")
	}
	in.Machine.Islands[0].Awake = 50 * units.Milliwatt // hardly worth beginning with
	if share := Decide(in).Assignments[0].Share; share != first {
		t.Errorf("the share was %g and is %g", first, share)
	}
	each(&in, func(c *Container) { c.Share = 0 })
	if share := Decide(in).Assignments[0].Share; share != 0 {
		t.Errorf("for nothing much it begins with a share of %g", share)
	}
}

// A latency class beside it finds its cores no busier than it may, while the class runs.
func TestGatherBesideLatency(t *testing.T) {
	for usual, want := range map[float64]bool{0.15: true, 0.3: false} {
		in := deferrable(20*units.Watt, 4)
		each(&in, func(c *Container) { c.Usual, c.Demand = usual, usual })
		in.Policy.Classes = append(in.Policy.Classes, Class{Name: "web", Objective: Latency, Priority: 1})
		in.Containers = append(in.Containers, contain(in.Machine, "web", 0.1)...)
		s := newSearch(in)
		a := s.best()
		if len(a.cores[1]) != 4 { // all that there are
			t.Fatalf("they do not share cores: %v", a.cores)
		}
		if _, ok := s.bears(a, s.gather(a).floor, 1, 0.5); ok != want {
			t.Errorf("each uses %g: %v", usual, ok)
		}
	}
}
