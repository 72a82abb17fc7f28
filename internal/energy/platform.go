package energy

import (
	"cmp"
	"math"
	"slices"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// AwakeKind is what a core does in a gap in which it does not sleep.
type AwakeKind int

// Kinds of awake idling.
const (
	AwakeGated AwakeKind = iota // the clock is gated: static power is left
	AwakeSpin                   // it polls at the active power of its OPP
	AwakePower                  // a stated power, whatever the OPP
)

// A Platform is a kind of core: what its operating points and idle states cost,
// and a workload to choose for.
type Platform struct {
	Name, Source string
	Curve        cpufreq.Curve
	Voltages     []units.Voltage // by OPP; 0 where not stated
	FixedVoltage bool
	Awake        AwakeKind
	AwakePower   units.Power // for AwakePower
	Idle         []cstates.Model
	Workload     Workload
	Cluster      *Cluster // nil: one core with a clock of its own
}

// A Workload is a job that is released with a window and due at its end.
type Workload struct {
	// Work is time at the fastest OPP: one job, or one for each core of a
	// cluster.
	Work   []units.Seconds
	Window units.Seconds
	// CPUBound is the share of the work that scales with the clock; Stall is
	// the share of dynamic power left while the rest stalls.
	CPUBound, Stall float64
	CanSleep        bool
}

// A Cluster is cores that share a clock and the power around it.
type Cluster struct {
	Cores        int
	Power, Sleep units.Power // while any core is busy; while none is
}

// Rows of the lecture's table.
const (
	RowMaximum  = "maximum"  // fixed voltage and sleep: run at maximum
	RowSlowest  = "slowest"  // no sleep: run at the slowest that keeps up
	RowCritical = "critical" // scaled voltage and sleep: the critical frequency
)

// A Point is one OPP of a Choice.
type Point struct {
	Frequency units.Frequency
	Power     units.Power   // while it works
	Time      units.Seconds // to do the work
	Feasible  bool
	Energy    units.Cost // of the window; only if feasible
	Idle      string     // what the gap is spent in; "none" if there is no gap
	Work      units.Cost // the part of Energy spent working
}

// A Span is a part of the window at one OPP.
type Span struct {
	OPP  int
	Time units.Seconds
}

// A Choice is a platform's answer for its workload. Indexes are of Points; -1 is
// none, because nothing is feasible.
type Choice struct {
	Points     []Point
	Critical   int
	Deepest    units.Power // what was subtracted to find Critical
	Best       int         // the best single OPP for this window
	Mix        []Span      // the best division of the window
	MixEnergy  units.Cost
	Rule       string // the lecture's row
	RulePoint  int    // what following it blindly runs at
	Overheads  bool   // the rule costs more than Best
	RuleEnergy units.Cost
}

// tiny is the relative rounding error that feasibility forgives.
const tiny = 1e-12

// Choose prices every OPP of a platform, with the model of energy.md 1.1-1.4.
func (p Platform) Choose() Choice {
	c := Choice{Best: -1, RulePoint: -1}
	sleeps := p.sleeps()
	c.Deepest = p.deepest()
	for i := range p.Curve.OPPs {
		c.Points = append(c.Points, p.point(i))
		if c.Points[i].Feasible && (c.Best < 0 || c.Points[i].Energy <= c.Points[c.Best].Energy*(1+tiny)) {
			c.Best = i
		}
	}
	c.Critical = p.critical(c.Deepest)
	slowest := slices.IndexFunc(c.Points, func(pt Point) bool { return pt.Feasible })
	switch {
	case p.FixedVoltage && sleeps:
		c.Rule, c.RulePoint = RowMaximum, len(c.Points)-1
	case !sleeps:
		c.Rule, c.RulePoint = RowSlowest, slowest
	default:
		c.Rule, c.RulePoint = RowCritical, max(c.Critical, slowest)
	}
	if slowest < 0 || !c.Points[c.RulePoint].Feasible {
		c.RulePoint = -1
	}
	if c.Best >= 0 {
		c.Mix, c.MixEnergy = p.mix()
	}
	if c.RulePoint >= 0 {
		c.RuleEnergy = c.Points[c.RulePoint].Energy
		c.Overheads = c.RuleEnergy > c.Points[c.Best].Energy*(1+1e-9)
	}
	return c
}

func (p Platform) sleeps() bool { return p.Workload.CanSleep && len(p.Idle) > 0 }

// states returns the idle states that may be used.
func (p Platform) states() []cstates.Model {
	if !p.Workload.CanSleep {
		return nil
	}
	return p.Idle
}

// awake is the power of a gap spent awake at OPP i.
func (p Platform) awake(i int) units.Power {
	switch p.Awake {
	case AwakePower:
		return p.AwakePower
	case AwakeSpin:
		return p.power(i)
	default:
		return p.Curve.OPPs[i].Static
	}
}

// cheapestAwake is the least awake idle power of any OPP, for a gap in which the
// clock may change.
func (p Platform) cheapestAwake() units.Power {
	least := p.awake(0)
	for i := range p.Curve.OPPs {
		least = min(least, p.awake(i))
	}
	return least
}

func (p Platform) deepest() units.Power {
	return cstates.Deepest(p.states(), p.cheapestAwake())
}

func (p Platform) power(i int) units.Power {
	return p.Curve.Power(i, p.Workload.CPUBound, p.Workload.Stall)
}

func (p Platform) tau(i int) units.Seconds {
	return units.Seconds(p.Curve.Tau(i, p.Workload.CPUBound))
}

// busy returns the number of cores that have work.
func (p Platform) busy() int {
	n := 0
	for _, w := range p.Workload.Work {
		if w > 0 {
			n++
		}
	}
	return n
}

// critical is the OPP of least (power - deepest idle power) x time per unit of
// work. In a cluster all cores with work run and carry its power together.
func (p Platform) critical(deepest units.Power) int {
	sleep := deepest
	if cl := p.Cluster; cl != nil {
		sleep -= (cl.Power - p.clusterIdle()) / units.Power(max(1, p.busy()))
	}
	return p.Curve.Critical(sleep, p.Workload.CPUBound, p.Workload.Stall)
}

func (p Platform) point(i int) Point {
	pt := Point{Frequency: p.Curve.OPPs[i].Frequency, Power: p.power(i)}
	pt.Time = slices.Max(p.Workload.Work) * p.tau(i)
	window := p.Workload.Window
	pt.Feasible = pt.Time <= window*(1+tiny)
	if !pt.Feasible {
		return pt
	}
	if p.Cluster != nil {
		p.clusterPoint(i, &pt)
		return pt
	}
	gap := max(0, window-pt.Time)
	pt.Work = pt.Power.Over(pt.Time)
	if gap <= window*tiny {
		pt.Idle, pt.Energy = "none", pt.Work
		return pt
	}
	name, cost := cstates.Cheapest(p.states(), gap, p.awake(i))
	pt.Idle, pt.Energy = name, pt.Work+cost
	return pt
}

// mix returns the best division of the window among OPPs and one gap. For each
// way to spend the gap this is a linear program with two equations (work, time)
// and one bound (the gap fits the state), so an optimum runs at one OPP, or at
// two with the gap at its bound.
//
// See Ishihara and Yasuura, Voltage scheduling problem for dynamically variable
// voltage processors, ISLPED 1998.
func (p Platform) mix() ([]Span, units.Cost) {
	if p.Cluster != nil {
		return p.clusterMix()
	}
	work, window := p.Workload.Work[0], p.Workload.Window
	type way struct {
		least units.Seconds
		cost  func(units.Seconds) units.Cost
	}
	ways := []way{{0, p.cheapestAwake().Over}}
	for _, s := range p.states() {
		ways = append(ways, way{s.Least(), s.Cost})
	}
	var best []Span
	least := units.Cost(math.Inf(1))
	try := func(energy units.Cost, spans ...Span) {
		if energy < least*(1-tiny) || best == nil {
			best, least = spans, energy
		}
	}
	for i := len(p.Curve.OPPs) - 1; i >= 0; i-- {
		time := work * p.tau(i)
		gap := window - time
		if gap < -window*tiny {
			continue
		}
		gap = max(0, gap)
		for _, w := range ways {
			if gap >= w.least*(1-tiny) {
				try(p.power(i).Over(time)+w.cost(gap), Span{i, time})
			}
		}
	}
	for i := range p.Curve.OPPs {
		for j := range i {
			for _, w := range ways {
				// t_i + t_j = left and t_i/tau_i + t_j/tau_j = work.
				left, ri, rj := window-w.least, 1/p.tau(i), 1/p.tau(j)
				if left <= 0 || ri == rj {
					continue
				}
				ti := (work - left*rj) / (ri - rj)
				tj := left - ti
				if ti < 0 || tj < 0 {
					continue
				}
				try(p.power(i).Over(ti)+p.power(j).Over(tj)+w.cost(w.least), Span{j, tj}, Span{i, ti})
			}
		}
	}
	return slices.DeleteFunc(best, func(s Span) bool { return s.Time <= window*tiny }), least
}

// The cluster follows energy.md 1.4: with k of n cores busy at OPP i it costs
// k P_i + (n-k) P_idle + P_cluster, and its sleep power when none is. Core idle
// power is the deepest there is; entering and leaving is not priced.

// coreIdle is an idle core's power while the cluster runs at OPP i.
func (p Platform) coreIdle(i int) units.Power { return cstates.Deepest(p.states(), p.awake(i)) }

// clusterIdle is the power of the whole cluster with no core busy. Where it may
// not sleep it stays awake, its cores at the cheapest OPP.
func (p Platform) clusterIdle() units.Power {
	if p.Workload.CanSleep {
		return p.Cluster.Sleep
	}
	return p.Cluster.Power + units.Power(p.Cluster.Cores)*p.cheapestAwake()
}

func (p Platform) clusterPower(i, busy int) units.Power {
	return units.Power(busy)*p.power(i) + units.Power(p.Cluster.Cores-busy)*p.coreIdle(i) + p.Cluster.Power
}

// A segment is the time from one core's end to the next one's.
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

func (p Platform) clusterPoint(i int, pt *Point) {
	for _, s := range p.segments() {
		pt.Work += p.clusterPower(i, s.busy).Over(s.work * p.tau(i))
	}
	gap := max(0, p.Workload.Window-pt.Time)
	idle := p.clusterIdle()
	pt.Idle = "cluster sleep"
	if !p.Workload.CanSleep {
		// One clock for all: a cluster that stays awake idles at its OPP.
		idle, pt.Idle = p.clusterPower(i, 0), cstates.Awake
	}
	if gap <= p.Workload.Window*tiny {
		pt.Idle = "none"
	}
	pt.Energy = pt.Work + idle.Over(gap)
}

// clusterMix solves the linear program over segment x OPP. Each segment's choices
// are the lower hull of (time, cost); from the cheapest of each, time is saved
// where it costs least until the window holds.
func (p Platform) clusterMix() ([]Span, units.Cost) {
	idle := p.clusterIdle()
	type vertex struct {
		opp  int
		time units.Seconds
		cost units.Cost // above the idle power
	}
	type step struct {
		from, to  vertex
		perSecond float64
		saves     units.Seconds
		extra     units.Cost
	}
	segs := p.segments()
	times := make([]units.Seconds, len(p.Curve.OPPs)) // by OPP
	var total units.Cost
	var used units.Seconds
	var steps []step
	for _, s := range segs {
		var all []vertex
		for i := range p.Curve.OPPs {
			t := s.work * p.tau(i)
			all = append(all, vertex{i, t, (p.clusterPower(i, s.busy) - idle).Over(t)})
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
		if t > p.Workload.Window*1e-9 {
			spans = append(spans, Span{i, t})
		}
	}
	return spans, total + idle.Over(p.Workload.Window)
}
