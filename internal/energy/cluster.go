package energy

import (
	"cmp"
	"math"
	"slices"

	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// The cores of a cluster start together, run at one clock, and sleep each as its
// job ends; when the last has ended the cluster sleeps. With k of n cores busy at
// OPP i it costs
//
//	k P_i + (n-k) P_coreidle + P_cluster
//
// and with none busy its sleep power, which stands for its cores too. Core idle
// power is the deepest there is; entering and leaving is not priced, so that the
// mix below is exact.

// clusterSleep is what the gap of a cluster that sleeps is spent in.
const clusterSleep = "cluster sleep"

// A segment is the time from one job's end to the next one's: busy cores that
// each do work.
type segment struct {
	busy int
	work units.Seconds
}

func (p Platform) segments() []segment {
	work := slices.Sorted(slices.Values(p.Workload.Work))
	var out []segment
	done := units.Seconds(0)
	for k, w := range work {
		if w > done {
			out = append(out, segment{len(work) - k, w - done})
			done = w
		}
	}
	return out
}

// ClusterPower is what the whole cluster draws with some cores busy at OPP i.
func (p Platform) ClusterPower(i, busy int) units.Power {
	idle := cstates.Deepest(p.states(), p.awake(i))
	return units.Power(busy)*p.power(i) + units.Power(p.Cluster.Cores-busy)*idle + p.Cluster.Power
}

// clusterIdle is what the whole cluster draws with no core busy. Where it may
// not sleep it stays awake, its cores at the cheapest OPP.
func (p Platform) clusterIdle() units.Power {
	if p.Workload.CanSleep {
		return p.Cluster.Sleep
	}
	return p.Cluster.Power + units.Power(p.Cluster.Cores)*p.cheapestAwake()
}

// clusterWork is what the jobs cost at OPP i, from the start to the last one's end.
func (p Platform) clusterWork(i int) units.Cost {
	var sum units.Cost
	for _, s := range p.segments() {
		sum += p.ClusterPower(i, s.busy).Over(s.work * p.tau(i))
	}
	return sum
}

// clusterGap is what the rest of the window is spent in and costs. Awake, the
// cluster stays at its clock.
func (p Platform) clusterGap(i int, gap units.Seconds) (string, units.Cost) {
	if p.Workload.CanSleep {
		return clusterSleep, p.Cluster.Sleep.Over(gap)
	}
	return cstates.Awake, p.ClusterPower(i, 0).Over(gap)
}

// clusterCritical is the OPP at which these jobs cost least above idling, were
// there no window: least (power - idle power) x time, summed over the segments.
func (p Platform) clusterCritical() int {
	best, least := 0, math.Inf(1)
	longest := slices.Max(p.Workload.Work)
	for i := range p.Curve.OPPs {
		cost := float64(p.clusterWork(i) - p.clusterIdle().Over(longest*p.tau(i)))
		if i == 0 || cost <= least+tiny*math.Abs(least) {
			best, least = i, cost
		}
	}
	return best
}

// clusterMix solves the linear program over segment x OPP. Only the window ties
// the segments together, so it is solved without a solver: each segment's choices
// are the lower hull of (time, cost); from the cheapest of each, time is saved
// where it costs least until the window holds.
func (p Platform) clusterMix() ([]Span, units.Cost) {
	idle := p.clusterIdle()
	type vertex struct {
		opp  int
		time units.Seconds
		cost units.Cost // above the idle power
	}
	// A step does a segment at the next faster OPP of its hull.
	type step struct {
		from, to  vertex
		saves     units.Seconds
		extra     units.Cost
		perSecond float64
	}
	times := make([]units.Seconds, len(p.Curve.OPPs)) // by OPP
	var total units.Cost
	var used units.Seconds
	var steps []step
	for _, s := range p.segments() {
		var all []vertex
		for i := range p.Curve.OPPs {
			t := s.work * p.tau(i)
			all = append(all, vertex{i, t, (p.ClusterPower(i, s.busy) - idle).Over(t)})
		}
		// From the fastest to the cheapest, keep the lower hull.
		slices.SortStableFunc(all, func(a, b vertex) int {
			return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.cost, b.cost))
		})
		var hull []vertex
		for _, v := range all {
			if len(hull) > 0 && (v.cost >= hull[len(hull)-1].cost || v.time == hull[len(hull)-1].time) {
				continue
			}
			for len(hull) >= 2 {
				a, b := hull[len(hull)-2], hull[len(hull)-1]
				if float64(b.cost-a.cost)*float64(v.time-a.time) < float64(v.cost-a.cost)*float64(b.time-a.time) {
					break
				}
				hull = hull[:len(hull)-1]
			}
			hull = append(hull, v)
		}
		last := hull[len(hull)-1]
		times[last.opp] += last.time
		total += last.cost
		used += last.time
		for h := len(hull) - 1; h > 0; h-- {
			from, to := hull[h], hull[h-1]
			steps = append(steps, step{from: from, to: to, saves: from.time - to.time, extra: to.cost - from.cost,
				perSecond: float64(to.cost-from.cost) / float64(from.time-to.time)})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		return cmp.Compare(a.perSecond, b.perSecond)
	})
	for _, s := range steps {
		over := used - p.Workload.Window
		if over <= p.Workload.Window*tiny {
			break
		}
		share := min(1, float64(over/s.saves))
		times[s.from.opp] -= s.from.time * units.Seconds(share)
		times[s.to.opp] += s.to.time * units.Seconds(share)
		total += s.extra * units.Cost(share)
		used -= s.saves * units.Seconds(share)
	}
	var spans []Span
	for i, t := range times {
		if t > used*tiny {
			spans = append(spans, Span{i, t})
		}
	}
	return spans, total + idle.Over(p.Workload.Window)
}
