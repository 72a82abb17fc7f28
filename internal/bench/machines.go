package bench

import (
	"fmt"

	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// A Machine is one to simulate, of a platform's cores.
type Machine struct {
	Name string
	Spec sim.Spec
	// Platform prices the machine's cores for the daemon.
	Platform *energy.Platform
}

// Of makes two clusters of a platform's cores: four each, or as many as its file says.
// shared is the power around a cluster while it is awake, beyond what the file says, as a
// share of its cores' power at their fastest; a fiftieth of it is left while it sleeps.
func Of(p energy.Platform, shared float64) Machine {
	const clusters = 2
	around := energy.Cluster{Cores: 4}
	if p.Cluster != nil {
		around = *p.Cluster
	}
	top := p.Curve.OPPs[len(p.Curve.OPPs)-1].Active()
	extra := units.Power(shared * float64(around.Cores) * float64(top))
	around.Power += extra
	around.Sleep += extra / 50
	p.Cluster = &around
	name := p.Name
	if shared > 0 {
		name += fmt.Sprintf("+%.0f%%", 100*shared)
	}
	m := Machine{Name: name, Platform: &p, Spec: sim.FromCurve("sim:"+p.Name, p.Curve, p.Idle, clusters, around.Cores, around.Power)}
	for i := range m.Spec.Clusters {
		m.Spec.Clusters[i].Asleep = around.Sleep
	}
	return m
}

// Cores are the machine's, in units of its fastest.
func (m Machine) Cores() (n float64) {
	for _, c := range m.Spec.Clusters {
		capacity := c.Capacity
		if capacity == 0 {
			capacity = 1
		}
		n += float64(c.Cores) * capacity
	}
	return n
}
