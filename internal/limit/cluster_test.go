package limit

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// together is the linear program that Discrete states, solved by gonum as it stands.
func together(t *testing.T, jobs []Job, c Cluster) (float64, bool) {
	t.Helper()
	times := borders(jobs)
	rest := c.rest() * Horizon(jobs)
	var cost []float64
	var equal, less []row
	work := make([]row, len(jobs))
	for j := range jobs {
		work[j] = row{map[int]float64{}, jobs[j].Work}
	}
	for i := range len(times) - 1 {
		on := row{map[int]float64{}, times[i+1] - times[i]}
		var clocks [][]int // points that may be mixed at a moment
		for point := range c.Speed {
			if c.OwnClocks && point > 0 {
				clocks[0] = append(clocks[0], point)
			} else {
				clocks = append(clocks, []int{point})
			}
		}
		for _, points := range clocks {
			awake := len(cost)
			cost = append(cost, float64(c.Cores)*c.Idle+c.Around[points[0]]-c.rest())
			on.k[awake] = 1
			cores := row{map[int]float64{awake: -float64(c.Cores)}, 0}
			for j := range jobs {
				if jobs[j].Work == 0 || !active(jobs[j], times, i) {
					continue
				}
				one := row{map[int]float64{awake: -1}, 0}
				for _, point := range points {
					y := len(cost)
					cost = append(cost, c.Power[point]-c.Idle)
					one.k[y], cores.k[y], work[j].k[y] = 1, 1, c.Speed[point]
				}
				less = append(less, one)
			}
			less = append(less, cores)
		}
		less = append(less, on)
	}
	for _, w := range work {
		if w.b > 0 {
			equal = append(equal, w)
		}
	}
	if len(equal) == 0 {
		return rest, true
	}
	least, ok := solve(t, cost, equal, less)
	return least + rest, ok
}

func TestDiscreteAgainstSimplex(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	feasible := 0
	for range 200 {
		jobs, c := random(r, 1+r.IntN(4)), randomCluster(r)
		got, ok, err := Discrete(jobs, c)
		if err != nil {
			t.Fatal(err)
		}
		want, can := together(t, jobs, c)
		if ok != can || ok && math.Abs(got-want) > 1e-7*want {
			t.Fatalf("%v on %+v: %v, %v; gonum %v, %v", jobs, c, got, ok, want, can)
		}
		if ok {
			feasible++
		}
	}
	if feasible < 50 || feasible > 190 {
		t.Errorf("%d of 200 cases are feasible: they do not tell much", feasible)
	}
}

// It is not below the bound for any number of jobs, nor above a schedule at one point;
// and, where cores share nothing, what flows find.
func TestDiscreteAmongOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 16))
	simulated, alone := 0, 0
	for range 300 {
		jobs, c := random(r, 1+r.IntN(12)), randomCluster(r)
		jobs = append(jobs, Job{0, 20, 0}) // so that all begin and end at the same time
		got, ok, err := Discrete(jobs, c)
		if err != nil {
			t.Fatal(err)
		}
		h, err := MachineHull([]Cluster{c})
		if err != nil {
			t.Fatal(err)
		}
		bound, can, err := Relaxed(jobs, h, Horizon(jobs))
		if err != nil || ok && (!can || bound > got*(1+1e-9)) {
			t.Fatalf("%v on %+v: %v, %v is below %v, %v, %v", jobs, c, got, ok, bound, can, err)
		}
		for point := range c.Speed {
			if cost, done := edf(jobs, c, point, Horizon(jobs)); done {
				simulated++
				if !ok || got > cost*(1+1e-9) {
					t.Fatalf("%v on %+v: %v, %v is above %v at point %d", jobs, c, got, ok, cost, point)
				}
			}
		}
		if c.Cores > 1 {
			c.OwnClocks = true
		}
		var points []Point
		for i := range c.Around {
			c.Around[i] = 0
			points = append(points, Point{c.Speed[i], c.Power[i]})
		}
		c.Sleep = float64(c.Cores) * c.Idle
		if h, err = NewHull(append(points, Point{0, c.Idle})); err != nil {
			t.Fatal(err)
		}
		_, profile, err := Cores(jobs, c.Cores)
		if err != nil {
			t.Fatal(err)
		}
		want, can := Energy(h, profile, float64(c.Cores)*Horizon(jobs))
		got, ok, err = Discrete(jobs, c)
		if err != nil || ok != can || ok && math.Abs(got-want) > 1e-7*want {
			t.Fatalf("%v on %+v: %v, %v, %v; Cores %v, %v", jobs, c, got, ok, err, want, can)
		}
		if ok {
			alone++
		}
	}
	if simulated < 200 || alone < 100 {
		t.Errorf("only %d schedules are in time and %d cases feasible: they do not tell much", simulated, alone)
	}
}

// Jobs that share one window are what a platform's cluster mixes its clock for.
func TestDiscreteAgainstPlatform(t *testing.T) {
	r := rand.New(rand.NewPCG(17, 18))
	for range 200 {
		p := energy.Platform{
			Workload: energy.Workload{Window: 1, CPUBound: 1, Stall: 1, CanSleep: true},
			Cluster:  &energy.Cluster{Cores: 1 + r.IntN(4), Power: units.Power(r.Float64() * 2e6), Sleep: units.Power(r.Float64() * 2e5)},
			Idle:     []cstates.Model{{Name: "C6", Power: units.Power(r.Float64() * 1e5)}},
		}
		c := Cluster{Cores: p.Cluster.Cores, Idle: p.Idle[0].Power.Watts(), Sleep: p.Cluster.Sleep.Watts()}
		for i := range 4 {
			speed := float64(i+1) / 4
			o := cpufreq.OPP{Frequency: units.Frequency(i+1) * units.GHz, Speed: speed, Static: 2e5, Dynamic: units.Power(r.Float64() * 4e6 * speed)}
			p.Curve.OPPs = append(p.Curve.OPPs, o)
			c.Speed = append(c.Speed, speed)
			c.Power = append(c.Power, o.Active().Watts())
			c.Around = append(c.Around, p.Cluster.Power.Watts())
		}
		var jobs []Job
		for range 1 + r.IntN(c.Cores) {
			w := 0.05 + 0.95*r.Float64()
			p.Workload.Work = append(p.Workload.Work, units.Seconds(w))
			jobs = append(jobs, Job{0, 1, w})
		}
		got, ok, err := Discrete(jobs, c)
		want := float64(p.Choose().MixEnergy) / 1e6
		if err != nil || !ok || math.Abs(got-want) > 1e-7*want {
			t.Fatalf("%v on %+v: %v, %v, %v; the platform %v", jobs, c, got, ok, err, want)
		}
	}
}

// Two jobs at once on two cores: together for a second at full speed, and asleep for the
// other; the clock is one, so that the short one does not run slower.
func TestDiscreteByHand(t *testing.T) {
	c := Cluster{Cores: 2, Speed: []float64{0.5, 1}, Power: []float64{0.5, 2}, Around: []float64{3, 3}, Idle: 0.25, Sleep: 1}
	for _, test := range []struct {
		jobs []Job
		want float64
	}{
		// Awake a second of speed 1 costs 2+2+3 or 2+0.25+3, two of speed 0.5 8 or 7.5.
		{[]Job{{0, 2, 1}, {0, 2, 1}}, 7 + 1},
		{[]Job{{0, 2, 1}}, 5.25 + 1},
		{[]Job{{0, 2, 1}, {0, 2, 0.5}}, 6.125 + 1},
		// Windows that only touch, and then nothing.
		{[]Job{{0, 1, 1}, {1, 2, 1}, {2, 4, 0}}, 10.5 + 2},
		{nil, 0},
	} {
		if got, ok, err := Discrete(test.jobs, c); err != nil || !ok || !near(got, test.want) {
			t.Errorf("%v: %v, %v, %v, want %v", test.jobs, got, ok, err, test.want)
		}
	}
	if _, ok, err := Discrete([]Job{{0, 1, 1}, {0, 1, 1}, {0, 1, 0.001}}, c); ok || err != nil {
		t.Errorf("more than two cores can do: %v, %v", ok, err)
	}
	// A cluster that sleeps badly stays awake: best at 0.5, all the time.
	c.Sleep = 9
	if got, ok, err := Discrete([]Job{{0, 2, 1}}, c); err != nil || !ok || !near(got, 7.5) {
		t.Errorf("no good sleep: %v, %v, %v", got, ok, err)
	}
	many := make([]Job, maxTogether+1)
	for i := range many {
		many[i] = Job{0, 1, 0.001}
	}
	if _, _, err := Discrete(many, c); err == nil || !strings.HasPrefix(err.Error(), "151 jobs whose times overlap") {
		t.Errorf("too many jobs: %v", err)
	}
	if _, _, err := Discrete(nil, Cluster{}); err == nil {
		t.Error("nothing is a cluster")
	}
	if _, _, err := Discrete([]Job{{1, 1, 1}}, c); err == nil {
		t.Error("a job without time is one")
	}
}

func BenchmarkDiscrete(b *testing.B) {
	jobs := random(rand.New(rand.NewPCG(19, 20)), 100)
	for i := range jobs {
		jobs[i].Release += float64(i) / 4
		jobs[i].Deadline += float64(i) / 4
	}
	c := Cluster{Cores: 4, Idle: 0.02, Sleep: 0.05}
	for i := range 8 {
		s := 0.3 + 0.2*float64(i)
		c.Speed, c.Power, c.Around = append(c.Speed, s), append(c.Power, 0.1+2*s*s*s), append(c.Around, 0.3+0.2*s)
	}
	for b.Loop() {
		if _, ok, err := Discrete(jobs, c); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// The inverse that was kept up to date is that of the basis, as is one computed anew.
func TestRefresh(t *testing.T) {
	jobs := random(rand.New(rand.NewPCG(21, 22)), 20)
	p := newSimplex(apart(jobs)[0], Cluster{Cores: 8, Speed: []float64{0.5, 1, 3}, Power: []float64{0.5, 2, 9}, Around: []float64{1, 1, 1}})
	if ok, err := p.start(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := p.optimize(); err != nil {
		t.Fatal(err)
	}
	inverse := func() {
		t.Helper()
		for r, row := range p.inverse {
			for k, c := range p.basis {
				got, want := 0.0, 0.0
				if k == r {
					want = 1
				}
				for i, at := range c.rows {
					got += row[at] * c.values[i]
				}
				if math.Abs(got-want) > 1e-9 {
					t.Fatalf("row %d, column %d of the inverse and the basis: %v", r, k, got)
				}
			}
		}
	}
	inverse()
	x := slices.Clone(p.x)
	for r := range p.inverse {
		p.x[r] = -1
		for k := range p.inverse[r] {
			p.inverse[r][k] *= 1.5
		}
	}
	p.refresh()
	inverse()
	for r := range x {
		if math.Abs(x[r]-p.x[r]) > 1e-9 {
			t.Errorf("column %d: %v, want %v", r, p.x[r], x[r])
		}
	}
}
