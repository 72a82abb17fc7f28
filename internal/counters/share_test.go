package counters

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

// work takes core + wait x clock cycles for an instruction, give or take noise.
type work struct{ core, wait, noise float64 }

func (w work) cycles(ghz float64, rng *rand.Rand) float64 {
	return (w.core + w.wait*ghz) * math.Max(0.05, 1+w.noise*rng.NormFloat64())
}

// share is what scales with the clock at a fastest of 2 GHz.
func (w work) share() float64 { return w.core / (w.core + 2*w.wait) }

// teach gives a share seconds of work at some clocks by turns.
func teach(s Share, w work, rng *rand.Rand, seconds int, ghz ...float64) Share {
	for i := range seconds {
		f := ghz[i%len(ghz)]
		s = s.Learn(units.Frequency(f*float64(units.GHz)), w.cycles(f, rng), 1)
	}
	return s
}

const fastest = 2 * units.GHz

func TestShare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	half := work{core: 0.8, wait: 0.4}
	for _, tt := range []struct {
		name     string
		s        Share
		low, top float64
		known    bool
	}{
		{"nothing seen", Share{}, 1, 1, false},
		{"one clock", teach(Share{}, half, rng, 100, 1.2), 1, 1, false},
		{"a second clock once", teach(teach(Share{}, half, rng, 1, 2), half, rng, 100, 1.2), 1, 1, false},
		{"a second clock twice", teach(teach(Share{}, half, rng, 2, 2), half, rng, 100, 1.2), 0.5, 0.65, true},
		{"two clocks", teach(Share{}, half, rng, 60, 1.2, 2), 0.5, 0.55, true},
		{"two that are near", teach(Share{}, half, rng, 60, 1.9, 2), 0.5, 0.7, true},
		{"all scales", teach(Share{}, work{core: 0.8}, rng, 60, 0.5, 1, 2), 1, 1, true},
		{"nothing scales", teach(Share{}, work{wait: 0.4}, rng, 60, 0.5, 1, 2), 0, 0.1, true},
		{"cheaper at a fast clock", teach(Share{}, work{core: 2, wait: -0.4}, rng, 60, 0.5, 1, 2), 1, 1, true},
		{"steeper than any wait", teach(Share{}, work{core: -0.4, wait: 1}, rng, 60, 0.5, 1, 2), 1, 1, false},
		{"as noisy as it is steep", teach(Share{}, work{0.8, 0.05, 0.5}, rng, 40, 1.2, 2), 1, 1, false},
	} {
		if got, known := tt.s.CPUBound(fastest); !(got >= tt.low && got <= tt.top) || known != tt.known {
			t.Errorf("%s: %.3f, %t, want %g to %g, %t", tt.name, got, known, tt.low, tt.top, tt.known)
		}
	}
}

// Whatever the work, the noise and the clocks, a share is one, it is rarely lower than the
// truth, and near it where the clocks are far apart and the noise is not.
func TestShareProperties(t *testing.T) {
	low, n := 0, 0
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := work{core: 3 * rng.Float64(), wait: 2 * rng.Float64(), noise: []float64{0, 0.02, 0.1, 0.5}[seed%4]}
		var clocks []float64
		for range 1 + rng.IntN(6) {
			clocks = append(clocks, 0.3+1.9*rng.Float64())
		}
		s := Share{}
		for range 1 + rng.IntN(200) {
			s = teach(s, w, rng, 1, clocks[rng.IntN(len(clocks))])
			if a, _ := s.CPUBound(fastest); !(a >= 0 && a <= 1) {
				t.Fatalf("seed %d: %g of %+v", seed, a, w)
			}
		}
		a, known := s.CPUBound(fastest)
		if !known {
			continue
		}
		n++
		if a < w.share()-0.02 {
			low++
		}
		far := 0.0
		for _, c := range clocks {
			far = max(far, math.Abs(c/clocks[0]-1))
		}
		if s = teach(s, w, rng, 200, clocks...); far > 0.5 && w.noise <= 0.02 {
			if a, _ := s.CPUBound(fastest); math.Abs(a-w.share()) > 0.12 {
				t.Errorf("seed %d: %.3f of %+v at %.2f, want %.3f", seed, a, w, clocks, w.share())
			}
		}
	}
	if n < 1000 || low > n/20 {
		t.Errorf("%d of %d are too low", low, n)
	}
}

// Samples that are none change nothing; tiny weights do no harm.
func TestShareTakesNoNonsense(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	s := teach(Share{}, work{core: 0.8, wait: 0.4}, rng, 60, 1.2, 2)
	want, _ := s.CPUBound(fastest)
	for _, bad := range [][2]float64{{0, 1}, {-1, 1}, {math.NaN(), 1}, {math.Inf(1), 1}, {1, 0}, {1, math.NaN()}, {1, -1}} {
		s = s.Learn(2*units.GHz, bad[0], bad[1])
	}
	s = s.Learn(0, 1, 1)
	if got, ok := s.CPUBound(fastest); got != want || !ok {
		t.Errorf("nonsense moved it from %g to %g", want, got)
	}
	if _, ok := s.CPUBound(0); ok {
		t.Error("a share at no clock is known")
	}
	for range 100 {
		s = s.Learn(2*units.GHz, 100, 1e-12)
	}
	if got, _ := s.CPUBound(fastest); math.Abs(got-want) > 0.01 {
		t.Errorf("next to nothing moved it from %g to %g", want, got)
	}
}

// Other work in the same container is soon taken for what it is: at one clock that is not
// known, at two it is learned anew. One odd second changes little.
func TestShareFollows(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	bound, waits := work{0.8, 0.05, 0.01}, work{0.6, 0.6, 0.01}
	s := teach(Share{}, bound, rng, 300, 1.2, 2)
	before, _ := s.CPUBound(fastest)
	odd := teach(teach(s, waits, rng, 1, 2), bound, rng, 20, 1.2)
	if a, ok := odd.CPUBound(fastest); !ok || math.Abs(a-before) > 0.1 {
		t.Errorf("an odd second moved it from %.3f to %.3f, %t", before, a, ok)
	}
	s = teach(s, waits, rng, 5, 1.2)
	if a, ok := s.CPUBound(fastest); ok {
		t.Errorf("after 5 s of other work at one clock the share is said to be %.3f", a)
	}
	s = teach(s, waits, rng, 5, 2)
	if a, ok := s.CPUBound(fastest); !ok || math.Abs(a-waits.share()) > 0.1 {
		t.Errorf("after 5 s more at another it is %.3f, %t, want %.3f", a, ok, waits.share())
	}
	s = teach(s, bound, rng, 12, 1.2, 2)
	if a, ok := s.CPUBound(fastest); !ok || math.Abs(a-bound.share()) > 0.1 {
		t.Errorf("back at the first work it is %.3f, %t, want %.3f", a, ok, bound.share())
	}
}

// What was taken for a wait, and was another phase of the work, does not outlive a look at
// a third clock.
func TestShareIsRefuted(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	s := teach(Share{}, work{1.1, 0, 0.01}, rng, 5, 2)
	s = teach(s, work{0.7, 0, 0.01}, rng, 10, 1.2)
	if a, ok := s.CPUBound(fastest); !ok || a > 0.6 {
		t.Fatalf("two phases at two clocks look like %.3f, %t", a, ok)
	}
	s = teach(s, work{0.7, 0, 0.01}, rng, 5, 0.8)
	if a, ok := s.CPUBound(fastest); ok && a < 0.9 {
		t.Errorf("a third clock leaves it at %.3f", a)
	}
}

// What was seen at another clock is forgotten some time, and then the share is not known.
func TestShareForgets(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	s := teach(Share{}, work{0.8, 0.4, 0.01}, rng, 10, 2)
	s = teach(s, work{0.8, 0.4, 0.01}, rng, 600, 1.2)
	if _, ok := s.CPUBound(fastest); !ok {
		t.Error("it is forgotten after ten minutes")
	}
	s = teach(s, work{0.8, 0.4, 0.01}, rng, 1800, 1.2)
	if _, ok := s.CPUBound(fastest); ok {
		t.Error("it is not forgotten after another half an hour")
	}
}
