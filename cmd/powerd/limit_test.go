package main

import (
	"math"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// A bound may count nothing twice: a cluster that sleeps draws its sleep power, and no
// more; one that works, its own and its core's.
func TestPlatformHull(t *testing.T) {
	p := energy.Platform{
		Curve:    cpufreq.Curve{OPPs: []cpufreq.OPP{{Frequency: units.GHz, Speed: 1, Dynamic: 2 * units.Watt}}},
		Workload: energy.Workload{Work: []units.Seconds{0.1}, Window: 1, CPUBound: 1, CanSleep: true},
		Cluster:  &energy.Cluster{Cores: 2, Power: units.Watt, Sleep: 100 * units.Milliwatt},
	}
	h, err := platformHull(p)
	if err != nil {
		t.Fatal(err)
	}
	for speed, want := range map[float64]float64{0: 0.1, 1: 3} {
		if got, ok := h.At(speed); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("at speed %v: %v W, want %v", speed, got, want)
		}
	}
}
