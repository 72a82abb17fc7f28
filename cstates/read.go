package cstates

import (
	"slices"
	"strconv"
	"strings"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sysfs"
)

const cpuDir = "sys/devices/system/cpu"

// A System is what cpuidle offers on a machine.
type System struct {
	Driver    *string  `json:"driver"`
	Governor  *string  `json:"governor"`
	Governors []string `json:"available_governors"`
	// Tables are the states, with the cpus that share them.
	Tables []Table `json:"tables"`
	// Without are the online cpus that have no states.
	Without *cpuset.Set `json:"online_cpus_without_states"`
}

// A Table is the idle states of cpus that have the same ones.
type Table struct {
	CPUs   cpuset.Set `json:"cpus"`
	States []State    `json:"states"`
}

// A State is one idle state, shallow ones first. What the kernel does not tell
// is nil.
type State struct {
	Index int     `json:"index"`
	Name  *string `json:"name"`
	Desc  *string `json:"desc"`
	// Latency is the exit latency and Residency the shortest stay that is worth
	// it, in microseconds.
	Latency   *uint64 `json:"latency_us"`
	Residency *uint64 `json:"residency_us"`
	// Disable is 0 where the governor may choose the state.
	Disable *uint64 `json:"disable"`
	// DefaultStatus is "enabled" or "disabled" by the driver.
	DefaultStatus *string `json:"default_status"`
	// Power is in milliwatts, as found. See KnownPower.
	Power *uint64 `json:"power_mw"`
}

// KnownPower returns the state's power in milliwatts, nil where the driver does
// not know it: it then prints 0, or a small negative number as unsigned 32 bits
// (4294967295 is -1, see drivers/cpuidle/poll_state.c).
func (s State) KnownPower() *uint64 {
	if s.Power == nil || *s.Power == 0 || *s.Power >= 1<<31 {
		return nil
	}
	return s.Power
}

func (s State) equal(o State) bool {
	return s.Index == o.Index && same(s.Name, o.Name) && same(s.Desc, o.Desc) &&
		same(s.Latency, o.Latency) && same(s.Residency, o.Residency) && same(s.Disable, o.Disable) &&
		same(s.DefaultStatus, o.DefaultStatus) && same(s.Power, o.Power)
}

func same[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// StateDir returns the folder of a state's files, where disable is.
func StateDir(c cpuset.CPU, index int) string {
	return cpuDir + "/cpu" + strconv.Itoa(int(c)) + "/cpuidle/state" + strconv.Itoa(index)
}

// Read reads the idle states of the online cpus; nil where the kernel has no
// cpuidle.
func Read(r *sysfs.Reader, online cpuset.Set) *System {
	dir := cpuDir + "/cpuidle"
	s := &System{
		Driver:   r.Text(dir + "/current_driver"),
		Governor: r.Text(dir + "/current_governor"),
		Tables:   []Table{},
	}
	if s.Governor == nil { // the file's name until Linux 5.5, unless it could be changed
		s.Governor = r.Text(dir + "/current_governor_ro")
	}
	if names := r.Text(dir + "/available_governors"); names != nil {
		s.Governors = strings.Fields(*names)
	}
	var without cpuset.Set
	for c := range online.All() {
		states := readStates(r, c)
		if len(states) == 0 {
			without = without.Union(cpuset.Of(c))
			continue
		}
		at := slices.IndexFunc(s.Tables, func(t Table) bool { return slices.EqualFunc(t.States, states, State.equal) })
		if at < 0 {
			at = len(s.Tables)
			s.Tables = append(s.Tables, Table{States: states})
		}
		s.Tables[at].CPUs = s.Tables[at].CPUs.Union(cpuset.Of(c))
	}
	if s.Driver == nil && s.Governor == nil && len(s.Tables) == 0 {
		return nil
	}
	if !without.Empty() {
		s.Without = &without
	}
	return s
}

func readStates(r *sysfs.Reader, c cpuset.CPU) []State {
	var out []State
	for _, n := range sysfs.Numbered(r.Names(cpuDir+"/cpu"+strconv.Itoa(int(c))+"/cpuidle"), "state") {
		file := func(name string) string { return StateDir(c, n) + "/" + name }
		out = append(out, State{
			Index:         n,
			Name:          r.Text(file("name")),
			Desc:          r.Text(file("desc")),
			Latency:       r.Uint(file("latency")),
			Residency:     r.Uint(file("residency")),
			Disable:       r.Uint(file("disable")),
			DefaultStatus: r.Text(file("default_status")),
			Power:         r.Uint(file("power")),
		})
	}
	return out
}
