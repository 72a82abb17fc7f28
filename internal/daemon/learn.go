package daemon

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

type cpuOPP = cpufreq.OPP

// A model is what the daemon has learned. It is a value; learn returns a new one.
type model struct {
	power energy.Model
	// shown is the power model that decisions go by, with its curves by domain:
	// it follows power only when that has moved, so that a plan stands.
	shown  energy.Model
	curves []cpufreq.Curve
	of     *Hardware
	demand map[containers.ID]float64 // in cores of the fastest kind at their fastest
	// bounds is what was learned of the containers' work.
	bounds map[containers.ID]bound
	habits map[containers.ID]habit // of those whose work may be gathered
	// charged is what containers with a budget were charged lately.
	charged map[containers.ID]charge
	other   float64
	// average is the demand of classes over minutes, and steady what decisions go by: it
	// follows average only when that has moved.
	average, steady map[string]float64
	watched         units.Seconds // how long
	// last is what happened in the last interval.
	last interval
}

// An interval is what happened between two readings.
type interval struct {
	seconds units.Seconds
	// busy is each domain's core-seconds of work by OPP, cost their price at the
	// curve of the source.
	busy [][]float64
	cost []units.Cost
	// share is each OPP's part of each domain's time; nil where nothing controls the clock.
	share [][]float64
	// speed is the mean speed of each domain's clock, relative to its fastest.
	speed []float64
	used  map[containers.ID]time.Duration
	other units.Seconds // busy time in no container
	// shared is what islands cost above their sleep, for any of their cpus being busy.
	shared units.Cost
	// measured is what the meter counted, nil without one.
	measured   *units.Energy
	unmeasured string // why not
}

// between works out what happened from one reading to the next; ok is false if
// the two cannot be compared (the first reading, cpus came or went, the clock
// jumped back).
func between(last, seen *Seen) (iv interval, ok bool) {
	if last == nil || last.Hardware != seen.Hardware || !seen.At.After(last.At) {
		return interval{}, false
	}
	h := seen.Hardware
	iv.seconds = units.SecondsOf(seen.At.Sub(last.At))
	n := len(h.Machine.Domains)
	iv.busy, iv.cost, iv.speed = make([][]float64, n), make([]units.Cost, n), make([]float64, n)

	// The share of each OPP in a domain's time: the kernel's count, or else the
	// ceiling, for that is where busy cores are.
	share := make([][]float64, n)
	for i, p := range h.Policies {
		d := h.domainOf[p.ID]
		if opps := len(h.Machine.Domains[d].Curve.OPPs); share[d] == nil && opps > 0 {
			share[d] = shares(last.Residency[i], seen.Residency[i], opps)
			if share[d] == nil {
				share[d] = make([]float64, opps)
				at := slices.IndexFunc(h.Machine.Domains[d].Curve.OPPs, func(o cpuOPP) bool { return o.Frequency >= last.Limits[i].Max })
				if at < 0 {
					at = opps - 1
				}
				share[d][at] = 1
			}
		}
	}
	busyTotal := 0.0
	iv.share = share
	for d, dom := range h.Machine.Domains {
		iv.speed[d] = h.pace(iv, d, 1)
		busy := 0.0
		for c := range dom.CPUs.All() {
			if int(c) < len(seen.Busy) && int(c) < len(last.Busy) {
				busy += math.Max(0, (seen.Busy[c] - last.Busy[c]).Seconds())
			}
		}
		busy = math.Min(busy, float64(dom.CPUs.Len())*float64(iv.seconds))
		busyTotal += busy
		if share[d] == nil {
			continue
		}
		iv.busy[d] = make([]float64, len(share[d]))
		for i, s := range share[d] {
			iv.busy[d][i] = busy * s
			// A core that waits for memory is taken to cost what one costs that works: so
			// what a container's work is bound by does not change its charge.
			iv.cost[d] += dom.Curve.Power(i, 1, 1).Over(units.Seconds(busy * s))
		}
	}
	for _, is := range h.Machine.Islands {
		asleep := 1.0
		for c := range is.CPUs.All() {
			if int(c) < len(seen.Busy) && int(c) < len(last.Busy) {
				asleep *= 1 - min(1, max(0, (seen.Busy[c]-last.Busy[c]).Seconds()/float64(iv.seconds)))
			}
		}
		iv.shared += units.Power(float64(is.Awake-is.Asleep) * (1 - asleep)).Over(iv.seconds)
	}
	iv.used = make(map[containers.ID]time.Duration, len(seen.Containers))
	before := make(map[containers.ID]time.Duration, len(last.Containers))
	for _, c := range last.Containers {
		before[c.ID] = c.Stat.Usage
	}
	usedTotal := 0.0
	for _, c := range seen.Containers {
		was, known := before[c.ID]
		if !known {
			continue
		}
		if c.Stat.Usage < was { // another of the same name
			was = max(0, c.Stat.Usage-time.Duration(float64(iv.seconds)*1e9)*time.Duration(max(1, h.Topology.Online.Len())))
		}
		iv.used[c.ID] = c.Stat.Usage - was
		usedTotal += iv.used[c.ID].Seconds()
	}
	iv.other = units.Seconds(math.Max(0, busyTotal-usedTotal))
	if last.Meter != nil && seen.Meter != nil {
		iv.measured, iv.unmeasured = h.Meter.Between(*last.Meter, *seen.Meter)
	}
	return iv, true
}

// shares returns each OPP's part of the time between two counts; nil where they
// tell nothing.
func shares(before, after []time.Duration, n int) []float64 {
	if len(before) != n || len(after) != n {
		return nil
	}
	out := make([]float64, n)
	sum := 0.0
	for i := range out {
		out[i] = math.Max(0, (after[i] - before[i]).Seconds())
		sum += out[i]
	}
	if sum <= 0 {
		return nil
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// learn returns the model with what happened since the last reading.
func (m model) learn(last, seen *Seen) (next model) {
	next = model{power: m.power, shown: m.shown, curves: m.curves, of: m.of, demand: make(map[containers.ID]float64, len(seen.Containers)), bounds: m.bounds, charged: m.charged, other: m.other, habits: m.habits}
	if next.power == (energy.Model{}) {
		next.power = energy.NewModel(prior(seen.Hardware))
	}
	defer func() { next.price(seen.Hardware) }()
	next.average, next.steady, next.watched = m.average, m.steady, m.watched
	iv, ok := between(last, seen)
	if !ok {
		if last != nil && last.Hardware != seen.Hardware {
			next.bounds = nil // other cpus, perhaps of other kinds
		}
		for _, c := range seen.Containers {
			if was, known := m.demand[c.ID]; known {
				next.demand[c.ID] = was
			}
		}
		return next
	}
	next.last = iv
	h := seen.Hardware
	next.bounds = next.count(seen)
	for _, c := range seen.Containers {
		used, known := iv.used[c.ID]
		if !known {
			continue
		}
		where := h.Topology.Online
		if c.CPUs != nil && !c.CPUs.Empty() {
			where = *c.CPUs
		}
		now := used.Seconds() / float64(iv.seconds) * h.speed(iv, where, next.bounds[c.ID].of(h))
		if saturated(last, seen, where) {
			now *= reach
		}
		next.demand[c.ID] = follow(m.demand[c.ID], now)
	}
	next.watch(seen, iv.seconds)
	next.habits = habits(m.habits, next.bounds, last, seen, iv)
	next.other = follow(m.other, float64(iv.other/iv.seconds)*h.speed(iv, h.Topology.Online, 1))
	if iv.measured != nil {
		s := energy.Sample{Seconds: iv.seconds, Energy: *iv.measured - units.Energy(iv.shared)}
		for d := range iv.busy {
			for _, b := range iv.busy[d] {
				s.Busy += units.Seconds(b)
			}
			s.Cost += iv.cost[d]
		}
		next.power = next.power.Learn(s)
	}
	return next
}

// memory is how far back the average demand of a class looks, in seconds.
const memory = 60

// watch brings the classes' averages up to date: means since the beginning, and then of
// about the last minute.
func (m *model) watch(seen *Seen, dt units.Seconds) {
	m.watched += dt
	share := float64(dt / min(m.watched, memory))
	now := map[string]float64{}
	for class := range m.average {
		now[class] = 0
	}
	for _, c := range seen.Containers {
		now[c.class()] += m.demand[c.ID]
	}
	average, steady := make(map[string]float64, len(now)), make(map[string]float64, len(now))
	for class, demand := range now {
		mean := m.average[class] + share*(demand-m.average[class])
		if demand == 0 && mean < 1e-3 {
			continue // long gone
		}
		average[class] = mean
		steady[class] = m.steady[class]
		if math.Abs(average[class]-steady[class]) > 0.15*steady[class] {
			steady[class] = average[class]
		}
	}
	m.average, m.steady = average, steady
}

// reach is how much more a container is taken to want that has used up its cpus:
// how much it would use on more of them cannot be seen.
const reach = 1.5

// saturated reports whether some cpus had no idle time between two readings.
func saturated(last, seen *Seen, cpus cpuset.Set) bool {
	var busy, total time.Duration
	for c := range cpus.All() {
		if int(c) < len(seen.Busy) && int(c) < len(last.Busy) {
			busy += seen.Busy[c] - last.Busy[c]
			total += seen.Total[c] - last.Total[c]
		}
	}
	return total > 0 && float64(busy) > 0.95*float64(total)
}

// price brings the curves up to date where the power model has moved by 2 %.
func (m *model) price(h *Hardware) {
	if m.of == h && m.power.Near(m.shown, 0.02) {
		return
	}
	m.shown, m.of = m.power, h
	m.curves = make([]cpufreq.Curve, len(h.Machine.Domains))
	for i, d := range h.Machine.Domains {
		m.curves[i] = m.shown.Curve(d.Curve)
	}
}

// follow smooths demand: up at once, down slowly, and not at all for less than a
// tenth, so that a plan stands while the load only flickers.
func follow(was, now float64) float64 {
	switch {
	case now > was*1.1 || was == 0:
		return now
	case now < was*0.9:
		next := 0.8*was + 0.2*now
		if next < 0.005 {
			return 0
		}
		return next
	default:
		return was
	}
}

// prior is the power that the sources assume: of the machine with every core
// idle, and of a core at its fastest.
func prior(h *Hardware) (base, core units.Power) {
	for _, c := range h.Machine.Cores {
		d := h.Machine.Domains[c.Domain]
		base += d.Sleep
		if n := len(d.Curve.OPPs); n > 0 {
			core = max(core, d.Curve.OPPs[n-1].Active())
		}
	}
	for _, is := range h.Machine.Islands {
		base += is.Asleep
	}
	return base, max(core, units.Milliwatt)
}

// pace is the mean speed of a domain in an interval, relative to its fastest, for work of
// which a share scales with the clock.
func (h *Hardware) pace(iv interval, domain int, cpuBound float64) (speed float64) {
	if iv.share[domain] == nil {
		return 1
	}
	for i, s := range iv.share[domain] {
		speed += s / h.Machine.Domains[domain].Curve.Tau(i, cpuBound)
	}
	return speed
}

// speed is the mean speed of some cpus in an interval, in fastest cores, for work of which a
// share scales with the clock.
func (h *Hardware) speed(iv interval, cpus cpuset.Set, cpuBound float64) float64 {
	sum, n := 0.0, 0
	domain, speed := -1, 0.0
	for _, c := range h.Machine.Cores {
		if !c.CPUs.Overlaps(cpus) {
			continue
		}
		if c.Domain != domain {
			if domain, speed = c.Domain, iv.speed[c.Domain]; cpuBound != 1 {
				speed = h.pace(iv, domain, cpuBound)
			}
		}
		sum += c.Capacity * speed
		n++
	}
	if n == 0 {
		return 1
	}
	return sum / float64(n)
}

// A charge is the mean power that a container was charged, and the cpus it kept busy
// meanwhile.
type charge struct {
	power units.Power
	used  float64
}

// charge returns the model with what an interval charged to containers with a budget. It
// halves what was before: a meter flickers, and a container is bounded on average.
func (m model) charge(seen *Seen, iv energy.Interval) model {
	if m.last.seconds == 0 {
		return m
	}
	was := m.charged
	m.charged = nil
	for i, c := range seen.Containers {
		if c.Budget == 0 || i >= len(iv.Shares) {
			continue
		}
		now := charge{units.Power(float64(iv.Shares[i].Energy) / float64(m.last.seconds)), m.last.used[c.ID].Seconds() / float64(m.last.seconds)}
		if b, known := was[c.ID]; known {
			now = charge{(b.power + now.power) / 2, (b.used + now.used) / 2}
		}
		if m.charged == nil {
			m.charged = map[containers.ID]charge{}
		}
		m.charged[c.ID] = now
	}
	return m
}

// input is what to decide on: what was seen, priced with what was learned. Own tells the
// limit that powerd has set a container with a budget, and what was there before.
func (m model) input(config configs.Config, seen *Seen, own func(Contained) (limit, before float64)) placement.Input {
	h := seen.Hardware
	in := placement.Input{Policy: config.Policy, Machine: h.Machine, Other: m.other, Average: m.steady}
	in.Machine.Domains = slices.Clone(h.Machine.Domains)
	for i := range in.Machine.Domains {
		d := &in.Machine.Domains[i]
		d.Curve = m.curves[i]
		if m.shown.Trusted() && len(d.Curve.OPPs) > 0 {
			d.Source += ", corrected by the meter"
		}
	}
	for i, p := range h.Policies {
		d := &in.Machine.Domains[h.domainOf[p.ID]]
		d.Floor, d.Ceiling = seen.Limits[i].Min, seen.Limits[i].Max
	}
	for _, c := range seen.Containers {
		class := c.class()
		if c.Slowdown != 0 {
			bounded(&in.Policy, c.Class, class, c.Slowdown)
		}
		demand, known := m.demand[c.ID]
		if !known {
			demand = newcomer
		}
		pc := placement.Container{ID: string(c.ID), Class: class, Demand: demand, MemoryBound: 1 - m.bounds[c.ID].of(h), Allowed: c.Allowed,
			CanPlace: c.CPUs != nil, CanLimit: c.Max != nil}
		if c.CPUs != nil {
			pc.CPUs = *c.CPUs
		}
		pc.Tenant = c.Tenant
		if pc.Budget = c.Budget; pc.Budget > 0 {
			at := m.charged[c.ID]
			pc.Power, pc.Used = at.power, at.used
			pc.Limit, pc.OwnLimit = own(c)
		}
		if c.Delays {
			pc.Usual, pc.Parallel = m.usual(c)
			var limit float64
			if limit, pc.OwnLimit = own(c); c.Max != nil && c.Max.Period != containers.DefaultPeriod && c.CPUs != nil && !c.CPUs.Empty() {
				pc.Share = limit / float64(max(1, min(pc.Parallel, c.CPUs.Len())))
			}
		}
		in.Containers = append(in.Containers, pc)
	}
	return in
}

// newcomer is the demand, in cores, of a container that has not been seen at work yet: what
// one busy thread wants. Room that it does not need is given back at the next tick.
const newcomer = 1

// class is the name of the class that a container is of: its own, if it has a bound of its
// own.
func (c Contained) class() string {
	if c.Slowdown == 0 {
		return c.Class
	}
	return fmt.Sprintf("%s, slowdown %g", c.Class, c.Slowdown)
}

// bounded adds to a policy a class like another but for its bound, unless it has it.
func bounded(p *placement.Policy, class, name string, slowdown float64) {
	i := slices.IndexFunc(p.Classes, func(c placement.Class) bool { return c.Name == class })
	if i < 0 || slices.ContainsFunc(p.Classes, func(c placement.Class) bool { return c.Name == name }) {
		return
	}
	c := p.Classes[i]
	bound := slowdown - 1
	c.Name, c.MaxSlowdown = name, &bound
	p.Classes = append(slices.Clone(p.Classes), c)
}

// sameInput reports whether two inputs must give the same plan.
func sameInput(a, b placement.Input) bool {
	return a.Other == b.Other && maps.Equal(a.Average, b.Average) &&
		len(a.Machine.Cores) == len(b.Machine.Cores) && (len(a.Machine.Cores) == 0 || &a.Machine.Cores[0] == &b.Machine.Cores[0]) && // the same Hardware
		slices.EqualFunc(a.Machine.Domains, b.Machine.Domains, func(x, y placement.Domain) bool {
			return x.Floor == y.Floor && x.Ceiling == y.Ceiling && len(x.Curve.OPPs) == len(y.Curve.OPPs) &&
				(len(x.Curve.OPPs) == 0 || &x.Curve.OPPs[0] == &y.Curve.OPPs[0]) // the same prices
		}) &&
		slices.EqualFunc(a.Containers, b.Containers, func(x, y placement.Container) bool {
			return x.ID == y.ID && x.Class == y.Class && x.Demand == y.Demand && x.MemoryBound == y.MemoryBound && x.CanPlace == y.CanPlace && x.CanLimit == y.CanLimit &&
				x.Tenant == y.Tenant && x.Budget == y.Budget && x.Power == y.Power && x.Used == y.Used && x.Limit == y.Limit && x.OwnLimit == y.OwnLimit &&
				x.Parallel == y.Parallel && x.Usual == y.Usual && x.Share == y.Share &&
				x.Allowed.Equal(y.Allowed) && x.CPUs.Equal(y.CPUs)
		})
}

// account divides the energy of the last interval: to each container what its
// time cost at the clocks and on the kinds of core where it ran, to base what
// idling and shared power cost.
func (m model) account(last, seen *Seen) energy.Interval {
	iv := m.last
	if iv.seconds == 0 || last == nil {
		return energy.Interval{Method: energy.Modelled}
	}
	h := seen.Hardware
	// price is the mean power of a busy core of each domain in the interval.
	price := make([]units.Power, len(h.Machine.Domains))
	for d, dom := range h.Machine.Domains {
		busy := 0.0
		for _, b := range iv.busy[d] {
			busy += b
		}
		switch {
		case busy > 0:
			price[d] = units.Power(float64(iv.cost[d]) / busy)
		case len(dom.Curve.OPPs) > 0:
			price[d] = dom.Curve.OPPs[0].Active()
		default:
			price[d] = units.Watt
		}
	}
	mean := func(cpus cpuset.Set) units.Power {
		var sum units.Power
		weight := 0.0
		for _, c := range h.Machine.Cores {
			if !c.CPUs.Overlaps(cpus) {
				continue
			}
			w := 1e-9 // where nothing was busy, all cores count alike
			for cpu := range c.CPUs.Intersect(cpus).All() {
				if int(cpu) < len(seen.Busy) && int(cpu) < len(last.Busy) {
					w += (seen.Busy[cpu] - last.Busy[cpu]).Seconds()
				}
			}
			sum += price[c.Domain] * units.Power(w)
			weight += w
		}
		if weight == 0 {
			return 0
		}
		return sum / units.Power(weight)
	}
	online := mean(h.Topology.Online)
	cache := map[string]units.Power{"": online}
	var uses []energy.Use
	for _, c := range seen.Containers {
		p := online
		if c.CPUs != nil && !c.CPUs.Empty() {
			key := c.CPUs.String()
			if _, ok := cache[key]; !ok {
				cache[key] = mean(*c.CPUs)
			}
			p = cache[key]
		}
		uses = append(uses, energy.Use{ID: string(c.ID), Cost: p.Over(units.SecondsOf(iv.used[c.ID]))})
	}
	base, _ := prior(h)
	if m.power.Trusted() {
		base = m.power.Base()
	}
	return energy.Account(iv.measured, uses, online.Over(iv.other), base.Over(iv.seconds)+iv.shared)
}
