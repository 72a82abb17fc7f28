package placement

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
)

// moveGain is how much cheaper another plan must be before powerd leaves the one
// in force: moving work and clocks is not free, and models are not exact.
const moveGain = 0.03

// Decide returns the plan for an input. It is deterministic, and idempotent:
// with a plan in force it returns the same plan.
func Decide(in Input) Plan {
	s := newSearch(in)
	best := s.best()
	chosen := best
	if now, ok := s.present(); ok {
		// The clocks in force, or at least the cores, if that is nearly as good.
		for _, a := range []arrangement{s.clocks(now), now} {
			if s.stands(a, best) {
				chosen = a
				break
			}
		}
	}
	return s.plan(chosen, best)
}

// stands reports whether an arrangement in force is good enough to stay.
func (s *search) stands(now, best arrangement) bool {
	for i, m := range s.classes {
		if best.feasible[i] && !now.feasible[i] {
			return false
		}
		if s.meets(m, best, best.cores[i]) && !s.meets(m, now, now.cores[i]) {
			return false
		}
	}
	for i := range s.classes {
		if !best.feasible[i] && s.spare(now, i) < s.spare(best, i) {
			return false
		}
	}
	return now.cost <= best.cost*(1+moveGain)
}

// spare is what a class' cores would do in all their time.
func (s *search) spare(a arrangement, class int) float64 {
	_, capacity := s.carried(a, a.cores[class], 1)
	return capacity
}

// present returns the arrangement whose cores are in force, its clocks the best for them.
// There is none if a class' containers do not run on the same whole cores, or are too
// crowded there.
func (s *search) present() (arrangement, bool) {
	a := s.empty()
	tenants := s.tenants()
	for _, m := range s.classes {
		tenants.waiting[m.tenant]--
		cores := s.order(m, m.allowed)
		if m.placeable {
			var now cpuset.Set
			for _, c := range m.containers {
				if c.CanPlace {
					now = now.Union(c.CPUs)
				}
			}
			cores = slices.DeleteFunc(cores, func(i int) bool { return !s.mach.Cores[i].CPUs.Overlaps(now) })
			cpus := s.cpus(cores)
			for _, c := range m.containers {
				if c.CanPlace && !s.within(cpus, c).Equal(c.CPUs) {
					return a, false
				}
			}
			if !tenants.keeps(m, cores) {
				return a, false
			}
			tenants.hold(m.tenant, cpus)
		}
		if len(cores) == 0 && !m.allowed.Empty() {
			return a, false
		}
		t := s.fastest(a, m, cores)
		if len(cores) > 0 && !t.others {
			return a, false
		}
		a = t.settled(a, m)
	}
	return a, true
}

// within is where a container runs whose class has some cpus.
func (s *search) within(cpus cpuset.Set, c Container) cpuset.Set {
	if set := cpus.Intersect(c.Allowed); !set.Empty() {
		return set
	}
	return c.Allowed.Intersect(s.online)
}

// clocks returns an arrangement with the ceilings in force, where clocks are not left to a
// governor.
func (s *search) clocks(a arrangement) arrangement {
	a.opp = slices.Clone(a.opp)
	for d, dom := range s.mach.Domains {
		if a.opp[d] < 0 || a.latency[d] {
			continue
		}
		a.opp[d] = len(dom.Curve.OPPs) - 1
		for i, o := range dom.Curve.OPPs {
			if o.Frequency >= dom.Ceiling {
				a.opp[d] = i
				break
			}
		}
	}
	a.feasible = slices.Clone(a.feasible)
	for i := range a.feasible {
		a.feasible[i], _ = s.carried(a, a.cores[i], s.policy.Headroom)
	}
	a.cost = s.cost(a.use)
	return a
}

// plan says an arrangement in the words of files, and why.
func (s *search) plan(a, best arrangement) Plan {
	var p Plan
	g := s.gather(a)
	for i, m := range s.classes {
		p.Pools = append(p.Pools, s.pool(a, best, i))
		if len(a.cores[i]) == 0 {
			p.Pools = p.Pools[:len(p.Pools)-1]
		}
		p.assign(s, a, g, i, m)
	}
	p.bands(s, a, g)
	s.tenants().tell(&p)
	p.DisableIdle = slices.Clone(s.policy.DisableIdle)
	p.Power = a.cost
	for _, saved := range g.saves {
		p.Power -= saved
	}
	for _, c := range s.mach.Cores {
		p.Power += s.mach.Domains[c.Domain].Sleep
	}
	for _, is := range s.mach.Islands {
		p.Power += is.Asleep
	}
	return p
}

// pool tells of a class' cores.
func (s *search) pool(a, best arrangement, class int) Pool {
	m, cores := s.classes[class], a.cores[class]
	p := Pool{Class: m.Name, Tenant: m.tenant, CPUs: s.cpus(cores), Cores: len(cores), Demand: m.demand, Mode: "pack", Power: a.price[class], Feasible: a.feasible[class]}
	var with []string
	for i, o := range a.cores {
		if i != class && s.classes[i].placeable && slices.ContainsFunc(o, func(c int) bool { return slices.Contains(cores, c) }) {
			with = append(with, s.classes[i].Name)
		}
	}
	switch {
	case !m.placeable:
		p.Mode, p.Reason = "leave", "no container of the class has cpuset.cpus: where they run is left to the kernel"
		return p
	case !p.Feasible:
		p.Mode = "spread"
		p.Reason = fmt.Sprintf("%.2f cores of demand fill more than %.0f %% of every choice: it gets the %d cores that carry most", m.demand, 100*s.policy.Headroom, p.Cores)
	case len(with) > 0:
		p.Mode = "share"
		p.Reason = fmt.Sprintf("beside %s on %d cores it adds %v, less than on cores of its own", strings.Join(with, ", "), p.Cores, p.Power)
		if slices.Equal(cores, s.order(m, m.allowed)) {
			p.Reason = fmt.Sprintf("beside %s on all %d cores that it may use it adds %v", strings.Join(with, ", "), p.Cores, p.Power)
		}
	case p.Cores > s.fewest(m, cores):
		p.Mode = "spread"
		p.Reason = fmt.Sprintf("%d cores add %v above sleep, less than the fewest that carry %.2f cores of demand", p.Cores, p.Power, m.demand)
	default:
		p.Reason = fmt.Sprintf("the fewest cores that carry %.2f cores of demand (%v above sleep)", m.demand, p.Power)
	}
	if best.cost < a.cost*(1-1e-9) {
		p.Reason += fmt.Sprintf("; it stays, as the best plan (%v) is within %.0f %% of this (%v)", best.cost, 100*moveGain, a.cost)
	}
	return p
}

// fewest is how many of some cores carry a class' demand at their fastest.
func (s *search) fewest(m member, cores []int) int {
	capacity := 0.0
	for n, i := range cores {
		if capacity += s.mach.Cores[i].Capacity; m.demand <= capacity*s.policy.Headroom*(1+1e-9) {
			return n + 1
		}
	}
	return len(cores)
}

// assign adds the class' containers to the plan.
func (p *Plan) assign(s *search, a arrangement, g gathering, class int, m member) {
	cores := a.cores[class]
	cpus := s.cpus(cores)
	for _, ct := range m.containers {
		to := Assignment{ID: ct.ID, Class: m.Name}
		set := s.within(cpus, ct)
		switch {
		case set.Empty():
			to.Reason = "none of the cpus it may use is online"
		case !ct.CanPlace || !m.placeable:
			to.Reason = "its cgroup has no cpuset.cpus"
		default:
			to.CPUs = &set
			to.Reason = fmt.Sprintf("class %s shares %d cores", m.Name, len(cores))
		}
		if ct.MemoryBound >= 0.005 {
			to.Reason += fmt.Sprintf("; %.0f %% of its work waits for memory", 100*ct.MemoryBound)
		}
		if m.CPULimit != nil && ct.CanLimit && len(cores) > 0 {
			capacity := 0.0
			for _, i := range cores {
				capacity += s.does(i, work{1 - ct.MemoryBound, ct.MemoryBound}, a.opp)
			}
			limit := Limit(*m.CPULimit / (capacity / float64(len(cores))))
			to.Reason += fmt.Sprintf("; limit of %.3g cores is %.3g cpus at this speed", *m.CPULimit, float64(limit))
			if limit >= Limit(cpus.Len()) {
				limit = Limit(math.Inf(1))
				to.Reason += ", more than it has: no throttling"
			}
			to.Limit = &limit
		}
		has := ct.Allowed.Intersect(s.online)
		if to.CPUs != nil {
			has = *to.CPUs
		}
		s.hold(a, g, class, ct, has.Len(), &to)
		budget(ct, has.Len(), &to)
		p.Assignments = append(p.Assignments, to)
		if m.MaxWakeLatency != nil && !set.Empty() {
			p.bound(set, m)
		}
	}
}

// bound adds a class's bound on idle states to the plan.
func (p *Plan) bound(cpus cpuset.Set, m member) {
	for i := range p.Idle {
		b := &p.Idle[i]
		if b.MaxExit == *m.MaxWakeLatency {
			b.CPUs = b.CPUs.Union(cpus)
			return
		}
		if b.MaxExit < *m.MaxWakeLatency {
			cpus = cpus.Minus(b.CPUs)
		} else {
			b.CPUs = b.CPUs.Minus(cpus)
		}
	}
	p.Idle = slices.DeleteFunc(p.Idle, func(b IdleBound) bool { return b.CPUs.Empty() })
	if !cpus.Empty() {
		p.Idle = append(p.Idle, IdleBound{CPUs: cpus, MaxExit: *m.MaxWakeLatency,
			Reason: fmt.Sprintf("class %s bears %v to wake", m.Name, *m.MaxWakeLatency)})
	}
}

// bands turns clocks into a floor and a ceiling per domain: the floor is what costs least,
// or what a bound asks for; the ceiling what carries the load, or the maximum for latency.
func (p *Plan) bands(s *search, a arrangement, g gathering) {
	for i, dom := range s.mach.Domains {
		n := len(dom.Curve.OPPs)
		if n == 0 {
			continue
		}
		critical := s.critical(s.mix(a, i), i)
		floor, ceiling, why := critical, n-1, "no class runs here: the floor is the critical frequency, the governor does the rest"
		if !dom.CanSleep {
			// The lecture's row for no sleep: the slowest that keeps up, which
			// is what a governor with the whole range finds.
			floor, why = 0, "no class runs here and idle time cannot be slept away: the whole range is the governor's"
		}
		if a.opp[i] >= 0 {
			ceiling, why = s.ceiling(a, i)
			floor = min(g.floor[i], ceiling)
		}
		b := Band{Domain: i, CPUs: dom.CPUs, Floor: dom.Curve.OPPs[floor].Frequency, Ceiling: dom.Curve.OPPs[ceiling].Frequency, Reason: why}
		b.FloorKHz, b.CeilingKHz, b.CriticalKHz = uint64(b.Floor), uint64(b.Ceiling), uint64(dom.Curve.OPPs[critical].Frequency)
		p.Bands = append(p.Bands, b)
	}
}

// mix is the work that a domain's cores are asked for.
func (s *search) mix(a arrangement, domain int) (w work) {
	for _, i := range s.prices.cores[domain] {
		w = w.plus(a.of(i))
	}
	return w
}

// ceiling returns the highest OPP of a domain in which classes run, and why.
func (s *search) ceiling(a arrangement, domain int) (opp int, why string) {
	dom := s.mach.Domains[domain]
	opp = a.opp[domain]
	f := dom.Curve.OPPs[opp].Frequency
	var names []string
	demand, cores, feasible := 0.0, 0, true
	for i, m := range s.classes {
		if !slices.ContainsFunc(a.cores[i], func(c int) bool { return s.mach.Cores[c].Domain == domain }) {
			continue
		}
		if m.Objective == Latency {
			return len(dom.Curve.OPPs) - 1, fmt.Sprintf("class %s wants latency: the governor may go to the maximum", m.Name)
		}
		names = append(names, m.Name)
		demand += m.demand
		cores = max(cores, len(a.cores[i]))
		feasible = feasible && a.feasible[i]
	}
	waits := ""
	if mix := s.mix(a, domain); mix.waiting >= 0.005*mix.all() {
		waits = fmt.Sprintf(", of which %.0f %% wait for memory", 100*(1-mix.bound()))
	}
	who := "class " + strings.Join(names, ", ")
	if len(names) > 1 {
		who = "classes " + strings.Join(names, ", ")
	}
	if feasible {
		why = fmt.Sprintf("%s: %v is the cheapest that carries %.2f cores of demand%s on %d cores", who, f, demand, waits, cores)
	} else {
		why = fmt.Sprintf("%s: no speed within the choice carries the load; %v costs least per unit of work%s", who, f, waits)
	}
	if !dom.CanSleep {
		why += "; idle time cannot be slept away here"
	}
	return opp, why
}
