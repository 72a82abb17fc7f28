package daemon

import (
	"fmt"
	"slices"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// What work is bound by shows at two clocks only, and a plan that stands keeps one. So work
// that has been there for a while, and is seen at work, gets a look at another clock: the
// cheapest that no bound and no load forbid, where another plan would be made if half of the
// work's time turned out to be waiting.
const (
	// probeAfter is the weight of what must have been counted, in seconds: who has stayed
	// for so long is likely to stay for as long again.
	probeAfter = 8
	// probeTicks is how long a look is at most, probeRest how long its clock is left alone
	// then, and probeVain how long work for which no look matters.
	probeTicks, probeRest, probeVain = 3, 16, 32
	// probeBusy is the demand, in cores, from which on a look pays.
	probeBusy = 0.1
	// probeStep is how far the other clock must be.
	probeStep = 1.1
	// probeBudget is the most that looks may cost, in the energy of the domain's work.
	probeBudget = 0.001
	// probeTries bounds the doubling of the time between looks that told nothing.
	probeTries = 6
)

// probing is who is looked at, and when it was.
type probing struct {
	looks map[int]look // by domain; those that are over as well
	asked map[containers.ID]asked
	// saved is what each domain's looks may cost now, in ticks of its work.
	saved map[int]float64
	// weighed is the last tick at which it was worked out whether a look matters.
	weighed int
	of      *Hardware // whose domains these are
}

// A look is at a domain's work at another clock than the plan's.
type look struct {
	until int // tick, exclusive
	clock units.Frequency
	who   []containers.ID
}

// asked is how often work was looked at in vain, and from which tick on it may be again.
type asked struct{ tries, next int }

func newProbing() *probing {
	return &probing{asked: map[containers.ID]asked{}, weighed: -1}
}

// hide has a plan stay that is in force but for a look: decisions are not to take a look's
// clock for the plan's.
func (p *probing) hide(in placement.Input, last *placement.Plan, h *Hardware, tick int) placement.Input {
	if p.of != h {
		p.looks, p.saved, p.of = map[int]look{}, map[int]float64{}, h
	}
	if last == nil || len(p.looks) == 0 {
		return in
	}
	for _, b := range last.Bands {
		if l, ok := p.looks[b.Domain]; ok && tick <= l.until { // in force since the tick before
			d := &in.Machine.Domains[b.Domain]
			d.Floor, d.Ceiling = b.Floor, b.Ceiling
		}
	}
	return in
}

// look returns a plan with the clocks of the looks that are under way; it ends those that
// have told what they could, and begins others.
func (p *probing) look(plan *placement.Plan, in placement.Input, h *Hardware, bounds map[containers.ID]bound, tick int) *placement.Plan {
	if len(bounds)+len(p.looks) == 0 {
		return plan
	}
	for id := range p.asked {
		if _, here := bounds[id]; !here {
			delete(p.asked, id)
		}
	}
	for domain, l := range p.looks {
		unknown := func(id containers.ID) bool { b, here := bounds[id]; return here && !b.known }
		if tick < l.until && !slices.ContainsFunc(l.who, unknown) {
			l.until = tick
			p.looks[domain] = l
		}
	}
	out := *plan
	copied := false
	for i, b := range plan.Bands {
		p.saved[b.Domain] = min(p.saved[b.Domain]+probeBudget, 1)
		l, ok := p.looks[b.Domain]
		if !ok || l.until+probeRest <= tick {
			l, ok = p.begin(b, plan, in, h, bounds, tick)
		}
		if !ok || tick >= l.until {
			continue
		}
		if !copied {
			out.Bands, copied = slices.Clone(plan.Bands), true
		}
		o := &out.Bands[i]
		o.Floor, o.Ceiling, o.FloorKHz, o.CeilingKHz = l.clock, l.clock, uint64(l.clock), uint64(l.clock)
		o.Reason = fmt.Sprintf("for a moment at %v, to see what the work of %d containers is bound by; then: %s", l.clock, len(l.who), b.Reason)
	}
	return &out
}

// begin begins a look at a domain, if there is whom to look at and what it tells may matter.
func (p *probing) begin(b placement.Band, plan *placement.Plan, in placement.Input, h *Hardware, bounds map[containers.ID]bound, tick int) (look, bool) {
	if p.weighed == tick {
		return look{}, false
	}
	l := look{until: tick + probeTicks}
	slowest := busiest(b, plan, in)
	for _, a := range plan.Assignments {
		if a.CPUs == nil || !a.CPUs.Overlaps(b.CPUs) {
			continue
		}
		at := slices.IndexFunc(in.Policy.Classes, func(c placement.Class) bool { return c.Name == a.Class })
		if at < 0 || in.Policy.Classes[at].Objective == placement.Latency {
			return look{}, false // there the governor goes from clock to clock
		}
		if m := in.Policy.Classes[at].MaxSlowdown; m != nil {
			slowest = max(slowest, 1/(1+*m))
		}
		id := containers.ID(a.ID)
		if was := bounds[id]; was.worthLook() && p.asked[id].next <= tick && !p.under(id, tick) {
			l.who = append(l.who, id)
		}
	}
	cost := 0.0
	if l.clock, cost = otherClock(in.Machine, b, slowest); l.clock == 0 || len(l.who) == 0 || cost*probeTicks > p.saved[b.Domain] {
		return look{}, false
	}
	p.weighed = tick
	matters := !placement.Decide(suppose(in, l.who, float64(b.Ceiling)/float64(h.fastest(b.Domain)))).Same(*plan)
	for _, id := range l.who {
		was := p.asked[id]
		if was.next = tick + probeVain; matters {
			was = asked{min(was.tries+1, probeTries), tick + probeRest<<was.tries}
		}
		p.asked[id] = was
	}
	if !matters {
		return look{}, false
	}
	p.looks[b.Domain] = l
	p.saved[b.Domain] -= cost * probeTicks
	return l, true
}

// suppose is an input in which the work of some containers, seen at a speed, waits for
// memory half of its time: in the same time it is more work.
func suppose(in placement.Input, who []containers.ID, speed float64) placement.Input {
	in.Containers = slices.Clone(in.Containers)
	for i := range in.Containers {
		if c := &in.Containers[i]; slices.Contains(who, containers.ID(c.ID)) {
			c.MemoryBound = 0.5
			c.Demand *= 2 / (1 + speed)
		}
	}
	return in
}

// under reports whether a container is looked at somewhere.
func (p *probing) under(id containers.ID, tick int) bool {
	for _, l := range p.looks {
		if tick < l.until && slices.Contains(l.who, id) {
			return true
		}
	}
	return false
}

// busiest is the slowest speed, in that of the machine's fastest core, at which the cores of
// a band still do what the classes there ask for, were all of it bound by the clock.
func busiest(b placement.Band, plan *placement.Plan, in placement.Input) float64 {
	demand, cores := 0.0, 0
	for _, p := range plan.Pools {
		if p.CPUs.Overlaps(b.CPUs) {
			demand += p.Demand
			cores = max(cores, p.Cores)
		}
	}
	return demand / float64(max(cores, 1)) / in.Policy.Headroom
}

// otherClock is one that is far enough from a band's ceiling and not slower than may be, of
// those the cheapest for work bound by the clock, and how much more, relatively, a second of
// that costs; 0 if there is none.
func otherClock(m placement.Machine, b placement.Band, slowest float64) (clock units.Frequency, cost float64) {
	dom := m.Domains[b.Domain]
	capacity := 0.0
	for _, c := range m.Cores {
		if c.Domain == b.Domain {
			capacity = c.Capacity
		}
	}
	above := dom.Sleep // what is lost when a core works
	for _, is := range m.Islands {
		if is.CPUs.Overlaps(dom.CPUs) {
			above -= is.Awake - is.Asleep
		}
	}
	price := func(i int) float64 { return float64(dom.Curve.Power(i, 1, 1)-above) * dom.Curve.Tau(i, 1) }
	now := slices.IndexFunc(dom.Curve.OPPs, func(o cpufreq.OPP) bool { return o.Frequency >= b.Ceiling })
	if now < 0 {
		return 0, 0
	}
	for i, o := range dom.Curve.OPPs {
		away := float64(o.Frequency) / float64(b.Ceiling)
		if away < probeStep && away > 1/probeStep || away < 1 && o.Speed*capacity < slowest {
			continue
		}
		if more := price(i)/price(now) - 1; clock == 0 || more < cost {
			clock, cost = o.Frequency, more
		}
	}
	return clock, max(0, cost)
}
