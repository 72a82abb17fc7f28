package placement

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

func budgeted(seed uint64) (Input, *rand.Rand) {
	rng := rand.New(rand.NewPCG(seed, 13))
	in := random(rng)
	for i := range in.Policy.Classes {
		in.Policy.Classes[i].MaxDelay = 0 // who has a budget is not gathered
	}
	for i := range in.Containers {
		c := &in.Containers[i]
		c.Budget, c.Power, c.Used = units.Power(rng.Float64()*5e6), units.Power(rng.Float64()*8e6), 4*rng.Float64()
		if rng.IntN(4) == 0 {
			c.Budget = 0
		}
		if rng.IntN(2) == 0 {
			c.Limit = 0.05 + 3*rng.Float64()
		}
		if rng.IntN(4) == 0 {
			c.OwnLimit = 0.05 + 3*rng.Float64()
		}
	}
	return in, rng
}

// Who is charged more than its budget gets no more time than that buys, never more than
// another limit leaves, and a reason; who is not, and has no limit, gets none.
func TestBudgets(t *testing.T) {
	over := 0
	for seed := range uint64(2000) {
		in, _ := budgeted(seed)
		free := in
		free.Containers = append([]Container{}, in.Containers...)
		of := map[string]Container{}
		for i := range free.Containers {
			of[free.Containers[i].ID] = free.Containers[i]
			free.Containers[i].Budget = 0
		}
		plan, without := Decide(in), Decide(free)
		for i, a := range plan.Assignments {
			c, other := of[a.ID], math.Inf(1)
			if l := without.Assignments[i].Limit; l != nil {
				other = float64(*l)
			}
			got := math.Inf(1)
			if a.Limit != nil {
				got = float64(*a.Limit)
			}
			switch {
			case strings.HasPrefix(a.Reason, "none of the cpus"): // nothing runs
			case got > other:
				t.Fatalf("seed %d: %s gets %g cpus with a budget and %g without", seed, a.ID, got, other)
			case c.Budget == 0 || !c.CanLimit:
				if got != other {
					t.Fatalf("seed %d: %s gets %g cpus, not %g, without a budget that can be held", seed, a.ID, got, other)
				}
			case c.Power > c.Budget*(1+budgetSlack):
				over++
				buys := max(leastLimit, c.Used*float64(c.Budget/c.Power))
				cpus := c.Allowed.Intersect(in.Machine.Online())
				if a.CPUs != nil {
					cpus = *a.CPUs
				}
				if got > buys*(1+1e-9) && (cpus.Empty() || buys < float64(cpus.Len())) {
					t.Fatalf("seed %d: %s gets %g cpus, its budget buys %g: %s", seed, a.ID, got, buys, a.Reason)
				}
				if !strings.Contains(a.Reason, "of its budget of "+c.Budget.String()) {
					t.Fatalf("seed %d: %s has the reason %q", seed, a.ID, a.Reason)
				}
			case c.Power <= c.Budget && c.Limit == 0 && got != other:
				t.Fatalf("seed %d: %s is within its budget and gets %g cpus: %s", seed, a.ID, got, a.Reason)
			}
		}
		if again := Decide(in.With(plan)); !again.Same(plan) {
			t.Fatalf("seed %d: deciding again changes the plan", seed)
		}
	}
	if over < 500 {
		t.Errorf("%d were over their budget: the test sees too little", over)
	}
}

// A container that would use 3 cpus at 2 W each comes within 2.5 W, stays there, and is
// let go when it wants less.
func TestBudgetSettles(t *testing.T) {
	in := Input{Policy: energyClass(), Machine: clusters(1, 4, cubic(10, 2*units.Watt, 0.5*units.Watt), 0), Containers: contain(clusters(1, 4, cubic(10, 2*units.Watt, 0), 0), "batch", 3)}
	c := &in.Containers[0]
	c.Budget = 2500 * units.Milliwatt
	run := func(wants float64) float64 {
		c.Used = wants
		if c.Limit > 0 {
			c.Used = min(wants, c.Limit)
		}
		c.Power = units.Power(c.Used) * 2 * units.Watt
		in = in.With(Decide(in))
		c = &in.Containers[0]
		return c.Limit
	}
	for range 3 {
		run(3)
	}
	if got := run(3); math.Abs(got-1.25) > 1e-9 {
		t.Errorf("limit %g, want 1.25 cpus", got)
	}
	if got := run(0.5); got != 0 {
		t.Errorf("it wants half a cpu and has a limit of %g", got)
	}
}
