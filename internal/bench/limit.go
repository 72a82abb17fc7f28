package bench

import (
	"slices"
	"time"

	"github.com/powerd/powerd/internal/limit"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// settled is how long before the end of a run a job without a deadline must come to be
// counted on.
const settled = time.Second

// Limit returns the least energy, in joules, that any schedule of the case's work costs
// which meets every deadline: with foreknowledge, with work that moves freely between
// cores, and with clocks and idle states that change at once and for nothing. What has no
// deadline is to be done by the end of the run.
func (c Case) Limit() (float64, error) {
	var jobs []limit.Job
	alphas := map[float64]bool{}
	for _, ct := range c.Load.Containers {
		alpha := ct.CPUBound
		if alpha == 0 {
			alpha = 1
		}
		until := c.Span
		if ct.Until > 0 {
			until = min(until, ct.Until)
		}
		for thread := range max(1, ct.Threads) {
			next := ct.Stream(c.Seed, ct.From, thread)
			for {
				j, ok := next()
				at := ct.From + j.At
				if !ok || at >= until {
					break
				}
				due := at + j.Due
				if j.Due == 0 {
					if at+settled > until {
						continue
					}
					due = until
				}
				if due > until || j.Work <= 0 || at < c.Warm {
					continue
				}
				alphas[alpha] = true
				jobs = append(jobs, limit.Job{Release: (at - c.Warm).Seconds(), Deadline: (due - c.Warm).Seconds(), Work: j.Work.Seconds()})
			}
		}
	}
	if len(jobs) == 0 {
		return 0, nil
	}
	var clusters []limit.Cluster
	for _, cl := range c.Machine.Spec.Clusters {
		clusters = append(clusters, priced(cl, alphas))
	}
	hull, err := limit.MachineHull(clusters)
	if err != nil {
		return 0, err
	}
	e, ok, err := limit.Relaxed(jobs, hull, (c.Span - c.Warm).Seconds())
	if err != nil || !ok {
		return 0, err
	}
	return e, nil
}

// priced gives a simulated cluster's operating points for work that scales with the clock
// by each of some shares.
func priced(cl sim.Cluster, alphas map[float64]bool) limit.Cluster {
	watts := func(p units.Power) float64 { return float64(p) / float64(units.Watt) }
	capacity := cl.Capacity
	if capacity == 0 {
		capacity = 1
	}
	idle := cl.Curve.OPPs[0].Static
	for _, s := range cl.Idle {
		idle = min(idle, s.Power)
	}
	out := limit.Cluster{Cores: cl.Cores, OwnClocks: cl.OwnClocks, Idle: watts(idle), Sleep: watts(cl.Asleep) + float64(cl.Cores)*watts(idle)}
	list := make([]float64, 0, len(alphas))
	for a := range alphas {
		list = append(list, a)
	}
	slices.Sort(list)
	for _, a := range list {
		for i := range cl.Curve.OPPs {
			out.Speed = append(out.Speed, capacity/cl.Curve.Tau(i, a))
			out.Power = append(out.Power, watts(cl.Curve.Power(i, a, 1)))
			out.Around = append(out.Around, watts(cl.Shared))
		}
	}
	return out
}
