package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// Steady work on every core, a share of its time at its fastest every 20 ms, against the
// lower convex hull: which mixes two operating points, or one with sleep, changing at once
// and for nothing. What the critical clock carries with the headroom costs as little as at
// the best single operating point; above it the band's governor is no dearer than alone. See
// docs/benchmarks.md for what a mixture would save.
func TestBandsAgainstHull(t *testing.T) {
	config := standard(t)
	for _, platform := range []string{"rk3399-a53", "rk3399-a72", "exynos5422-a15", "hi3660-a73"} {
		m, err := Open(platform, 0)
		if err != nil {
			t.Fatal(err)
		}
		opps := m.Platform.Curve.OPPs
		critical := opps[m.Platform.Curve.Critical(sleep(m), 1, 1)].Speed
		below, above := 0, 0
		for need := 0.1; need < 0.85; need += 0.1 {
			c := Case{Machine: m, Seed: 1, Span: 23 * time.Second, Warm: 8 * time.Second}
			for i := range int(m.Cores()) {
				w := sim.Workload{Cgroup: fmt.Sprintf("powerd/steady-%d", i), Period: 20 * time.Millisecond, Work: time.Duration(need * 20e6)}
				w.Attributes = map[string]string{"trusted.powerd.slowdown": "3"}
				c.Load.Containers = append(c.Load.Containers, loads.Container{Workload: w})
			}
			hull, err := c.Limit()
			if err != nil {
				t.Fatal(err)
			}
			over := map[string]float64{}
			for _, policy := range []string{Powerd, "schedutil", Oracle} {
				r, err := Run(t.Context(), c, policy, config)
				if policy == Oracle {
					r, err = c.oracle(t.Context(), config)
				}
				if err != nil {
					t.Fatal(err)
				}
				if r.Missed > 0 {
					t.Errorf("%s, %.1f of a core: %s misses %d deadlines", platform, need, policy, r.Missed)
				}
				over[policy] = float64(r.Energy) / 1e6 / hull
			}
			t.Logf("%s, %.1f of a core: over the hull %.3f, schedutil %.3f, best operating point %.3f", platform, need, over[Powerd], over["schedutil"], over[Oracle])
			if over[Powerd] < 1 || over[Powerd] > over["schedutil"]*1.002 {
				t.Errorf("%s, %.1f of a core: %.3f times the hull, schedutil %.3f", platform, need, over[Powerd], over["schedutil"])
			}
			// The governor wants a quarter more than it is asked for, by an average that
			// flickers.
			if 1.4*need < critical {
				below++
				if over[Powerd] > over[Oracle]*1.015 {
					t.Errorf("%s, %.1f of a core, below the critical speed of %.2f: %.3f times the hull, the best operating point %.3f", platform, need, critical, over[Powerd], over[Oracle])
				}
			} else {
				above++
			}
		}
		if below == 0 || above == 0 {
			t.Errorf("%s: %d needs below the critical speed, %d above", platform, below, above)
		}
	}
}

// sleep is the power of a machine's core in its deepest state.
func sleep(m Machine) units.Power {
	p := m.Platform.Curve.OPPs[0].Static
	for _, s := range m.Platform.Idle {
		p = min(p, s.Power)
	}
	return p
}
