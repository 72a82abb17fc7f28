package cpufreq

import (
	"math"

	"github.com/powerd/powerd/internal/units"
)

// An OPP is one operating performance point of a frequency domain, priced for
// one core.
type OPP struct {
	Frequency units.Frequency
	// Speed is the work done per second, relative to the fastest OPP of the
	// curve (1.0). It is Frequency/max unless performance was measured.
	Speed float64
	// Dynamic is the switching power of a core that is busy and never stalled.
	// Where Measured is set it is the whole measured power of a busy core, and
	// stalls do not lower it.
	Dynamic units.Power
	// Static is paid while the core is awake at this OPP, busy or not.
	Static units.Power
	// Measured tells that Dynamic was measured and not computed.
	Measured bool
}

// Active returns the power of a busy core at o: Dynamic + Static.
func (o OPP) Active() units.Power { return o.Dynamic + o.Static }

// A Curve is the OPPs of one frequency domain, by ascending frequency.
type Curve struct {
	OPPs []OPP
}

// Tau returns the time that one unit of work (a second at the fastest OPP) takes
// at OPP i, in seconds, when the share cpuBound of it scales with the clock:
// tau = cpuBound/speed + (1 - cpuBound).
func (c Curve) Tau(i int, cpuBound float64) float64 {
	return cpuBound/c.OPPs[i].Speed + (1 - cpuBound)
}

// Power returns the power of a busy core at OPP i. While it stalls on memory,
// the share stall of its dynamic power remains (1: nothing is gated, 0: all);
// measured power already is what it is.
func (c Curve) Power(i int, cpuBound, stall float64) units.Power {
	o := c.OPPs[i]
	if o.Measured || stall == 1 {
		return o.Active()
	}
	busy := cpuBound / o.Speed
	stalled := 1 - cpuBound
	return o.Dynamic*units.Power((busy+stall*stalled)/(busy+stalled)) + o.Static
}

// Critical returns the index of the critical OPP: the one of least energy per
// unit of work when idle time can be slept away at the power sleep,
//
//	argmin (P_i - sleep) tau_i,
//
// ties to the higher clock. Sleep may be negative: power that a working core
// keeps up around itself is -sleep.
func (c Curve) Critical(sleep units.Power, cpuBound, stall float64) int {
	best, least := 0, math.Inf(1)
	for i := range c.OPPs {
		cost := float64(c.Power(i, cpuBound, stall)-sleep) * c.Tau(i, cpuBound)
		if i == 0 || cost <= least+1e-12*math.Abs(least) { // equal but for rounding is a tie
			best, least = i, cost
		}
	}
	return best
}
