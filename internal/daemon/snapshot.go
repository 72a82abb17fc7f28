package daemon

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/placement"
)

// A Snapshot is what a tick came to. It is never changed after it is published.
type Snapshot struct {
	Machine string    `json:"machine"`
	Pid     int       `json:"pid"`
	Tick    int       `json:"tick"`
	At      time.Time `json:"at"`
	DryRun  bool      `json:"dry_run"`
	// Online cpus, as a list.
	Online     string           `json:"online"`
	Plan       *placement.Plan  `json:"plan"`
	Domains    []DomainState    `json:"domains"`
	Containers []ContainerState `json:"containers"`
	Outcome    Outcome          `json:"outcome"`
	Energy     EnergyState      `json:"energy"`
	Counters   Counters         `json:"counters"`
	Counting   CountingState    `json:"counting"`
	Suspects   []string         `json:"suspects"`
	Warnings   []sysfs.Warning  `json:"warnings"`
	Pending    int              `json:"journal_entries"`
	CPUTime    time.Duration    `json:"tick_cpu_ns"`
	// Resident is the daemon's own memory, looked at every 64 ticks.
	Resident int `json:"resident_bytes"`
}

// DomainState is a frequency domain as it was seen.
type DomainState struct {
	CPUs     string           `json:"cpus"`
	Policies []units.PolicyID `json:"policies"`
	MinKHz   units.Frequency  `json:"min_khz"`
	MaxKHz   units.Frequency  `json:"max_khz"`
	Source   string           `json:"curve_source"`
	Curve    []CurvePoint     `json:"curve"`
}

// CurvePoint is one OPP with its price.
type CurvePoint struct {
	KHz     units.Frequency `json:"khz"`
	PowerUW float64         `json:"power_uw"`
	Speed   float64         `json:"speed"`
}

// ContainerState is a container as it was seen and charged.
type ContainerState struct {
	ID       string        `json:"id"`
	Class    string        `json:"class"`
	CPUs     string        `json:"cpus"`
	Max      string        `json:"cpu_max"`
	Demand   float64       `json:"demand_cores"`
	Energy   units.Energy  `json:"energy_uj"`
	LastUJ   units.Energy  `json:"interval_uj"`
	Throttle time.Duration `json:"throttled_ns"`
	// CPUBound is the share of its time at the fastest clock that scales with the clock,
	// and Bound where that is from.
	CPUBound float64 `json:"cpu_bound"`
	Bound    string  `json:"cpu_bound_from"`
}

// CountingState is of the counters of cycles and instructions.
type CountingState struct {
	// Containers that are counted, with so many descriptors.
	Containers  int `json:"containers"`
	Descriptors int `json:"descriptors"`
	// Why nothing is counted, or not all that should be; empty where all is well.
	Why string `json:"why"`
}

// EnergyState is the ledger.
type EnergyState struct {
	Meters     []string      `json:"meters"`
	Method     energy.Method `json:"method"`
	Why        string        `json:"why"`
	IntervalUJ units.Energy  `json:"interval_uj"`
	PowerUW    units.Power   `json:"power_uw"`
	MeasuredUJ units.Energy  `json:"measured_uj"`
	ModelledUJ units.Energy  `json:"modelled_uj"`
	OtherUJ    units.Energy  `json:"other_uj"`
	BaseUJ     units.Energy  `json:"base_uj"`
	GoneUJ     units.Energy  `json:"gone_uj"` // charged to containers that are gone
	ModelError float64       `json:"model_error"`
	Samples    int           `json:"model_samples"`
}

func (d *Daemon) snapshot(seen *Seen, plan *placement.Plan, outcome Outcome, iv energy.Interval, cpu time.Duration) *Snapshot {
	s := &Snapshot{Machine: d.label, Pid: os.Getpid(), Tick: d.ticks, At: seen.At, DryRun: d.journal == nil, Online: seen.Hardware.Topology.Online.String(),
		Plan: plan, Outcome: outcome, Counters: d.counters, CPUTime: cpu, Counting: d.counting.state()}
	if d.journal != nil {
		s.Pending = d.journal.Pending()
	}
	s.Warnings = append(slices.Clone(seen.Hardware.Warnings), seen.Problems...)
	if seen.Mount == "" {
		s.Warnings = append(s.Warnings, sysfs.Warning{File: "proc/self/mounts", Problem: "no cgroup v2 hierarchy is mounted: containers cannot be placed"})
	}
	if d.ticks%64 == 1 {
		d.resident = resident()
	}
	s.Resident = d.resident
	if len(outcome.Drift) > 0 || d.ticks == 1 {
		d.suspects = suspects(d.fs)
	}
	s.Suspects = d.suspects
	for _, dom := range d.lastInput.Machine.Domains {
		ds := DomainState{CPUs: dom.CPUs.String(), Policies: dom.Policies, MinKHz: dom.Floor, MaxKHz: dom.Ceiling, Source: dom.Source}
		for _, o := range dom.Curve.OPPs {
			ds.Curve = append(ds.Curve, CurvePoint{o.Frequency, float64(o.Active()), o.Speed})
		}
		s.Domains = append(s.Domains, ds)
	}
	last := make(map[string]units.Energy, len(iv.Shares))
	for _, sh := range iv.Shares {
		last[sh.ID] = sh.Energy
	}
	var here units.Energy
	for _, c := range seen.Containers {
		cs := ContainerState{ID: string(c.ID), Class: c.Class, Demand: d.model.demand[c.ID], Energy: d.ledger.Containers[string(c.ID)], LastUJ: last[string(c.ID)], Throttle: c.Stat.Waited}
		cs.CPUBound, cs.Bound = d.model.bounds[c.ID].of(seen.Hardware), d.model.bounds[c.ID].from(seen.Hardware)
		if c.CPUs != nil {
			cs.CPUs = c.CPUs.String()
		}
		if c.Max != nil {
			cs.Max = c.Max.String()
		}
		here += cs.Energy
		s.Containers = append(s.Containers, cs)
	}
	l := d.ledger
	s.Energy = EnergyState{Method: iv.Method, IntervalUJ: iv.Energy, MeasuredUJ: l.Measured, ModelledUJ: l.Modelled, OtherUJ: l.Other, BaseUJ: l.Base,
		GoneUJ: l.Total() - l.Other - l.Base - here, ModelError: d.model.power.Error(), Samples: d.model.power.Samples()}
	if m := seen.Hardware.Meter; m != nil {
		s.Energy.Meters, s.Energy.Why = m.Names, m.Why
		if d.model.last.unmeasured != "" {
			s.Energy.Why = d.model.last.unmeasured
		}
	} else {
		s.Energy.Why = "the machine has no energy meter that powerd can read"
	}
	if t := d.model.last.seconds; t > 0 {
		s.Energy.PowerUW = units.Power(float64(iv.Energy) / float64(t))
	}
	return s
}

// known are the programs that set the same files, by the name of their process.
var known = map[string]string{
	"tuned":           "tuned",
	"power-profiles-": "power-profiles-daemon",
	"tlp":             "TLP",
	"thermald":        "thermald",
	"auto-cpufreq":    "auto-cpufreq",
	"cpupower":        "cpupower",
	"gamemoded":       "gamemode",
	"crio":            "CRI-O (its cpu-freq-governor and cpu-c-states annotations)",
	"tuned-ppd":       "tuned-ppd",
}

// suspects returns what else on this machine is known to set power knobs.
func suspects(m sysfs.FS) []string {
	names, err := m.ReadDir("proc")
	if err != nil {
		return nil
	}
	var out []string
	for _, pid := range sysfs.Numbered(names, "") {
		comm, err := m.ReadFile(fmt.Sprintf("proc/%d/comm", pid))
		if err != nil {
			continue
		}
		if name, ok := known[strings.TrimSpace(string(comm))]; ok {
			out = append(out, fmt.Sprintf("%s (pid %d)", name, pid))
		}
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}
