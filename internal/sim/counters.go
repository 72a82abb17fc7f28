package sim

import (
	"fmt"
	"hash/fnv"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/cpuset"
)

var _ counters.Source = (*Machine)(nil)

// A counter counts the work of a cgroup's tasks and those below it, like perf_event_open's.
type counter struct {
	m      *Machine
	group  *cgroup
	cpus   []*tally // by cpu; nil where it does not count
	chance *rand.Rand
	closed bool
}

// A tally is what is counted on one cpu: time in ns, cycles, and instructions.
type tally struct {
	time, cycles, instructions account
	plain, factor              uint64 // rate of instructions without noise, and what that makes of it
}

func newTally(now time.Duration) *tally {
	from := account{at: now}
	return &tally{time: from, cycles: from, instructions: from, factor: one}
}

// pulse is how fast a task is counted.
type pulse struct{ time, cycles, instructions uint64 }

// Open implements counters.Source: it counts on the cpus that are online.
func (m *Machine) Open(dir string, cpus cpuset.Set) (counters.Counter, error) {
	rel, ok := strings.CutPrefix(dir, cgroupDir)
	g := m.find(strings.TrimPrefix(rel, "/"))
	if !ok || g == nil {
		return nil, fmt.Errorf("cannot count the work of %s: %w", dir, pathErr("open", dir, syscall.ENOENT))
	}
	if m.spec.NoCounters {
		return nil, fmt.Errorf("%w: it is a simulated one without", counters.ErrNone)
	}
	h := fnv.New64a()
	h.Write([]byte(g.path))
	c := &counter{m: m, group: g, cpus: make([]*tally, len(m.cpus)), chance: rand.New(rand.NewPCG(m.seed, h.Sum64()))}
	some := false
	for _, p := range m.cpus {
		if p.online && cpus.Contains(p.id) {
			c.cpus[p.id], some = newTally(m.now), true
		}
	}
	if !some {
		return nil, fmt.Errorf("cannot count the work of %s on cpus %s: %w", dir, cpus, syscall.ENODEV)
	}
	if len(m.counters) == 0 { // nobody has looked since
		for _, t := range m.tasks {
			t.pulse = m.pulse(t, t.share, t.speed)
		}
	}
	m.counters = append(m.counters, c)
	g.counters = append(g.counters, c)
	g.walk(func(g *cgroup) {
		for _, t := range g.tasks {
			c.change(t, pulse{}, t.pulse)
		}
	})
	return c, nil
}

// pulse is how fast a task is counted that has a share of its cpu and works at a speed. A
// second of work is as many instructions as the machine's fastest clock has cycles in it: on
// that core, at that clock, each takes one, whatever the work is bound by.
func (m *Machine) pulse(t *task, share, speed uint64) pulse {
	if t.cpu == nil || share == 0 {
		return pulse{}
	}
	ghz := float64(t.cpu.dom.frequency(t.cpu.dom.opp)) / 1e6
	return pulse{share, scaled(float64(share) / float64(one) * ghz), scaled(float64(speed) / float64(one) * m.instructions)}
}

// count tells the counters around a task how fast it goes from now on.
func (m *Machine) count(t *task, share, speed uint64) {
	next := m.pulse(t, share, speed)
	if next == t.pulse {
		return
	}
	for g := t.group; g != nil; g = g.parent {
		for _, c := range g.counters {
			c.change(t, t.pulse, next)
		}
	}
	t.pulse = next
}

func (c *counter) change(t *task, from, to pulse) {
	if from == to {
		return
	}
	y := c.cpus[t.cpu.id]
	if y == nil {
		return
	}
	now := c.m.now
	y.time.change(now, from.time, to.time)
	y.cycles.change(now, from.cycles, to.cycles)
	y.plain += to.instructions - from.instructions
	y.instructions.change(now, y.instructions.rate, times(y.plain, y.factor))
}

// times is the product of two scaled numbers.
func times(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi<<(64-places) | lo>>places
}

// flicker gives every counter's instructions another error, as programs and caches do.
func (m *Machine) flicker() {
	for _, c := range m.counters {
		is := scaled(max(0.05, 1+m.spec.Flicker*c.chance.NormFloat64()))
		for _, y := range c.cpus {
			if y != nil {
				y.factor = is
				y.instructions.change(m.now, y.instructions.rate, times(y.plain, is))
			}
		}
	}
}

// Read implements counters.Counter.
func (c *counter) Read(to []counters.Count) ([]counters.Count, error) {
	if c.closed {
		return to, fmt.Errorf("cannot read the counters of %s: %w", c.group.path, syscall.EBADF)
	}
	now := c.m.now
	for id, y := range c.cpus {
		if y == nil {
			continue
		}
		ran := time.Duration(y.time.now(now).whole())
		to = append(to, counters.Count{CPU: cpuset.CPU(id), Cycles: uint64(y.cycles.now(now).whole()), Instructions: uint64(y.instructions.now(now).whole()), Enabled: ran, Running: ran})
	}
	return to, nil
}

// Close implements counters.Counter.
func (c *counter) Close() error {
	if c.closed {
		return fmt.Errorf("cannot close the counters of %s: %w", c.group.path, syscall.EBADF)
	}
	c.closed = true
	is := func(o *counter) bool { return o == c }
	c.group.counters = slices.DeleteFunc(c.group.counters, is)
	c.m.counters = slices.DeleteFunc(c.m.counters, is)
	return nil
}
