package sim

import (
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
)

// A mask is a set of the machine's cpus.
type mask []uint64

func newMask(cpus int) mask { return make(mask, (cpus+63)/64) }

func (k mask) has(c cpuset.CPU) bool { return k[uint(c)/64]>>(uint(c)%64)&1 > 0 }

func (k mask) put(c cpuset.CPU, in bool) {
	word, bit := &k[uint(c)/64], uint64(1)<<(uint(c)%64)
	if *word &^= bit; in {
		*word |= bit
	}
}

// running reports whether the cpu does work now.
func (p *cpu) running() bool { return p.state < 0 && len(p.runnable) > 0 }

// working counts the core's threads that do work now.
func (c *core) working() int {
	n := 0
	for _, p := range c.cpus {
		if p.running() {
			n++
		}
	}
	return n
}

// touch is called after a cpu's tasks or state have changed.
func (m *Machine) touch(p *cpu) {
	m.crowded.put(p.id, len(p.runnable) > 1)
	if c := p.core; len(c.cpus) == 1 {
		m.free.put(p.id, p.online && len(p.runnable) == 0)
	} else {
		quiet := c.working() == 0
		for _, s := range c.cpus {
			m.free.put(s.id, quiet && s.online && len(s.runnable) == 0)
		}
	}
	m.suspect(p.core)
}

// release hands a task its next job.
func (m *Machine) release(t *task) {
	job := t.coming
	m.come(t)
	if t.ready {
		t.backlog = append(t.backlog, job)
		return
	}
	t.job, t.ready, t.left = job, true, sumOf(int64(job.Work))
	m.enqueue(t)
}

// complete ends the jobs that are done on a cpu.
func (m *Machine) complete(p *cpu) {
	for i := 0; i < len(p.runnable); {
		t := p.runnable[i]
		if t.due > m.now {
			i++
			continue
		}
		t.done++
		t.worked += t.job.Work
		t.log(m.now - t.job.At)
		if t.job.Due > 0 {
			t.deadlines++
			if m.now > t.job.At+t.job.Due+time.Microsecond {
				t.missed++
			}
		}
		t.left, t.since = sum{}, m.now
		if len(t.backlog) == 0 {
			t.ready = false
			if t.util != nil {
				t.util.sleep(m.now)
			}
			m.dequeue(t)
			continue
		}
		t.job = t.backlog[0]
		t.backlog = t.backlog[:copy(t.backlog, t.backlog[1:])]
		t.left = sumOf(int64(t.job.Work))
		t.due = after(m.now, t.left.over(t.speed))
		i++
	}
	m.suspect(p.core)
}

// enqueue puts a task on a cpu as the fair scheduler does: where it last ran if that is
// idle, or an idle one that shares a cache with that; one that starts goes to the cache
// whose cpus have least to do. Only where all those are busy it goes to an idle one
// anywhere, for idle balancing would pull it there, or to the cpu with the least weight. An
// idle core goes before an idle sibling.
//
// See select_task_rq_fair in kernel/sched/fair.c.
func (m *Machine) enqueue(t *task) {
	if g := t.group.stopper(); g != nil {
		g.wait = append(g.wait, t)
		t.waits = g
		return
	}
	if p := m.choice(t); p != nil {
		m.start(t, p)
	}
}

// start has a cpu run a task, and wakes it for that.
func (m *Machine) start(t *task, p *cpu) {
	m.run(t, p)
	if p.state >= 0 && !p.pending {
		m.wake(p)
	}
	m.touch(p)
}

// choice is the best cpu for a task that begins to run.
func (m *Machine) choice(t *task) *cpu {
	may := t.group.mask
	if m.hybrid && t.last != nil {
		if m.frugal() {
			if p := m.cheapest(t); p != nil && p.online {
				return p
			}
		}
		if p := m.roomy(t); p != nil {
			return p
		}
	}
	if p := t.last; p != nil && may.has(p.id) && m.free.has(p.id) {
		return p
	}
	home := m.everywhere
	if t.last != nil {
		home = t.last.island.mask
	} else if is := m.idlest(may); is != nil {
		home = is.mask
	}
	for _, near := range []mask{home, m.everywhere} {
		for i, word := range may {
			if word &= m.free[i] & near[i]; word != 0 {
				return m.cpus[64*i+bits.TrailingZeros64(word)]
			}
		}
	}
	var best *cpu
	bestKey := [4]float64{math.Inf(1)}
	for i, word := range may {
		for ; word != 0; word &= word - 1 {
			p := m.cpus[64*i+bits.TrailingZeros64(word)]
			key := [4]float64{p.weight / p.capacity, 1, float64(p.core.working()), 1}
			if home.has(p.id) {
				key[1] = 0
			}
			if p == t.last {
				key[3] = 0
			}
			if best == nil || slices.Compare(key[:], bestKey[:]) < 0 {
				best, bestKey = p, key
			}
		}
	}
	return best
}

// idlest returns the island whose cpus among some have least to do for their capacity.
func (m *Machine) idlest(may mask) (best *island) {
	least := math.Inf(1)
	for _, is := range m.islands {
		load, capacity := 0.0, 0.0
		for _, p := range is.cpus {
			if may.has(p.id) {
				load += p.weight
				capacity += p.capacity
			}
		}
		if capacity > 0 && load/capacity < least {
			best, least = is, load/capacity
		}
	}
	return best
}

// run adds a task to a cpu's.
func (m *Machine) run(t *task, p *cpu) {
	t.cpu = p
	t.since = m.now
	t.runOn(p)
	p.runnable = append(p.runnable, t)
	p.weight += t.group.weight
}

// runOn makes a cpu the last that the task ran on.
func (t *task) runOn(p *cpu) {
	if t.last == p {
		return
	}
	if t.timer && t.last != nil {
		list := t.last.timers
		list[slices.Index(list, t.id)] = list[len(list)-1]
		t.last.timers = list[:len(list)-1]
	}
	if t.util != nil && t.last != nil {
		list := t.last.home
		t.last.home = slices.Delete(list, slices.Index(list, t), slices.Index(list, t)+1)
	}
	if t.last = p; p == nil {
		return
	}
	if t.timer {
		p.timers = append(p.timers, t.id)
	}
	if t.util != nil {
		p.home = append(p.home, t)
	}
}

// leave takes a task off its cpu.
func (m *Machine) leave(t *task) {
	p := t.cpu
	m.pace(t, 0, 0, 0)
	t.cpu = nil
	i := slices.Index(p.runnable, t)
	p.runnable = p.runnable[:i+copy(p.runnable[i:], p.runnable[i+1:])]
	p.weight -= t.group.weight
}

// dequeue takes a task off its cpu, which looks for another one.
func (m *Machine) dequeue(t *task) {
	p := t.cpu
	m.leave(t)
	m.vacated(p)
}

// vacated has a cpu that a task has left go on.
func (m *Machine) vacated(p *cpu) {
	if len(p.runnable) == 0 && !m.steal(p) {
		m.sleep(p)
	}
	m.touch(p)
}

// steal lets a cpu that runs dry take a waiting task from the fullest one.
//
// Where work is placed by energy nothing is pulled: find_busiest_group.
func (m *Machine) steal(p *cpu) bool {
	if !p.online || m.hybrid && m.frugal() {
		return false
	}
	var from *cpu
	for i, word := range m.crowded {
		for ; word != 0; word &= word - 1 {
			if o := m.cpus[64*i+bits.TrailingZeros64(word)]; from == nil || o.weight > from.weight {
				from = o
			}
		}
	}
	if from == nil {
		return false
	}
	for _, t := range slices.Backward(from.runnable) {
		if t.group.mask.has(p.id) {
			m.leave(t)
			m.touch(from)
			m.run(t, p)
			return true
		}
	}
	return false
}

// withdraw takes a task off its cpu, or from those that wait for quota, and tells
// whether it was there.
func (m *Machine) withdraw(t *task) bool {
	switch {
	case t.cpu != nil:
		m.dequeue(t)
	case t.waits != nil:
		t.waits.wait = slices.DeleteFunc(t.waits.wait, func(o *task) bool { return o == t })
		t.waits = nil
	default:
		return false
	}
	return true
}

// migrate moves tasks off cpus they may no longer use.
func (m *Machine) migrate() {
	for _, t := range m.tasks {
		if t.cpu != nil && !t.group.mask.has(t.cpu.id) {
			m.dequeue(t)
			m.enqueue(t)
		}
	}
}

// move puts a task into another cgroup.
func (m *Machine) move(t *task, g *cgroup) {
	ready := m.withdraw(t)
	t.group.tasks = slices.DeleteFunc(t.group.tasks, func(o *task) bool { return o == t })
	t.group = g
	g.tasks = append(g.tasks, t)
	if ready {
		m.enqueue(t)
	}
}

// plug brings a cpu on or off line.
func (m *Machine) plug(p *cpu, online bool) {
	if p.online == online {
		return
	}
	p.online = online
	m.root.confine(m)
	if online {
		m.sleep(p)
		m.touch(p)
		m.migrate()
		return
	}
	m.enter(p, len(p.idle)-1)
	for _, t := range slices.Clone(p.runnable) {
		m.leave(t)
		m.enqueue(t)
	}
	m.touch(p)
}
