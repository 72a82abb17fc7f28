package testbed

import (
	"fmt"
	"math"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// A Config is the node to boot. The zero Config but for a Curve is one cpu in an
// initramfs.
type Config struct {
	// Sockets x CoresPerSocket x ThreadsPerCore cpus; 0 means 1.
	Sockets, CoresPerSocket, ThreadsPerCore int
	// Curve has the OPPs of every cpu, whole MHz, and their true speed and cost.
	Curve cpufreq.Curve
	// PSSPower is what _PSS says each OPP of the curve costs, for firmware that
	// lies or does not know (zeros); nil says the truth. It has mW precision.
	PSSPower []units.Power
	// Latency is the transition latency _PSS tells, whole us; 0 means 10 us.
	Latency units.Seconds
	// Domains are the cpus that share a clock (_PSD). nil: each has its own.
	Domains []cpuset.Set
	// Idle are the idle states _CST tells, shallowest first, at most 8. Entry +
	// Exit is the latency; the kernel itself takes twice that as residency. nil:
	// C1, C2, C3 of 2, 50 and 200 us; C1 alone for a node with one element.
	Idle []cstates.Model
	// PortIdle enters the states after the first by reading a port, as a
	// chipset's C2 and C3 are. QEMU answers at once, so an idle cpu spins and
	// Truth takes it for a busy one. Otherwise every state halts the vCPU.
	PortIdle bool
	// IdlePower is what a cpu truly draws when it is idle, in whatever state:
	// the harness sees that a vCPU halts, not how deep.
	IdlePower units.Power
	// Base is what the node truly draws beside its cpus.
	Base units.Power
	// Meter gives the node an ACPI power meter that reads the modelled power, up
	// to 65.535 W.
	Meter bool
	// Root is what runs: Initramfs or Debian.
	Root Root
	// Files are copied into the guest: guest path to host path. Programs must be
	// static.
	Files map[string]string
	// Packages are what a Debian root has beside the least, such as podman.
	Packages []string
	// Disks are images, such as Image makes, that a Debian guest has as /dev/vdb and
	// on; changes are lost.
	Disks []string
	// Modules are what the kernel loads beside its own, such as overlay.
	Modules []string
	// Memory in MiB; 0 means 512.
	Memory int
	// HostShare is the part of a host cpu's time that a vCPU gets at speed 1; slower
	// OPPs get less in proportion. 0 means the whole of it, or an equal
	// part if there are more vCPUs than host cpus.
	HostShare float64
}

// A Root is the system the guest runs.
type Root int

const (
	// Initramfs is the agent as process 1, busybox, and a cgroup2 root with its
	// controllers enabled.
	Initramfs Root = iota
	// Debian is a minimal Debian with systemd on a disk whose changes are lost.
	Debian
)

// CPUs returns how many cpus the node has.
func (c Config) CPUs() int {
	return max(c.Sockets, 1) * max(c.CoresPerSocket, 1) * max(c.ThreadsPerCore, 1)
}

// withDefaults returns the config with its defaults filled in, or why it cannot
// be built.
func (c Config) withDefaults(hostCPUs int) (Config, error) {
	c.Sockets, c.CoresPerSocket, c.ThreadsPerCore = max(c.Sockets, 1), max(c.CoresPerSocket, 1), max(c.ThreadsPerCore, 1)
	n := c.CPUs()
	if c.Domains == nil {
		for cpu := range n {
			c.Domains = append(c.Domains, cpuset.Of(cpuset.CPU(cpu)))
		}
	}
	ports := len(pstatePorts)
	if c.Meter {
		ports -= len(meterPorts)
	}
	if len(c.Domains) > ports {
		return c, fmt.Errorf("cannot build node: %d frequency domains need as many ports, and %d are left", len(c.Domains), ports)
	}
	var all cpuset.Set
	for _, d := range c.Domains {
		if d.Empty() || d.Overlaps(all) {
			return c, fmt.Errorf("cannot build node: frequency domain %q is empty or overlaps another", d)
		}
		all = all.Union(d)
	}
	if want := cpuset.Range(0, cpuset.CPU(n-1)); !all.Equal(want) {
		return c, fmt.Errorf("cannot build node: the frequency domains hold cpus %q, not %q", all, want)
	}
	if len(c.Curve.OPPs) < 2 {
		return c, fmt.Errorf("cannot build node: %d OPPs; acpi-cpufreq wants at least 2", len(c.Curve.OPPs))
	}
	for i, o := range c.Curve.OPPs {
		switch {
		case o.Frequency%units.MHz != 0:
			return c, fmt.Errorf("cannot build node: _PSS has no room for %d kHz: whole MHz only", o.Frequency)
		case i > 0 && o.Frequency <= c.Curve.OPPs[i-1].Frequency:
			return c, fmt.Errorf("cannot build node: OPPs do not ascend at %s", o.Frequency)
		case !(o.Speed > 0 && o.Speed <= 1):
			return c, fmt.Errorf("cannot build node: a speed of %v at %s is not in 0..1", o.Speed, o.Frequency)
		}
	}
	if c.PSSPower == nil {
		for _, o := range c.Curve.OPPs {
			c.PSSPower = append(c.PSSPower, o.Active())
		}
	}
	if len(c.PSSPower) != len(c.Curve.OPPs) {
		return c, fmt.Errorf("cannot build node: %d _PSS powers for %d OPPs", len(c.PSSPower), len(c.Curve.OPPs))
	}
	if c.Latency == 0 {
		c.Latency = 10e-6
	}
	if c.Idle == nil {
		c.Idle = []cstates.Model{{Name: "C1", Exit: 2e-6}, {Name: "C2", Exit: 50e-6}, {Name: "C3", Exit: 200e-6}}
	}
	if len(c.Idle) > 8 {
		return c, fmt.Errorf("cannot build node: %d idle states; ACPI has 8 at most", len(c.Idle))
	}
	if c.Memory == 0 {
		c.Memory = 512
	}
	if c.HostShare == 0 {
		c.HostShare = math.Min(1, float64(hostCPUs)/float64(n))
	}
	if c.HostShare < 0 || c.HostShare > 1 {
		return c, fmt.Errorf("cannot build node: a host share of %v is not in 0..1", c.HostShare)
	}
	return c, nil
}

// Critical returns the clock of the true critical point: what the node runs is all
// bound by the clock, and an idle cpu draws IdlePower.
func (c Config) Critical() units.Frequency {
	return c.Curve.OPPs[c.Curve.Critical(c.IdlePower, 1, 1)].Frequency
}

// opp returns the OPP of an ACPI P-state: P0 is the fastest.
func (c Config) opp(pstate int) (cpufreq.OPP, error) {
	if pstate < 0 || pstate >= len(c.Curve.OPPs) {
		return cpufreq.OPP{}, fmt.Errorf("cannot tell P-state %d: the node has P0 to P%d", pstate, len(c.Curve.OPPs)-1)
	}
	return c.Curve.OPPs[len(c.Curve.OPPs)-1-pstate], nil
}
