package sim

import (
	"math"
	"time"
)

// suspect has a core's part of the accounts looked at before time goes on.
func (m *Machine) suspect(c *core) {
	if !c.stale {
		c.stale = true
		m.stale = append(m.stale, c)
	}
}

// refresh brings up to date how fast the accounts of cores grow, on which something
// happened, and when their cpus have done what they do.
func (m *Machine) refresh() {
	for _, c := range m.stale {
		c.stale = false
		m.rate(c)
	}
	m.stale = m.stale[:0]
}

// rate sets a core's rates: a core at work is its tasks', one that is not is the base's.
func (m *Machine) rate(c *core) {
	working := c.working()
	var base uint64
	if working == 0 {
		base = c.rest()
	}
	if base != c.base {
		m.base.change(m.now, c.base, base)
		c.base = base
	}
	for _, p := range c.cpus {
		m.note(p)
		next := p.wakes
		if p.runs > 0 {
			// Hardware threads of a core share its throughput: two do 1.25 times the work
			// of one, as is typical of SMT. A stall costs what work does.
			d, alone := p.dom, working == 1 && len(p.runnable) == 1
			for _, t := range p.runnable {
				if t.clock != (clock{d, d.opp}) {
					t.clock = clock{d, d.opp}
					t.full = p.capacity / d.curve.Tau(d.opp, t.w.CPUBound)
					t.alone = scaled(t.full)
				}
				if alone {
					m.pace(t, one, d.whole[d.opp], t.alone)
				} else {
					share, n := t.group.weight/p.weight, float64(working)
					m.pace(t, scaled(share), scaled(share*d.active[d.opp]/n), scaled(share*t.full*(1+0.25*(n-1))/n))
				}
				next = min(next, t.due)
			}
		}
		m.queues[changed].set(int(p.id), next)
	}
}

// note keeps books of whether a cpu runs, and is awake.
func (m *Machine) note(p *cpu) {
	if p.running() != (p.runs > 0) {
		p.busy = m.busyFor(p)
		p.runs, p.changed = 1-p.runs, m.now
		if p.runs == 0 {
			p.dom.running--
		} else if p.dom.running++; p.dom.running == 1 && m.queues[sampled].at(p.dom.n) == never {
			m.queues[sampled].set(p.dom.n, max(p.dom.sample, m.now))
		}
	}
	if up := p.online && (p.state < 0 || p.pending); up != p.upAs {
		p.upAs = up
		is := p.island
		switch {
		case !up:
			if is.up--; is.up == 0 {
				m.base.change(m.now, is.awake, is.asleep)
			}
		default:
			if is.up++; is.up == 1 {
				m.base.change(m.now, is.asleep, is.awake)
			}
		}
	}
}

// rest is the power of a core that does no work.
func (c *core) rest() uint64 {
	awake, deepest := false, math.MaxInt
	for _, s := range c.cpus {
		if s.state < 0 || s.pending {
			awake = true
		} else {
			deepest = min(deepest, s.state)
		}
	}
	p := c.cpus[0]
	switch {
	case !p.online && len(p.idle) > 0:
		deepest = len(p.idle) - 1
	case awake || len(p.idle) == 0:
		return p.dom.static[p.dom.opp]
	}
	return p.states[deepest].power
}

// pace sets how fast a task uses time and energy, and does its work.
func (m *Machine) pace(t *task, share, power, speed uint64) {
	if len(m.counters) > 0 {
		m.count(t, share, speed)
	}
	if share == t.share && power == t.power && speed == t.speed {
		return
	}
	g := t.group
	g.energy.change(m.now, t.power, power)
	if share != t.share {
		g.usage.change(m.now, t.share, share)
		for o := g; o != nil && o.limited; o = o.parent {
			if o.max.Quota > 0 {
				o.spent.change(m.now, t.share, share)
				m.plan(o)
			}
		}
	}
	if t.util != nil {
		rate := 0.0
		if p := t.cpu; p != nil && share > 0 {
			rate = float64(share) / float64(one) * p.capacity * p.dom.curve.OPPs[p.dom.opp].Speed
		}
		t.util.change(m.now, rate)
	}
	if !t.endless {
		t.left, t.since = t.remaining(m.now), m.now
		t.due = after(m.now, t.left.over(speed))
	}
	t.share, t.power, t.speed = share, power, speed
}

// remaining is what a task has still to do of its job.
func (t *task) remaining(now time.Duration) sum {
	return t.left.minus(sum{}.plus(t.speed, now-t.since))
}

// busyFor is how long a cpu has run so far.
func (m *Machine) busyFor(p *cpu) time.Duration { return p.busy + p.runs*(m.now-p.changed) }
