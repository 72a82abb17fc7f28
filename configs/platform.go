package configs

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

//go:embed platforms/*.yaml
var platforms embed.FS

// PlatformNames returns the names of the platforms that come with powerd.
func PlatformNames() []string {
	entries, err := platforms.ReadDir("platforms")
	if err != nil {
		panic(err) // the files are in the program
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	return out
}

// LoadPlatform reads a platform: one that comes with powerd by its name, or a
// file by its path.
func LoadPlatform(nameOrPath string) (energy.Platform, error) {
	if data, err := platforms.ReadFile(path.Join("platforms", nameOrPath+".yaml")); err == nil {
		return ParsePlatform(nameOrPath+".yaml", data)
	}
	data, err := os.ReadFile(nameOrPath)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) && !strings.ContainsAny(nameOrPath, "/.") {
			return energy.Platform{}, fmt.Errorf("cannot find platform %q: want a file or one of %s", nameOrPath, strings.Join(PlatformNames(), ", "))
		}
		return energy.Platform{}, fmt.Errorf("cannot read platform: %v", err)
	}
	return ParsePlatform(nameOrPath, data)
}

type rawPlatform struct {
	Name               *string      `yaml:"name"`
	Source             *string      `yaml:"source"`
	OPPs               []rawOPP     `yaml:"opps"`
	DynamicCoefficient *float64     `yaml:"dynamic_coefficient"`
	FixedVoltage       *bool        `yaml:"fixed_voltage"`
	StaticPower        *rawStatic   `yaml:"static_power"`
	AwakeIdle          *string      `yaml:"awake_idle"`
	Idle               []rawState   `yaml:"idle"`
	Workload           *rawWorkload `yaml:"workload"`
	Cluster            *rawCluster  `yaml:"cluster"`
	MeasuredOn         *rawMachine  `yaml:"measured_on"`
}

type rawOPP struct {
	Freq    *string  `yaml:"freq"`
	Voltage *string  `yaml:"voltage"`
	Power   *string  `yaml:"power"`
	Dynamic *string  `yaml:"dynamic"`
	Static  *string  `yaml:"static"`
	Perf    *float64 `yaml:"perf"`
}

type rawMachine struct {
	Model *string `yaml:"model"`
	CPUs  *string `yaml:"cpus"`
}

type rawStatic struct {
	Constant     *string `yaml:"constant"`
	AtMaxVoltage *string `yaml:"at_max_voltage"`
}

type rawState struct {
	Name       *string `yaml:"name"`
	Power      *string `yaml:"power"`
	Entry      *string `yaml:"entry"`
	Exit       *string `yaml:"exit"`
	Residency  *string `yaml:"residency"`
	Transition *string `yaml:"transition_energy"`
}

type rawWorkload struct {
	Work     oneOrMore `yaml:"work"`
	Window   *string   `yaml:"window"`
	CPUBound *float64  `yaml:"cpu_bound"`
	Stall    *float64  `yaml:"stall_dynamic"`
	CanSleep *bool     `yaml:"can_sleep"`
}

type rawCluster struct {
	Cores *int    `yaml:"cores"`
	Power *string `yaml:"power"`
	Sleep *string `yaml:"sleep_power"`
}

// oneOrMore is a string or a list of strings.
type oneOrMore struct {
	values []string
	list   bool
}

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (o *oneOrMore) UnmarshalYAML(unmarshal func(any) error) error {
	var one string
	if err := unmarshal(&one); err == nil {
		*o = oneOrMore{values: []string{one}}
		return nil
	}
	o.list = true
	return unmarshal(&o.values)
}

var _ yaml.InterfaceUnmarshaler = (*oneOrMore)(nil)

// ParsePlatform resolves a platform file. Name is for its errors.
func ParsePlatform(name string, data []byte) (energy.Platform, error) {
	var raw rawPlatform
	d, err := decode(name, data, &raw)
	if err != nil {
		return energy.Platform{}, err
	}
	r := platformReader{d: d}
	p := r.resolve(raw)
	if err := errors.Join(r.errs...); err != nil {
		return energy.Platform{}, err
	}
	return p, nil
}

type platformReader struct {
	d    document
	errs []error
}

func (r *platformReader) fail(path []any, format string, args ...any) {
	r.errs = append(r.errs, r.d.errorf(path, format, args...))
}

// huge bounds what is read: a megawatt is 1e12 uW, and a product of two quantities
// must stay far from infinity.
const huge = 1e15

// quantity reads an optional quantity; what is left out is 0.
func quantity[T ~float64 | ~uint64](r *platformReader, s *string, parse func(string) (T, error), path ...any) T {
	var zero T
	if s == nil {
		return zero
	}
	v, err := parse(*s)
	if err != nil {
		r.fail(path, "%v", err)
		return zero
	}
	if float64(v) > huge {
		r.fail(path, "%s is too large", *s)
		return zero
	}
	return v
}

// share reads an optional number from 0 to 1.
func (r *platformReader) share(v *float64, otherwise float64, path ...any) float64 {
	if v == nil {
		return otherwise
	}
	if !(*v >= 0 && *v <= 1) {
		r.fail(path, "%g is not between 0 and 1", *v)
		return otherwise
	}
	return *v
}

func (r *platformReader) resolve(raw rawPlatform) energy.Platform {
	p := energy.Platform{Name: deref(raw.Name), Source: deref(raw.Source), FixedVoltage: deref(raw.FixedVoltage)}
	if p.Name == "" {
		p.Name = strings.TrimSuffix(path.Base(r.d.name), ".yaml")
	}
	r.opps(&p, raw)
	r.idle(&p, raw)
	r.workload(&p, raw)
	r.cluster(&p, raw)
	r.machine(&p, raw)
	return p
}

func (r *platformReader) opps(p *energy.Platform, raw rawPlatform) {
	if len(raw.OPPs) == 0 {
		r.fail([]any{"opps"}, "a platform needs operating points, e.g. [{freq: 1800MHz, voltage: 1200mV}]")
		return
	}
	if len(raw.OPPs) > maxOPPs {
		r.fail([]any{"opps"}, "%d operating points are more than %d", len(raw.OPPs), maxOPPs)
		return
	}
	coefficient := deref(raw.DynamicCoefficient)
	if !(coefficient >= 0 && coefficient <= huge) {
		r.fail([]any{"dynamic_coefficient"}, "%g is not a number of uW per MHz per V^2", coefficient)
	}
	var constant, atMax units.Power
	if s := raw.StaticPower; s != nil {
		if (s.Constant == nil) == (s.AtMaxVoltage == nil) {
			r.fail([]any{"static_power"}, "want either constant or at_max_voltage")
		}
		constant = quantity(r, s.Constant, units.ParsePower, "static_power", "constant")
		atMax = quantity(r, s.AtMaxVoltage, units.ParsePower, "static_power", "at_max_voltage")
	}

	type point struct {
		cpufreq.OPP
		v    units.Voltage
		perf float64
		at   int
		own  bool // it has a static power of its own
	}
	var points []point
	var vmax units.Voltage
	withPerf := 0
	for i, o := range raw.OPPs {
		pt := point{at: i, perf: deref(o.Perf)}
		pt.Frequency = quantity(r, o.Freq, units.ParseFrequency, "opps", i, "freq")
		pt.v = quantity(r, o.Voltage, units.ParseVoltage, "opps", i, "voltage")
		vmax = max(vmax, pt.v)
		switch {
		case o.Freq == nil:
			r.fail([]any{"opps", i}, "an operating point needs a freq")
		case pt.Frequency == 0 && len(r.errs) == 0:
			r.fail([]any{"opps", i, "freq"}, "a frequency of 0 does no work")
		case o.Voltage != nil && pt.v == 0 && len(r.errs) == 0:
			r.fail([]any{"opps", i, "voltage"}, "no core runs at 0 V")
		}
		if o.Perf != nil {
			withPerf++
			if !(pt.perf >= 1/huge && pt.perf <= huge) {
				r.fail([]any{"opps", i, "perf"}, "%g is not a speed above 0", pt.perf)
			}
		}
		switch {
		case o.Power != nil && o.Dynamic != nil:
			r.fail([]any{"opps", i}, "want either power, which is all of it, or dynamic")
		case o.Power != nil:
			pt.Measured = true
			pt.Dynamic = quantity(r, o.Power, units.ParsePower, "opps", i, "power")
		case o.Dynamic != nil:
			pt.Dynamic = quantity(r, o.Dynamic, units.ParsePower, "opps", i, "dynamic")
		case o.Voltage == nil:
			r.fail([]any{"opps", i}, "want a voltage (with dynamic_coefficient), a power, or a dynamic power")
		case raw.DynamicCoefficient == nil:
			r.fail([]any{"dynamic_coefficient"}, "it is needed, for opps[%d] has no power of its own", i)
		}
		if o.Static != nil {
			pt.own = true
			pt.Static = quantity(r, o.Static, units.ParsePower, "opps", i, "static")
		}
		if atMax > 0 && o.Voltage == nil && !p.FixedVoltage && !pt.own {
			r.fail([]any{"opps", i}, "static_power.at_max_voltage needs the voltage of every operating point")
		}
		points = append(points, pt)
	}
	if withPerf != 0 && withPerf != len(points) {
		r.fail([]any{"opps"}, "%d of %d operating points have perf: want all or none", withPerf, len(points))
	}
	if len(r.errs) > 0 {
		return
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.Frequency, b.Frequency) })
	fastest := 0.0
	for i := range points {
		if i > 0 && points[i].Frequency == points[i-1].Frequency {
			r.fail([]any{"opps", points[i].at, "freq"}, "%v is there twice", points[i].Frequency)
		}
		if withPerf == 0 {
			points[i].perf = float64(points[i].Frequency)
		}
		if i > 0 && points[i].perf < points[i-1].perf {
			r.fail([]any{"opps", points[i].at, "perf"}, "%g is slower than the next lower clock's %g", points[i].perf, points[i-1].perf)
		}
		fastest = points[i].perf
	}
	for _, pt := range points {
		pt.Speed = pt.perf / fastest
		v := pt.v
		if p.FixedVoltage {
			v = vmax
		}
		if o := raw.OPPs[pt.at]; !pt.Measured && o.Dynamic == nil {
			pt.Dynamic = units.Power(coefficient * v.Volts() * v.Volts() * pt.Frequency.MHz())
		}
		if !pt.own {
			pt.Static = constant
		}
		switch {
		case pt.own:
		case atMax > 0 && p.FixedVoltage:
			pt.Static = atMax
		case atMax > 0 && vmax > 0:
			pt.Static = atMax * units.Power(float64(v)/float64(vmax))
		}
		p.Curve.OPPs = append(p.Curve.OPPs, pt.OPP)
	}
}

// maxOPPs and maxIdle bound tables far above real ones, of 32 and 10.
const (
	maxOPPs = 1024
	maxIdle = 64
)

func parseAwake(s string) (units.Power, error) {
	v, err := units.ParsePower(s)
	if err != nil {
		return 0, fmt.Errorf("want a power, spin or gated: %v", err)
	}
	return v, nil
}

func (r *platformReader) idle(p *energy.Platform, raw rawPlatform) {
	switch a := deref(raw.AwakeIdle); a {
	case "", "gated":
		p.Awake = energy.AwakeGated
	case "spin":
		p.Awake = energy.AwakeSpin
	default:
		p.Awake = energy.AwakePower
		p.AwakePower = quantity(r, raw.AwakeIdle, parseAwake, "awake_idle")
	}
	if len(raw.Idle) > maxIdle {
		r.fail([]any{"idle"}, "%d idle states are more than %d", len(raw.Idle), maxIdle)
		return
	}
	seen := map[string]bool{}
	for i, s := range raw.Idle {
		m := cstates.Model{
			Name:       deref(s.Name),
			Power:      quantity(r, s.Power, units.ParsePower, "idle", i, "power"),
			Entry:      quantity(r, s.Entry, units.ParseSeconds, "idle", i, "entry"),
			Exit:       quantity(r, s.Exit, units.ParseSeconds, "idle", i, "exit"),
			Residency:  quantity(r, s.Residency, units.ParseSeconds, "idle", i, "residency"),
			Transition: quantity(r, s.Transition, units.ParseCost, "idle", i, "transition_energy"),
		}
		switch {
		case m.Name == "":
			r.fail([]any{"idle", i}, "an idle state needs a name")
		case m.Name == cstates.Awake || m.Name == "none" || seen[m.Name]:
			r.fail([]any{"idle", i, "name"}, "%q is taken", m.Name)
		case s.Power == nil:
			r.fail([]any{"idle", i}, "idle state %s needs a power", m.Name)
		}
		seen[m.Name] = true
		p.Idle = append(p.Idle, m)
	}
}

func (r *platformReader) workload(p *energy.Platform, raw rawPlatform) {
	w := raw.Workload
	if w == nil {
		w = &rawWorkload{}
	}
	p.Workload = energy.Workload{
		CPUBound: r.share(w.CPUBound, 1, "workload", "cpu_bound"),
		Stall:    r.share(w.Stall, 1, "workload", "stall_dynamic"),
		CanSleep: w.CanSleep == nil || *w.CanSleep,
		Window:   quantity(r, w.Window, units.ParseSeconds, "workload", "window"),
	}
	switch {
	case raw.Workload == nil:
		r.fail(nil, "a platform needs a workload, e.g. workload: {work: 30ms, window: 100ms}")
		return
	case w.Window == nil:
		r.fail([]any{"workload"}, "it needs a window")
	case p.Workload.Window == 0 && len(r.errs) == 0:
		r.fail([]any{"workload", "window"}, "a window of no length fits no work")
	}
	some := false
	for i, s := range w.Work.values {
		path := []any{"workload", "work"}
		if w.Work.list {
			path = append(path, i)
		}
		v := quantity(r, &s, units.ParseSeconds, path...)
		some = some || v > 0
		p.Workload.Work = append(p.Workload.Work, v)
	}
	switch {
	case len(w.Work.values) == 0:
		r.fail([]any{"workload"}, "it needs work: the time the job takes at the fastest operating point")
	case !some && len(r.errs) == 0:
		r.fail([]any{"workload", "work"}, "there is none to do")
	case raw.Cluster == nil && len(w.Work.values) > 1:
		r.fail([]any{"workload", "work"}, "a list, one a core, goes with a cluster")
	}
}

func (r *platformReader) cluster(p *energy.Platform, raw rawPlatform) {
	c := raw.Cluster
	if c == nil {
		return
	}
	p.Cluster = &energy.Cluster{
		Cores: deref(c.Cores),
		Power: quantity(r, c.Power, units.ParsePower, "cluster", "power"),
		Sleep: quantity(r, c.Sleep, units.ParsePower, "cluster", "sleep_power"),
	}
	if p.Cluster.Cores < 1 || p.Cluster.Cores > 4096 {
		r.fail([]any{"cluster", "cores"}, "%d is not a number of cores from 1 to 4096", p.Cluster.Cores)
		return
	}
	if n := len(p.Workload.Work); n > p.Cluster.Cores {
		r.fail([]any{"workload", "work"}, "%d jobs for %d cores: want one a core at the most", n, p.Cluster.Cores)
	}
}

func (r *platformReader) machine(p *energy.Platform, raw rawPlatform) {
	if raw.MeasuredOn == nil {
		return
	}
	p.MeasuredOn = &energy.Machine{Model: deref(raw.MeasuredOn.Model)}
	cpus, err := cpuset.Parse(deref(raw.MeasuredOn.CPUs))
	if err != nil || cpus.Empty() {
		r.fail([]any{"measured_on", "cpus"}, "%q is no list of cpus such as 0-3,8", deref(raw.MeasuredOn.CPUs))
	}
	p.MeasuredOn.CPUs = cpus
}
