package placement

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/powerd/powerd/internal/units"
)

// Gathering is procrastination: the work of a class that bears a delay runs only in the
// first part of each period, and all of it in the same one, so that what its cores share
// sleeps through the rest. cpu.max does it: a container's quota is its part of the period for
// each of its threads that run at once. The kernel holds nobody back for longer than a
// period, even if powerd dies, and no system call is interrupted, which a freezer would do.
//
// See Jejurikar, Pereira, Gupta, "Leakage aware dynamic voltage scaling for real-time
// embedded systems", DAC 2004.

// shares are the parts of a period in which gathered work may run.
var shares = []float64{0.9, 0.8, 0.7, 0.6, 0.5}

// gathers reports whether a container's work may be gathered on cores that do so much
// each: it has no limit of another's, and what it usually does fits.
func (m member) gathers(c Container, share, capacity, headroom float64) bool {
	return m.MaxDelay > 0 && c.CanLimit && c.Parallel > 0 && c.Budget <= 0 && c.OwnLimit <= 0 &&
		c.Usual <= share*headroom*capacity*float64(c.Parallel)
}

// A gathering is the shares of the time in which classes' work may run.
type gathering struct {
	share []float64     // of each class
	saves []units.Power // by it
	// floor is the slowest OPP of each domain that keeps its classes' bounds in their
	// shares. A governor takes pauses for less to do, and begins each period slowly.
	floor []int
}

// gather finds the shares that pay, one class after the other.
func (s *search) gather(a arrangement) gathering {
	g := gathering{share: make([]float64, len(s.classes)), saves: make([]units.Power, len(s.classes)), floor: make([]int, len(s.mach.Domains))}
	for i := range g.share {
		g.share[i] = 1
	}
	for d := range g.floor {
		g.floor[d] = max(a.cheap[d], a.slowest[d])
	}
	for i, m := range s.classes {
		if m.MaxDelay <= 0 || len(a.cores[i]) == 0 || slices.ContainsFunc(a.cores[i], func(c int) bool { return !s.mach.Domains[s.mach.Cores[c].Domain].CanSleep }) {
			continue
		}
		type choice struct {
			share float64
			saves units.Power
			floor []int
		}
		now, best, present := s.awake(a, g.share), choice{share: 1, floor: g.floor}, choice{}
		for _, share := range shares {
			floor, ok := s.bears(a, g.floor, i, share)
			if !ok {
				break
			}
			g.share[i] = share
			c := choice{share, now - s.awake(a, g.share) - s.wakes(a, i, share) - s.raised(a, g.floor, floor), floor}
			if c.saves > best.saves {
				best = c
			}
			if share == m.share() {
				present = c
			}
		}
		if least := moveGain * a.cost; present.saves > 0 && best.saves < present.saves+least {
			best = present
		} else if best.saves < least {
			best = choice{share: 1, floor: g.floor}
		}
		g.share[i], g.saves[i], g.floor = best.share, best.saves, best.floor
	}
	return g
}

// share is the one of shares in force for a class, 0 where there is none.
func (m member) share() float64 {
	now := 0.0
	for _, c := range m.containers {
		now = max(now, c.Share)
	}
	for _, share := range shares {
		if math.Abs(now-share) < 0.01 {
			return share
		}
	}
	return 0
}

// raised is what it costs that floors are raised, if the governor stays at them.
func (s *search) raised(a arrangement, from, to []int) (sum units.Power) {
	for i, c := range s.mach.Cores {
		d := c.Domain
		if to[d] == from[d] || from[d] < 0 {
			continue
		}
		work := func(opp int) units.Power {
			return (s.busy[d][opp] - s.mach.Domains[d].Sleep) / units.Power(c.Capacity*s.speed[d][opp])
		}
		sum += units.Power(a.load[i]) * (work(to[d]) - work(from[d]))
	}
	return sum
}

// bears reports whether a class keeps its bound, and its cores carry their load, if its
// work runs in a share of the time only, and the floors that this takes. What is more than
// usual may fill all of the share.
func (s *search) bears(a arrangement, floors []int, class int, share float64) ([]int, bool) {
	m := s.classes[class]
	a.work = a.load
	if m.MaxSlowdown != nil {
		bound := share*(1+*m.MaxSlowdown) - 1
		if m.MaxSlowdown = &bound; bound < 0 || !s.meets(m, a, a.cores[class]) {
			return nil, false
		}
		floors = slices.Clone(floors)
		for _, i := range a.cores[class] {
			opp, _ := s.bound(m, i)
			d := s.mach.Cores[i].Domain
			floors[d] = max(floors[d], opp)
		}
	}
	if ok, _ := s.carried(a, a.cores[class], s.policy.Headroom*share); !ok {
		return nil, false
	}
	for k, l := range s.classes {
		// While the class runs, a latency class beside it finds its cores the busier.
		if l.Objective == Latency && slices.ContainsFunc(a.cores[k], func(i int) bool { return slices.Contains(a.cores[class], i) }) {
			if ok, _ := s.carried(a, a.cores[k], s.headroom(l)*share); !ok {
				return nil, false
			}
		}
	}
	return floors, true
}

// capacityOf is the mean of what a class' cores do.
func (s *search) capacityOf(a arrangement, class int) float64 {
	_, capacity := s.carried(a, a.cores[class], 1)
	return capacity / float64(len(a.cores[class]))
}

// wakes is what it costs that a class' containers wake once more in every period: the way
// into and out of the deepest state at the power of work.
func (s *search) wakes(a arrangement, class int, share float64) (sum units.Power) {
	m, capacity := s.classes[class], s.capacityOf(a, class)
	dom := s.mach.Cores[a.cores[class][0]].Domain
	if a.opp[dom] < 0 {
		return 0
	}
	once := (s.busy[dom][a.opp[dom]] - s.mach.Domains[dom].Sleep).Over(units.SecondsOf(s.mach.Domains[dom].deepest()))
	for _, c := range m.containers {
		if m.gathers(c, share, capacity, s.policy.Headroom) {
			sum += units.Power(c.Usual / capacity / share * float64(once) / m.MaxDelay.Seconds())
		}
	}
	return sum
}

// deepest is how long the domain's cheapest idle state takes to enter and leave.
func (dom Domain) deepest() time.Duration {
	var d time.Duration
	least := units.Power(math.Inf(1))
	for _, s := range dom.States {
		if s.Power < least {
			least, d = s.Power, s.Latency
		}
	}
	return d
}

// awake is the power of the islands on which work may be gathered, above their sleep. Its
// containers have work independently of one another and of the other classes, and if it is
// gathered it begins with the period.
func (s *search) awake(a arrangement, share []float64) (sum units.Power) {
	for _, is := range s.mach.Islands {
		// Others, core by core.
		others := 1.0
		for i, c := range s.mach.Cores {
			if is.CPUs.Overlaps(c.CPUs) {
				rest := a.load[i]
				for k, m := range s.classes {
					if m.MaxDelay > 0 && a.added[k] != nil {
						rest -= a.added[k][i]
					}
				}
				others *= max(0, 1-max(0, rest)/s.capacity(i, a.opp))
			}
		}
		asleep := 0.0
		for at := 0.0; at < 1; {
			next := 1.0
			for _, open := range share {
				if open > at {
					next = min(next, open)
				}
			}
			idle := others
			for k, m := range s.classes {
				if m.MaxDelay <= 0 || len(a.cores[k]) == 0 {
					continue
				}
				here := 0
				for _, i := range a.cores[k] {
					if is.CPUs.Overlaps(s.mach.Cores[i].CPUs) {
						here++
					}
				}
				if here == 0 {
					continue
				}
				capacity := s.capacityOf(a, k)
				for _, c := range m.containers {
					busy := c.Usual / capacity / float64(max(1, c.Parallel)) * float64(here) / float64(len(a.cores[k]))
					if m.gathers(c, share[k], capacity, s.policy.Headroom) {
						if busy /= share[k]; at >= share[k] {
							busy = 0
						}
					}
					idle *= max(0, 1-busy)
				}
			}
			asleep += (next - at) * idle
			at = next
		}
		sum += (is.Awake - is.Asleep) * units.Power(1-asleep)
	}
	return sum
}

// hold limits a container whose work is gathered to its part of the period on so many
// cpus.
func (s *search) hold(a arrangement, g gathering, class int, c Container, cpus int, to *Assignment) {
	m := s.classes[class]
	if g.share[class] >= 1 || !m.gathers(c, g.share[class], s.capacityOf(a, class), s.policy.Headroom) {
		return
	}
	limit := Limit(g.share[class] * float64(min(c.Parallel, max(1, cpus))))
	if to.Limit != nil && *to.Limit <= limit {
		return
	}
	to.Limit, to.Period, to.Share = &limit, m.MaxDelay, g.share[class]
	to.Reason += fmt.Sprintf("; it runs in the first %.0f %% of every %v, as all of its class do, so that what they share sleeps in the rest, which saves %v",
		100*g.share[class], m.MaxDelay, rounded(g.saves[class]))
}
