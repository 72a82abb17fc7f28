//go:build !powerd_oci

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/calibrate"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sim"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/topology"
	"github.com/powerd/powerd/internal/worker"
)

// calibrationSpan is what a calibration takes at the most unless told.
const calibrationSpan = 9 * time.Minute

// simBound is the share of the simulated memory worker's work that scales with the clock.
const simBound = 0.35

func newCalibrateCmd(u *ui) *cobra.Command {
	var f machineFlags
	var out string
	var span time.Duration
	var fresh bool
	cmd := &cobra.Command{
		Use:   "calibrate",
		Short: "Measure what this machine's cores cost, for the daemon to go by",
		Long: `calibrate holds the machine in one state after another (clocks, numbers of busy cores,
idle states, work that computes and work that waits for memory), reads its energy meter
in each, and fits what a core costs: its static and dynamic power at each clock, its idle
states, and what clusters and packages cost around it, each with its standard error. It
says which parameters the data cannot tell, and why.

It needs root, an energy meter and frequency control, and a machine that is otherwise
quiet. At the end, and when interrupted, every file it changed holds its first value
again; after an interruption the next run goes on where it was. The result is kept in the
state directory, where the daemon takes it in preference to a platform file.`,
		Example: "  powerd calibrate\n  powerd calibrate --for 5m --out my-board.yaml && powerd critical my-board.yaml",
		Args:    noArgs,
	}
	f.add(cmd, machinesHelp)
	cmd.Flags().StringVar(&out, "out", "", "also write the platform to this file, which powerd critical reads")
	cmd.Flags().DurationVar(&span, "for", calibrationSpan, "take no longer than this")
	cmd.Flags().BoolVar(&fresh, "fresh", false, "measure anew what an interrupted run has measured")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if span <= 0 {
			return usage(fmt.Errorf("cannot calibrate for %v", span), "give a time such as 9m")
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		c := calibration{ui: u, span: span, fresh: fresh}
		var result *calibrate.Result
		var at time.Time
		var err error
		if platform, ok := f.simulated(); ok {
			result, at, err = c.simulate(ctx, &f, platform)
		} else {
			result, at, err = c.host(ctx, &f)
		}
		if err != nil {
			return err
		}
		platforms := result.Platforms(at)
		if c.keep != "" {
			if err := c.save(filepath.Join(c.keep, calibrationFile), platforms); err != nil {
				return err
			}
			// What it is made of has served.
			if err := os.Remove(filepath.Join(c.keep, pointsFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove the points measured: %v", err)
			}
		}
		if out != "" {
			if err := c.save(out, platforms); err != nil {
				return err
			}
		}
		if output.value == "json" {
			return u.json(struct {
				*calibrate.Result
				Files   []string `json:"files"`
				Skipped []string `json:"points_skipped"`
			}{result, c.files, c.skipped})
		}
		u.calibrated(result, c.files, c.skipped)
		return nil
	}
	return cmd
}

// Files of the state directory. There is a calibration of each kind of core.
const (
	calibrationFile = "calibration.yaml"
	pointsFile      = "calibration.points"
)

// A calibration is one run of the command.
type calibration struct {
	ui      *ui
	span    time.Duration
	fresh   bool
	keep    string // the state directory of a real machine
	files   []string
	skipped []string
}

// simulate calibrates a simulated machine.
func (c *calibration) simulate(ctx context.Context, f *machineFlags, platform string) (*calibrate.Result, time.Time, error) {
	sc, _, err := f.openSim(platform, time.Second)
	if err != nil {
		return nil, time.Time{}, err
	}
	s, err := sim.New(sim.Config{Spec: sc.Machine.Spec, Seed: sc.Seed})
	if err != nil {
		return nil, time.Time{}, err
	}
	m, err := calibrate.Read(s)
	if err != nil {
		return nil, time.Time{}, cannotCalibrate(sc.Machine.Spec.Name, err)
	}
	m.Model = sc.Machine.Spec.Name
	dir, err := os.MkdirTemp("", "powerd-sim-")
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("cannot make a folder for the journal: %v", err)
	}
	defer os.RemoveAll(dir)
	j, err := sysfs.OpenJournal(dir, s, "/", "sim")
	if err != nil {
		return nil, time.Time{}, err
	}
	defer j.Close()
	load := &calibrate.Simulated{Machine: s, Bound: simBound}
	result, err := c.run(ctx, calibrate.Options{Machine: m, Journal: j, Load: load, Clock: load})
	return result, s.Now(), err
}

// host calibrates the machine that powerd runs on.
func (c *calibration) host(ctx context.Context, f *machineFlags) (*calibrate.Result, time.Time, error) {
	if f.machine == "host" && os.Geteuid() != 0 {
		return nil, time.Time{}, withHint(errors.New("cannot calibrate host: only root may read its meter and set its clocks"), "run as root")
	}
	w, err := f.open()
	if err != nil {
		return nil, time.Time{}, err
	}
	defer w.fs.Close()
	m, err := calibrate.Read(w.fs)
	if err != nil {
		return nil, time.Time{}, cannotCalibrate(w.label, err)
	}
	if w.label != "host" {
		return nil, time.Time{}, withHint(fmt.Errorf("cannot calibrate %s: the files of a captured machine answer no work", w.label), "name host, sim or sim:PLATFORM")
	}
	j, err := w.cleanJournal(c.ui)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer j.Close()
	c.keep = w.config.StateDir
	points := filepath.Join(c.keep, pointsFile)
	if c.fresh {
		if err := os.Remove(points); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, time.Time{}, fmt.Errorf("cannot drop the points measured: %v", err)
		}
	}
	store, err := calibrate.OpenStore(points, m)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer store.Close()
	result, err := c.run(ctx, calibrate.Options{Machine: m, Journal: j, Load: worker.New(walkSize(w.fs)), Clock: calibrate.Wall{}, Store: store})
	return result, time.Now(), err
}

// run plans, measures and fits.
func (c *calibration) run(ctx context.Context, o calibrate.Options) (*calibrate.Result, error) {
	plan, err := o.Machine.NewPlan(c.span)
	if err != nil {
		return nil, withHint(fmt.Errorf("cannot calibrate in %v: %v", c.span, err), "give more time with --for")
	}
	o.Plan = plan
	show := c.ui.progress("points")
	o.Progress = func(p calibrate.Progress) { show(p.Done, p.Total, p.Left, p.Point) }
	rounds := ""
	if plan.Rounds > 1 {
		rounds = fmt.Sprintf(", twice, and again while they scatter, up to %d times", plan.Rounds)
	}
	c.ui.notef("measuring %d points in about %v by %s%s", len(plan.Points), plan.Time().Round(time.Second), strings.Join(o.Machine.Meter.Names, " + "), rounds)
	if n := o.Store.Len(); n > 0 {
		c.ui.notef("%d points of an earlier run are kept; --fresh measures them anew", n)
	}
	out, err := calibrate.Run(ctx, o)
	c.ui.endProgress()
	c.ui.restored(out.Restored)
	c.skipped = out.Skipped
	if err != nil {
		if errors.Is(err, context.Canceled) && o.Store != nil {
			return nil, withHint(fmt.Errorf("cannot finish: interrupted after %d of %d points", len(out.Observations), plan.Rounds*len(plan.Points)), "run powerd calibrate again: it goes on with the next")
		}
		return nil, err
	}
	return o.Machine.Fit(out.Observations), nil
}

func cannotCalibrate(label string, err error) error {
	return withHint(fmt.Errorf("cannot calibrate %s: %s", label, strings.ReplaceAll(err.Error(), "\n", "; and ")),
		"powerd inspect shows what there is; --machine sim calibrates a simulated machine")
}

// walkSize is how many bytes memory-bound workers should walk: four times the largest
// cache, and not more than an eighth of the memory.
func walkSize(m sysfs.FS) int {
	t := topology.Read(sysfs.NewReader(m))
	size := 64 << 20
	for _, caches := range t.Caches {
		for _, c := range caches {
			if c.Size == nil {
				continue
			}
			kib, err := strconv.Atoi(strings.TrimSuffix(*c.Size, "K"))
			if err == nil {
				size = max(size, min(4*kib<<10, 1<<30))
			}
		}
	}
	var total uint64
	for _, n := range t.Nodes {
		if n.MemTotal != nil {
			total += *n.MemTotal << 10
		}
	}
	if total > 0 {
		size = min(size, int(total/8))
	}
	return size
}

// save writes platforms, one a file: the first to name, others with their first cpu in it.
func (c *calibration) save(name string, platforms []energy.Platform) error {
	for i, p := range platforms {
		file := name
		if i > 0 {
			ext := filepath.Ext(name)
			file = fmt.Sprintf("%s-cpu%d%s", strings.TrimSuffix(name, ext), p.MeasuredOn.CPUs.Min(), ext)
		}
		write, drop, err := replacing(file)
		if err == nil {
			err = write(func(w io.Writer) error {
				_, err := w.Write(configs.FormatPlatform(p))
				return err
			})
			drop()
		}
		if err != nil {
			return fmt.Errorf("cannot save the calibration: %v", err)
		}
		c.files = append(c.files, file)
	}
	return nil
}

// loadCalibrations reads what powerd calibrate has left in a state directory. A file that
// cannot be read costs itself only.
func loadCalibrations(dir string) (platforms []energy.Platform, problems []error) {
	names, err := filepath.Glob(filepath.Join(dir, "calibration*.yaml"))
	if err != nil {
		return nil, []error{err}
	}
	for _, name := range names {
		p, err := configs.LoadPlatform(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		platforms = append(platforms, p)
	}
	return platforms, problems
}
