package daemon

import (
	"math"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/units"
)

// A habit is what a container uses over minutes.
type habit struct {
	mean    float64 // in cores of the fastest kind at their fastest
	seconds units.Seconds
	// steady is what decisions go by: it follows the mean only when that has moved.
	steady float64
}

// acquainted is how long a container is watched before its habit is believed.
const acquainted units.Seconds = 5

// habits returns what containers whose work may be gathered use, after an interval.
func habits(was map[containers.ID]habit, seen *Seen, iv interval) map[containers.ID]habit {
	var next map[containers.ID]habit
	for _, c := range seen.Containers {
		used, known := iv.used[c.ID]
		if c.Threads == 0 || !known {
			continue
		}
		where := seen.Hardware.Topology.Online
		if c.CPUs != nil && !c.CPUs.Empty() {
			where = *c.CPUs
		}
		h := was[c.ID]
		h.seconds += iv.seconds
		now := used.Seconds() / float64(iv.seconds) * seen.Hardware.speed(iv, where)
		h.mean += float64(iv.seconds/min(h.seconds, memory)) * (now - h.mean)
		if math.Abs(h.mean-h.steady) > 0.15*h.steady {
			h.steady = h.mean
		}
		if next == nil {
			next = make(map[containers.ID]habit, len(seen.Containers))
		}
		next[c.ID] = h
	}
	return next
}

// usual is a container's demand over minutes: all of its threads' where its habit is not
// known yet.
func (m model) usual(c Contained) float64 {
	if h := m.habits[c.ID]; h.seconds >= acquainted {
		return h.steady
	}
	return float64(c.Threads)
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
