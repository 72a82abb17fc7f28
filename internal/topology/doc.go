// Package topology knows how a machine is put together: which cpus are online,
// how they form packages, dies, clusters and cores, which caches and memory
// nodes they share, which kinds of core there are, and whether the machine is a
// guest.
//
// See Documentation/admin-guide/cputopology.rst and
// Documentation/ABI/testing/sysfs-devices-system-cpu.
package topology
