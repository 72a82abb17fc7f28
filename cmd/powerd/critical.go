//go:build !powerd_oci

package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

func newCriticalCmd(u *ui) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "critical FILE",
		Short: "Price every operating point of a platform and find the critical one",
		Long: `critical reads a platform (a YAML file, or the name of one that comes with powerd)
and prints what each operating point costs for its workload: the critical one,
the best single one for this window, the best mix when the speed may change
inside the window, and which row of the lecture's table this machine is in.

Platforms that come with powerd: ` + strings.Join(configs.PlatformNames(), ", ") + ".",
		Example: "  powerd critical rk3399-a72\n  powerd critical my-board.yaml -o svg > curve.svg",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return nil
			}
			return usage(fmt.Errorf("cannot read the command line: critical takes one platform, got %d", len(args)),
				"a file, or one of "+strings.Join(configs.PlatformNames(), ", "))
		},
	}
	output := outputFlag(cmd, "table", "json", "svg")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		p, err := configs.LoadPlatform(args[0])
		if err != nil {
			return err
		}
		c := p.Choose()
		switch output.value {
		case "json":
			return u.json(criticalJSON(p, c))
		case "svg":
			u.printf("%s", curveSVG(p, c))
		default:
			criticalTable(u, p, c)
		}
		return nil
	}
	return cmd
}

type jsonPoint struct {
	KHz      units.Frequency `json:"khz"`
	Power    float64         `json:"power_uw"`
	Time     float64         `json:"time_s"`
	Energy   *float64        `json:"energy_uj"`
	Feasible bool            `json:"feasible"`
	Idle     *string         `json:"idle"`
}

type jsonSpan struct {
	KHz     units.Frequency `json:"khz"`
	Seconds float64         `json:"seconds"`
}

type jsonChoice struct {
	Platform string           `json:"platform"`
	OPPs     []jsonPoint      `json:"opps"`
	Critical units.Frequency  `json:"critical_khz"`
	Deepest  float64          `json:"deepest_idle_uw"`
	Best     *units.Frequency `json:"best_khz"`
	BestUJ   *float64         `json:"best_uj"`
	MixUJ    *float64         `json:"mix_uj"`
	Mix      []jsonSpan       `json:"mix"`
	Rule     string           `json:"rule"`
	RuleKHz  *units.Frequency `json:"rule_khz"`
	RuleUJ   *float64         `json:"rule_uj"`
}

func criticalJSON(p energy.Platform, c energy.Choice) jsonChoice {
	out := jsonChoice{Platform: p.Name, Critical: c.Points[c.Critical].Frequency, Deepest: float64(c.Deepest), Rule: c.Rule}
	joules := func(e units.Cost) *float64 { v := float64(e); return &v }
	for _, pt := range c.Points {
		j := jsonPoint{KHz: pt.Frequency, Power: float64(pt.Power), Time: float64(pt.Time), Feasible: pt.Feasible}
		if pt.Feasible {
			j.Energy, j.Idle = joules(pt.Energy), &pt.Idle
		}
		out.OPPs = append(out.OPPs, j)
	}
	if c.Best >= 0 {
		out.Best, out.BestUJ, out.MixUJ = &c.Points[c.Best].Frequency, joules(c.Points[c.Best].Energy), joules(c.MixEnergy)
		for _, s := range c.Mix {
			out.Mix = append(out.Mix, jsonSpan{c.Points[s.OPP].Frequency, float64(s.Time)})
		}
	}
	if c.RuleOPP >= 0 {
		out.RuleKHz, out.RuleUJ = &c.Points[c.RuleOPP].Frequency, joules(c.RuleEnergy)
	}
	return out
}

// rows says each row of the lecture's table in words.
var rows = map[string]string{
	energy.RowMaximum:  "fixed voltage and sleep: run at maximum, then sleep",
	energy.RowSlowest:  "no sleep: run at the slowest that keeps up",
	energy.RowCritical: "scaled voltage and sleep: run at the critical frequency, or the slowest that keeps up if that is higher",
}

func criticalTable(u *ui, p energy.Platform, c energy.Choice) {
	w := p.Workload
	var work []string
	for _, s := range w.Work {
		work = append(work, s.String())
	}
	u.printf("%s: %s of work at the fastest operating point in each %v, %.3g %% of it bound by the clock\n\n", p.Name, strings.Join(work, ", "), w.Window, 100*w.CPUBound)
	table := section{}
	table.row("", "clock", "power", "time", "energy", "gap spent in", "")
	for i, pt := range c.Points {
		energyCell, idle := "-", "-"
		if pt.Feasible {
			energyCell, idle = pt.Energy.String(), pt.Idle
		}
		var notes []string
		if i == c.Critical {
			notes = append(notes, "critical")
		}
		if i == c.Best {
			notes = append(notes, "best")
		}
		if !pt.Feasible {
			notes = append(notes, "too slow for the window")
		}
		table.row("", pt.Frequency.String(), pt.Power.String(), pt.Time.String(), energyCell, idle, strings.Join(notes, ", "))
	}
	u.sections([]section{table})
	u.printf("\n")

	lines := section{}
	lines.row("critical", fmt.Sprintf("%v: least (power - %v of the deepest idle) x time per unit of work", c.Points[c.Critical].Frequency, c.Deepest))
	if c.Best < 0 {
		lines.row("best", "none: no operating point does the work in the window")
	} else {
		best := c.Points[c.Best]
		lines.row("best", fmt.Sprintf("%v for this window: %v", best.Frequency, best.Energy))
		var parts []string
		for _, s := range c.Mix {
			parts = append(parts, fmt.Sprintf("%v for %v", c.Points[s.OPP].Frequency, s.Time))
		}
		lines.row("mix", fmt.Sprintf("%s: %v, %s", strings.Join(parts, ", then "), c.MixEnergy, against(c.MixEnergy, best.Energy, "the best single one")))
	}
	lines.row("rule", rows[c.Rule])
	switch {
	case c.RuleOPP < 0:
		lines.row("", "it names no operating point that does the work in the window")
	case c.RuleCostsMore:
		lines.row("", fmt.Sprintf("following it blindly runs at %v: %v, %s", c.Points[c.RuleOPP].Frequency, c.RuleEnergy, against(c.RuleEnergy, c.Points[c.Best].Energy, "the best")))
	default:
		lines.row("", fmt.Sprintf("following it runs at %v, which is the best here", c.Points[c.RuleOPP].Frequency))
	}
	u.sections([]section{lines})
}

func against(a, b units.Cost, what string) string {
	if math.Abs(float64(a-b)) <= 1e-9*float64(b) {
		return "as much as " + what
	}
	percent := 100 * (float64(a)/float64(b) - 1)
	if percent < 0 {
		return fmt.Sprintf("%.2g %% less than %s", -percent, what)
	}
	return fmt.Sprintf("%.2g %% more than %s", percent, what)
}
