package limit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/optimize/convex/lp"
)

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-6*max(1, math.Abs(a), math.Abs(b)) }

// Worked by hand: the middle job's own window is the densest, at 2; it is cut out of the
// outer job's, which has 3 s left for 3 of work.
func TestByHand(t *testing.T) {
	jobs := []Job{{0, 4, 3}, {1, 2, 2}, {5, 7, 1}, {5, 7, 0}}
	speeds, profile, err := YDS(jobs)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(speeds, profile); got != "[1 2 0.5 0] [{2 1} {1 3} {0.5 2}]" {
		t.Errorf("YDS: %s", got)
	}
	cube := Polynomial{1, 3}
	if e, ok := Energy(cube, profile, Horizon(jobs)); !ok || !near(e, 8+3+0.25) {
		t.Errorf("energy %v", e)
	}
	// Densities: 0.75 for 4 s, 2 for 1 s of them, 0.5 for 2 s.
	avr, err := AVR(jobs)
	if err != nil || fmt.Sprint(avr) != "[{2.75 1} {0.75 3} {0.5 2}]" {
		t.Errorf("AVR: %v, %v", avr, err)
	}
	// It plans 0.75, until at 1 s 2.25 are left to 4 s and 2 are due at 2 s: 2, then
	// 2.25 in 2 s.
	oa, err := OA(jobs)
	if err != nil || fmt.Sprint(oa) != "[{2 1} {1.125 2} {0.75 1} {0.5 2}]" {
		t.Errorf("OA: %v, %v", oa, err)
	}
	// On the hull of 0, 0.5 and 1 at 0.02, 0.2 and 1 W a speed of 0.75 is half of each.
	h, err := NewHull([]Point{{0.5, 0.2}, {0, 0.02}, {1, 1}, {0.6, 0.9}})
	if err != nil {
		t.Fatal(err)
	}
	for speed, want := range map[float64]float64{0: 0.02, 0.25: 0.11, 0.5: 0.2, 0.75: 0.6, 1: 1} {
		if p, ok := h.At(speed); !ok || !near(p, want) {
			t.Errorf("%v: %v, want %v", speed, p, want)
		}
	}
	if _, ok := h.At(1.1); ok {
		t.Error("a speed above the highest is reached")
	}
	// Two jobs at once and a third on two cores: the long one has a core for itself, the
	// other two share one.
	speeds, profile, err = Cores([]Job{{0, 1, 4}, {0, 1, 1}, {0, 1, 1}}, 2)
	if err != nil || fmt.Sprint(speeds, profile) != "[4 2 2] [{4 1} {2 1}]" {
		t.Errorf("two cores: %v %v %v", speeds, profile, err)
	}
	for _, bad := range [][]Job{{{1, 1, 1}}, {{0, 1, -1}}, {{0, math.NaN(), 1}}, {{0, 1, math.Inf(1)}}} {
		if _, _, err := YDS(bad); err == nil || !strings.HasPrefix(err.Error(), "job 1: ") {
			t.Errorf("%v: %v", bad, err)
		}
	}
	for _, bad := range [][]Point{nil, {{0, 1}}, {{-1, 1}}, {{1, math.NaN()}}, {{0, 2}, {1, 1}}} {
		if _, err := NewHull(bad); err == nil {
			t.Errorf("%v is a hull", bad)
		}
	}
}

func random(r *rand.Rand, n int) []Job {
	jobs := make([]Job, n)
	for i := range jobs {
		a := math.Floor(r.Float64() * 12)
		jobs[i] = Job{a, a + 1 + math.Floor(r.Float64()*8), math.Floor(r.Float64()*8) / 4}
	}
	return jobs
}

// program is the linear program of time at each point, job by job and interval by
// interval, solved by gonum: the definition, where the package has algorithms.
func program(t *testing.T, jobs []Job, points []Point, n int) (float64, bool) {
	t.Helper()
	times := borders(jobs)
	type variable struct{ job, interval, point int }
	var vars []variable
	idle := points[0].Power
	for j := range jobs {
		for i := 0; i+1 < len(times); i++ {
			if jobs[j].Work > 0 && active(jobs[j], times, i) {
				for p := 1; p < len(points); p++ {
					vars = append(vars, variable{j, i, p})
				}
			}
		}
	}
	if len(vars) == 0 {
		return idle * float64(n) * Horizon(jobs), true
	}
	var equal, less []row
	for j := range jobs {
		if jobs[j].Work == 0 {
			continue
		}
		e := row{map[int]float64{}, jobs[j].Work}
		for v, x := range vars {
			if x.job == j {
				e.k[v] = points[x.point].Speed
			}
		}
		equal = append(equal, e)
		for i := 0; i+1 < len(times); i++ {
			if active(jobs[j], times, i) {
				l := row{map[int]float64{}, times[i+1] - times[i]}
				for v, x := range vars {
					if x.job == j && x.interval == i {
						l.k[v] = 1
					}
				}
				less = append(less, l)
			}
		}
	}
	for i := 0; i+1 < len(times); i++ {
		l := row{map[int]float64{}, float64(n) * (times[i+1] - times[i])}
		for v, x := range vars {
			if x.interval == i {
				l.k[v] = 1
			}
		}
		if len(l.k) > 0 {
			less = append(less, l)
		}
	}
	cost := make([]float64, len(vars))
	for v, x := range vars {
		cost[v] = points[x.point].Power - idle
	}
	opt, ok := solve(t, cost, equal, less)
	return opt + idle*float64(n)*Horizon(jobs), ok
}

// A row of a linear program: k x is b, or no more.
type row struct {
	k map[int]float64
	b float64
}

// solve minimizes, with gonum.
func solve(t *testing.T, cost []float64, equal, less []row) (float64, bool) {
	t.Helper()
	cols := len(cost) + len(less)
	a := mat.NewDense(len(equal)+len(less), cols, nil)
	b := make([]float64, len(equal)+len(less))
	c := make([]float64, cols)
	copy(c, cost)
	for r, e := range append(equal, less...) {
		for v, k := range e.k {
			a.Set(r, v, k)
		}
		b[r] = e.b
		if s := r - len(equal); s >= 0 {
			a.Set(r, len(cost)+s, 1)
		}
	}
	opt, _, err := lp.Simplex(c, a, b, 1e-10, nil)
	if err == lp.ErrInfeasible {
		return 0, false
	}
	if err != nil {
		t.Fatalf("gonum: %v", err)
	}
	return opt, true
}

// The algorithms are the linear program, on one core and on several.
func TestAgainstSimplex(t *testing.T) {
	points := []Point{{0, 0.1}, {0.4, 0.3}, {0.7, 0.5}, {1, 1.2}}
	h, err := NewHull(points)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	feasible := 0
	for range 150 {
		jobs, n := random(r, 1+r.IntN(6)), 1+r.IntN(3)
		_, profile, err := Cores(jobs, n)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := Energy(h, profile, float64(n)*Horizon(jobs))
		want, can := program(t, jobs, points, n)
		if ok != can || ok && !near(got, want) {
			t.Fatalf("%v on %d cores: %v, %v; simplex %v, %v", jobs, n, got, ok, want, can)
		}
		if ok {
			feasible++
		}
	}
	if feasible < 50 || feasible > 140 {
		t.Errorf("%d of 150 cases are feasible: they do not tell much", feasible)
	}
}

// No schedule costs less than the optimal one, and the online ones no more than theorems
// allow; YDS is the same on one core as Cores' flow would find.
func TestBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		jobs := random(r, 1+r.IntN(12))
		speeds, yds, err := YDS(jobs)
		if err != nil {
			t.Fatal(err)
		}
		work := 0.0
		for i, j := range jobs {
			work += j.Work
			if j.Work > 0 && speeds[i]*(j.Deadline-j.Release) < j.Work*(1-1e-9) {
				t.Fatalf("%v: job %d is too slow at %v", jobs, i, speeds[i])
			}
		}
		avr, err1 := AVR(jobs)
		oa, err2 := OA(jobs)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		for name, list := range map[string][]Level{"YDS": yds, "AVR": avr, "OA": oa} {
			sum := 0.0
			for _, l := range list {
				sum += l.Speed * l.Seconds
			}
			if !near(sum, work) {
				t.Fatalf("%v: %s does %v of %v", jobs, name, sum, work)
			}
		}
		for _, a := range []float64{1.5, 2, 3} {
			p, total := Polynomial{2, a}, Horizon(jobs)
			best, _ := Energy(p, yds, total)
			eavr, _ := Energy(p, avr, total)
			eoa, _ := Energy(p, oa, total)
			if eavr < best*(1-1e-9) || eavr > best*math.Pow(2*a, a)/2*(1+1e-9) || eoa < best*(1-1e-9) || eoa > best*math.Pow(a, a)*(1+1e-9) {
				t.Fatalf("%v, exponent %v: YDS %v, AVR %v, OA %v", jobs, a, best, eavr, eoa)
			}
		}
		for n := 2; n <= 3; n++ {
			_, more, err := Cores(jobs, n)
			if err != nil {
				t.Fatal(err)
			}
			one, _ := Energy(Polynomial{1, 3}, yds, 0)
			many, _ := Energy(Polynomial{1, 3}, more, 0)
			if many > one*(1+1e-9) {
				t.Fatalf("%v: %v on one core, %v on %d", jobs, one, many, n)
			}
		}
	}
}

func TestRead(t *testing.T) {
	for in, want := range map[string]string{
		"0,1,2\n": "[{0 1 2}]",
		"# remark\nrelease,deadline,work\n0,1,.5\n": "[{0 1 0.5}]",
		"name, Work, Release, Deadline\na,1,2,3\n":  "[{2 3 1}]",
		"":                      "there are no jobs",
		"a,b,c\n":               "line 1: there is no column release: want release,deadline,work",
		"0,1\n":                 "line 1: it has 2 fields, want 3: release,deadline,work",
		"0,1,1\n0,1,x\n":        `line 2: its work "x" is no number`,
		"0,1,1\n\n# r\n2,1,1\n": "line 4: its deadline 1 is not after its release 2",
		"0,1,1\n0,\"1,1\n":      `line 2: extraneous or missing " in quoted-field`,
		"0,1,-1\n":              "line 1: its work is -1, want 0 or more",
		"0,Inf,1\n":             "line 1: its release and deadline are no times",
	} {
		jobs, err := Read(strings.NewReader(in))
		got := fmt.Sprint(jobs)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestReadTrace(t *testing.T) {
	for in, want := range map[string]string{
		"time_s,container,utilisation\n0,a,50\n300,b,100\n0,b,30\n900,a,10\n": "[{0.8 300} {1 600} {0.1 600}]",
		"# remark\n5,a,250\n6,,0\n":                        "[{2.5 1} {0 1}]",
		"utilisation , x, TIME_S,container\n1,,0,a\n,,,\n": `line 3: its time_s "" is no number`,
		"":                        "there are 0 times, want 2 or more: the first lasts until the second",
		"0,a,1\n0,b,1\n":          "there are 1 times, want 2 or more: the first lasts until the second",
		"time,container,load\n":   "line 1: there is no column time_s: want time_s,container,utilisation",
		"0,a\n":                   "line 1: it has 2 fields, want 3: time_s,container,utilisation",
		"0,a,1\n1,a,x\n":          `line 2: its utilisation "x" is no number`,
		"0,a,1\n1,a,-1\n":         "line 2: its utilisation is -1, want 0 to 1e9",
		"-1e308,a,1\n1e308,a,1\n": "times -1e+308 and 1e+308 are too far apart",
		"0,a,1\nNaN,a,1\n":        "line 2: its time_s NaN is no time",
		"0,a,1\n1,b,2\n0, a, 3\n": `line 3: container "a" has a line at time 0 already`,
	} {
		trace, err := ReadTrace(strings.NewReader(in))
		got := fmt.Sprint(trace)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// Half of a core's speed, and all of two, on cores that mix; by hand.
func TestFluid(t *testing.T) {
	h, err := NewHull([]Point{{0, 0.1}, {1, 1.1}, {2, 4.1}})
	if err != nil {
		t.Fatal(err)
	}
	trace := []Level{{0.5, 2}, {4, 1}, {0, 3}}
	if e, ok := Fluid(trace, h.Times(2)); !ok || !near(e, 2*0.7+8.2+3*0.2) {
		t.Errorf("%v, %v", e, ok)
	}
	if e, ok := Fluid(trace, h); ok {
		t.Errorf("speed 4 on one core costs %v", e)
	}
	// The same as jobs, each due at the end of its interval.
	var jobs []Job
	now := 0.0
	for _, l := range trace {
		jobs = append(jobs, Job{now, now + l.Seconds, l.Speed * l.Seconds})
		now += l.Seconds
	}
	want, _ := Fluid(trace, h.Times(2))
	if e, ok, err := Relaxed(jobs, h.Times(2), now); err != nil || !ok || !near(e, want) {
		t.Errorf("%v, %v, %v, want %v", e, ok, err, want)
	}
}

// Whatever is read makes a schedule that does the work, or an error in one line.
func FuzzRead(f *testing.F) {
	f.Add("0,1,2\n1,3,1\n")
	f.Add("work,release,deadline\n1,2,3\n")
	f.Add("time_s,container,utilisation\n0,a,50\n1,a,\"1\n0\"\n")
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := ReadTrace(strings.NewReader(s)); err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q", err)
		}
		jobs, err := Read(strings.NewReader(s))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		if len(jobs) > 50 {
			return
		}
		if _, _, err := YDS(jobs); err != nil {
			t.Error(err)
		}
		if _, err := OA(jobs); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkYDS(b *testing.B) {
	jobs := random(rand.New(rand.NewPCG(5, 6)), 1000)
	for i := range jobs {
		jobs[i].Release += float64(i) * 2
		jobs[i].Deadline += float64(i) * 2
	}
	for b.Loop() {
		if _, _, err := YDS(jobs); err != nil {
			b.Fatal(err)
		}
	}
}
