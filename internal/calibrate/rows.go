package calibrate

import (
	"cmp"
	"math"
	"slices"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// A Role is what a parameter of the model pays for.
type Role string

// Roles. All powers are microwatts.
const (
	Asleep  Role = "asleep"  // the machine with every core in its deepest state
	Static  Role = "static"  // a core awake at a clock, above its deepest state
	Dynamic Role = "dynamic" // computing, on top of Static
	Memory  Role = "memory"  // waiting for memory, on top of Static
	Idle    Role = "idle"    // a core in a state, above its deepest
	Cluster Role = "cluster" // a cluster with a core awake, above one asleep
	Package Role = "package" // the same of a package of several clusters
	Kept    Role = "kept"    // a cluster none of whose cores is awake, but one in a state that is not the deepest
)

// A Param is a parameter of the model; which fields count depends on the role.
type Param struct {
	Role  Role            `json:"role"`
	Kind  int             `json:"kind,omitempty"`
	Clock units.Frequency `json:"khz,omitempty"`
	State int             `json:"state,omitempty"`
	Group int             `json:"group,omitempty"` // a cluster or package
}

// A Term is how much of a parameter a machine's power has: so many cores, or so much of
// the time of a cluster.
type Term struct {
	Param
	X float64 `json:"x"`
}

// roles in the order in which they are told.
var roles = []Role{Asleep, Static, Dynamic, Memory, Idle, Cluster, Package, Kept}

func compareParams(a, b Param) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(slices.Index(roles, a.Role), slices.Index(roles, b.Role)),
		cmp.Compare(a.Clock, b.Clock), cmp.Compare(a.State, b.State), cmp.Compare(a.Group, b.Group))
}

// An Observation is a point that was measured.
type Observation struct {
	Point string `json:"point"`
	// Power is the meter's mean in microwatts and Error its standard error.
	Power float64 `json:"power_uw"`
	Error float64 `json:"error_uw"`
	// Terms are what the kernel counted in the window, by the model.
	Terms []Term `json:"terms"`
	// Rate is the work done by second and worker, in steps of its kind of work.
	Rate      float64 `json:"rate,omitempty"`
	RateError float64 `json:"rate_error,omitempty"`
	Workers   int     `json:"workers,omitempty"`
	Memory    bool    `json:"memory,omitempty"`
	Kind      int     `json:"kind"`
	// Clock of the kind under test.
	Clock units.Frequency `json:"khz"`
	// Stray is the share of their time that cores without a worker were busy.
	Stray float64 `json:"stray"`
}

// A residency is the share of a window that a cpu spent in a state of its kind.
type residency func(c cpuset.CPU, state int) float64

// terms is a point's row of the design matrix: what each core did, by the kernel's own
// count of idle time and not by what was asked for. What is not idle time is work; on a
// core without a worker it is computing (interrupts and whatever else runs), unless it is
// held awake.
//
// States of threads and cores are taken to come together by chance: a core is as deep as
// its shallowest thread, a cluster as awake as its most awake core.
func (m *Machine) terms(p Point, in residency) (terms []Term, stray float64) {
	sum := map[Param]float64{}
	sum[Param{Role: Asleep}] = 1
	clock := func(kind int) units.Frequency {
		if kind == p.Kind {
			return p.Clock
		}
		return m.Kinds[kind].Steps[0]
	}
	// deep[i][s] is the share of the time that core i was in state s or deeper;
	// deep[i][0] that it was in any.
	deep := make([][]float64, len(m.Cores))
	idleCores := 0.0
	for i, c := range m.Cores {
		if c.Kind < 0 {
			continue
		}
		k := m.Kinds[c.Kind]
		deep[i] = make([]float64, len(k.States)+1)
		for s := range k.States {
			deep[i][s] = 1
			for cpu := range c.CPUs.All() {
				below := 0.0
				for d := s; d < len(k.States); d++ {
					if !k.States[d].Poll {
						below += in(cpu, d)
					}
				}
				deep[i][s] *= min(1, max(0, below))
			}
		}
		f := clock(c.Kind)
		static, dynamic := Param{Role: Static, Kind: c.Kind, Clock: f}, Param{Role: Dynamic, Kind: c.Kind, Clock: f}
		up := 1 - deep[i][0]
		switch {
		case c.CPUs.Overlaps(p.Work) && p.Memory:
			sum[static] += up
			sum[Param{Role: Memory, Kind: c.Kind, Clock: f}] += up
		case c.CPUs.Overlaps(p.Work):
			sum[static] += up
			sum[dynamic] += up
		case len(k.States) == 0 || c.CPUs.Overlaps(p.Hold) && p.State == awake:
			sum[static] += up
		default:
			sum[static] += up
			sum[dynamic] += up
			stray += up
		}
		if !c.CPUs.Overlaps(p.Work) {
			idleCores++
		}
		for s := range k.States {
			x := deep[i][s] - deep[i][s+1]
			switch {
			case s == k.Gated:
				sum[static] += x
			case s < k.Deepest():
				sum[Param{Role: Idle, Kind: c.Kind, State: s}] += x
			}
		}
	}
	m.shared(sum, deep)
	for param, x := range sum {
		if x > 1e-9 {
			terms = append(terms, Term{param, x})
		}
	}
	slices.SortFunc(terms, func(a, b Term) int { return compareParams(a.Param, b.Param) })
	return terms, stray / math.Max(idleCores, 1)
}

// shared adds what clusters and packages pay. A cluster of one core has nothing that could
// be told from the core's own.
func (m *Machine) shared(sum map[Param]float64, deep [][]float64) {
	asleep := func(group cpuset.Set) (share float64, kinds map[int][]float64, cores int) {
		share, kinds = 1, map[int][]float64{}
		for i, c := range m.Cores {
			if !c.CPUs.Overlaps(group) || c.Kind < 0 {
				continue
			}
			cores++
			share *= deep[i][0]
			if kinds[c.Kind] == nil {
				kinds[c.Kind] = append([]float64(nil), deep[i]...)
				continue
			}
			for s := range deep[i] {
				kinds[c.Kind][s] *= deep[i][s]
			}
		}
		return share, kinds, cores
	}
	clustersOf := make([]int, len(m.Packages))
	for g, cluster := range m.Clusters {
		for p, pkg := range m.Packages {
			if pkg.Overlaps(cluster) {
				clustersOf[p]++
			}
		}
		share, kinds, cores := asleep(cluster)
		if cores < 2 {
			continue
		}
		sum[Param{Role: Cluster, Group: g}] += 1 - share
		for kind, d := range kinds {
			others := 1.0
			for other, o := range kinds {
				if other != kind {
					others *= o[0]
				}
			}
			for s := range m.Kinds[kind].Deepest() { // none below the deepest
				sum[Param{Role: Kept, Kind: kind, State: s}] += others * (d[s] - d[s+1])
			}
		}
	}
	for p, pkg := range m.Packages {
		if clustersOf[p] < 2 {
			continue
		}
		share, _, _ := asleep(pkg)
		sum[Param{Role: Package, Group: p}] += 1 - share
	}
}
