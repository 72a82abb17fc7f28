package energy

import (
	"math"
	"slices"

	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// mix returns the best division of the window among OPPs and one gap at its end,
// awake or in one state, and its energy; something must be feasible.
//
// For each way to spend the gap this is a linear program with two equations (the
// work, the window) and one bound (the gap fits the state). A linear program has
// an optimum with as many variables in use as it has equations, so one runs at a
// single OPP and has a gap, or runs at two with the gap at its bound:
//
//	t_i + t_j = window - bound,  t_i/tau_i + t_j/tau_j = work
//
// See Ishihara and Yasuura, Voltage scheduling problem for dynamically variable
// voltage processors, ISLPED 1998.
func (p Platform) mix() ([]Span, units.Cost) {
	if p.Cluster != nil {
		return p.clusterMix()
	}
	work, window := p.Workload.Work[0], p.Workload.Window
	// A gap spent awake is a state that is free to enter.
	ways := append([]cstates.Model{{Power: p.cheapestAwake()}}, p.states()...)
	var best [2]Span
	least := units.Cost(math.Inf(1))
	try := func(energy units.Cost, a, b Span) {
		if energy < least*(1-tiny) || math.IsInf(float64(least), 1) {
			best, least = [2]Span{a, b}, energy
		}
	}
	for i := len(p.Curve.OPPs) - 1; i >= 0; i-- {
		time := work * p.tau(i)
		if time > window*(1+tiny) {
			continue
		}
		gap := max(0, window-time)
		for _, way := range ways {
			if way.Fits(gap) {
				try(p.power(i).Over(time)+way.Cost(gap), Span{i, time}, Span{})
			}
		}
	}
	for i := range p.Curve.OPPs {
		for j := range i {
			taui, tauj := p.tau(i), p.tau(j)
			if taui == tauj {
				continue // all that a mix of them can do, one alone does
			}
			for _, way := range ways {
				left := window - way.Least()
				ti := taui * (work*tauj - left) / (tauj - taui)
				tj := left - ti
				if ti < 0 || tj < 0 {
					continue
				}
				try(p.power(i).Over(ti)+p.power(j).Over(tj)+way.Cost(way.Least()), Span{j, tj}, Span{i, ti})
			}
		}
	}
	used := best[0].Time + best[1].Time
	return slices.DeleteFunc(best[:], func(s Span) bool { return s.Time <= used*tiny }), least
}
