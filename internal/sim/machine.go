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

// never is a time that does not come.
const never = time.Duration(math.MaxInt64)

// begin is the wall-clock time at which every simulation starts.
var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A Machine is a simulated machine. It is for one goroutine.
type Machine struct {
	spec       Spec
	seed       uint64
	now        time.Duration
	chance     *rand.Rand // faults
	faults     Faults
	cpus       []*cpu
	domains    []*domain
	islands    []*island
	root       *cgroup
	tasks      []*task
	files      map[string]*file
	dirs       map[string]map[string]bool
	base       int64 // nJ of idle and shared power
	total      int64 // nJ of everything
	unclaim    map[string]int64
	foreign    map[string]bool
	nextSecond time.Duration
	meter      meter
}

type cpu struct {
	id       cpuset.CPU
	core     int
	dom      *domain
	island   *island
	capacity float64
	online   bool
	runnable []*task
	idle     []cstates.Model
	state    int // index of idle, -1 awake
	wakes    time.Duration
	pending  bool                // woken, not yet out of its idle state
	slept    time.Duration       // when it last went idle
	gaps     [gaps]time.Duration // how long it last was, around a ring
	woken    int
	busy     time.Duration
	frac     float64 // nJ not yet booked
	times    []time.Duration
	usage    []uint64
	disabled []bool
	bound    string // pm_qos_resume_latency_us
	siblings []*cpu
}

type domain struct {
	id       int
	cpus     []*cpu
	curve    cpufreq.Curve
	opp      int
	min, max units.Frequency // as asked
	governor string
	wish     float64 // what conservative asks for, kHz
	setspeed units.Frequency
	times    []time.Duration
	trans    uint64
	sample   time.Duration // next governor sample
	lastBusy []time.Duration
	lastAt   time.Duration
	util     []float64
}

type island struct {
	cpus          []*cpu
	awake, asleep units.Power
	frac          float64
}

// A task is one thread of a workload.
type task struct {
	w        Workload
	group    *cgroup
	began    time.Duration
	jobs     func() (Job, bool)
	coming   Job           // the next one
	next     time.Duration // when it is released; never if there is none
	left     float64       // seconds of work at the fastest, of the first in the queue
	queue    []Job         // released, their times since the machine was made
	cpu      *cpu
	last     *cpu
	done     int
	missed   int
	due      int
	worked   time.Duration
	latency  []time.Duration
	finished bool
	endless  bool
}

// come makes the task's next job known.
func (t *task) come() {
	job, ok := t.jobs()
	t.next = never
	if ok {
		t.coming = job
		t.next = t.began + job.At
	}
}

// New makes a machine.
func New(c Config) (*Machine, error) {
	m := &Machine{spec: c.Spec, seed: c.Seed, chance: rand.New(rand.NewPCG(c.Seed, 2)), faults: c.Faults,
		files: map[string]*file{}, dirs: map[string]map[string]bool{}, unclaim: map[string]int64{}, foreign: map[string]bool{}, nextSecond: time.Second}
	if len(c.Spec.Clusters) == 0 {
		return nil, fmt.Errorf("cannot simulate a machine without cores")
	}
	governor := cmp.Or(c.Governor, "schedutil")
	if !slices.Contains(governors, governor) {
		return nil, fmt.Errorf("cannot simulate governor %q: want one of %v", governor, governors)
	}
	core := 0
	for _, cl := range c.Spec.Clusters {
		if err := cl.validate(); err != nil {
			return nil, err
		}
		is := &island{awake: cl.Shared, asleep: cl.Asleep}
		m.islands = append(m.islands, is)
		var dom *domain
		for range cl.Cores {
			if dom == nil || cl.OwnClocks {
				top := cl.Curve.OPPs[len(cl.Curve.OPPs)-1].Frequency
				dom = &domain{id: len(m.cpus), curve: cl.Curve, opp: len(cl.Curve.OPPs) - 1, min: cl.Curve.OPPs[0].Frequency, max: top, governor: governor,
					setspeed: top, times: make([]time.Duration, len(cl.Curve.OPPs))}
				m.domains = append(m.domains, dom)
			}
			var threads []*cpu
			for range max(1, cl.Threads) {
				p := &cpu{id: cpuset.CPU(len(m.cpus)), core: core, dom: dom, island: is, capacity: cmp.Or(cl.Capacity, 1), online: true, idle: cl.Idle, state: -1,
					times: make([]time.Duration, len(cl.Idle)), usage: make([]uint64, len(cl.Idle)), disabled: make([]bool, len(cl.Idle)), bound: "0", wakes: never}
				m.cpus = append(m.cpus, p)
				dom.cpus, is.cpus, threads = append(dom.cpus, p), append(is.cpus, p), append(threads, p)
			}
			for _, p := range threads {
				p.siblings = threads
			}
			core++
		}
	}
	for _, d := range m.domains {
		d.lastBusy, d.util = make([]time.Duration, len(d.cpus)), make([]float64, len(d.cpus))
		d.sample = sampleEvery
	}
	m.root = newCgroup(nil, "")
	m.buildFiles()
	for _, p := range m.cpus {
		m.sleep(p)
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
		t := &task{w: w, group: g, began: m.now, endless: w.endless(), jobs: w.Stream(m.seed, m.now, i)}
		t.come()
		t.finished = t.next == never && !t.endless
		m.tasks = append(m.tasks, t)
		g.tasks = append(g.tasks, t)
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
		if t.cpu != nil {
			m.dequeue(t)
		}
		late := t.late(m.now)
		t.missed += late
		t.due += late
		if len(t.queue) > 0 {
			t.worked += time.Duration((t.queue[0].Work.Seconds() - t.left) * 1e9)
		}
		t.queue, t.next, t.finished, t.endless = nil, never, true, false
	}
	for o := g; o != nil; o = o.parent {
		o.wait = slices.DeleteFunc(o.wait, func(t *task) bool { return t.group == g })
	}
	g.tasks = nil
	return m.Remove(path.Join(cgroupDir, name))
}

// late counts the jobs in the queue whose deadline has passed.
func (t *task) late(now time.Duration) (n int) {
	for _, q := range t.queue {
		if q.Due > 0 && now > q.At+q.Due {
			n++
		}
	}
	return n
}

// Now is the machine's wall clock.
func (m *Machine) Now() time.Time { return begin.Add(m.now) }

// Elapsed is the simulated time since the machine was made.
func (m *Machine) Elapsed() time.Duration { return m.now }

// speed is how many seconds of a task's work a cpu does in a second it has to
// itself. Hardware threads of a core share its throughput: two do 1.25 times the
// work of one, as is typical of SMT.
func (p *cpu) speed(t *task) float64 {
	s := p.capacity / p.dom.curve.Tau(p.dom.opp, t.w.CPUBound)
	if n := p.busySiblings(); n > 1 {
		s *= (1 + 0.25*float64(n-1)) / float64(n)
	}
	return s
}

func (p *cpu) busySiblings() int {
	n := 0
	for _, s := range p.siblings {
		if s.running() {
			n++
		}
	}
	return n
}

// running reports whether the cpu does work now.
func (p *cpu) running() bool { return p.state < 0 && len(p.runnable) > 0 }

// weights sums the weights of the tasks on a cpu.
func (p *cpu) weights() float64 {
	sum := 0.0
	for _, t := range p.runnable {
		sum += t.group.share()
	}
	return sum
}

// Advance runs the machine for d.
func (m *Machine) Advance(d time.Duration) {
	end := m.now + d
	for {
		next := min(end, m.nextEvent())
		m.progress(next - m.now)
		m.now = next
		m.fire()
		if m.now >= end && m.nextEvent() > end {
			break
		}
	}
}

// nextEvent is when something changes next.
func (m *Machine) nextEvent() time.Duration {
	next := m.nextSecond
	for _, t := range m.tasks {
		next = min(next, t.next)
	}
	for _, p := range m.cpus {
		if p.pending {
			next = min(next, p.wakes)
		}
		if !p.running() {
			continue
		}
		total := p.weights()
		for _, t := range p.runnable {
			if t.endless {
				continue
			}
			rate := p.speed(t) * t.group.share() / total
			if rate > 0 {
				next = min(next, m.now+time.Duration(math.Ceil(t.left/rate*1e9)))
			}
		}
	}
	for _, d := range m.domains {
		if d.active() {
			next = min(next, max(d.sample, m.now))
		}
	}
	next = min(next, m.root.nextEvent(m))
	return max(next, m.now)
}

// progress lets dt pass in which nothing changes.
func (m *Machine) progress(dt time.Duration) {
	if dt <= 0 {
		return
	}
	for _, p := range m.cpus {
		m.account(p, dt)
		if p.state >= 0 && !p.pending {
			p.times[p.state] += dt
		}
		if !p.running() {
			continue
		}
		p.busy += dt
		total := p.weights()
		for _, t := range p.runnable {
			share := t.group.share() / total
			used := time.Duration(float64(dt) * share)
			for g := t.group; g != nil; g = g.parent {
				g.usage += used
				if g.max.Quota > 0 {
					g.spent += used
				}
			}
			if !t.endless {
				t.left -= float64(dt) / 1e9 * share * p.speed(t)
			}
		}
	}
	for _, d := range m.domains {
		d.times[d.opp] += dt
	}
	for _, is := range m.islands {
		p := is.asleep
		if is.isAwake() {
			p = is.awake
		}
		m.book(&is.frac, float64(p)*float64(dt)/1e6, &m.base)
	}
}

// account charges a cpu's power over dt.
func (m *Machine) account(p *cpu, dt time.Duration) {
	if p.siblings[0] != p { // the core's power is booked once, with its first thread
		return
	}
	var worker *cpu
	deepest := math.MaxInt
	awake := false
	for _, s := range p.siblings {
		if s.running() {
			worker = s
		}
		if s.state < 0 || s.pending {
			awake = true
		} else {
			deepest = min(deepest, s.state)
		}
	}
	o := p.dom.curve.OPPs[p.dom.opp]
	switch {
	case worker != nil:
		// The mix of what runs decides how much of the time stalls.
		power, n := units.Power(0), 0.0
		for _, s := range p.siblings {
			if s.running() {
				for _, t := range s.runnable {
					w := t.group.share() / s.weights()
					power += p.dom.curve.Power(p.dom.opp, t.w.CPUBound, 1) * units.Power(w)
					n += w
				}
			}
		}
		power /= units.Power(n)
		for _, s := range p.siblings {
			if !s.running() {
				continue
			}
			for _, t := range s.runnable {
				m.book(&t.group.frac, float64(power)*float64(dt)/1e6*t.group.share()/s.weights()/n, &t.group.energy)
			}
		}
	case awake || len(p.idle) == 0 || !p.online:
		power := o.Static
		if !p.online && len(p.idle) > 0 {
			power = p.idle[len(p.idle)-1].Power
		}
		m.book(&p.frac, float64(power)*float64(dt)/1e6, &m.base)
	default:
		m.book(&p.frac, float64(p.idle[deepest].Power)*float64(dt)/1e6, &m.base)
	}
}

// book adds nanojoules to an account in whole numbers, keeping the fraction. One
// microwatt for a nanosecond is 1e-6 nJ, so callers divide by 1e6.
func (m *Machine) book(frac *float64, nj float64, to *int64) {
	*frac += nj
	whole := math.Floor(*frac)
	*frac -= whole
	*to += int64(whole)
	m.total += int64(whole)
}

func (is *island) isAwake() bool {
	for _, p := range is.cpus {
		if p.online && (p.state < 0 || p.pending) {
			return true
		}
	}
	return false
}

// fire handles everything that is due now.
func (m *Machine) fire() {
	m.root.refill(m)
	for _, p := range m.cpus {
		if p.pending && p.wakes <= m.now {
			p.pending, p.wakes, p.state = false, never, -1
		}
		m.complete(p)
	}
	for _, t := range m.tasks {
		for t.next <= m.now {
			m.release(t)
		}
	}
	for _, d := range m.domains {
		if d.active() && d.sample <= m.now {
			m.govern(d)
		}
	}
	m.root.throttle(m)
	if m.now >= m.nextSecond {
		m.nextSecond += time.Second
		m.meter.second(m)
		m.misfortune()
	}
}

// release puts a task's next job into its queue.
func (m *Machine) release(t *task) {
	job := t.coming
	job.At = t.next
	t.come()
	t.queue = append(t.queue, job)
	if len(t.queue) == 1 {
		t.left = job.Work.Seconds()
		m.enqueue(t)
	}
}

// complete ends the jobs that are done on a cpu.
func (m *Machine) complete(p *cpu) {
	for _, t := range slices.Clone(p.runnable) {
		if t.endless || t.left > 1e-12 {
			continue
		}
		job := t.queue[0]
		t.queue = t.queue[1:]
		t.done++
		t.worked += job.Work
		t.latency = append(t.latency, m.now-job.At)
		if job.Due > 0 {
			t.due++
			if m.now > job.At+job.Due+time.Microsecond {
				t.missed++
			}
		}
		if len(t.queue) > 0 { // the next job waits already
			t.left = t.queue[0].Work.Seconds()
			continue
		}
		m.dequeue(t)
		t.finished = t.next == never
	}
}

// allowed returns the online cpus a group may use.
func (m *Machine) allowed(g *cgroup) cpuset.Set { return g.effective(m) }

// enqueue puts a task on a cpu as the fair scheduler does: where it last ran if that is
// idle, or an idle one that shares a cache with that; one that starts goes to the cache
// whose cpus have least to do. Only where all those are busy it goes to the cpu with the
// least weight, wherever that is: idle balancing would pull it there. An idle core goes
// before an idle sibling.
//
// See select_task_rq_fair in kernel/sched/fair.c.
func (m *Machine) enqueue(t *task) {
	if t.group.throttled() {
		t.cpu = nil
		t.group.waiting(t)
		return
	}
	set := m.allowed(t.group)
	home := m.idlest(set)
	if t.last != nil {
		home = t.last.island
	}
	var best *cpu
	bestKey := [4]float64{math.Inf(1)}
	for _, p := range m.cpus {
		if !p.online || !set.Contains(p.id) {
			continue
		}
		key := [4]float64{p.weights() / p.capacity, 1, float64(p.busySiblings()), 1}
		if p.island == home {
			key[1] = 0
		}
		if p == t.last {
			key[3] = 0
		}
		if best == nil || slices.Compare(key[:], bestKey[:]) < 0 {
			best, bestKey = p, key
		}
	}
	if best == nil {
		return
	}
	t.cpu, t.last = best, best
	best.runnable = append(best.runnable, t)
	if best.state >= 0 && !best.pending {
		m.wake(best)
	}
}

// idlest returns the island whose cpus in a set have least to do for their capacity.
func (m *Machine) idlest(set cpuset.Set) (best *island) {
	least := math.Inf(1)
	for _, is := range m.islands {
		load, capacity := 0.0, 0.0
		for _, p := range is.cpus {
			if p.online && set.Contains(p.id) {
				load += p.weights()
				capacity += p.capacity
			}
		}
		if capacity > 0 && load/capacity < least {
			best, least = is, load/capacity
		}
	}
	return best
}

// dequeue takes a task off its cpu.
func (m *Machine) dequeue(t *task) {
	p := t.cpu
	if p == nil {
		return
	}
	t.cpu = nil
	p.runnable = slices.DeleteFunc(p.runnable, func(o *task) bool { return o == t })
	if len(p.runnable) == 0 {
		if !m.steal(p) {
			m.sleep(p)
		}
	}
}

// steal lets a cpu that runs dry take a waiting task from the fullest one.
func (m *Machine) steal(p *cpu) bool {
	if !p.online {
		return false
	}
	var from *cpu
	for _, o := range m.cpus {
		if len(o.runnable) > 1 && (from == nil || o.weights() > from.weights()) {
			from = o
		}
	}
	if from == nil {
		return false
	}
	for _, t := range slices.Backward(from.runnable) {
		if m.allowed(t.group).Contains(p.id) {
			from.runnable = slices.DeleteFunc(from.runnable, func(o *task) bool { return o == t })
			t.cpu, t.last = p, p
			p.runnable = append(p.runnable, t)
			return true
		}
	}
	return false
}

// migrate moves tasks off cpus they may no longer use.
func (m *Machine) migrate() {
	for _, t := range m.tasks {
		if t.cpu != nil && (!t.cpu.online || !m.allowed(t.group).Contains(t.cpu.id)) {
			m.dequeue(t)
			m.enqueue(t)
		}
	}
}

// sleep sends an idle cpu into a state: the deepest whose residency fits the time that
// it is predicted to sleep, and whose exit latency is within the bound. As menu does, it
// knows when the next timer fires of a task that last ran here, and of what comes from
// outside only how long the last gaps were.
//
// See Documentation/admin-guide/pm/cpuidle.rst, the menu governor.
func (m *Machine) sleep(p *cpu) {
	p.slept = m.now
	p.pending, p.wakes = false, never // whoever it was woken for may have gone elsewhere
	if len(p.idle) == 0 {
		p.state = -1
		return
	}
	gap := p.typical()
	for _, t := range m.tasks {
		if t.last == p && t.next > m.now && t.w.timer() {
			gap = min(gap, t.next-m.now)
		}
	}
	best := -1
	for i, s := range p.idle {
		if p.disabled[i] || !p.bears(s) {
			continue
		}
		if best < 0 || s.Least() <= units.SecondsOf(gap) {
			best = i
		}
	}
	p.state = best
	if best >= 0 {
		p.usage[best]++
		m.book(&p.frac, float64(p.idle[best].Transition)*1e3, &m.base)
	}
}

// gaps is how many of the last idle times the idle governor looks at.
const gaps = 8

// typical is the mean of the last idle times, if they agree: their deviation is at most
// a sixth of it, or 20 us. Where they do not, the longest are left out, up to a quarter;
// and never is the answer if the rest do not agree either.
//
// See get_typical_interval in drivers/cpuidle/governors/menu.c.
func (p *cpu) typical() time.Duration {
	if p.woken < gaps {
		return never
	}
	sorted := p.gaps
	slices.Sort(sorted[:])
	for n := gaps; n >= gaps*3/4; n-- {
		sum, squares := 0.0, 0.0
		for _, g := range sorted[:n] {
			sum += float64(g)
		}
		mean := sum / float64(n)
		for _, g := range sorted[:n] {
			squares += (float64(g) - mean) * (float64(g) - mean)
		}
		if dev := math.Sqrt(squares / float64(n)); dev <= mean/6 || dev <= 20e3 {
			return time.Duration(mean)
		}
	}
	return never
}

// bears reports whether the cpu's latency bound lets it enter a state.
func (p *cpu) bears(s cstates.Model) bool {
	switch p.bound {
	case "0":
		return true
	case "n/a":
		return s.Exit == 0
	}
	var us float64
	fmt.Sscan(p.bound, &us)
	return float64(s.Entry+s.Exit)*1e6 <= us
}

// wake begins to leave the idle state; work starts after its exit latency.
func (m *Machine) wake(p *cpu) {
	p.gaps[p.woken%gaps] = m.now - p.slept
	p.woken++
	exit := p.idle[p.state].Exit.Duration()
	if exit <= 0 {
		p.state = -1
		return
	}
	p.pending, p.wakes = true, m.now+exit
}

// Energy returns the machine's energy so far, and of it what each cgroup's tasks
// used and the base of idle and shared power; all in nanojoules.
func (m *Machine) Energy() (total, base int64, groups map[string]int64) {
	groups = map[string]int64{}
	for path, nj := range m.unclaim {
		groups[path] += nj
	}
	m.root.walk(func(g *cgroup) { groups[g.path] += g.energy })
	return m.total, m.base, groups
}

// Jobs are what came of a cgroup's workloads.
type Jobs struct {
	// Done, and Missed: those that ended after their deadline, or have not ended though
	// it has passed. Due counts the deadlines that have passed or been kept.
	Done, Missed, Due int
	// Latencies are the times from release to end, in ascending order.
	Latencies []time.Duration
	// Work done, on the fastest core at its fastest, parts of jobs included; none is
	// counted of work without end.
	Work time.Duration
}

// Quantile returns the response time that the share q of the jobs needed at most; 0
// where none is done.
func (j Jobs) Quantile(q float64) time.Duration {
	if len(j.Latencies) == 0 {
		return 0
	}
	at := int(math.Ceil(q*float64(len(j.Latencies)))) - 1
	return j.Latencies[min(max(at, 0), len(j.Latencies)-1)]
}

// Jobs returns what came of the workloads by cgroup.
func (m *Machine) Jobs() map[string]Jobs {
	out := map[string]Jobs{}
	for _, t := range m.tasks {
		j := out[t.w.Cgroup]
		j.Done += t.done
		late := t.late(m.now)
		j.Missed += t.missed + late
		j.Due += t.due + late
		j.Latencies = append(j.Latencies, t.latency...)
		j.Work += t.worked
		if len(t.queue) > 0 {
			j.Work += time.Duration((t.queue[0].Work.Seconds() - t.left) * 1e9)
		}
		out[t.w.Cgroup] = j
	}
	for _, j := range out {
		slices.Sort(j.Latencies)
	}
	return out
}

// ForgetJobs lets Jobs count anew: what is under way still counts, in whole, when it is done.
func (m *Machine) ForgetJobs() {
	for _, t := range m.tasks {
		t.done, t.missed, t.due, t.worked, t.latency = 0, 0, 0, 0, nil
	}
}

// Activity is what a machine's parts have done so far, in seconds.
type Activity struct {
	// Speed is the mean over the clocks of the time that they ran, weighted with their
	// speed relative to their fastest.
	Speed float64
	// Idle is the mean over the cpus of the time in each idle state, by name.
	Idle map[string]float64
}

// Activity returns what the machine has done so far.
func (m *Machine) Activity() Activity {
	a := Activity{Idle: map[string]float64{}}
	for _, d := range m.domains {
		for i, t := range d.times {
			a.Speed += t.Seconds() * d.curve.OPPs[i].Speed / float64(len(m.domains))
		}
	}
	for _, p := range m.cpus {
		for i, t := range p.times {
			a.Idle[p.idle[i].Name] += t.Seconds() / float64(len(m.cpus))
		}
	}
	return a
}
