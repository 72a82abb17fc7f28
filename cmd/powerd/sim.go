//go:build !powerd_oci

package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/loads"
)

// simSpan is how long a simulation runs unless told.
const simSpan = 60 * time.Second

// simShared is the power around its clusters, as a share of their cores' power.
const simShared = 0.1

// newcomerPlatform is what `--machine sim` simulates.
const newcomerPlatform = "rk3399-a72"

// simulated tells whether the machine is a simulated one, and of which platform.
func (f *machineFlags) simulated() (platform string, ok bool) {
	if f.machine == "sim" {
		return newcomerPlatform, true
	}
	return strings.CutPrefix(f.machine, "sim:")
}

// openSim makes the case that a simulated machine stands for, and its policy.
func (f *machineFlags) openSim(platform string, span time.Duration) (bench.Case, configs.Config, error) {
	// What governs this host has no part in a simulation.
	config, err := configs.Load(f.config, "")
	if err != nil {
		return bench.Case{}, config, err
	}
	m, err := bench.Open(platform, simShared)
	if err != nil {
		return bench.Case{}, config, err
	}
	load, err := loads.Named("mixed", m.Cores(), span, f.seed)
	return bench.Case{Machine: m, Load: load, Seed: f.seed, Span: span}, config, err
}

// governSim runs the daemon on a simulated machine, and then the same work under
// the kernel's governors alone.
func governSim(ctx context.Context, u *ui, c bench.Case, config configs.Config, dryRun bool) error {
	began := time.Now()
	last := (*daemon.Snapshot)(nil)
	each := func(s *daemon.Snapshot) {
		if s.Tick == 1 {
			u.first(s)
		}
		u.tick(s)
		last = s
	}
	own, restored, err := bench.Daemon(ctx, c, config, dryRun, each)
	u.restored(restored)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return errors.New("cannot compare: the run was interrupted")
	}
	results := []bench.Result{own}
	for _, g := range bench.Governors {
		r, err := bench.Run(ctx, c, g, config)
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	u.status(last)
	u.compared(results, c)
	u.notef("simulated %v of this machine %d times in %v", c.Span, len(results), time.Since(began).Round(10*time.Millisecond))
	return nil
}

// planSim looks at a simulated machine for a while and shows what it would do.
func planSim(ctx context.Context, c bench.Case, config configs.Config, watch time.Duration) (*daemon.Snapshot, error) {
	c.Span = watch
	config.Interval = watch
	var snap *daemon.Snapshot
	_, _, err := bench.Daemon(ctx, c, config, true, func(s *daemon.Snapshot) { snap = s })
	return snap, err
}
