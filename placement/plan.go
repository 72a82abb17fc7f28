package placement

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// A Band is the frequencies between which the kernel's governor may move.
type Band struct {
	Domain         int             `json:"domain"`
	CPUs           cpuset.Set      `json:"cpus"`
	Floor, Ceiling units.Frequency `json:"-"`
	FloorKHz       uint64          `json:"floor_khz"`
	CeilingKHz     uint64          `json:"ceiling_khz"`
	CriticalKHz    uint64          `json:"critical_khz"`
	Reason         string          `json:"reason"`
}

// An Assignment is where a container runs and how much.
type Assignment struct {
	ID    string `json:"id"`
	Class string `json:"class"`
	// CPUs for cpuset.cpus; nil leaves, or puts back, what was there.
	CPUs *cpuset.Set `json:"cpus"`
	// Limit for cpu.max; nil leaves, or puts back, what was there.
	Limit *Limit `json:"limit_cpus"`
	// Period is what the limit is for; 0 is the kernel's default.
	Period time.Duration `json:"period_ns,omitempty"`
	// Share is the part of each period in which it runs; 0 is all of it.
	Share  float64 `json:"share,omitempty"`
	Reason string  `json:"reason"`
}

// A Limit is cpu time in cpus; infinite is no limit, "max" in cpu.max and JSON.
type Limit float64

// MarshalText prints a limit.
func (l Limit) MarshalText() ([]byte, error) {
	if math.IsInf(float64(l), 1) {
		return []byte("max"), nil
	}
	return strconv.AppendFloat(nil, float64(l), 'g', -1, 64), nil
}

// UnmarshalText reads what MarshalText prints.
func (l *Limit) UnmarshalText(b []byte) error {
	if string(b) == "max" {
		*l = Limit(math.Inf(1))
		return nil
	}
	v, err := strconv.ParseFloat(string(b), 64)
	*l = Limit(v)
	return err
}

// An IdleBound is how deep a cpu may sleep.
type IdleBound struct {
	CPUs cpuset.Set `json:"cpus"`
	// MaxExit bounds the exit latency (pm_qos_resume_latency_us).
	MaxExit time.Duration `json:"max_exit_ns"`
	Reason  string        `json:"reason"`
}

// A Pool is the cpus shared by the containers of one class.
type Pool struct {
	Class    string      `json:"class"`
	Tenant   string      `json:"tenant,omitempty"`
	CPUs     cpuset.Set  `json:"cpus"`
	Cores    int         `json:"cores"`
	Demand   float64     `json:"demand"`
	Mode     string      `json:"mode"` // pack or spread
	Power    units.Power `json:"power_uw"`
	Feasible bool        `json:"carries_load"`
	Reason   string      `json:"reason"`
}

// A Plan is what Decide wants. It is inert: applying it is the daemon's.
type Plan struct {
	Pools       []Pool       `json:"pools"`
	Bands       []Band       `json:"bands"`
	Assignments []Assignment `json:"assignments"`
	Idle        []IdleBound  `json:"idle"`
	// DisableIdle names idle states to switch off on every cpu.
	DisableIdle []string `json:"disable_idle,omitempty"`
	// Power is the modelled power of the machine under this plan.
	Power units.Power `json:"power_uw"`
}

// Same reports whether two plans want the same of the machine, whatever their
// reasons.
func (p Plan) Same(q Plan) bool {
	return slices.EqualFunc(p.Bands, q.Bands, func(a, b Band) bool {
		return a.Domain == b.Domain && a.Floor == b.Floor && a.Ceiling == b.Ceiling
	}) && slices.EqualFunc(p.Assignments, q.Assignments, func(a, b Assignment) bool {
		return a.ID == b.ID && a.Period == b.Period && same(a.CPUs, b.CPUs, cpuset.Set.Equal) && same(a.Limit, b.Limit, func(x, y Limit) bool { return x == y })
	}) && slices.EqualFunc(p.Idle, q.Idle, func(a, b IdleBound) bool {
		return a.MaxExit == b.MaxExit && a.CPUs.Equal(b.CPUs)
	}) && slices.Equal(p.DisableIdle, q.DisableIdle)
}

func same[T any](a, b *T, equal func(T, T) bool) bool {
	if a == nil || b == nil {
		return a == b
	}
	return equal(*a, *b)
}

// With returns the input as it would be seen with a plan in force.
func (in Input) With(p Plan) Input {
	in.Machine.Domains = slices.Clone(in.Machine.Domains)
	for _, b := range p.Bands {
		in.Machine.Domains[b.Domain].Floor, in.Machine.Domains[b.Domain].Ceiling = b.Floor, b.Ceiling
	}
	cpus := make(map[string]*cpuset.Set, len(p.Assignments))
	limits := make(map[string]*Limit, len(p.Assignments))
	shares := map[string]float64{}
	for _, a := range p.Assignments {
		cpus[a.ID], limits[a.ID] = a.CPUs, a.Limit
		shares[a.ID] = a.Share
	}
	in.Containers = slices.Clone(in.Containers)
	for i := range in.Containers {
		if set := cpus[in.Containers[i].ID]; set != nil {
			in.Containers[i].CPUs = *set
		}
		in.Containers[i].Share = shares[in.Containers[i].ID]
		if c := &in.Containers[i]; c.Budget > 0 {
			c.Limit = 0
			if l := limits[c.ID]; l != nil && !math.IsInf(float64(*l), 1) {
				c.Limit = float64(*l)
			}
		}
	}
	return in
}
