package limit

import (
	"cmp"
	"math"
	"slices"
)

// YDS returns the speed of each job in the schedule of one core that is optimal for
// every convex power, and the time at each speed. What is left of the horizon is idle.
//
// The interval with the most work per time, of the jobs that lie in it, runs at that
// intensity, earliest deadline first, and is cut out of time; then the next.
//
// See Yao, Demers and Shenker, A scheduling model for reduced CPU energy (FOCS 1995).
// It takes O(n^2) for each interval that is cut out.
func YDS(jobs []Job) (speeds []float64, profile []Level, err error) {
	if err := check(jobs); err != nil {
		return nil, nil, err
	}
	speeds = make([]float64, len(jobs))
	type item struct {
		Job
		at int
	}
	var left []item
	for i, j := range jobs {
		if j.Work > 0 {
			left = append(left, item{j, i})
		}
	}
	for len(left) > 0 {
		// By deadline, so that the jobs of [a, d] are a sum while d grows.
		slices.SortFunc(left, func(x, y item) int { return cmp.Compare(x.Deadline, y.Deadline) })
		releases := make([]float64, 0, len(left))
		for _, j := range left {
			releases = append(releases, j.Release)
		}
		slices.Sort(releases)
		most, from, to := -1.0, 0.0, 0.0
		for _, a := range slices.Compact(releases) {
			work := 0.0
			for i, j := range left {
				if j.Release < a {
					continue
				}
				work += j.Work
				if i+1 < len(left) && left[i+1].Deadline == j.Deadline && left[i+1].Release >= a {
					continue // the same interval has more
				}
				if g := work / (j.Deadline - a); g > most {
					most, from, to = g, a, j.Deadline
				}
			}
		}
		profile = append(profile, Level{most, to - from})
		rest := left[:0]
		for _, j := range left {
			if j.Release >= from && j.Deadline <= to {
				speeds[j.at] = most
				continue
			}
			j.Release, j.Deadline = cut(j.Release, from, to), cut(j.Deadline, from, to)
			rest = append(rest, j)
		}
		left = rest
	}
	return speeds, levels(profile), nil
}

// cut is where a time is when [from, to] is cut out.
func cut(t, from, to float64) float64 {
	switch {
	case t <= from:
		return t
	case t >= to:
		return t - (to - from)
	}
	return from
}

// AVR returns the time at each speed where every job runs at its average rate from its
// release to its deadline, without knowing of others.
//
// See Yao, Demers and Shenker (FOCS 1995), section 4.
func AVR(jobs []Job) ([]Level, error) {
	if err := check(jobs); err != nil {
		return nil, err
	}
	times := borders(jobs)
	var out []Level
	for i := 1; i < len(times); i++ {
		speed := 0.0
		for _, j := range jobs {
			if j.Work > 0 && j.Release <= times[i-1] && j.Deadline >= times[i] {
				speed += j.Work / (j.Deadline - j.Release)
			}
		}
		out = append(out, Level{speed, times[i] - times[i-1]})
	}
	return levels(out), nil
}

// borders are all releases and deadlines, ascending.
func borders(jobs []Job) []float64 {
	var times []float64
	for _, j := range jobs {
		if j.Work > 0 {
			times = append(times, j.Release, j.Deadline)
		}
	}
	slices.Sort(times)
	return slices.Compact(times)
}

// OA returns the time at each speed where at every release what is left is planned
// optimally, as if no further job came.
//
// See Yao, Demers and Shenker (FOCS 1995), section 5; Bansal, Kimbrel and Pruhs, Speed
// scaling to manage energy and temperature (JACM 2007).
func OA(jobs []Job) ([]Level, error) {
	if err := check(jobs); err != nil {
		return nil, err
	}
	todo := slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return j.Work == 0 })
	slices.SortFunc(todo, func(a, b Job) int { return cmp.Compare(a.Release, b.Release) })
	var out []Level
	var here []Job // released and not done, by deadline
	for now := 0.0; len(todo)+len(here) > 0; {
		if len(here) == 0 {
			now = todo[0].Release
		}
		for len(todo) > 0 && todo[0].Release <= now {
			here = append(here, todo[0])
			todo = todo[1:]
		}
		slices.SortStableFunc(here, func(a, b Job) int { return cmp.Compare(a.Deadline, b.Deadline) })
		next := math.Inf(1)
		if len(todo) > 0 {
			next = todo[0].Release
		}
		// All that is here is released: the optimal speed is that of the densest
		// beginning, until its end.
		speed, work, count := -1.0, 0.0, 0
		for i, j := range here {
			work += j.Work
			if g := work / (j.Deadline - now); g > speed {
				speed, count = g, i+1
			}
		}
		end := here[count-1].Deadline
		if end <= next { // exactly: all of it is done then
			out = append(out, Level{speed, end - now})
			here, now = here[count:], end
			continue
		}
		out = append(out, Level{speed, next - now})
		for done := speed * (next - now); done > 0 && len(here) > 0; {
			part := min(done, here[0].Work)
			here[0].Work -= part
			done -= part
			if here[0].Work <= 1e-15*part {
				here = here[1:]
			}
		}
		now = next
	}
	return levels(out), nil
}
