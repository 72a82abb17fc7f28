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

// active reports whether a governor has anything to look at: a cpu that works, or
// one whose utilisation has not decayed yet.
func (d *domain) active() bool {
	for i, p := range d.cpus {
		if p.running() || d.util[i] > 0.01 {
			return true
		}
	}
	return false
}

// band returns the limits in force: the wishes clamped to the table, the floor
// giving way to the ceiling, as freq QoS and cpufreq_verify_within_limits do.
func (d *domain) band() (lo, hi int) {
	n := len(d.curve.OPPs)
	lo, hi = n-1, 0
	for i, o := range d.curve.OPPs {
		if o.Frequency <= d.max {
			hi = i
		}
		if o.Frequency >= d.min && i < lo {
			lo = i
		}
	}
	return min(lo, hi), hi
}

// govern lets the domain's governor choose.
func (m *Machine) govern(d *domain) {
	elapsed := m.now - d.lastAt
	d.sample = m.now + sampleEvery
	if elapsed <= 0 {
		return
	}
	load, util := 0.0, 0.0
	speed := d.curve.OPPs[d.opp].Speed
	decay := math.Pow(0.5, float64(elapsed)/float64(pelt))
	for i, p := range d.cpus {
		busy := float64(p.busy-d.lastBusy[i]) / float64(elapsed)
		d.lastBusy[i] = p.busy
		// Frequency-invariant: what a slow clock does in a second counts less.
		d.util[i] = d.util[i]*decay + (1-decay)*busy*speed
		if p.running() && d.util[i] < 1e-6 {
			d.util[i] = 1e-6
		}
		load, util = math.Max(load, busy), math.Max(util, d.util[i])
	}
	d.lastAt = m.now
	m.choose(d, load, util)
}

// choose applies a governor to the highest load (share of time busy at the present
// clock) and utilisation (share of the fastest clock's throughput) of a domain.
//
// See Documentation/admin-guide/pm/cpufreq.rst; energy.md 1.5.
func (m *Machine) choose(d *domain, load, util float64) {
	lo, hi := d.band()
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
	if opp != d.opp {
		d.opp = opp
		d.trans++
	}
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
	lo, hi := d.band()
	m.setOPP(d, min(max(d.opp, lo), hi))
	if d.governor == "performance" || d.governor == "powersave" || d.governor == "userspace" {
		m.choose(d, 0, 0)
	}
}

func (d *domain) frequency(i int) units.Frequency { return d.curve.OPPs[i].Frequency }
