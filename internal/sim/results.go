package sim

import (
	"math"
	"slices"
	"time"
)

// Energy returns the machine's energy so far, and of it what each cgroup's tasks
// used and the base of idle and shared power; all in nanojoules.
func (m *Machine) Energy() (total, base int64, groups map[string]int64) {
	groups = map[string]int64{}
	for path, nj := range m.unclaim {
		groups[path] += nj
	}
	for path, g := range m.groups {
		groups[path] += g.energy.now(m.now).whole()
	}
	return m.total(), m.base.now(m.now).whole(), groups
}

// total is what the parts sum to.
func (m *Machine) total() int64 {
	sum := m.removed + m.base.now(m.now).whole()
	for _, g := range m.groups {
		sum += g.energy.now(m.now).whole()
	}
	return sum
}

// overdue counts the released jobs whose deadline has passed.
func (t *task) overdue(now time.Duration) (n int) {
	late := func(j Job) bool { return j.Due > 0 && now > j.At+j.Due }
	if t.ready && late(t.job) {
		n++
	}
	for _, j := range t.backlog {
		if late(j) {
			n++
		}
	}
	return n
}

// begun is what is done of the present job.
func (t *task) begun(now time.Duration) time.Duration {
	if !t.ready {
		return 0
	}
	return t.job.Work - time.Duration(t.remaining(now).whole())
}

// log keeps the response time of a job.
func (t *task) log(d time.Duration) {
	if len(t.latencies) == cap(t.latencies) {
		if len(t.latencies) > 0 {
			t.earlier = append(t.earlier, t.latencies)
		}
		t.latencies = make([]time.Duration, 0, min(16+t.done, 512))
	}
	t.latencies = append(t.latencies, d)
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
		overdue := t.overdue(m.now)
		j.Missed += t.missed + overdue
		j.Due += t.deadlines + overdue
		for _, piece := range t.earlier {
			j.Latencies = append(j.Latencies, piece...)
		}
		j.Latencies = append(j.Latencies, t.latencies...)
		j.Work += t.worked + t.begun(m.now)
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
		t.done, t.missed, t.deadlines, t.worked, t.latencies, t.earlier = 0, 0, 0, 0, nil, nil
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
		for i := range d.times {
			a.Speed += m.clockedFor(d, i).Seconds() * d.curve.OPPs[i].Speed / float64(len(m.domains))
		}
	}
	for _, p := range m.cpus {
		for i := range p.stays {
			a.Idle[p.idle[i].Name] += m.idleFor(p, i).Seconds() / float64(len(m.cpus))
		}
	}
	return a
}
