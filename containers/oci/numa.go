package oci

import (
	"fmt"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
	"github.com/powerd/powerd/internal/cpuset"
)

// memoryModes and memoryFlags are the kernel's numbers.
//
// See linux/mempolicy.h and set_mempolicy(2).
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3, specs.MpolLocal: 4,
	specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFStaticNodes: 1 << 15, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFNumaBalancing: 1 << 13,
}

// checkMemoryPolicy refuses what set_mempolicy(2) would.
func checkMemoryPolicy(p *specs.LinuxMemoryPolicy) error {
	const name = "linux.memoryPolicy"
	if p == nil {
		return nil
	}
	if _, ok := memoryModes[p.Mode]; !ok {
		return field(name+".mode", "there is no mode %q", p.Mode)
	}
	flags := 0
	for _, f := range p.Flags {
		bit, ok := memoryFlags[f]
		if !ok {
			return field(name+".flags", "there is no flag %q", f)
		}
		flags |= bit
	}
	if both := memoryFlags[specs.MpolFStaticNodes] | memoryFlags[specs.MpolFRelativeNodes]; flags&both == both {
		return field(name+".flags", "nodes are either static or relative")
	}
	nodes, err := cpuset.Parse(p.Nodes)
	if err != nil {
		return field(name+".nodes", "want a list such as 0-3,7: %v", err)
	}
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if !nodes.Empty() {
			return field(name+".nodes", "%s takes none", p.Mode)
		}
	case specs.MpolPreferred: // with none it is the local node
	default:
		if nodes.Empty() {
			return field(name+".nodes", "%s needs one at least", p.Mode)
		}
	}
	return nil
}

// bits is a list as a bitmap of unsigned longs.
func bits(set cpuset.Set) []byte {
	var w []uint64
	for n := range set.All() {
		for len(w) <= int(n)/64 {
			w = append(w, 0)
		}
		w[n/64] |= 1 << (n % 64)
	}
	return words(w)
}

// memoryPolicy sets linux.memoryPolicy, which the program inherits.
func (b *builder) memoryPolicy() error {
	p := b.spec.Linux.MemoryPolicy
	if p == nil {
		return nil
	}
	nodes, err := cpuset.Parse(p.Nodes)
	if err != nil {
		return err
	}
	mode := memoryModes[p.Mode]
	for _, f := range p.Flags {
		mode |= memoryFlags[f]
	}
	mask := bits(nodes)
	// The kernel takes one bit less than it is told.
	b.Do("set linux.memoryPolicy", unix.SYS_SET_MEMPOLICY, mode, mask, 8*len(mask)+1)
	return nil
}

// checkAffinity refuses lists that are none.
func checkAffinity(a *specs.CPUAffinity, at string) error {
	if a == nil {
		return nil
	}
	for name, list := range map[string]string{"initial": a.Initial, "final": a.Final} {
		if _, err := cpuset.Parse(list); err != nil {
			return field(at+"."+name, "want a list such as 0-3,7: %v", err)
		}
	}
	return nil
}

// affinity sets execCPUAffinity.final.
func (b *builder) affinity(a *specs.CPUAffinity) error {
	if a == nil || a.Final == "" {
		return nil
	}
	cpus, err := cpuset.Parse(a.Final)
	if err != nil {
		return err
	}
	mask := bits(cpus)
	b.Do("set process.execCPUAffinity.final "+a.Final, unix.SYS_SCHED_SETAFFINITY, 0, len(mask), mask)
	return nil
}

// startOn is spawn.Start from the cpus of execCPUAffinity.initial.
func startOn(a *specs.CPUAffinity, s *spawn.Script, o spawn.Options) (*spawn.Process, error) {
	if a == nil || a.Initial == "" {
		return spawn.Start(s, o)
	}
	list, err := cpuset.Parse(a.Initial)
	if err != nil {
		return nil, err
	}
	var before, initial unix.CPUSet
	for c := range list.All() {
		initial.Set(int(c))
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	if err := unix.SchedSetaffinity(0, &initial); err != nil {
		return nil, fmt.Errorf("cannot set process.execCPUAffinity.initial %s: %w", a.Initial, err)
	}
	defer unix.SchedSetaffinity(0, &before) //nolint:errcheck // it was so before
	return spawn.Start(s, o)
}
