package cstates

import (
	"math"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

func TestCheapest(t *testing.T) {
	states := []Model{
		{Name: "C1", Power: 200 * units.Milliwatt, Entry: 1e-6, Exit: 1e-6, Residency: 2e-6},
		// Its residency is shorter than entry and exit, as of some real tables.
		{Name: "C6", Power: 10 * units.Milliwatt, Entry: 200e-6, Exit: 300e-6, Residency: 400e-6, Transition: 150},
	}
	for _, tt := range []struct {
		gap  units.Seconds
		name string
		cost float64
	}{
		{1e-6, Awake, 0.3},        // 1 us x 0.3 W: nothing fits
		{2e-6, "C1", 0},           // it fits exactly: all of the gap is transition
		{400e-6, "C1", 79.6},      // C6 is at its residency, but entry and exit are 500 us
		{500e-6, "C1", 99.6},      // C6 fits, and its transitions are 150 uJ
		{1000e-6, "C6", 155},      // 500 us x 10 mW + 150, against 199.6
		{100e-3, "C6", 995 + 150}, // 99.5 ms x 10 mW + 150
	} {
		name, cost := Cheapest(states, tt.gap, 300*units.Milliwatt)
		if name != tt.name || math.Abs(float64(cost)-tt.cost) > 1e-9 {
			t.Errorf("a gap of %v: %s at %g uJ, want %s at %g", tt.gap, name, float64(cost), tt.name, tt.cost)
		}
	}
	if got := Deepest(states, 300*units.Milliwatt); got != 10*units.Milliwatt {
		t.Errorf("deepest %v", got)
	}
	if got := Deepest(nil, 300*units.Milliwatt); got != 300*units.Milliwatt {
		t.Errorf("deepest without states %v", got)
	}
}
