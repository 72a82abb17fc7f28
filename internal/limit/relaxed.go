package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Relaxed returns what any schedule on a machine costs at least, in J, from time 0 to the
// horizon, in s; false if the machine cannot do the work. Jobs with a deadline beyond the
// horizon are not due within it. It takes O(n log n).
//
// Of a schedule only the work that it has done until each moment is looked at: no more
// than was released until then, no less than was due. Jensen's inequality prices it at the
// hull. Where deadlines are in the order of releases, and one core's hull is given, nothing
// is lost: it is YDS.
func Relaxed(jobs []Job, h Hull, horizon float64) (joules float64, ok bool, err error) {
	if len(h.points) == 0 {
		return 0, false, errors.New("there is no speed")
	}
	if !(horizon >= 0) || math.IsInf(horizon, 0) {
		return 0, false, fmt.Errorf("the horizon is %v s, want 0 or more", horizon)
	}
	if err := check(jobs); err != nil {
		return 0, false, err
	}
	work := 0.0
	for i, j := range jobs {
		if j.Release < 0 {
			return 0, false, fmt.Errorf("job %d: its release %v is before time 0", i+1, j.Release)
		}
		work += j.Work
	}
	top := h.points[len(h.points)-1].Speed
	for _, l := range taut(jobs, horizon) {
		if (l.Speed-top)*l.Seconds > 1e-9*top*l.Seconds+1e-12*work { // more than is rounded
			return 0, false, nil
		}
		power, _ := h.At(min(l.Speed, top))
		joules += power * l.Seconds
	}
	return joules, true, nil
}

// A gate is what bounds the work done until a time.
type gate struct{ time, least, most float64 }

// gates are the times from 0 to the horizon at which work is released or due. Between
// two of them the bounds of the later hold from above, and of the earlier from below.
func gates(jobs []Job, horizon float64) []gate {
	var released, due []Job
	times := []float64{0, horizon}
	for _, j := range jobs {
		if j.Work > 0 && j.Release < horizon {
			released = append(released, j)
			times = append(times, j.Release)
			if j.Deadline <= horizon {
				due = append(due, j)
				times = append(times, j.Deadline)
			}
		}
	}
	slices.Sort(times)
	slices.SortFunc(released, func(a, b Job) int { return cmp.Compare(a.Release, b.Release) })
	slices.SortFunc(due, func(a, b Job) int { return cmp.Compare(a.Deadline, b.Deadline) })
	var out []gate
	least, most := 0.0, 0.0
	for _, t := range slices.Compact(times) {
		for len(released) > 0 && released[0].Release < t {
			most += released[0].Work
			released = released[1:]
		}
		for len(due) > 0 && due[0].Deadline <= t {
			least += due[0].Work
			due = due[1:]
		}
		out = append(out, gate{t, least, max(most, least)}) // but for rounding most is more
	}
	// What is not due need not be done, and power does not fall with the speed.
	out[len(out)-1].most = least
	return out
}

// taut returns the speeds, in the order of time, that do the work with the least integral
// of any convex power: a string pulled tight through the gates. From where the string is
// fixed two chains lead to the gate that was reached last, the shortest ways to its upper
// end, which only bends up, and to its lower, which only bends down; where one would cross
// the other, the string bends there.
//
// See Davies and Kovac, Local extremes, runs, strings and multiresolution (Annals of
// Statistics 2001).
func taut(jobs []Job, horizon float64) []Level {
	type knot struct{ time, work float64 }
	slope := func(a, b knot) float64 { return (b.work - a.work) / (b.time - a.time) }
	var out []Level
	fixed := knot{}
	var upper, lower []knot
	// add appends a knot to a chain that bends by sign; the other chain is what it may
	// cross.
	add := func(chain, other *[]knot, k knot, sign float64) {
		for n := len(*chain); n > 0; n-- {
			before := fixed
			if n > 1 {
				before = (*chain)[n-2]
			}
			if sign*(slope(before, (*chain)[n-1])-slope(before, k)) < 0 {
				break
			}
			*chain = (*chain)[:n-1]
		}
		if len(*chain) == 0 {
			for len(*other) > 0 && (*other)[0].time < k.time && sign*(slope(fixed, k)-slope(fixed, (*other)[0])) < 0 {
				next := (*other)[0]
				out = append(out, Level{slope(fixed, next), next.time - fixed.time})
				fixed, *other = next, (*other)[1:]
			}
		}
		*chain = append(*chain, k)
	}
	list := gates(jobs, horizon)
	for _, g := range list[1:] {
		add(&upper, &lower, knot{g.time, g.most}, 1)
		if g.time < horizon {
			add(&lower, &upper, knot{g.time, g.least}, -1)
		}
	}
	for _, k := range upper {
		out = append(out, Level{slope(fixed, k), k.time - fixed.time})
		fixed = k
	}
	return out
}
