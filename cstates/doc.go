// Package cstates knows idle states: what the kernel's cpuidle offers, and which
// state is the cheapest for a gap.
//
// See Documentation/admin-guide/pm/cpuidle.rst.
package cstates
