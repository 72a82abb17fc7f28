package bench

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/sysfs"
)

func standard(t testing.TB) configs.Config {
	t.Helper()
	config, err := configs.Parse()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func newCase(t testing.TB, platform, load string, shared float64, span time.Duration, seed uint64) Case {
	t.Helper()
	m, err := Open(platform, shared)
	if err != nil {
		t.Fatal(err)
	}
	l, err := loads.Named(load, m.Cores(), span, seed)
	if err != nil {
		t.Fatal(err)
	}
	return Case{Machine: m, Load: l, Seed: seed, Span: span}
}

// What the daemon charges is what the machine used, and every file is as it was.
func TestDaemonChargesAll(t *testing.T) {
	for _, load := range loads.Names() {
		c := newCase(t, "hi3660-a73", load, 0.1, 20*time.Second, 1)
		var last *daemon.Snapshot
		own, restored, err := Daemon(t.Context(), c, standard(t), false, func(s *daemon.Snapshot) { last = s })
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range restored {
			if r.Outcome != sysfs.OutcomeRestored && r.Outcome != sysfs.OutcomeVanished {
				t.Errorf("%s: %+v", load, r)
			}
		}
		// It looked a little later.
		if charged := float64(last.Energy.MeasuredUJ); math.Abs(charged-float64(own.Energy)) > 0.01*float64(own.Energy) {
			t.Errorf("%s: charged %v of %v", load, last.Energy.MeasuredUJ, own.Energy)
		}
	}
}

// The same case has the same result, whoever runs it and on however many processors, and a
// dry run the result of the governor it left alone.
func TestRepeats(t *testing.T) {
	config := standard(t)
	cases := []Case{newCase(t, "rk3399-a72", "mixed", 0, 20*time.Second, 7), newCase(t, "rk3399-a72", "churn", 0.3, 20*time.Second, 7)}
	var rows [2][]Row
	for i := range rows {
		var err error
		if rows[i], err = Compare(t.Context(), cases, []string{Powerd, "ondemand", Oracle}, config, func(Row) {}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(rows[0], rows[1]); diff != "" {
		t.Errorf("two runs differ: %s", diff)
	}
	alone, err := Run(t.Context(), cases[0], "schedutil", config)
	if err != nil {
		t.Fatal(err)
	}
	dry, _, err := Daemon(t.Context(), cases[0], config, true, func(*daemon.Snapshot) {})
	if err != nil {
		t.Fatal(err)
	}
	if dry.Energy != alone.Energy {
		t.Errorf("a dry run used %v, schedutil alone %v", dry.Energy, alone.Energy)
	}
	if _, err := Run(t.Context(), cases[0], "nonesuch", config); err == nil {
		t.Error("a governor that there is not is run")
	}
	if _, err := Run(t.Context(), cases[0], "oppx", config); err == nil {
		t.Error("an operating point that there is not is run")
	}
}

// No policy that does the work in time uses less than the limit; every clock pinned to an
// operating point is a policy, too.
func TestNothingBelowLimit(t *testing.T) {
	config := standard(t)
	for _, platform := range MachineNames() {
		for _, load := range loads.Names() {
			for i, shared := range []float64{0, 0.3} {
				c := newCase(t, platform, load, shared, 10*time.Second, uint64(i))
				least, err := c.Limit()
				if err != nil || least <= 0 {
					t.Fatalf("%s, %s: limit %v, %v", c.Machine.Name, load, least, err)
				}
				policies := []string{"performance", "schedutil"}
				for opp := range c.Machine.Platform.Curve.OPPs {
					policies = append(policies, Static(opp))
				}
				for _, policy := range policies {
					r, err := Run(t.Context(), c, policy, config)
					if err != nil {
						t.Fatal(err)
					}
					if r.Missed == 0 && r.Within && float64(r.Energy)/1e6 < least {
						t.Errorf("%s, %s: %s used %v, below the limit of %.3f J", c.Machine.Name, load, policy, r.Energy, least)
					}
				}
			}
		}
	}
}

func TestVerdict(t *testing.T) {
	row := func(own Result, rivals ...Result) Row {
		own.Policy = Powerd
		r := Row{Results: []Result{own}}
		for i, o := range rivals {
			o.Policy = Rivals[i]
			r.Results = append(r.Results, o)
		}
		return r
	}
	for name, tt := range map[string]struct {
		row   Row
		kept  bool
		rival string
	}{
		"cheaper":                        {row(Result{Energy: 90, Within: true}, Result{Energy: 100, Within: true}, Result{Energy: 110, Within: true}), true, "performance"},
		"dearer":                         {row(Result{Energy: 101, Within: true}, Result{Energy: 120, Within: true}, Result{Energy: 100, Within: true}), false, "schedutil"},
		"a rival that is late":           {row(Result{Energy: 101, Within: true}, Result{Energy: 120, Within: true}, Result{Energy: 100}), true, "performance"},
		"a rival that misses":            {row(Result{Energy: 101, Within: true, Due: 100}, Result{Energy: 50, Within: true, Due: 100, Missed: 1}), true, ""},
		"misses more":                    {row(Result{Energy: 50, Within: true, Due: 100, Missed: 1}, Result{Energy: 100, Within: true, Due: 100}), false, "performance"},
		"late, and nobody else":          {row(Result{Energy: 50}, Result{Energy: 100, Within: true}), false, "performance"},
		"late, as everybody":             {row(Result{Energy: 50}, Result{Energy: 100}), true, "performance"},
		"late, as everybody, but dearer": {row(Result{Energy: 150}, Result{Energy: 100}), false, "performance"},
	} {
		if v := tt.row.Verdict(); v.Kept != tt.kept || v.Rival != tt.rival || v.Kept != (v.Why == "") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// On machines whose critical clocks lie low, in the middle and at the top, powerd is never
// worse than the best governor. The whole table is docs/energy.md.
func TestPromise(t *testing.T) {
	var cases []Case
	for _, platform := range []string{"rk3399-a72", "hi3660-a53", "r8a774a1-a57", "xeon-2-sockets"} {
		for _, load := range []string{"media", "web", "trace", "jobs"} {
			for _, shared := range []float64{0, 0.3} {
				c := newCase(t, platform, load, shared, 63*time.Second, 1)
				c.Warm = 3 * time.Second
				cases = append(cases, c)
			}
		}
	}
	rows, err := Compare(t.Context(), cases, append([]string{Powerd}, Rivals...), standard(t), func(Row) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		v := r.Verdict()
		own, _ := r.Result(Powerd)
		t.Logf("%s, %s: %.3f of %s, %.3f of the limit", r.Machine, r.Load, v.Ratio, v.Rival, r.OverLimit(own))
		if !v.Kept {
			t.Errorf("%s, %s: %s", r.Machine, r.Load, v.Why)
		}
		if x := r.OverLimit(own); x != 0 && x < 1 {
			t.Errorf("%s, %s: %.4f of the limit", r.Machine, r.Load, x)
		}
	}
}
