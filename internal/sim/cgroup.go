package sim

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/cpuset"
)

// controllers that the simulated kernel has.
var controllers = []string{"cpuset", "cpu", "io", "memory", "pids"}

// A cgroup of the v2 hierarchy.
type cgroup struct {
	parent    *cgroup
	limited   bool // it or one around it has a quota
	stopped   bool // throttled
	weight    float64
	mask      mask      // effective
	words     [2]uint64 // its, on most machines
	usage     account   // of its own tasks, ns
	energy    account   // nJ
	spent     account   // in this period, ns
	max       containers.CPUMax
	number    int
	path      string
	children  []*cgroup
	enabled   []string // subtree_control
	tasks     []*task
	cpus      cpuset.Set // as asked; empty is the parent's
	effective cpuset.Set
	bequest   time.Duration // usage of groups that were in it
	period    time.Duration // when this period ends
	stopAt    time.Duration
	periods   uint64
	stops     uint64
	waited    time.Duration // of all cpus that were stopped
	stopOn    int           // how many are
	wait      []*task
	attrs     map[string]string
	counters  []*counter
}

func (m *Machine) newCgroup(parent *cgroup, p string) *cgroup {
	g := &cgroup{number: len(m.numbered), parent: parent, path: p, weight: 100, max: containers.CPUMax{Period: containers.DefaultPeriod}, period: m.phase(p)}
	m.numbered = append(m.numbered, g)
	m.groups[p] = g
	if parent != nil {
		parent.children = append(parent.children, g)
		g.limited = parent.limited
	}
	g.confine(m)
	return g
}

// phase is a time before the machine was made through which a new group's periods go: at
// random, so that groups' periods interleave.
//
// See init_cfs_bandwidth in kernel/sched/fair.c, since Linux 6.4; before, periods began at
// multiples of their length.
func (m *Machine) phase(name string) time.Duration {
	h := fnv.New64a()
	fmt.Fprint(h, name, m.seed, m.now)
	return -time.Duration(h.Sum64() % uint64(containers.DefaultPeriod))
}

func (g *cgroup) walk(f func(*cgroup)) {
	f(g)
	for _, c := range g.children {
		c.walk(f)
	}
}

// populated tells whether a task is in the group or below.
func (g *cgroup) populated() bool {
	found := false
	g.walk(func(g *cgroup) { found = found || len(g.tasks) > 0 })
	return found
}

// confine finds out where the tasks of a group and of those in it may run: on its own
// cpus inside its parent's, or the parent's where that is empty.
//
// See Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.effective.
func (g *cgroup) confine(m *Machine) {
	if g.parent == nil {
		g.effective = m.online()
	} else if g.effective = g.cpus.Intersect(g.parent.effective); g.effective.Empty() {
		g.effective = g.parent.effective
	}
	if g.words = [2]uint64{}; len(m.cpus) <= 64*len(g.words) {
		g.mask = g.words[:(len(m.cpus)+63)/64]
	} else {
		g.mask = newMask(len(m.cpus))
	}
	for c := range g.effective.All() {
		g.mask.put(c, true)
	}
	for _, c := range g.children {
		c.confine(m)
	}
}

// used is the time that tasks in the group and below have run. As in the kernel, what is
// below is only summed up by who asks.
func (g *cgroup) used(now time.Duration) time.Duration {
	sum := g.bequest
	g.walk(func(c *cgroup) { sum += time.Duration(c.usage.now(now).whole()) })
	return sum
}

// stopper is the nearest group, itself or around it, that has used up its quota; nil if
// none has.
func (g *cgroup) stopper() *cgroup {
	for ; g != nil && g.limited; g = g.parent {
		if g.stopped {
			return g
		}
	}
	return nil
}

// weigh sets the group's weight, which each of its tasks has.
func (g *cgroup) weigh(m *Machine, weight float64) {
	for _, t := range g.tasks {
		if t.cpu != nil {
			t.cpu.weight += weight - g.weight
			m.suspect(t.cpu.core)
		}
	}
	g.weight = weight
}

// limit sets the group's quota, of which nothing is used yet. Its period goes on to its end,
// unless there was none: then it ends on the grid of the new length through the last one's
// end.
//
// See tg_set_cfs_bandwidth and start_cfs_bandwidth in kernel/sched.
func (g *cgroup) limit(m *Machine, limit containers.CPUMax) {
	g.max = limit
	if limit.Quota > 0 && g.period <= m.now {
		g.period += ((m.now-g.period)/limit.Period + 1) * limit.Period
	}
	g.spent = account{at: m.now}
	if limit.Quota > 0 {
		g.walk(func(c *cgroup) {
			for _, t := range c.tasks {
				g.spent.rate += t.share
			}
		})
	}
	g.walk(func(c *cgroup) { c.limited = c.max.Quota > 0 || c.parent != nil && c.parent.limited })
	if g.stopped {
		g.resume(m)
	}
	m.plan(g)
}

// plan finds out when the group's quota runs out or is filled again.
func (m *Machine) plan(g *cgroup) {
	refill, out := never, never
	if g.max.Quota > 0 {
		spent := g.spent.now(m.now)
		idle := spent == (sum{}) && !g.stopped
		if idle && g.period <= m.now { // periods that nobody saw
			g.period += ((m.now-g.period)/g.max.Period + 1) * g.max.Period
		}
		if !idle || g.spent.rate > 0 {
			refill = g.period
		}
		if rest := sumOf(int64(g.max.Quota)).minus(spent); rest == (sum{}) && !g.stopped {
			out = m.now
		} else if !g.stopped {
			out = after(m.now, rest.over(g.spent.rate))
		}
	}
	m.queues[refilled].set(g.number, refill)
	m.queues[exhausted].set(g.number, out)
}

// refill begins a new period.
func (m *Machine) refill(g *cgroup) {
	g.period += g.max.Period
	g.periods++
	g.spent.sum, g.spent.at = sum{}, m.now
	if g.stopped {
		g.resume(m)
	}
	m.plan(g)
}

func (g *cgroup) resume(m *Machine) {
	g.stopped = false
	g.waited += time.Duration(g.stopOn) * (m.now - g.stopAt)
	wait := g.wait
	g.wait = nil
	for _, t := range wait {
		t.waits = nil
		m.enqueue(t)
	}
}

// throttle stops a group whose quota is used up.
func (m *Machine) throttle(g *cgroup) {
	g.stopped, g.stopAt = true, m.now
	g.stops++
	on := newMask(len(m.cpus))
	g.walk(func(c *cgroup) {
		for _, t := range c.tasks {
			if t.cpu != nil {
				on.put(t.cpu.id, true)
				m.dequeue(t)
				g.wait = append(g.wait, t)
				t.waits = g
			}
		}
	})
	g.stopOn = 0
	for _, word := range on {
		g.stopOn += bits.OnesCount64(word)
	}
	m.plan(g)
}

// makeCgroup makes a path of groups and enables the controllers on the way.
func (m *Machine) makeCgroup(p string) (*cgroup, error) {
	g := m.root
	for seg := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if seg == "" {
			continue
		}
		if !slices.Contains(g.enabled, "cpuset") {
			g.enabled = []string{"cpuset", "cpu"}
			for _, c := range g.children {
				m.cgroupFiles(c)
			}
			m.cgroupFiles(g)
		}
		name := path.Join(g.path, seg)
		if m.groups[name] == nil {
			if err := m.Mkdir(path.Join(cgroupDir, name)); err != nil {
				return nil, err
			}
		}
		g = m.groups[name]
	}
	return g, nil
}

func (m *Machine) online() cpuset.Set {
	var ids []cpuset.CPU
	for _, p := range m.cpus {
		if p.online {
			ids = append(ids, p.id)
		}
	}
	return cpuset.Of(ids...)
}
