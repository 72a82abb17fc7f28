package energy

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/units"
)

func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		total   units.Energy
		weights []float64
		want    []units.Energy
	}{
		{10, []float64{1, 1, 1}, []units.Energy{4, 3, 3}},
		{10, []float64{1, 2, 7}, []units.Energy{1, 2, 7}},
		{1, []float64{0.4, 0.6}, []units.Energy{0, 1}},
		{5, []float64{0, 0}, []units.Energy{0, 5}},
		{5, []float64{math.NaN(), -1, 2}, []units.Energy{0, 0, 5}},
		{0, []float64{1, 2}, []units.Energy{0, 0}},
		{5, nil, []units.Energy{}},
	} {
		if diff := cmp.Diff(tt.want, Split(tt.total, tt.weights)); diff != "" {
			t.Errorf("Split(%d, %v): %s", tt.total, tt.weights, diff)
		}
	}
}

// Whatever the weights, the parts sum to the total and each is within a
// microjoule of its share.
func TestAccountSumsExactly(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var l Ledger
	var want units.Energy
	for range 2000 {
		total := units.Energy(rng.Int64N(1 << uint(1+rng.IntN(50))))
		uses := make([]Use, rng.IntN(200))
		for i := range uses {
			uses[i] = Use{ID: string(rune('a' + rng.IntN(26))), Cost: units.Cost(math.Exp(rng.NormFloat64() * 8))}
		}
		other, base := units.Cost(rng.Float64()*1e6), units.Cost(rng.Float64()*1e6)
		iv := Account(&total, uses, other, base)
		sum := iv.Other + iv.Base
		model := other + base
		for _, u := range uses {
			model += u.Cost
		}
		for i, s := range iv.Shares {
			sum += s.Energy
			if exact := float64(total) * float64(uses[i].Cost/model); math.Abs(float64(s.Energy)-exact) > 1.001+1e-12*exact {
				t.Fatalf("share %v of %v is %d, want %g", uses[i].Cost, model, s.Energy, exact)
			}
		}
		if sum != total || iv.Method != Measured {
			t.Fatalf("parts sum to %d, not %d (%s)", sum, total, iv.Method)
		}
		l = l.Add(iv)
		want += total
	}
	sum := l.Other + l.Base
	for _, e := range l.Containers {
		sum += e
	}
	if sum != want || l.Total() != want || l.Measured != want {
		t.Errorf("the ledger's parts sum to %d, its total is %d, want %d", sum, l.Total(), want)
	}
}

func TestAccountWithoutMeter(t *testing.T) {
	iv := Account(nil, []Use{{"a", 10.4}, {"b", 20.4}}, 0, 5.2)
	if iv.Method != Modelled || iv.Energy != 36 || iv.Shares[0].Energy+iv.Shares[1].Energy+iv.Base+iv.Other != 36 {
		t.Errorf("%+v", iv)
	}
}
