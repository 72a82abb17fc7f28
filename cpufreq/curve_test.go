package cpufreq

import (
	"math"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want)) }

// 1 GHz at 1 W and 2 GHz at 4 W of switching, 0.5 W static in both.
var two = Curve{OPPs: []OPP{
	{Frequency: 1 * units.GHz, Speed: 0.5, Dynamic: 1 * units.Watt, Static: 500 * units.Milliwatt},
	{Frequency: 2 * units.GHz, Speed: 1, Dynamic: 4 * units.Watt, Static: 500 * units.Milliwatt},
}}

func TestTauAndPower(t *testing.T) {
	for _, tt := range []struct {
		cpuBound, stall, tau, power float64
	}{
		{1, 1, 2, 1.5e6},
		{1, 0, 2, 1.5e6}, // it never stalls
		// Half the work waits: tau = 0.5/0.5 + 0.5 = 1.5, two thirds of it busy.
		{0.5, 1, 1.5, 1.5e6},
		{0.5, 0.25, 1.5, 1e6*(1+0.25*0.5)/1.5 + 0.5e6}, // 1.25 W
		{0.5, 0, 1.5, 1e6/1.5 + 0.5e6},
		{0, 0, 1, 0.5e6}, // it only waits, and is gated
	} {
		if tau := two.Tau(0, tt.cpuBound); !near(tau, tt.tau) {
			t.Errorf("cpu bound %g: tau %g, want %g", tt.cpuBound, tau, tt.tau)
		}
		if p := float64(two.Power(0, tt.cpuBound, tt.stall)); !near(p, tt.power) {
			t.Errorf("cpu bound %g, stall %g: %g uW, want %g", tt.cpuBound, tt.stall, p, tt.power)
		}
	}
	measured := Curve{OPPs: []OPP{{Speed: 0.5, Dynamic: 2 * units.Watt, Static: 300 * units.Milliwatt, Measured: true}}}
	if p := measured.Power(0, 0.5, 0); p != 2300*units.Milliwatt {
		t.Errorf("measured power is %v, want as given and static", p)
	}
}

func TestCritical(t *testing.T) {
	// (1.5 - 0.1) x 2 = 2.8 < 4.4; but what a working core keeps up around
	// itself, 2 W: (1.5 + 2) x 2 = 7 > 6.5.
	if got := two.Critical(100*units.Milliwatt, 1, 1); got != 0 {
		t.Errorf("critical OPP %d, want the slow one", got)
	}
	if got := two.Critical(-2*units.Watt, 1, 1); got != 1 {
		t.Errorf("critical OPP %d with 2 W around, want the fast one", got)
	}
	// (1.5 + x) 2 = 4.5 + x at x = 1.5: a tie, which goes to the higher clock.
	if got := two.Critical(-1500*units.Milliwatt, 1, 1); got != 1 {
		t.Errorf("a tie went to OPP %d, want the higher clock", got)
	}
	if n := testing.AllocsPerRun(10, func() { two.Critical(0, 0.5, 0.5) }); n != 0 {
		t.Errorf("Critical allocates %g times", n)
	}
}

// ladder has speeds 1/n, 2/n ... 1 and the power p0 + b s^a.
func ladder(n int, p0, b, a float64) Curve {
	var c Curve
	for i := 1; i <= n; i++ {
		s := float64(i) / float64(n)
		c.OPPs = append(c.OPPs, OPP{Frequency: units.Frequency(i), Speed: s, Dynamic: units.Power(b * math.Pow(s, a)), Static: units.Power(p0)})
	}
	return c
}

// The critical speed of P = p0 + b s^a is (p0/(b(a-1)))^(1/a), and that of work
// of which the share cpuBound scales is the root of
//
//	d/ds (p0 + b s^a)(cpuBound/s + 1 - cpuBound)
//	= -cpuBound p0/s^2 + b cpuBound (a-1) s^(a-2) + b a s^(a-1) (1-cpuBound),
//
// which falls as work waits more.
func TestCriticalClosedForm(t *testing.T) {
	const n, b = 10000, 2e6
	for _, p0 := range []float64{1e3, 1e5, 1e6, 1.9e6} {
		for _, a := range []float64{2, 2.5, 3} {
			c := ladder(n, p0, b, a)
			want := math.Min(1, math.Pow(p0/(b*(a-1)), 1/a))
			got := c.OPPs[c.Critical(0, 1, 1)].Speed
			if math.Abs(got-want) > 1.01/n {
				t.Errorf("p0 %g, a %g: critical speed %g, want %g", p0, a, got, want)
			}
			last := got
			for _, cpuBound := range []float64{0.8, 0.5, 0.2} {
				lo, hi := 1e-6, 1.0
				for range 100 {
					s := (lo + hi) / 2
					if -cpuBound*p0/(s*s)+b*cpuBound*(a-1)*math.Pow(s, a-2)+b*a*math.Pow(s, a-1)*(1-cpuBound) < 0 {
						lo = s
					} else {
						hi = s
					}
				}
				got := c.OPPs[c.Critical(0, cpuBound, 1)].Speed
				if math.Abs(got-lo) > 1.01/n || got > last {
					t.Errorf("p0 %g, a %g, cpu bound %g: critical speed %g, want %g, and no more than %g", p0, a, cpuBound, got, lo, last)
				}
				last = got
			}
		}
	}
}

func BenchmarkCritical(b *testing.B) {
	c := ladder(32, 1e6, 2e6, 3)
	for b.Loop() {
		c.Critical(100*units.Milliwatt, 0.7, 0.5)
	}
}
