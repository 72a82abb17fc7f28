// Package worker keeps cpus busy on purpose, by threads that are each pinned to one: with
// computing alone, or with waiting for memory. It counts the work done, so that speeds
// can be told.
package worker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/internal/cpuset"
)

// A Crew is the threads of one process. It is for one goroutine.
type Crew struct {
	// memory is how large the buffer is that memory-bound threads walk.
	memory int
	walk   []uint32
	stop   atomic.Bool
	done   sync.WaitGroup
	counts []*count
	// allowed is where this process might run when the crew was made.
	allowed unix.CPUSet
}

// count is a thread's own cache line, so that counting costs nobody else.
type count struct {
	work atomic.Uint64
	tid  int
	_    [112]byte
}

// New returns a crew whose memory-bound threads walk a buffer of so many bytes, which
// should be several times the last-level cache.
func New(memory int) *Crew {
	// Threads that compute must not keep the one that reads meters from running.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), runtime.NumCPU()+4))
	c := &Crew{memory: memory}
	if err := unix.SchedGetaffinity(0, &c.allowed); err != nil {
		c.allowed.Fill()
	}
	return c
}

// Start puts a thread on each cpu; it computes or, with memory, chases pointers. What ran
// before is stopped. The process' other threads stay on the first of the cpus until Stop,
// so that reading a meter wakes no other. It returns when every thread is on its cpu; the
// error is of sched_setaffinity(2), and then none runs.
func (c *Crew) Start(cpus cpuset.Set, memory bool) error {
	c.Stop()
	if memory && c.walk == nil {
		c.walk = cycle(c.memory)
	}
	c.stop.Store(false)
	c.counts = nil
	pinned := make(chan error, cpus.Len())
	at := uint32(0)
	for cpu := range cpus.All() {
		n := &count{}
		c.counts = append(c.counts, n)
		work := func() { spin(n, &c.stop) }
		if memory {
			// Each begins elsewhere in the same circle.
			from := at
			at = c.walk[at]
			work = func() { chase(n, &c.stop, c.walk, from) }
		}
		c.done.Go(func() {
			runtime.LockOSThread() // for ever: the thread ends with the goroutine, and its affinity
			n.tid = unix.Gettid()
			err := pin(cpu)
			pinned <- err
			if err == nil {
				work()
			}
		})
	}
	var failed error
	for range cpus.Len() {
		if err := <-pinned; err != nil {
			failed = err
		}
	}
	if failed != nil {
		c.Stop()
		return failed
	}
	if !cpus.Empty() {
		var one unix.CPUSet
		one.Set(int(cpus.Min()))
		c.stay(&one)
	}
	return nil
}

// stay keeps all threads of this process but the workers on some cpus. A thread that ends
// meanwhile, or is new, does not matter.
func (c *Crew) stay(on *unix.CPUSet) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // without /proc the threads stay where they are
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err == nil && !slices.ContainsFunc(c.counts, func(n *count) bool { return n.tid == tid }) {
			unix.SchedSetaffinity(tid, on) //nolint:errcheck // as above
		}
	}
}

// Work is what all threads have done since Start, in steps of their own kind, and how long
// they ran for it, together: others may have had their cpus for some of the time.
func (c *Crew) Work() (steps float64, ran time.Duration) {
	for _, n := range c.counts {
		steps += float64(n.work.Load())
		// A thread's own clock is CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED, see
		// include/linux/posix-timers_types.h.
		var ts unix.Timespec
		if err := unix.ClockGettime(int32(^n.tid<<3|6), &ts); err == nil {
			ran += time.Duration(ts.Nano())
		}
	}
	return steps, ran
}

// Stop ends all threads and waits for them.
func (c *Crew) Stop() {
	c.stop.Store(true)
	c.done.Wait()
	c.stay(&c.allowed)
}

// Kick runs for a moment on each cpu, which ends what it slept in.
func (c *Crew) Kick(cpus cpuset.Set) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		for cpu := range cpus.All() {
			if err := pin(cpu); err != nil {
				result <- err
				return
			}
		}
		result <- nil
	}()
	return <-result
}

// pin moves this thread to a cpu.
func pin(cpu cpuset.CPU) error {
	var set unix.CPUSet
	set.Set(int(cpu))
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("cannot run on cpu %d: %w", cpu, err)
	}
	return nil
}

// A step is some microseconds of work: long beside counting it, short beside a window.
const (
	spinStep  = 1 << 12
	chaseStep = 1 << 8
)

var sink atomic.Uint64 // what is computed for nobody would not be computed

// spin computes until it is stopped.
func spin(n *count, stop *atomic.Bool) {
	for !stop.Load() {
		compute(1)
		n.work.Add(1)
	}
}

// compute does some steps: four chains that do not wait for one another keep the
// multiplier busy.
func compute(steps int) {
	a, b, c, d := uint64(1), uint64(2), uint64(3), uint64(4)
	for range steps * spinStep {
		a = a*6364136223846793005 + 1442695040888963407
		b = b*2862933555777941757 + 3037000493
		c = c*3202034522624059733 + 4354685564936845319
		d = d*3935559000370003845 + 2691343689449507681
	}
	sink.Add(a ^ b ^ c ^ d)
}

// chase follows a circle through memory until it is stopped.
func chase(n *count, stop *atomic.Bool, walk []uint32, at uint32) {
	for !stop.Load() {
		at = follow(walk, at, 1)
		n.work.Add(1)
	}
}

// follow does some steps, each load waiting for the one before, and returns where it is.
func follow(walk []uint32, at uint32, steps int) uint32 {
	for range steps * chaseStep {
		at = walk[at]
	}
	return at
}

// line is how many indexes a cache line holds.
const line = 64 / 4

// cycle returns a buffer of so many bytes whose lines, by the index in the first word of
// each, form one circle in random order, which no prefetcher foresees (Sattolo's
// algorithm).
func cycle(bytes int) []uint32 {
	lines := max(bytes/64, 2)
	order := make([]uint32, lines)
	for i := range order {
		order[i] = uint32(i)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := lines - 1; i > 0; i-- {
		j := r.IntN(i)
		order[i], order[j] = order[j], order[i]
	}
	walk := make([]uint32, lines*line)
	for i, next := range order {
		walk[i*line] = next * line
	}
	return walk
}
