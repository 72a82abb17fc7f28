// Package bench runs the same work on the same machine under different policies
// and tells what each cost and what came of the work. On a simulated machine the
// joules are modelled, never measured.
package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// A Case is a machine with its work.
type Case struct {
	Machine Machine
	Load    loads.Load
	Seed    uint64
	// Span is the time on the machine's clock. What happens in its first part, Warm, is not
	// counted: caches, averages and the daemon know nothing yet.
	Span, Warm time.Duration
}

// Powerd is the policy that is powerd itself; the others are the kernel's governors, and
// Static ones.
const Powerd = "powerd"

// Uncounted is powerd on a machine whose processor counts no cycles and instructions, as a
// virtual one's: all work is taken to be bound by the clock.
const Uncounted = "powerd-uncounted"

// Static returns the policy that pins every clock to an operating point.
func Static(opp int) string { return fmt.Sprint("opp", opp) }

// A Result is what a policy came to.
type Result struct {
	Policy string        `json:"policy"`
	Span   time.Duration `json:"span_ns"`
	// Energy is the machine's; Base of it idle and shared power.
	Energy units.Energy `json:"energy_uj"`
	Base   units.Energy `json:"base_uj"`
	// Missed are the jobs done after their deadline or not at all, of Due that had one.
	Missed int `json:"missed"`
	Due    int `json:"due"`
	// P99 is the worst 99th percentile of a container's response times among those that
	// bound it, and Within tells that all keep their bound.
	P99    time.Duration `json:"p99_ns"`
	Within bool          `json:"p99_within"`
	// Work is what was done, in seconds on the fastest core at its fastest.
	Work float64 `json:"work_s"`
	// Latency are the response times, by quantile in percent, of all that have a bound.
	Latency []Quantile `json:"latency,omitempty"`
	// Samples are the run's course.
	Samples []Sample `json:"-"`
}

// A Quantile is the response time within which a percentage of the jobs were done.
type Quantile struct {
	Percent float64       `json:"percent"`
	Within  time.Duration `json:"within_ns"`
}

// A Sample is what the machine did in a part of the run.
type Sample struct {
	At    time.Duration
	Power units.Power
	// Speed is the mean of the clocks, of the fastest.
	Speed float64
	// Idle is the share of the cores' time in each idle state, by name; the rest they were
	// awake.
	Idle map[string]float64
}

// Power is the mean over the run.
func (r Result) Power() units.Power {
	return units.Power(float64(r.Energy) / r.Span.Seconds())
}

// MissRatio is the share of deadlines missed.
func (r Result) MissRatio() float64 {
	if r.Due == 0 {
		return 0
	}
	return float64(r.Missed) / float64(r.Due)
}

// Late tells that the work was not done in time.
func (r Result) Late() bool { return !r.inTime() }

// Run runs a case under a policy: a governor of the kernel's, a Static one, or Powerd,
// which is the daemon that runs on real machines, with its journal in a folder of its own,
// over the simulated files.
func Run(ctx context.Context, c Case, policy string, config configs.Config) (Result, error) {
	if policy == Powerd || policy == Uncounted {
		c.Machine.Spec.NoCounters = c.Machine.Spec.NoCounters || policy == Uncounted
		r, _, err := Daemon(ctx, c, config, false, func(*daemon.Snapshot) {})
		r.Policy = policy
		return r, err
	}
	governor, opp := policy, -1
	if n, ok := strings.CutPrefix(policy, "opp"); ok {
		var err error
		if opp, err = strconv.Atoi(n); err != nil || opp < 0 {
			return Result{}, fmt.Errorf("there is no policy %q", policy)
		}
		governor = "userspace"
	}
	m, err := c.machine(governor)
	if err != nil {
		return Result{}, err
	}
	if opp >= 0 {
		if err := pin(m, opp); err != nil {
			return Result{}, err
		}
	}
	rec := newRecorder(c, m)
	for m.Elapsed() < c.Span {
		if err := ctx.Err(); err != nil {
			return Result{}, err
		}
		if err := rec.step(config.Interval); err != nil {
			return Result{}, err
		}
	}
	return rec.result(policy), nil
}

func (c Case) machine(governor string) (*sim.Machine, error) {
	return sim.New(sim.Config{Spec: c.Machine.Spec, Seed: c.Seed, Governor: governor})
}

// pin sets every clock to its OPP of an index, or its last.
func pin(m *sim.Machine, opp int) error {
	const dir = "sys/devices/system/cpu/cpufreq"
	policies, err := m.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot pin clocks: %v", err)
	}
	for _, p := range policies {
		data, err := m.ReadFile(dir + "/" + p + "/scaling_available_frequencies")
		if err != nil {
			return fmt.Errorf("cannot pin clocks: %v", err)
		}
		table := strings.Fields(string(data)) // the fastest first
		slices.Reverse(table)
		if err := m.WriteFile(dir+"/"+p+"/scaling_setspeed", []byte(table[min(opp, len(table)-1)])); err != nil {
			return fmt.Errorf("cannot pin clocks: %v", err)
		}
	}
	return nil
}

// Daemon runs a case under powerd. Each gets what every tick published. After the last
// tick every file is put back; restored tells what became of each.
//
// A context that ends stops the run early, and restores.
func Daemon(ctx context.Context, c Case, config configs.Config, dryRun bool, each func(*daemon.Snapshot)) (r Result, restored []sysfs.Restored, err error) {
	m, err := c.machine("schedutil")
	if err != nil {
		return Result{}, nil, err
	}
	o := daemon.Options{FS: m, Label: c.Machine.Spec.Name, Config: config, Platform: c.Machine.Platform, Calibrated: c.Machine.Kinds, Counters: m}
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
	rec := newRecorder(c, m)
	// Who starts a container tells the daemon (powerd run, powerd-oci), which places it
	// before its first process.
	rec.came = func() {
		if m.Elapsed() > 0 {
			d.PlaceNow(m.Now())
		}
	}
	d.Look(m.Now())
	for m.Elapsed() < c.Span && ctx.Err() == nil && err == nil {
		if err = rec.step(config.Interval); err == nil {
			each(d.Tick(m.Now()))
		}
	}
	r = rec.result(Powerd)
	restored, closed := d.Close()
	return r, restored, cmp.Or(err, ctx.Err(), closed)
}

// A recorder lets a case's containers come and go, and keeps what happens.
type recorder struct {
	c       Case
	m       *sim.Machine
	coming  []loads.Container // by From
	running []loads.Container // those with an end, by Until
	begin   energies          // when counting began
	counts  bool
	last    int64 // nJ at the last sample
	taken   time.Duration
	samples []Sample
	before  sim.Activity
	came    func() // is called when containers have come
}

// energies of a machine, in nanojoules.
type energies struct {
	total, base int64
}

func energiesOf(m *sim.Machine) (e energies) {
	e.total, e.base, _ = m.Energy()
	return e
}

// samplesOfRun is how many parts a run's course is kept in.
const samplesOfRun = 120

func newRecorder(c Case, m *sim.Machine) *recorder {
	r := &recorder{c: c, m: m, came: func() {}, coming: slices.Clone(c.Load.Containers), before: m.Activity()}
	slices.SortStableFunc(r.coming, func(a, b loads.Container) int { return cmp.Compare(a.From, b.From) })
	return r
}

// step lets at most d of time pass.
func (r *recorder) step(d time.Duration) error {
	end := min(r.m.Elapsed()+d, r.c.Span)
	for {
		now := r.m.Elapsed()
		for len(r.running) > 0 && r.running[0].Until <= now {
			if err := r.m.End(r.running[0].Cgroup); err != nil {
				return err
			}
			r.running = r.running[1:]
		}
		came := len(r.coming) > 0 && r.coming[0].From <= now
		for len(r.coming) > 0 && r.coming[0].From <= now {
			c := r.coming[0]
			r.coming = r.coming[1:]
			if err := r.m.Start(c.Workload); err != nil {
				return err
			}
			if c.Until > 0 && c.Until < r.c.Span {
				at, _ := slices.BinarySearchFunc(r.running, c.Until, func(o loads.Container, t time.Duration) int { return cmp.Compare(o.Until, t+1) })
				r.running = slices.Insert(r.running, at, c)
			}
		}
		if came {
			r.came()
		}
		if !r.counts && now >= r.c.Warm {
			r.counts, r.begin = true, energiesOf(r.m)
			r.m.ForgetJobs()
			r.last, r.taken, r.before = r.begin.total, now, r.m.Activity()
		}
		if now >= end {
			break
		}
		next := end
		if !r.counts {
			next = min(next, r.c.Warm)
		}
		if len(r.running) > 0 {
			next = min(next, r.running[0].Until)
		}
		if len(r.coming) > 0 {
			next = min(next, r.coming[0].From)
		}
		r.m.Advance(next - now)
	}
	if now := r.m.Elapsed(); r.counts && now > r.taken && (now-r.taken >= r.c.Span/samplesOfRun || now >= r.c.Span) {
		r.sample(now)
	}
	return nil
}

func (r *recorder) sample(now time.Duration) {
	total, _, _ := r.m.Energy()
	a := r.m.Activity()
	dt := (now - r.taken).Seconds()
	s := Sample{At: now, Power: units.Power(float64(total-r.last) / 1000 / dt), Idle: map[string]float64{}}
	s.Speed = (a.Speed - r.before.Speed) / dt
	for name, t := range a.Idle {
		s.Idle[name] = (t - r.before.Idle[name]) / dt
	}
	r.samples = append(r.samples, s)
	r.last, r.taken, r.before = total, now, a
}

// quantiles are those of Result.Latency.
var quantiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100}

func (r *recorder) result(policy string) Result {
	end := energiesOf(r.m)
	out := Result{Policy: policy, Span: r.m.Elapsed() - r.c.Warm, Energy: units.Energy((end.total - r.begin.total) / 1000),
		Base: units.Energy((end.base - r.begin.base) / 1000), Within: true, Samples: r.samples}
	out.became(r.c, r.m.Jobs())
	return out
}

// became takes what became of a case's jobs into a result.
func (r *Result) became(c Case, jobs map[string]sim.Jobs) {
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		r.Missed += jobs[name].Missed
		r.Due += jobs[name].Due
		r.Work += jobs[name].Work.Seconds()
	}
	var all sim.Jobs
	for _, ct := range c.Load.Containers {
		if ct.P99 == 0 {
			continue
		}
		j := jobs[ct.Cgroup]
		p99 := j.Quantile(0.99)
		r.P99 = max(r.P99, p99)
		r.Within = r.Within && p99 <= ct.P99
		all.Latencies = append(all.Latencies, j.Latencies...)
	}
	slices.Sort(all.Latencies)
	if len(all.Latencies) > 0 {
		for _, q := range quantiles {
			r.Latency = append(r.Latency, Quantile{q, all.Quantile(q / 100)})
		}
	}
}
