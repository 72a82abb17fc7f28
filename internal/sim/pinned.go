package sim

import (
	"fmt"
	"time"

	"github.com/powerd/powerd/internal/cpuset"
)

// pinnedWork is more than any run lasts: work without end whose progress is counted.
const pinnedWork = 1000 * time.Hour

// Pinned is a thread in no container that works without end on one cpu, as one with an
// affinity does (sched_setaffinity(2)).
type Pinned struct {
	m *Machine
	t *task
}

// Pin starts a thread on a cpu. CPUBound is the share of its work that scales with the
// clock, from 0 to 1.
func (m *Machine) Pin(c cpuset.CPU, cpuBound float64) (*Pinned, error) {
	if !m.online().Contains(c) {
		return nil, fmt.Errorf("cannot pin a thread to cpu %d: it is not online", c)
	}
	if !(cpuBound >= 0 && cpuBound <= 1) {
		return nil, fmt.Errorf("cannot pin a thread to cpu %d: a share of %g is not in 0..1", c, cpuBound)
	}
	g := m.newCgroup(m.root, fmt.Sprint(".pinned-", len(m.tasks))) // it has no files
	g.cpus = cpuset.Of(c)
	g.confine(m)
	w := Workload{Work: pinnedWork, CPUBound: cpuBound}
	t := &task{id: len(m.tasks), w: w, group: g, began: m.now, jobs: w.Stream(m.seed, m.now, 0), due: never}
	g.tasks = append(g.tasks, t)
	m.tasks = append(m.tasks, t)
	m.come(t)
	m.release(t)
	m.refresh()
	return &Pinned{m, t}, nil
}

// Work is what the thread has done, in seconds on the fastest core at its fastest.
func (p *Pinned) Work() float64 { return p.t.begun(p.m.now).Seconds() }

// Ran is how long it had a cpu for that.
func (p *Pinned) Ran() time.Duration { return p.t.group.used(p.m.now) }

// End ends the thread.
func (p *Pinned) End() {
	g := p.t.group
	p.m.kill(p.t)
	g.tasks = nil
	p.m.removeCgroup(g)
	p.m.refresh()
}
