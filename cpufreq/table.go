package cpufreq

import (
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// table is cpufreq-dt and the other drivers with a table of OPPs: scmi, qcom-hw,
// powernow-k8, exynos. The kernel rounds by itself, but a limit between two OPPs
// would read back as it was written and mean another.
//
// Boost OPPs are in a table of their own and count while boost is on. The kernel
// then raises cpuinfo_max_freq to the highest of them, so that file tells, also
// for drivers that hide the switch.
type table struct{}

func (table) steps(p Policy) []units.Frequency {
	steps := slices.Clone(p.Available)
	for _, f := range p.BoostOPPs {
		if p.CPUInfoMax != nil && f <= *p.CPUInfoMax {
			steps = append(steps, f)
		}
	}
	slices.Sort(steps)
	return slices.Compact(steps)
}

// snap returns the lowest step not below f, or for a ceiling the highest not
// above it, and the nearest end where there is none.
func (table) snap(steps []units.Frequency, f units.Frequency, ceiling bool) units.Frequency {
	i, exact := slices.BinarySearch(steps, f)
	if ceiling && !exact {
		i--
	}
	return steps[min(max(i, 0), len(steps)-1)]
}
