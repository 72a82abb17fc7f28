// Package sim is one simulated machine: its pseudo-files (it is a sysfs.FS that
// refuses what a kernel refuses), a clock to advance, workloads in cgroups, power,
// a meter, hotplug and faults. One seed makes one history.
//
// Tasks on a core share it fluidly by their cgroups' weights. Nothing is stepped: what
// happens next is first in a queue, and concerns one cpu, task, clock or cgroup; what
// grows in between does so at a known rate, in whole numbers, so that it does not matter
// who reads it when. Times are nanoseconds of simulated time, energies nanojoules; the
// total is the sum of its parts.
package sim
