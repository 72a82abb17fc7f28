package limit

import (
	"fmt"
	"math"
	"slices"
)

// maxJobs bounds what Cores takes: it looks for a maximal flow up to n^2 times.
const maxJobs = 500

// Cores returns the speed of each job in the schedule of n cores, each with a clock of its
// own, that is optimal for every convex power that does not fall, and the time at each
// speed. What is left of the cores' time is idle.
//
// The fastest jobs are a set that can fill all the cores reserved for it at one speed; a
// maximal flow of time from jobs through intervals to cores finds it, and what cannot be
// in it.
//
// See Albers, Antoniadis and Greiner, On multi-processor speed scaling with migration
// (JCSS 2015).
func Cores(jobs []Job, n int) (speeds []float64, profile []Level, err error) {
	if err := check(jobs); err != nil {
		return nil, nil, err
	}
	if n < 1 {
		return nil, nil, fmt.Errorf("want 1 core or more, not %d", n)
	}
	if len(jobs) > maxJobs && n > 1 {
		return nil, nil, fmt.Errorf("%d jobs on several cores take too long: want at most %d", len(jobs), maxJobs)
	}
	if n == 1 {
		return YDS(jobs)
	}
	speeds = make([]float64, len(jobs))
	times := borders(jobs)
	var left []int
	for i, j := range jobs {
		if j.Work > 0 {
			left = append(left, i)
		}
	}
	used := make([]int, max(len(times)-1, 0))
	for len(left) > 0 {
		set := slices.Clone(left)
		for {
			reserved := make([]int, len(used))
			room, work := 0.0, 0.0
			for i := range used {
				count := 0
				for _, j := range set {
					if active(jobs[j], times, i) {
						count++
					}
				}
				reserved[i] = min(count, n-used[i])
				room += float64(reserved[i]) * (times[i+1] - times[i])
			}
			for _, j := range set {
				work += jobs[j].Work
			}
			if room <= 0 {
				return nil, nil, fmt.Errorf("cannot find a schedule: there is no time left for %d jobs", len(set))
			}
			speed := work / room
			out := surplus(jobs, set, times, reserved, speed)
			if out < 0 {
				for _, j := range set {
					speeds[j] = speed
				}
				for i := range used {
					used[i] += reserved[i]
				}
				profile = append(profile, Level{speed, room})
				left = slices.DeleteFunc(left, func(j int) bool { return slices.Contains(set, j) })
				break
			}
			set = slices.Delete(set, out, out+1)
		}
	}
	return speeds, levels(profile), nil
}

func active(j Job, times []float64, i int) bool {
	return j.Release <= times[i] && j.Deadline >= times[i+1]
}

// surplus sends each job's time at a speed through the intervals in which it may run, at
// most an interval's length in each, to the cores reserved there. It returns -1 if that
// fills them, and otherwise the place in set of a job that cannot be among the fastest:
// one that could run longer in an interval whose cores are not full.
func surplus(jobs []Job, set []int, times []float64, reserved []int, speed float64) int {
	intervals := len(times) - 1
	source, sink := 0, 1+len(set)+intervals
	f := newFlow(sink + 1)
	total := 0.0
	edges := make([][]int, len(set))
	for k, j := range set {
		t := jobs[j].Work / speed
		total += t
		f.add(source, 1+k, t)
		edges[k] = make([]int, intervals)
		for i := range intervals {
			edges[k][i] = -1
			if active(jobs[j], times, i) && reserved[i] > 0 {
				edges[k][i] = f.add(1+k, 1+len(set)+i, times[i+1]-times[i])
			}
		}
	}
	ends := make([]int, intervals)
	for i := range intervals {
		ends[i] = f.add(1+len(set)+i, sink, float64(reserved[i])*(times[i+1]-times[i]))
	}
	f.eps = 1e-12 * total
	if total-f.run(source, sink) <= 1e-9*total {
		return -1
	}
	best, most := 0, 0.0
	for i := range intervals {
		if f.edges[ends[i]].room <= 1e-10*total {
			continue
		}
		for k := range set {
			if e := edges[k][i]; e >= 0 && f.edges[e].room > most {
				best, most = k, f.edges[e].room
			}
		}
	}
	return best
}

// A flow is a network for Dinic's algorithm.
//
// See Dinitz, Algorithm for solution of a problem of maximum flow in networks (1970).
type flow struct {
	edges []edge // each followed by its reverse
	out   [][]int
	level []int
	next  []int
	eps   float64
}

type edge struct {
	to   int
	room float64
}

func newFlow(n int) *flow {
	return &flow{out: make([][]int, n), level: make([]int, n), next: make([]int, n)}
}

func (f *flow) add(from, to int, room float64) int {
	f.edges = append(f.edges, edge{to, room}, edge{from, 0})
	f.out[from] = append(f.out[from], len(f.edges)-2)
	f.out[to] = append(f.out[to], len(f.edges)-1)
	return len(f.edges) - 2
}

func (f *flow) run(source, sink int) (sum float64) {
	for f.reach(source, sink) {
		for i := range f.next {
			f.next[i] = 0
		}
		for {
			d := f.push(source, sink, math.Inf(1))
			if d <= f.eps {
				break
			}
			sum += d
		}
	}
	return sum
}

// reach finds the distances from the source.
func (f *flow) reach(source, sink int) bool {
	for i := range f.level {
		f.level[i] = -1
	}
	f.level[source] = 0
	queue := []int{source}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		for _, e := range f.out[at] {
			if to := f.edges[e].to; f.edges[e].room > f.eps && f.level[to] < 0 {
				f.level[to] = f.level[at] + 1
				queue = append(queue, to)
			}
		}
	}
	return f.level[sink] >= 0
}

func (f *flow) push(at, sink int, most float64) float64 {
	if at == sink {
		return most
	}
	for ; f.next[at] < len(f.out[at]); f.next[at]++ {
		e := f.out[at][f.next[at]]
		if f.edges[e].room <= f.eps || f.level[f.edges[e].to] != f.level[at]+1 {
			continue
		}
		if d := f.push(f.edges[e].to, sink, min(most, f.edges[e].room)); d > f.eps {
			f.edges[e].room -= d
			f.edges[e^1].room += d
			return d
		}
	}
	return 0
}
