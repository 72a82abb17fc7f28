package energy

import (
	"cmp"
	"math"
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// Split divides total by weight, exactly: the parts sum to total to the
// microjoule. Each part is within one microjoule of its true share; the
// remainders go to the largest fractions first (largest remainder method), ties
// to the earlier. Weights that are negative or not numbers count as 0; if all
// are 0 the last part takes everything.
func Split(total units.Energy, weights []float64) []units.Energy {
	parts := make([]units.Energy, len(weights))
	if len(weights) == 0 {
		return parts
	}
	sum := 0.0
	for _, w := range weights {
		sum += clean(w)
	}
	if !(sum > 0) || math.IsInf(sum, 0) {
		parts[len(parts)-1] = total
		return parts
	}
	type rest struct {
		at   int
		frac float64
	}
	rests := make([]rest, len(weights))
	left := total
	for i, w := range weights {
		exact := float64(total) * (clean(w) / sum)
		whole := math.Floor(exact)
		parts[i] = units.Energy(whole)
		left -= parts[i]
		rests[i] = rest{i, exact - whole}
	}
	slices.SortStableFunc(rests, func(a, b rest) int { return -cmp.Compare(a.frac, b.frac) })
	// Rounding can leave a few more microjoules than there are parts, or take a
	// few too many: go round until none is left.
	for i := 0; left != 0; i = (i + 1) % len(rests) {
		step := units.Energy(1)
		if left < 0 {
			step = -1
		}
		parts[rests[i].at] += step
		left -= step
	}
	return parts
}

func clean(w float64) float64 {
	if !(w > 0) {
		return 0
	}
	return w
}

// Method tells where an amount of energy comes from.
type Method string

// Methods.
const (
	Measured Method = "measured" // a meter counted it
	Modelled Method = "modelled" // no meter: the model computed it
)

// A Use is what one container did in an interval: the modelled cost, in
// microjoules, of the time it ran at the frequencies and on the kinds of core
// where it ran.
type Use struct {
	ID   string
	Cost units.Cost
}

// An Interval is the energy of a span of time and its parts.
type Interval struct {
	Energy units.Energy // of the machine, as far as the meter reaches
	Method Method
	Shares []Share      // by container, in the order of the uses
	Other  units.Energy // work that is in no container
	Base   units.Energy // idle and shared power, charged to nobody
}

// A Share is a container's part of an interval.
type Share struct {
	ID     string
	Energy units.Energy
}

// Account divides the energy of an interval among what ran and the base, in
// proportion to what the model says each cost. Measured is nil where no meter
// gave a value; the energy is then the model's sum and says so. The parts sum to
// Interval.Energy exactly.
func Account(measured *units.Energy, uses []Use, other, base units.Cost) Interval {
	weights := make([]float64, 0, len(uses)+2)
	total := other + base
	for _, u := range uses {
		weights = append(weights, float64(u.Cost))
		total += u.Cost
	}
	weights = append(weights, float64(other), float64(base))
	iv := Interval{Energy: total.Energy(), Method: Modelled}
	if measured != nil {
		iv.Energy, iv.Method = *measured, Measured
	}
	parts := Split(iv.Energy, weights)
	iv.Shares = make([]Share, len(uses))
	for i, u := range uses {
		iv.Shares[i] = Share{u.ID, parts[i]}
	}
	iv.Other, iv.Base = parts[len(uses)], parts[len(uses)+1]
	return iv
}

// A Ledger is what has been charged since the daemon started. Containers that
// are gone keep their line, so that the parts always sum to the total.
type Ledger struct {
	Measured, Modelled units.Energy // the two kinds are never mixed up
	Other, Base        units.Energy
	Containers         map[string]units.Energy
}

// Add returns the ledger with an interval added; l itself does not change.
func (l Ledger) Add(iv Interval) Ledger {
	next := l
	next.Containers = make(map[string]units.Energy, len(l.Containers)+len(iv.Shares))
	for id, e := range l.Containers {
		next.Containers[id] = e
	}
	for _, s := range iv.Shares {
		next.Containers[s.ID] += s.Energy
	}
	next.Other += iv.Other
	next.Base += iv.Base
	if iv.Method == Measured {
		next.Measured += iv.Energy
	} else {
		next.Modelled += iv.Energy
	}
	return next
}

// Total is everything charged.
func (l Ledger) Total() units.Energy { return l.Measured + l.Modelled }
