package cpufreq

import "github.com/powerd/powerd/internal/units"

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
