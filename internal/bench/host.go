package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/loads"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/units"
	"github.com/powerd/powerd/internal/worker"
)

// A Host is a real machine to run cases on: containers are cgroups of processes that
// really work, joules are what its meter shows.
type Host struct {
	FS      sysfs.FS
	Journal *sysfs.Journal
	// Cgroups is the folder of the cgroup2 file system; a case's containers are made in it.
	Cgroups string
	// Self is the command line that plays: it reads a worker.Play from standard input and
	// writes what it Played to standard output.
	Self []string
	// Platforms price the cores where firmware does not.
	Platform   *energy.Platform
	Calibrated []energy.Platform
	// Memory is how many bytes work walks through that waits for memory.
	Memory int

	meter *energy.Source
	speed worker.Speed
}

const governorFiles = "sys/devices/system/cpu/cpufreq"

// Prepare looks for a meter and control of the clocks, and measures how much work a
// millisecond is. Every file holds its first value again when it returns.
func (h *Host) Prepare(ctx context.Context) (err error) {
	if h.meter = energy.Best(energy.Discover(sysfs.NewReader(h.FS))); h.meter == nil {
		return errors.New("cannot measure: this machine has no energy meter that can be read (RAPL, hwmon, ACPI power meter or a battery in use)")
	}
	if err := h.govern("performance"); err != nil {
		return errors.Join(err, h.restore())
	}
	defer func() { err = errors.Join(err, h.restore()) }()
	time.Sleep(100 * time.Millisecond) // clocks follow from a work queue
	cmd := exec.CommandContext(ctx, h.Self[0], append(h.Self[1:len(h.Self):len(h.Self)], "--measure", fmt.Sprint(h.Memory))...)
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cannot measure how fast this machine works: %v", err)
	}
	if err := json.Unmarshal(out, &h.speed); err != nil || h.speed.Spins <= 0 || h.speed.Chases <= 0 {
		return fmt.Errorf("cannot measure how fast this machine works: %q, %v", out, err)
	}
	return nil
}

// Meter tells what measures.
func (h *Host) Meter() string { return strings.Join(h.meter.Names, " + ") }

// govern sets every clock's governor.
func (h *Host) govern(governor string) error {
	policies, err := h.FS.ReadDir(governorFiles)
	policies = slices.DeleteFunc(policies, func(name string) bool { return !strings.HasPrefix(name, "policy") }) // governors have folders, too
	if err != nil || len(policies) == 0 {
		return fmt.Errorf("cannot set governor %s: the kernel offers no control of the clocks (%v)", governor, err)
	}
	for _, p := range policies {
		if err := h.Journal.WriteFile(path.Join(governorFiles, p, "scaling_governor"), []byte(governor)); err != nil {
			return fmt.Errorf("cannot set governor %s: %v", governor, err)
		}
	}
	return nil
}

func (h *Host) restore() error {
	_, err := daemon.Restore(h.Journal, false)
	return err
}

// Run runs a case under a governor of the kernel's or Powerd. Every file it changed holds
// its first value again when it returns, and what it started has ended.
func (h *Host) Run(ctx context.Context, c Case, policy string, config configs.Config) (r Result, err error) {
	var closed error
	defer func() { err = errors.Join(err, closed, h.restore()) }()
	governor := policy
	if policy == Powerd {
		governor = "schedutil"
	}
	if err := h.govern(governor); err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel(nil) // first: what waits for all must see it
	if policy == Powerd {
		d := daemon.New(daemon.Options{FS: h.FS, Label: "host", Journal: h.Journal, Config: config, Platform: h.Platform, Calibrated: h.Calibrated, Counters: counters.Host("/")})
		all.Go(func() {
			d.Run(ctx, func(*daemon.Snapshot) {})
			_, closed = d.Close()
		})
	}
	jobs := map[string]worker.Played{}
	var one sync.Mutex
	var played sync.WaitGroup
	for _, ct := range c.Load.Containers {
		played.Go(func() {
			p, err := h.play(ctx, c, ct)
			if err != nil {
				cancel(err)
				return
			}
			one.Lock()
			defer one.Unlock()
			jobs[ct.Cgroup] = p
		})
	}
	samples, total, err := h.watch(ctx, c)
	if err != nil {
		cancel(err)
	}
	played.Wait()
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	r = Result{Policy: policy, Span: c.Span - c.Warm, Energy: total, Within: true, Samples: samples}
	sums := map[string]sim.Jobs{}
	for name, p := range jobs {
		sums[name] = sim.Jobs{Done: p.Done, Missed: p.Missed, Due: p.Due, Latencies: p.Latencies, Work: p.Work}
	}
	r.became(c, sums)
	return r, nil
}

// watch reads the meter until the case is over, and returns what it showed since Warm.
func (h *Host) watch(ctx context.Context, c Case) (samples []Sample, total units.Energy, err error) {
	begin := time.Now()
	step := max(time.Second, c.Span/samplesOfRun)
	if slices.ContainsFunc(h.meter.Meters, func(m energy.Meter) bool { return m.Kind == energy.Gauge }) {
		step = 250 * time.Millisecond // it forgets what it does not show
	}
	var last *energy.Reading
	for at := c.Warm; at <= c.Span; at += step {
		select {
		case <-time.After(time.Until(begin.Add(at))):
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		}
		now, err := h.meter.Read(h.FS, time.Now())
		if err != nil {
			return nil, 0, err
		}
		if last != nil {
			used, why := h.meter.Between(*last, now)
			if used == nil {
				return nil, 0, fmt.Errorf("cannot measure: %s", why)
			}
			total += *used
			samples = append(samples, Sample{At: at, Power: units.Power(float64(*used) / now.At.Sub(last.At).Seconds())})
		}
		last = &now
	}
	return samples, total, nil
}

// play makes a container's cgroup, lets it do its jobs, and removes it.
func (h *Host) play(ctx context.Context, c Case, ct loads.Container) (out worker.Played, err error) {
	p := worker.Play{Speed: h.speed, CPUBound: cmp.Or(ct.CPUBound, 1), Memory: h.Memory}
	until := c.Span
	if ct.Until > 0 {
		until = min(until, ct.Until)
	}
	for thread := range max(1, ct.Threads) {
		next := ct.Stream(c.Seed, ct.From, thread)
		var jobs []worker.Job
		for {
			j, ok := next()
			if !ok || ct.From+j.At >= until {
				break
			}
			if ct.From+j.At >= c.Warm {
				jobs = append(jobs, worker.Job{At: j.At, Work: j.Work, Due: j.Due})
			}
		}
		p.Threads = append(p.Threads, jobs)
	}
	select {
	case <-time.After(ct.From):
	case <-ctx.Done():
		return out, nil
	}
	dir := filepath.Join(h.Cgroups, ct.Cgroup)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return out, fmt.Errorf("cannot make container %s: %v", ct.Cgroup, err)
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	for _, name := range slices.Sorted(maps.Keys(ct.Attributes)) {
		if err := syscall.Setxattr(dir, name, []byte(ct.Attributes[name]), 0); err != nil {
			return out, fmt.Errorf("cannot note %s on container %s: %v", name, ct.Cgroup, err)
		}
	}
	f, err := os.Open(dir)
	if err != nil {
		return out, fmt.Errorf("cannot start container %s: %v", ct.Cgroup, err)
	}
	defer f.Close()
	text, err := json.Marshal(p)
	if err != nil {
		return out, err
	}
	ctx, cancel := context.WithTimeout(ctx, until-ct.From)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Self[0], h.Self[1:]...)
	cmd.Stdin = bytes.NewReader(text)
	var result, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &result, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd()), Pdeathsig: syscall.SIGKILL}
	// What is not done by the end counts as it is then.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return out, fmt.Errorf("container %s: %v: %s", ct.Cgroup, err, strings.TrimSpace(said.String()))
	}
	if err := json.Unmarshal(result.Bytes(), &out); err != nil {
		return out, fmt.Errorf("container %s: it did not tell what it did: %v: %s", ct.Cgroup, err, strings.TrimSpace(said.String()))
	}
	return out, nil
}

// remove removes a cgroup, and those around it that are empty then.
func remove(dir string) error {
	err := os.Remove(dir)
	for deadline := time.Now().Add(2 * time.Second); errors.Is(err, syscall.EBUSY) && time.Now().Before(deadline); err = os.Remove(dir) {
		time.Sleep(10 * time.Millisecond) // a process that has ended leaves a little later
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove container: %v", err)
	}
	os.Remove(filepath.Dir(dir)) //nolint:errcheck // others may be in it
	return nil
}

// Compare runs cases under policies, one after the other. Each gets a row as soon as it is
// done.
func (h *Host) Compare(ctx context.Context, cases []Case, policies []string, config configs.Config, each func(Row)) ([]Row, error) {
	var rows []Row
	for _, c := range cases {
		row := Row{Machine: c.Machine.Name, Load: c.Load.Name, Fluid: c.Load.Fluid, Shared: true, Cores: c.Machine.Cores(), Seed: c.Seed, Kind: "measured"}
		for _, policy := range policies {
			r, err := h.Run(ctx, c, policy, config)
			if err != nil {
				return rows, fmt.Errorf("cannot run %s under %s: %w", c.Load.Name, policy, err)
			}
			row.Results = append(row.Results, r)
		}
		rows = append(rows, row)
		each(row)
	}
	return rows, nil
}
