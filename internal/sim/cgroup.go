package sim

import (
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
	parent   *cgroup
	path     string
	children []*cgroup
	enabled  []string // subtree_control
	tasks    []*task
	cpus     cpuset.Set // as asked; empty is the parent's
	max      containers.CPUMax
	weight   float64
	usage    time.Duration
	spent    time.Duration // in this period
	period   time.Duration // when this period ends
	stopped  bool          // throttled
	stopAt   time.Duration
	periods  uint64
	stops    uint64
	waited   time.Duration
	wait     []*task
	energy   int64
	frac     float64
	attrs    map[string]string
}

func newCgroup(parent *cgroup, p string) *cgroup {
	return &cgroup{parent: parent, path: p, weight: 100, max: containers.CPUMax{Period: containers.DefaultPeriod}, period: containers.DefaultPeriod}
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

// share is the group's weight; tasks of one group share it.
func (g *cgroup) share() float64 { return g.weight }

// effective is where the group's tasks may run: its own cpus inside its parent's,
// or the parent's where that is empty.
//
// See Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.effective.
func (g *cgroup) effective(m *Machine) cpuset.Set {
	if g.parent == nil {
		return m.online()
	}
	up := g.parent.effective(m)
	if own := g.cpus.Intersect(up); !own.Empty() {
		return own
	}
	return up
}

// throttled reports whether the group or one around it has used up its quota.
func (g *cgroup) throttled() bool {
	for ; g != nil; g = g.parent {
		if g.stopped {
			return true
		}
	}
	return false
}

// waiting keeps a task until the group may run again.
func (g *cgroup) waiting(t *task) {
	for o := g; o != nil; o = o.parent {
		if o.stopped {
			o.wait = append(o.wait, t)
			return
		}
	}
}

// rate is how many cpus' time the group uses now.
func (g *cgroup) rate() float64 {
	sum := 0.0
	for _, t := range g.tasks {
		if t.cpu != nil && t.cpu.running() {
			sum += t.group.share() / t.cpu.weights()
		}
	}
	for _, c := range g.children {
		sum += c.rate()
	}
	return sum
}

// nextEvent is when a quota runs out or is filled again.
func (g *cgroup) nextEvent(m *Machine) time.Duration {
	next := never
	g.walk(func(g *cgroup) {
		if g.max.Quota == 0 {
			return
		}
		if g.stopped || g.spent > 0 {
			next = min(next, g.period)
		}
		if r := g.rate(); !g.stopped && r > 0 {
			next = min(next, g.period, m.now+max(time.Microsecond, time.Duration(float64(g.max.Quota-g.spent)/r)))
		}
	})
	return next
}

// refill begins new periods.
func (g *cgroup) refill(m *Machine) {
	g.walk(func(g *cgroup) {
		if g.period > m.now {
			return
		}
		active := g.max.Quota > 0 && (g.spent > 0 || g.stopped)
		behind := (m.now-g.period)/g.max.Period + 1
		g.period += behind * g.max.Period
		if active {
			g.periods++
		}
		g.spent = 0
		if g.stopped {
			g.resume(m)
		}
	})
}

func (g *cgroup) resume(m *Machine) {
	g.stopped = false
	g.waited += m.now - g.stopAt
	wait := g.wait
	g.wait = nil
	for _, t := range wait {
		m.enqueue(t)
	}
}

// throttle stops the groups whose quota is used up.
func (g *cgroup) throttle(m *Machine) {
	g.walk(func(g *cgroup) {
		if g.max.Quota == 0 || g.stopped || g.spent+time.Microsecond < g.max.Quota {
			return
		}
		g.stopped, g.stopAt = true, m.now
		g.stops++
		g.walk(func(c *cgroup) {
			for _, t := range c.tasks {
				if t.cpu != nil {
					m.dequeue(t)
					g.wait = append(g.wait, t)
				}
			}
		})
	})
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
		child := g.child(seg)
		if child == nil {
			if err := m.Mkdir(path.Join(cgroupDir, g.path, seg)); err != nil {
				return nil, err
			}
			child = g.child(seg)
		}
		g = child
	}
	return g, nil
}

func (g *cgroup) child(name string) *cgroup {
	for _, c := range g.children {
		if path.Base(c.path) == name {
			return c
		}
	}
	return nil
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
