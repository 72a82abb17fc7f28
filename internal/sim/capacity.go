package sim

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// On cores of several kinds the kernel's scheduler goes by what tasks need: one that needs
// more than its core has is taken to a larger one, and while no core is overutilised and
// schedutil governs all, a task wakes where that costs the least energy (EAS).
//
// See Documentation/scheduler/sched-capacity.rst and sched-energy.rst, and
// find_energy_efficient_cpu, select_idle_capacity and cpu_overutilized in
// kernel/sched/fair.c of Linux 6.1.

// fits is the part of a core's capacity up to which it is enough: fits_capacity.
const fits = 0.8

// An average is a task's utilisation, in capacity: 1 is all of the fastest core at its
// fastest. Like PELT's it forgets half in 32 ms, but without PELT's steps of 1 ms.
type average struct {
	value float64 // as of at
	rate  float64 // towards which it goes
	at    time.Duration
	est   float64 // util_est: what it was when the task last slept, soon up, slowly down
}

func (a *average) now(now time.Duration) float64 {
	if now == a.at {
		return a.value
	}
	return a.rate + (a.value-a.rate)*decayOver(now-a.at)
}

func (a *average) change(now time.Duration, rate float64) {
	a.value, a.at, a.rate = a.now(now), now, rate
}

// sleep follows the average at the end of what the task had to do (util_est_update).
func (a *average) sleep(now time.Duration) {
	if u := a.now(now); u >= a.est {
		a.est = u
	} else {
		a.est -= (a.est - u) / 4
	}
}

// need is what a task is taken to need (task_util_est).
func (a *average) need(now time.Duration) float64 { return max(a.now(now), a.est) }

// utilised is what a cpu is taken to have to do if a task is on the cpu dst: cpu_util_next.
// Without a task it is what it has now.
func (p *cpu) utilised(now time.Duration, t *task, dst *cpu) float64 {
	avg, est := 0.0, 0.0
	for _, o := range p.home {
		if o == t && t != nil {
			continue
		}
		avg += o.util.now(now)
		if o.cpu == p {
			est += o.util.need(now)
		}
	}
	if t != nil && dst == p {
		avg += t.util.now(now)
		est += t.util.need(now)
	}
	return max(avg, est)
}

// energy is the power of a clock's cpus by the kernel's model, which knows what work costs
// and nothing else, if a task is on dst (compute_energy).
func (d *domain) energy(now time.Duration, t *task, dst *cpu) float64 {
	sum, highest := 0.0, 0.0
	for _, p := range d.cpus {
		u := min(p.utilised(now, t, dst), p.capacity)
		sum += u
		highest = max(highest, u/p.capacity)
	}
	top := d.curve.OPPs[len(d.curve.OPPs)-1]
	o := d.curve.OPPs[d.atLeast(math.Min(1, highest/fits)*float64(top.Frequency))]
	return sum / d.cpus[0].capacity * nanos(o.Dynamic) / o.Speed
}

// frugal reports whether the kernel places by energy now.
func (m *Machine) frugal() bool {
	for _, d := range m.domains {
		if d.governor != "schedutil" || d.over {
			return false
		}
	}
	return true
}

// cheapest is the cpu on which a task that wakes costs the least: of each clock's the one
// with the most to spare, and the one where it was.
func (m *Machine) cheapest(t *task) *cpu {
	may := t.group.mask
	need := t.util.need(m.now)
	if need == 0 && may.has(t.last.id) {
		return t.last
	}
	best, least, before := t.last, math.Inf(1), math.Inf(1)
	for _, d := range m.domains {
		var most *cpu
		spare, was := 0.0, -1.0
		for _, p := range d.cpus {
			if !p.online || !may.has(p.id) {
				continue
			}
			u := p.utilised(m.now, t, p)
			if u > fits*p.capacity {
				continue
			}
			switch left := p.capacity - u; {
			case p == t.last:
				was = left
			case left > spare:
				most, spare = p, left
			}
		}
		if most == nil && was < 0 {
			continue
		}
		base := d.energy(m.now, t, nil)
		if was >= 0 {
			before = d.energy(m.now, t, t.last) - base
		}
		if most != nil && spare > was {
			if cost := d.energy(m.now, t, most) - base; cost < least {
				best, least = most, cost
			}
		}
	}
	switch {
	case least < before:
		return best
	case !math.IsInf(before, 1):
		return t.last
	}
	return nil // it fits nowhere
}

// roomy is the cpu among idle ones that a task fits on, where it was if that does, or the
// largest (select_idle_capacity).
func (m *Machine) roomy(t *task) *cpu {
	may, need := t.group.mask, t.util.need(m.now)
	if p := t.last; p != nil && may.has(p.id) && m.free.has(p.id) && need <= fits*p.capacity {
		return p
	}
	for i, word := range may {
		for word &= m.free[i]; word != 0; word &= word - 1 {
			if p := m.cpus[64*i+bits.TrailingZeros64(word)]; need <= fits*p.capacity {
				return p
			}
		}
	}
	return m.largestIdle(may, 0)
}

// tick looks, when a clock's governor does, whether cpus have more to do than they should.
// If one has, idle cpus take what does not fit where it is (misfit tasks) and what waits
// (nohz_balancer_kick).
func (m *Machine) tick(d *domain) {
	d.over = false
	for _, p := range d.cpus {
		if p.utilised(m.now, nil, nil) <= fits*p.capacity {
			continue
		}
		d.over = true
		for _, t := range slices.Clone(p.runnable) {
			least := p.capacity // more than that
			if len(p.runnable) > 1 {
				least = 0
			} else if t.util.need(m.now) <= fits*p.capacity {
				continue
			}
			if to := m.largestIdle(t.group.mask, least); to != nil {
				m.pull(t, to)
			}
		}
	}
}

// largestIdle is the idle cpu among some with the most capacity, more than least.
func (m *Machine) largestIdle(may mask, least float64) (best *cpu) {
	for i, word := range may {
		for word &= m.free[i]; word != 0; word &= word - 1 {
			if p := m.cpus[64*i+bits.TrailingZeros64(word)]; p.capacity > least {
				best, least = p, p.capacity
			}
		}
	}
	return best
}

// pull takes a task to an idle cpu.
func (m *Machine) pull(t *task, to *cpu) {
	from := t.cpu
	m.leave(t)
	m.start(t, to)
	m.vacated(from)
}
