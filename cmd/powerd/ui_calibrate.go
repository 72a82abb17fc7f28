package main

// What calibrate prints, by the rules of ui.go.

import (
	"fmt"
	"strings"

	"github.com/powerd/powerd/internal/calibrate"
	"github.com/powerd/powerd/internal/units"
)

// calibrated prints a calibration for people.
func (u *ui) calibrated(r *calibrate.Result, files, skipped []string) {
	rows := [][]string{{"parameter", "of", "at", "value", "+- 1 s.e.", "verdict"}}
	for _, p := range r.Parameters {
		of, at, value, err := "-", "-", "-", "-"
		if p.CPUs != nil {
			of = "cpus " + p.CPUs.String()
		}
		switch {
		case p.Clock != nil:
			at = p.Clock.String()
		case p.State != nil:
			at = *p.State
		}
		if p.Value != nil {
			value, err = quantity(p, *p.Value), quantity(p, *p.Error)
		}
		verdict := "known"
		if !p.Known {
			verdict = "not known: " + p.Why
		}
		rows = append(rows, []string{p.Name, of, at, value, err, verdict})
	}
	u.table(rows)
	u.printf("\n")
	lines := section{}
	for _, c := range r.Critical {
		text := c.Clock.String()
		var also []string
		for _, f := range c.Also {
			also = append(also, f.String())
		}
		if len(also) > 0 {
			text += ", within the error also " + strings.Join(also, ", ")
		}
		lines.row("critical", "cpus "+c.CPUs.String(), text)
	}
	lines.row("model", fmt.Sprintf("%d points, missed by %.2g %%", r.Points, 100*r.Miss), fmt.Sprintf("%.2g times their own errors", r.Misfit))
	for _, n := range r.Notes {
		lines.row("note", n)
	}
	for _, s := range skipped {
		lines.row("left out", s)
	}
	for _, f := range files {
		lines.row("saved", f)
	}
	u.sections([]section{lines})
}

// quantity prints a value or error in the parameter's unit.
func quantity(p calibrate.Parameter, v float64) string {
	if p.Unit == "uW" {
		return units.Power(v).String()
	}
	return fmt.Sprintf("%.4f", v)
}
