package energy

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/optimize/convex/lp"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

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

// minimum solves a linear program, least c x with A x = b and x >= 0, by the
// simplex method; it is infinite where nothing fulfils it.
func minimum(t *testing.T, c []float64, a [][]float64, b []float64) float64 {
	t.Helper()
	m := mat.NewDense(len(a), len(c), nil)
	for r, row := range a {
		m.SetRow(r, row)
	}
	v, _, err := lp.Simplex(c, m, b, 1e-12, nil)
	if errors.Is(err, lp.ErrInfeasible) {
		return math.Inf(1)
	}
	if err != nil {
		t.Fatalf("simplex: %v", err)
	}
	return v
}

// The mix of one core against a solver: for each way to spend the gap, least
//
//	sum P_i t_i + P_gap g + cost of the shortest gap
//
// where sum t_i/tau_i = work and sum t_i + g = window - the shortest gap. In watts,
// milliseconds and millijoules, for the solver's sake.
func TestMixAgainstSolver(t *testing.T) {
	mixed := 0
	for seed := range uint64(2000) {
		p := randomPlatform(rand.New(rand.NewPCG(seed, 5)))
		c := p.Choose()
		if c.Best < 0 {
			continue
		}
		want := math.Inf(1)
		for _, way := range append([]cstates.Model{{Power: p.cheapestAwake()}}, p.states()...) {
			n := len(p.Curve.OPPs)
			left := float64(p.Workload.Window-way.Least()) * 1e3
			if left < 0 {
				continue
			}
			cost, speeds, times := make([]float64, n+1), make([]float64, n+1), make([]float64, n+1)
			for i := range n {
				cost[i], speeds[i], times[i] = p.power(i).Watts(), 1/float64(p.tau(i)), 1
			}
			cost[n], times[n] = way.Power.Watts(), 1
			v := minimum(t, cost, [][]float64{speeds, times}, []float64{float64(p.Workload.Work[0]) * 1e3, left})
			want = math.Min(want, v+float64(way.Cost(way.Least()))/1e3)
		}
		if got := float64(c.MixEnergy) / 1e3; math.Abs(got-want) > 1e-7*want {
			t.Fatalf("seed %d: mix %g mJ, the solver finds %g", seed, got, want)
		}
		if c.MixEnergy > c.Points[c.Best].Energy*(1+1e-9) {
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
		if len(c.Mix) == 2 {
			mixed++
		}
	}
	if mixed < 100 {
		t.Errorf("only %d mixes were of two OPPs: too few to tell", mixed)
	}
}

// The mix of a cluster against a solver that may run the jobs in any order and
// interrupt them: X_i is the time at OPP i, y_ji the part of it that job j runs;
//
//	sum (P_cluster + n P_coreidle) X_i + sum (P_i - P_coreidle) y_ji + P_sleep g
//
// is least where y_ji <= X_i, sum y_ji/tau_i = work_j and sum X_i + g = window.
func TestClusterMixAgainstSolver(t *testing.T) {
	mixed := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 6))
		p := randomPlatform(rng)
		sleep := units.Power(rng.Float64() * 1e5)
		p.Cluster = &Cluster{Cores: 4, Power: sleep + units.Power(rng.Float64()*2e6), Sleep: sleep}
		p.Workload.Work = nil
		for range 1 + rng.IntN(4) {
			p.Workload.Work = append(p.Workload.Work, units.Seconds(0.001+0.09*rng.Float64()))
		}
		c := p.Choose()
		if c.Best < 0 {
			continue
		}
		n, jobs := len(p.Curve.OPPs), len(p.Workload.Work)
		// Columns: X, then y and its slack for each job, then g.
		y := func(job, i int) int { return n + 2*job*n + i }
		slack := func(job, i int) int { return y(job, i) + n }
		width := n + 2*jobs*n + 1
		cost := make([]float64, width)
		var a [][]float64
		var b []float64
		window := make([]float64, width)
		for i := range n {
			idle := cstates.Deepest(p.states(), p.awake(i))
			cost[i] = (p.Cluster.Power + units.Power(p.Cluster.Cores)*idle).Watts()
			window[i] = 1
			for j := range jobs {
				cost[y(j, i)] = (p.power(i) - idle).Watts()
				row := make([]float64, width)
				row[y(j, i)], row[slack(j, i)], row[i] = 1, 1, -1
				a, b = append(a, row), append(b, 0)
			}
		}
		for j, w := range p.Workload.Work {
			row := make([]float64, width)
			for i := range n {
				row[y(j, i)] = 1 / float64(p.tau(i))
			}
			a, b = append(a, row), append(b, float64(w)*1e3)
		}
		cost[width-1], window[width-1] = p.clusterIdle().Watts(), 1
		a, b = append(a, window), append(b, float64(p.Workload.Window)*1e3)
		want := minimum(t, cost, a, b)
		if got := float64(c.MixEnergy) / 1e3; math.Abs(got-want) > 1e-7*want {
			t.Fatalf("seed %d: mix %g mJ, the solver finds %g", seed, got, want)
		}
		if c.MixEnergy > c.Points[c.Best].Energy*(1+1e-9) {
			t.Fatalf("seed %d: mix %v, best %v", seed, c.MixEnergy, c.Points[c.Best].Energy)
		}
		if len(c.Mix) > 1 {
			mixed++
		}
	}
	if mixed < 30 {
		t.Errorf("only %d mixes were of several OPPs: too few to tell", mixed)
	}
}
