package bench

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// A Machine is one to simulate.
type Machine struct {
	Name string
	Spec sim.Spec
	// Platform prices the machine's cores for the daemon; where they are of several kinds,
	// it is the fastest's, and Kinds has them all.
	Platform *energy.Platform
	Kinds    []energy.Platform
	// CPUs is how many a real machine has; it has no Spec.
	CPUs int
}

// A part is clusters of a platform's cores.
type part struct {
	platform        string
	clusters, cores int     // cores of a cluster, unless the file says
	capacity        float64 // of a core at its fastest, of the machine's fastest
	packages        bool    // each cluster is a package
	ownClocks       bool
}

// composed are machines of more than two clusters of one kind that share their clocks;
// capacities are those of the kernel's device trees.
var composed = map[string][]part{
	"rk3399":         {{platform: "rk3399-a53", clusters: 1, cores: 4, capacity: 485.0 / 1024}, {platform: "rk3399-a72", clusters: 1, cores: 2}},
	"hi3660":         {{platform: "hi3660-a53", clusters: 1, cores: 4, capacity: 592.0 / 1024}, {platform: "hi3660-a73", clusters: 1, cores: 4}},
	"xeon-2-sockets": {{platform: "xeon-x5675-socket", clusters: 2, packages: true}},
	"epyc-32-cores":  {{platform: "epyc-ccx", clusters: 4, ownClocks: true}},
}

// MachineNames returns the machines that Open knows by name: those composed, and the
// platforms that are no part of a larger one only.
func MachineNames() []string {
	out := slices.Collect(maps.Keys(composed))
	for _, name := range configs.PlatformNames() {
		if name != "xeon-x5675-socket" && name != "epyc-ccx" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Open makes a machine by its name, or of a platform's cores: two clusters, of four cores
// or as many as its file says. shared is the power around a cluster while it is awake,
// beyond what the file says, as a share of its cores' power at their fastest; a fiftieth
// of it is left while it sleeps.
func Open(name string, shared float64) (Machine, error) {
	parts, ok := composed[name]
	if !ok {
		parts = []part{{platform: name, clusters: 2}}
	}
	m := Machine{Name: name, Spec: sim.Spec{Name: "sim:" + name, Driver: "acpi-cpufreq", Meter: "rapl"}}
	cpu := cpuset.CPU(0)
	for _, part := range parts {
		p, err := configs.LoadPlatform(part.platform)
		if err != nil {
			return m, err
		}
		if !ok {
			m.Name, m.Spec.Name = p.Name, "sim:"+p.Name
		}
		around := energy.Cluster{Cores: cmp.Or(part.cores, 4)}
		if p.Cluster != nil {
			around = *p.Cluster
		}
		extra := units.Power(shared * float64(around.Cores) * float64(p.Curve.OPPs[len(p.Curve.OPPs)-1].Active()))
		around.Power += extra
		around.Sleep += extra / 50
		p.Cluster = &around
		first := cpu
		for range part.clusters {
			c := sim.Cluster{Cores: around.Cores, Curve: p.Curve, Idle: p.Idle, Capacity: part.capacity, Shared: around.Power, Asleep: around.Sleep, OwnClocks: part.ownClocks}
			if part.packages {
				c.Package = len(m.Spec.Clusters)
			}
			m.Spec.Clusters = append(m.Spec.Clusters, c)
			cpu += cpuset.CPU(around.Cores)
		}
		p.MeasuredOn = &energy.Machine{CPUs: cpuset.Range(first, cpu-1)}
		m.Kinds = append(m.Kinds, p)
	}
	m.Platform = &m.Kinds[len(m.Kinds)-1]
	if len(m.Kinds) == 1 {
		m.Platform.MeasuredOn, m.Kinds = nil, nil
	}
	if shared > 0 {
		m.Name += fmt.Sprintf("+%.0f%%", 100*shared)
	}
	return m, nil
}

// Cores are the machine's, in units of its fastest.
func (m Machine) Cores() (n float64) {
	n = float64(m.CPUs)
	for _, c := range m.Spec.Clusters {
		n += float64(c.Cores) * cmp.Or(c.Capacity, 1)
	}
	return n
}

// shared tells whether cores have power in common.
func (m Machine) shared() bool {
	return slices.ContainsFunc(m.Spec.Clusters, func(c sim.Cluster) bool { return c.Shared > c.Asleep })
}
