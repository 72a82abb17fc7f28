package daemon

import (
	"slices"
	"testing"
	"time"

	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/units"
)

// Ticks are at multiples of a period, which is no longer than wanted.
func TestPeriod(t *testing.T) {
	for _, tt := range []struct{ interval, wanted, want time.Duration }{
		{time.Second, 200 * time.Millisecond, 200 * time.Millisecond},
		{time.Second, 300 * time.Millisecond, 250 * time.Millisecond},
		{time.Second, time.Second, time.Second},
		{100 * time.Millisecond, 200 * time.Millisecond, 100 * time.Millisecond},
		{time.Hour, 200 * time.Millisecond, 200 * time.Millisecond},
		{time.Second, 0, 0},
	} {
		d := &Daemon{}
		d.config.Interval = tt.interval
		if got := d.period(tt.wanted); got != tt.want {
			t.Errorf("ticks every %v, %v wanted: %v, not %v", tt.interval, tt.wanted, got, tt.want)
		}
	}
}

// How many threads run at once is told by what they use, or by how long they were held
// back.
func TestHabits(t *testing.T) {
	for _, tt := range []struct {
		threads int
		quota   string
	}{{1, "max"}, {3, "max"}, {1, "100000 200000"}, {2, "100000 200000"}, {4, "100000 200000"}, {3, "150000 200000"}} {
		c := sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Clusters: []sim.Cluster{{Cores: 4, Curve: ladder(), Idle: c1c6}}}, Governor: "performance",
			Workloads: []sim.Workload{{Cgroup: "powerd/deferred-a", Threads: tt.threads}}}
		m, _, d, _ := govern(t, c, policy(t))
		if err := m.WriteFile("sys/fs/cgroup/powerd/deferred-a/cpu.max", []byte(tt.quota)); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			d.Look(m.Now())
			m.Advance(time.Second)
		}
		c0 := d.last.Containers[0]
		if n, parallel := d.model.usual(c0); n != newcomer || parallel != 0 {
			t.Errorf("a newcomer is said to use %g with %d threads at once", n, parallel)
		}
		for range 4 {
			d.Look(m.Now())
			m.Advance(time.Second)
		}
		n, parallel := d.model.usual(c0)
		want := float64(tt.threads)
		if limit, ok := d.last.Containers[0].Max.CPUs(); ok {
			want = limit
		}
		if parallel != tt.threads || n < 0.8*want || n > 1.25*want {
			t.Errorf("%d threads with a quota of %s: %d at once, %g used", tt.threads, tt.quota, parallel, n)
		}
	}
}

// Work that bears a delay begins together, whenever powerd has begun with each; others wait
// for the next tick; and a container that asks for no delay has no limit.
func TestGathered(t *testing.T) {
	cluster := sim.Cluster{Cores: 4, Curve: ladder(), Idle: c1c6, Shared: 4 * units.Watt}
	c := sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Clusters: []sim.Cluster{cluster}}, Workloads: []sim.Workload{
		{Cgroup: "powerd/deferred-a", Period: time.Second, Work: 250 * time.Millisecond},
		{Cgroup: "powerd/deferred-b", Period: 1100 * time.Millisecond, Work: 250 * time.Millisecond},
	}}
	m, g, d, first := govern(t, c, policy(t))
	d.platform = platformOf(cluster)
	limit := func(name string) containers.CPUMax {
		v, err := containers.ParseCPUMax(text(t, m, "sys/fs/cgroup/powerd/"+name+"/cpu.max"))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	d.Look(m.Now())
	for range 12 {
		m.Advance(time.Second)
		d.Tick(m.Now())
	}
	for _, name := range []string{"deferred-a", "deferred-b"} {
		if limit(name).Quota == 0 {
			t.Fatalf("%s is not gathered", name)
		}
	}
	// One is let go by somebody, and powerd looks again between two ticks.
	m.Advance(300 * time.Millisecond)
	d.config.Reclaim = true
	if err := m.WriteFile("sys/fs/cgroup/powerd/deferred-a/cpu.max", []byte("max 100000")); err != nil {
		t.Fatal(err)
	}
	g.writes = 0
	d.PlaceNow(m.Now())
	if limit("deferred-a").Quota != 0 || g.writes > 0 {
		t.Errorf("it is gathered between ticks: %d writes", g.writes)
	}
	m.Advance(700 * time.Millisecond)
	d.Tick(m.Now())
	if limit("deferred-a").Quota == 0 {
		t.Error("it is not gathered again")
	}
	// Periods of both end at the same times, as far as they are counted: only those are in
	// which there is something to do.
	ends := map[string][]int{}
	before := map[string]uint64{}
	for ms := range 5000 {
		m.Advance(time.Millisecond)
		for _, name := range []string{"deferred-a", "deferred-b"} {
			st, err := containers.ParseCPUStat(text(t, m, "sys/fs/cgroup/powerd/"+name+"/cpu.stat"))
			if err != nil {
				t.Fatal(err)
			}
			if was, ok := before[name]; ok && st.Periods > was {
				ends[name] = append(ends[name], ms%200)
			}
			before[name] = st.Periods
		}
	}
	for name, list := range ends {
		if d := slices.Max(list) - slices.Min(list); len(list) < 5 || d > 1 || list[0]-ends["deferred-a"][0] > 1 || ends["deferred-a"][0]-list[0] > 1 {
			t.Errorf("periods of %s end at %v of 200 ms, of the other at %v", name, list, ends["deferred-a"])
		}
	}
	if outcomes, err := d.Close(); err != nil {
		t.Errorf("%v: %+v", err, outcomes)
	}
	for name, now := range knobs(m) {
		if now != first[name] {
			t.Errorf("%s was %q and is %q", name, first[name], now)
		}
	}
}
