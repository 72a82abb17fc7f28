package calibrate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/topology"
	"github.com/powerd/powerd/internal/units"
)

// A Machine is what can be calibrated of a machine.
type Machine struct {
	// Model is the processor's name, empty where it is not told.
	Model    string
	Cores    []Core
	Kinds    []Kind
	Clusters []cpuset.Set // cores around one last-level cache
	Packages []cpuset.Set
	Meter    *energy.Source
	// Pace is how long the meter averages; 0 for a counter, which misses nothing.
	Pace time.Duration

	policies []cpufreq.Policy
}

// A Core is the hardware threads of one physical core.
type Core struct {
	CPUs          cpuset.Set
	Kind, Cluster int // indexes; Kind is -1 for a core without frequency control
	Package       int
}

// A Kind is cores that are alike: one table of clocks, one of idle states, one speed.
type Kind struct {
	CPUs cpuset.Set // of all its cores
	// Steps are the clocks it can run at, ascending.
	Steps  []units.Frequency
	States []State
	// Gated is the index of the state whose power stands for a core that is awake and
	// idle: the one in which only the clock is stopped (ARM's WFI; on x86 the one after
	// POLL, which costs as much as work). -1: a core is so when all states are disabled.
	Gated int
	// Fixed says why states cannot be chosen; empty if they can.
	Fixed string
}

// A State is an idle state that may be entered.
type State struct {
	Index              int // of cpuidle
	Name               string
	Latency, Residency units.Seconds
	Poll               bool // it is busy waiting
}

// Deepest is the index of the deepest of a kind's states, -1 if there is none to sleep in.
func (k Kind) Deepest() int {
	if n := len(k.States); n > 0 && !k.States[n-1].Poll {
		return n - 1
	}
	return -1
}

// Name names a kind by its cpus.
func (k Kind) Name() string { return "cpus " + k.CPUs.String() }

// Read finds out what can be calibrated. The error says all that is missing.
func Read(m sysfs.FS) (*Machine, error) {
	r := sysfs.NewReader(m)
	t := topology.Read(r)
	out := &Machine{Meter: energy.Best(energy.Discover(r))}
	if t.Model != nil {
		out.Model = *t.Model
	}
	if s := cpufreq.Read(r); s != nil {
		for _, p := range s.Policies {
			if !p.Inactive && p.CPUs().Overlaps(t.Online) && len(p.Steps()) > 0 && p.ScalingMin != nil && p.ScalingMax != nil {
				out.policies = append(out.policies, p)
			}
		}
	}
	var missing []error
	if out.Meter == nil {
		missing = append(missing, errors.New("there is no energy meter: no RAPL counter, ACPI power meter, hwmon power sensor or discharging battery that can be read"))
	}
	if len(out.policies) == 0 {
		missing = append(missing, errors.New("the kernel offers no frequency control: no cpufreq policy with clocks to choose from"))
	}
	if len(missing) > 0 {
		return nil, errors.Join(missing...)
	}
	out.Pace = pace(r, out.Meter)
	out.cores(t)
	out.kinds(t, cstates.Read(r, t.Online))
	return out, nil
}

// pace is how long a source's gauges average.
func pace(r *sysfs.Reader, s *energy.Source) time.Duration {
	longest := time.Duration(0)
	for _, m := range s.Meters {
		if m.Kind == energy.Counter {
			continue
		}
		p := time.Second // what firmware commonly does
		file := m.Path
		switch {
		case m.Source == "battery":
			p = 2 * time.Second
		case strings.HasSuffix(file, "_input"): // a sensor that shows what is
			p = 100 * time.Millisecond
		case strings.HasSuffix(file, "_average"):
			// Documentation/hwmon/sysfs-interface.rst: milliseconds.
			if ms := r.Uint(file + "_interval"); ms != nil && *ms > 0 && *ms < 60000 {
				p = time.Duration(*ms) * time.Millisecond
			}
		}
		longest = max(longest, p)
	}
	return longest
}

// cores fills in cores, clusters and packages.
func (m *Machine) cores(t *topology.Topology) {
	for _, cpus := range t.OnlineCores() {
		m.Cores = append(m.Cores, Core{CPUs: cpus, Kind: -1, Cluster: -1, Package: -1})
	}
	m.Clusters = t.CacheGroups()
	m.Packages = t.PackagesBySiblings
	at := func(sets []cpuset.Set, c Core) int {
		return slices.IndexFunc(sets, func(s cpuset.Set) bool { return s.Overlaps(c.CPUs) })
	}
	for i, c := range m.Cores {
		m.Cores[i].Cluster, m.Cores[i].Package = at(m.Clusters, c), at(m.Packages, c)
	}
}

// kinds sorts the cores that have a clock to set into kinds.
func (m *Machine) kinds(t *topology.Topology, idle *cstates.System) {
	index := map[string]int{}
	for i, c := range m.Cores {
		p := slices.IndexFunc(m.policies, func(p cpufreq.Policy) bool { return p.CPUs().Contains(c.CPUs.Min()) })
		if p < 0 {
			continue
		}
		k := Kind{Steps: m.policies[p].Steps()}
		k.states(idle, c.CPUs.Min())
		kind := ""
		if t.Kinds != nil && len(t.Kinds.Groups) > 1 {
			kind = fmt.Sprint(slices.IndexFunc(t.Kinds.Groups, func(g topology.Kind) bool { return g.CPUs.Contains(c.CPUs.Min()) }))
		}
		key := fmt.Sprint(kind, k.Steps, k.States, k.Fixed)
		at, ok := index[key]
		if !ok {
			at = len(m.Kinds)
			index[key] = at
			m.Kinds = append(m.Kinds, k)
		}
		m.Kinds[at].CPUs = m.Kinds[at].CPUs.Union(c.CPUs)
		m.Cores[i].Kind = at
	}
}

// states fills in the idle states that a cpu may enter. One that somebody has disabled
// stays so.
func (k *Kind) states(idle *cstates.System, c cpuset.CPU) {
	k.Gated = -1
	if idle == nil {
		return
	}
	for _, t := range idle.Tables {
		if !t.CPUs.Contains(c) {
			continue
		}
		for _, s := range t.States {
			switch {
			case s.Disable == nil:
				k.Fixed = "the kernel does not let idle states be disabled"
			case *s.Disable != 0:
				continue
			}
			state := State{Index: s.Index, Name: fmt.Sprintf("state%d", s.Index)}
			if s.Name != nil && *s.Name != "" {
				state.Name = *s.Name
			}
			state.Poll = state.Name == "POLL"
			if s.Latency != nil {
				state.Latency = units.Seconds(*s.Latency) / 1e6
			}
			if s.Residency != nil {
				state.Residency = units.Seconds(*s.Residency) / 1e6
			}
			k.States = append(k.States, state)
		}
	}
	switch {
	case len(k.States) > 1 && k.States[0].Poll:
		k.Gated = 1
	case len(k.States) > 0 && k.States[0].Name == "WFI": // drivers/cpuidle/cpuidle-psci.c
		k.Gated = 0
	}
}

// members are the indexes of a kind's cores, by cluster in order of the cores.
func (m *Machine) members(kind int) [][]int {
	var out [][]int
	at := map[int]int{}
	for i, c := range m.Cores {
		if c.Kind != kind {
			continue
		}
		n, ok := at[c.Cluster]
		if !ok {
			n = len(out)
			at[c.Cluster] = n
			out = append(out, nil)
		}
		out[n] = append(out[n], i)
	}
	return out
}

// ID tells machines apart: what was measured on one is not another's.
func (m *Machine) ID() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; meters %s;", m.Model, strings.Join(m.Meter.Names, " + "))
	for _, k := range m.Kinds {
		fmt.Fprintf(&b, " %s at %v", k.Name(), k.Steps)
		for _, s := range k.States {
			fmt.Fprintf(&b, " %s", s.Name)
		}
		fmt.Fprintf(&b, " %s;", k.Fixed)
	}
	for _, c := range m.Clusters {
		fmt.Fprintf(&b, " cluster %s", c)
	}
	return b.String()
}
