//go:build !powerd_oci

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/launch"
	"github.com/powerd/powerd/containers/oci"
	"github.com/powerd/powerd/containers/spawn"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/units"
)

// newManageCmds are what people do with containers that powerd run made.
func newManageCmds(u *ui) []*cobra.Command {
	return []*cobra.Command{
		newExecCmd(), newPsCmd(u), newLogsCmd(u), newStatsCmd(u), newStopCmd(u), newRmCmd(u), newImagesCmd(u), newRmiCmd(u),
		newManyCmd(u, "freeze", "Freeze all processes of containers", (*launch.Launcher).Freeze),
		newManyCmd(u, "thaw", "Let frozen containers go on", (*launch.Launcher).Thaw),
	}
}

// newManyCmd does one thing with each container named, and prints the names of those
// for which it went well.
func newManyCmd(u *ui, name, short string, do func(*launch.Launcher, context.Context, string) error) *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{Use: name + " NAME...", Short: short, Args: needNames, RunE: func(cmd *cobra.Command, args []string) error {
		l, err := f.launcher()
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range args {
			if err := do(l, cmd.Context(), name); err != nil {
				errs = append(errs, err)
				continue
			}
			u.printf("%s\n", name)
		}
		return errors.Join(errs...)
	}}
	f.add(cmd)
	return cmd
}

func needNames(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usage(fmt.Errorf("cannot %s: no container is named", cmd.Name()), "`powerd ps --all` lists them")
	}
	return nil
}

func newStopCmd(u *ui) *cobra.Command {
	var after time.Duration
	cmd := newManyCmd(u, "stop", "Ask containers to end, and kill those that do not", func(l *launch.Launcher, ctx context.Context, name string) error {
		return l.Stop(ctx, name, after)
	})
	cmd.Flags().DurationVarP(&after, "time", "t", 10*time.Second, "how long to wait before the kill")
	return cmd
}

func newRmCmd(u *ui) *cobra.Command {
	var force bool
	cmd := newManyCmd(u, "rm", "Remove containers and all that is theirs", func(l *launch.Launcher, ctx context.Context, name string) error {
		return l.Remove(ctx, name, force)
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill them first; also removes what a crash has left")
	return cmd
}

func newExecCmd() *cobra.Command {
	var (
		f                launchFlags
		interactive, tty bool
		detach           bool
		env              []string
		cwd, user        string
	)
	cmd := &cobra.Command{Use: "exec [flags] NAME COMMAND [ARGS...]", Short: "Run a further program in a container",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(errors.New("cannot exec: want a container and a command"), "such as `powerd exec -it NAME sh`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.launcher()
			if err != nil {
				return err
			}
			if _, err := l.Find(args[0]); err != nil {
				return err
			}
			p, err := l.Process(args[0], user)
			if err != nil {
				return err
			}
			p.Args, p.Terminal = args[1:], tty
			p.Env = append(p.Env, env...)
			p.Cwd = cmp.Or(cwd, p.Cwd)
			if !interactive && !tty {
				defer noInput()()
			}
			signals := allSignals()
			code, err := l.Engine.Exec(args[0], oci.ExecOptions{Process: p, Detach: detach, Signals: signals})
			return ended(code, asShell(err))
		}}
	f.add(cmd)
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&interactive, "interactive", "i", false, "connect standard input")
	fl.BoolVarP(&tty, "tty", "t", false, "give it a terminal")
	fl.BoolVarP(&detach, "detach", "d", false, "return once it runs")
	fl.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE")
	fl.StringVarP(&cwd, "workdir", "w", "", "working directory")
	fl.StringVarP(&user, "user", "u", "", "NAME or UID, :GROUP or :GID")
	return cmd
}

func newPsCmd(u *ui) *cobra.Command {
	var f launchFlags
	var all, quiet bool
	cmd := &cobra.Command{Use: "ps", Short: "List containers", Args: noArgs}
	format := outputFlag(cmd, "table", "json")
	cmd.RunE = func(*cobra.Command, []string) error {
		l, err := f.launcher()
		if err != nil {
			return err
		}
		list, err := l.List()
		if err != nil {
			return err
		}
		if !all {
			list = slices.DeleteFunc(list, func(c *launch.Container) bool { return c.Status == specs.StateStopped })
		}
		switch {
		case quiet:
			for _, c := range list {
				u.printf("%s\n", c.Name)
			}
		case format.value == "json":
			if list == nil {
				list = []*launch.Container{}
			}
			return u.json(list)
		default:
			rows := [][]string{{"NAME", "STATUS", "PID", "CREATED", "IMAGE", "PORTS", "COMMAND"}}
			for _, c := range list {
				status := string(c.Status)
				if c.Status == specs.StateStopped && c.ExitCode != nil {
					status = fmt.Sprintf("exit %d", *c.ExitCode)
				}
				pid := "-"
				if c.Pid > 0 {
					pid = strconv.Itoa(c.Pid)
				}
				rows = append(rows, []string{c.Name, status, pid, ago(time.Since(c.Created)), c.Image, ports(c), short(strings.Join(c.Args, " "), 40)})
			}
			u.table(rows)
		}
		return nil
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those that have ended too")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "the names alone")
	return cmd
}

// ports are what a container publishes.
func ports(c *launch.Container) string {
	var out []string
	for _, p := range c.Ports {
		out = append(out, p.String())
	}
	return cmp.Or(short(strings.Join(out, ","), 40), "-")
}

// ago is a time that has passed, in its largest unit.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// short cuts a text to n characters, on one line.
func short(s string, n int) string {
	r := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s))
	if len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return string(r)
}

func newLogsCmd(u *ui) *cobra.Command {
	var f launchFlags
	var follow bool
	var tail int
	cmd := &cobra.Command{Use: "logs NAME", Short: "Show what a detached container wrote", Args: needNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(fmt.Errorf("cannot show the logs of %d containers at once", len(args)), "name one")
			}
			l, err := f.launcher()
			if err != nil {
				return err
			}
			log, err := l.Log(args[0], tail)
			if err != nil {
				return err
			}
			defer log.Close()
			for {
				// Whether it has ended is looked at before what it wrote is read.
				c, err := l.Find(args[0])
				over := err != nil || c.Status == specs.StateStopped
				if _, err := io.Copy(u.out, log); err != nil {
					return fmt.Errorf("cannot read the log: %v", err)
				}
				if err := u.flush(); err != nil || !follow || over {
					return err
				}
				select {
				case <-cmd.Context().Done():
					return nil
				case <-time.After(100 * time.Millisecond):
				}
			}
		}}
	f.add(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until it ends")
	cmd.Flags().IntVarP(&tail, "tail", "n", -1, "the last lines only")
	return cmd
}

// usageRow is a line of powerd stats.
type usageRow struct {
	Name   string  `json:"name"`
	CPUs   float64 `json:"cpus"` // used, on average since the last line
	Time   float64 `json:"cpu_seconds"`
	Memory uint64  `json:"memory_bytes"`
	Limit  uint64  `json:"memory_limit_bytes,omitempty"`
	Pids   uint64  `json:"pids"`
	// Energy as the daemon charged it; absent where none runs.
	Energy *units.Energy `json:"energy_uj,omitempty"`
}

func newStatsCmd(u *ui) *cobra.Command {
	var f launchFlags
	var once bool
	var interval time.Duration
	var socket string
	cmd := &cobra.Command{Use: "stats [NAME...]", Short: "Show what containers use, in cpu time, memory and joules"}
	format := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := f.launcher()
		if err != nil {
			return err
		}
		if interval < 100*time.Millisecond {
			return usage(fmt.Errorf("cannot show statistics every %v", interval), "want 100ms or more")
		}
		if socket == "" {
			if socket, err = daemonSocket(); err != nil {
				return err
			}
		}
		before := map[string]float64{}
		at := time.Now()
		for first := true; ; first = false {
			rows, err := usageOf(cmd.Context(), l, args, socket, before, time.Since(at))
			if err != nil {
				return err
			}
			at = time.Now()
			if !first || !once { // the first has no average yet
				if err := u.usage(rows, format.value); err != nil {
					return err
				}
				if err := u.flush(); err != nil {
					return err
				}
			}
			if !first && once {
				return nil
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(interval):
			}
		}
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&once, "once", false, "show it once, after an interval")
	cmd.Flags().DurationVar(&interval, "interval", time.Second, "time between two lines")
	cmd.Flags().StringVar(&socket, "socket", "", "the daemon's socket (default from the configuration)")
	return cmd
}

// usageOf reads what containers, all that run if none is named, have used.
func usageOf(ctx context.Context, l *launch.Launcher, names []string, socket string, before map[string]float64, since time.Duration) ([]usageRow, error) {
	if len(names) == 0 {
		list, err := l.List()
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			if c.Status == specs.StateRunning || c.Status == oci.StatePaused {
				names = append(names, c.Name)
			}
		}
	} else {
		for _, name := range names {
			if _, err := l.Find(name); err != nil {
				return nil, err
			}
		}
	}
	charged := map[string]daemon.ContainerState{}
	if s, err := daemon.Fetch(ctx, socket); err == nil {
		for _, c := range s.Containers {
			charged[filepath.Base(c.ID)] = c
		}
	}
	var rows []usageRow
	for _, name := range names {
		s, err := l.Engine.Stats(name)
		if err != nil {
			if c, ferr := l.Find(name); ferr != nil || c.Status == specs.StateStopped {
				continue // it has ended since
			}
			return nil, err
		}
		r := usageRow{Name: name, Time: float64(s.CPU.Usage.Total) / 1e9, Memory: s.Memory.Usage.Usage, Limit: s.Memory.Usage.Limit, Pids: s.Pids.Current}
		if r.Limit >= 1<<62 {
			r.Limit = 0
		}
		if last, ok := before[name]; ok && since > 0 {
			r.CPUs = (r.Time - last) / since.Seconds()
		}
		before[name] = r.Time
		if c, ok := charged[name]; ok {
			r.Energy = &c.Energy
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// usage prints a table of what containers use.
func (u *ui) usage(rows []usageRow, format string) error {
	if format == "json" {
		if rows == nil {
			rows = []usageRow{}
		}
		return u.json(rows)
	}
	table := [][]string{{"NAME", "CPUS", "CPU TIME", "MEMORY", "PIDS", "ENERGY"}}
	for _, r := range rows {
		memory := byteSize(r.Memory)
		if r.Limit > 0 {
			memory += " of " + byteSize(r.Limit)
		}
		joules := "-"
		if r.Energy != nil {
			joules = r.Energy.String()
		}
		table = append(table, []string{r.Name, fmt.Sprintf("%.2f", r.CPUs), fmt.Sprintf("%.2f s", r.Time), memory, strconv.FormatUint(r.Pids, 10), joules})
	}
	u.table(table)
	return nil
}

// byteSize is a number of bytes, in three digits or so.
func byteSize(n uint64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < 4 {
		v /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.*f %s", max(0, 2-len(strconv.Itoa(int(v)))+1), v, []string{"", "KiB", "MiB", "GiB", "TiB"}[unit])
}

func newImagesCmd(u *ui) *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{Use: "images", Short: "List images that are here", Args: noArgs}
	format := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		store, err := f.images()
		if err != nil {
			return err
		}
		list, err := store.List(cmd.Context())
		if err != nil {
			return err
		}
		if format.value == "json" {
			return u.json(list)
		}
		rows := [][]string{{"IMAGE", "DIGEST", "PLATFORM", "SIZE"}}
		for _, i := range list {
			rows = append(rows, []string{i.Ref, cmp.Or(short(i.Digest, 19), "-"), cmp.Or(i.Platform, "-"), byteSize(uint64(i.Size))})
		}
		u.table(rows)
		return nil
	}
	f.add(cmd)
	return cmd
}

func newRmiCmd(u *ui) *cobra.Command {
	var f launchFlags
	var prune bool
	cmd := &cobra.Command{Use: "rmi [IMAGE...]", Short: "Remove images, and what no image or container needs any more",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !prune {
				return usage(errors.New("cannot remove images: none is named"), "`powerd images` lists them; --prune removes only what nothing needs")
			}
			store, err := f.images()
			if err != nil {
				return err
			}
			for _, ref := range args {
				if err := store.Remove(cmd.Context(), ref); err != nil {
					return err
				}
			}
			p, err := store.Prune(cmd.Context())
			if err != nil {
				return err
			}
			u.notef("removed %d images, %d layers, %s", p.Images, p.Layers, byteSize(uint64(p.Bytes)))
			return nil
		}}
	f.add(cmd)
	cmd.Flags().BoolVar(&prune, "prune", false, "name none, and remove what nothing needs")
	return cmd
}

// asShell gives an error the exit code by which shells tell that a program was not
// found, 127, or cannot be run, 126.
func asShell(err error) error {
	ce := new(spawn.CallError)
	switch {
	case !errors.As(err, &ce) || !strings.HasPrefix(ce.What, "run "):
		return err
	case ce.Errno == unix.ENOENT || ce.Errno == unix.ENOTDIR:
		return coded{err, 127}
	}
	return coded{err, 126}
}
