// Package cpufreq knows frequency domains: what the kernel's cpufreq offers and
// how each driver takes limits, and what each frequency costs (Curve) with its
// critical point.
//
// See Documentation/admin-guide/pm/cpufreq.rst.
package cpufreq
