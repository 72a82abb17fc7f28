package bench

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
)

// On every platform and seed powerd does the newcomer's work for hardly more energy
// than the best of the kernel's governors (more only where that is performance,
// because the maximum is the critical frequency), and of 500 deadlines it misses at
// most one.
func TestNewcomer(t *testing.T) {
	config, err := configs.Parse()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range configs.PlatformNames() {
		for seed := range uint64(3) {
			p, err := configs.LoadPlatform(name)
			if err != nil {
				t.Fatal(err)
			}
			c := Newcomer(p, time.Minute, seed+1)
			var last *daemon.Snapshot
			own, restored, err := Daemon(t.Context(), c, config, false, func(s *daemon.Snapshot) { last = s })
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range restored {
				if r.Outcome != sysfs.OutcomeRestored {
					t.Errorf("%s: %+v", name, r)
				}
			}
			if missed, done := own.Missed(); missed > done/500 {
				t.Errorf("%s, seed %d: %d of %d deadlines are missed", name, seed+1, missed, done)
			}
			// What it measured is what the machine used; it looked a little later.
			if charged := float64(last.Energy.MeasuredUJ); math.Abs(charged-float64(own.Energy)) > 0.01*float64(own.Energy) {
				t.Errorf("%s: charged %v of %v", name, last.Energy.MeasuredUJ, own.Energy)
			}
			for _, g := range []string{"performance", "schedutil", "ondemand"} {
				r, err := Governor(c, g)
				if err != nil {
					t.Fatal(err)
				}
				if math.Abs(r.Work-own.Work) > 0.02*r.Work {
					t.Errorf("%s, seed %d: %s did %.1f s of work, powerd %.1f s", name, seed+1, g, r.Work, own.Work)
				}
				if ratio := float64(own.Energy) / float64(r.Energy); ratio > 1.05 {
					t.Errorf("%s, seed %d: powerd used %.3f times the energy of %s", name, seed+1, ratio, g)
				}
			}
		}
	}
}

// The same case has the same result, whoever runs it, and a dry run the result of
// the governor it left alone.
func TestRepeats(t *testing.T) {
	config, err := configs.Parse()
	if err != nil {
		t.Fatal(err)
	}
	p, err := configs.LoadPlatform("rk3399-a72")
	if err != nil {
		t.Fatal(err)
	}
	run := func(dry bool) Result {
		r, _, err := Daemon(t.Context(), Newcomer(p, 20*time.Second, 7), config, dry, func(*daemon.Snapshot) {})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if diff := cmp.Diff(run(false), run(false)); diff != "" {
		t.Errorf("two runs differ: %s", diff)
	}
	alone, err := Governor(Newcomer(p, 20*time.Second, 7), "schedutil")
	if err != nil {
		t.Fatal(err)
	}
	dry := run(true)
	dry.Policy = alone.Policy
	// Looking at a machine in steps rounds its energy differently, by nanojoules.
	if d := dry.Energy - alone.Energy; d < -100 || d > 100 {
		t.Errorf("a dry run used %v, schedutil alone %v", dry.Energy, alone.Energy)
	}
	if _, err := Governor(Case{Machine: sim.Config{}}, "schedutil"); err == nil {
		t.Error("a machine without cores is simulated")
	}
}
