package daemon

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/testbed"
	"github.com/powerd/powerd/internal/units"
)

// A world is a machine with what only its maker can tell. All have four cpus in
// two clusters, the OPPs of ladder, an ACPI power meter, and nothing else to do.
type world interface {
	sysfs.FS
	now() time.Time
	advance(d time.Duration)
	// start begins work in a cgroup.
	start(t *testing.T, cgroup string, does work)
	// clock is a domain's, read from outside the kernel.
	clock(t *testing.T, domain int) units.Frequency
	energy(t *testing.T) units.Energy
	critical() units.Frequency
}

type simWorld struct {
	*sim.Machine
}

// The cgroups that scenarios use are made with the machine; work starts in them.
func newSimWorld(t *testing.T, s scenario) world {
	cluster := sim.Cluster{Cores: 2, Curve: ladder(), Idle: c1c6}
	c := sim.Config{Spec: sim.Spec{Name: "sim", Driver: "acpi-cpufreq", Meter: "acpi", Clusters: []sim.Cluster{cluster, cluster}}}
	for _, w := range s.work {
		load := sim.Workload{Cgroup: w.cgroup}
		switch w.does {
		case little:
			load.Period, load.Work = 40*time.Millisecond, 4*time.Millisecond
		case bursts:
			load.Period, load.Work = time.Second, 250*time.Millisecond
		}
		c.Workloads = append(c.Workloads, load)
	}
	m, err := sim.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return simWorld{m}
}

func (w simWorld) now() time.Time                 { return w.Now() }
func (w simWorld) advance(d time.Duration)        { w.Advance(d) }
func (w simWorld) start(*testing.T, string, work) {}
func (w simWorld) critical() units.Frequency      { return 1800 * units.MHz }
func (w simWorld) energy(t *testing.T) units.Energy {
	nj, _, _ := w.Energy()
	return units.Energy(nj / 1000)
}
func (w simWorld) clock(t *testing.T, domain int) units.Frequency {
	return frequency(t, w, fmt.Sprintf("sys/devices/system/cpu/cpufreq/policy%d/scaling_cur_freq", 2*domain))
}

type nodeWorld struct {
	*testbed.Node
}

func (w nodeWorld) now() time.Time          { return time.Now() }
func (w nodeWorld) advance(d time.Duration) { time.Sleep(d) }
func (w nodeWorld) critical() units.Frequency {
	return w.Config().Critical()
}
func (w nodeWorld) energy(t *testing.T) units.Energy {
	truth, err := w.Truth()
	if err != nil {
		t.Fatal(err)
	}
	return truth.Energy
}
func (w nodeWorld) clock(t *testing.T, domain int) units.Frequency {
	f, err := w.Frequency(domain)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (w nodeWorld) start(t *testing.T, cgroup string, does work) {
	dir := "/sys/fs/cgroup/" + cgroup
	work := "while :; do :; done"
	switch does {
	case little:
		work = "while :; do i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; usleep 36000; done"
	case bursts: // of 0.3 s by the clock
		work = "now() { read up idle < /proc/uptime; t=${up%.*}${up#*.}; }; while :; do now; end=$((t+30)); while now; [ $t -lt $end ]; do :; done; usleep 300000; done"
	}
	r, err := w.Run(t.Context(), "sh", "-ec", `mkdir -p "$1"; echo "+cpuset +cpu" > "$(dirname "$1")/cgroup.subtree_control"`, "sh", dir)
	if err != nil || r.Code != 0 {
		t.Fatalf("%v %s", err, r.Stderr)
	}
	if _, err := w.Start(t.Context(), "/tmp/work", testbed.Command{Argv: []string{"sh", "-c", "echo $$ > " + dir + "/cgroup.procs; " + work}}); err != nil {
		t.Fatal(err)
	}
}

// empty ends all work and removes the cgroups.
func (w nodeWorld) empty(t *testing.T) {
	r, err := w.Run(t.Context(), "sh", "-c", `cd /sys/fs/cgroup; for d in powerd/* powerd; do [ -d $d ] || continue; echo 1 > $d/cgroup.kill; for i in 1 2 3 4 5 6 7 8 9; do rmdir $d 2>/dev/null && break; usleep 100000; done; done; ! [ -d powerd ]`)
	if err != nil || r.Code != 0 {
		t.Fatalf("cannot empty the node: %v %s", err, r.Stderr)
	}
}

func frequency(t *testing.T, m sysfs.FS, file string) units.Frequency {
	t.Helper()
	v, err := sysfs.ParseUint(text(t, m, file))
	if err != nil {
		t.Fatal(err)
	}
	return units.Frequency(v)
}

func text(t *testing.T, m sysfs.FS, file string) string {
	t.Helper()
	data, err := m.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// tunables reads every file that powerd may change, in either world.
func tunables(t *testing.T, m sysfs.FS) map[string]string {
	out := map[string]string{}
	walk := func(dir string) {
		names, err := m.ReadDir(dir)
		if err != nil {
			return
		}
		for _, n := range names {
			switch n {
			case "scaling_min_freq", "scaling_max_freq", "scaling_governor", "pm_qos_resume_latency_us", "disable", "cpuset.cpus", "cpu.max", "cgroup.subtree_control":
				if data, err := m.ReadFile(path.Join(dir, n)); err == nil {
					out[path.Join(dir, n)] = string(data)
				}
			}
		}
	}
	walk("sys/fs/cgroup")
	for _, parent := range []string{"sys/fs/cgroup", "sys/fs/cgroup/powerd", "sys/devices/system/cpu/cpufreq"} {
		names, _ := m.ReadDir(parent)
		for _, n := range names {
			walk(path.Join(parent, n))
		}
	}
	for cpu := range 4 {
		dir := fmt.Sprintf("sys/devices/system/cpu/cpu%d", cpu)
		walk(dir + "/power")
		for state := range 4 {
			walk(fmt.Sprintf("%s/cpuidle/state%d", dir, state))
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d tunables found: %v", len(out), out)
	}
	return out
}

type load struct {
	cgroup string
	does   work
}

// Work is without end, a little every 40 ms, or a third of a second every two thirds.
type work int

const (
	endless work = iota
	little
	bursts
)

// A scenario is a load with what must come of it, in whatever world.
type scenario struct {
	name string
	work []load
	// shared is the power that a cluster's cores share, if there is any.
	shared units.Power
	check  func(t *testing.T, w world, s *Snapshot)
}

var scenarios = []scenario{
	{"batch runs at the critical frequency, the rest sleeps", []load{{"powerd/batch-a", endless}}, 0, func(t *testing.T, w world, s *Snapshot) {
		cpus := placed(t, w, "powerd/batch-a")
		band := s.Plan.Bands[int(cpus.Min())/2]
		// 0.7 cores are its limit; what no class names may run beside it. Which clock is
		// critical depends on what the meter says, and so does how many cores that takes.
		most := int(math.Ceil((0.7 + 0.2) / 0.8 * float64(3000*units.MHz) / float64(band.Ceiling)))
		if n := cpus.Len(); n > most || n <= 2 && !cpus.SubsetOf(cpuset.Range(0, 1)) && !cpus.SubsetOf(cpuset.Range(2, 3)) {
			t.Errorf("batch-a is on %q, want at most %d cpus at %v, and two in one cluster", cpus, most, band.Ceiling)
		}
		dom := int(cpus.Min()) / 2
		if i, j := oppOf(t, band.Ceiling), oppOf(t, w.critical()); i < j-1 || i > j+1 {
			t.Errorf("the ceiling is %v, the true critical frequency %v", band.Ceiling, w.critical())
		}
		if f := w.clock(t, dom); f != band.Ceiling {
			t.Errorf("from outside the clock is %v, the plan says %v", f, band.Ceiling)
		}
	}},
	{"latency may go to the maximum", []load{{"powerd/latency-a", endless}}, 0, func(t *testing.T, w world, s *Snapshot) {
		cpus := placed(t, w, "powerd/latency-a")
		band := s.Plan.Bands[int(cpus.Min())/2]
		if band.Ceiling != 3000*units.MHz || oppOf(t, band.Floor) < oppOf(t, w.critical())-1 {
			t.Errorf("the band is %v to %v", band.Floor, band.Ceiling)
		}
		if f := w.clock(t, int(cpus.Min())/2); f < band.Floor || f > band.Ceiling {
			t.Errorf("from outside the clock is %v", f)
		}
		for c := range cpus.All() {
			if got := text(t, w, cpuFile(c, "power/pm_qos_resume_latency_us")); got != "50" {
				t.Errorf("cpu%d wakes within %q us", c, got)
			}
		}
	}},
	{"everybody is where the plan says, limits hold", []load{{"powerd/batch-a", endless}, {"powerd/latency-a", little}, {"powerd/video", little}}, 0, func(t *testing.T, w world, s *Snapshot) {
		for _, as := range s.Plan.Assignments {
			if got := placed(t, w, as.ID); as.CPUs == nil || !got.Equal(*as.CPUs) {
				t.Errorf("%s is on %q, the plan says %v: %s", as.ID, got, as.CPUs, as.Reason)
			}
			if as.ID != "powerd/batch-a" {
				continue
			}
			if as.Limit == nil {
				t.Fatal("batch-a has no limit")
			}
			want := cpuMax(*as.Limit, as.Period)
			if got := text(t, w, "sys/fs/cgroup/powerd/batch-a/cpu.max"); got != want {
				t.Errorf("cpu.max is %q, the plan says %q", got, want)
			}
		}
	}},
	{"what bears a delay is gathered", []load{{"powerd/deferred-a", bursts}, {"powerd/deferred-b", bursts}}, 4 * units.Watt, func(t *testing.T, w world, s *Snapshot) {
		for _, as := range s.Plan.Assignments {
			dir := "sys/fs/cgroup/" + as.ID
			if as.Share == 0 || as.Limit == nil {
				t.Fatalf("%s is not gathered: %+v", as.ID, as)
			}
			if got, want := text(t, w, dir+"/cpu.max"), cpuMax(*as.Limit, 200*time.Millisecond); got != want {
				t.Errorf("cpu.max of %s is %q, want %q", as.ID, got, want)
			}
			st, err := containers.ParseCPUStat(text(t, w, dir+"/cpu.stat"))
			if err != nil || st.Throttled == 0 {
				t.Errorf("%s was never held back: %+v, %v", as.ID, st, err)
			}
		}
	}},
}

func placed(t *testing.T, w world, id string) cpuset.Set {
	t.Helper()
	set, err := cpuset.Parse(text(t, w, "sys/fs/cgroup/"+id+"/cpuset.cpus"))
	if err != nil || set.Empty() {
		t.Fatalf("%s has cpus %q, %v", id, set, err)
	}
	return set
}

func oppOf(t *testing.T, f units.Frequency) int {
	t.Helper()
	for i, o := range ladder().OPPs {
		if o.Frequency == f {
			return i
		}
	}
	t.Fatalf("%v is no OPP", f)
	return 0
}

// play runs a scenario in a world: the same steps, the same assertions.
func (s scenario) play(t *testing.T, w world, config configs.Config) {
	for _, l := range s.work {
		w.start(t, l.cgroup, l.does)
	}
	first := tunables(t, w)
	g := &gate{FS: w, t: t}
	j := g.open()
	o := Options{FS: g, Label: s.name, Journal: j, Config: config}
	if s.shared > 0 {
		o.Platform = platformOf(sim.Cluster{Cores: 2, Shared: s.shared})
	}
	d := New(o)
	const interval = 600 * time.Millisecond
	w.advance(interval)
	d.begin(w.now)
	began := w.energy(t)
	var snap *Snapshot
	for range 14 {
		w.advance(interval)
		snap = d.Tick(w.now())
		d.invariants(t, snap)
	}
	for _, f := range snap.Outcome.Failures {
		t.Errorf("%s: %s", f.File, f.Problem)
	}
	for _, b := range snap.Plan.Bands {
		for _, id := range d.last.Hardware.Machine.Domains[b.Domain].Policies {
			dir := fmt.Sprintf("sys/devices/system/cpu/cpufreq/policy%d/", id)
			if min, max := frequency(t, w, dir+"scaling_min_freq"), frequency(t, w, dir+"scaling_max_freq"); min != b.Floor || max != b.Ceiling {
				t.Errorf("policy%d is %v to %v, the plan says %v to %v", id, min, max, b.Floor, b.Ceiling)
			}
		}
	}
	s.check(t, w, snap)
	// The meter is an average, and the guest's seconds are not the harness'.
	if truth := w.energy(t) - began; snap.Energy.MeasuredUJ < truth*6/10 || snap.Energy.MeasuredUJ > truth*14/10 {
		t.Errorf("measured %v, the truth is %v", snap.Energy.MeasuredUJ, truth)
	}
	busiest := slices.MaxFunc(snap.Containers, func(a, b ContainerState) int { return int(a.Energy - b.Energy) })
	if at := slices.IndexFunc(s.work, func(l load) bool { return l.cgroup == busiest.ID }); at < 0 || s.work[at].does == little {
		t.Errorf("%s is charged most", busiest.ID)
	}
	if outcomes, err := d.Close(); err != nil {
		t.Errorf("%v: %+v", err, outcomes)
	}
	if diff := cmp.Diff(first, tunables(t, w)); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

func TestScenariosSimulated(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.play(t, newSimWorld(t, s), policy(t)) })
	}
}

// The same on a real kernel, whose hardware the harness is.
func TestScenariosTestbed(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	n := testbed.Start(t, testbed.Config{CoresPerSocket: 4, Curve: ladder(), Domains: []cpuset.Set{cpuset.Range(0, 1), cpuset.Range(2, 3)},
		Meter: true, IdlePower: 50 * units.Milliwatt, Base: 200 * units.Milliwatt, HostShare: 0.4})
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			w := nodeWorld{n}
			s.play(t, w, policy(t))
			w.empty(t)
		})
	}
}
