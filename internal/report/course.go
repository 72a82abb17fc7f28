package report

import (
	"time"

	"github.com/powerd/powerd/internal/bench"
)

// A course is what a machine did in a run.
type course struct {
	power []float64 // watts, in equal parts of the time
	speed []float64 // of the fastest clock, in equal parts
	idle  []float64 // shares of the time in each of some states
}

// courseOf makes samples from warm on, which stand for the time since the one before, into
// at most parts equal parts of the time until span, each the mean over its own.
func courseOf(samples []bench.Sample, warm, span time.Duration, states []string) (c course) {
	if len(samples) == 0 || span <= warm {
		return c
	}
	n := min(parts, len(samples))
	c.power, c.speed, c.idle = make([]float64, n), make([]float64, n), make([]float64, len(states))
	total := (span - warm).Seconds()
	width := total / float64(n)
	from := 0.0
	for _, s := range samples {
		until := min((s.At - warm).Seconds(), total)
		if until <= from {
			continue // it does not count
		}
		for k, state := range states {
			c.idle[k] += s.Idle[state] * (until - from) / total
		}
		for i := min(n-1, int(from/width)); i < n && float64(i)*width < until; i++ {
			share := (min(until, float64(i+1)*width) - max(from, float64(i)*width)) / width
			if share > 0 {
				c.power[i] += share * s.Power.Watts()
				c.speed[i] += share * s.Speed
			}
		}
		from = until
	}
	return c
}
