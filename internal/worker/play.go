package worker

import (
	"context"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A Play is what the threads of one container do.
type Play struct {
	// Threads have their jobs in the order of their releases, and do them one by one.
	Threads [][]Job `json:"threads"`
	Speed   Speed   `json:"speed"`
	// CPUBound is the share of the work's time at the fastest clock that is computing; the
	// rest waits for memory.
	CPUBound float64 `json:"cpu_bound"`
	Memory   int     `json:"memory"` // bytes to walk through
}

// A Job is released At after the play begins, takes Work at the fastest clock, and is to be
// done Due after its release; 0 is no deadline.
type Job struct {
	At   time.Duration `json:"at"`
	Work time.Duration `json:"work"`
	Due  time.Duration `json:"due"`
}

// A Speed is how many steps of each kind a cpu does in a millisecond.
type Speed struct {
	Spins  float64 `json:"spins"`
	Chases float64 `json:"chases"`
}

// Played is what became of a play.
type Played struct {
	Done, Missed, Due int
	Latencies         []time.Duration // of the jobs done, in ascending order
	Work              time.Duration   // of them
}

// Measure returns the speed of the cpu that it runs on, at its clock of now: the best of
// some tries, for others may run beside. A try is long beside the period of a quota (of a
// virtual machine, say), in whose first part a cpu is faster than it is. Memory is as in a
// Play.
func Measure(memory int) Speed {
	walk := cycle(memory)
	best := func(work func()) (most float64) {
		const tries, window = 4, 100 * time.Millisecond
		for range tries {
			began, n := time.Now(), 0
			for ; time.Since(began) < window; n++ {
				work()
			}
			most = max(most, float64(n)*float64(time.Millisecond)/float64(time.Since(began)))
		}
		return most
	}
	const spins, chases = 50, 100
	return Speed{spins * best(func() { compute(spins) }), chases * best(func() { sink.Add(uint64(follow(walk, 0, chases))) })}
}

// Run plays until the last job is done or the context ends.
func (p Play) Run(ctx context.Context) Played {
	var walk []uint32
	if p.CPUBound < 1 {
		walk = cycle(p.Memory)
	}
	var out Played
	var all sync.Mutex
	var done sync.WaitGroup
	begin := time.Now()
	for _, jobs := range p.Threads {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var own Played
			defer func() {
				all.Lock()
				defer all.Unlock()
				out.Done, out.Missed, out.Due, out.Work = out.Done+own.Done, out.Missed+own.Missed, out.Due+own.Due, out.Work+own.Work
				out.Latencies = append(out.Latencies, own.Latencies...)
			}()
			at := uint32(0)
			for i, j := range jobs {
				select {
				case <-time.After(time.Until(begin.Add(j.At))):
				case <-ctx.Done():
				}
				if ctx.Err() != nil { // late are those that are due by now
					for _, left := range jobs[i:] {
						if left.Due > 0 && time.Since(begin) > left.At+left.Due {
							own.Due, own.Missed = own.Due+1, own.Missed+1
						}
					}
					return
				}
				at = p.job(j.Work, walk, at)
				took := time.Since(begin) - j.At
				own.Done++
				own.Work += j.Work
				own.Latencies = append(own.Latencies, took)
				if j.Due > 0 {
					own.Due++
					if took > j.Due {
						own.Missed++
					}
				}
			}
		})
	}
	done.Wait()
	slices.Sort(out.Latencies)
	return out
}

// job does work by turns of a millisecond, part computing, part waiting.
func (p Play) job(work time.Duration, walk []uint32, at uint32) uint32 {
	for left := work; left > 0; left -= time.Millisecond {
		ms := min(1, float64(left)/float64(time.Millisecond))
		compute(int(math.Round(ms * p.CPUBound * p.Speed.Spins)))
		if p.CPUBound < 1 {
			at = follow(walk, at, int(math.Round(ms*(1-p.CPUBound)*p.Speed.Chases)))
		}
	}
	return at
}
