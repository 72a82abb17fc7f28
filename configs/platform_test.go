package configs

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
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

// The critical speeds of real tables when a share of the top OPP's power is
// shared and sleeps away, and sleep takes another share of it: P_i and the powers
// below are exact sums, worked out apart from this program.
func TestPlatformCriticalSpeeds(t *testing.T) {
	for _, tt := range []struct {
		name           string
		shared, asleep units.Power // of the top OPP's dynamic power
		speed          float64
	}{
		{"rk3399-a72", 0, 0.02, 0.23}, {"rk3399-a72", 0.1, 0.02, 0.45}, {"rk3399-a72", 0.3, 0.02, 0.56}, {"rk3399-a72", 0.3, 0.2, 0.45},
		{"hi3660-a73", 0, 0.02, 0.38}, {"hi3660-a73", 0.1, 0.02, 0.38}, {"hi3660-a73", 0.3, 0.02, 0.60}, {"hi3660-a73", 0.3, 0.2, 0.38},
	} {
		p, err := LoadPlatform(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		opps := p.Curve.OPPs
		top := opps[len(opps)-1].Dynamic
		for i := range opps {
			opps[i].Static = tt.shared * top
		}
		if got := opps[p.Curve.Critical(tt.asleep*top, 1, 1)].Speed; math.Abs(got-tt.speed) > 0.005 {
			t.Errorf("%s with %g shared, %g asleep: critical speed %.3f, want %g", tt.name, float64(tt.shared), float64(tt.asleep), got, tt.speed)
		}
	}
}

func TestPlatformErrors(t *testing.T) {
	const w = "\nworkload: {work: 1ms, window: 2ms}\n"
	for _, tt := range []struct{ in, want string }{
		{"", "a platform needs operating points"},
		{"opps: []" + w, "x.yaml:1:7: opps: a platform needs operating points"},
		{"opps: [{voltage: 1V, power: 1W}]" + w, "opps[0]: an operating point needs a freq"},
		{"opps: [{freq: 1GHz}]" + w, "opps[0]: want a voltage (with dynamic_coefficient), a power, or a dynamic power"},
		{"opps: [{freq: 1GHz, voltage: 1V}]" + w, "dynamic_coefficient: it is needed"},
		{"opps: [{freq: 0MHz, power: 1W}]" + w, "a frequency of 0 does no work"},
		{"opps: [{freq: 1GHz, power: 1W}, {freq: 1000MHz, power: 2W}]" + w, "1000 MHz is there twice"},
		{"opps: [{freq: 1GHz, power: 1W, perf: 5}, {freq: 2GHz, power: 2W}]" + w, "1 of 2 operating points have perf"},
		{"opps: [{freq: 1GHz, power: 1W, perf: 5}, {freq: 2GHz, power: 2W, perf: 4}]" + w, "opps[1].perf: 4 is slower than the next lower clock's 5"},
		{"opps: [{freq: 1GHz, power: 1W, perf: 0}]" + w, "0 is not a speed above 0"},
		{"opps: [{freq: 1GHz, voltage: 0mV}]\ndynamic_coefficient: 1" + w, "x.yaml:1:30: opps[0].voltage: no core runs at 0 V"},
		{"opps: [{freq: 1GHz, voltage: 1V}]\ndynamic_coefficient: .nan" + w, "NaN is not a number of uW per MHz per V^2"},
		{"opps: [{freq: 1GHz, power: 1e300W}]" + w, "1e300W is too large"},
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
		{"opps: [{freq: 1GHz, power: 1W}]\nworkload: {work: 1ms, window: 2ms, stall_dynamic: .nan}", "x.yaml:2:51: workload.stall_dynamic: NaN is not between 0 and 1"},
		{"opps: [{freq: 1GHz, power: 1W}]\ncluster: {power: 1W}" + w, "0 is not a number of cores"},
		{"opps: [{freq: 1GHz, power: 1W}]\nidle: [" + strings.Repeat("{name: C1, power: 1W}, ", 65) + "]" + w, "65 idle states are more than 64"},
		{"opps: [{freq: 1GHz, power: 1W}]\nidle: [{name: awake, power: 1W}]" + w, `idle[0].name: "awake" is taken`},
		{"opps: [{freq: 1GHz, power: 1W}]\ncluster: {cores: 1}\nworkload: {work: [1ms, 1ms], window: 1ms}", "2 jobs for 1 cores"},
		{"opps: [{freq: 1GHz, power: 1W, dynamic: 1W}]" + w, "x.yaml:1:8: opps[0]: want either power, which is all of it, or dynamic"},
		{"opps: [{freq: 1GHz, dynamic: -1W}]" + w, "opps[0].dynamic: "},
		{"opps: [{freq: 1GHz, dynamic: 1W, static: 1A}]" + w, "opps[0].static: "},
		{"opps: [{freq: 1GHz, power: 1W}]\nmeasured_on: {model: X}" + w, `x.yaml:2:14: measured_on.cpus: "" is no list of cpus`},
		{"opps: [{freq: 1GHz, power: 1W}]\nmeasured_on: {cpus: 3-1}" + w, `measured_on.cpus: "3-1" is no list of cpus`},
		{"opps: 3" + w, "x.yaml:1:7"},
		{"opps: [{freq: 1GHz, power: 1W, color: red}]" + w, `unknown field "color"`},
	} {
		_, err := ParsePlatform("x.yaml", []byte(tt.in))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "x.yaml") {
			t.Errorf("%q:\n got %v\nwant %s", tt.in, err, tt.want)
		}
	}
}

// A platform that is written reads back as it was.
func TestFormatPlatform(t *testing.T) {
	for _, name := range PlatformNames() {
		p, err := LoadPlatform(name)
		if err != nil {
			t.Fatal(err)
		}
		p.FixedVoltage = false // it is in the powers
		p.Name, p.Source = `odd: "name" #1`, "two\nlines\tand a tab, \u00b5"
		p.MeasuredOn = &energy.Machine{Model: "Cortex: A72", CPUs: cpuset.Of(0, 2, 3)}
		p.Cluster = &energy.Cluster{Cores: 4, Power: 1500 * units.Milliwatt, Sleep: units.Milliwatt}
		p.Workload.Work = []units.Seconds{30e-3, 10e-3}
		data := FormatPlatform(p)
		again, err := ParsePlatform("x.yaml", data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) <= 1e-3*math.Max(math.Abs(a), 1e-6) })
		if diff := cmp.Diff(p, again, near, cmp.Comparer(cpuset.Set.Equal), cmp.Comparer(func(a, b units.Power) bool { return math.Abs(float64(a-b)) <= 1 }),
			cmp.Comparer(func(a, b units.Seconds) bool { return math.Abs(float64(a-b)) <= 1e-9 }),
			cmp.Comparer(func(a, b units.Cost) bool { return math.Abs(float64(a-b)) <= 1e-3 })); diff != "" {
			t.Errorf("%s: %s\n%s", name, diff, data)
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
		for _, pt := range c.Points {
			if v := float64(pt.Power) + float64(pt.Time) + float64(pt.Energy); !(v >= 0) || math.IsInf(v, 0) {
				t.Errorf("%+v", pt)
			}
		}
		if c.Best < 0 {
			return
		}
		if mix, best := float64(c.MixEnergy), float64(c.Points[c.Best].Energy); !(mix <= best*(1+1e-6)+1e-6) || len(c.Mix) == 0 {
			t.Errorf("mix %v costs %g, best %g", c.Mix, mix, best)
		}
	})
}
