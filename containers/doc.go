// Package containers knows what powerd places: containers as cgroups of the v2
// hierarchy, their limits and what they used.
//
// See Documentation/admin-guide/cgroup-v2.rst.
package containers
