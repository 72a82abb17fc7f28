package energy

import (
	"slices"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// AwakeKind is what a core does in a gap in which it does not sleep.
type AwakeKind int

// Kinds of awake idling.
const (
	AwakeGated AwakeKind = iota // the clock is gated: static power is left
	AwakeSpin                   // it polls, at the power it works at
	AwakePower                  // a stated power, whatever the OPP
)

// A Platform is a kind of core: what its operating points and idle states cost,
// and a workload to choose for.
type Platform struct {
	Name, Source string
	Curve        cpufreq.Curve // at least one OPP
	FixedVoltage bool
	Awake        AwakeKind
	AwakePower   units.Power // for AwakePower
	Idle         []cstates.Model
	Workload     Workload
	Cluster      *Cluster // nil: one core with a clock of its own
	MeasuredOn   *Machine // nil: of any machine's
}

// A Machine is whose cores a platform was measured on: a processor's name, which may be
// unknown and empty, and the cpus.
type Machine struct {
	Model string
	CPUs  cpuset.Set
}

// A Workload is a job that is released with a window and due at its end.
type Workload struct {
	// Work is time at the fastest OPP: one job, or up to one for each core of
	// a cluster.
	Work   []units.Seconds
	Window units.Seconds
	// CPUBound is the share of the work that scales with the clock; Stall is
	// the share of dynamic power left while the rest stalls.
	CPUBound, Stall float64
	// CanSleep tells that gaps may be spent in idle states.
	CanSleep bool
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
	RowCritical = "critical" // voltage scales, and sleep: the critical frequency, or the slowest that keeps up if that is higher
)

// A Point is one OPP of a Choice.
type Point struct {
	Frequency units.Frequency
	Power     units.Power   // of a core while it works
	Time      units.Seconds // to do the work; in a cluster the longest job
	Feasible  bool          // the work is done in the window
	Energy    units.Cost    // of the window; only if feasible
	Idle      string        // what the gap is spent in; "none" if there is no gap
	Work      units.Cost    // the part of Energy spent working
}

// A Span is a part of the window at one OPP.
type Span struct {
	OPP  int
	Time units.Seconds
}

// A Choice is a platform's answer for its workload. OPPs are given by index;
// -1 is none, because none does the work in the window. Ties go to the higher
// clock.
type Choice struct {
	Points []Point
	// Critical costs least per unit of work when idle time costs Deepest and
	// entering it nothing, whatever the window.
	Critical int
	Deepest  units.Power
	// Best is the best single OPP for this window.
	Best int
	// Mix is the best division of the window when the clock may change in it,
	// and MixEnergy what it costs. It is never worse than Best.
	Mix       []Span
	MixEnergy units.Cost
	// Rule is the lecture's row, RuleOPP what following it blindly runs at and
	// RuleEnergy what that costs; RuleCostsMore tells that Best is cheaper.
	Rule          string
	RuleOPP       int
	RuleEnergy    units.Cost
	RuleCostsMore bool
}

// tiny is the relative rounding error that comparisons forgive.
const tiny = 1e-12

// Choose prices every OPP of a platform for its workload.
//
// At OPP i the job takes work x tau_i at the power P_i (cpufreq.Curve), and one
// gap follows it to the end of the window, spent in the cheapest state that fits
// or awake. All OPPs are tried: on real tables the energy is not unimodal in the
// clock, so no rule finds the best one always.
func (p Platform) Choose() Choice {
	c := Choice{Best: -1, RuleOPP: -1, Critical: p.critical(), Deepest: p.deepest()}
	slowest := -1
	for i := range p.Curve.OPPs {
		pt := p.point(i)
		c.Points = append(c.Points, pt)
		if !pt.Feasible {
			continue
		}
		if slowest < 0 {
			slowest = i
		}
		if c.Best < 0 || pt.Energy <= c.Points[c.Best].Energy*(1+tiny) {
			c.Best = i
		}
	}
	rule := 0
	switch sleeps := p.sleeps(); {
	case sleeps && p.FixedVoltage:
		c.Rule, rule = RowMaximum, len(c.Points)-1
	case sleeps:
		c.Rule, rule = RowCritical, max(c.Critical, slowest)
	default:
		c.Rule, rule = RowSlowest, slowest
	}
	if c.Best < 0 {
		return c
	}
	c.Mix, c.MixEnergy = p.mix()
	c.RuleOPP, c.RuleEnergy = rule, c.Points[rule].Energy
	c.RuleCostsMore = c.RuleEnergy > c.Points[c.Best].Energy*(1+1e-9)
	return c
}

// sleeps reports whether there is any state to sleep in.
func (p Platform) sleeps() bool {
	return p.Workload.CanSleep && (len(p.Idle) > 0 || p.Cluster != nil)
}

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

// deepest is the least power that idle time can cost.
func (p Platform) deepest() units.Power {
	if p.Cluster != nil {
		return p.clusterIdle()
	}
	return cstates.Deepest(p.states(), p.cheapestAwake())
}

func (p Platform) critical() int {
	if p.Cluster != nil {
		return p.clusterCritical()
	}
	return p.Curve.Critical(p.deepest(), p.Workload.CPUBound, p.Workload.Stall)
}

func (p Platform) power(i int) units.Power {
	return p.Curve.Power(i, p.Workload.CPUBound, p.Workload.Stall)
}

func (p Platform) tau(i int) units.Seconds {
	return units.Seconds(p.Curve.Tau(i, p.Workload.CPUBound))
}

func (p Platform) point(i int) Point {
	window := p.Workload.Window
	pt := Point{Frequency: p.Curve.OPPs[i].Frequency, Power: p.power(i)}
	pt.Time = slices.Max(p.Workload.Work) * p.tau(i)
	pt.Feasible = pt.Time <= window*(1+tiny)
	if !pt.Feasible {
		return pt
	}
	gap := max(0, window-pt.Time)
	var idle units.Cost
	if p.Cluster != nil {
		pt.Work = p.clusterWork(i)
		pt.Idle, idle = p.clusterGap(i, gap)
	} else {
		pt.Work = pt.Power.Over(pt.Time)
		pt.Idle, idle = cstates.Cheapest(p.states(), gap, p.awake(i))
	}
	if gap <= window*tiny {
		pt.Idle, idle = "none", 0
	}
	pt.Energy = pt.Work + idle
	return pt
}
