//go:build !powerd_oci

package main

import (
	"fmt"
	"html"
	"math"
	"strings"

	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/units"
)

// curveSVG draws energy against clock for a window: what goes on working, in two
// shades for switching and static power, and what the gap costs; the critical and
// the best operating point marked. It has its own background, so that it reads
// on light and dark pages.
func curveSVG(p energy.Platform, c energy.Choice) string {
	const (
		width, height            = 760, 430
		left, right, top, bottom = 78, 24, 64, 74
	)
	lo, hi := c.Points[0].Frequency.MHz(), c.Points[len(c.Points)-1].Frequency.MHz()
	pad := (hi - lo) * 0.05
	if pad == 0 {
		pad = hi * 0.1
	}
	lo, hi = lo-pad, hi+pad
	most := 0.0
	for _, pt := range c.Points {
		if pt.Feasible {
			most = math.Max(most, float64(pt.Energy))
		}
	}
	step := niceStep(most / 5)
	most = math.Ceil(most*1.04/step) * step
	if most == 0 {
		step, most = 1, 1
	}
	x := func(mhz float64) float64 { return left + (mhz-lo)/(hi-lo)*(width-left-right) }
	y := func(uj float64) float64 { return height - bottom - uj/most*(height-top-bottom) }

	var b strings.Builder
	pf := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	pf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="energy against clock of %s" font-family="system-ui, 'DejaVu Sans', sans-serif">`, width, height, width, height, html.EscapeString(p.Name))
	pf(`<rect width="%d" height="%d" rx="8" fill="#fcfcfb"/>`, width, height)
	pf(`<text x="%d" y="26" font-size="16" font-weight="600" fill="#1d2329">%s: energy of one window, by clock</text>`, left, html.EscapeString(p.Name))
	pf(`<text x="%d" y="46" font-size="12" fill="#5b6570">%s of work every %v; what is not worked is slept</text>`, left, p.Workload.Work[0], p.Workload.Window)

	for v := 0.0; v <= most+step/2; v += step {
		pf(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e3e6e9"/>`, left, y(v), width-right, y(v))
		pf(`<text x="%d" y="%.1f" font-size="12" fill="#5b6570" text-anchor="end">%s</text>`, left-8, y(v)+4, strings.Replace(units.Cost(v).String(), "0 uJ", "0", 1))
	}

	// Shares, stacked from the bottom: static, switching, the gap.
	type band struct {
		name, fill string
		top        func(i int) float64
	}
	static := func(i int) float64 {
		if p.Cluster != nil {
			return 0
		}
		return float64(p.Curve.OPPs[i].Static.Over(c.Points[i].Time))
	}
	bands := []band{
		{"gap: idle and transitions", "#c9d4dd", func(i int) float64 { return float64(c.Points[i].Energy) }},
		{"switching: dynamic power x time", "#e8a33d", func(i int) float64 { return float64(c.Points[i].Work) }},
		{"awake: static and shared power x time", "#4f7cac", static},
	}
	if p.Cluster != nil {
		bands = bands[:2]
		bands[1].name = "working (cores and cluster)"
	}
	for _, bd := range bands {
		var points []string
		first, last := -1, -1
		for i, pt := range c.Points {
			if pt.Feasible {
				if first < 0 {
					first = i
				}
				last = i
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(pt.Frequency.MHz()), y(bd.top(i))))
			}
		}
		if first < 0 {
			continue
		}
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(c.Points[last].Frequency.MHz()), y(0)), fmt.Sprintf("%.1f,%.1f", x(c.Points[first].Frequency.MHz()), y(0)))
		pf(`<polygon points="%s" fill="%s" fill-opacity="0.9"/>`, strings.Join(points, " "), bd.fill)
	}
	var line []string
	for _, pt := range c.Points {
		if pt.Feasible {
			line = append(line, fmt.Sprintf("%.1f,%.1f", x(pt.Frequency.MHz()), y(float64(pt.Energy))))
		}
	}
	pf(`<polyline points="%s" fill="none" stroke="#1d2329" stroke-width="2"/>`, strings.Join(line, " "))

	// The clocks below, those too near one another left out.
	lastLabel := math.Inf(-1)
	for i, pt := range c.Points {
		px := x(pt.Frequency.MHz())
		pf(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#5b6570"/>`, px, height-bottom, px, height-bottom+5)
		if px-lastLabel >= 40 || i == c.Critical && px-lastLabel >= 30 {
			pf(`<text x="%.1f" y="%d" font-size="12" fill="#5b6570" text-anchor="middle">%.4g</text>`, px, height-bottom+19, pt.Frequency.MHz())
			lastLabel = px
		}
		if pt.Feasible {
			pf(`<circle cx="%.1f" cy="%.1f" r="3.5" fill="#1d2329"/>`, px, y(float64(pt.Energy)))
		}
	}
	pf(`<text x="%.1f" y="%d" font-size="12" fill="#5b6570" text-anchor="middle">clock, MHz</text>`, float64(left+width-right)/2, height-bottom+36)
	pf(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#5b6570"/>`, left, y(0), width-right, y(0))

	mark := func(i int, label string, lift float64) {
		pt := c.Points[i]
		px, py := x(pt.Frequency.MHz()), y(0)
		if pt.Feasible {
			py = y(float64(pt.Energy))
		}
		pf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#b3261e" stroke-width="1.5" stroke-dasharray="4 3"/>`, px, y(0), px, py-lift+4)
		pf(`<circle cx="%.1f" cy="%.1f" r="6" fill="#fcfcfb" stroke="#b3261e" stroke-width="2.5"/>`, px, py)
		anchor := "middle"
		if px > width-right-140 {
			anchor = "end"
		} else if px < left+140 {
			anchor = "start"
		}
		pf(`<text x="%.1f" y="%.1f" font-size="13" font-weight="600" fill="#b3261e" text-anchor="%s">%s</text>`, px, py-lift, anchor, html.EscapeString(label))
	}
	switch {
	case c.Best == c.Critical:
		mark(c.Critical, fmt.Sprintf("critical and best: %v", c.Points[c.Critical].Frequency), 34)
	default:
		if c.Points[c.Critical].Feasible {
			mark(c.Critical, fmt.Sprintf("critical: %v", c.Points[c.Critical].Frequency), 22)
		}
		if c.Best >= 0 {
			mark(c.Best, fmt.Sprintf("best here: %v", c.Points[c.Best].Frequency), 42)
		}
	}

	lx := float64(left)
	for k := len(bands) - 1; k >= 0; k-- {
		pf(`<rect x="%.1f" y="%d" width="12" height="12" rx="2" fill="%s"/>`, lx, height-22, bands[k].fill)
		pf(`<text x="%.1f" y="%d" font-size="11.5" fill="#3c454e">%s</text>`, lx+17, height-12, bands[k].name)
		lx += 30 + 6.1*float64(len(bands[k].name))
	}
	pf(`</svg>`)
	return b.String()
}

// niceStep rounds up to 1, 2 or 5 times a power of ten.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	p := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 5, 10} {
		if m*p >= v {
			return m * p
		}
	}
	return 10 * p
}
