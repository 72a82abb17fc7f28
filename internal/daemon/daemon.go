package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/placement"
)

// Options are what a daemon is made from.
type Options struct {
	// FS is the machine, and Label its name for people ("host", "sim", a folder).
	FS    sysfs.FS
	Label string
	// Journal takes every write. Nil is a dry run, in which writes are kept to
	// an overlay.
	Journal *sysfs.Journal
	Config  configs.Config
	// Platform prices the cores where firmware does not; nil without one.
	Platform *energy.Platform
	// Calibrated are what powerd calibrate has measured; they go before Platform where
	// they are of this machine.
	Calibrated []energy.Platform
	// Counters count the containers' cycles and instructions; nil does not, and all work is
	// taken to be bound by the clock.
	Counters counters.Source
}

// A Daemon governs one machine. Its methods but Snapshot are for one goroutine.
type Daemon struct {
	label    string
	fs       sysfs.FS
	journal  *sysfs.Journal
	dry      *sysfs.Overlay
	config   configs.Config
	globs    []containers.Glob
	platform *energy.Platform
	measured []energy.Platform
	observer *observer
	counting *counting
	probing  *probing

	ticks        int
	rediscovered bool
	mount        string
	last         *Seen
	model        model
	ledger       energy.Ledger
	lastInput    placement.Input
	lastPlan     *placement.Plan
	between      bool // it is not the time of a tick
	// held are the files that powerd does not write for now, by name.
	held      map[string]*hold
	suspects  []string
	resident  int
	counters  Counters
	published atomic.Pointer[Snapshot]
	// newcomers are requests to place what has just come.
	newcomers chan chan struct{}
}

// Counters count what a daemon did since it started.
type Counters struct {
	Writes   int `json:"writes"`
	Failures int `json:"write_failures"`
	Drift    int `json:"drift"`
	Decided  int `json:"decisions"`
}

// New returns a daemon. Nothing is read or written before the first Tick.
func New(o Options) *Daemon {
	d := &Daemon{label: o.Label, fs: o.FS, journal: o.Journal, config: o.Config, globs: o.Config.Globs(), platform: o.Platform, measured: o.Calibrated,
		held: map[string]*hold{}, newcomers: make(chan chan struct{})}
	if d.journal == nil {
		d.dry = sysfs.NewOverlay(o.FS)
		d.fs = d.dry
	} else {
		teach(d.journal)
	}
	d.observer = newObserver(d.fs)
	d.counting, d.probing = newCounting(o.Counters), newProbing()
	return d
}

// Snapshot returns what the last tick published; nil before the first. It may be
// called from any goroutine, and reading it has no effect on anything.
func (d *Daemon) Snapshot() *Snapshot { return d.published.Load() }

// Run looks at the machine for one interval, for nobody should be moved before
// what they need is known, and then ticks until the context ends. Each tick's
// snapshot goes to published.
func (d *Daemon) Run(ctx context.Context, published func(*Snapshot)) {
	ticker := time.NewTicker(d.config.Interval)
	defer ticker.Stop()
	d.begin(time.Now)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			published(d.Tick(now))
		case done := <-d.newcomers:
			d.PlaceNow(time.Now())
			close(done)
		}
	}
}

// Place lets Run decide at once, for a cgroup has come that is to be placed before its
// first process runs. It may be called from any goroutine.
func (d *Daemon) Place(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case d.newcomers <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close puts every file back and lets go of the machine. It returns what became
// of each file; an error if one could not be restored.
func (d *Daemon) Close() ([]sysfs.Restored, error) {
	d.observer.close()
	d.counting.close()
	if d.journal == nil {
		return nil, nil
	}
	return Restore(d.journal, d.config.Reclaim)
}

// teach tells a journal what it cannot know of files: which limits must not cross,
// and how a cpuset is cleared.
func teach(j *sysfs.Journal) { j.Guard, j.Mend = cpufreq.Crosses, containers.ClearCPUs }

// Restore puts back what a journal holds. The error joins every failure.
func Restore(j *sysfs.Journal, reclaim bool) ([]sysfs.Restored, error) {
	teach(j)
	outcomes, err := j.Restore(reclaim)
	errs := []error{err}
	for _, o := range outcomes {
		if o.Outcome == sysfs.OutcomeFailed {
			errs = append(errs, fmt.Errorf("cannot restore %s: %s", o.File, o.Detail))
		}
	}
	return outcomes, errors.Join(errs...)
}

// decide asks placement, unless nothing it goes by has changed.
func (d *Daemon) decide(in placement.Input) *placement.Plan {
	if d.lastPlan != nil && sameInput(d.lastInput, in) {
		return d.lastPlan
	}
	plan := placement.Decide(in)
	d.lastInput, d.lastPlan = in, &plan
	d.counters.Decided++
	return d.lastPlan
}

// cpuTime is the processor time this process has used.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is this process' memory in bytes; 0 where /proc is not mounted.
func resident() int {
	self, err := procfs.Self()
	if err != nil {
		return 0
	}
	stat, err := self.Stat()
	if err != nil {
		return 0
	}
	return stat.ResidentMemory()
}

// Look reads the machine once without deciding, so that the next Tick knows the
// load in between.
func (d *Daemon) Look(now time.Time) {
	seen := d.observe(now)
	d.model = d.model.learn(d.last, seen)
	d.last = seen
}

// begin looks until a look is quick beside the interval, or has been tried three times. The
// first finds out all about the machine, and what it reads last is long after its time:
// load and energy until the next one would not be of the same time.
func (d *Daemon) begin(clock func() time.Time) {
	for range 3 {
		began := clock()
		if d.Look(began); clock().Sub(began) < d.config.Interval/10 {
			return
		}
	}
}
