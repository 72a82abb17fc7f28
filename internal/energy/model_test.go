package energy

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/units"
)

func ladder() cpufreq.Curve {
	var c cpufreq.Curve
	for f := 1.0; f <= 5; f++ {
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: units.Frequency(f * 400e3), Speed: f / 5, Dynamic: units.Power(f * f * f / 125 * 2e6)})
	}
	return c
}

// The model recovers a base, an offset and a scale that the source's curve does
// not tell, from noisy samples at a few OPPs.
func TestModelLearns(t *testing.T) {
	source := ladder()
	const base, offset, scale = 3e6, 0.6e6, 1.4
	rng := rand.New(rand.NewPCG(3, 4))
	m := NewModel(1*units.Watt, source.OPPs[4].Active())
	for range 150 {
		i := 1 + rng.IntN(3)
		busy := rng.Float64() * 4
		p := float64(source.OPPs[i].Active())
		e := (base + busy*(offset+scale*p)) * (1 + 0.01*rng.NormFloat64())
		m = m.Learn(Sample{Seconds: 1, Energy: units.Energy(e), Busy: units.Seconds(busy), Cost: units.Cost(busy * p)})
	}
	if !m.Trusted() || m.Error() > 0.05 {
		t.Fatalf("not trusted after %d samples, error %g", m.Samples(), m.Error())
	}
	if got := float64(m.Base()); math.Abs(got-base) > 0.1*base {
		t.Errorf("base is %g, want %g", got, base)
	}
	got := m.Curve(source)
	for i, o := range got.OPPs {
		want := offset + scale*float64(source.OPPs[i].Active())
		if math.Abs(float64(o.Active())-want) > 0.1*want {
			t.Errorf("OPP %d costs %v, want %v", i, o.Active(), units.Power(want))
		}
	}
}

func TestModelStaysFinite(t *testing.T) {
	m := NewModel(1*units.Watt, 2*units.Watt)
	for i := range 20000 {
		m = m.Learn(Sample{Seconds: 1, Energy: 1e6, Busy: units.Seconds(i % 2), Cost: 0})
	}
	for i := range 3 {
		if math.IsNaN(m.theta[i]) || math.Abs(m.theta[i]) > 100 || m.cov[i][i] < 0 || m.cov[i][i] > 101 {
			t.Fatalf("theta %v, cov %v", m.theta, m.cov)
		}
	}
	if got := NewModel(1, 1).Learn(Sample{}).Samples(); got != 0 {
		t.Error("an interval of no length was learned from")
	}
	if c := NewModel(0, 1).Curve(ladder()); c.OPPs[0] != ladder().OPPs[0] {
		t.Error("a model without samples changes the curve")
	}
}
