// Package sim is one simulated machine: its pseudo-files (it is a sysfs.FS that
// refuses what a kernel refuses), a clock to advance, workloads in cgroups, power,
// a meter, hotplug and faults. One seed makes one history.
//
// Tasks on a core share it fluidly by their cgroups' weights; between events
// nothing is stepped. Times are nanoseconds of simulated time, energies
// nanojoules, so that parts sum to the meter exactly.
package sim
