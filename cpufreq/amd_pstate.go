package cpufreq

import (
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// amdPState is amd-pstate, active (amd-pstate-epp), passive and guided (both
// amd-pstate). All take any clock between the lowest CPPC level and the highest
// that boost allows. The lowest non-linear clock is one of the steps: it is what
// firmware takes for the critical one.
//
// See Documentation/admin-guide/pm/amd-pstate.rst.
type amdPState struct{ continuous }

func (a amdPState) steps(p Policy) []units.Frequency {
	steps := a.continuous.steps(p)
	if f := p.LowestNonlinear; f != nil && len(steps) > 0 && *f > steps[0] && *f < steps[len(steps)-1] {
		steps = append(steps, *f)
		slices.Sort(steps)
	}
	return slices.Compact(steps)
}
