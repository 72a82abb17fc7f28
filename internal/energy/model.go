package energy

import (
	"math"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/units"
)

// A Model corrects a machine's curves by what its meter reads.
//
// The curve's source (firmware, platform file) gives the shape of the power of a
// busy core; what it lacks is the machine's own base power, the power that any
// busy core adds around itself, and the scale. So an interval is fitted as
//
//	E = base t + offset B + scale sum_i B_i P_i
//
// with B_i the busy core-seconds at OPP i, P_i the source's power and B their
// sum, by recursive least squares with exponential forgetting (Ljung, System
// Identification, 11.2). A Model is a value: Learn returns a new one.
type Model struct {
	theta   [3]float64 // base and offset in units of unit, scale
	cov     [3][3]float64
	unit    float64 // microwatts: brings the three parameters to one size
	samples int
	noise   float64 // mean squared relative residual
}

// forget is the weight of the past after one sample: the last 200 count.
const forget = 0.995

// NewModel starts from what is assumed before the meter speaks: the machine's
// base power and a core's typical busy power.
func NewModel(base, core units.Power) Model {
	unit := math.Max(float64(core), 1)
	m := Model{unit: unit, theta: [3]float64{float64(base) / unit, 0, 1}}
	// A priori the base is quite unknown, the offset may be of the size of a
	// core's power, and the scale is right within a factor or so.
	m.cov = [3][3]float64{{100, 0, 0}, {0, 0.25, 0}, {0, 0, 0.25}}
	return m
}

// A Sample is one interval of a machine with a meter.
type Sample struct {
	Seconds units.Seconds
	Energy  units.Energy  // as metered
	Busy    units.Seconds // core-seconds of work
	Cost    units.Cost    // that work at the source's power
}

// Learn returns the model with one more sample.
func (m Model) Learn(s Sample) Model {
	if s.Seconds <= 0 || s.Energy < 0 || m.unit == 0 {
		return m
	}
	// In watts over unit, so that long and short intervals weigh the same.
	x := [3]float64{1, float64(s.Busy / s.Seconds), float64(s.Cost) / float64(s.Seconds) / m.unit}
	y := float64(s.Energy) / float64(s.Seconds) / m.unit
	var px [3]float64
	denom := forget
	for i := range 3 {
		for j := range 3 {
			px[i] += m.cov[i][j] * x[j]
		}
	}
	for i := range 3 {
		denom += x[i] * px[i]
	}
	miss := y
	for i := range 3 {
		miss -= m.theta[i] * x[i]
	}
	next := m
	for i := range 3 {
		next.theta[i] += px[i] / denom * miss
		for j := range 3 {
			next.cov[i][j] = (m.cov[i][j] - px[i]*px[j]/denom) / forget
		}
	}
	// Without excitation forgetting would let the covariance grow for ever.
	for i := range 3 {
		if limit := [3]float64{100, 0.25, 0.25}[i]; next.cov[i][i] > limit {
			shrink := math.Sqrt(limit / next.cov[i][i])
			for j := range 3 {
				next.cov[i][j] *= shrink
				next.cov[j][i] *= shrink
			}
		}
	}
	rel := miss / math.Max(math.Abs(y), 1e-9)
	next.noise = 0.95*m.noise + 0.05*rel*rel
	next.samples++
	return next
}

// Samples is how many intervals the model has seen.
func (m Model) Samples() int { return m.samples }

// Error is the model's recent relative error, root mean square.
func (m Model) Error() float64 { return math.Sqrt(m.noise) }

// Base is the machine's power with every core idle.
func (m Model) Base() units.Power { return units.Power(math.Max(0, m.theta[0]) * m.unit) }

// Near reports whether m and o price every amount of work alike, within a share
// of each parameter.
func (m Model) Near(o Model, within float64) bool {
	if m.Trusted() != o.Trusted() || m.unit != o.unit {
		return false
	}
	for i := range 3 {
		if math.Abs(m.theta[i]-o.theta[i]) > within*math.Max(0.1, math.Abs(o.theta[i])) {
			return false
		}
	}
	return true
}

// Trusted reports whether there is enough to go by.
func (m Model) Trusted() bool { return m.samples >= 10 && m.Error() < 0.25 }

// Curve returns a source's curve with the corrections learned. The offset is
// power that a core pays while awake, so it is static.
func (m Model) Curve(source cpufreq.Curve) cpufreq.Curve {
	if !m.Trusted() {
		return source
	}
	scale := math.Min(math.Max(m.theta[2], 0.1), 10)
	offset := units.Power(math.Max(0, m.theta[1]) * m.unit)
	out := cpufreq.Curve{OPPs: make([]cpufreq.OPP, len(source.OPPs))}
	for i, o := range source.OPPs {
		o.Dynamic *= units.Power(scale)
		o.Static = o.Static*units.Power(scale) + offset
		out.OPPs[i] = o
	}
	return out
}
