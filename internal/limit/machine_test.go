package limit

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// randomCluster has powers that rise with the speed, or nearly.
func randomCluster(r *rand.Rand) Cluster {
	c := Cluster{Cores: 1 + r.IntN(4), OwnClocks: r.IntN(2) == 0, Idle: float64(r.IntN(3)) * 0.05}
	around := r.Float64() * 0.5
	for i := range 1 + r.IntN(4) {
		c.Speed = append(c.Speed, 0.25*float64(i+1)+0.1*r.Float64())
		c.Power = append(c.Power, c.Idle+math.Pow(c.Speed[i], 1+2*r.Float64()))
		if !c.OwnClocks {
			around += 0.1 * r.Float64()
		}
		c.Around = append(c.Around, around)
	}
	c.Sleep = r.Float64() * (float64(c.Cores)*c.Idle + c.Around[0])
	return c
}

// edf runs jobs at one operating point, each moment those due first, and tells what the
// cluster's schedule costs until the horizon; false if a job is late. No work that is not
// due within the horizon is done.
func edf(jobs []Job, c Cluster, point int, horizon float64) (float64, bool) {
	var left []Job
	for _, j := range jobs {
		if j.Work > 0 && j.Deadline <= horizon {
			left = append(left, j)
		}
	}
	slices.SortFunc(left, func(a, b Job) int { return int(math.Copysign(1, a.Deadline-b.Deadline)) })
	sum := 0.0
	for now := 0.0; now < horizon; {
		next := horizon
		var run []int
		for i, j := range left {
			next = min(next, j.Deadline)
			if j.Release > now {
				next = min(next, j.Release)
			} else if len(run) < c.Cores {
				run = append(run, i)
			}
		}
		for _, i := range run {
			next = min(next, now+left[i].Work/c.Speed[point])
		}
		for _, i := range run {
			if left[i].Work -= (next - now) * c.Speed[point]; left[i].Work < 1e-10 {
				left[i].Work = 0
			}
		}
		for _, j := range left {
			if j.Work > 0 && j.Deadline <= next {
				return 0, false
			}
		}
		left = slices.DeleteFunc(left, func(j Job) bool { return j.Work == 0 })
		power := c.Sleep
		if k := len(run); k > 0 {
			power = float64(k)*c.Power[point] + float64(c.Cores-k)*c.Idle + c.Around[point]
		}
		sum += power * (next - now)
		now = next
	}
	return sum, true
}

// Two cores with a clock in common and one that is small, by hand.
func TestMachineHull(t *testing.T) {
	big := Cluster{Cores: 2, Speed: []float64{0.5, 1}, Power: []float64{0.5, 2}, Around: []float64{1, 1}, Idle: 0.1, Sleep: 0.2}
	small := Cluster{Cores: 1, OwnClocks: true, Speed: []float64{0.4}, Power: []float64{0.2}, Around: []float64{0}, Idle: 0.1, Sleep: 0.1}
	// Big: (0, 0.2), (0.5, 1.6), (1, 2 or 3.1), (2, 5): with one core it sleeps as
	// cheaply. Small's segment is the flattest, at 0.25 W; then 1.8 W and 3 W.
	h, err := MachineHull([]Cluster{big, small})
	if err != nil {
		t.Fatal(err)
	}
	want := []Point{{0, 0.3}, {0.4, 0.4}, {1.4, 2.2}, {2.4, 5.2}}
	if len(h.points) != len(want) {
		t.Fatalf("%v, want %v", h.points, want)
	}
	for i, p := range want {
		if g := h.points[i]; !near(g.Speed, p.Speed) || !near(g.Power, p.Power) {
			t.Errorf("%v, want %v", h.points, want)
		}
	}
	for want, bad := range map[string]Cluster{
		"cluster 2: it has 0 cores":                                         {},
		"cluster 2: it has 1 speeds, 0 powers and 0 powers around":          {Cores: 1, Speed: []float64{1}},
		"cluster 2: point 1: its speed is 0":                                {Cores: 1, Speed: []float64{0}, Power: []float64{1}, Around: []float64{1}},
		"cluster 2: point 1: want powers of 0 or more, not -1":              {Cores: 1, Speed: []float64{1}, Power: []float64{-1}, Around: []float64{1}},
		"cluster 2: point 2: the power around cores with clocks":            {Cores: 1, OwnClocks: true, Speed: []float64{1, 2}, Power: []float64{1, 2}, Around: []float64{1, 2}},
		"cluster 2: idle and sleep power are NaN and 0, want 0 or more":     {Cores: 1, Speed: []float64{1}, Power: []float64{1}, Around: []float64{1}, Idle: math.NaN()},
		"cluster 2: idling costs 5, more than 1 at speed 1: that is no pow": {Cores: 1, Speed: []float64{1}, Power: []float64{0}, Around: []float64{1}, Idle: 4, Sleep: 9},
	} {
		if _, err := MachineHull([]Cluster{big, bad}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if _, err := MachineHull(nil); err == nil {
		t.Error("no cluster is a machine")
	}
}

// Whatever a machine does at a moment, the hull is not above it. Some of its work stalls, and
// is slower and cheaper at the same clock.
func TestMachineHullIsBelow(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		var machine []Cluster
		for range 1 + r.IntN(3) {
			machine = append(machine, randomCluster(r))
		}
		opps := make([]int, len(machine))
		for i := range machine {
			c := &machine[i]
			opps[i] = len(c.Speed)
			for o := range opps[i] {
				c.Speed, c.Power, c.Around = append(c.Speed, c.Speed[o]*0.6), append(c.Power, c.Power[o]*0.8), append(c.Around, c.Around[o])
			}
		}
		h, err := MachineHull(machine)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			var speed, power float64
			for i, c := range machine {
				busy, around, common := 0, 0.0, r.IntN(opps[i])
				for range c.Cores {
					point := common + opps[i]*r.IntN(2)
					if c.OwnClocks {
						point = r.IntN(len(c.Speed))
					}
					if r.IntN(2) == 0 {
						power += c.Idle
						continue
					}
					busy, around = busy+1, c.Around[point]
					speed, power = speed+c.Speed[point], power+c.Power[point]
				}
				if power += around; busy == 0 {
					power += c.Sleep - float64(c.Cores)*c.Idle
				}
			}
			if least, ok := h.At(speed); !ok || least > power*(1+1e-9) {
				t.Fatalf("%+v: %v W at speed %v is below the hull's %v", machine, power, speed, least)
			}
		}
	}
}

// The string is YDS where deadlines are in the order of releases, and never costs more; nor
// does any machine, on average or in a schedule.
func TestRelaxed(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	simulated := 0
	for round := range 600 {
		jobs := random(r, 1+r.IntN(12))
		agreeable := round%2 == 0
		if agreeable {
			slices.SortFunc(jobs, func(a, b Job) int { return int(a.Release - b.Release) })
			for i := range jobs[1:] {
				jobs[i+1].Deadline = max(jobs[i+1].Deadline, jobs[i].Deadline)
			}
		}
		horizon := 0.0
		for _, j := range jobs {
			horizon = max(horizon, j.Deadline)
		}
		_, yds, err := YDS(jobs)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []Polynomial{{2, 1.5}, {1, 3}} {
			want, _ := Energy(p, yds, horizon)
			got, _ := Energy(p, taut(jobs, horizon), horizon)
			if got > want*(1+1e-9) || agreeable && !near(got, want) {
				t.Fatalf("%v: exponent %v: %v, YDS %v", jobs, p.Exponent, got, want)
			}
		}
		c := randomCluster(r)
		one := c
		one.Cores = 1
		hull, err := MachineHull([]Cluster{one})
		if err != nil {
			t.Fatal(err)
		}
		want, can := Energy(hull, yds, horizon)
		got, ok, err := Relaxed(jobs, hull, horizon)
		if err != nil || can && !ok || agreeable && ok != can || can && got > want*(1+1e-9) || agreeable && can && !near(got, want) {
			t.Fatalf("%v: %v, %v, %v; YDS %v, %v", jobs, got, ok, err, want, can)
		}
		if hull, err = MachineHull([]Cluster{c}); err != nil {
			t.Fatal(err)
		}
		for _, until := range []float64{horizon, horizon / 2, horizon + 1} {
			bound, ok, err := Relaxed(jobs, hull, until)
			if err != nil {
				t.Fatal(err)
			}
			for point := range c.Speed {
				if cost, done := edf(jobs, c, point, until); done {
					simulated++
					if !ok || bound > cost*(1+1e-9) {
						t.Fatalf("%v until %v on %+v: the bound %v, %v is above %v at point %d", jobs, until, c, bound, ok, cost, point)
					}
				}
			}
		}
	}
	if simulated < 500 {
		t.Errorf("only %d schedules are in time: they do not tell much", simulated)
	}
}

// By hand: 2 of work due in 4 s, and 1 that is due when all is over.
func TestRelaxedByHand(t *testing.T) {
	h, err := NewHull([]Point{{0, 0.5}, {1, 2.5}})
	if err != nil {
		t.Fatal(err)
	}
	jobs := []Job{{0, 4, 2}, {3, 9, 1}}
	for horizon, want := range map[float64]float64{0: 0, 3: 1.5, 4: 6, 8: 8, 9: 10.5, 10: 11} {
		if got, ok, err := Relaxed(jobs, h, horizon); err != nil || !ok || !near(got, want) {
			t.Errorf("until %v: %v, %v, %v, want %v", horizon, got, ok, err, want)
		}
	}
	if _, ok, err := Relaxed([]Job{{0, 1, 1.001}}, h, 2); ok || err != nil {
		t.Errorf("more than the highest speed: %v, %v", ok, err)
	}
	for want, f := range map[string]func() (float64, bool, error){
		"there is no speed":                     func() (float64, bool, error) { return Relaxed(jobs, Hull{}, 1) },
		"the horizon is -1 s":                   func() (float64, bool, error) { return Relaxed(jobs, h, -1) },
		"job 1: its release -1 is before":       func() (float64, bool, error) { return Relaxed([]Job{{-1, 1, 1}}, h, 1) },
		"job 2: its deadline 1 is not after it": func() (float64, bool, error) { return Relaxed([]Job{{0, 1, 1}, {1, 1, 1}}, h, 1) },
	} {
		if _, _, err := f(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A day of 100,000 jobs whose tasks take the machine to its top speed, in fractions that
// round: the bound is found, and feasible.
func TestRelaxedMany(t *testing.T) {
	h, err := NewHull([]Point{{0, 0.1}, {0.5, 0.4}, {1, 1.5}})
	if err != nil {
		t.Fatal(err)
	}
	var jobs []Job
	const period = 0.1
	for i := range MaxJobs {
		jobs = append(jobs, Job{float64(i) * period, float64(i+1) * period, period * float64(i%2)})
	}
	got, ok, err := Relaxed(jobs, h, MaxJobs*period)
	if want := MaxJobs / 2 * period * (0.1 + 1.5); err != nil || !ok || !near(got, want) {
		t.Errorf("%v, %v, %v, want %v", got, ok, err, want)
	}
}

func BenchmarkRelaxed(b *testing.B) {
	h, err := NewHull([]Point{{0, 0.1}, {0.5, 0.4}, {1, 1.5}, {4, 20}})
	if err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(11, 12))
	jobs := random(r, MaxJobs)
	for i := range jobs {
		jobs[i].Release += float64(i) * 2
		jobs[i].Deadline += float64(i) * 2
	}
	horizon := (time.Hour * 24 * 3).Seconds()
	for b.Loop() {
		if _, _, err := Relaxed(jobs, h, horizon); err != nil {
			b.Fatal(err)
		}
	}
}
