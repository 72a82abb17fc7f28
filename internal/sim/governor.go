package sim

import (
	"math"
	"slices"
	"time"

	"github.com/powerd/powerd/internal/units"
)

// governors are what scaling_available_governors lists.
var governors = []string{"conservative", "ondemand", "userspace", "powersave", "performance", "schedutil"}

// Governors returns the names of the governors a machine knows.
func Governors() []string { return slices.Clone(governors) }

// sampleEvery is how often a governor looks while a domain is busy: the kernel's
// tick at 250 Hz, at which schedutil and the sampling governors both can act.
const sampleEvery = 4 * time.Millisecond

// pelt is the half-life of the scheduler's utilisation average.
const pelt = 32 * time.Millisecond

// limit finds out the limits in force: the wishes clamped to the table, the floor
// giving way to the ceiling, as freq QoS and cpufreq_verify_within_limits do.
func (d *domain) limit() {
	n := len(d.curve.OPPs)
	d.lo, d.hi = n-1, 0
	for i, o := range d.curve.OPPs {
		if o.Frequency <= d.max {
			d.hi = i
		}
		if o.Frequency >= d.min && i < d.lo {
			d.lo = i
		}
	}
	d.lo = min(d.lo, d.hi)
}

// govern lets the domain's governor choose, if there is anything to look at: a cpu that
// works, or one whose utilisation has not decayed yet.
func (m *Machine) govern(d *domain) {
	if d.running == 0 && !d.warm {
		m.queues[sampled].set(d.n, never)
		return
	}
	d.sample = m.now + sampleEvery
	m.queues[sampled].set(d.n, d.sample)
	elapsed := m.now - d.lastAt
	if elapsed <= 0 {
		return
	}
	speed := d.curve.OPPs[d.opp].Speed
	decay := sampleDecay
	if elapsed != sampleEvery {
		decay = decayOver(elapsed)
	}
	// The highest of numbers that are not negative are found by their bits, without branches.
	longest, highest := time.Duration(0), uint64(0)
	for i, p := range d.cpus {
		s := &d.samples[i]
		total := m.busyFor(p)
		busy := total - s.busy
		s.busy = total
		// Frequency-invariant: what a slow clock does in a second counts less.
		s.util = s.util*decay + (1-decay)*(float64(busy)/float64(elapsed))*speed
		longest, highest = max(longest, busy), max(highest, math.Float64bits(s.util))
	}
	load, util := float64(longest)/float64(elapsed), math.Float64frombits(highest)
	d.warm = util > 0.01
	d.lastAt = m.now
	m.choose(d, load, util)
	if m.hybrid {
		m.tick(d)
	}
}

var sampleDecay = decayOver(sampleEvery)

// decayOver is what is left of a utilisation after a time without any.
func decayOver(d time.Duration) float64 { return math.Pow(0.5, float64(d)/float64(pelt)) }

// choose applies a governor to the highest load (share of time busy at the present
// clock) and utilisation (share of the fastest clock's throughput) of a domain.
//
// See Documentation/admin-guide/pm/cpufreq.rst; energy.md 1.5.
func (m *Machine) choose(d *domain, load, util float64) {
	lo, hi := d.lo, d.hi
	opps := d.curve.OPPs
	fmax, fmin := float64(opps[hi].Frequency), float64(opps[lo].Frequency)
	want := d.opp
	switch d.governor {
	case "performance":
		want = hi
	case "powersave":
		want = lo
	case "userspace":
		want = d.atLeast(float64(d.setspeed))
	case "schedutil":
		// A quarter of headroom on the hardware's maximum.
		want = d.atLeast(math.Min(1, 1.25*util) * float64(opps[len(opps)-1].Frequency))
		// A clock of one cpu that has not idled since is not lowered: its average is
		// of the past (sugov_hold_freq).
		if len(d.cpus) == 1 && load >= 1 {
			want = max(want, d.opp)
		}
	case "ondemand":
		// 95 rather than 80, for idle time is accounted to the microsecond.
		if load > 0.95 {
			want = hi
		} else {
			want = d.nearest(fmin + load*(fmax-fmin))
		}
	case "conservative":
		// Its wish moves by steps of 5 %; the clock follows to the highest OPP not above
		// it on the way up, the lowest not below it on the way down (cs_dbs_update).
		step := 0.05 * fmax
		if f := d.wish; f < fmin || f > fmax || d.atMost(f) != d.opp && d.atLeast(f) != d.opp {
			d.wish = float64(opps[d.opp].Frequency)
		}
		switch {
		case load > 0.80:
			d.wish = math.Min(fmax, d.wish+step)
			want = d.atMost(d.wish)
		case load < 0.20:
			d.wish = math.Max(fmin, d.wish-step)
			want = d.atLeast(d.wish)
		}
	}
	m.setOPP(d, min(max(want, lo), hi))
}

func (m *Machine) setOPP(d *domain, opp int) {
	if opp == d.opp {
		return
	}
	d.times[d.opp] += m.now - d.since
	d.opp, d.since = opp, m.now
	d.trans++
	for _, p := range d.cpus {
		if p.state < 0 || p.pending {
			m.suspect(p.core)
		}
	}
}

// clockedFor is how long a domain was at an operating point so far.
func (m *Machine) clockedFor(d *domain, opp int) time.Duration {
	t := d.times[opp]
	if opp == d.opp {
		t += m.now - d.since
	}
	return t
}

func (d *domain) atLeast(khz float64) int {
	for i, o := range d.curve.OPPs {
		if float64(o.Frequency) >= khz-0.5 {
			return i
		}
	}
	return len(d.curve.OPPs) - 1
}

func (d *domain) atMost(khz float64) int {
	for i := len(d.curve.OPPs) - 1; i > 0; i-- {
		if float64(d.curve.OPPs[i].Frequency) <= khz+0.5 {
			return i
		}
	}
	return 0
}

// nearest is the closest OPP, ties to the lower.
func (d *domain) nearest(khz float64) int {
	best := 0
	for i, o := range d.curve.OPPs {
		if math.Abs(float64(o.Frequency)-khz) < math.Abs(float64(d.curve.OPPs[best].Frequency)-khz) {
			best = i
		}
	}
	return best
}

// clamp brings the clock into the limits at once, as writing them does.
func (m *Machine) clamp(d *domain) {
	m.setOPP(d, min(max(d.opp, d.lo), d.hi))
	if d.governor == "performance" || d.governor == "powersave" || d.governor == "userspace" {
		m.choose(d, 0, 0)
	}
}

func (d *domain) frequency(i int) units.Frequency { return d.curve.OPPs[i].Frequency }
