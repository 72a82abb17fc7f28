package placement

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// threads gives every core of a machine a second thread, numbered behind all first ones.
func threads(m Machine) Machine {
	n := cpuset.CPU(0)
	for c := range m.Online().All() {
		n = max(n, c+1)
	}
	for _, g := range m.Groups { // some are offline
		for c := range g.All() {
			n = max(n, c+1)
		}
	}
	twice := func(s cpuset.Set) cpuset.Set {
		out := s
		for c := range s.All() {
			out = out.Union(cpuset.Of(c + n))
		}
		return out
	}
	for i := range m.Cores {
		m.Cores[i].CPUs = twice(m.Cores[i].CPUs)
	}
	for i := range m.Domains {
		m.Domains[i].CPUs = twice(m.Domains[i].CPUs)
	}
	for i := range m.Islands {
		m.Islands[i].CPUs = twice(m.Islands[i].CPUs)
	}
	for i := range m.Groups {
		m.Groups[i] = twice(m.Groups[i])
	}
	return m
}

// sharing lists the pairs of containers of different tenants that could meet on one of
// the units.
func sharing(in Input, plan Plan, units []cpuset.Set) map[string]bool {
	of := map[string]string{}
	for _, c := range in.Containers {
		of[c.ID] = c.Tenant
	}
	out := map[string]bool{}
	for _, a := range plan.Assignments {
		for _, b := range plan.Assignments {
			if a.CPUs == nil || b.CPUs == nil || of[a.ID] == of[b.ID] {
				continue
			}
			for _, u := range units {
				if u.Overlaps(*a.CPUs) && u.Overlaps(*b.CPUs) {
					out[a.ID] = true
				}
			}
		}
	}
	return out
}

// Whatever the machine, classes and loads: with a core for each tenant no two meet on
// one; with a cache for each, and a policy that says so, nor behind one. Who is not kept
// apart is told.
func TestTenantsApart(t *testing.T) {
	apart, short := 0, 0
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 11))
		in := random(rng)
		if rng.IntN(2) == 0 {
			in.Machine = threads(in.Machine)
		}
		free := rng.IntN(3) > 0 // nobody is confined
		tenants := map[string]bool{}
		for i := range in.Containers {
			c := &in.Containers[i]
			c.Tenant = []string{"", "a", "b", "c"}[rng.IntN(4)]
			if free {
				c.Allowed, c.CanPlace = in.Machine.Online(), true
			}
			tenants[c.Tenant] = true
		}
		if rng.IntN(2) == 0 {
			in.Policy.Apart = ByCache
		}
		plan := Decide(in)
		var cores []cpuset.Set
		for _, c := range in.Machine.Cores {
			cores = append(cores, c.CPUs)
		}
		met := sharing(in, plan, cores)
		if free && len(tenants) <= len(cores) && len(met) > 0 {
			t.Fatalf("seed %d: %v meet on cores, with %d tenants on %d cores: %+v", seed, met, len(tenants), len(cores), plan.Assignments)
		}
		groups := 0
		for _, g := range in.Machine.Groups {
			if g.Overlaps(in.Machine.Online()) {
				groups++
			}
		}
		if free && in.Policy.Apart == ByCache && groups == len(in.Machine.Groups) && len(tenants) <= groups {
			if met := sharing(in, plan, in.Machine.Groups); len(met) > 0 {
				t.Fatalf("seed %d: %v meet behind caches, with %d tenants and %d caches: %+v", seed, met, len(tenants), groups, plan.Assignments)
			}
		}
		for _, a := range plan.Assignments {
			if told := strings.Contains(a.Reason, "too few cores to keep"); told != met[a.ID] {
				t.Fatalf("seed %d: %s meets another tenant: %v; its reason is %q", seed, a.ID, met[a.ID], a.Reason)
			}
		}
		if len(met) > 0 {
			short++
		} else if len(tenants) > 1 {
			apart++
		}
		ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Reason" || p.Last().String() == ".Mode" }, cmp.Ignore())
		if diff := cmp.Diff(plan, Decide(in.With(plan)), ignore); diff != "" {
			t.Fatalf("seed %d: deciding again changes the plan: %s", seed, diff)
		}
	}
	if apart < 300 || short < 100 {
		t.Errorf("%d cases had room and %d had not: the test sees too little", apart, short)
	}
}

// One tenant's two classes share a core rather than leave another tenant without one.
func TestTenantsShareTheirOwn(t *testing.T) {
	p := Policy{Headroom: 0.8, Classes: []Class{{Name: "web", Objective: Latency, Priority: 1}, {Name: "batch", Objective: Energy}}}
	in := Input{Policy: p, Machine: clusters(1, 2, cubic(10, 2*units.Watt, 0.5*units.Watt), 0)}
	for _, c := range []struct{ class, tenant string }{{"web", "a"}, {"batch", "a"}, {"batch", "b"}} {
		ct := contain(in.Machine, c.class, 3)[0]
		ct.ID, ct.Tenant = c.class+c.tenant, c.tenant
		in.Containers = append(in.Containers, ct)
	}
	cpus := map[string]cpuset.Set{}
	for _, a := range Decide(in).Assignments {
		cpus[a.ID] = *a.CPUs
	}
	if !cpus["weba"].Equal(cpus["batcha"]) || cpus["weba"].Overlaps(cpus["batchb"]) || cpus["weba"].Len() != 1 {
		t.Errorf("%v", fmt.Sprint(cpus))
	}
}
