package placement

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// moveGain is how much cheaper another plan must be before powerd leaves the one
// in force: moving work and clocks is not free, and models are not exact.
const moveGain = 0.03

// Decide returns the plan for an input. It is deterministic, and idempotent:
// with a plan in force it returns the same plan.
func Decide(in Input) Plan {
	plan := decide(in)
	// A class's choice can rest on what another's did to a clock they share, so
	// the answer is a plan that stands when it is in force.
	for range 8 {
		next := decide(in.With(plan))
		if next.Same(plan) {
			return next
		}
		plan = next
	}
	return plan
}

func decide(in Input) Plan {
	d := decider{in: in, online: in.Machine.Online(), asleep: make([]float64, len(in.Machine.Islands)), tenants: tenantsOf(in.Containers)}
	for i := range d.asleep {
		d.asleep[i] = 1
	}
	d.ceiling = make([]int, len(in.Machine.Domains))
	d.floor = make([]int, len(in.Machine.Domains))
	d.because = make([]string, len(in.Machine.Domains))
	for i := range d.ceiling {
		d.ceiling[i], d.floor[i] = -1, -1
	}
	classes := d.classes()
	for _, c := range classes {
		d.waiting[c.tenant]++
	}
	for i, c := range classes {
		d.waiting[c.tenant]--
		later, demand := 0, 0.0
		for _, l := range classes[i+1:] {
			later += d.need(l)
			demand += l.demand
		}
		d.pool(c, later, demand)
	}
	d.bands()
	d.tell()
	d.plan.DisableIdle = slices.Clone(in.Policy.DisableIdle)
	d.plan.Power = d.total()
	return d.plan
}

type decider struct {
	in     Input
	online cpuset.Set
	plan   Plan
	taken  cpuset.Set // cpus of the pools so far
	// asleep is each island's probability that all its cores sleep.
	asleep []float64
	power  units.Power // of the pools' cores, above sleep
	// ceiling and floor are the highest OPP index any pool asked for, per domain.
	ceiling, floor []int
	because        []string
	tenants
}

// member is a class with its containers of one tenant.
type member struct {
	Class
	tenant     string
	containers []Container
	demand     float64
}

// classes returns the classes that have containers, in the order they choose.
func (d *decider) classes() []member {
	var out []member
	names := tenantNames(d.in.Containers)
	for i := range len(d.in.Policy.Classes) * len(names) {
		c := d.in.Policy.Classes[i/len(names)]
		m := member{Class: c, tenant: names[i%len(names)]}
		for _, ct := range d.in.Containers {
			if ct.Class == c.Name && ct.Tenant == m.tenant {
				m.containers = append(m.containers, ct)
				want := ct.Demand
				if c.CPULimit != nil {
					want = min(want, *c.CPULimit)
				}
				m.demand += want
			}
		}
		// Idle so far, it still needs a price: work to come costs least at the
		// same speed as a little work now.
		m.demand = max(m.demand, 1e-3)
		if len(m.containers) > 0 {
			slices.SortFunc(m.containers, func(a, b Container) int { return strings.Compare(a.ID, b.ID) })
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b member) int {
		return cmp.Or(-cmp.Compare(a.Priority, b.Priority), -cmp.Compare(rank(a.Objective), rank(b.Objective)), strings.Compare(a.Name, b.Name), strings.Compare(a.tenant, b.tenant))
	})
	// What no class names runs beside the last to choose.
	if len(out) > 0 {
		out[len(out)-1].demand += d.in.Other
	}
	return out
}

func rank(o Objective) int {
	if o == Latency {
		return 1
	}
	return 0
}

// need is how many of the fastest cores a class wants at the least.
func (d *decider) need(m member) int {
	return max(1, int(math.Ceil(m.demand/d.in.Policy.Headroom)))
}

// A candidate is a set of cores at one level of speed, priced.
type candidate struct {
	cores    []int // indices into Machine.Cores
	opp      []int // per domain, -1 where it has no core of the candidate
	floor    []int // per domain: the cheapest OPP for these cores, whatever the load and the bound
	power    units.Power
	capacity float64 // in cores of the fastest kind at their fastest
	feasible bool
}

// pool chooses the cores and the speed of one class. Those that choose later need
// as many cores and have as much demand as given: a class may spread onto more
// than it needs, but not beyond its part of what there is.
func (d *decider) pool(m member, later int, demand float64) {
	var allowed cpuset.Set
	placeable := false
	for _, c := range m.containers {
		allowed = allowed.Union(c.Allowed)
		placeable = placeable || c.CanPlace
	}
	allowed = allowed.Intersect(d.online)
	if placeable {
		allowed = d.apart(m, allowed)
	}
	order := d.order(m, allowed.Minus(d.taken))
	stay := order
	if len(order) == 0 { // nothing left to itself: it shares
		order = d.order(m, allowed)
		stay = order
	} else {
		most := len(order) - later
		if m.demand+demand > 0 {
			most = min(most, int(math.Ceil(float64(len(order))*m.demand/(m.demand+demand))))
		}
		most = max(d.need(m), most)
		// Where it has a core more than that already, the flicker of another's
		// demand is no reason to move.
		stay = order[:min(len(order), max(d.need(m), min(most+1, len(order)-later)))]
		order = order[:min(len(order), most)]
	}
	if len(order) == 0 {
		for _, c := range m.containers {
			d.plan.Assignments = append(d.plan.Assignments, Assignment{ID: c.ID, Class: m.Name, Reason: "none of the cpus it may use is online"})
		}
		return
	}
	counts := d.counts(order)
	if !placeable {
		counts = []int{len(order)}
	}
	var best, least candidate
	for _, n := range counts {
		c := d.cheapest(m, order[:n])
		if least.cores == nil || c.feasible && !least.feasible {
			least = c
		}
		if best.cores == nil || better(c, best) {
			best = c
		}
	}
	chosen := best
	if now, ok := d.present(m, stay); ok && now.feasible == best.feasible && (best.feasible || now.capacity >= best.capacity) &&
		now.power <= best.power*(1+moveGain) && d.meets(m, now) {
		chosen = now
	}
	d.take(m, chosen, least, best.power, placeable)
}

// better orders candidates: those that carry the load first, then by power, then
// by fewer cores (the earlier). Where none carries it, more capacity is better.
func better(a, b candidate) bool {
	if a.feasible != b.feasible {
		return a.feasible
	}
	if !a.feasible && a.capacity != b.capacity {
		return a.capacity > b.capacity
	}
	return a.power < b.power*(1-1e-9)
}

// order returns the cores inside cpus as a class would fill them: for energy the
// kind that does work for the least, for latency the fastest; then group by
// group, so that whole caches stay asleep.
func (d *decider) order(m member, cpus cpuset.Set) []int {
	type key struct {
		core, group int
		cost        float64
	}
	var keys []key
	for i, c := range d.in.Machine.Cores {
		if !c.CPUs.Overlaps(cpus) {
			continue
		}
		k := key{core: i, group: len(d.in.Machine.Groups), cost: -c.Capacity}
		for g, cpus := range d.in.Machine.Groups {
			if c.CPUs.Overlaps(cpus) {
				k.group = g
				break
			}
		}
		if m.Objective == Energy {
			dom := d.in.Machine.Domains[c.Domain]
			if n := len(dom.Curve.OPPs); n > 0 {
				i := d.critical(c.Domain)
				k.cost = float64(dom.Curve.Power(i, dom.CPUBound, 1)-dom.Sleep) * dom.Curve.Tau(i, dom.CPUBound) / c.Capacity
			}
		}
		keys = append(keys, k)
	}
	slices.SortStableFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.cost, b.cost), cmp.Compare(a.group, b.group), cmp.Compare(a.core, b.core))
	})
	out := make([]int, len(keys))
	for i, k := range keys {
		out[i] = k.core
	}
	return out
}

// counts returns how many cores to try: all numbers on a small machine; on a
// large one the small numbers, each group's end, and steps of an eighth between.
func (d *decider) counts(order []int) []int {
	var out []int
	for n := 1; n <= len(order); n++ {
		edge := n == len(order)
		if !edge {
			a, b := d.in.Machine.Cores[order[n-1]], d.in.Machine.Cores[order[n]]
			for _, g := range d.in.Machine.Groups {
				edge = edge || g.Overlaps(a.CPUs) != g.Overlaps(b.CPUs)
			}
		}
		if edge || n <= 8 || len(out) > 0 && n >= out[len(out)-1]+max(1, out[len(out)-1]/8) {
			out = append(out, n)
		}
	}
	return out
}

// present returns the candidate that is in force: the cores on which all the
// class's containers run now, at the ceilings now set. There is none if they are
// not the same whole cores, or not cores the class may choose.
func (d *decider) present(m member, order []int) (candidate, bool) {
	now := m.containers[0].CPUs
	for _, c := range m.containers {
		if !c.CPUs.Equal(now) || !c.CanPlace {
			return candidate{}, false
		}
	}
	var cores []int
	var covered cpuset.Set
	for _, i := range order {
		if c := d.in.Machine.Cores[i].CPUs; c.SubsetOf(now) {
			cores = append(cores, i)
			covered = covered.Union(c)
		}
	}
	if len(cores) == 0 || !covered.Equal(now) {
		return candidate{}, false
	}
	cheap := d.cheapest(m, cores)
	if m.Objective == Latency {
		return cheap, true
	}
	opp := make([]int, len(d.in.Machine.Domains))
	for i, dom := range d.in.Machine.Domains {
		opp[i] = -1
		if cheap.opp[i] >= 0 && len(dom.Curve.OPPs) > 0 {
			opp[i] = len(dom.Curve.OPPs) - 1
			for k, o := range dom.Curve.OPPs {
				if o.Frequency >= dom.Ceiling {
					opp[i] = k
					break
				}
			}
		}
	}
	c := d.priceAt(m, cores, opp)
	c.floor = cheap.floor
	return c, true
}

// critical returns the index of a domain's critical OPP when one of its cores
// works alone: the power of the islands it keeps awake is then its to carry.
func (d *decider) critical(domain int) int {
	dom := d.in.Machine.Domains[domain]
	return dom.Curve.Critical(dom.Sleep-d.alone(domain), dom.CPUBound, 1)
}

// alone is the power that a lone core of the domain keeps up around it.
func (d *decider) alone(domain int) units.Power {
	var p units.Power
	for _, is := range d.in.Machine.Islands {
		if is.CPUs.Overlaps(d.in.Machine.Domains[domain].CPUs) {
			p += is.Awake - is.Asleep
		}
	}
	return p
}

// cheapest prices every speed for a set of cores and returns the best.
func (d *decider) cheapest(m member, cores []int) candidate {
	var best, cheap candidate
	for _, level := range d.levels(cores) {
		c := d.price(m, cores, level)
		if cheap.cores == nil || c.power < cheap.power*(1-1e-9) {
			cheap = c
		}
		if d.meets(m, c) && (best.cores == nil || better(c, best)) {
			best = c
		}
	}
	if best.cores == nil {
		best = d.price(m, cores, 1)
	}
	if !best.feasible && m.MaxSlowdown == nil {
		// Without a bound, more work than any speed carries is a backlog, and
		// a backlog costs least at the critical frequency.
		best = cheap
	}
	best.floor = cheap.opp
	return best
}

// levels returns the distinct speeds of the cores' domains, ascending.
func (d *decider) levels(cores []int) []float64 {
	var out []float64
	seen := make([]bool, len(d.in.Machine.Domains))
	for _, i := range cores {
		dom := d.in.Machine.Cores[i].Domain
		if seen[dom] {
			continue
		}
		seen[dom] = true
		for _, o := range d.in.Machine.Domains[dom].Curve.OPPs {
			if at, found := slices.BinarySearch(out, o.Speed); !found {
				out = slices.Insert(out, at, o.Speed)
			}
		}
	}
	if len(out) == 0 {
		out = []float64{1}
	}
	return out
}

// meets reports whether a candidate's speed keeps the class's bound against the
// untouched machine at its fastest. A machine that cannot sleep follows the
// lecture's other row by itself: Sleep is then the awake idle power.
func (d *decider) meets(m member, c candidate) bool {
	if m.MaxSlowdown == nil || m.Objective == Latency {
		return true
	}
	for dom, i := range c.opp {
		if i < 0 {
			continue
		}
		if dd := d.in.Machine.Domains[dom]; dd.Curve.Tau(i, dd.CPUBound) > 1+*m.MaxSlowdown+1e-9 {
			return false
		}
	}
	return true
}

// price models the power of the machine's parts that cores wake at one level of speed.
func (d *decider) price(m member, cores []int, level float64) candidate {
	opp := make([]int, len(d.in.Machine.Domains))
	for i := range opp {
		opp[i] = -1
	}
	for _, core := range cores {
		dom := d.in.Machine.Cores[core].Domain
		if dd := d.in.Machine.Domains[dom]; opp[dom] < 0 && len(dd.Curve.OPPs) > 0 {
			// A shared clock takes its strictest user.
			opp[dom] = max(oppAt(dd, level), d.floor[dom], d.ceilingOf(dom))
		}
	}
	return d.priceAt(m, cores, opp)
}

// priceAt models the power of the machine's parts that cores wake at the OPPs
// given by domain.
func (d *decider) priceAt(m member, cores, opp []int) candidate {
	mach := d.in.Machine
	c := candidate{cores: cores, opp: opp}
	for _, i := range cores {
		core := mach.Cores[i]
		if dd := mach.Domains[core.Domain]; len(dd.Curve.OPPs) > 0 {
			c.capacity += core.Capacity / dd.Curve.Tau(opp[core.Domain], dd.CPUBound)
		} else {
			c.capacity += core.Capacity
		}
	}
	// More than a core's whole time (u > 1) is work left over: it still has its
	// price, so that speeds compare by what the work costs.
	u := m.demand / c.capacity
	c.feasible = m.demand <= c.capacity*d.in.Policy.Headroom
	for _, i := range cores {
		dom := mach.Domains[mach.Cores[i].Domain]
		if len(dom.Curve.OPPs) > 0 {
			c.power += dom.above(c.opp[mach.Cores[i].Domain], u, dom.sleep(m))
		}
	}
	for k, is := range mach.Islands {
		idle := d.asleep[k]
		n := 0
		for _, i := range cores {
			if mach.Cores[i].CPUs.Overlaps(is.CPUs) {
				n++
			}
		}
		idle *= math.Pow(max(0, 1-u), float64(n))
		c.power += (is.Awake - is.Asleep) * units.Power(d.asleep[k]-idle)
	}
	return c
}

// ceilingOf returns the OPP up to which pools before this one drive a domain, or
// -1. A latency class leaves its domain to the governor, which goes only as high
// as the load asks: it sets no speed for others.
func (d *decider) ceilingOf(dom int) int {
	if d.ceiling[dom] == len(d.in.Machine.Domains[dom].Curve.OPPs)-1 {
		return -1
	}
	return d.ceiling[dom]
}

// above is a core's power above the deepest sleep when it is busy the share u of
// the time at an OPP and sleeps as deep as it may otherwise. A core that cannot
// sleep spins through the rest.
func (dom Domain) above(opp int, u float64, sleep units.Power) units.Power {
	if !dom.CanSleep {
		u = max(u, 1)
	}
	return units.Power(u)*(dom.Curve.Power(opp, dom.CPUBound, 1)-dom.Sleep) + units.Power(max(0, 1-u))*(sleep-dom.Sleep)
}

// sleep is a core's power in the deepest state that a class bears to leave. With
// none it stays awake, its clock gated.
func (dom Domain) sleep(m member) units.Power {
	if m.MaxWakeLatency == nil || len(dom.States) == 0 {
		return dom.Sleep
	}
	p := max(dom.Curve.OPPs[0].Static, dom.Sleep)
	for _, s := range dom.States {
		if s.Latency <= *m.MaxWakeLatency {
			p = min(p, s.Power)
		}
	}
	return p
}

// oppAt returns the lowest OPP that is at least as fast as level.
func oppAt(dom Domain, level float64) int {
	for i, o := range dom.Curve.OPPs {
		if o.Speed >= level*(1-1e-9) {
			return i
		}
	}
	return len(dom.Curve.OPPs) - 1
}

// take makes a candidate part of the plan.
func (d *decider) take(m member, c, least candidate, best units.Power, placeable bool) {
	mach := d.in.Machine
	var cpus cpuset.Set
	for _, i := range c.cores {
		cpus = cpus.Union(mach.Cores[i].CPUs)
	}
	p := Pool{Class: m.Name, Tenant: m.tenant, CPUs: cpus, Cores: len(c.cores), Demand: m.demand, Mode: "pack", Power: c.power, Feasible: c.feasible}
	switch {
	case !placeable:
		p.Mode, p.Reason = "leave", "no container of the class has cpuset.cpus: where they run is left to the kernel"
	case !c.feasible:
		p.Mode = "spread"
		p.Reason = fmt.Sprintf("%.2f cores of demand fill more than %.0f %% of every choice: it gets the %d cores that carry most", m.demand, 100*d.in.Policy.Headroom, p.Cores)
	case len(c.cores) > len(least.cores):
		p.Mode = "spread"
		p.Reason = fmt.Sprintf("%d cores cost %v above sleep, the fewest that carry the load (%d) %v", p.Cores, c.power, len(least.cores), least.power)
		if best < c.power {
			p.Reason += fmt.Sprintf("; it stays, as the best choice (%v) is within %.0f %%", best, 100*moveGain)
		}
	default:
		p.Reason = fmt.Sprintf("the fewest cores that carry %.2f cores of demand (%v above sleep)", m.demand, c.power)
	}
	d.plan.Pools = append(d.plan.Pools, p)
	if placeable {
		d.taken = d.taken.Union(cpus)
		d.hold(m.tenant, cpus)
	}

	u := min(1, m.demand/c.capacity)
	for k, is := range mach.Islands {
		for _, i := range c.cores {
			if mach.Cores[i].CPUs.Overlaps(is.CPUs) {
				d.asleep[k] *= 1 - u
			}
		}
	}
	for dom, i := range c.opp {
		if i < 0 {
			continue
		}
		dd := mach.Domains[dom]
		top := len(dd.Curve.OPPs) - 1
		want, why := i, ""
		switch {
		case m.Objective == Latency:
			want, why = top, fmt.Sprintf("class %s wants latency: the governor may go to the maximum", m.Name)
		case !c.feasible:
			why = fmt.Sprintf("class %s: no speed within its choice carries the load; %v costs least per unit of work", m.Name, dd.Curve.OPPs[i].Frequency)
		default:
			why = fmt.Sprintf("class %s: %v is the cheapest that carries %.2f cores of demand on %d cores", m.Name, dd.Curve.OPPs[i].Frequency, m.demand, p.Cores)
		}
		if !dd.CanSleep {
			why += "; idle time cannot be slept away here"
		}
		if want > d.ceiling[dom] {
			d.ceiling[dom], d.because[dom] = want, why
		}
		d.floor[dom] = max(d.floor[dom], c.floor[dom])
		n := 0
		for _, core := range c.cores {
			if mach.Cores[core].Domain == dom {
				n++
			}
		}
		d.power += units.Power(n) * dd.above(i, u, dd.sleep(m))
	}
	d.assign(m, c, cpus, placeable)
}

func (d *decider) assign(m member, c candidate, cpus cpuset.Set, placeable bool) {
	for _, ct := range m.containers {
		a := Assignment{ID: ct.ID, Class: m.Name}
		set := cpus.Intersect(ct.Allowed)
		if set.Empty() {
			set = d.unshared(m.tenant, ct.Allowed.Intersect(d.online))
			d.hold(m.tenant, set)
		}
		switch {
		case !ct.CanPlace || !placeable:
			a.Reason = "its cgroup has no cpuset.cpus"
		case set.Empty():
			a.Reason = "none of the cpus it may use is online"
		default:
			a.CPUs = &set
			a.Reason = fmt.Sprintf("class %s shares %d cores", m.Name, len(c.cores))
		}
		if m.CPULimit != nil && ct.CanLimit {
			speed := c.capacity / float64(len(c.cores))
			limit := Limit(*m.CPULimit / speed)
			a.Reason += fmt.Sprintf("; limit of %.3g cores is %.3g cpus at this speed", *m.CPULimit, float64(limit))
			if limit >= Limit(cpus.Len()) {
				limit = Limit(math.Inf(1))
				a.Reason += ", more than it has: no throttling"
			}
			a.Limit = &limit
		}
		has := ct.Allowed.Intersect(d.online)
		if a.CPUs != nil {
			has = *a.CPUs
		}
		budget(ct, has.Len(), &a)
		d.plan.Assignments = append(d.plan.Assignments, a)
		if m.MaxWakeLatency != nil && !set.Empty() {
			d.bound(set, m)
		}
	}
}

// bound adds a class's bound on idle states to the plan.
func (d *decider) bound(cpus cpuset.Set, m member) {
	for i := range d.plan.Idle {
		b := &d.plan.Idle[i]
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
	d.plan.Idle = slices.DeleteFunc(d.plan.Idle, func(b IdleBound) bool { return b.CPUs.Empty() })
	if !cpus.Empty() {
		d.plan.Idle = append(d.plan.Idle, IdleBound{CPUs: cpus, MaxExit: *m.MaxWakeLatency,
			Reason: fmt.Sprintf("class %s bears %v to wake", m.Name, *m.MaxWakeLatency)})
	}
}

// bands turns what the pools asked for into a floor and a ceiling per domain.
func (d *decider) bands() {
	for i, dom := range d.in.Machine.Domains {
		n := len(dom.Curve.OPPs)
		if n == 0 {
			continue
		}
		critical := d.critical(i)
		floor, ceiling, why := critical, n-1, "no class runs here: the floor is the critical frequency, the governor does the rest"
		if !dom.CanSleep {
			// The lecture's row for no sleep: the slowest that keeps up, which
			// is what a governor with the whole range finds.
			floor, why = 0, "no class runs here and idle time cannot be slept away: the whole range is the governor's"
		}
		if d.ceiling[i] >= 0 {
			ceiling, why = d.ceiling[i], d.because[i]
			if d.floor[i] >= 0 {
				floor = d.floor[i]
			}
			floor = min(floor, ceiling)
		}
		b := Band{Domain: i, CPUs: dom.CPUs, Floor: dom.Curve.OPPs[floor].Frequency, Ceiling: dom.Curve.OPPs[ceiling].Frequency, Reason: why}
		b.FloorKHz, b.CeilingKHz, b.CriticalKHz = uint64(b.Floor), uint64(b.Ceiling), uint64(dom.Curve.OPPs[critical].Frequency)
		d.plan.Bands = append(d.plan.Bands, b)
	}
}

// total is the modelled power of the whole machine under the plan.
func (d *decider) total() units.Power {
	p := d.power
	for _, c := range d.in.Machine.Cores {
		p += d.in.Machine.Domains[c.Domain].Sleep
	}
	for k, is := range d.in.Machine.Islands {
		p += is.Asleep + (is.Awake-is.Asleep)*units.Power(1-d.asleep[k])
	}
	return p
}
