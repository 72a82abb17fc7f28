package report

import (
	"slices"
	"strings"

	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/units"
)

// A machine is one that work was run on.
type machine struct {
	Name string `json:"name"`
	// States are its idle states, shallow first.
	States []string `json:"states"`
	// Curve is what its operating points cost; nil without a platform.
	Curve *curve `json:"curve"`
}

// A curve is what operating points cost for a platform's own workload.
type curve struct {
	Platform string  `json:"platform"`
	Work     string  `json:"work"`
	Window   string  `json:"window"`
	Points   []point `json:"points"`
	Critical int     `json:"critical"` // of the points, by index
}

type point struct {
	MHz    float64 `json:"mhz"`
	Energy float64 `json:"energy"` // joules
	// Awake of them is static power and what is shared around the core while it works,
	// Switching dynamic power; the rest goes on sleep.
	Awake     float64 `json:"awake"`
	Switching float64 `json:"switching"`
	// Fast tells that the work is done in the window.
	Fast bool `json:"fast"`
}

func machineOf(m bench.Machine) machine {
	out := machine{Name: m.Name, States: []string{}}
	for _, c := range m.Spec.Clusters {
		for _, s := range c.Idle {
			if !slices.Contains(out.States, s.Name) {
				out.States = append(out.States, s.Name)
			}
		}
	}
	if m.Platform == nil {
		return out
	}
	p := *m.Platform
	choice := p.Choose()
	c := curve{Platform: strings.TrimPrefix(m.Spec.Name, "sim:"), Critical: choice.Critical}
	var work []string
	for _, w := range p.Workload.Work {
		work = append(work, w.String())
	}
	c.Work = strings.Join(work, ", ")
	// Every operating point is priced over a window that the slowest keeps: the critical one
	// does not depend on the window.
	window := p.Workload.Window
	for _, pt := range choice.Points {
		window = max(window, pt.Time)
	}
	p.Workload.Window = window
	c.Window = window.String()
	for i, pt := range p.Choose().Points {
		var switching units.Cost
		for _, w := range p.Workload.Work {
			switching += (pt.Power - p.Curve.OPPs[i].Static).Over(w * units.Seconds(p.Curve.Tau(i, p.Workload.CPUBound)))
		}
		c.Points = append(c.Points, point{
			MHz: short(pt.Frequency.MHz()), Energy: short(pt.Energy.Joules()),
			Awake: short((pt.Work - switching).Joules()), Switching: short(switching.Joules()), Fast: choice.Points[i].Feasible,
		})
	}
	out.Curve = &c
	return out
}
