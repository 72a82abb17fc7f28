package cpufreq

// intelPState is intel_pstate, active (the name intel_pstate: the hardware or
// the driver chooses inside the limits) and passive (intel_cpufreq: a generic
// governor chooses). Both take any clock; the driver rounds to the bus clock.
// With no_turbo set the kernel lowers cpuinfo_max_freq to the highest clock
// without turbo, so the limits need no other rule.
//
// See Documentation/admin-guide/pm/intel_pstate.rst.
type intelPState struct{ continuous }
