package daemon

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/powerd/powerd/acpi"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/topology"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// Hardware is what a machine is made of: read at start and again when cpus come
// or go. It is not changed afterwards.
type Hardware struct {
	Topology *topology.Topology
	Policies []cpufreq.Policy
	Idle     *cstates.System
	Machine  placement.Machine // curves as their source has them, nothing learned
	// domainOf is the index of each policy's domain, clockOf of each cpu's.
	domainOf map[units.PolicyID]int
	clockOf  map[cpuset.CPU]int
	// kindOf is for each domain the index of the first one of cores like its.
	kindOf []int
	Meter  *energy.Source // nil: the model must do
	// CPUBound is the share of work's time that is taken to scale with the clock where it
	// is not known: the platform's, or all.
	CPUBound float64
	Warnings []sysfs.Warning
	// measured are the platforms that powerd calibrate made on this machine.
	measured []energy.Platform
}

// readHardware reads a machine and prices it: by what was measured on it, or else by the
// platform, which may be nil, or else by what firmware says.
func readHardware(m sysfs.FS, platform *energy.Platform, calibrated []energy.Platform) *Hardware {
	r := sysfs.NewReader(m)
	h := &Hardware{Topology: topology.Read(r), domainOf: map[units.PolicyID]int{}, clockOf: map[cpuset.CPU]int{}, CPUBound: 1}
	if platform != nil && platform.Workload.Window > 0 { // it has one
		h.CPUBound = platform.Workload.CPUBound
	}
	if s := cpufreq.Read(r); s != nil {
		for _, p := range s.Policies {
			if !p.Inactive && p.CPUs().Overlaps(h.Topology.Online) {
				h.Policies = append(h.Policies, p)
			}
		}
	}
	h.Idle = cstates.Read(r, h.Topology.Online)
	var firmware []map[units.Frequency]units.Power
	for _, pss := range acpi.Read(r).PSS {
		firmware = append(firmware, pss.Power())
	}
	h.cores()
	h.calibrated(r, calibrated)
	h.domains(firmware, platform)
	h.kinds()
	h.Machine.Groups = h.Topology.CacheGroups() // what packing goes by
	h.islands(platform)
	h.Meter = energy.Best(energy.Discover(r))
	h.Warnings = r.Warnings()
	return h
}

// cores fills in the physical cores and the domains they are in, without curves.
func (h *Hardware) cores() {
	t := h.Topology
	// Policies that share a core share a clock, whatever cpufreq says.
	domain := map[cpuset.CPU]int{}
	doms := &h.Machine.Domains
	for _, p := range h.Policies {
		at := -1
		for c := range p.CPUs().All() {
			for sibling := range t.CoreOf(c).All() {
				if i, ok := domain[sibling]; ok {
					at = i
				}
			}
		}
		if at < 0 {
			at = len(*doms)
			*doms = append(*doms, placement.Domain{})
		}
		d := &(*doms)[at]
		d.Policies = append(d.Policies, p.ID)
		d.CPUs = d.CPUs.Union(p.CPUs().Intersect(t.Online))
		h.domainOf[p.ID] = at
		for c := range p.CPUs().All() {
			domain[c] = at
		}
	}
	uncontrolled := -1
	for _, cpus := range t.OnlineCores() {
		at, ok := domain[cpus.Min()]
		if !ok {
			if uncontrolled < 0 {
				uncontrolled = len(*doms)
				*doms = append(*doms, placement.Domain{Source: "the kernel offers no frequency control"})
			}
			at = uncontrolled
			(*doms)[at].CPUs = (*doms)[at].CPUs.Union(cpus)
		}
		h.Machine.Cores = append(h.Machine.Cores, placement.Core{CPUs: cpus, Domain: at, Capacity: 1})
	}
}

// kinds tells which domains' cores are alike.
func (h *Hardware) kinds() {
	capacity := make([]float64, len(h.Machine.Domains))
	for _, c := range h.Machine.Cores {
		capacity[c.Domain] = c.Capacity
		for cpu := range c.CPUs.All() {
			h.clockOf[cpu] = c.Domain
		}
	}
	for d := range h.Machine.Domains {
		kind := d
		for o := range d {
			if h.fastest(o) == h.fastest(d) && capacity[o] == capacity[d] {
				kind = o
				break
			}
		}
		h.kindOf = append(h.kindOf, kind)
	}
}

// fastest is a domain's fastest clock; 0 where it is not known.
func (h *Hardware) fastest(domain int) units.Frequency {
	opps := h.Machine.Domains[domain].Curve.OPPs
	if len(opps) == 0 {
		return 0
	}
	return opps[len(opps)-1].Frequency
}

// calibratedSource is what a domain's prices are said to come from.
const calibratedSource = "measured by powerd calibrate"

// calibrated keeps what was measured on this machine: the same processor, the same cpus,
// the same clocks.
func (h *Hardware) calibrated(r *sysfs.Reader, platforms []energy.Platform) {
	model := ""
	if h.Topology.Model != nil {
		model = *h.Topology.Model
	}
	for _, p := range platforms {
		on := p.MeasuredOn
		why := ""
		switch {
		case on == nil:
			why = "it does not say on which machine it was measured"
		case on.Model != model:
			why = fmt.Sprintf("it is of another processor, %q", on.Model)
		case !h.runsAt(on.CPUs, p.Curve):
			why = fmt.Sprintf("cpus %s have other clocks now", on.CPUs)
		default:
			h.measured = append(h.measured, p)
			continue
		}
		r.Warn("calibration "+p.Name, why)
	}
}

// runsAt reports whether all the cpus that are online have the clocks of a curve, and its
// ends as theirs.
func (h *Hardware) runsAt(cpus cpuset.Set, c cpufreq.Curve) bool {
	found := false
	for _, p := range h.Policies {
		if !p.CPUs().Overlaps(cpus) {
			continue
		}
		found = true
		steps := p.Steps()
		if !p.CPUs().SubsetOf(cpus) || len(steps) == 0 || steps[0] != c.OPPs[0].Frequency || steps[len(steps)-1] != c.OPPs[len(c.OPPs)-1].Frequency {
			return false
		}
		for _, o := range c.OPPs {
			if _, ok := slices.BinarySearch(steps, o.Frequency); !ok {
				return false
			}
		}
	}
	return found
}

// platformOf returns what was measured of some cpus, or else the platform given.
func (h *Hardware) platformOf(cpus cpuset.Set, otherwise *energy.Platform) (p *energy.Platform, source string) {
	for i := range h.measured {
		if cpus.Overlaps(h.measured[i].MeasuredOn.CPUs) {
			return &h.measured[i], calibratedSource
		}
	}
	if otherwise != nil {
		source = "platform file " + otherwise.Name
	}
	return otherwise, source
}

// domains prices each domain.
func (h *Hardware) domains(firmware []map[units.Frequency]units.Power, platform *energy.Platform) {
	capacity := h.capacities()
	for i := range h.Machine.Cores {
		h.Machine.Cores[i].Capacity = capacity(h.Machine.Cores[i].CPUs.Min())
	}
	for i := range h.Machine.Domains {
		d := &h.Machine.Domains[i]
		d.CanSleep = h.canSleep(d.CPUs.Min())
		if len(d.Policies) == 0 {
			continue
		}
		var policy cpufreq.Policy
		for _, p := range h.Policies {
			if p.ID == d.Policies[0] {
				policy = p
			}
		}
		steps := policy.Steps()
		if len(steps) == 0 {
			continue
		}
		share := capacity(d.CPUs.Min())
		platform, source := h.platformOf(d.CPUs, platform)
		if platform != nil {
			for _, s := range platform.Idle {
				d.States = append(d.States, placement.IdleState{Latency: (s.Entry + s.Exit).Duration(), Power: s.Power})
			}
		}
		d.Curve, d.Sleep, d.Source = curve(steps, policy, share, firmware, platform)
		if platform != nil {
			d.Source = source
		}
		if policy.ScalingMin != nil && policy.ScalingMax != nil {
			d.Floor, d.Ceiling = *policy.ScalingMin, *policy.ScalingMax
		}
	}
}

// capacities returns each cpu's speed at its fastest, relative to the fastest.
func (h *Hardware) capacities() func(cpuset.CPU) float64 {
	if s := h.Topology.Signals; s != nil && h.Topology.Kinds != nil && len(h.Topology.Kinds.Groups) > 1 {
		table := s.Capacity
		if len(table) == 0 {
			table = s.MaxKHz
		}
		if len(table) > 0 && table[len(table)-1].Value > 0 {
			top := float64(table[len(table)-1].Value)
			return func(c cpuset.CPU) float64 {
				for _, sig := range table {
					if sig.CPUs.Contains(c) && sig.Value > 0 {
						return float64(sig.Value) / top
					}
				}
				return 1
			}
		}
	}
	return func(cpuset.CPU) float64 { return 1 }
}

// canSleep reports whether a cpu has an idle state that may be entered. Without
// cpuidle the architecture's own idle instruction still stops the clock.
func (h *Hardware) canSleep(c cpuset.CPU) bool {
	if h.Idle == nil {
		return true
	}
	for _, t := range h.Idle.Tables {
		if !t.CPUs.Contains(c) {
			continue
		}
		for _, s := range t.States {
			if (s.Disable == nil || *s.Disable == 0) && (s.Name == nil || *s.Name != "POLL") {
				return true
			}
		}
		return false
	}
	return true
}

// curve prices a domain's steps from the best source there is, which it names unless it is
// the platform.
func curve(steps []units.Frequency, p cpufreq.Policy, capacity float64, firmware []map[units.Frequency]units.Power, platform *energy.Platform) (cpufreq.Curve, units.Power, string) {
	if platform != nil {
		sleep := platform.Curve.OPPs[0].Static
		for _, s := range platform.Idle {
			sleep = min(sleep, s.Power)
		}
		return along(steps, platform.Curve), sleep, ""
	}
	if c, ok := fromPSS(steps, firmware); ok {
		return c, c.OPPs[len(c.OPPs)-1].Active() / 50, "ACPI _PSS"
	}
	// A generic core of 4 W at the top (less for lesser kinds): voltage falls
	// with the clock to 60 %, a quarter of the top power is static and shared.
	top := 4 * units.Watt * units.Power(capacity*capacity)
	var c cpufreq.Curve
	fastest := float64(steps[len(steps)-1])
	for _, f := range steps {
		s := float64(f) / fastest
		v := 0.6 + 0.4*s
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: f, Speed: s, Dynamic: 0.75 * top * units.Power(s*v*v), Static: 0.25 * top})
	}
	source := "a generic model"
	if f := p.LowestNonlinear; f != nil && *f >= steps[0] && *f < steps[len(steps)-1] {
		// Firmware's own word for the critical point: choose the static power
		// that puts it there, d/ds of (P0 + dyn(s))/s = 0.
		s := float64(*f) / fastest
		v := 0.6 + 0.4*s
		p0 := 0.75 * top * units.Power(s*s*2*v*0.4)
		for i := range c.OPPs {
			c.OPPs[i].Static = p0 + top/50 // sleep is not the clock's to save
		}
		source += " with its critical point at amd_pstate_lowest_nonlinear_freq"
	}
	return c, top / 50, source
}

// along gives the clocks of a machine the powers of a platform's curve, straight
// lines between its points.
func along(steps []units.Frequency, curve cpufreq.Curve) cpufreq.Curve {
	var out cpufreq.Curve
	fastest := float64(steps[len(steps)-1])
	top := float64(curve.OPPs[len(curve.OPPs)-1].Frequency)
	for _, f := range steps {
		at := float64(f) / fastest * top
		i := slices.IndexFunc(curve.OPPs, func(o cpufreq.OPP) bool { return float64(o.Frequency) >= at-0.5 })
		hi := curve.OPPs[max(i, 0)]
		lo, share := hi, 1.0
		if i > 0 && float64(hi.Frequency) > at+0.5 {
			lo = curve.OPPs[i-1]
			share = (at - float64(lo.Frequency)) / float64(hi.Frequency-lo.Frequency)
		}
		mix := func(a, b float64) float64 { return a + (b-a)*share }
		out.OPPs = append(out.OPPs, cpufreq.OPP{
			Frequency: f,
			Speed:     mix(lo.Speed, hi.Speed),
			Dynamic:   units.Power(mix(float64(lo.Dynamic), float64(hi.Dynamic))),
			Static:    units.Power(mix(float64(lo.Static), float64(hi.Static))),
			Measured:  hi.Measured,
		})
		if i == 0 { // below the lowest point: in proportion
			o := &out.OPPs[len(out.OPPs)-1]
			ratio := math.Min(1, at/float64(hi.Frequency))
			o.Speed *= ratio
			o.Dynamic *= units.Power(ratio)
		}
	}
	return out
}

// fromPSS prices clocks by the power that firmware states for them.
func fromPSS(steps []units.Frequency, firmware []map[units.Frequency]units.Power) (cpufreq.Curve, bool) {
	for _, power := range firmware {
		var c cpufreq.Curve
		for _, f := range steps {
			p, ok := power[f]
			if !ok || p <= 0 {
				break
			}
			c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: f, Speed: float64(f) / float64(steps[len(steps)-1]), Dynamic: p})
		}
		if len(c.OPPs) == len(steps) {
			return c, true
		}
	}
	return cpufreq.Curve{}, false
}

// islands prices what is shared: the platform's cluster, once for each cache.
func (h *Hardware) islands(platform *energy.Platform) {
	for _, g := range h.Machine.Groups {
		platform, _ := h.platformOf(g, platform)
		if platform == nil || platform.Cluster == nil {
			continue
		}
		h.Machine.Islands = append(h.Machine.Islands, placement.Island{Name: "cluster " + g.String(), CPUs: g,
			Awake: platform.Cluster.Power, Asleep: platform.Cluster.Sleep})
	}
}

func cpuFile(c cpuset.CPU, file string) string {
	return "sys/devices/system/cpu/cpu" + strconv.Itoa(int(c)) + "/" + file
}
