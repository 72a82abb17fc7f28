package calibrate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
)

// A Load is work that a machine can be given.
type Load interface {
	// Start begins work without end on each cpu, in place of what ran before; with
	// memory it mostly waits for memory.
	Start(cpus cpuset.Set, memory bool) error
	// Work is what has been done since Start, in steps of its kind of work, and for how
	// long, on all cpus together.
	Work() (steps float64, ran time.Duration)
	Stop()
	// Kick wakes each cpu for a moment. It then sleeps anew, by the rules of now, and
	// the kernel's count of what it slept in is up to date.
	Kick(cpus cpuset.Set) error
}

// A Clock is a machine's time.
type Clock interface {
	Now() time.Time
	// Sleep returns early, with its error, if the context ends.
	Sleep(ctx context.Context, d time.Duration) error
}

// Wall is the time of the machine that powerd runs on.
type Wall struct{}

// Now implements Clock.
func (Wall) Now() time.Time { return time.Now() }

// Sleep implements Clock.
func (Wall) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// Options are what a calibration is made from.
type Options struct {
	Machine *Machine
	Plan    Plan
	// Journal is the machine's files; all that is changed is put back at the end.
	Journal *sysfs.Journal
	Load    Load
	Clock   Clock
	// Store keeps finished points over an interruption; nil keeps none.
	Store *Store
	// Progress is told before each point; nil is nobody.
	Progress func(Progress)
}

// Progress is how far a calibration is.
type Progress struct {
	// Total and Left are what it comes to if every round is needed.
	Done, Total int
	Left        time.Duration // an estimate
	Point       string        // the next
}

// An Outcome is what a run measured, finished or not.
type Outcome struct {
	Observations []Observation
	// Kept is how many of them an earlier run had measured.
	Kept     int
	Restored []sysfs.Restored
	// Skipped are the points that could not be measured, with the reason.
	Skipped []string
}

// Run measures the points of a plan, round by round until more would not tell more, and
// puts every file back, whatever happens. The error is of a context that ended, or of a
// machine on which nothing can be measured.
func Run(ctx context.Context, o Options) (out Outcome, err error) {
	o.Journal.Guard = cpufreq.Crosses
	r := &run{Options: o}
	defer func() {
		o.Load.Stop()
		restored, rerr := o.Journal.Restore(false)
		out.Restored = restored
		for _, f := range restored {
			if f.Outcome == sysfs.OutcomeFailed {
				rerr = errors.Join(rerr, fmt.Errorf("cannot restore %s: %s", f.File, f.Detail))
			}
		}
		err = errors.Join(err, rerr)
	}()
	start := o.Clock.Now()
	var spent time.Duration
	measured := 0
	points := o.Plan.all()
	for i, p := range points {
		if i > 0 && i%len(o.Plan.Points) == 0 {
			// A real machine can be slower than planned.
			next := time.Duration(o.missing(points[i:i+len(o.Plan.Points)])) * spent / time.Duration(max(measured, 1))
			// What disturbs a point need not show in it: two that agree are the least.
			again := i == len(o.Plan.Points) || !o.Machine.Fit(out.Observations).settled()
			if o.Clock.Now().Sub(start)+next > o.Plan.Budget || !again {
				break
			}
		}
		name := o.Machine.describe(p)
		if was, ok := o.Store.Find(name); ok {
			out.Observations = append(out.Observations, was)
			out.Kept++
			continue
		}
		if o.Progress != nil {
			each := o.Plan.each()
			if measured > 0 {
				each = spent / time.Duration(measured)
			}
			o.Progress(Progress{Done: i, Total: len(points), Left: time.Duration(o.missing(points[i:])) * each, Point: name})
		}
		began := o.Clock.Now()
		obs, err := r.measure(ctx, p)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		spent += o.Clock.Now().Sub(began)
		measured++
		if err != nil {
			out.Skipped = append(out.Skipped, fmt.Sprintf("%s: %v", name, err))
			if len(out.Skipped) == 3 && len(out.Observations) == 0 {
				return out, fmt.Errorf("cannot measure %s: %w", name, err)
			}
			continue
		}
		if err := o.Store.Add(obs); err != nil {
			return out, err
		}
		out.Observations = append(out.Observations, obs)
	}
	return out, nil
}

// missing is how many points are not in the store.
func (o Options) missing(points []Point) int {
	n := 0
	for _, p := range points {
		if _, ok := o.Store.Find(o.Machine.describe(p)); !ok {
			n++
		}
	}
	return n
}

type run struct {
	Options
}

// measure brings the machine into a point's state and reads the meter over the window.
func (r *run) measure(ctx context.Context, p Point) (Observation, error) {
	m := r.Machine
	r.Load.Stop()
	if err := errors.Join(r.clocks(p), r.states(p)); err != nil {
		return Observation{}, err
	}
	if !p.Work.Empty() {
		if err := r.Load.Start(p.Work, p.Memory); err != nil {
			return Observation{}, err
		}
	}
	var others cpuset.Set
	for _, c := range m.Cores {
		others = others.Union(c.CPUs)
	}
	others = others.Minus(p.Work)
	if err := r.Load.Kick(others); err != nil {
		return Observation{}, err
	}
	if err := r.Clock.Sleep(ctx, settle); err != nil {
		return Observation{}, err
	}
	if err := r.Load.Kick(others); err != nil {
		return Observation{}, err
	}
	before, err := r.slept()
	if err != nil {
		return Observation{}, err
	}
	began := r.Clock.Now()
	// A gauge still shows the waking for one of its averages, and may be read up to one
	// late.
	if err := r.Clock.Sleep(ctx, 2*r.Machine.Pace); err != nil {
		return Observation{}, err
	}
	powers, rates, err := r.window(ctx, !p.Work.Empty())
	if err != nil {
		return Observation{}, err
	}
	took := r.Clock.Now().Sub(began).Seconds()
	if err := r.Load.Kick(others); err != nil {
		return Observation{}, err
	}
	after, err := r.slept()
	if err != nil {
		return Observation{}, err
	}

	obs := Observation{Point: m.describe(p), Kind: p.Kind, Clock: p.Clock, Workers: p.Work.Len(), Memory: p.Memory}
	obs.Power, obs.Error = mean(powers)
	if obs.Workers > 0 {
		// What disturbs work only slows it, now and then: the median is of the
		// undisturbed, and of even scatter its error is 1.25 times the mean's.
		_, err := mean(rates)
		obs.Rate, obs.RateError = median(rates), 1.25*err
	}
	obs.Terms, obs.Stray = m.terms(p, func(c cpuset.CPU, state int) float64 {
		at := slot{c, state}
		return max(0, float64(after[at])-float64(before[at])) / 1e6 / took
	})
	return obs, nil
}

// A window is cut into parts to see how they scatter. Reading a meter is work, which it
// shows: while nothing else works it is read seldom.
const (
	parts  = 10
	seldom = 600 * time.Millisecond
)

// window reads the meter, in microwatts, and the work by second that a worker ran, part by
// part.
func (r *run) window(ctx context.Context, busy bool) (powers, rates []float64, err error) {
	n := parts
	if r.Machine.Pace > 0 { // between two of its averages a gauge tells nothing new
		n = min(n, int(r.Plan.Window/r.Machine.Pace))
	}
	if !busy { // else the reader shares a worker's cpu, and nothing is awake for it alone
		n = min(n, int(r.Plan.Window/seldom))
	}
	n = max(n, 2)
	last, err := r.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	work, ran := r.Load.Work()
	for range n {
		if err := r.Clock.Sleep(ctx, r.Plan.Window/time.Duration(n)); err != nil {
			return nil, nil, err
		}
		now, err := r.read(ctx)
		if err != nil {
			return nil, nil, err
		}
		done, since := r.Load.Work()
		used, unknown := r.Machine.Meter.Between(last, now)
		if used == nil {
			return nil, nil, fmt.Errorf("cannot read the meter: %s", unknown)
		}
		s := now.At.Sub(last.At).Seconds()
		powers = append(powers, float64(*used)/s)
		if since > ran {
			rates = append(rates, (done-work)/(since-ran).Seconds())
		}
		last, work, ran = now, done, since
	}
	return powers, rates, nil
}

// read reads the meter; one that fails gets three tries.
func (r *run) read(ctx context.Context) (energy.Reading, error) {
	for try := 1; ; try++ {
		reading, err := r.Machine.Meter.Read(r.Journal, r.Clock.Now())
		if err == nil || try == 3 {
			return reading, err
		}
		if err := r.Clock.Sleep(ctx, 10*time.Millisecond); err != nil {
			return reading, err
		}
	}
}

// mean returns the mean and its standard error; of fewer than two values 0.
func mean(values []float64) (m, err float64) {
	if len(values) < 2 {
		return 0, 0
	}
	n := float64(len(values))
	for _, v := range values {
		m += v / n
	}
	for _, v := range values {
		err += (v - m) * (v - m)
	}
	return m, math.Sqrt(err / (n - 1) / n)
}

// median returns the middle value, of an even number the mean of both; 0 of none.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return 0
	}
	return (v[len(v)/2] + v[(len(v)-1)/2]) / 2
}

// clocks sets every policy: those of the kind under test to the point's clock, the others
// to their slowest.
func (r *run) clocks(p Point) error {
	m := r.Machine
	for _, policy := range m.policies {
		f := policy.Steps()[0]
		if policy.CPUs().Overlaps(m.Kinds[p.Kind].CPUs) {
			f = p.Clock
		}
		var err error
		if policy.ScalingMin, err = r.frequency(policy, "scaling_min_freq"); err != nil {
			return err
		}
		if policy.ScalingMax, err = r.frequency(policy, "scaling_max_freq"); err != nil {
			return err
		}
		for _, w := range policy.Limits(f, f) {
			if err := r.Journal.WriteFile(w.File, []byte(w.Value)); err != nil {
				return err
			}
		}
		for _, name := range []string{"scaling_min_freq", "scaling_max_freq"} {
			got, err := r.frequency(policy, name)
			if err != nil {
				return err
			}
			// Drivers without a table may round to what the hardware can do.
			if math.Abs(float64(*got)-float64(f)) > 0.02*float64(f) {
				return fmt.Errorf("%s/%s reads %v after %v was asked for", policy.Dir, name, *got, f)
			}
		}
	}
	return nil
}

func (r *run) frequency(p cpufreq.Policy, name string) (*units.Frequency, error) {
	v, err := r.number(p.Dir + "/" + name)
	f := units.Frequency(v)
	return &f, err
}

func (r *run) number(name string) (uint64, error) {
	data, err := r.Journal.ReadFile(name)
	if err != nil {
		return 0, err
	}
	v, err := sysfs.ParseUint(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("cannot read %s: %v", name, err)
	}
	return v, nil
}

// states disables what the cores must not enter: all but the deepest state, or but the one
// they are held in.
func (r *run) states(p Point) error {
	for _, c := range r.Machine.Cores {
		if c.Kind < 0 {
			continue
		}
		k := &r.Machine.Kinds[c.Kind]
		held := c.CPUs.Overlaps(p.Hold)
		if k.Fixed != "" {
			if held {
				return errors.New(k.Fixed)
			}
			continue
		}
		only := k.Deepest()
		if held {
			only = p.State
		}
		for cpu := range c.CPUs.All() {
			for s, state := range k.States {
				want := "1"
				if s == only {
					want = "0"
				}
				file := cstates.StateDir(cpu, state.Index) + "/disable"
				now, err := r.number(file)
				if err != nil {
					return err
				}
				if strconv.FormatUint(now, 10) == want {
					continue
				}
				if err := r.Journal.WriteFile(file, []byte(want)); err != nil {
					// All else can be told without.
					k.Fixed = fmt.Sprintf("idle states cannot be disabled: %v", err)
				}
			}
		}
		if k.Fixed != "" && held {
			return errors.New(k.Fixed)
		}
	}
	return nil
}

// slot is a state of a cpu, by its index in the kind's States.
type slot struct {
	cpu   cpuset.CPU
	state int
}

// slept reads how long each cpu has been in each state, in microseconds.
func (r *run) slept() (map[slot]uint64, error) {
	out := map[slot]uint64{}
	for _, c := range r.Machine.Cores {
		if c.Kind < 0 {
			continue
		}
		for cpu := range c.CPUs.All() {
			for s, state := range r.Machine.Kinds[c.Kind].States {
				v, err := r.number(cstates.StateDir(cpu, state.Index) + "/time")
				if err != nil {
					return nil, err
				}
				out[slot{cpu, s}] = v
			}
		}
	}
	return out, nil
}
