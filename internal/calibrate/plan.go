package calibrate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// awake is the Point.State of cores that are awake and idle.
const awake = -1

// A Point is one state of the machine to measure. Every core sleeps as deep as it may, at
// the slowest clock, but for those named.
type Point struct {
	// Kind of core under test, and Clock of all its cores.
	Kind  int
	Clock units.Frequency
	// Work are the cpus with a worker, one a core; with Memory it waits for memory.
	Work   cpuset.Set
	Memory bool
	// Hold are the cpus held in one idle state, by its index in the kind's States, or
	// awake without work.
	Hold  cpuset.Set
	State int
	// Repeat and Round tell apart points that are measured more than once: in a round,
	// and again in each of several.
	Repeat, Round int
}

// describe names a point for people, and as a key: no two of a plan have the same.
func (m *Machine) describe(p Point) string {
	var b strings.Builder
	fmt.Fprintf(&b, "cpus %s at %v: ", m.Kinds[p.Kind].CPUs, p.Clock)
	switch {
	case !p.Work.Empty() && p.Memory:
		fmt.Fprintf(&b, "%s waiting for memory", p.Work)
	case !p.Work.Empty():
		fmt.Fprintf(&b, "%s computing", p.Work)
	case !p.Hold.Empty() && p.State == awake:
		fmt.Fprintf(&b, "%s awake and idle", p.Hold)
	case !p.Hold.Empty():
		fmt.Fprintf(&b, "%s in %s", p.Hold, m.Kinds[p.Kind].States[p.State].Name)
	default:
		b.WriteString("all idle")
	}
	if p.Repeat > 0 {
		fmt.Fprintf(&b, ", again (%d)", p.Repeat)
	}
	if p.Round > 0 {
		fmt.Fprintf(&b, ", round %d", p.Round+1)
	}
	return b.String()
}

// A Plan is the points to measure, in how many rounds at the most, and how long each
// takes.
type Plan struct {
	Points []Point // of one round
	Rounds int
	// Lead passes before a point's Window, in which it is measured.
	Lead, Window time.Duration
	// Budget is what all rounds together may take.
	Budget time.Duration
}

// settle is what clocks and regulators, and caches, get to come to rest.
const settle = 300 * time.Millisecond

// handling is what a point takes beside: writes, wakes, starting threads.
const handling = 100 * time.Millisecond

// all are the points of every round.
func (p Plan) all() []Point {
	var out []Point
	for round := range p.Rounds {
		for _, q := range p.Points {
			q.Round = round
			out = append(out, q)
		}
	}
	return out
}

// Time is how long a round takes.
func (p Plan) Time() time.Duration { return time.Duration(len(p.Points)) * p.each() }

func (p Plan) each() time.Duration { return p.Lead + p.Window + handling }

// MaxClocks bounds how many of a kind's clocks are measured. Between them the daemon
// takes straight lines.
const MaxClocks = 16

// NewPlan makes a plan that takes no longer than budget: with as many clocks as fit, then
// with windows as long as fit, up to two seconds or six of the meter's averages, and then
// with as many rounds.
func (m *Machine) NewPlan(budget time.Duration) (Plan, error) {
	least, most, lead := time.Second, 2*time.Second, settle
	if m.Pace > 0 {
		lead += 2 * m.Pace
		least, most = max(least, 2*m.Pace), max(most, 6*m.Pace)
	}
	p := Plan{Lead: lead, Window: least, Budget: budget}
	for n := MaxClocks; ; n-- {
		p.Points = m.points(n)
		if p.Time() <= budget {
			break
		}
		if n == 2 {
			return Plan{}, fmt.Errorf("%d points of %v take %v", len(p.Points), p.each(), p.Time())
		}
	}
	p.Window = min(most, budget/time.Duration(len(p.Points))-lead-handling)
	p.Rounds = max(1, int(budget/p.Time()))
	// What drifts with time, such as temperature, must not look like a clock's or a
	// state's doing.
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(p.Points), func(i, j int) { p.Points[i], p.Points[j] = p.Points[j], p.Points[i] })
	return p, nil
}

// clocks returns n of a kind's steps, both ends among them, evenly spread.
func (k Kind) clocks(n int) []units.Frequency {
	if len(k.Steps) <= n {
		return k.Steps
	}
	var out []units.Frequency
	for i := range n {
		out = append(out, k.Steps[(i*(len(k.Steps)-1)+(n-1)/2)/(n-1)])
	}
	return slices.Compact(out)
}

func (m *Machine) points(clocks int) []Point {
	var out []Point
	add := func(p Point) { out = append(out, p) }
	first := m.Kinds[0].Steps[0]
	for i := range 3 { // every other point is told against it
		add(Point{Clock: first, Repeat: i})
	}
	for kind, k := range m.Kinds {
		groups := m.members(kind)
		slices.SortStableFunc(groups, func(a, b []int) int { return cmp.Compare(len(b), len(a)) })
		group := groups[0]
		at := k.clocks(clocks)
		low, mid, top := at[0], at[len(at)/2], at[len(at)-1]
		var all []int
		for _, g := range groups {
			all = append(all, g...)
		}
		work := func(f units.Frequency, cores []int, memory bool) {
			add(Point{Kind: kind, Clock: f, Work: m.firsts(cores), Memory: memory, State: awake})
		}
		hold := func(f units.Frequency, cores []int, state int) {
			add(Point{Kind: kind, Clock: f, Hold: m.threads(cores), State: state})
		}
		ends := slices.Compact([]units.Frequency{low, top})
		for _, f := range at {
			work(f, group[:1], false)
			work(f, group[:1], true)
			if len(all) > 1 {
				work(f, all, false)
			}
			switch {
			case k.holdsAwake():
				hold(f, all, k.Gated)
			case k.Deepest() < 0: // they are awake anyway
				add(Point{Kind: kind, Clock: f})
			}
		}
		for n := 2; n < len(all); n *= 2 { // how power grows with the cores
			for _, f := range slices.Compact([]units.Frequency{mid, top}) {
				if n < len(group) {
					work(f, group[:n], false)
				}
			}
		}
		for _, g := range groups[1:] { // what a cluster alone costs
			for _, f := range ends {
				work(f, g[:1], false)
			}
		}
		if k.holdsAwake() && len(all) > 1 {
			for _, f := range ends {
				hold(f, group[:1], k.Gated)
			}
		}
		for s, state := range k.States {
			if k.Fixed != "" || state.Poll || s == k.Gated || s == k.Deepest() {
				continue
			}
			hold(low, all, s)
			hold(top, all, s)
			if len(all) > 1 {
				hold(low, group[:1], s)
			}
		}
	}
	// What a package costs shows when two of its clusters are awake.
	for p := range m.Packages {
		var lone []int // a core of each cluster
		seen := map[int]bool{}
		for i, c := range m.Cores {
			if c.Package == p && c.Kind >= 0 && !seen[c.Cluster] {
				seen[c.Cluster] = true
				lone = append(lone, i)
			}
		}
		if len(lone) < 2 {
			continue
		}
		kind := m.Cores[lone[0]].Kind
		steps := m.Kinds[kind].Steps
		for _, f := range slices.Compact([]units.Frequency{steps[0], steps[len(steps)-1]}) {
			add(Point{Kind: kind, Clock: f, Work: m.firsts(lone[:2]), State: awake})
		}
	}
	// With few clocks some are the same.
	seen := map[string]bool{}
	return slices.DeleteFunc(out, func(p Point) bool {
		key := m.describe(p)
		was := seen[key]
		seen[key] = true
		return was
	})
}

// holdsAwake reports whether cores of the kind can be held awake and idle on purpose.
func (k Kind) holdsAwake() bool {
	return k.Fixed == "" && k.Deepest() >= 0
}

// firsts are the first cpus of some cores.
func (m *Machine) firsts(cores []int) cpuset.Set {
	var out []cpuset.CPU
	for _, i := range cores {
		out = append(out, m.Cores[i].CPUs.Min())
	}
	return cpuset.Of(out...)
}

// threads are all cpus of some cores.
func (m *Machine) threads(cores []int) cpuset.Set {
	var out cpuset.Set
	for _, i := range cores {
		out = out.Union(m.Cores[i].CPUs)
	}
	return out
}
