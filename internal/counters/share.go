package counters

import (
	"math"
	"slices"

	"github.com/powerd/powerd/internal/units"
)

// A Share learns what share of some work's time scales with the clock. The zero Share knows
// nothing; it is a value, and Learn returns a new one.
//
// Waiting for memory takes its time whatever the clock is, so that in cycles it grows with
// it: an instruction takes core + wait x clock cycles on average. At two clocks that is a
// line, whose slope is the wait. What is not certain of it is left out: CPUBound is rather
// too high than too low, for a wrong share makes powerd slow down what it should not.
type Share struct {
	clocks []mean
	odd    []sample // that do not fit, since the last that did
}

// A sample is of work at a clock, in GHz, that took some cycles per instruction.
type sample struct{ clock, cycles, weight float64 }

// A mean is of the samples at one clock.
type mean struct {
	clock, cycles float64
	weight        float64 // of the samples, of old ones less
	spread        float64 // sum of squares around the mean
}

const (
	// sameClock is how far clocks may be apart, relatively, to count as one.
	sameClock = 0.04
	// seen is the weight that a clock needs to count, and that it takes to believe that
	// the work has changed: more than one second, which may be an odd one.
	seen = 1.5
	// steady is how long a memory is, in samples: a quarter of an hour of them by the second.
	steady = 1000
	// sure is the most weight that a clock has in the line: a mean of however many is no
	// more exact than that, for programs change slowly, too.
	sure = 30
	// noise is what is assumed of the spread of samples, relatively, with a weight of
	// assumed samples, and quiet the least it may be.
	noise, assumed, quiet = 0.03, 4, 0.01
	// surprise is how many standard deviations a sample is off that does not fit, and
	// misfit how far, relatively, a line may be off besides where it was not seen.
	surprise, misfit = 5, 0.05
	// certain is by how many standard errors the slope is taken to be lower than it seems,
	// and vague how uncertain a share is that is not known.
	certain, vague = 2, 0.25
	most           = 16 // clocks
)

// Learn returns the share with a sample: work that at a clock took some cycles per
// instruction. Weight is its part of what the container did in a second, 0 to 1.
func (s Share) Learn(clock units.Frequency, cycles, weight float64) Share {
	p := sample{float64(clock) / float64(units.GHz), cycles, min(weight, 1)}
	if !(p.clock > 0 && cycles > 0 && weight > 0) || math.IsInf(cycles, 0) {
		return s
	}
	next := Share{clocks: s.clocks, odd: append(slices.Clone(s.odd), p)}
	switch {
	case s.fits(p): // so do those that did not, as noise
	case total(next.odd) >= seen:
		next.clocks = nil // it is other work
	default:
		return next
	}
	next.clocks = slices.Clone(next.clocks)
	for _, p := range next.odd {
		next.add(p)
	}
	next.odd = nil
	return next
}

// Weight is how much was learned from, in seconds of samples.
func (s Share) Weight() (weight float64) {
	for _, m := range s.clocks {
		weight += m.weight
	}
	return weight
}

func total(list []sample) (weight float64) {
	for _, p := range list {
		weight += p.weight
	}
	return weight
}

// fits reports whether a sample may be of the work that was seen so far.
func (s Share) fits(p sample) bool {
	sd := s.deviation()
	if at := s.at(p.clock); at >= 0 && s.clocks[at].weight >= seen {
		return math.Abs(p.cycles-s.clocks[at].cycles) <= surprise*sd
	}
	l, ok := s.line()
	if !ok {
		return true
	}
	want := l.cycles + l.slope*(p.clock-l.clock)
	return math.Abs(p.cycles-want) <= surprise*(sd+l.err*math.Abs(p.clock-l.clock))+misfit*want
}

// add brings the means up to date with a sample, by West's recurrence.
func (s *Share) add(p sample) {
	keep := math.Pow(1-1.0/steady, p.weight)
	for i := range s.clocks {
		s.clocks[i].weight *= keep
		s.clocks[i].spread *= keep
	}
	at := s.at(p.clock)
	if at < 0 {
		if len(s.clocks) == most { // the least known goes
			least := 0
			for i, m := range s.clocks {
				if m.weight < s.clocks[least].weight {
					least = i
				}
			}
			s.clocks = slices.Delete(s.clocks, least, least+1)
		}
		s.clocks = append(s.clocks, mean{clock: p.clock, cycles: p.cycles, weight: p.weight})
		return
	}
	m := &s.clocks[at]
	m.weight += p.weight
	off := p.cycles - m.cycles
	m.cycles += off * p.weight / m.weight
	m.spread += p.weight * off * (p.cycles - m.cycles)
	m.clock += (p.clock - m.clock) * p.weight / m.weight
}

// at is the index of a clock's mean, -1 without one.
func (s Share) at(ghz float64) int {
	best, least := -1, sameClock
	for i, m := range s.clocks {
		if off := math.Abs(ghz/m.clock - 1); off <= least {
			best, least = i, off
		}
	}
	return best
}

// deviation is the standard deviation of a sample.
func (s Share) deviation() float64 {
	weight, spread, cycles := 0.0, 0.0, 0.0
	for _, m := range s.clocks {
		weight += m.weight
		spread += m.spread
		cycles += m.weight * m.cycles
	}
	if weight == 0 {
		return 0
	}
	cycles /= weight
	of := max(0, weight-float64(len(s.clocks)))
	return max(quiet*cycles, math.Sqrt((spread+assumed*noise*noise*cycles*cycles)/(of+assumed)))
}

// A line goes through a mean.
type line struct {
	clock, cycles float64
	slope, err    float64 // the standard error of the slope
}

// line is the regression over the clocks that were seen; ok is false with less than two.
func (s Share) line() (l line, ok bool) {
	weight, n := 0.0, 0
	for _, m := range s.clocks {
		if m.weight < seen {
			continue
		}
		w := min(m.weight, sure)
		weight += w
		l.clock += w * m.clock
		l.cycles += w * m.cycles
		n++
	}
	if n < 2 {
		return line{}, false
	}
	l.clock /= weight
	l.cycles /= weight
	xx, xy, yy := 0.0, 0.0, 0.0
	for _, m := range s.clocks {
		if m.weight < seen {
			continue
		}
		w := min(m.weight, sure)
		x, y := m.clock-l.clock, m.cycles-l.cycles
		xx += w * x * x
		xy += w * x * y
		yy += w*y*y + w/m.weight*m.spread
	}
	if xx < 1e-6 { // two that have become one
		return line{}, false
	}
	l.slope = xy / xx
	left := max(0, yy-xy*l.slope)
	variance := (left + assumed*noise*noise*l.cycles*l.cycles) / (max(0, weight-2) + assumed)
	l.err = math.Sqrt(max(variance, quiet*quiet*l.cycles*l.cycles) / xx)
	return l, true
}

// CPUBound returns the share of the work's time at a clock, the fastest, that scales with
// the clock: 1 is all. It is not known while the work was seen at one clock only or too
// little, nor where no time in the core and wait explain what was seen; then it is 1.
func (s Share) CPUBound(fastest units.Frequency) (share float64, known bool) {
	l, ok := s.line()
	f := float64(fastest) / float64(units.GHz)
	at := l.cycles + l.slope*(f-l.clock) // cycles of an instruction at the fastest
	if !ok || f <= 0 || at <= 0 || certain*l.err*f > vague*at {
		return 1, false
	}
	slope := l.slope - certain*l.err
	if slope <= 0 {
		return 1, true
	}
	core := l.cycles - slope*l.clock
	if core < 0 {
		return 1, false
	}
	return core / (core + slope*f), true
}
