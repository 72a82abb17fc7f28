package main

import (
	"math"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// A bound may count nothing twice: a cluster that sleeps draws its sleep power, and no
// more; one that works, its own, its busy cores' and that of all others.
func TestPlatformCluster(t *testing.T) {
	p := energy.Platform{
		Curve: cpufreq.Curve{OPPs: []cpufreq.OPP{
			{Frequency: units.GHz, Speed: 0.5, Dynamic: units.Watt, Static: 200 * units.Milliwatt},
			{Frequency: 2 * units.GHz, Speed: 1, Dynamic: 3 * units.Watt, Static: 300 * units.Milliwatt},
		}},
		Workload: energy.Workload{Work: []units.Seconds{0.1}, Window: 1, CPUBound: 0.5, CanSleep: true},
		Cluster:  &energy.Cluster{Cores: 3, Power: units.Watt, Sleep: 100 * units.Milliwatt},
	}
	for _, awake := range []energy.AwakeKind{energy.AwakeGated, energy.AwakeSpin} {
		p.Awake = awake
		c := platformCluster(p, 2)
		if c.Cores != 2 || c.OwnClocks || c.Sleep != 0.1 {
			t.Errorf("%+v", c)
		}
		for i, o := range p.Curve.OPPs {
			idle := o.Static
			if awake == energy.AwakeSpin {
				idle = o.Active()
			}
			for busy := 1; busy <= 2; busy++ {
				want := (units.Watt + units.Power(busy)*o.Active() + units.Power(3-busy)*idle).Watts()
				if got := c.Around[i] + float64(busy)*c.Power[i] + float64(2-busy)*c.Idle; math.Abs(got-want) > 1e-9 {
					t.Errorf("%v, %d cores at %v: %v W, want %v", awake, busy, o.Frequency, got, want)
				}
			}
		}
	}
}

// A core's idle power is its deepest state's.
func TestPlatformHull(t *testing.T) {
	p := energy.Platform{
		Curve:    cpufreq.Curve{OPPs: []cpufreq.OPP{{Frequency: units.GHz, Speed: 1, Dynamic: 2 * units.Watt}}},
		Workload: energy.Workload{Work: []units.Seconds{0.1}, Window: 1, CPUBound: 1, CanSleep: true},
		Idle:     []cstates.Model{{Name: "C6", Power: 100 * units.Milliwatt}},
		Awake:    energy.AwakeSpin,
	}
	h, err := platformHull(p)
	if err != nil {
		t.Fatal(err)
	}
	for speed, want := range map[float64]float64{0: 0.1, 1: 2} {
		if got, ok := h.At(speed); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("at speed %v: %v W, want %v", speed, got, want)
		}
	}
}
