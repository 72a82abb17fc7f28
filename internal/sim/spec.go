package sim

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/units"
)

// A Spec is the hardware: packages of clusters of cores of one kind or several.
type Spec struct {
	Name     string
	Clusters []Cluster
	// Driver is scaling_driver, e.g. "acpi-cpufreq".
	Driver string
	// Meter is "rapl" (a counter that wraps), "acpi" (a power meter, averaged
	// over a second) or "" for none.
	Meter string
	// Range is the RAPL counter's, in microjoules; 0 is 262143328850.
	Range uint64
	// NoCounters has the processor count no cycles and instructions, and Flicker is the
	// standard deviation, relatively, of the instructions that it counts in a second.
	NoCounters bool
	Flicker    float64
}

// A Cluster is cores that share a last-level cache and the power around it.
type Cluster struct {
	Package int
	Cores   int
	Threads int // hardware threads a core, 1 if 0
	Curve   cpufreq.Curve
	// Capacity of a core at its fastest, relative to the machine's fastest; 1 if 0.
	Capacity float64
	// Idle are the states, shallow first. A core without any idles at its static
	// power.
	Idle []cstates.Model
	// Shared is paid while any core of the cluster is awake, Asleep while none is.
	Shared, Asleep units.Power
	// OwnClocks gives each core a clock of its own; else the cluster shares one.
	OwnClocks bool
}

// A Workload is work in a cgroup. Work is time on the fastest core at its
// fastest.
type Workload struct {
	Cgroup string
	// Period releases Work every Period, due by the next release. Zero with Work
	// is a batch of that much; zero with no Work never ends.
	Period time.Duration
	Work   time.Duration
	// Poisson makes Period the mean of random gaps: what comes from outside, for
	// which the idle governor knows no timer.
	Poisson bool
	// Jobs, if there, replaces Period, Work and Poisson: it is called once for each
	// thread, and then what it returned for one job after the other, in the order of
	// their releases.
	Jobs func(*rand.Rand) func() (Job, bool)
	// Timer tells of Jobs that a timer releases them, which the idle governor knows.
	Timer bool
	// Threads run side by side, each with its own Work; 1 if 0.
	Threads int
	// CPUBound is the share of Work that scales with the clock; 1 if 0.
	CPUBound float64
	// Attributes are extended attributes of the cgroup.
	Attributes map[string]string
}

// A Job comes to a thread of a workload, which does its jobs one by one.
type Job struct {
	At   time.Duration // since the workload began
	Work time.Duration
	Due  time.Duration // after At; 0 is no deadline
}

// Stream returns the jobs of one of the workload's threads when it begins at a time on
// a machine of that seed. No other workload changes what comes.
func (w Workload) Stream(seed uint64, began time.Duration, thread int) func() (Job, bool) {
	h := fnv.New64a()
	fmt.Fprint(h, w.Cgroup, began, thread)
	rng := rand.New(rand.NewPCG(seed, h.Sum64()))
	switch {
	case w.Jobs != nil:
		return w.Jobs(rng)
	case w.Period == 0 && w.Work == 0:
		return func() (Job, bool) { return Job{}, false }
	case w.Period == 0:
		done := false
		return func() (j Job, ok bool) {
			j, ok, done = Job{Work: w.Work}, !done, true
			return j, ok
		}
	}
	next := Job{At: time.Duration(rng.Int64N(int64(w.Period))), Work: w.Work} // phases differ, as they would
	if !w.Poisson {
		next.Due = w.Period
	}
	return func() (Job, bool) {
		j := next
		if w.Poisson {
			next.At += time.Duration(rng.ExpFloat64() * float64(w.Period))
		} else {
			next.At += w.Period
		}
		return j, true
	}
}

// endless work never ends and is never late.
func (w Workload) endless() bool { return w.Jobs == nil && w.Period == 0 && w.Work == 0 }

// timer tells whether releases are known to the idle governor.
func (w Workload) timer() bool { return w.Timer || w.Jobs == nil && !w.Poisson }

// Faults are probabilities, by write or read or second.
type Faults struct {
	Write   float64 // a write fails with EIO or EBUSY
	Meter   float64 // a reading of the meter fails or sticks
	Foreign float64 // by second: somebody else changes a knob
	Hotplug float64 // by second: a cpu goes or comes
	Churn   float64 // by second: a cgroup is removed, or made again
}

// Config is a machine to make.
type Config struct {
	Spec      Spec
	Seed      uint64
	Governor  string // schedutil if empty
	Workloads []Workload
	Faults    Faults
}

func (c Cluster) validate() error {
	switch {
	case c.Cores < 1 || c.Cores > 1024 || c.Threads < 0 || c.Threads > 8:
		return fmt.Errorf("cannot simulate a cluster of %d cores of %d threads", c.Cores, c.Threads)
	case len(c.Curve.OPPs) == 0:
		return fmt.Errorf("cannot simulate a cluster without operating points")
	}
	return nil
}

// FromCurve builds a machine of one kind: clusters of cores that share a clock,
// with the shared power given per cluster.
func FromCurve(name string, curve cpufreq.Curve, idle []cstates.Model, clusters, cores int, shared units.Power) Spec {
	s := Spec{Name: name, Driver: "acpi-cpufreq", Meter: "rapl"}
	for range clusters {
		s.Clusters = append(s.Clusters, Cluster{Cores: cores, Curve: curve, Idle: idle, Shared: shared, Asleep: shared / 50})
	}
	return s
}
