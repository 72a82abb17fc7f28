package placement

import (
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// An Objective is what a class of containers wants of the machine.
type Objective string

// Objectives.
const (
	// Energy: the fewest joules within the bound. The critical frequency is
	// floor and ceiling.
	Energy Objective = "energy"
	// Latency: the critical frequency is only the floor; the kernel's governor
	// may go to the hardware's maximum.
	Latency Objective = "latency"
)

// A Class is a kind of container with a stated bound.
type Class struct {
	Name      string
	Objective Objective
	// MaxSlowdown is how much longer work may take than on the untouched machine
	// at its fastest: 0.1 is 10 %. Nil is no bound.
	MaxSlowdown *float64
	// CPULimit is the most a container may use, in cores of the fastest kind at
	// their fastest. Where powerd lowers the clock, cpu.max grows to match. Nil
	// leaves cpu.max as it is.
	CPULimit *float64
	// Priority orders classes when they choose cores; higher first.
	Priority int
	// MaxWakeLatency bounds the exit latency of the idle states of the cpus the
	// class runs on. Nil is no bound.
	MaxWakeLatency *time.Duration
	// MaxDelay is how long work may be held back at a time, so that cores sleep
	// together; 0 is not at all. The kernel's periods are of 1 ms to 1 s.
	MaxDelay time.Duration
}

// A Policy is what the operator wants.
type Policy struct {
	// Classes by name.
	Classes []Class
	// Headroom is the share of a core's time that a plan may fill, 0 to 1.
	Headroom float64
	// DisableIdle names idle states that no cpu may enter.
	DisableIdle []string
	// Apart is how far tenants are kept apart; "" is ByCore.
	Apart Separation
}

// A Core is a physical core with its online hardware threads.
type Core struct {
	CPUs cpuset.Set
	// Domain is the core's index in Machine.Domains.
	Domain int
	// Capacity is the core's speed at its fastest OPP, relative to the fastest
	// core of the machine, 0 to 1.
	Capacity float64
}

// A Domain is the cpus that share a clock.
type Domain struct {
	// Policies are the cpufreq policies that set this clock: SMT siblings can
	// have one each. Empty where the kernel offers no control.
	Policies []units.PolicyID
	CPUs     cpuset.Set
	Curve    cpufreq.Curve
	// Sleep is a core's power in the idle state it reaches, and CanSleep whether
	// there is one that saves anything.
	Sleep    units.Power
	CanSleep bool
	// States are the idle states whose power is known, for what a bound on wake
	// latency costs. Without any, a bound is taken to cost nothing.
	States []IdleState
	// Floor and Ceiling are the band now in force, 0 where unknown.
	Floor, Ceiling units.Frequency
	// Source tells where the curve comes from, e.g. "ACPI _PSS".
	Source string
}

// An IdleState is what a core's idle state costs and how long it takes to leave.
type IdleState struct {
	Latency time.Duration // entry + exit
	Power   units.Power
}

// An Island is a part of the machine that is awake while any of its cpus is.
type Island struct {
	Name          string
	CPUs          cpuset.Set
	Awake, Asleep units.Power
}

// A Machine is what there is to place on.
type Machine struct {
	// Cores in the order of topology: neighbours share caches.
	Cores   []Core
	Domains []Domain
	Islands []Island
	// Groups are the last-level caches (or packages, where no cache is known);
	// packing fills one before it opens the next.
	Groups []cpuset.Set
}

// Online returns every cpu of m.
func (m Machine) Online() cpuset.Set {
	var s cpuset.Set
	for _, c := range m.Cores {
		s = s.Union(c.CPUs)
	}
	return s
}

// A Container is what is to be placed.
type Container struct {
	ID string
	// Class is the name of the container's class.
	Class string
	// Tenant is whose it is; "" is the machine's own.
	Tenant string
	// Demand is the cores of the fastest kind, at their fastest, that the
	// container would keep busy.
	Demand float64
	// MemoryBound is the share of Demand that waits for memory, and takes as long at any
	// clock, 0 to 1. What is not known to wait is bound by the clock.
	MemoryBound float64
	// Allowed bounds where it may run (its parent's cpuset).
	Allowed cpuset.Set
	// CPUs is where it runs now; empty is wherever it is allowed.
	CPUs cpuset.Set
	// CanPlace and CanLimit tell whether its cgroup has cpuset.cpus and cpu.max.
	CanPlace, CanLimit bool
	// Budget is the most power that the container may be charged on average; 0 is no
	// bound. Power is what it was charged lately, and Used how many cpus' time that
	// was for.
	Budget, Power units.Power
	Used          float64
	// Limit is cpu.max as powerd has set it, in cpus, and OwnLimit as it was before; 0
	// is no limit.
	Limit, OwnLimit float64
	// Usual is the container's demand on average over minutes, and Parallel how many of
	// its threads run at once; 0 where that is not known. Both are only asked for where its
	// class has a MaxDelay.
	Usual    float64
	Parallel int
	// Share is the part of each period in which it may run now; 0 is all of it.
	Share float64
}

// An Input is everything Decide may look at.
type Input struct {
	Policy     Policy
	Machine    Machine
	Containers []Container
	// Other is the demand of everything that is not in Containers.
	Other float64
	// Average is the demand of classes by name over minutes, for what a speed costs; a
	// class that it does not name is taken to go on as now. What carries the load is always
	// reckoned with the demand of now.
	Average map[string]float64
}
