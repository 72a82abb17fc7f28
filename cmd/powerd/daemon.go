//go:build !powerd_oci

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/internal/counters"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/energy"
	"github.com/powerd/powerd/internal/sysfs"
)

// machineFlags are the flags of every command that works on a machine.
type machineFlags struct {
	machine  string
	config   string
	stateDir string
	socket   string
	seed     uint64 // of a simulated machine
}

func (f *machineFlags) add(cmd *cobra.Command, machines string) {
	cmd.Flags().StringVar(&f.machine, "machine", "host", machines)
	cmd.Flags().StringVar(&f.config, "config", "", "configuration file (default /etc/powerd/powerd.yaml and conf.d/*.yaml)")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "folder of the journal (default from the configuration)")
	cmd.Flags().StringVar(&f.socket, "socket", "", "socket for status (default from the configuration)")
}

// A world is a machine with what a command needs to work on it.
type world struct {
	fs       *sysfs.Dir
	label    string
	root     string
	boot     string
	config   configs.Config
	platform *energy.Platform
	// calibrated is what powerd calibrate has left; problems are why some cannot be read.
	calibrated []energy.Platform
	problems   []error
}

func (f *machineFlags) open() (*world, error) {
	folder, label := "/", "host"
	if _, ok := f.simulated(); ok {
		return nil, usage(fmt.Errorf("cannot use --machine %s: a simulated machine is gone when its run ends", f.machine), "name host, or the root of a captured machine")
	}
	if f.machine != "host" {
		abs, err := filepath.Abs(f.machine)
		if err != nil {
			return nil, fmt.Errorf("cannot open machine root: %v", err)
		}
		folder, label = abs, abs
	}
	config, err := configs.Load(f.config, filepath.Join(folder, "etc"))
	if err != nil {
		return nil, err
	}
	if label != "host" {
		// A captured machine's journal must not mix with the host's.
		sum := sha256.Sum256([]byte(folder))
		name := "powerd-" + hex.EncodeToString(sum[:6])
		config.StateDir = filepath.Join(os.TempDir(), name)
		config.Socket = filepath.Join(os.TempDir(), name, "powerd.sock")
	}
	if f.stateDir != "" {
		config.StateDir = f.stateDir
	}
	if f.socket != "" {
		config.Socket = f.socket
	}
	w := &world{label: label, root: folder, config: config}
	if config.Platform != "" {
		p, err := configs.LoadPlatform(config.Platform)
		if err != nil {
			return nil, err
		}
		w.platform = &p
	}
	w.calibrated, w.problems = loadCalibrations(config.StateDir)
	if w.fs, err = openMachine(folder); err != nil {
		return nil, err
	}
	if boot := sysfs.NewReader(w.fs).Text("proc/sys/kernel/random/boot_id"); boot != nil {
		w.boot = *boot
	}
	if _, err := w.fs.ReadDir("sys/devices/system/cpu"); err != nil {
		w.fs.Close()
		return nil, withHint(fmt.Errorf("cannot govern %s: there is no sys/devices/system/cpu below it", folder),
			"mount sysfs there, or name the root of a captured machine, or sim")
	}
	return w, nil
}

func (w *world) journal() (*sysfs.Journal, error) {
	j, err := sysfs.OpenJournal(w.config.StateDir, w.fs, w.root, w.boot)
	switch {
	case errors.Is(err, sysfs.ErrJournalBusy):
		return nil, withHint(err, "only one powerd can govern a machine: stop the other (systemctl stop powerd), or use --dry-run")
	case errors.Is(err, os.ErrPermission):
		return nil, withHint(err, "run as root, or name a folder you may write with --state-dir")
	}
	return j, err
}

// cleanJournal is the journal, once it has put back what an earlier powerd left that ended
// without restoring.
func (w *world) cleanJournal(u *ui) (*sysfs.Journal, error) {
	j, err := w.journal()
	if err != nil {
		return nil, err
	}
	if n := j.Pending(); n > 0 {
		u.notef("restoring %d files that an earlier powerd left", n)
		outcomes, err := daemon.Restore(j, w.config.Reclaim)
		u.restored(outcomes)
		if err != nil {
			j.Close()
			return nil, withHint(err, "see what holds these files, or give them up by removing "+filepath.Join(w.config.StateDir, "journal"))
		}
	}
	return j, nil
}

const machinesHelp = "the machine: host, sim, sim:PLATFORM, or the root of a captured one"

func newDaemonCmd(u *ui) *cobra.Command {
	var f machineFlags
	var span time.Duration
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "daemon",
		Short: "Govern a machine: observe, decide, apply, account, until stopped",
		Long: `daemon looks at the machine once per interval, learns what its work costs, decides
where containers run and in which band of frequencies, applies the difference and
charges the energy. At the end every file it changed holds its first value again.

On a simulated machine time is simulated too: the daemon that runs on real machines
governs its files for the time given (default 60s), and then the same work runs under
each of the kernel's governors, for comparison. Those joules are modelled.`,
		Args: noArgs,
	}
	f.add(cmd, machinesHelp)
	cmd.Flags().DurationVar(&span, "for", 0, "stop after this long (default: when told to)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "decide but write nothing")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "seed of a simulated machine's work")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if span < 0 {
			return usage(fmt.Errorf("cannot run for %v", span), "give a time such as 60s")
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if platform, ok := f.simulated(); ok {
			c, config, err := f.openSim(platform, cmp.Or(span, simSpan))
			if err != nil {
				return err
			}
			return governSim(ctx, u, c, config, dryRun)
		}
		if span > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, span)
			defer cancel()
		}
		w, err := f.open()
		if err != nil {
			return err
		}
		defer w.fs.Close()
		return govern(ctx, u, w, dryRun)
	}
	return cmd
}

// govern runs the daemon on a machine until the context ends, then puts
// everything back.
func govern(ctx context.Context, u *ui, w *world, dryRun bool) (err error) {
	o := daemon.Options{FS: w.fs, Label: w.label, Config: w.config, Platform: w.platform, Calibrated: w.calibrated}
	if w.label == "host" {
		o.Counters = counters.Host(w.root)
	}
	for _, p := range w.problems {
		u.notef("left out a calibration: %v", p)
	}
	if !dryRun {
		if err := ownLeaf(); err != nil {
			return err
		}
		j, err := w.cleanJournal(u)
		if err != nil {
			return err
		}
		defer j.Close()
		o.Journal = j
	}
	d := daemon.New(o)
	defer func() {
		notify(sdnotify.SdNotifyStopping)
		outcomes, cerr := d.Close()
		u.restored(outcomes)
		err = errors.Join(err, cerr)
	}()
	l, err := daemon.Listen(w.config.Socket)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	serveCtx, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	go func() { served <- d.Serve(serveCtx, l) }()
	defer func() {
		stopServing()
		err = errors.Join(err, <-served)
	}()
	d.Run(ctx, func(s *daemon.Snapshot) {
		if s.Tick == 1 {
			u.first(s)
			notify(sdnotify.SdNotifyReady)
		}
		u.tick(s)
		notify(sdnotify.SdNotifyWatchdog + "\nSTATUS=" + oneLineStatus(s))
	})
	return nil
}

// notify tells systemd; without a service manager it does nothing.
func notify(state string) {
	_, _ = sdnotify.SdNotify(false, state) // a manager that cannot hear is not ours to mend
}

func oneLineStatus(s *daemon.Snapshot) string {
	var pools []string
	for _, p := range s.Plan.Pools {
		pools = append(pools, fmt.Sprintf("%s on %s", p.Class, p.CPUs))
	}
	if pools == nil {
		pools = []string{"no container of any class"}
	}
	return fmt.Sprintf("tick %d, %v (%s), %s", s.Tick, s.Energy.PowerUW, s.Energy.Method, strings.Join(pools, ", "))
}

func newRestoreCmd(u *ui) *cobra.Command {
	var f machineFlags
	var reclaim bool
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Put back every file that a powerd which did not end well has changed",
		Args:  noArgs,
	}
	f.add(cmd, "the machine: host, or the root of a captured one")
	cmd.Flags().BoolVar(&reclaim, "reclaim", false, "also put back what others changed after powerd")
	cmd.RunE = func(*cobra.Command, []string) error {
		w, err := f.open()
		if err != nil {
			return err
		}
		defer w.fs.Close()
		if _, err := os.Stat(filepath.Join(w.config.StateDir, "journal")); errors.Is(err, os.ErrNotExist) {
			u.printf("nothing to restore: there is no journal in %s\n", w.config.StateDir)
			return nil
		}
		j, err := w.journal()
		if err != nil {
			return err
		}
		defer j.Close()
		outcomes, err := daemon.Restore(j, reclaim || w.config.Reclaim)
		u.restored(outcomes)
		if len(outcomes) == 0 {
			u.printf("nothing to restore\n")
		}
		return err
	}
	return cmd
}
