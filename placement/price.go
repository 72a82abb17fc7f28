package placement

import "github.com/powerd/powerd/internal/units"

// prices are a machine's, by operating point, for the work that it does now.
type prices struct {
	mach Machine
	// speed and slow are a core's, by domain and OPP, for work that is bound by the clock:
	// what it does in the time, and the time that it takes, of its kind's fastest. Busy is
	// its power while it works; a stall costs what work does.
	speed, slow [][]float64
	busy        [][]units.Power
	// islands are those of each core, by index.
	islands [][]int
	cores   [][]int // of each domain
	crit    []int   // of each domain, for work bound by the clock
}

func newPrices(m Machine) prices {
	p := prices{mach: m, speed: make([][]float64, len(m.Domains)), slow: make([][]float64, len(m.Domains)), busy: make([][]units.Power, len(m.Domains)),
		islands: make([][]int, len(m.Cores)), cores: make([][]int, len(m.Domains))}
	for i, d := range m.Domains {
		for k := range d.Curve.OPPs {
			p.slow[i] = append(p.slow[i], d.Curve.Tau(k, 1))
			p.speed[i] = append(p.speed[i], 1/p.slow[i][k])
			p.busy[i] = append(p.busy[i], d.Curve.Power(k, 1, 1))
		}
	}
	for i, c := range m.Cores {
		p.cores[c.Domain] = append(p.cores[c.Domain], i)
		for k, is := range m.Islands {
			if is.CPUs.Overlaps(c.CPUs) {
				p.islands[i] = append(p.islands[i], k)
			}
		}
	}
	p.crit = p.criticals(work{clocked: 1})
	return p
}

// A work is what cores are asked for, in cores of the fastest kind at their fastest, by what
// its time depends on: the clock, or how long memory takes, which is as long at any clock.
type work struct{ clocked, waiting float64 }

func (w work) all() float64 { return w.clocked + w.waiting }

// times is so much of the same work.
func (w work) times(n float64) work { return work{n * w.clocked, n * w.waiting} }

func (w work) plus(o work) work { return work{w.clocked + o.clocked, w.waiting + o.waiting} }

// bound is the share of the work that scales with the clock.
func (w work) bound() float64 {
	if w.waiting == 0 {
		return 1
	}
	return w.clocked / w.all()
}

// tau is the time that work takes at a domain's OPP, in that at its fastest.
func (p *prices) tau(w work, domain, opp int) float64 {
	if opp < 0 {
		return w.all()
	}
	return w.clocked*p.slow[domain][opp] + w.waiting
}

// capacity is how much work that is bound by the clock a core does at its domain's OPP, in
// cores of the fastest kind at their fastest.
func (p *prices) capacity(core int, opp []int) float64 {
	c := p.mach.Cores[core]
	if i := opp[c.Domain]; i >= 0 {
		return c.Capacity * p.speed[c.Domain][i]
	}
	return c.Capacity
}

// does is how much of some work it does.
func (p *prices) does(core int, w work, opp []int) float64 {
	if w.waiting == 0 {
		return p.capacity(core, opp)
	}
	c := p.mach.Cores[core]
	return c.Capacity * w.all() / p.tau(w, c.Domain, opp[c.Domain])
}

// A use is what cores are asked to do.
type use struct {
	// work is each core's, in cores of the fastest kind at their fastest: now, for what it
	// carries, and load on average, for what that costs; nap is its power when it has none.
	//
	// Work that comes in bursts ends the sooner the faster it is done, and all sleeps until
	// the next: were its cost that of its busy time, a cluster that is awake for it would
	// seem to be awake at any speed.
	work, load []float64
	// waits are the parts of them that wait for memory; nil where none is known to.
	waits, loadWaits []float64
	nap              []units.Power
	// opp is each domain's operating point, -1 where nothing runs or none is known.
	opp []int
}

// of is what a core is asked for.
func (u *use) of(core int) work {
	if u.waits == nil {
		return work{clocked: u.work[core]}
	}
	return work{u.work[core] - u.waits[core], u.waits[core]}
}

// above is the power of a core's domain above its deepest sleep when it is busy the share
// u of the time. A core that cannot sleep spins through the rest. More than its whole time
// (u > 1) is work left over: it still has its price, so that speeds compare by what the
// work costs.
func (p *prices) above(core int, u float64, nap units.Power, opp int) units.Power {
	d := p.mach.Cores[core].Domain
	dom := p.mach.Domains[d]
	if !dom.CanSleep {
		u = max(u, 1)
	}
	return units.Power(u)*(p.busy[d][opp]-dom.Sleep) + units.Power(max(0, 1-u))*(nap-dom.Sleep)
}

// cost is the power of the machine above all its parts asleep. The cores of an island
// are taken to be busy independently of one another: it sleeps while none is.
func (p *prices) cost(u use) units.Power {
	var sum units.Power
	var few [64]float64
	asleep := few[:0]
	for range p.mach.Islands {
		asleep = append(asleep, 1)
	}
	for i, c := range p.mach.Cores {
		if u.work[i] == 0 && u.nap[i] == 0 {
			continue
		}
		share := u.load[i] / p.capacity(i, u.opp)
		if u.waits != nil {
			share = p.tau(work{u.load[i] - u.loadWaits[i], u.loadWaits[i]}, c.Domain, u.opp[c.Domain]) / c.Capacity
		}
		if opp := u.opp[c.Domain]; opp >= 0 {
			sum += p.above(i, share, u.nap[i], opp)
		}
		for _, k := range p.islands[i] {
			asleep[k] *= max(0, 1-share)
		}
	}
	for k, is := range p.mach.Islands {
		sum += (is.Awake - is.Asleep) * units.Power(1-asleep[k])
	}
	return sum
}

// alone is the power that a lone core of the domain keeps up around it.
func (p *prices) alone(domain int) units.Power {
	var sum units.Power
	for _, is := range p.mach.Islands {
		if is.CPUs.Overlaps(p.mach.Domains[domain].CPUs) {
			sum += is.Awake - is.Asleep
		}
	}
	return sum
}

// critical is the index of a domain's critical OPP for some work, when one of its cores works
// alone: the power of the islands that it keeps awake is then its to carry.
func (p *prices) critical(w work, domain int) int {
	if w.waiting == 0 && p.crit != nil {
		return p.crit[domain]
	}
	d := p.mach.Domains[domain]
	return d.Curve.Critical(d.Sleep-p.alone(domain), w.bound(), 1)
}

// criticals are those of all domains.
func (p *prices) criticals(w work) []int {
	if w.waiting == 0 && p.crit != nil {
		return p.crit
	}
	out := make([]int, len(p.mach.Domains))
	for i := range out {
		out[i] = p.critical(w, i)
	}
	return out
}

// nap is a core's power in the deepest state that a class bears to leave. With none it
// stays awake, its clock gated.
func (dom Domain) nap(c Class) units.Power {
	if c.MaxWakeLatency == nil || len(dom.States) == 0 || len(dom.Curve.OPPs) == 0 {
		return dom.Sleep
	}
	p := max(dom.Curve.OPPs[0].Static, dom.Sleep)
	for _, s := range dom.States {
		if s.Latency <= *c.MaxWakeLatency {
			p = min(p, s.Power)
		}
	}
	return p
}

// at returns the lowest OPP that is at least as fast as a speed.
func (dom Domain) at(speed float64) int {
	least := speed * (1 - 1e-9)
	for i := range dom.Curve.OPPs {
		if dom.Curve.OPPs[i].Speed >= least {
			return i
		}
	}
	return len(dom.Curve.OPPs) - 1
}

// burst is how much more than on average schedutil sees a core asked to do: its average
// looks back 32 ms only.
const burst = 1.5

// governed is the speed to which schedutil, with its quarter of headroom, drives a core that
// of a capacity is asked, on average, for some work. It goes by the time that the core is
// busy, times the clock: at speed s that is clocked + waiting s of its time at its fastest.
func governed(w work, capacity float64) float64 {
	const more = 1.25 * burst
	if more*w.all() >= capacity {
		return 1
	}
	return more * w.clocked / (capacity - more*w.waiting)
}
