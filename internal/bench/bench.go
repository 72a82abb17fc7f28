// Package bench runs the same work on the same machine under different policies
// and tells what each cost and what came of the work. On a simulated machine the
// joules are modelled, never measured.
package bench

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// A Case is a simulated machine with its work.
type Case struct {
	Machine sim.Config
	// Platform prices the machine's cores for the daemon; nil leaves it to what
	// the simulated firmware says.
	Platform *energy.Platform
	Span     time.Duration
}

// A Result is what a policy came to.
type Result struct {
	Policy string
	Span   time.Duration
	// Energy is the machine's, modelled; Base of it idle and shared power.
	Energy, Base units.Energy
	Groups       map[string]units.Energy // by cgroup
	Jobs         map[string]sim.Jobs
	// Work is what was done, in seconds on the fastest core at its fastest.
	Work float64
}

// Power is the mean over the run.
func (r Result) Power() units.Power {
	return units.Power(float64(r.Energy) / r.Span.Seconds())
}

// Missed returns how many jobs ended, of how many, after their deadline.
func (r Result) Missed() (missed, done int) {
	for _, j := range r.Jobs {
		missed += j.Missed
		done += j.Done
	}
	return missed, done
}

// P99 is the worst 99th percentile of the response times of a case's requests:
// what arrives at random, for somebody waits for it.
func (r Result) P99(c Case) time.Duration {
	var worst time.Duration
	for _, w := range c.Machine.Workloads {
		if w.Poisson {
			worst = max(worst, r.Jobs[w.Cgroup].P99)
		}
	}
	return worst
}

func result(policy string, m *sim.Machine) Result {
	total, base, groups := m.Energy()
	r := Result{Policy: policy, Span: m.Elapsed(), Energy: units.Energy(total / 1000), Base: units.Energy(base / 1000),
		Groups: map[string]units.Energy{}, Jobs: m.Jobs()}
	for id, nj := range groups {
		r.Groups[id] = units.Energy(nj / 1000)
	}
	for _, w := range m.Work() {
		r.Work += w
	}
	return r
}

// Governor runs a case under one of the kernel's governors alone.
func Governor(c Case, governor string) (Result, error) {
	c.Machine.Governor = governor
	m, err := sim.New(c.Machine)
	if err != nil {
		return Result{}, err
	}
	m.Advance(c.Span)
	return result(governor, m), nil
}

// Daemon runs a case under powerd: the daemon that runs on real machines, with its
// journal in a folder of its own, over the simulated files. Each gets what every
// tick published. After the last tick every file is put back; restored tells what
// became of each.
//
// A context that ends stops the run early, and restores.
func Daemon(ctx context.Context, c Case, config configs.Config, dryRun bool, each func(*daemon.Snapshot)) (r Result, restored []sysfs.Restored, err error) {
	m, err := sim.New(c.Machine)
	if err != nil {
		return Result{}, nil, err
	}
	o := daemon.Options{FS: m, Label: c.Machine.Spec.Name, Config: config, Platform: c.Platform}
	if !dryRun {
		dir, err := os.MkdirTemp("", "powerd-sim-")
		if err != nil {
			return Result{}, nil, fmt.Errorf("cannot make a folder for the journal: %v", err)
		}
		defer os.RemoveAll(dir)
		if o.Journal, err = sysfs.OpenJournal(dir, m, "/", "sim"); err != nil {
			return Result{}, nil, err
		}
		defer o.Journal.Close()
	}
	d := daemon.New(o)
	d.Look(m.Now())
	for m.Elapsed() < c.Span && ctx.Err() == nil {
		m.Advance(min(config.Interval, c.Span-m.Elapsed()))
		each(d.Tick(m.Now()))
	}
	r = result("powerd", m)
	restored, err = d.Close()
	return r, restored, err
}
