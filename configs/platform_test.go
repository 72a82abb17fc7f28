package configs

import (
	"math"
	"strings"
	"testing"

	"github.com/powerd/powerd/internal/units"
)

func TestPlatformsLoad(t *testing.T) {
	names := PlatformNames()
	if len(names) < 6 {
		t.Fatalf("%d platforms", len(names))
	}
	for _, name := range names {
		p, err := LoadPlatform(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Name != name || p.Source == "" || p.Choose().Best < 0 {
			t.Errorf("%s: name %q, source %q", name, p.Name, p.Source)
		}
		// A residency is the break-even against the shallower states, so no
		// state may be worse than all shallower ones at its own residency.
		for i, s := range p.Idle {
			shallow := p.Curve.OPPs[0].Static.Over(s.Least())
			if i > 0 {
				shallow = p.Idle[i-1].Cost(s.Least())
			}
			if math.Abs(float64(s.Cost(s.Least())-shallow)) > 1e-3*float64(shallow) {
				t.Errorf("%s: %s costs %v at its residency, the shallower state %v", name, s.Name, s.Cost(s.Least()), shallow)
			}
		}
	}
}

// 1800 MHz at 1.2 V and 436 uW/MHz/V^2: 436 x 1.44 x 1800 uW.
func TestPlatformPowers(t *testing.T) {
	p, err := ParsePlatform("x.yaml", []byte(`
opps: [{freq: 1.8GHz, voltage: 1200mV}, {freq: 408MHz, voltage: 0.825V}]
dynamic_coefficient: 436
static_power: {at_max_voltage: 500mW}
workload: {work: 30ms, window: 100ms}
`))
	if err != nil {
		t.Fatal(err)
	}
	top, low := p.Curve.OPPs[1], p.Curve.OPPs[0]
	if math.Abs(float64(top.Dynamic)-436*1.44*1800) > 1e-6 || top.Static != 500*units.Milliwatt {
		t.Errorf("%v + %v", float64(top.Dynamic), top.Static)
	}
	if math.Abs(float64(low.Static)-500e3*0.825/1.2) > 1e-6 || low.Frequency != 408*units.MHz {
		t.Errorf("%+v", low)
	}
	if fixed, err := ParsePlatform("x.yaml", []byte(`
opps: [{freq: 1.8GHz, voltage: 1200mV}, {freq: 408MHz, voltage: 0.825V}]
dynamic_coefficient: 436
fixed_voltage: true
static_power: {at_max_voltage: 500mW}
workload: {work: 30ms, window: 100ms}
`)); err != nil || math.Abs(float64(fixed.Curve.OPPs[0].Dynamic)-436*1.44*408) > 1e-6 || fixed.Curve.OPPs[0].Static != 500*units.Milliwatt {
		t.Errorf("fixed voltage: %+v, %v", fixed.Curve.OPPs, err)
	}
}

func TestPlatformErrors(t *testing.T) {
	const w = "\nworkload: {work: 1ms, window: 2ms}\n"
	for _, tt := range []struct{ in, want string }{
		{"", "a platform needs operating points"},
		{"opps: []" + w, "x.yaml:1:7: opps: a platform needs operating points"},
		{"opps: [{voltage: 1V, power: 1W}]" + w, "opps[0]: an operating point needs a freq"},
		{"opps: [{freq: 1GHz}]" + w, "opps[0]: want a voltage (with dynamic_coefficient) or a power"},
		{"opps: [{freq: 1GHz, voltage: 1V}]" + w, "dynamic_coefficient: it is needed"},
		{"opps: [{freq: 0MHz, power: 1W}]" + w, "a frequency of 0 does no work"},
		{"opps: [{freq: 1GHz, power: 1W}, {freq: 1000MHz, power: 2W}]" + w, "1000 MHz is there twice"},
		{"opps: [{freq: 1GHz, power: 1W, perf: 5}, {freq: 2GHz, power: 2W}]" + w, "1 of 2 operating points have perf"},
		{"opps: [{freq: 1GHz, power: 1W, perf: 5}, {freq: 2GHz, power: 2W, perf: 4}]" + w, "is no faster than"},
		{"opps: [{freq: 1GHz, power: -1W}]" + w, "it is negative"},
		{"opps: [{freq: 1GHz, power: 1W}]\nstatic_power: {}" + w, "want either constant or at_max_voltage"},
		{"opps: [{freq: 1GHz, power: 1W}]\nstatic_power: {at_max_voltage: 1W}" + w, "needs the voltage of every operating point"},
		{"opps: [{freq: 1GHz, power: 1W}]\nawake_idle: maybe" + w, "awake_idle: want a power, spin or gated"},
		{"opps: [{freq: 1GHz, power: 1W}]\nidle: [{power: 1W}]" + w, "an idle state needs a name"},
		{"opps: [{freq: 1GHz, power: 1W}]\nidle: [{name: C1}]" + w, "idle state C1 needs a power"},
		{"opps: [{freq: 1GHz, power: 1W}]", "a platform needs a workload"},
		{"opps: [{freq: 1GHz, power: 1W}]\nworkload: {work: 1ms}", "it needs a window"},
		{"opps: [{freq: 1GHz, power: 1W}]\nworkload: {window: 1ms}", "it needs work"},
		{"opps: [{freq: 1GHz, power: 1W}]\nworkload: {work: 0ms, window: 1ms}", "there is none to do"},
		{"opps: [{freq: 1GHz, power: 1W}]\nworkload: {work: [1ms, 1ms], window: 1ms}", "goes with a cluster"},
		{"opps: [{freq: 1GHz, power: 1W}]\ncluster: {cores: 1}\nworkload: {work: [1ms, 1ms], window: 1ms}", "2 jobs for 1 cores"},
		{"opps: 3" + w, "x.yaml:1:7"},
		{"opps: [{freq: 1GHz, power: 1W, color: red}]" + w, `unknown field "color"`},
	} {
		_, err := ParsePlatform("x.yaml", []byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "x.yaml") {
			t.Errorf("%q:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

func FuzzParsePlatform(f *testing.F) {
	for _, name := range PlatformNames() {
		data, err := platforms.ReadFile("platforms/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("opps: [{freq: 1GHz, power: 1W}]\ncluster: {cores: 2}\nworkload: {work: [1ms, 1ms], window: 1ms}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePlatform("x.yaml", data)
		if err != nil {
			if !strings.Contains(err.Error(), "x.yaml") {
				t.Errorf("the error names no file: %v", err)
			}
			return
		}
		c := p.Choose()
		if c.Best >= 0 && (math.IsNaN(float64(c.MixEnergy)) || float64(c.MixEnergy) > float64(c.Points[c.Best].Energy)*(1+1e-6)+1e-6) {
			t.Errorf("mix %v, best %v", c.MixEnergy, c.Points[c.Best].Energy)
		}
	})
}
