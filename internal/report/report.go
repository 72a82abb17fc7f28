// Package report draws what powerd bench found as one HTML page that needs nothing but a
// browser: no server, no network, no other file.
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/energy"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed page.js
	pageJS string
)

// A Run is what powerd bench did.
type Run struct {
	// Version is the revision of powerd, Machine what --machine was.
	Version, Machine string
	Span             time.Duration
	Policies         []string
	// Cases and Rows are beside one another: what was run, and what came of it.
	Cases   []bench.Case
	Rows    []bench.Row
	Summary bench.Summary
}

// parts is how many parts of a run a plot of its course has: as many as there are seconds
// in a run of the usual length, and steps of a dozen pixels on a wide screen.
const parts = 60

// data is what the page's script draws from. Times are in seconds, powers in watts,
// energies in joules.
type data struct {
	Version     string    `json:"version"`
	Policies    []policy  `json:"policies"`
	Percentiles []float64 `json:"percentiles"`
	Machines    []machine `json:"machines"`
	Cases       []row     `json:"cases"`
}

type policy struct {
	Name string `json:"name"`
	// Style is which of the page's colours and dashes is its own.
	Style int `json:"style"`
	// Shown tells whether its lines are drawn at first; seven at a time are a tangle.
	Shown bool `json:"shown"`
}

type row struct {
	Machine int     `json:"machine"` // by index
	Load    string  `json:"load"`
	About   string  `json:"about"`
	Seed    uint64  `json:"seed"`
	Kind    string  `json:"kind"`
	Span    float64 `json:"span"`  // what is counted
	Limit   float64 `json:"limit"` // 0: none
	// Bounds are those on the 99th percentile of response times, ascending.
	Bounds []float64 `json:"bounds,omitempty"`
	// Parts is how many parts the results' courses have, Scale the power that 255 stands
	// for in them.
	Parts   int      `json:"parts"`
	Scale   float64  `json:"scale"`
	Results []result `json:"results"` // in the order of the policies
	Verdict string   `json:"verdict,omitempty"`
}

type result struct {
	Energy float64 `json:"energy"`
	Base   float64 `json:"base"`
	// Over is the energy as a multiple of the limit: 0 where there is no limit. Late tells
	// that the work was not done in time.
	Over    float64   `json:"over"`
	Late    bool      `json:"late,omitempty"`
	Missed  int       `json:"missed"`
	Due     int       `json:"due"`
	P99     float64   `json:"p99"`
	Latency []float64 `json:"latency,omitempty"` // by data.Percentiles
	// Power and Speed are the run's course, in equal parts: a byte each of the row's Scale
	// and of the fastest clock, or one for all. The eye tells no more, and JSON has them as
	// base64.
	Power []byte `json:"power,omitempty"`
	Speed []byte `json:"speed,omitempty"`
	// Idle are the shares of the cores' time, by machine.States.
	Idle []float64 `json:"idle,omitempty"`
}

// Write writes the page. The same run makes the same page, to the byte.
func Write(w io.Writer, r Run) error {
	if len(r.Cases) != len(r.Rows) {
		return fmt.Errorf("%d cases, %d rows", len(r.Cases), len(r.Rows))
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"css": func() template.CSS { return template.CSS(pageCSS) },
		"js":  func() template.JS { return template.JS(pageJS) },
		// Nothing runs on the page but this script, and nothing is fetched.
		"policy": func() string {
			return fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; base-uri 'none'; form-action 'none'", hash(pageJS), hash(pageCSS))
		},
	}).Parse(pageHTML)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, r.view()); err != nil {
		return err
	}
	_, err = b.WriteTo(w)
	return err
}

// hash names a text in a content security policy.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// A view is what the template shows.
type view struct {
	Run    Run
	Origin string // of every number
	Tiles  []tile
	Table  []line
	Data   data
}

type tile struct{ Value, Label string }

type line struct {
	Case                 int
	Machine, Load, Limit string
	Cells                []cell
	Verdict              string
	Kept                 bool
}

type cell struct {
	Text       string
	Late, Best bool
}

func (r Run) view() view {
	v := view{Run: r, Data: r.data()}
	v.Origin = fmt.Sprintf("joules are %s; %s; %v on the machine's clock; powerd %s", r.kinds(), r.seeds(), r.Span, r.Version)
	s := r.Summary
	x := func(v float64) string {
		if v == 0 {
			return "–"
		}
		return fmt.Sprintf("%.3f×", v)
	}
	if s.Cases > 0 {
		v.Tiles = []tile{
			{fmt.Sprintf("%d of %d", s.Kept, s.Cases), "cases in which powerd is no worse than the best of " + strings.Join(bench.Rivals, ", ")},
			{x(s.MedianRatio), "median of powerd's energy over the best of them; the worst is " + x(s.WorstRatio)},
			{x(s.MedianFluid), "median of powerd's energy over the limit where the work is known or even"},
			{x(s.MedianOther), "the same for all other loads"},
		}
	}
	for i, row := range r.Rows {
		l := line{Case: i, Machine: row.Machine, Load: row.Load, Limit: "–"}
		if row.Limit > 0 {
			l.Limit = joules(row.Limit)
		}
		best, least := -1, math.Inf(1)
		for k, p := range r.Policies {
			o, ok := row.Result(p)
			if !ok {
				l.Cells = append(l.Cells, cell{Text: "–"})
				continue
			}
			c := cell{Text: joules(o.Energy.Joules()), Late: o.Late()}
			if row.Limit > 0 {
				c.Text = fmt.Sprintf("%.3f", o.Energy.Joules()/row.Limit)
			}
			if !c.Late && o.Energy.Joules() < least {
				best, least = k, o.Energy.Joules()
			}
			l.Cells = append(l.Cells, c)
		}
		if best >= 0 {
			l.Cells[best].Best = true
		}
		if _, ok := row.Result(bench.Powerd); ok {
			l.Verdict, l.Kept = verdict(row)
		}
		v.Table = append(v.Table, l)
	}
	return v
}

// joules tells an energy to four digits, or to the joule.
func joules(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f J", v)
	}
	return fmt.Sprintf("%.4g J", v)
}

// verdict tells how powerd fares, and whether it keeps its promise.
func verdict(row bench.Row) (string, bool) {
	v := row.Verdict()
	switch {
	case v.Why != "":
		return v.Why, v.Kept
	case v.Rival == "":
		return "no governor did as well", v.Kept
	default:
		return fmt.Sprintf("%.3f of %s", v.Ratio, v.Rival), v.Kept
	}
}

// kinds are where the rows' joules come from.
func (r Run) kinds() string {
	var out []string
	for _, row := range r.Rows {
		if !slices.Contains(out, row.Kind) {
			out = append(out, row.Kind)
		}
	}
	return strings.Join(out, " or ")
}

func (r Run) seeds() string {
	var out []string
	for _, row := range r.Rows {
		if s := fmt.Sprint(row.Seed); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) == 1 {
		return "seed " + out[0]
	}
	return "seeds " + strings.Join(out, ", ")
}

// A key tells machines apart: two files may name theirs alike.
type key struct {
	name     string
	platform *energy.Platform
}

func (r Run) data() data {
	d := data{Version: r.Version, Policies: styled(r.Policies), Machines: []machine{}, Cases: []row{}}
	index := map[key]int{}
	for i, in := range r.Rows {
		c := r.Cases[i]
		k := key{c.Machine.Name, c.Machine.Platform}
		at, ok := index[k]
		if !ok {
			at = len(d.Machines)
			index[k] = at
			d.Machines = append(d.Machines, machineOf(c.Machine))
		}
		out := row{Machine: at, Load: in.Load, About: c.Load.About, Seed: in.Seed, Kind: in.Kind, Span: (c.Span - c.Warm).Seconds(), Limit: short(in.Limit)}
		for _, ct := range c.Load.Containers {
			if b := ct.P99.Seconds(); b > 0 && !slices.Contains(out.Bounds, b) {
				out.Bounds = append(out.Bounds, b)
			}
		}
		slices.Sort(out.Bounds)
		if _, ok := in.Result(bench.Powerd); ok {
			out.Verdict, _ = verdict(in)
		}
		var courses []course
		for _, p := range r.Policies {
			o, _ := in.Result(p)
			courses = append(courses, courseOf(o.Samples, c.Warm, c.Span, d.Machines[at].States))
			for _, w := range courses[len(courses)-1].power {
				out.Scale = max(out.Scale, w)
			}
			out.Parts = max(out.Parts, len(courses[len(courses)-1].power))
		}
		out.Scale = short(out.Scale * 1.001) // rounding must not make it less than a value
		for k, p := range r.Policies {
			o, _ := in.Result(p)
			res := result{Energy: short(o.Energy.Joules()), Base: short(o.Base.Joules()), Late: o.Late(),
				Missed: o.Missed, Due: o.Due, P99: short(o.P99.Seconds()),
				Power: bytesOf(courses[k].power, out.Scale), Speed: bytesOf(courses[k].speed, 1)}
			if in.Limit > 0 {
				res.Over = short(o.Energy.Joules() / in.Limit)
			}
			for _, s := range courses[k].idle {
				res.Idle = append(res.Idle, short(s))
			}
			for q, l := range o.Latency {
				res.Latency = append(res.Latency, short(l.Within.Seconds()))
				if q >= len(d.Percentiles) {
					d.Percentiles = append(d.Percentiles, l.Percent)
				}
			}
			out.Results = append(out.Results, res)
		}
		d.Cases = append(d.Cases, out)
	}
	return d
}

// styled gives powerd, the governors and the oracle styles of their own, the same in every
// report, and others the next ones.
func styled(policies []string) (out []policy) {
	known := slices.Concat([]string{bench.Powerd}, bench.Governors, []string{bench.Oracle})
	next := len(known)
	for _, name := range policies {
		p := policy{Name: name, Style: slices.Index(known, name), Shown: name == bench.Powerd || slices.Contains(bench.Rivals, name) || len(policies) <= 4}
		if p.Style < 0 {
			p.Style = next
			next++
		}
		out = append(out, p)
	}
	return out
}

// short rounds to four significant digits, as many as the page shows.
func short(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0
	}
	p := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*p) / p
}

// bytesOf scales values to 0..255, and makes equal ones into one.
func bytesOf(values []float64, scale float64) []byte {
	out := make([]byte, len(values))
	for i, v := range values {
		if scale > 0 {
			out[i] = byte(math.Round(255 * min(1, max(0, v/scale))))
		}
	}
	if len(slices.Compact(slices.Clone(out))) == 1 {
		out = out[:1]
	}
	return out
}
