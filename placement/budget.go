package placement

import (
	"fmt"
	"math"

	"github.com/powerd/powerd/internal/units"
)

const (
	// leastLimit is the least cpu time a budget leaves, in cpus: the kernel's least quota.
	leastLimit = 0.01
	// content is the share of what a budget buys below which a container does not
	// feel a limit.
	content = 0.8
	// budgetSlack is how far a charge and a limit may be from what they should be
	// without being set anew: meters flicker.
	budgetSlack = 0.05
)

// budget limits a container's cpu time to what its budget buys, at the power that its
// time was charged with lately, and lifts the limit when it is content with less.
func budget(c Container, cpus int, a *Assignment) {
	if c.Budget <= 0 {
		return
	}
	tell := func(format string, args ...any) {
		a.Reason += fmt.Sprintf("; charged %v of its budget of %v", rounded(c.Power), c.Budget) + fmt.Sprintf(format, args...)
	}
	if !c.CanLimit {
		tell(", which cannot be held: its cgroup has no cpu.max")
		return
	}
	if c.Power <= 0 || c.Used <= 0 {
		return
	}
	buys := c.Used * float64(c.Budget/c.Power)
	limited := c.Limit > 0 && (a.Limit == nil || c.Limit < float64(*a.Limit)*(1-1e-9)) // else it is the class' limit
	if c.Power <= c.Budget && (!limited || c.Used < content*buys) || c.Power <= c.Budget*(1+budgetSlack) && !limited {
		tell("")
		return
	}
	limit := max(buys, leastLimit)
	if limited && math.Abs(c.Limit-limit) <= budgetSlack*limit && c.Power <= c.Budget*(1+budgetSlack) {
		limit = c.Limit
	}
	if c.OwnLimit > 0 {
		limit = min(limit, c.OwnLimit)
	}
	if cpus > 0 && limit >= float64(cpus) {
		tell(", which buys more than it has")
		return
	}
	if a.Limit != nil {
		limit = min(limit, float64(*a.Limit))
	}
	l := Limit(limit)
	a.Limit = &l
	if buys < leastLimit {
		tell(": it gets the least that the kernel gives, %.3g cpus", limit)
		return
	}
	tell(": %.3g cpus are what that buys", limit)
}

// rounded is a power as a person wants to read it.
func rounded(p units.Power) units.Power {
	return units.Power(math.Round(float64(p/units.Milliwatt))) * units.Milliwatt
}
