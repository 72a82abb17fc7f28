package placement

import (
	"math"

	"github.com/powerd/powerd/internal/units"
)

// prices are a machine's, by operating point, for the work that it does now.
type prices struct {
	mach Machine
	// speed and busy are a core's, by domain and OPP: work per second of the kind's
	// fastest, and its power while it works.
	speed [][]float64
	busy  [][]units.Power
	// islands are those of each core, by index.
	islands [][]int
	cores   [][]int // of each domain
	crit    []int   // of each domain, see critical
}

func newPrices(m Machine) prices {
	p := prices{mach: m, speed: make([][]float64, len(m.Domains)), busy: make([][]units.Power, len(m.Domains)),
		islands: make([][]int, len(m.Cores)), cores: make([][]int, len(m.Domains))}
	for i, d := range m.Domains {
		for k := range d.Curve.OPPs {
			p.speed[i] = append(p.speed[i], 1/d.Curve.Tau(k, d.CPUBound))
			p.busy[i] = append(p.busy[i], d.Curve.Power(k, d.CPUBound, 1))
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
	for i, d := range m.Domains {
		p.crit = append(p.crit, d.Curve.Critical(d.Sleep-p.alone(i), d.CPUBound, 1))
	}
	return p
}

// capacity is how much a core does at its domain's OPP, in cores of the fastest kind at
// their fastest.
func (p prices) capacity(core int, opp []int) float64 {
	c := p.mach.Cores[core]
	if i := opp[c.Domain]; i >= 0 {
		return c.Capacity * p.speed[c.Domain][i]
	}
	return c.Capacity
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
	nap        []units.Power
	// opp is each domain's operating point, -1 where nothing runs or none is known.
	opp []int
}

// above is the power of a core's domain above its deepest sleep when it is busy the share
// u of the time. A core that cannot sleep spins through the rest. More than its whole time
// (u > 1) is work left over: it still has its price, so that speeds compare by what the
// work costs.
func (p prices) above(core int, u float64, nap units.Power, opp int) units.Power {
	d := p.mach.Cores[core].Domain
	dom := p.mach.Domains[d]
	if !dom.CanSleep {
		u = max(u, 1)
	}
	return units.Power(u)*(p.busy[d][opp]-dom.Sleep) + units.Power(max(0, 1-u))*(nap-dom.Sleep)
}

// cost is the power of the machine above all its parts asleep. The cores of an island
// are taken to be busy independently of one another: it sleeps while none is.
func (p prices) cost(u use) units.Power {
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
func (p prices) alone(domain int) units.Power {
	var sum units.Power
	for _, is := range p.mach.Islands {
		if is.CPUs.Overlaps(p.mach.Domains[domain].CPUs) {
			sum += is.Awake - is.Asleep
		}
	}
	return sum
}

// critical returns the index of a domain's critical OPP when one of its cores works alone:
// the power of the islands it keeps awake is then its to carry.
func (p prices) critical(domain int) int { return p.crit[domain] }

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

// governed is the OPP to which schedutil, with its quarter of headroom, drives a domain
// whose busiest core is asked, on average, for a share of its time at its fastest.
func (dom Domain) governed(share float64) int {
	return dom.at(math.Min(1, 1.25*burst*share))
}
