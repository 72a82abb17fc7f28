// Package loads makes work for containers: by name, from utilisation traces, from sets
// of jobs and from files of rt-app.
package loads

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/internal/sim"
)

// A Container is one container's work.
type Container struct {
	sim.Workload
	// It starts at From and is killed at Until; 0 is at the load's end.
	From, Until time.Duration
	// P99 bounds the 99th percentile of its response times; 0 is no bound.
	P99 time.Duration
}

// slow states on a container's cgroup how many times longer than at the machine's fastest
// its work may take.
func slow(w sim.Workload, times float64) sim.Workload {
	w.Attributes = map[string]string{"trusted.powerd.slowdown": strconv.FormatFloat(times, 'g', 4, 64)}
	return w
}

// A Load is what a machine has to do. Its cgroups are named for the classes of
// configs/default.yaml.
type Load struct {
	Name, About string
	Containers  []Container
	// Fluid tells of work that comes evenly, or whose jobs are known: what a limit
	// with foreknowledge can nearly be reached on.
	Fluid bool
}

// A kind of load makes itself for a machine with some cores, in units of its fastest.
type kind struct {
	about string
	fluid bool
	make  func(cores float64, span time.Duration, rng *rand.Rand) []Container
}

const (
	ms = time.Millisecond
	us = time.Microsecond
)

var kinds = map[string]kind{
	"media": {"MP3 every 6 ms, video every 16.7 and 33.3 ms, each due by the next", false, media},
	"batch": {"jobs of seconds, partly waiting for memory, due after three times as long", false, batch},
	"web":   {"requests of about 4 ms, at random and in bursts, over a day squeezed into the run; p99 within 50 ms", false, web},
	"mixed": {"requests, frames, builds and backups side by side", false, mixed},
	"churn": {"containers of seconds that come and go", false, churn},
	"trace": {"virtual machines' utilisation by the second, 13 % on average with bursts", true, trace},
	"jobs":  {"single jobs with releases and deadlines", true, jobs},

	"memory": {"jobs as batch's, half to four fifths of whose time they wait for memory", false, memory},
}

// Table returns the loads of the table of docs/energy.md.
func Table() []string {
	return []string{"media", "batch", "web", "mixed", "churn", "trace", "jobs"}
}

// Names returns the loads that Named knows.
func Names() []string { return append(Table(), "memory") }

// Named makes a load for a machine with so many cores (in units of its fastest) and a
// run of length span.
func Named(name string, cores float64, span time.Duration, seed uint64) (Load, error) {
	k, ok := kinds[name]
	if !ok {
		return Load{}, fmt.Errorf("there is no load %q: want %s", name, strings.Join(Names(), ", "))
	}
	return Load{Name: name, About: k.about, Fluid: k.fluid, Containers: k.make(cores, span, rand.New(rand.NewPCG(seed, 7)))}, nil
}

// copies is how many of something a machine gets that an eight-core one gets n of.
func copies(cores, n float64) int { return max(1, int(math.Round(cores/8*n))) }

// Periods as rt-app's examples have them (doc/examples/mp3-long.json, video-long.json).
func media(cores float64, _ time.Duration, _ *rand.Rand) (out []Container) {
	for i := range copies(cores, 2) {
		for _, w := range []struct {
			name         string
			period, work time.Duration
		}{{"mp3", 6 * ms, 600 * us}, {"video60", 16667 * us, 4 * ms}, {"video30", 33333 * us, 9 * ms}} {
			out = append(out, Container{Workload: slow(sim.Workload{Cgroup: fmt.Sprintf("powerd/%s-%d", w.name, i), Period: w.period, Work: w.work}, 3)})
		}
	}
	return out
}

func batch(cores float64, _ time.Duration, rng *rand.Rand) []Container {
	return longJobs(cores, rng, 1, 0.8, 0.5)
}

// memory is what scans tables and joins them, or multiplies sparse matrices.
func memory(cores float64, _ time.Duration, rng *rand.Rand) []Container {
	return longJobs(cores, rng, 0.5, 0.35, 0.2)
}

// longJobs are containers with jobs of seconds, bound by the clock for shares by turns.
func longJobs(cores float64, rng *rand.Rand, bounds ...float64) (out []Container) {
	for i := range copies(cores, 4) {
		work := time.Duration(800+rng.IntN(2400)) * ms
		every := 3 * work
		bound := bounds[i%len(bounds)]
		out = append(out, Container{Workload: slow(sim.Workload{Cgroup: fmt.Sprintf("powerd/batch-%d", i), CPUBound: bound,
			Jobs: func(rng *rand.Rand) func() (sim.Job, bool) {
				at := time.Duration(rng.Int64N(int64(every)))
				return func() (sim.Job, bool) {
					j := sim.Job{At: at, Work: work, Due: every}
					at += every
					return j, true
				}
			}}, 2.4)})
	}
	return out
}

// WebP99 is the bound that web's users state.
const WebP99 = 50 * ms

func web(cores float64, span time.Duration, _ *rand.Rand) (out []Container) {
	for i := range copies(cores, 2) {
		const threads = 4
		out = append(out, Container{P99: WebP99, Workload: sim.Workload{Cgroup: fmt.Sprintf("powerd/latency-web-%d", i), Threads: threads,
			Jobs: func(rng *rand.Rand) func() (sim.Job, bool) {
				// A thread is busy a third of the time at noon, a twentieth at night; now
				// and then a second brings twice as much.
				at, burst, until := time.Duration(0), false, time.Duration(0)
				return func() (sim.Job, bool) {
					day := 0.5 - 0.5*math.Cos(2*math.Pi*at.Seconds()/span.Seconds())
					rate := (0.05 + 0.28*day) / (4 * ms).Seconds()
					if at >= until {
						burst = rng.Float64() < 0.1
						until = at + time.Second
					}
					if burst {
						rate *= 2
					}
					at += time.Duration(rng.ExpFloat64() / rate * 1e9)
					work := 2*ms + time.Duration(rng.ExpFloat64()*float64(2*ms))
					return sim.Job{At: at, Work: work}, true
				}
			}}})
	}
	return out
}

func mixed(cores float64, _ time.Duration, _ *rand.Rand) (out []Container) {
	for i := range copies(cores, 1) {
		add := func(w sim.Workload, p99 time.Duration) {
			if i > 0 {
				w.Cgroup += fmt.Sprint("-", i)
			}
			out = append(out, Container{Workload: w, P99: p99})
		}
		// Requests that arrive at random, answered in 4 ms each.
		add(sim.Workload{Cgroup: "powerd/latency-web", Period: 25 * ms, Work: 4 * ms, Poisson: true, Threads: 2}, WebP99)
		// Frames and audio, due when the next are.
		add(slow(sim.Workload{Cgroup: "powerd/video", Period: 33 * ms, Work: 9 * ms}, 3), 0)
		add(slow(sim.Workload{Cgroup: "powerd/audio", Period: 6 * ms, Work: 600 * us}, 3), 0)
		// Builds and backups: seconds of work now and then, much of it waiting for memory.
		add(sim.Workload{Cgroup: "powerd/batch-build", Period: 20 * time.Second, Work: 3500 * ms, Threads: 2}, 0)
		add(sim.Workload{Cgroup: "powerd/batch-backup", Period: 10 * time.Second, Work: 1200 * ms, CPUBound: 0.5}, 0)
	}
	return out
}

func churn(cores float64, span time.Duration, rng *rand.Rand) (out []Container) {
	n := copies(cores, 40*span.Minutes())
	for i := range n {
		from := time.Duration(rng.Int64N(int64(span)))
		c := Container{From: from.Truncate(time.Second), Until: min(span, from+time.Duration(3+rng.IntN(18))*time.Second)}
		switch i % 4 {
		case 0:
			c.Workload = sim.Workload{Cgroup: fmt.Sprintf("powerd/latency-%d", i), Period: 30 * ms, Work: 3 * ms, Poisson: true}
			c.P99 = WebP99
		case 1:
			c.Workload = slow(sim.Workload{Cgroup: fmt.Sprintf("powerd/frames-%d", i), Period: 20 * ms, Work: 4 * ms}, 3)
		default:
			c.Workload = sim.Workload{Cgroup: fmt.Sprintf("powerd/batch-%d", i), Period: 2 * time.Second, Work: time.Duration(200+rng.IntN(400)) * ms}
		}
		out = append(out, c)
	}
	return out
}

// trace draws utilisations whose mean and bursts resemble those published of PlanetLab's
// virtual machines: mostly a few percent, sometimes most of a core.
func trace(cores float64, span time.Duration, rng *rand.Rand) []Container {
	var points []Point
	for i := range copies(cores, 8) {
		level := 0.0
		for at := time.Duration(0); at < span; at += time.Second {
			switch {
			case at == 0 || rng.Float64() < 0.1:
				level = 0.02 + 0.08*rng.ExpFloat64()
				if rng.Float64() < 0.08 {
					level = 0.3 + 0.5*rng.Float64()
				}
			}
			points = append(points, Point{At: at, Container: fmt.Sprintf("vm-%d", i), Share: min(0.9, level*(0.8+0.4*rng.Float64()))})
		}
	}
	return Trace(points, span)
}

func jobs(cores float64, span time.Duration, rng *rand.Rand) []Container {
	var list []sim.Job
	for range copies(cores, 60*span.Minutes()) {
		work := time.Duration(100+rng.IntN(1900)) * ms
		due := time.Duration(float64(work) * (1.5 + 4.5*rng.Float64()))
		list = append(list, sim.Job{At: time.Duration(rng.Int64N(max(1, int64(span-due)))), Work: work, Due: due})
	}
	return Jobs(list)
}

// Jobs makes a load of single jobs, a thread for each, in one container.
func Jobs(list []sim.Job) []Container {
	slices.SortStableFunc(list, func(a, b sim.Job) int { return int(a.At - b.At) })
	var out []Container
	for i, j := range list {
		// Its container is there from the second before, and killed in the one after.
		from := j.At.Truncate(time.Second)
		until := (j.At + j.Due).Truncate(time.Second) + time.Second
		j.At -= from
		w := sim.Workload{Cgroup: fmt.Sprintf("powerd/job-%d", i), Jobs: once(j)}
		w = bounded(w, j)
		out = append(out, Container{Workload: w, From: from, Until: until})
	}
	return out
}

// bounded states on a container's cgroup what its jobs' deadlines bear, less a fifth for
// others; in few steps, for as many classes of work would there be.
func bounded(w sim.Workload, jobs ...sim.Job) sim.Workload {
	least := math.Inf(1)
	for _, j := range jobs {
		if j.Due > 0 && j.Work > 0 {
			least = min(least, float64(j.Due)/float64(j.Work))
		}
	}
	if math.IsInf(least, 1) {
		return w
	}
	for _, times := range []float64{4, 3, 2, 1.5, 1.2} {
		if least >= 1.25*times {
			return slow(w, times)
		}
	}
	return w
}

func once(j sim.Job) func(*rand.Rand) func() (sim.Job, bool) {
	return func(*rand.Rand) func() (sim.Job, bool) {
		given := false
		return func() (sim.Job, bool) {
			ok := !given
			given = true
			return j, ok
		}
	}
}

// repeat plays a pattern of jobs again and again.
func repeat(pattern []sim.Job, length time.Duration) func(*rand.Rand) func() (sim.Job, bool) {
	return func(rng *rand.Rand) func() (sim.Job, bool) {
		begin, i := time.Duration(rng.Int64N(int64(length))), 0
		return func() (sim.Job, bool) {
			j := pattern[i]
			j.At += begin
			if i++; i == len(pattern) {
				begin, i = begin+length, 0
			}
			return j, true
		}
	}
}
