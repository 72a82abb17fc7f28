package bench

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/powerd/powerd/internal/limit"
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
	jobs, err := c.jobs()
	if err != nil || len(jobs) == 0 {
		return 0, err
	}
	// Work that waits for memory costs less, and is counted for less: in units of what it
	// costs at the least, all kinds of work have hulls that begin with the same slope, and
	// together lose little. That is so for any units.
	unit := map[float64]float64{}
	for _, j := range jobs {
		if unit[j.cpuBound] == 0 {
			if unit[j.cpuBound], err = c.Machine.least(j.cpuBound); err != nil {
				return 0, err
			}
		}
	}
	var list []limit.Job
	for _, j := range jobs {
		j.Work *= unit[j.cpuBound]
		list = append(list, j.Job)
	}
	hull, err := c.Machine.hull(unit)
	if err != nil {
		return 0, err
	}
	e, ok, err := limit.Relaxed(list, hull, (c.Span - c.Warm).Seconds())
	if err != nil || !ok {
		return 0, err
	}
	return e, nil
}

// A job of the limit.
type job struct {
	limit.Job
	cpuBound float64
}

// jobs returns what every policy has to do, in the time that counts.
func (c Case) jobs() (jobs []job, err error) {
	for _, ct := range c.Load.Containers {
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
				jobs = append(jobs, job{limit.Job{Release: (at - c.Warm).Seconds(), Deadline: (due - c.Warm).Seconds(), Work: j.Work.Seconds()},
					cmp.Or(ct.CPUBound, 1)})
			}
		}
	}
	return jobs, nil
}

// least is the least energy above sleep, in joules, of a unit of work that scales with the
// clock by a share.
func (m Machine) least(cpuBound float64) (float64, error) {
	h, err := m.hull(map[float64]float64{cpuBound: 1})
	if err != nil {
		return 0, err
	}
	const little = 1e-6
	rest, _ := h.At(0)
	some, _ := h.At(little)
	return max(some-rest, 1e-12) / little, nil
}

// hull is the machine's, for work of several kinds, each counted in units of its own.
func (m Machine) hull(unit map[float64]float64) (limit.Hull, error) {
	watts := func(p units.Power) float64 { return float64(p) / float64(units.Watt) }
	var clusters []limit.Cluster
	for _, cl := range m.Spec.Clusters {
		idle := cl.Curve.OPPs[0].Static
		for _, s := range cl.Idle {
			idle = min(idle, s.Power)
		}
		out := limit.Cluster{Cores: cl.Cores, OwnClocks: cl.OwnClocks, Idle: watts(idle), Sleep: watts(cl.Asleep) + float64(cl.Cores)*watts(idle)}
		for _, a := range slices.Sorted(maps.Keys(unit)) {
			for i := range cl.Curve.OPPs {
				out.Speed = append(out.Speed, unit[a]*cmp.Or(cl.Capacity, 1)/cl.Curve.Tau(i, a))
				out.Power = append(out.Power, watts(cl.Curve.Power(i, a, 1)))
				out.Around = append(out.Around, watts(cl.Shared))
			}
		}
		clusters = append(clusters, out)
	}
	return limit.MachineHull(clusters)
}
