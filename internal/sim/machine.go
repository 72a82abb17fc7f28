package sim

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// never is a time that does not come: after 36 years. It leaves room beside it for the
// kind of an event.
const never = time.Duration(math.MaxInt64 >> kindBits)

// begin is the wall-clock time at which every simulation starts.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A Machine is a simulated machine. It is for one goroutine.
type Machine struct {
	spec       Spec
	seed       uint64
	now        time.Duration
	queues     [events]queue
	stale      []*core
	chance     *rand.Rand // faults
	faults     Faults
	cpus       []*cpu
	domains    []*domain
	islands    []*island
	root       *cgroup
	groups     map[string]*cgroup // by path
	numbered   []*cgroup          // by number; nil where removed
	tasks      []*task
	files      map[string]*file
	dirs       map[string]map[string]bool
	free       mask    // online cpus without tasks, on cores that do no work
	crowded    mask    // cpus with several tasks
	everywhere mask    // all cpus
	base       account // idle and shared power, nJ
	unclaim    map[string]int64
	removed    int64 // all unclaimed
	foreign    map[string]bool
	nextSecond time.Duration
	meter      meter
	counters   []*counter
	// hybrid says that cores differ in capacity.
	hybrid bool
	// instructions are those of a nanosecond of work.
	instructions float64
}

// What each event touches comes first, in few cache lines.
type cpu struct {
	id       cpuset.CPU
	core     *core
	dom      *domain
	island   *island
	capacity float64
	runnable []*task
	weight   float64       // of them all
	state    int           // index of idle, -1 awake
	since    time.Duration // when it was entered
	wakes    time.Duration
	pending  bool // woken, not yet out of its idle state
	online   bool
	upAs     bool          // as the island's account has it: awake
	runs     time.Duration // 1 while it is running, as the accounts have it
	busy     time.Duration
	changed  time.Duration // when runs did last
	states   []idling
	stays    []stay
	timers   []int         // tasks that last ran here, whose releases are known
	home     []*task       // all that last ran here, where cores are of several kinds
	slept    time.Duration // when it last went idle
	woken    int
	gaps     [gaps]time.Duration // how long it last was, around a ring
	idle     []cstates.Model
	disabled []bool
	bound    string // pm_qos_resume_latency_us
}

// idling is an idle state as the simulation needs it.
type idling struct {
	least      time.Duration // gap for which it can be used
	exit       time.Duration
	power      uint64
	transition uint64 // mJ
}

// stay is what a cpu did in an idle state.
type stay struct {
	time   time.Duration
	usage  uint64
	usable bool // it is not disabled, and within the bound
}

// A core's hardware threads share its power.
type core struct {
	id    int
	cpus  []*cpu
	stale bool   // its accounts' rates have to be looked at
	base  uint64 // its part of the base's rate
}

type domain struct {
	id       int
	n        int // in the machine's list
	cpus     []*cpu
	curve    cpufreq.Curve
	active   []float64 // nJ/ns of a core at work, by OPP
	whole    []uint64  // the same
	static   []uint64  // power of one awake
	opp      int
	lo, hi   int             // OPPs in force of the limits
	min, max units.Frequency // as asked
	governor string
	wish     float64 // what conservative asks for, kHz
	setspeed units.Frequency
	times    []time.Duration
	since    time.Duration // when opp was set
	trans    uint64
	running  int           // cpus
	warm     bool          // the utilisation of one has not decayed
	sample   time.Duration // next governor sample
	lastAt   time.Duration
	samples  []sample // of the cpus
	over     bool     // one has more to do than it should, where cores are of several kinds
}

// A sample is what a governor has seen of a cpu.
type sample struct {
	busy time.Duration // until then
	util float64
}

type island struct {
	cpus          []*cpu
	mask          mask
	up            int    // of its cpus awake
	awake, asleep uint64 // power
}

// A clock is a domain at an operating point.
type clock struct {
	domain *domain
	opp    int
}

// A task is one thread of a workload. What each event touches comes first.
type task struct {
	id        int
	cpu       *cpu
	last      *cpu
	group     *cgroup // nil once it is killed
	left      sum     // ns of work at the fastest, of its job, as of since
	speed     uint64  // at which it is done
	share     uint64  // of its cpu
	power     uint64
	since     time.Duration
	due       time.Duration // when it will be done; never unless it runs
	clock     clock         // for which these are:
	full      float64       // its speed on a core of its own
	alone     uint64        // the same
	job       Job           // that it does, released at At since the machine was made
	ready     bool
	endless   bool
	timer     bool
	coming    Job // the next one
	jobs      func() (Job, bool)
	began     time.Duration
	done      int
	missed    int
	deadlines int // that have passed or been kept
	worked    time.Duration
	latencies []time.Duration   // of the last jobs done
	earlier   [][]time.Duration // and before: in pieces, for one that grew would be copied
	backlog   []Job             // released after job
	waits     *cgroup           // for this one's quota
	pulse     pulse             // how fast it is counted
	util      *average          // where cores are of several kinds
	w         Workload
}

// come makes the task's next job known.
func (m *Machine) come(t *task) {
	next := never
	if job, ok := t.jobs(); ok {
		job.At += t.began
		t.coming, next = job, min(job.At, never)
	}
	m.queues[released].set(t.id, next)
}

// New makes a machine.
func New(c Config) (*Machine, error) {
	m := &Machine{spec: c.Spec, seed: c.Seed, chance: rand.New(rand.NewPCG(c.Seed, 2)), faults: c.Faults, groups: map[string]*cgroup{},
		files: map[string]*file{}, dirs: map[string]map[string]bool{}, unclaim: map[string]int64{}, foreign: map[string]bool{}, nextSecond: time.Second}
	if len(c.Spec.Clusters) == 0 {
		return nil, fmt.Errorf("cannot simulate a machine without cores")
	}
	governor := cmp.Or(c.Governor, "schedutil")
	if !slices.Contains(governors, governor) {
		return nil, fmt.Errorf("cannot simulate governor %q: want one of %v", governor, governors)
	}
	cores := 0
	for _, cl := range c.Spec.Clusters {
		if err := cl.validate(); err != nil {
			return nil, err
		}
		is := &island{awake: scaled(nanos(cl.Shared)), asleep: scaled(nanos(cl.Asleep))}
		m.islands = append(m.islands, is)
		m.base.change(0, 0, is.asleep)
		var states []idling
		for _, s := range cl.Idle {
			states = append(states, idling{time.Duration(math.Ceil(float64(s.Least())*1e9 - 1e-3)), s.Exit.Duration(), scaled(nanos(s.Power)), scaled(float64(s.Transition) / 1e3)})
		}
		var dom *domain
		for range cl.Cores {
			if dom == nil || cl.OwnClocks {
				top := cl.Curve.OPPs[len(cl.Curve.OPPs)-1].Frequency
				dom = &domain{id: len(m.cpus), n: len(m.domains), curve: cl.Curve, opp: len(cl.Curve.OPPs) - 1, min: cl.Curve.OPPs[0].Frequency, max: top, governor: governor,
					setspeed: top, times: make([]time.Duration, len(cl.Curve.OPPs)), sample: sampleEvery}
				for _, o := range cl.Curve.OPPs {
					power := nanos(o.Active())
					dom.active, dom.whole, dom.static = append(dom.active, power), append(dom.whole, scaled(power)), append(dom.static, scaled(nanos(o.Static)))
				}
				dom.limit()
				m.domains = append(m.domains, dom)
			}
			co := &core{id: cores}
			for range max(1, cl.Threads) {
				p := &cpu{id: cpuset.CPU(len(m.cpus)), core: co, dom: dom, island: is, capacity: cmp.Or(cl.Capacity, 1), online: true, idle: cl.Idle, state: -1, wakes: never,
					states: states, stays: make([]stay, len(states)), disabled: make([]bool, len(states)), bound: "0"}
				p.vet()
				m.cpus = append(m.cpus, p)
				dom.cpus, is.cpus, co.cpus = append(dom.cpus, p), append(is.cpus, p), append(co.cpus, p)
			}
			cores++
		}
	}
	for _, p := range m.cpus {
		m.hybrid = m.hybrid || p.capacity != m.cpus[0].capacity
	}
	for _, d := range m.domains {
		m.instructions = max(m.instructions, float64(d.frequency(len(d.curve.OPPs)-1))/1e6)
		d.samples = make([]sample, len(d.cpus))
	}
	for k, size := range [events]int{changed: len(m.cpus), sampled: len(m.domains)} {
		m.queues[k] = newQueue(k, size)
	}
	m.free, m.crowded, m.everywhere = newMask(len(m.cpus)), newMask(len(m.cpus)), newMask(len(m.cpus))
	for _, is := range m.islands {
		is.mask = newMask(len(m.cpus))
	}
	for _, p := range m.cpus {
		p.island.mask.put(p.id, true)
		m.everywhere.put(p.id, true)
	}
	m.root = m.newCgroup(nil, "")
	m.buildFiles()
	for _, p := range m.cpus {
		m.sleep(p)
		m.touch(p)
	}
	for _, w := range c.Workloads {
		if err := m.Start(w); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Start begins a workload, in a cgroup that is made where it is not there yet.
func (m *Machine) Start(w Workload) error {
	if w.CPUBound == 0 {
		w.CPUBound = 1
	}
	if w.Period < 0 || w.Work < 0 || w.CPUBound < 0 || w.CPUBound > 1 || w.Period > 0 && w.Work == 0 {
		return fmt.Errorf("cannot simulate workload in %s: a period needs work, and shares lie between 0 and 1", w.Cgroup)
	}
	g, err := m.makeCgroup(w.Cgroup)
	if err != nil {
		return err
	}
	if len(w.Attributes) > 0 {
		g.attrs = w.Attributes
	}
	for i := range max(1, w.Threads) {
		t := &task{id: len(m.tasks), w: w, group: g, began: m.now, endless: w.endless(), timer: w.timer(), jobs: w.Stream(m.seed, m.now, i), due: never}
		if m.hybrid {
			t.util = &average{at: m.now}
		}
		m.tasks = append(m.tasks, t)
		g.tasks = append(g.tasks, t)
		m.come(t)
		if t.endless {
			m.enqueue(t)
		}
	}
	return nil
}

// End kills what runs in a cgroup and removes it. Of jobs not yet done those count as
// missed whose deadline has passed.
func (m *Machine) End(name string) error {
	g := m.find(name)
	if g == nil || g.parent == nil {
		return fmt.Errorf("cannot end %s: there is no such cgroup", name)
	}
	for _, t := range g.tasks {
		m.kill(t)
	}
	g.tasks = nil
	return m.Remove(path.Join(cgroupDir, name))
}

// kill ends a task, whose group forgets it next.
func (m *Machine) kill(t *task) {
	m.withdraw(t)
	overdue := t.overdue(m.now)
	t.missed += overdue
	t.deadlines += overdue
	t.worked += t.begun(m.now)
	t.runOn(nil)
	t.ready, t.backlog, t.endless, t.group = false, nil, false, nil
	m.queues[released].set(t.id, never)
}

// Now is the machine's wall clock.
func (m *Machine) Now() time.Time { return begin.Add(m.now) }

// Elapsed is the simulated time since the machine was made.
func (m *Machine) Elapsed() time.Duration { return m.now }

// Events, in the order in which they happen at one time; of one kind by number.
const (
	refilled  = iota // a cgroup's period ends
	changed          // a cpu has left its idle state, or done a job
	released         // a task's next job comes
	sampled          // a domain's governor looks
	exhausted        // a cgroup's quota is used up
	events

	kindBits = 3
)

// Advance runs the machine for d.
func (m *Machine) Advance(d time.Duration) {
	end := m.now + d
	m.refresh()
	for {
		// Time and kind are in one number, whose minimum is found without branches.
		first := m.nextSecond<<kindBits | events
		for k := range m.queues {
			first = min(first, m.queues[k].key)
		}
		at, kind := first>>kindBits, int(first&(1<<kindBits-1))
		if at > end {
			break
		}
		m.now = max(m.now, at)
		if kind == events {
			m.nextSecond += time.Second
			m.meter.second(m)
			if m.spec.Flicker > 0 {
				m.flicker()
			}
			m.misfortune()
		} else {
			m.happen(kind, m.queues[kind].next.id)
		}
		m.refresh()
	}
	m.now = end
}

// happen lets an event happen and makes its next due.
func (m *Machine) happen(kind, id int) {
	switch kind {
	case refilled:
		m.refill(m.numbered[id])
	case changed:
		p := m.cpus[id]
		if p.pending {
			m.awake(p)
		} else {
			m.complete(p)
		}
	case released:
		m.release(m.tasks[id])
	case sampled:
		m.govern(m.domains[id])
	case exhausted:
		m.throttle(m.numbered[id])
	}
}
