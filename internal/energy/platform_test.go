package energy

import (
	"math"
	"testing"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// two is a core of two OPPs: 1 GHz at 1 W and 2 GHz at 4 W, static power 0.5 W in
// both, idling clock-gated or in a state of 0.1 W.
func two() Platform {
	return Platform{
		Curve: cpufreq.Curve{OPPs: []cpufreq.OPP{
			{Frequency: 1 * units.GHz, Speed: 0.5, Dynamic: 1e6, Static: 0.5e6},
			{Frequency: 2 * units.GHz, Speed: 1, Dynamic: 4e6, Static: 0.5e6},
		}},
		Idle:     []cstates.Model{{Name: "C6", Power: 0.1e6, Entry: 0.001, Exit: 0.001, Residency: 0.004, Transition: 400}},
		Workload: Workload{Work: []units.Seconds{0.030}, Window: 0.100, CPUBound: 1, Stall: 1, CanSleep: true},
	}
}

func near(got, want float64) bool { return math.Abs(got-want) <= 1e-9*math.Max(1, math.Abs(want)) }

func TestChooseByHand(t *testing.T) {
	c := two().Choose()
	// 1 GHz: 60 ms at 1.5 W = 90 000 uJ; gap 40 ms: 38 ms at 0.1 W + 400 = 4 200.
	// 2 GHz: 30 ms at 4.5 W = 135 000; gap 70 ms: 68 ms at 0.1 W + 400 = 7 200.
	if !near(float64(c.Points[0].Energy), 94200) || !near(float64(c.Points[1].Energy), 142200) {
		t.Errorf("energies %v, %v", float64(c.Points[0].Energy), float64(c.Points[1].Energy))
	}
	// (1.5-0.1) x 2 = 2.8 < (4.5-0.1) x 1.
	if c.Critical != 0 || c.Best != 0 || c.Rule != RowCritical || c.RuleCostsMore || c.Points[0].Idle != "C6" {
		t.Errorf("%+v", c)
	}

	// A window of 40 ms: 1 GHz is too slow alone. The mix spends t at 2 GHz:
	// with no gap t + (40 - t)/2 = 30, t = 20 ms: 20 x 4.5 + 20 x 1.5 = 120 000 uJ.
	p := two()
	p.Workload.Window = 0.040
	c = p.Choose()
	if c.Points[0].Feasible || c.Best != 1 || len(c.Mix) != 2 || !near(float64(c.MixEnergy), 120000) || !near(float64(c.Mix[1].Time), 0.020) {
		t.Errorf("best %d, mix %v costs %v", c.Best, c.Mix, float64(c.MixEnergy))
	}

	// Nothing is feasible.
	p.Workload.Window = 0.029
	c = p.Choose()
	if c.Best != -1 || c.Mix != nil || c.RuleOPP != -1 || c.Critical != 0 {
		t.Errorf("%+v", c)
	}

	// No sleep, the clock gated: the slowest that keeps up. 90 000 + 40 ms x 0.5 W.
	p = two()
	p.Workload.CanSleep = false
	c = p.Choose()
	if c.Rule != RowSlowest || c.RuleOPP != 0 || !near(float64(c.Points[0].Energy), 110000) || c.Points[0].Idle != cstates.Awake {
		t.Errorf("%+v", c)
	}
	// Spinning: the whole window at its own power, 150 000 and 450 000.
	p.Awake = AwakeSpin
	c = p.Choose()
	if !near(float64(c.Points[0].Energy), 150000) || !near(float64(c.Points[1].Energy), 450000) {
		t.Errorf("spin: %v, %v", float64(c.Points[0].Energy), float64(c.Points[1].Energy))
	}

	// Half the work waits for memory, a quarter of the power stays meanwhile:
	// tau = 0.5/0.5 + 0.5 = 1.5; P = 1 x (1 + 0.25 x 0.5)/1.5 + 0.5 = 1.25 W.
	p = two()
	p.Workload.CPUBound, p.Workload.Stall = 0.5, 0.25
	c = p.Choose()
	if !near(float64(c.Points[0].Power), 1.25e6) || !near(float64(c.Points[0].Time), 0.045) {
		t.Errorf("%v in %v", c.Points[0].Power, c.Points[0].Time)
	}

	// A gap shorter than the residency is spent awake; one equal to it may sleep.
	p = two()
	p.Workload.Work = []units.Seconds{0.048}
	if c = p.Choose(); c.Points[0].Idle != "C6" {
		t.Errorf("a gap of 4 ms is spent in %s", c.Points[0].Idle)
	}
	p.Workload.Work = []units.Seconds{0.0481}
	if c = p.Choose(); c.Points[0].Idle != cstates.Awake {
		t.Errorf("a gap of 3.8 ms is spent in %s", c.Points[0].Idle)
	}
}

// Two cores on the clock of two, 0.6 W around them, jobs of 10 and 20 ms.
func TestClusterByHand(t *testing.T) {
	p := two()
	p.Cluster = &Cluster{Cores: 2, Power: 0.6e6, Sleep: 5e3}
	p.Workload.Work = []units.Seconds{0.020, 0.010}
	// 1 GHz: 20 ms x (2 x 1.5 + 0.6) + 20 ms x (1.5 + 0.1 + 0.6) = 116 mJ, 60 ms x 5 mW.
	// 2 GHz: 10 ms x (2 x 4.5 + 0.6) + 10 ms x (4.5 + 0.1 + 0.6) = 148 mJ, 80 ms x 5 mW.
	c := p.Choose()
	if !near(float64(c.Points[0].Energy), 116300) || !near(float64(c.Points[1].Energy), 148400) {
		t.Errorf("energies %v, %v", float64(c.Points[0].Energy), float64(c.Points[1].Energy))
	}
	if c.Critical != 0 || c.Best != 0 || c.Deepest != 5e3 || c.Points[0].Idle != clusterSleep || !near(float64(c.Points[0].Time), 0.040) {
		t.Errorf("%+v", c)
	}

	// In 25 ms: time is cheaper to save when one core is busy, so all of that
	// is at 2 GHz, 52 mJ, and half of the rest, 36 + 48 mJ.
	p.Workload.Window = 0.025
	c = p.Choose()
	if len(c.Mix) != 2 || !near(float64(c.MixEnergy), 136000) || !near(float64(c.Mix[0].Time), 0.010) || !near(float64(c.Mix[1].Time), 0.015) {
		t.Errorf("mix %v costs %v", c.Mix, float64(c.MixEnergy))
	}

	// 6 W around them: 180 + 152 mJ against 150 + 106 mJ.
	p.Cluster.Power, p.Workload.Window = 6e6, 0.100
	if c = p.Choose(); c.Critical != 1 || c.Rule != RowCritical || c.RuleOPP != 1 {
		t.Errorf("%+v", c)
	}

	// A cluster can sleep though its cores cannot.
	p.Idle = nil
	if c = p.Choose(); c.Rule != RowCritical {
		t.Errorf("rule %s", c.Rule)
	}

	// Awake, gated, 0.6 W around: 20 x 3.6 + 20 x (1.5 + 0.5 + 0.6) + 60 x (0.6 + 2 x 0.5).
	p.Cluster.Power, p.Workload.CanSleep = 0.6e6, false
	if c = p.Choose(); !near(float64(c.Points[0].Energy), 220000) || c.Rule != RowSlowest || c.Points[0].Idle != cstates.Awake {
		t.Errorf("%+v", c)
	}
}

// Each row of the lecture's table, and a case in which it costs more.
func TestRules(t *testing.T) {
	fixed := two()
	fixed.FixedVoltage = true
	if c := fixed.Choose(); c.Rule != RowMaximum || c.RuleOPP != 1 || !c.RuleCostsMore || !near(float64(c.RuleEnergy), 142200) {
		t.Errorf("fixed voltage: %+v", c)
	}
	fixed.Workload.CanSleep = false
	if c := fixed.Choose(); c.Rule != RowSlowest {
		t.Errorf("fixed voltage without sleep: %+v", c)
	}

	// 3 W of static power, 0 W of idling awake: slow is 60 ms x 4 = 240 mJ,
	// fast 30 ms x 7 = 210 mJ.
	shared := two()
	shared.Workload.CanSleep, shared.Awake = false, AwakePower
	shared.Curve.OPPs[0].Static, shared.Curve.OPPs[1].Static = 3e6, 3e6
	if c := shared.Choose(); c.Rule != RowSlowest || c.RuleOPP != 0 || c.Best != 1 || !c.RuleCostsMore || !near(float64(c.RuleEnergy), 240000) {
		t.Errorf("shared power without sleep: %+v", c)
	}
	// Then the mix may idle at the cheapest clock, and a single OPP may not.
	shared.Awake = AwakeGated
	shared.Curve.OPPs[0].Static = 1e6
	// 1 GHz: 60 x 2 + 40 x 1 = 160; 2 GHz: 30 x 7 + 70 x 3 = 420.
	if c := shared.Choose(); !near(float64(c.Points[1].Energy), 420000) || !near(float64(c.MixEnergy), 160000) || c.Deepest != 1e6 {
		t.Errorf("clock changed to idle: %+v", c)
	}
}
