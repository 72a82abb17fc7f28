package energy

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// two is a core of two OPPs: 1 GHz at 1 W and 2 GHz at 4 W, static power 0.5 W in
// both, idling clock-gated or in a state of 0.1 W.
func two() Platform {
	return Platform{
		Curve: cpufreq.Curve{OPPs: []cpufreq.OPP{
			{Frequency: 1 * units.GHz, Speed: 0.5, Dynamic: 1e6, Static: 0.5e6},
			{Frequency: 2 * units.GHz, Speed: 1, Dynamic: 4e6, Static: 0.5e6},
		}},
		Idle:     []cstates.Model{{Name: "C6", Power: 0.1e6, Entry: 0.001, Exit: 0.001, Residency: 0.004, Transition: 400}},
		Workload: Workload{Work: []units.Seconds{0.030}, Window: 0.100, CPUBound: 1, Stall: 1, CanSleep: true},
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want)) }

func TestChooseByHand(t *testing.T) {
	c := two().Choose()
	// 1 GHz: 60 ms at 1.5 W = 90 000 uJ; gap 40 ms: 38 ms at 0.1 W + 400 = 4 200.
	// 2 GHz: 30 ms at 4.5 W = 135 000; gap 70 ms: 68 ms at 0.1 W + 400 = 7 200.
	if !near(float64(c.Points[0].Energy), 94200) || !near(float64(c.Points[1].Energy), 142200) {
		t.Errorf("energies %v, %v", float64(c.Points[0].Energy), float64(c.Points[1].Energy))
	}
	// (1.5-0.1) x 2 = 2.8 < (4.5-0.1) x 1.
	if c.Critical != 0 || c.Best != 0 || c.Rule != RowCritical || c.Overheads || c.Points[0].Idle != "C6" {
		t.Errorf("%+v", c)
	}

	// A window of 40 ms: 1 GHz is too slow alone. The mix spends t at 2 GHz:
	// with no gap t + (40 - t)/2 = 30, t = 20 ms: 20 x 4.5 + 20 x 1.5 = 120 000 uJ.
	p := two()
	p.Workload.Window = 0.040
	c = p.Choose()
	if c.Points[0].Feasible || c.Best != 1 || len(c.Mix) != 2 || !near(float64(c.MixEnergy), 120000) || !near(float64(c.Mix[1].Time), 0.020) {
		t.Errorf("best %d, mix %v costs %v", c.Best, c.Mix, float64(c.MixEnergy))
	}

	// Nothing is feasible.
	p.Workload.Window = 0.029
	c = p.Choose()
	if c.Best != -1 || c.Mix != nil || c.RulePoint != -1 || c.Critical != 0 {
		t.Errorf("%+v", c)
	}

	// No sleep, the clock gated: the slowest that keeps up. 90 000 + 40 ms x 0.5 W.
	p = two()
	p.Workload.CanSleep = false
	c = p.Choose()
	if c.Rule != RowSlowest || c.RulePoint != 0 || !near(float64(c.Points[0].Energy), 110000) || c.Points[0].Idle != cstates.Awake {
		t.Errorf("%+v", c)
	}
	// Spinning: the whole window at its own power, 150 000 and 450 000.
	p.Awake = AwakeSpin
	c = p.Choose()
	if !near(float64(c.Points[0].Energy), 150000) || !near(float64(c.Points[1].Energy), 450000) {
		t.Errorf("spin: %v, %v", float64(c.Points[0].Energy), float64(c.Points[1].Energy))
	}

	// Half the work waits for memory, a quarter of the power stays meanwhile:
	// tau = 0.5/0.5 + 0.5 = 1.5; P = 1 x (1 + 0.25 x 0.5)/1.5 + 0.5 = 1.25 W.
	p = two()
	p.Workload.CPUBound, p.Workload.Stall = 0.5, 0.25
	c = p.Choose()
	if !near(float64(c.Points[0].Power), 1.25e6) || !near(float64(c.Points[0].Time), 0.045) {
		t.Errorf("%v in %v", c.Points[0].Power, c.Points[0].Time)
	}

	// A gap shorter than the residency is spent awake; one equal to it may sleep.
	p = two()
	p.Workload.Work = []units.Seconds{0.048}
	if c = p.Choose(); c.Points[0].Idle != "C6" {
		t.Errorf("a gap of 4 ms is spent in %s", c.Points[0].Idle)
	}
	p.Workload.Work = []units.Seconds{0.0481}
	if c = p.Choose(); c.Points[0].Idle != cstates.Awake {
		t.Errorf("a gap of 3.8 ms is spent in %s", c.Points[0].Idle)
	}
}

// P = b s^3 + P0 has its critical speed at (P0/(2b))^(1/3) (energy.md 1.1).
func TestCriticalClosedForm(t *testing.T) {
	const n = 10000
	for _, p0 := range []float64{1e3, 1e5, 1e6, 3.9e6} {
		var p Platform
		for i := 1; i <= n; i++ {
			s := float64(i) / n
			p.Curve.OPPs = append(p.Curve.OPPs, cpufreq.OPP{Frequency: units.Frequency(i), Speed: s, Dynamic: units.Power(2e6 * s * s * s), Static: units.Power(p0)})
		}
		want := math.Cbrt(p0 / 4e6)
		if got := p.Curve.OPPs[p.Curve.Critical(0, 1, 1)].Speed; math.Abs(got-want) > 1.0/n {
			t.Errorf("P0 %g: critical speed %g, want %g", p0, got, want)
		}
		// Memory-bound work: the root of energy.md's derivative, by bisection.
		alpha := 0.6
		lo, hi := 1e-6, 1.0
		d := func(s float64) float64 {
			return -alpha*p0/(s*s) + 2e6*alpha*2*s + 2e6*3*s*s*(1-alpha)
		}
		for range 100 {
			if mid := (lo + hi) / 2; d(mid) < 0 {
				lo = mid
			} else {
				hi = mid
			}
		}
		if got := p.Curve.OPPs[p.Curve.Critical(0, alpha, 1)].Speed; math.Abs(got-lo) > 2.0/n {
			t.Errorf("P0 %g, alpha %g: critical speed %g, want %g", p0, alpha, got, lo)
		}
	}
}

func randomPlatform(rng *rand.Rand) Platform {
	var p Platform
	n := 1 + rng.IntN(8)
	for i := range n {
		s := float64(i+1) / float64(n)
		p.Curve.OPPs = append(p.Curve.OPPs, cpufreq.OPP{Frequency: units.Frequency(1e6 * s), Speed: s,
			Dynamic: units.Power(rng.Float64() * 3e6 * s * s), Static: units.Power(rng.Float64() * 1e6), Measured: rng.IntN(3) == 0})
	}
	for i := range rng.IntN(3) {
		p.Idle = append(p.Idle, cstates.Model{Name: string(rune('A' + i)), Power: units.Power(rng.Float64() * 3e5),
			Entry: units.Seconds(rng.Float64() * 0.005), Exit: units.Seconds(rng.Float64() * 0.005), Residency: units.Seconds(rng.Float64() * 0.03), Transition: units.Cost(rng.Float64() * 3000)})
	}
	p.Awake = AwakeKind(rng.IntN(3))
	p.AwakePower = units.Power(rng.Float64() * 1e6)
	p.Workload = Workload{Work: []units.Seconds{units.Seconds(0.001 + 0.1*rng.Float64())}, Window: 0.1, CPUBound: rng.Float64(), Stall: rng.Float64(), CanSleep: rng.IntN(4) > 0}
	return p
}

// The mix is never dearer than the best OPP, does the work in the window, and is
// no cheaper than a dense search over pairs of OPPs and lengths of the gap.
func TestMix(t *testing.T) {
	for seed := range uint64(2000) {
		p := randomPlatform(rand.New(rand.NewPCG(seed, 5)))
		c := p.Choose()
		if c.Best < 0 {
			continue
		}
		if float64(c.MixEnergy) > float64(c.Points[c.Best].Energy)*(1+1e-9) {
			t.Fatalf("seed %d: mix %v, best %v", seed, c.MixEnergy, c.Points[c.Best].Energy)
		}
		var work, time units.Seconds
		for _, s := range c.Mix {
			work += s.Time / p.tau(s.OPP)
			time += s.Time
		}
		if !near(float64(work), float64(p.Workload.Work[0])) || time > p.Workload.Window*(1+1e-9) {
			t.Fatalf("seed %d: %v does %v of %v in %v", seed, c.Mix, work, p.Workload.Work[0], time)
		}
		for i := range p.Curve.OPPs {
			for j := range p.Curve.OPPs {
				for share := 0.0; share <= 1; share += 0.05 {
					w := p.Workload.Work[0]
					ti, tj := w*units.Seconds(share)*p.tau(i), w*units.Seconds(1-share)*p.tau(j)
					gap := p.Workload.Window - ti - tj
					if gap < 0 {
						continue
					}
					_, idle := cstates.Cheapest(p.states(), gap, p.cheapestAwake())
					if e := p.power(i).Over(ti) + p.power(j).Over(tj) + idle; float64(e) < float64(c.MixEnergy)*(1-1e-9) {
						t.Fatalf("seed %d: %d and %d at share %g cost %v, the mix %v", seed, i, j, share, e, c.MixEnergy)
					}
				}
			}
		}
	}
}

// The cluster's mix equals the dual of the linear program over segment x OPP:
//
//	max over y >= 0 of  sum_k min_i (c_ki - idle + y) tau_i w_k  + (idle - y) window
func TestClusterMix(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 6))
		p := randomPlatform(rng)
		p.Cluster = &Cluster{Cores: 4, Power: units.Power(rng.Float64() * 2e6), Sleep: units.Power(rng.Float64() * 1e5)}
		p.Workload.Work = nil
		for range 1 + rng.IntN(4) {
			p.Workload.Work = append(p.Workload.Work, units.Seconds(0.001+0.09*rng.Float64()))
		}
		c := p.Choose()
		if c.Best < 0 {
			continue
		}
		idle := float64(p.clusterIdle())
		dual := func(y float64) float64 {
			sum := (idle - y) * float64(p.Workload.Window)
			for _, s := range p.segments() {
				least := math.Inf(1)
				for i := range p.Curve.OPPs {
					least = math.Min(least, (float64(p.clusterPower(i, s.busy))-idle+y)*float64(p.tau(i)*s.work))
				}
				sum += least
			}
			return sum
		}
		lo, hi := 0.0, 1e9 // the dual is concave in y
		for range 300 {
			a, b := lo+(hi-lo)/3, hi-(hi-lo)/3
			if dual(a) < dual(b) {
				lo = a
			} else {
				hi = b
			}
		}
		want := math.Max(dual(0), dual((lo+hi)/2))
		if math.Abs(float64(c.MixEnergy)-want) > 1e-6*want {
			t.Fatalf("seed %d: mix %v, its dual %v", seed, float64(c.MixEnergy), want)
		}
		if float64(c.MixEnergy) > float64(c.Points[c.Best].Energy)*(1+1e-9) {
			t.Fatalf("seed %d: mix %v, best %v", seed, c.MixEnergy, c.Points[c.Best].Energy)
		}
	}
}
