package cstates

import "github.com/powerd/powerd/internal/units"

// A Model is what an idle state costs.
type Model struct {
	Name string
	// Power is paid while in the state.
	Power units.Power
	// Entry and Exit are the times to go in and out.
	Entry, Exit units.Seconds
	// Residency is the shortest stay that is worth it, entry included
	// (target_residency, min-residency-us).
	Residency units.Seconds
	// Transition is the energy of going in and out.
	Transition units.Cost
}

// Fits reports whether the state can be used for a gap: it must hold entry and
// exit, and the residency, which on real tables can be the shorter (hi3660's
// cluster-sleep states 3500 us against 3700).
func (m Model) Fits(gap units.Seconds) bool {
	return gap >= m.Least()*(1-1e-12)
}

// Least is the shortest gap for which the state can be used.
func (m Model) Least() units.Seconds { return max(m.Entry+m.Exit, m.Residency) }

// Cost is the energy of spending a gap in the state.
func (m Model) Cost(gap units.Seconds) units.Cost {
	return m.Power.Over(max(0, gap-m.Entry-m.Exit)) + m.Transition
}

// Awake is the name of a gap that is spent awake.
const Awake = "awake"

// Cheapest returns the state that costs least for a gap and its cost. Staying
// awake at the power awake is one of the choices; its name is Awake.
func Cheapest(states []Model, gap units.Seconds, awake units.Power) (name string, cost units.Cost) {
	name, cost = Awake, awake.Over(gap)
	for _, s := range states {
		if s.Fits(gap) && s.Cost(gap) < cost {
			name, cost = s.Name, s.Cost(gap)
		}
	}
	return name, cost
}

// Deepest returns the least power of any of the states and of staying awake.
func Deepest(states []Model, awake units.Power) units.Power {
	for _, s := range states {
		awake = min(awake, s.Power)
	}
	return awake
}
