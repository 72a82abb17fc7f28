package placement

import (
	"math"
	"strings"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

// waiting is containers of some demand that wait for memory for shares of it.
func waiting(m Machine, class string, demand float64, shares ...float64) []Container {
	demands := make([]float64, len(shares))
	for i := range shares {
		demands[i] = demand
	}
	out := contain(m, class, demands...)
	for i := range out {
		out[i].MemoryBound = shares[i]
	}
	return out
}

// The clock is the critical one of the mix that runs, and the plan's power what the formula
// makes of each container: demand x tau x (power above sleep).
func TestMemoryBoundIsPriced(t *testing.T) {
	curve := cubic(20, 2*units.Watt, 0.874*units.Watt)
	m := clusters(1, 4, curve, 0)
	sleep := m.Domains[0].Sleep
	last := len(curve.OPPs)
	for _, shares := range [][]float64{{0, 0}, {0, 0.6}, {0.2, 0.9}, {0.6, 0.6}, {1, 1}} {
		plan := Decide(Input{Policy: energyClass(), Machine: m, Containers: waiting(m, "batch", 0.15, shares...)})
		mean := (shares[0] + shares[1]) / 2
		want := curve.Critical(sleep, 1-mean, 1)
		b := plan.Bands[0]
		if f := curve.OPPs[want].Frequency; b.Ceiling != f || b.Floor != f || b.CriticalKHz != uint64(f) {
			t.Errorf("%v: band %v to %v, critical %d, want %v: %s", shares, b.Floor, b.Ceiling, b.CriticalKHz, f, b.Reason)
		}
		if said := strings.Contains(b.Reason, "wait for memory"); said != (mean > 0) {
			t.Errorf("%v: %s", shares, b.Reason)
		}
		if want > last {
			t.Errorf("%v: the critical clock rises to OPP %d", shares, want)
		}
		last = want
		power := 4 * sleep
		for _, share := range shares {
			power += units.Power(0.15*curve.Tau(want, 1-share)) * (curve.Power(want, 1-share, 1) - sleep)
		}
		if math.Abs(float64(plan.Power/power)-1) > 1e-9 {
			t.Errorf("%v: power %v, want %v", shares, plan.Power, power)
		}
	}
}

// A class' bound holds for that of its containers which a slow clock slows down most, and
// what carries a load is reckoned with the time that it takes.
func TestMemoryBoundBounds(t *testing.T) {
	slow := 0.25
	p := energyClass()
	p.Classes[0].MaxSlowdown = &slow
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	for _, tt := range []struct {
		shares []float64
		want   uint64
	}{
		{[]float64{0, 0}, 1_600_000},
		{[]float64{0.75, 0}, 1_600_000},
		{[]float64{0.75, 0.75}, 1_000_000}, // 0.25/0.5 + 0.75 = 1.25
	} {
		if b := Decide(Input{Policy: p, Machine: m, Containers: waiting(m, "batch", 0.1, tt.shares...)}).Bands[0]; b.CeilingKHz != tt.want {
			t.Errorf("%v: ceiling %d, want %d: %s", tt.shares, b.CeilingKHz, tt.want, b.Reason)
		}
	}
	// 0.6 of one core at 80 % headroom: 0.75 of the work's own speed, s = 0.5/(1/0.75 - 0.5).
	m = clusters(1, 1, cubic(10, 2*units.Watt, 0.874*units.Watt), 0)
	m.Domains[0].CanSleep = false
	if b := Decide(Input{Policy: energyClass(), Machine: m, Containers: waiting(m, "batch", 0.6, 0.5)}).Bands[0]; b.CeilingKHz != 1_200_000 {
		t.Errorf("ceiling %d: %s", b.CeilingKHz, b.Reason)
	}
}

// A limit in fastest cores is more cpu time at a slow clock only for what a slow clock slows
// down.
func TestMemoryBoundLimits(t *testing.T) {
	limit := 0.2
	p := energyClass()
	p.Classes[0].CPULimit = &limit
	m := clusters(1, 4, cubic(10, 2*units.Watt, 0.1*units.Watt), 0)
	plan := Decide(Input{Policy: p, Machine: m, Containers: waiting(m, "batch", 0.1, 0, 0.5, 1)})
	speed := float64(plan.Bands[0].Ceiling) / 2e6
	for i, share := range []float64{0, 0.5, 1} {
		want := limit * ((1-share)/speed + share)
		if got := float64(*plan.Assignments[i].Limit); math.Abs(got-want) > 1e-9 || speed == 1 {
			t.Errorf("at speed %g a share of %g waits: limit %g, want %g", speed, share, got, want)
		}
	}
}

// schedutil goes by busy time and clock: work at speed s is busy for clocked/s + waiting.
func TestGovernedFixedPoint(t *testing.T) {
	for _, w := range []work{{0.2, 0}, {0.1, 0.2}, {0.3, 0.1}, {0, 0.3}, {0.9, 0.3}} {
		s := governed(w, 1)
		if want := min(1, 1.25*burst*(w.clocked+w.waiting*s)); math.Abs(s-want) > 1e-9 {
			t.Errorf("%+v: speed %g, but then it goes to %g", w, s, want)
		}
	}
}
