// Package limit computes the least energy that a set of jobs can be done with, knowing
// all of them beforehand: a bound that no policy can beat.
//
// A job has a release, a deadline and work, in seconds and seconds at speed 1. It may be
// interrupted, and where there are several cores move between them, but runs on one at a
// time. Speeds change freely, and idle time costs the idle power from its first moment.
package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A Job is to be done between its release and its deadline.
type Job struct {
	Release, Deadline float64 // s
	Work              float64 // s at speed 1
}

// A Level is time at a speed.
type Level struct{ Speed, Seconds float64 }

// check refuses what is no job.
func check(jobs []Job) error {
	for i, j := range jobs {
		if err := j.check(); err != nil {
			return fmt.Errorf("job %d: %w", i+1, err)
		}
	}
	return nil
}

func (j Job) check() error {
	switch {
	case math.IsNaN(j.Release) || math.IsInf(j.Release, 0) || math.IsNaN(j.Deadline) || math.IsInf(j.Deadline, 0):
		return errors.New("its release and deadline are no times")
	case !(j.Work >= 0) || math.IsInf(j.Work, 0):
		return fmt.Errorf("its work is %v, want 0 or more", j.Work)
	case j.Deadline < j.Release || j.Deadline == j.Release && j.Work > 0:
		return fmt.Errorf("its deadline %v is not after its release %v", j.Deadline, j.Release)
	}
	return nil
}

// Horizon is from the first release to the last deadline, in seconds.
func Horizon(jobs []Job) float64 {
	if len(jobs) == 0 {
		return 0
	}
	first, last := math.Inf(1), math.Inf(-1)
	for _, j := range jobs {
		first, last = min(first, j.Release), max(last, j.Deadline)
	}
	return last - first
}

// levels sorts times at speeds, the fastest first, and joins those of one speed.
func levels(list []Level) []Level {
	slices.SortStableFunc(list, func(a, b Level) int { return cmp.Compare(b.Speed, a.Speed) })
	out := list[:0]
	for _, l := range list {
		if n := len(out); n > 0 && out[n-1].Speed-l.Speed <= 1e-12*l.Speed {
			out[n-1].Seconds += l.Seconds
		} else if l.Speed > 0 && l.Seconds > 0 {
			out = append(out, l)
		}
	}
	return out
}
