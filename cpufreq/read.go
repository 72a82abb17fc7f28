package cpufreq

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

const cpuDir = "sys/devices/system/cpu"

// A System is what cpufreq offers on a machine.
type System struct {
	Policies []Policy `json:"policies"`
	// Boost is the switch that holds for all policies (0 or 1); drivers with one
	// switch a policy show it there.
	Boost *uint64 `json:"boost"`
	// IntelPState and AMDPState are the drivers' own attributes, as found, e.g.
	// status, no_turbo, prefcore.
	IntelPState map[string]string `json:"intel_pstate"`
	AMDPState   map[string]string `json:"amd_pstate"`
}

// A Policy is a set of cpus whose clock is set together. What the kernel does
// not tell is nil.
type Policy struct {
	// ID is the N of policyN, or of the cpuN that holds it on older kernels.
	ID units.PolicyID `json:"-"`
	// Dir is where its files are, e.g. "sys/devices/system/cpu/cpufreq/policy0",
	// and Path the same below sys/devices/system/cpu.
	Dir  string `json:"-"`
	Path string `json:"path"`
	// Affected are the online cpus, Related the offline ones too.
	Affected *cpuset.Set `json:"affected_cpus"`
	Related  *cpuset.Set `json:"related_cpus"`
	// Inactive tells that every cpu is offline: the kernel answers EBUSY.
	Inactive bool    `json:"inactive,omitempty"`
	Driver   *string `json:"driver"`
	Governor *string `json:"governor"`

	// CPUInfoMin and CPUInfoMax are what the hardware can do, boost included;
	// ScalingMin and ScalingMax are the limits in force.
	CPUInfoMin *units.Frequency `json:"cpuinfo_min_khz"`
	CPUInfoMax *units.Frequency `json:"cpuinfo_max_khz"`
	ScalingMin *units.Frequency `json:"scaling_min_khz"`
	ScalingMax *units.Frequency `json:"scaling_max_khz"`
	// Available and BoostOPPs are the OPPs of drivers that have a table, ascending.
	Available []units.Frequency `json:"available_khz"`
	BoostOPPs []units.Frequency `json:"boost_khz"`
	Governors []string          `json:"available_governors"`
	// Base is the guaranteed clock (intel_pstate's base_frequency).
	Base *units.Frequency `json:"base_khz"`
	// BIOSLimit is the highest clock that ACPI's _PPC allows now.
	BIOSLimit *units.Frequency `json:"bios_limit_khz"`
	// TransitionLatency is in nanoseconds, as found: 4294967295 is "unknown".
	TransitionLatency *string `json:"transition_latency_ns_raw"`
	// EPP is the energy_performance_preference in force, EPPs those to choose from.
	EPP  *string  `json:"epp"`
	EPPs []string `json:"available_epp"`
	// SetSpeed takes a clock under the userspace governor only.
	SetSpeed *string `json:"setspeed_raw"`
	// Boost is the policy's own boost switch (0 or 1).
	Boost *uint64 `json:"boost,omitempty"`
	// LowestNonlinear is the clock below which slower no longer saves energy per
	// unit of work, in the firmware's own word, and AMDMax the highest clock with
	// boost. See Documentation/admin-guide/pm/amd-pstate.rst.
	LowestNonlinear *units.Frequency `json:"amd_lowest_nonlinear_khz,omitempty"`
	AMDMax          *units.Frequency `json:"amd_max_khz,omitempty"`
}

// CPUs returns the cpus of p, online or, where that is not told, all.
func (p Policy) CPUs() cpuset.Set {
	switch {
	case p.Affected != nil:
		return *p.Affected
	case p.Related != nil:
		return *p.Related
	case p.ID >= 0 && p.ID <= units.PolicyID(cpuset.MaxCPU):
		return cpuset.Of(cpuset.CPU(p.ID))
	}
	return cpuset.Set{}
}

// Read reads what cpufreq offers; nil where the machine has none.
func Read(r *sysfs.Reader) *System {
	s := &System{
		Boost:       r.Uint(cpuDir + "/cpufreq/boost"),
		IntelPState: readAll(r, cpuDir+"/intel_pstate", "status", "no_turbo", "min_perf_pct", "max_perf_pct", "num_pstates", "turbo_pct", "hwp_dynamic_boost"),
		AMDPState:   readAll(r, cpuDir+"/amd_pstate", "status", "prefcore"),
	}
	for _, n := range sysfs.Numbered(r.Names(cpuDir+"/cpufreq"), "policy") {
		s.Policies = append(s.Policies, readPolicy(r, n, "cpufreq/policy"+strconv.Itoa(n)))
	}
	if s.Policies == nil {
		s.Policies = readPerCPU(r)
	}
	if s.Policies == nil && s.Boost == nil && s.IntelPState == nil && s.AMDPState == nil {
		return nil
	}
	if s.Policies == nil {
		s.Policies = []Policy{}
	}
	return s
}

// readPerCPU reads the cpuN/cpufreq directories of kernels before 4.3, which
// show one policy at each of its cpus.
func readPerCPU(r *sysfs.Reader) []Policy {
	var out []Policy
	var seen cpuset.Set
	for _, n := range sysfs.Numbered(r.Names(cpuDir), "cpu") {
		path := "cpu" + strconv.Itoa(n) + "/cpufreq"
		if n > int(cpuset.MaxCPU) || r.Names(cpuDir+"/"+path) == nil {
			continue
		}
		p := readPolicy(r, n, path)
		cpus := p.CPUs()
		if seen.Contains(cpuset.CPU(n)) || cpus.Overlaps(seen) {
			continue
		}
		seen = seen.Union(cpus)
		out = append(out, p)
	}
	return out
}

func readAll(r *sysfs.Reader, dir string, names ...string) map[string]string {
	var out map[string]string
	for _, name := range names {
		if s := r.Text(dir + "/" + name); s != nil {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = *s
		}
	}
	return out
}

func readPolicy(r *sysfs.Reader, n int, path string) Policy {
	p := Policy{ID: units.PolicyID(n), Dir: cpuDir + "/" + path, Path: path}
	if _, err := r.FS().ReadFile(p.Dir + "/affected_cpus"); errors.Is(err, syscall.EBUSY) {
		p.Inactive = true // nothing is broken: show() of drivers/cpufreq/cpufreq.c refuses
		return p
	}
	file := func(name string) string { return p.Dir + "/" + name }
	p.Affected = sysfs.Value(r, file("affected_cpus"), parseCPUs)
	p.Related = sysfs.Value(r, file("related_cpus"), parseCPUs)
	p.Inactive = p.Affected != nil && p.Affected.Empty()
	p.Driver = r.Text(file("scaling_driver"))
	p.Governor = r.Text(file("scaling_governor"))
	p.CPUInfoMin = readFrequency(r, file("cpuinfo_min_freq"))
	p.CPUInfoMax = readFrequency(r, file("cpuinfo_max_freq"))
	p.ScalingMin = readFrequency(r, file("scaling_min_freq"))
	p.ScalingMax = readFrequency(r, file("scaling_max_freq"))
	p.Available = readFrequencies(r, file("scaling_available_frequencies"))
	p.BoostOPPs = readFrequencies(r, file("scaling_boost_frequencies"))
	p.Governors = readWords(r, file("scaling_available_governors"))
	p.Base = readFrequency(r, file("base_frequency"))
	p.BIOSLimit = readFrequency(r, file("bios_limit"))
	p.TransitionLatency = r.Text(file("cpuinfo_transition_latency"))
	p.EPP = r.Text(file("energy_performance_preference"))
	p.EPPs = readWords(r, file("energy_performance_available_preferences"))
	p.SetSpeed = r.Text(file("scaling_setspeed"))
	p.Boost = r.Uint(file("boost"))
	p.LowestNonlinear = readFrequency(r, file("amd_pstate_lowest_nonlinear_freq"))
	p.AMDMax = readFrequency(r, file("amd_pstate_max_freq"))
	return p
}

// parseCPUs reads cpufreq's own way to write a set, "0 1 2 3".
func parseCPUs(s string) (cpuset.Set, error) {
	return cpuset.Parse(strings.Join(strings.Fields(s), ","))
}

// parseFrequency reads a clock in kHz, "2800000". Drivers say "<unsupported>" or
// "<unknown>" for what they do not have; that is nil and no error.
func parseFrequency(s string) (*units.Frequency, error) {
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		return nil, nil
	}
	v, err := sysfs.ParseUint(s)
	if err != nil {
		return nil, err
	}
	f := units.Frequency(v)
	return &f, nil
}

func readFrequency(r *sysfs.Reader, file string) *units.Frequency {
	if f := sysfs.Value(r, file, parseFrequency); f != nil {
		return *f
	}
	return nil
}

// parseFrequencies reads a table, "2800000 2100000 1500000", which drivers print
// in any order.
func parseFrequencies(s string) ([]units.Frequency, error) {
	var out []units.Frequency
	for word := range strings.FieldsSeq(s) {
		f, err := parseFrequency(word)
		if err != nil {
			return nil, fmt.Errorf("frequency %v", err)
		}
		if f != nil {
			out = append(out, *f)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func readFrequencies(r *sysfs.Reader, file string) []units.Frequency {
	if f := sysfs.Value(r, file, parseFrequencies); f != nil {
		return *f
	}
	return nil
}

func readWords(r *sysfs.Reader, file string) []string {
	if s := r.Text(file); s != nil {
		return strings.Fields(*s)
	}
	return nil
}
