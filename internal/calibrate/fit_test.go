package calibrate

import (
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/powerd/powerd/internal/units"
)

// A solution is the least if no parameter that may still move would improve it: the
// gradient is 0 where x > 0, and not downhill where x = 0 (Karush, Kuhn, Tucker).
func TestNonNegative(t *testing.T) {
	x := nonNegative(mat.NewDense(2, 2, []float64{1, 0, 0, 1}), mat.NewVecDense(2, []float64{3, -1}))
	if x.AtVec(0) != 3 || x.AtVec(1) != 0 {
		t.Errorf("of (3, -1) the nearest is %v, want (3, 0)", x.RawVector().Data)
	}
	r := rand.New(rand.NewPCG(3, 4))
	bound := 0
	for range 300 {
		n, p := 3+r.IntN(20), 1+r.IntN(8)
		a, b := mat.NewDense(n, p, nil), mat.NewVecDense(n, nil)
		for i := range n {
			b.SetVec(i, r.NormFloat64()+0.5)
			for j := range p {
				a.Set(i, j, r.NormFloat64()+0.5)
			}
			if p > 2 && r.IntN(2) == 0 {
				a.Set(i, 1, a.At(i, 0)) // nearly the same column
			}
		}
		x := nonNegative(a, b)
		var miss, gradient mat.VecDense
		miss.MulVec(a, x)
		miss.SubVec(b, &miss)
		gradient.MulVec(a.T(), &miss)
		for j := range p {
			g := gradient.AtVec(j)
			switch {
			case x.AtVec(j) < 0:
				t.Fatalf("x%d = %g", j, x.AtVec(j))
			case x.AtVec(j) == 0:
				bound++
				if g > 1e-7 {
					t.Fatalf("x%d = 0 could grow: gradient %g", j, g)
				}
			case math.Abs(g) > 1e-7:
				t.Fatalf("x%d = %g could move: gradient %g", j, x.AtVec(j), g)
			}
		}
	}
	if bound < 100 {
		t.Errorf("only %d parameters at their bound: the cases are too easy", bound)
	}
}

// Two parameters that always come together are known as a sum, and each is blamed on the
// other.
func TestEstimate(t *testing.T) {
	base, a, b, c := Param{Role: Asleep}, Param{Role: Static}, Param{Role: Dynamic}, Param{Role: Cluster}
	var rows [][]Term
	var y, sigma []float64
	for i := range 6 {
		n := float64(i)
		rows = append(rows, []Term{{base, 1}, {a, n}, {b, n}, {c, float64(i % 2)}})
		y, sigma = append(y, 100+n*(3+4)+10*float64(i%2)), append(sigma, 0.1)
	}
	f := solve(rows, y, sigma, excited(rows))
	for _, tt := range []struct {
		name  string
		of    combination
		want  float64
		blame []Param
	}{
		{"sum", combination{a: 1, b: 1}, 7, nil},
		{"one of it", combination{a: 1}, 0, []Param{b}},
		{"the other", combination{b: 1}, 0, []Param{a}},
		{"base", combination{base: 1}, 100, nil},
		{"cluster", combination{c: 1}, 10, nil},
		{"what is nowhere", combination{{Role: Package}: 1}, 0, []Param{{Role: Package}}},
	} {
		got, err, blame := f.estimate(tt.of)
		if len(blame) != len(tt.blame) || len(blame) > 0 && blame[0] != tt.blame[0] {
			t.Errorf("%s: blamed on %v, want %v", tt.name, blame, tt.blame)
		}
		if tt.blame == nil && (math.Abs(got-tt.want) > 1e-6 || !(err > 0 && err < 0.3)) {
			t.Errorf("%s: %g +- %g, want %g", tt.name, got, err, tt.want)
		}
	}
	// The error of a mean of n rows is sigma/sqrt(n), by hand.
	rows = [][]Term{{{base, 1}}, {{base, 1}}, {{base, 1}}, {{base, 1}}}
	f = solve(rows, []float64{9.9, 10.1, 9.9, 10.1}, []float64{1, 1, 1, 1}, []Param{base})
	if got, err, _ := f.estimate(combination{base: 1}); math.Abs(got-10) > 1e-9 || math.Abs(err-0.5) > 1e-9 {
		t.Errorf("mean %g +- %g, want 10 +- 0.5", got, err)
	}
	// Rows that scatter more than they say widen it: chi^2/3 is 400/3.
	f = solve(rows, []float64{0, 20, 0, 20}, []float64{1, 1, 1, 1}, []Param{base})
	if _, err, _ := f.estimate(combination{base: 1}); math.Abs(err-0.5*math.Sqrt(400./3)) > 1e-9 {
		t.Errorf("scattering, +- %g", err)
	}
}

// One row that something else has spoilt hardly moves the rest.
func TestRobust(t *testing.T) {
	base, a := Param{Role: Asleep}, Param{Role: Dynamic}
	var rows [][]Term
	var y, sigma []float64
	r := rand.New(rand.NewPCG(5, 6))
	for i := range 20 {
		rows = append(rows, []Term{{base, 1}, {a, float64(i % 5)}})
		y, sigma = append(y, 50+10*float64(i%5)+r.NormFloat64()), append(sigma, 1)
	}
	y[19] += 60
	plain, _, _ := solve(rows, y, sigma, []Param{base, a}).estimate(combination{a: 1})
	got, err, _ := robust(rows, y, sigma, []Param{base, a}).estimate(combination{a: 1})
	if math.Abs(plain-10) < 1 {
		t.Errorf("the case is too easy: %g", plain)
	}
	if math.Abs(got-10) > 0.6 || err > 1 {
		t.Errorf("%g +- %g, want 10", got, err)
	}
}

func TestLine(t *testing.T) {
	a, b, cov, err := line([]float64{1, 2, 3}, []float64{5, 7, 9}, []float64{1, 1, 1})
	if err != nil || math.Abs(a-3) > 1e-9 || math.Abs(b-2) > 1e-9 || math.Abs(cov[1][1]-0.5) > 1e-9 {
		t.Errorf("%g + %g x, covariance %v, %v: want 3 + 2 x with a variance of 1/2 of b", a, b, cov, err)
	}
	if _, _, _, err := line([]float64{1, 1}, []float64{5, 7}, []float64{1, 1}); err == nil {
		t.Error("two points above each other make a line")
	}
}

// A disturbed point is left out, or owned up to; it never pulls a mean.
func TestUndisturbed(t *testing.T) {
	for _, c := range []struct {
		name   string
		points []measure
		value  float64
		least  float64 // of the error
		most   float64
	}{
		{"one", []measure{{100, 1}}, 100, 1, 1},
		{"two agree", []measure{{100, 1}, {101, 1}}, 100.5, 0.70, 0.72},
		{"one of two is disturbed", []measure{{70, 0.5}, {100, 1}}, 100, 30, 31},
		{"one of three is disturbed", []measure{{100, 1}, {70, 0.5}, {101, 1}}, 100.5, 0.70, 0.72},
		{"precise points scatter by less than a percent", []measure{{100, 0.1}, {99.5, 0.1}}, 99.75, 0.07, 0.08},
	} {
		m := undisturbed(c.points)
		if math.Abs(m.value-c.value) > 1e-9 || m.err < c.least || m.err > c.most {
			t.Errorf("%s: %+v, want %g and an error in %g..%g", c.name, m, c.value, c.least, c.most)
		}
	}
}

// A clock that seems slower than a slower one was disturbed, in every point of it: how far
// is its error.
func TestSpeedsAscend(t *testing.T) {
	r := &reading{m: &Machine{Kinds: []Kind{{}}}, speed: make([]map[units.Frequency]measure, 1), out: &Result{}}
	for f, rate := range map[units.Frequency]float64{1000: 50, 1500: 74, 1800: 53, 2000: 100} {
		for range 2 {
			r.obs = append(r.obs, Observation{Clock: f, Workers: 1, Rate: rate, RateError: 0.2})
		}
	}
	r.speeds(0)
	for f, want := range map[units.Frequency][2]float64{1000: {0.5, 0.003}, 1500: {0.74, 0.003}, 1800: {0.53, 0.22}, 2000: {1, 0}} {
		if s := r.speed[0][f]; math.Abs(s.value-want[0]) > 1e-9 || s.err > want[1] || s.err < 0.9*want[1]-0.003 {
			t.Errorf("%v: %+v, want %v", f, s, want)
		}
	}
}
