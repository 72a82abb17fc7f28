package placement

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// member is a class with its containers of one tenant.
type member struct {
	Class
	tenant     string
	containers []Container
	demand     float64
	average    float64
	mix        work    // of a core of demand
	least      float64 // MemoryBound of any of its containers
	crit       []int   // critical OPPs, by domain
	foreign    float64 // the part of average that no class names
	allowed    cpuset.Set
	placeable  bool
	alike      bool // all its containers may use all of allowed
}

// classes returns the classes that have containers, in the order they choose.
func classes(in Input) []member {
	online := in.Machine.Online()
	var out []member
	names := tenantNames(in.Containers)
	for i := range len(in.Policy.Classes) * len(names) {
		c := in.Policy.Classes[i/len(names)]
		m := member{Class: c, tenant: names[i%len(names)], least: 1}
		waiting := 0.0
		for _, ct := range in.Containers {
			if ct.Class == c.Name && ct.Tenant == m.tenant {
				want := ct.Demand
				if c.CPULimit != nil {
					want = min(want, *c.CPULimit)
				}
				m.demand += want
				waiting += want * ct.MemoryBound
				m.least = min(m.least, ct.MemoryBound)
				m.placeable = m.placeable || ct.CanPlace
				m.containers = append(m.containers, ct)
			}
		}
		for _, ct := range m.containers {
			if ct.CanPlace || !m.placeable {
				m.allowed = m.allowed.Union(ct.Allowed.Intersect(online))
			}
		}
		m.alike = !slices.ContainsFunc(m.containers, func(ct Container) bool {
			return ct.CanPlace && !m.allowed.SubsetOf(ct.Allowed)
		})
		// Idle so far, it still needs a price: work to come costs least at the
		// same speed as a little work now.
		m.demand = max(m.demand, 1e-3)
		m.average = m.demand
		if average, ok := in.Average[c.Name]; ok {
			m.average = max(average*part(m.demand, in.Containers, c.Name), 1e-3)
		}
		m.mix = work{1 - waiting/m.demand, waiting / m.demand}
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
		last := &out[len(out)-1]
		last.mix = last.mix.times(last.demand).plus(work{clocked: in.Other}).times(1 / (last.demand + in.Other))
		last.demand += in.Other
		last.average += in.Other
		if last.average > 0 {
			last.foreign = in.Other / last.average
		}
	}
	return out
}

// strictest is of the work that a slow clock slows down most of a class'.
func (m member) strictest() work { return work{1 - m.least, m.least} }

// part is a demand as a share of a class'.
func part(demand float64, containers []Container, class string) float64 {
	sum := 0.0
	for _, c := range containers {
		if c.Class == class {
			sum += c.Demand
		}
	}
	if sum <= demand {
		return 1
	}
	return demand / sum
}

func rank(o Objective) int {
	if o == Latency {
		return 1
	}
	return 0
}

// An arrangement is where classes run and how fast: all that there is to decide.
type arrangement struct {
	use
	// By class, in their order; the rest of them is not placed yet.
	cores    [][]int
	feasible []bool
	price    []units.Power // what it added
	added    [][]float64   // to the cores' load, where its work may be gathered
	// By domain: the cheapest OPP whatever the load and the bounds, the slowest that keeps
	// them, and what the fastest to run there wants of the clock; -1 where nothing runs.
	cheap, slowest []int
	latency        []bool
	cost           units.Power
}

// crowd is the share of a latency class' cores that may be busy where others share them:
// at half, one of four is idle 94 % of the time when a request comes.
const crowd = 0.5

// headroom is the share of shared cores' time that a class may find busy.
func (s *search) headroom(m member) float64 {
	if m.Objective == Latency {
		return min(s.policy.Headroom, crowd)
	}
	return s.policy.Headroom
}

type search struct {
	prices
	policy     Policy
	online     cpuset.Set
	containers []Container
	classes    []member
}

func newSearch(in Input) *search {
	s := &search{prices: newPrices(in.Machine), policy: in.Policy, online: in.Machine.Online(), containers: in.Containers, classes: classes(in)}
	for i := range s.classes {
		s.classes[i].crit = s.criticals(s.classes[i].mix)
	}
	return s
}

func (s *search) empty() arrangement {
	n := len(s.mach.Domains)
	a := arrangement{use: use{work: make([]float64, len(s.mach.Cores)), load: make([]float64, len(s.mach.Cores)), nap: make([]units.Power, len(s.mach.Cores)), opp: make([]int, n)},
		cheap: make([]int, n), slowest: make([]int, n), latency: make([]bool, n)}
	if slices.ContainsFunc(s.classes, func(m member) bool { return m.mix.waiting > 0 }) {
		a.waits, a.loadWaits = make([]float64, len(s.mach.Cores)), make([]float64, len(s.mach.Cores))
	}
	for i := range n {
		a.opp[i], a.cheap[i], a.slowest[i] = -1, -1, -1
	}
	return a
}

// best places one class after the other.
func (s *search) best() arrangement {
	a := s.empty()
	t := s.tenants()
	var taken cpuset.Set
	for i, m := range s.classes {
		t.waiting[m.tenant]--
		a = s.place(a, m, s.choices(t, i, taken))
		if m.placeable {
			cpus := s.cpus(a.cores[i])
			taken = taken.Union(cpus)
			t.hold(m.tenant, cpus)
		}
	}
	return a
}

// cpus of some cores.
func (s *search) cpus(cores []int) (set cpuset.Set) {
	for _, i := range cores {
		set = set.Union(s.mach.Cores[i].CPUs)
	}
	return set
}

// choices returns the sets of cores that a class may choose: cores of its own, as many as
// it needs up to its part of what there is; and whole groups beside others.
func (s *search) choices(t *tenants, class int, taken cpuset.Set) (out [][]int) {
	m := s.classes[class]
	if !m.placeable || m.allowed.Empty() {
		return [][]int{s.order(m, m.allowed)}
	}
	all := s.order(m, t.apart(m, m.allowed))
	free := slices.DeleteFunc(slices.Clone(all), func(i int) bool { return s.mach.Cores[i].CPUs.Overlaps(taken) })
	if len(free) > 0 {
		later, demand := 0, 0.0
		for _, l := range s.classes[class+1:] {
			later += s.need(l)
			demand += l.demand
		}
		most := len(free) - later
		if m.demand+demand > 0 {
			most = min(most, int(math.Ceil(float64(len(free))*m.demand/(m.demand+demand))))
		}
		most = min(len(free), max(s.need(m), most))
		for _, n := range s.counts(free[:most]) {
			out = append(out, t.extended(m, free[:n]))
		}
	}
	if len(free) == len(all) {
		return out
	}
	// Whole groups in which others are, one by one and from the first on.
	var sofar []int
	for begin := 0; begin < len(all); {
		end := begin + 1
		for end < len(all) && s.group(all[end]) == s.group(all[begin]) {
			end++
		}
		group := all[begin:end]
		sofar = append(sofar, group...)
		if s.cpus(group).Overlaps(taken) {
			out = append(out, t.extended(m, group))
		}
		if begin > 0 {
			out = append(out, t.extended(m, slices.Clone(sofar)))
		}
		begin = end
	}
	return out
}

// need is how many of the fastest cores a class wants at the least.
func (s *search) need(m member) int {
	return max(1, int(math.Ceil(m.demand/s.policy.Headroom)))
}

func (s *search) group(core int) int {
	for g, cpus := range s.mach.Groups {
		if s.mach.Cores[core].CPUs.Overlaps(cpus) {
			return g
		}
	}
	return len(s.mach.Groups)
}

// order returns the cores inside cpus as a class would fill them: those that can keep
// its bound; of them for energy the kind that does work for the least, for latency the
// fastest; then group by group, so that whole caches stay asleep.
func (s *search) order(m member, cpus cpuset.Set) []int {
	type key struct {
		core, group, late int
		cost              float64
	}
	var keys []key
	for i, c := range s.mach.Cores {
		if !c.CPUs.Overlaps(cpus) {
			continue
		}
		k := key{core: i, group: s.group(i), cost: -c.Capacity}
		if dom := s.mach.Domains[c.Domain]; m.Objective == Energy && len(dom.Curve.OPPs) > 0 {
			i := m.crit[c.Domain]
			k.cost = float64(s.busy[c.Domain][i]-dom.Sleep) * s.tau(m.mix, c.Domain, i) / c.Capacity
		}
		if _, ok := s.bound(m, i); !ok {
			k.late = 1
		}
		keys = append(keys, k)
	}
	slices.SortStableFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.late, b.late), cmp.Compare(a.cost, b.cost), cmp.Compare(a.group, b.group), cmp.Compare(a.core, b.core))
	})
	out := make([]int, len(keys))
	for i, k := range keys {
		out[i] = k.core
	}
	return out
}

// counts returns how many cores to try: all numbers on a small machine; on a
// large one the small numbers, each group's end, and steps of an eighth between.
func (s *search) counts(order []int) []int {
	var out []int
	for n := 1; n <= len(order); n++ {
		edge := n == len(order) || s.group(order[n-1]) != s.group(order[n])
		if edge || n <= 8 || len(out) > 0 && n >= out[len(out)-1]+max(1, out[len(out)-1]/8) {
			out = append(out, n)
		}
	}
	return out
}

// A trial is a class on some cores at some speed.
type trial struct {
	arrangement
	cores    []int
	own      bool // it carries its own load
	bound    bool // it keeps its bound
	others   bool // those placed before are as well off as they may expect
	capacity float64
}

// better orders trials: those that leave the others what they need, those that keep the
// bound, those that carry the load, then by power. Where none carries it, more capacity is
// better. Ties go to the earlier, which has fewer cores.
func (t trial) better(o trial) bool {
	switch {
	case t.others != o.others:
		return t.others
	case t.bound != o.bound:
		return t.bound
	case t.own != o.own:
		return t.own
	case !t.own && t.capacity != o.capacity:
		return t.capacity > o.capacity
	}
	return t.cost < o.cost-1e-9*units.Power(math.Abs(float64(o.cost)))
}

// place puts the next class on the best of some sets of cores, at the best speed.
func (s *search) place(a arrangement, m member, sets [][]int) arrangement {
	var best trial
	for _, cores := range sets {
		if t := s.fastest(a, m, cores); best.cores == nil || t.better(best) {
			best = t
		}
	}
	return best.settled(a, m)
}

// settled is an arrangement to which a trial of the next class was added; one without cores
// adds only that the class is nowhere.
func (t trial) settled(a arrangement, m member) arrangement {
	out := t.arrangement
	if t.cores == nil {
		out = a
	}
	out.cores = append(slices.Clone(a.cores), t.cores)
	out.feasible = append(slices.Clone(a.feasible), t.own)
	out.price = append(slices.Clone(a.price), out.cost-a.cost)
	var added []float64
	if m.MaxDelay > 0 && t.cores != nil {
		added = slices.Clone(out.load)
		for i := range added {
			added[i] = (1 - m.foreign) * (added[i] - a.load[i])
		}
	}
	out.added = append(slices.Clone(a.added), added)
	return out
}

// fastest tries every speed for a class on some cores, and returns the best trial.
func (s *search) fastest(a arrangement, m member, cores []int) trial {
	if len(cores) == 0 {
		return trial{}
	}
	w := s.site(a, m, cores)
	var best trial
	var cheap arrangement
	for i, speed := range s.speeds(w.domains) {
		now := s.clocked(w, speed, true)
		alone := now
		if w.governed { // the floor is to be cheap wherever the governor goes
			alone = s.clocked(w, speed, false)
		}
		if i == 0 || alone.cost < cheap.cost-1e-9*units.Power(math.Abs(float64(cheap.cost))) {
			cheap = alone
		}
		if t := s.judge(w, now); t.bound && (best.cores == nil || t.better(best)) {
			best = t
		}
	}
	if best.cores == nil {
		best = s.judge(w, s.clocked(w, 1, true))
	}
	if !best.own && m.MaxSlowdown == nil {
		// Without a bound, more work than any speed carries is a backlog, and
		// a backlog costs least at the critical frequency.
		best = s.judge(w, cheap)
	}
	best.cheap, best.slowest = slices.Clone(a.cheap), slices.Clone(a.slowest)
	for _, i := range cores {
		d := s.mach.Cores[i].Domain
		best.cheap[d] = max(best.cheap[d], cheap.opp[d])
		slowest, _ := s.bound(m, i)
		best.slowest[d] = max(best.slowest[d], slowest)
	}
	return best
}

// with returns what a class makes of the cores' work: it fills those that have least to
// do, as the kernel's balancing does.
func (s *search) with(a arrangement, m member, cores []int) arrangement {
	a.work, a.load, a.nap, a.latency = slices.Clone(a.work), slices.Clone(a.load), slices.Clone(a.nap), slices.Clone(a.latency)
	if a.waits != nil {
		a.waits, a.loadWaits = slices.Clone(a.waits), slices.Clone(a.loadWaits)
	}
	level := func(i int) float64 { return a.work[i] / s.mach.Cores[i].Capacity }
	byLevel := slices.Clone(cores)
	slices.SortStableFunc(byLevel, func(i, k int) int { return cmp.Compare(level(i), level(k)) })
	room, have, n := 0.0, 0.0, 0
	for n < len(byLevel) && (n == 0 || level(byLevel[n])*room-have < m.demand) {
		room += s.mach.Cores[byLevel[n]].Capacity
		have += a.work[byLevel[n]]
		n++
	}
	for _, i := range byLevel[:n] {
		more := (have+m.demand)/room*s.mach.Cores[i].Capacity - a.work[i]
		a.work[i] += more
		a.load[i] += more * m.average / m.demand
		if a.waits != nil {
			a.waits[i] += more * m.mix.waiting
			a.loadWaits[i] += more * m.mix.waiting * m.average / m.demand
		}
	}
	for _, i := range cores {
		d := s.mach.Cores[i].Domain
		if nap := s.mach.Domains[d].nap(m.Class); a.nap[i] < nap {
			a.nap[i] = nap
		}
		a.latency[d] = a.latency[d] || m.Objective == Latency
	}
	return a
}

// A site is some cores with what a class makes of their work: all that does not depend on
// their speed.
type site struct {
	arrangement
	member
	cores   []int
	domains []int     // of the cores, each once
	busiest []float64 // of each domain, see governed
	// governed tells that a clock of the cores is left to the governor.
	governed bool
	// sharers are the classes that share cores with this one, and it itself if there are.
	sharers []int
}

func (s *search) site(a arrangement, m member, cores []int) site {
	w := site{arrangement: s.with(a, m, cores), member: m, cores: cores}
	for _, i := range cores {
		d := s.mach.Cores[i].Domain
		if slices.Contains(w.domains, d) {
			continue
		}
		w.domains = append(w.domains, d)
		w.busiest = append(w.busiest, s.busiest(w.arrangement, d))
		w.governed = w.governed || w.latency[d]
	}
	if !m.placeable {
		return w
	}
	for i, theirs := range a.cores {
		if slices.ContainsFunc(theirs, func(c int) bool { return slices.Contains(cores, c) }) {
			w.sharers = append(w.sharers, i)
		}
	}
	if len(w.sharers) > 0 {
		w.sharers = append(w.sharers, len(a.cores))
	}
	return w
}

// clocked prices a site at a speed at the least: a shared clock takes its strictest user,
// and one that is left to the governor goes where that drives it, if it is to count.
func (s *search) clocked(w site, speed float64, governed bool) arrangement {
	a := w.arrangement
	a.opp = slices.Clone(a.opp)
	for k, d := range w.domains {
		dom := s.mach.Domains[d]
		if len(dom.Curve.OPPs) == 0 {
			continue
		}
		a.opp[d] = max(a.opp[d], dom.at(speed))
		if governed && a.latency[d] {
			a.opp[d] = max(a.opp[d], dom.at(w.busiest[k]))
		}
	}
	a.cost = s.prices.cost(a.use)
	return a
}

// judge tells who is served how, at a site's clocks.
func (s *search) judge(w site, a arrangement) trial {
	t := trial{arrangement: a, cores: w.cores, others: true, bound: s.meets(w.member, a, w.cores)}
	t.own, t.capacity = s.carried(a, w.cores, s.policy.Headroom)
	for _, i := range w.sharers {
		theirs := w.cores
		if i < len(a.cores) {
			theirs = a.cores[i]
		}
		ok, _ := s.carried(a, theirs, s.headroom(s.classes[i]))
		// Who cannot be served in any case is no worse off.
		t.others = t.others && (ok || i < len(a.feasible) && !a.feasible[i])
	}
	return t
}

// busiest is the speed to which schedutil drives a domain, for its busiest core.
func (s *search) busiest(a arrangement, domain int) (most float64) {
	for _, i := range s.prices.cores[domain] {
		w := work{clocked: a.work[i]}
		if a.waits != nil {
			w = a.of(i)
		}
		most = max(most, governed(w, s.mach.Cores[i].Capacity))
	}
	return most
}

// carried reports whether cores do what they are asked to within a share of their time,
// and how much they would do in all of it.
func (s *search) carried(a arrangement, cores []int, headroom float64) (ok bool, capacity float64) {
	asked := 0.0
	for _, i := range cores {
		if a.waits == nil {
			capacity += s.capacity(i, a.opp)
		} else {
			capacity += s.does(i, a.of(i), a.opp)
		}
		asked += a.work[i]
	}
	return asked <= capacity*headroom*(1+1e-9), capacity
}

// speeds returns the distinct ones of some domains, ascending.
func (s *search) speeds(domains []int) []float64 {
	var out []float64
	for _, d := range domains {
		for _, o := range s.mach.Domains[d].Curve.OPPs {
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

// bound is the slowest OPP of a core that keeps a class' bound against the machine's
// fastest core at its fastest; 0 without one, and the fastest where none keeps it, which
// ok tells. A machine that cannot sleep follows the lecture's other row by itself: Sleep
// is then the awake idle power.
func (s *search) bound(m member, core int) (opp int, ok bool) {
	c := s.mach.Cores[core]
	opps := len(s.slow[c.Domain])
	if m.MaxSlowdown == nil || opps == 0 {
		return 0, true
	}
	for i := range opps {
		if c.Capacity*(1+*m.MaxSlowdown) >= (1-1e-9)*s.tau(m.strictest(), c.Domain, i) {
			return i, true
		}
	}
	return opps - 1, false
}

// meets reports whether an arrangement keeps a class's bound on some cores: with the clock,
// and with the wait when all of them are busy.
func (s *search) meets(m member, a arrangement, cores []int) bool {
	if m.MaxSlowdown != nil && len(cores) > 0 {
		asked, slowest := 0.0, math.Inf(1)
		for _, i := range cores {
			asked += a.work[i]
			slowest = min(slowest, s.does(i, m.strictest(), a.opp))
		}
		_, capacity := s.carried(a, cores, 1)
		busy := math.Pow(min(1, asked/capacity), float64(len(cores)))
		if slowest*(1-busy)*(1+*m.MaxSlowdown) < 1-1e-9 && busy > 0.05 {
			return false
		}
	}
	for _, i := range cores {
		opp, ok := s.bound(m, i)
		if d := s.mach.Cores[i].Domain; !ok || a.opp[d] >= 0 && a.opp[d] < opp {
			return false
		}
	}
	return true
}
