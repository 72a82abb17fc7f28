package cpufreq

import (
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// ladderStep is how finely clocks are tried where any can be asked for: the bus
// clock of the processors that these drivers run on.
const ladderStep = 100 * units.MHz

// continuous is a driver without a table: it takes every clock between the
// hardware's limits (cppc_cpufreq).
type continuous struct{}

func (continuous) steps(p Policy) []units.Frequency {
	if p.CPUInfoMin == nil || p.CPUInfoMax == nil || *p.CPUInfoMin > *p.CPUInfoMax || *p.CPUInfoMax > 100*units.GHz {
		return nil
	}
	low, high := *p.CPUInfoMin, *p.CPUInfoMax
	steps := []units.Frequency{low}
	for f := (low/ladderStep + 1) * ladderStep; f < high; f += ladderStep {
		steps = append(steps, f)
	}
	return slices.Compact(append(steps, high))
}

func (continuous) snap(steps []units.Frequency, f units.Frequency, _ bool) units.Frequency {
	return min(max(f, steps[0]), steps[len(steps)-1])
}
