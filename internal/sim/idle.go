package sim

import (
	"slices"
	"strconv"
	"time"

	"github.com/powerd/powerd/cstates"
)

// enter puts a cpu into an idle state, or -1.
func (m *Machine) enter(p *cpu, state int) {
	if p.state >= 0 && !p.pending {
		p.stays[p.state].time += m.now - p.since
	}
	p.state, p.since = state, m.now
	p.pending, p.wakes = false, never
}

// idleFor is how long a cpu has been in one of its idle states so far.
func (m *Machine) idleFor(p *cpu, state int) time.Duration {
	d := p.stays[state].time
	if state == p.state && !p.pending {
		d += m.now - p.since
	}
	return d
}

// wake begins to leave the idle state; work starts after its exit latency.
func (m *Machine) wake(p *cpu) {
	p.gaps[p.woken%gaps] = m.now - p.slept
	p.woken++
	exit := p.states[p.state].exit
	if exit <= 0 {
		m.enter(p, -1)
		return
	}
	p.stays[p.state].time += m.now - p.since
	p.pending, p.wakes = true, m.now+exit
}

// awake has a cpu out of its idle state.
func (m *Machine) awake(p *cpu) {
	m.enter(p, -1)
	m.touch(p)
}

// sleep sends an idle cpu into a state: the deepest whose residency fits the time that
// it is predicted to sleep, and whose exit latency is within the bound. As menu does, it
// knows when the next timer fires of a task that last ran here, and of what comes from
// outside only how long the last gaps were.
//
// See Documentation/admin-guide/pm/cpuidle.rst, the menu governor.
func (m *Machine) sleep(p *cpu) {
	p.slept = m.now
	gap := never
	releases := m.queues[released].all()
	for _, id := range p.timers {
		in := releases[id].at - m.now
		if in <= 0 { // it fires
			in = never
		}
		gap = min(gap, in)
	}
	state := p.deepest(gap)
	// What is typical is no shorter than the mean of the shortest, and matters only if it
	// forbids the state.
	if state > 0 && p.woken >= gaps && p.shortest() < p.states[state].least {
		state = p.deepest(min(gap, p.typical()))
	}
	m.enter(p, state)
	if state >= 0 {
		p.stays[state].usage++
		m.base.sum = m.base.sum.plus(p.states[state].transition, 1e6)
	}
}

// deepest is the last usable state that fits a gap, else the first usable one, else -1.
func (p *cpu) deepest(gap time.Duration) int {
	best := -1
	for i := range p.stays {
		if p.stays[i].usable && (best < 0 || p.states[i].least <= gap) {
			best = i
		}
	}
	return best
}

// gaps is how many of the last idle times the idle governor looks at.
const gaps = 8

// shortest is the mean of the last idle times without the two longest.
func (p *cpu) shortest() time.Duration {
	var sum, longest, second time.Duration
	for _, g := range p.gaps[:] {
		sum += g
		longest, second = max(longest, g), max(second, min(longest, g))
	}
	return (sum - longest - second) / (gaps - 2)
}

// typical is the mean of the last idle times, if they agree: their deviation is at most
// a sixth of it, or 20 us. Where they do not, the longest are left out, up to a quarter;
// and never is the answer if the rest do not agree either.
//
// See get_typical_interval in drivers/cpuidle/governors/menu.c.
func (p *cpu) typical() time.Duration {
	// Sums of what each is longer than the shortest by, which keeps the squares exact.
	least := slices.Min(p.gaps[:])
	var sum, longest, second time.Duration
	squares := 0.0
	for _, g := range p.gaps[:] {
		d := g - least
		sum, squares = sum+d, squares+float64(d)*float64(d)
		longest, second = max(longest, d), max(second, min(longest, d))
	}
	for n := gaps; ; n-- {
		above := float64(sum) / float64(n)
		mean := float64(least) + above
		if variance := squares/float64(n) - above*above; variance <= mean*mean/36 || variance <= 20e3*20e3 {
			return time.Duration(mean)
		}
		if n == gaps*3/4 {
			return never
		}
		sum, squares = sum-longest, squares-float64(longest)*float64(longest)
		longest = second
	}
}

// vet finds out which states the cpu may enter.
func (p *cpu) vet() {
	for i, s := range p.idle {
		p.stays[i].usable = !p.disabled[i] && p.bears(s)
	}
}

// bears reports whether the cpu's latency bound lets it enter a state.
func (p *cpu) bears(s cstates.Model) bool {
	switch p.bound {
	case "0":
		return true
	case "n/a":
		return s.Exit == 0
	}
	us, err := strconv.ParseFloat(p.bound, 64)
	return err == nil && float64(s.Entry+s.Exit)*1e6 <= us
}
