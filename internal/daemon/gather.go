package daemon

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/units"
)

// A habit is what a container whose work may be gathered uses, over minutes.
type habit struct {
	mean    float64 // in cores of the fastest kind at their fastest
	seconds units.Seconds
	// steady is what decisions go by: it follows the mean only when that has moved.
	steady float64
	// parallel is the most threads that have been seen to run at once.
	parallel int
}

// acquainted is how long a container is watched before its habit is believed.
const acquainted units.Seconds = 5

// habits returns containers' habits after an interval.
func habits(was map[containers.ID]habit, bounds map[containers.ID]bound, last, seen *Seen, iv interval) map[containers.ID]habit {
	var next map[containers.ID]habit
	for _, c := range seen.Containers {
		used, known := iv.used[c.ID]
		if !c.Delays || !known {
			continue
		}
		if next == nil {
			next = make(map[containers.ID]habit, len(seen.Containers))
		}
		where := seen.Hardware.Topology.Online
		if c.CPUs != nil && !c.CPUs.Empty() {
			where = *c.CPUs
		}
		h := was[c.ID]
		h.seconds += iv.seconds
		cpus := used.Seconds() / float64(iv.seconds)
		h.mean += float64(iv.seconds/min(h.seconds, memory)) * (cpus*seen.Hardware.speed(iv, where, bounds[c.ID].of(seen.Hardware)) - h.mean)
		if math.Abs(h.mean-h.steady) > 0.15*h.steady {
			h.steady = h.mean
		}
		if i, ok := slices.BinarySearchFunc(last.Containers, c.ID, func(o Contained, id containers.ID) int { return cmp.Compare(o.ID, id) }); ok {
			cpus = max(cpus, last.Containers[i].held(c))
		}
		h.parallel = max(h.parallel, int(math.Round(cpus)), 1)
		next[c.ID] = h
	}
	return next
}

// held is how many of a container's threads were held back at once from one reading to
// another: each cpu that had one was held for the rest of the period when the quota, which
// they used together, was used up.
//
// See throttle_cfs_rq in kernel/sched/fair.c: throttled_usec is the sum of all cpus'.
func (c Contained) held(now Contained) float64 {
	times := now.Stat.Throttled - c.Stat.Throttled
	if c.Max == nil || now.Max == nil || *c.Max != *now.Max || now.Stat.Throttled <= c.Stat.Throttled {
		return 0
	}
	each := (now.Stat.Waited - c.Stat.Waited) / time.Duration(times)
	return float64(each+now.Max.Quota) / float64(now.Max.Period)
}

// usual is a container's demand over minutes, and how many of its threads run at once; 0 of
// them as long as that is not known.
func (m model) usual(c Contained) (demand float64, parallel int) {
	if h := m.habits[c.ID]; h.seconds >= acquainted {
		return h.steady, h.parallel
	}
	return newcomer, 0
}

// period is the longest, of those at most as long as wanted, whose multiples ticks are: so
// periods that begin at any tick go together.
func (d *Daemon) period(wanted time.Duration) time.Duration {
	if wanted <= 0 {
		return 0
	}
	n := (d.config.Interval + wanted - 1) / wanted
	return (d.config.Interval / n).Truncate(time.Microsecond)
}

// begin is a value of cpu.max that ends a cgroup's period within a millisecond and limits
// nothing. The kernel starts the timer of a limit's periods on the grid of the length given
// through a time of the cgroup's own, and then goes on from there: a limit written next has
// periods that begin now.
//
// See start_cfs_bandwidth and init_cfs_bandwidth in kernel/sched/fair.c.
var begin = containers.CPUMax{Quota: time.Second, Period: time.Millisecond}.String()
