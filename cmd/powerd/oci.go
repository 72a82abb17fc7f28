package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/group"
	"github.com/powerd/powerd/containers/oci"
)

// runOCI is powerd as an OCI runtime: the command line that engines use with runc.
func runOCI(args []string, in io.Reader, out, errs io.Writer) int {
	var f ociFlags
	errs = io.MultiWriter(errs, &f.said)
	u := newUI(out, errs)
	code := execute(u, newOCICmd(u, &f), args, in, out, errs)
	if text := strings.TrimSpace(f.said.String()); text != "" && f.log != "" {
		if err := f.toLog("error", text); err != nil {
			u.fail(err)
		}
	}
	return code
}

// ociFlags are the global flags.
type ociFlags struct {
	engine         oci.Engine
	manager        string
	systemd, debug bool
	log, logFormat string
	said           strings.Builder // on standard error
}

// toLog appends what was said to the log that an engine reads: conmon and containerd find
// there why a command failed.
func (f *ociFlags) toLog(level, text string) error {
	line := fmt.Sprintf("time=%q level=%s msg=%q\n", time.Now().Format(time.RFC3339), level, text)
	if f.logFormat == "json" {
		data, err := json.Marshal(map[string]string{"level": level, "msg": text, "time": time.Now().Format(time.RFC3339)})
		if err != nil {
			return err
		}
		line = string(data) + "\n"
	}
	file, err := os.OpenFile(f.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = file.WriteString(line)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write the log: %v", err)
	}
	return nil
}

func newOCICmd(u *ui, f *ociFlags) *cobra.Command {
	root := &cobra.Command{
		Use:           "powerd-oci",
		Short:         "Run containers from OCI bundles",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			f.engine.Cgroups.Systemd, f.engine.Cgroups.Rootless = f.systemd, os.Geteuid() != 0
			f.engine.Placed = placed
			f.engine.Warn = func(text string) {
				if f.log == "" {
					u.notef("%s", text)
				} else if err := f.toLog("warning", "powerd: "+text); err != nil {
					u.notef("%s", err)
				}
			}
			if f.logFormat != "text" && f.logFormat != "json" {
				return usage(fmt.Errorf("cannot log as %q", f.logFormat), "want text or json")
			}
			switch f.manager {
			case "cgroupfs":
			case "systemd":
				f.engine.Cgroups.Systemd = true
			case "none", "disabled": // crun's word
				f.engine.NoCgroups = true
			default:
				return usage(fmt.Errorf("cannot use cgroup manager %q", f.manager), "want cgroupfs, systemd or none")
			}
			return nil
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	// Engines read these lines of runc's.
	root.SetVersionTemplate("{{.Name}} version {{.Version}}\ncommit: {{.Version}}\nspec: " + specs.Version + "\n")
	root.PersistentFlags().StringVar(&f.engine.Root, "root", defaultRoot(), "folder of the containers' state")
	root.PersistentFlags().StringVar(&f.manager, "cgroup-manager", "cgroupfs", "who makes cgroups: cgroupfs, systemd, or none to run without limits")
	root.PersistentFlags().StringVar(&f.log, "log", "", "file that errors are appended to")
	root.PersistentFlags().StringVar(&f.logFormat, "log-format", "text", "format of the log: text, json")
	root.PersistentFlags().BoolVar(&f.systemd, "systemd-cgroup", false, "let systemd make the cgroups")
	root.PersistentFlags().BoolVar(&f.debug, "debug", false, "accepted as other runtimes do; there is nothing to add")
	one := func(use, short string, do func(ctx context.Context, id string) error) *cobra.Command {
		return &cobra.Command{Use: use + " ID", Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error { return do(cmd.Context(), args[0]) }}
	}
	root.AddCommand(newOCICreateCmd(f), newOCIRunCmd(f), newOCIExecCmd(f), newOCIStateCmd(u, f), newOCIListCmd(u, f), newOCIPsCmd(u, f), newOCISpecCmd(), newOCIFeaturesCmd(u), newOCIUpdateCmd(f), newOCIEventsCmd(u, f),
		one("start", "Let a created container's program run", f.engine.Start),
		one("pause", "Freeze all processes of a container", f.engine.Pause),
		one("resume", "Let a paused container go on", f.engine.Resume),
		newOCIKillCmd(f), newOCIDeleteCmd(f), newNotBuiltCmd("checkpoint"), newNotBuiltCmd("restore"))
	return root
}

// newNotBuiltCmd refuses by name what engines ask of runc, and is not here.
func newNotBuiltCmd(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("cannot %s a container: powerd-oci does not use CRIU", name)
		}}
}

func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "`powerd --help` lists the commands"
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean `powerd " + near[0] + "`?"
	}
	return usage(fmt.Errorf("cannot run %q: there is no such command", args[0]), hint)
}

// defaultRoot is where the state is: an ordinary user's is the user's.
func defaultRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "powerd-oci")
	}
	return "/run/powerd-oci"
}

// createFlags are the flags of create and run.
type createFlags struct {
	bundle, pidFile string
	noPivot         bool
	oci.CreateOptions
}

func (c *createFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.bundle, "bundle", "b", ".", "folder of config.json")
	cmd.Flags().StringVar(&c.pidFile, "pid-file", "", "file for the pid of the container's first process")
	cmd.Flags().StringVar(&c.ConsoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	cmd.Flags().IntVar(&c.Preserve, "preserve-fds", 0, "pass on this many descriptors above 2")
	cmd.Flags().BoolVar(&c.KeepKeyring, "no-new-keyring", false, "keep the session keyring")
	cmd.Flags().Bool("no-subreaper", false, "accepted as other runtimes do; it is none")
	cmd.Flags().BoolVar(&c.noPivot, "no-pivot", false, "refused: a root is made by pivot_root only")
}

// options are the engine's, with the pid file written once there is a pid.
func (c *createFlags) options() (oci.CreateOptions, error) {
	o := c.CreateOptions
	if c.noPivot {
		return o, usage(errors.New("cannot run without pivot_root: a chroot can be left"), "put the root on a file system that can be a mount point, not on the initramfs")
	}
	if err := preserve(&o.Preserve); err != nil {
		return o, err
	}
	if n := os.Getenv("LISTEN_FDS"); n != "" { // socket activation is for the container's first process
		o.Env = append(o.Env, "LISTEN_FDS="+n, "LISTEN_PID=1")
		if names := os.Getenv("LISTEN_FDNAMES"); names != "" {
			o.Env = append(o.Env, "LISTEN_FDNAMES="+names)
		}
	}
	if c.pidFile != "" {
		o.Started = writePid(c.pidFile)
	}
	return o, nil
}

// preserve adds the descriptors of socket activation, and looks whether they are there.
func preserve(n *int) error {
	if v := os.Getenv("LISTEN_FDS"); v != "" {
		more, err := strconv.Atoi(v)
		if err != nil || more < 0 {
			return fmt.Errorf("cannot pass descriptors on: LISTEN_FDS is %q", v)
		}
		*n = max(*n, more)
	}
	if *n < 0 || *n > 1024 {
		return usage(fmt.Errorf("cannot pass on %d descriptors", *n), "want 0 to 1024")
	}
	for fd := 3; fd < 3+*n; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 { // such are powerd's own
			return fmt.Errorf("cannot pass on descriptor %d: it is not open", fd)
		}
	}
	return nil
}

func writePid(file string) func(int) error {
	return func(pid int) error {
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("cannot write the pid file: %v", err)
		}
		return nil
	}
}

func newOCICreateCmd(f *ociFlags) *cobra.Command {
	var c createFlags
	cmd := &cobra.Command{Use: "create ID", Short: "Make a container up to its program", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.options()
			if err != nil {
				return err
			}
			_, err = f.engine.Create(cmd.Context(), args[0], c.bundle, o)
			return err
		}}
	c.add(cmd)
	return cmd
}

// allSignals are the signals that reach powerd, to its end. Go's runtime takes two
// switches of threads for each of the 60 that it is asked for, milliseconds in all: so
// those that people end programs with come first and beside what is done meanwhile, the
// rest when a short run is over.
func allSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	go signal.Notify(signals, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	time.AfterFunc(20*time.Millisecond, func() { signal.Notify(signals) })
	return signals
}

func newOCIRunCmd(f *ociFlags) *cobra.Command {
	var c createFlags
	cmd := &cobra.Command{Use: "run ID", Short: "Create, start, wait, delete; ends with the program's exit code", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.options()
			if err != nil {
				return err
			}
			code, err := f.engine.Run(cmd.Context(), args[0], c.bundle, o, allSignals())
			return ended(code, err)
		}}
	c.add(cmd)
	cmd.Flags().BoolVarP(&c.Detach, "detach", "d", false, "return once the program runs")
	cmd.Flags().BoolVar(&c.Keep, "keep", false, "keep the container when its program has ended")
	return cmd
}

func newOCIExecCmd(f *ociFlags) *cobra.Command {
	var (
		o                        oci.ExecOptions
		file, cwd, user, pidFile string
		env, caps                []string
		groups                   []uint
		tty, noNewPrivileges     bool
		apparmor, label          string
	)
	cmd := &cobra.Command{Use: "exec ID PROGRAM [ARGS...]", Short: "Run a further process in a running container", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file != "" {
				data, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("cannot read the process: %v", err)
				}
				o.Process = &specs.Process{}
				if err := json.Unmarshal(data, o.Process); err != nil {
					return fmt.Errorf("cannot use %s: %v", file, err)
				}
			} else {
				if len(args) < 2 {
					return usage(errors.New("cannot exec: no program is given"), "give a program, or --process FILE")
				}
				spec, err := f.engine.Spec(args[0])
				if err != nil {
					return err
				}
				p := spec.Process
				p.Args, p.Terminal = args[1:], tty
				p.Env = append(p.Env, env...)
				if cwd != "" {
					p.Cwd = cwd
				}
				if user != "" {
					u, err := parseUser(user)
					if err != nil {
						return usage(err, "want UID or UID:GID")
					}
					p.User.UID, p.User.GID = u.UID, u.GID
				}
				for _, g := range groups {
					p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(g))
				}
				if cmd.Flags().Changed("no-new-privs") {
					p.NoNewPrivileges = noNewPrivileges
				}
				if apparmor != "" {
					p.ApparmorProfile = apparmor
				}
				if label != "" {
					p.SelinuxLabel = label
				}
				if len(caps) > 0 {
					if p.Capabilities == nil {
						p.Capabilities = &specs.LinuxCapabilities{}
					}
					c := p.Capabilities
					c.Bounding, c.Effective, c.Permitted = append(c.Bounding, caps...), append(c.Effective, caps...), append(c.Permitted, caps...)
				}
				o.Process = p
			}
			if err := preserve(&o.Preserve); err != nil {
				return err
			}
			if pidFile != "" {
				o.Started = writePid(pidFile)
			}
			o.Signals = allSignals()
			code, err := f.engine.Exec(args[0], o)
			return ended(code, err)
		}}
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.StringVarP(&file, "process", "p", "", "file with the process, as in config.json")
	fl.StringVar(&o.ConsoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	fl.StringVar(&pidFile, "pid-file", "", "file for the process' pid")
	fl.BoolVarP(&o.Detach, "detach", "d", false, "return once the program runs")
	fl.BoolVarP(&tty, "tty", "t", false, "give it a terminal")
	fl.StringVar(&cwd, "cwd", "", "working directory in the container")
	fl.StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE for the environment")
	fl.StringVarP(&user, "user", "u", "", "UID or UID:GID")
	fl.UintSliceVarP(&groups, "additional-gids", "g", nil, "further groups")
	fl.StringArrayVarP(&caps, "cap", "c", nil, "further capabilities, such as CAP_KILL")
	fl.BoolVar(&noNewPrivileges, "no-new-privs", false, "set no_new_privs")
	fl.StringVar(&apparmor, "apparmor", "", "AppArmor profile")
	fl.StringVar(&label, "process-label", "", "SELinux label")
	fl.StringVar(&o.Cgroup, "cgroup", "", "cgroup below the container's to run in, such as /sub")
	fl.IntVar(&o.Preserve, "preserve-fds", 0, "pass on this many descriptors above 2")
	return cmd
}

// parseUser reads UID or UID:GID.
func parseUser(s string) (u specs.User, err error) {
	uid, gid, both := strings.Cut(s, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err == nil {
		u.UID = uint32(n)
		if both {
			n, err = strconv.ParseUint(gid, 10, 32)
			u.GID = uint32(n)
		}
	}
	if err != nil {
		return u, fmt.Errorf("cannot use user %q: it is no number", s)
	}
	return u, nil
}

func newOCIPsCmd(u *ui, f *ociFlags) *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "ps ID [PS-OPTIONS...]", Short: "List a container's processes, by their pids outside, as ps(1) with options (default -ef)", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			pids, err := f.engine.Pids(args[0])
			if err != nil {
				return err
			}
			switch format {
			case "json":
				data, err := json.Marshal(pids)
				u.printf("%s\n", data)
				return err
			case "table":
				options := args[1:]
				if len(options) == 0 {
					options = []string{"-ef"}
				}
				out, err := exec.Command("ps", options...).Output()
				if err != nil {
					return fmt.Errorf("cannot list the processes of container %s: ps: %v (Debian's package is procps)", args[0], err)
				}
				table, err := onlyPids(string(out), pids)
				if err != nil {
					return fmt.Errorf("cannot list the processes of container %s: %v", args[0], err)
				}
				u.printf("%s", table)
				return nil
			}
			return usage(fmt.Errorf("cannot list as %q", format), "want table or json")
		}}
	cmd.Flags().SetInterspersed(false) // what follows the id is ps'
	cmd.Flags().StringVarP(&format, "format", "f", "table", "format: table, json")
	return cmd
}

// onlyPids leaves of a table of ps(1) its head and the lines of some processes.
func onlyPids(table string, pids []int) (string, error) {
	head, rows, _ := strings.Cut(table, "\n")
	at := slices.Index(strings.Fields(head), "PID")
	if at < 0 {
		return "", fmt.Errorf("ps shows no column PID, but %q", head)
	}
	var out strings.Builder
	out.WriteString(head + "\n")
	for row := range strings.Lines(rows) {
		words := strings.Fields(row)
		if len(words) <= at {
			continue
		}
		if pid, err := strconv.Atoi(words[at]); err == nil && slices.Contains(pids, pid) {
			out.WriteString(row)
		}
	}
	return out.String(), nil
}

func newOCIUpdateCmd(f *ociFlags) *cobra.Command {
	var (
		file                      string
		share, period             uint64
		quota, idle, pid          int64
		memory, reservation, swap string
		burst                     uint64
		cpus, mems                string
		weight                    uint16
	)
	cmd := &cobra.Command{Use: "update ID", Short: "Change the limits of a container", Args: cobra.ExactArgs(1)}
	fl := cmd.Flags()
	fl.StringVarP(&file, "resources", "r", "", "file with linux.resources as JSON, - for standard input")
	fl.Uint64Var(&share, "cpu-share", 0, "shares of cpu time")
	fl.Uint64Var(&period, "cpu-period", 0, "period of the quota, in us")
	fl.Int64Var(&quota, "cpu-quota", 0, "cpu time in a period, in us; -1 for no limit")
	fl.Uint64Var(&burst, "cpu-burst", 0, "unused quota that may be saved up, in us")
	fl.Int64Var(&idle, "cpu-idle", 0, "1: runs only where others leave cpu time")
	fl.StringVar(&cpus, "cpuset-cpus", "", "cpus it may run on")
	fl.StringVar(&mems, "cpuset-mems", "", "memory nodes it may use")
	fl.StringVar(&memory, "memory", "", "memory limit in bytes, or such as 512m; -1 for none")
	fl.StringVar(&reservation, "memory-reservation", "", "memory that is left to it, in bytes, or such as 512m")
	fl.StringVar(&swap, "memory-swap", "", "limit of memory and swap together, in bytes, or such as 1g; -1 for none")
	fl.Int64Var(&pid, "pids-limit", 0, "number of processes; -1 for no limit")
	fl.Uint16Var(&weight, "blkio-weight", 0, "weight of input and output, 10 to 1000")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var r specs.LinuxResources
		if file != "" {
			in := cmd.InOrStdin()
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return fmt.Errorf("cannot read the limits: %v", err)
				}
				defer f.Close()
				in = f
			}
			if err := json.NewDecoder(in).Decode(&r); err != nil {
				return fmt.Errorf("cannot use the limits of %s: %v", file, err)
			}
		} else {
			r.CPU, r.Memory = &specs.LinuxCPU{Cpus: cpus, Mems: mems}, &specs.LinuxMemory{}
			for name, set := range map[string]func(){
				"cpu-share": func() { r.CPU.Shares = &share }, "cpu-period": func() { r.CPU.Period = &period }, "cpu-quota": func() { r.CPU.Quota = &quota },
				"cpu-burst": func() { r.CPU.Burst = &burst }, "cpu-idle": func() { r.CPU.Idle = &idle },
				"pids-limit": func() { r.Pids = &specs.LinuxPids{Limit: &pid} }, "blkio-weight": func() { r.BlockIO = &specs.LinuxBlockIO{Weight: &weight} },
			} {
				if fl.Changed(name) {
					set()
				}
			}
			for _, b := range []struct {
				name, text string
				to         **int64
			}{{"memory", memory, &r.Memory.Limit}, {"memory-reservation", reservation, &r.Memory.Reservation}, {"memory-swap", swap, &r.Memory.Swap}} {
				if fl.Changed(b.name) {
					n, err := parseBytes(b.text)
					if err != nil || n == 0 {
						return usage(fmt.Errorf("cannot use --%s %q: it is no number of bytes", b.name, b.text), "give bytes, or a number with k, m or g")
					}
					*b.to = &n
				}
			}
		}
		return f.engine.Update(cmd.Context(), args[0], &r)
	}
	return cmd
}

// parseBytes reads 1024, 512k, 64m, 2g; "" is 0, no wish.
func parseBytes(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	shift := 0
	digits := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	if i := strings.IndexAny(digits, "kmgt"); i >= 0 && i == len(digits)-1 {
		shift = 10 * (strings.IndexByte("kmgt", digits[i]) + 1)
		digits = digits[:i]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < -1 || n == 0 || n == -1 && shift > 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no number of bytes", s)
	}
	return n << shift, nil
}

func newOCIEventsCmd(u *ui, f *ociFlags) *cobra.Command {
	var once bool
	var interval time.Duration
	cmd := &cobra.Command{Use: "events ID", Short: "Show what a container uses, and when it runs out of memory", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if interval <= 0 {
				return usage(fmt.Errorf("cannot show events every %v", interval), "want an interval above 0")
			}
			show := func(kind string, data any) error {
				line, err := json.Marshal(group.Event{Type: kind, ID: args[0], Data: data})
				if err != nil {
					return err
				}
				u.printf("%s\n", line)
				return u.flush()
			}
			stats := func() error {
				s, err := f.engine.Stats(args[0])
				if err != nil {
					return err
				}
				return show("stats", s)
			}
			if once {
				return stats()
			}
			oom, err := f.engine.OOM(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				select {
				case _, running := <-oom:
					if !running {
						return nil
					}
					if err := show("oom", nil); err != nil {
						return err
					}
				case <-tick.C:
					if err := stats(); err != nil {
						return err
					}
				}
			}
		}}
	cmd.Flags().BoolVar(&once, "stats", false, "show what it uses now, and end")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two statistics")
	return cmd
}

func newOCIFeaturesCmd(u *ui) *cobra.Command {
	return &cobra.Command{Use: "features", Short: "Show what this runtime can do", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return u.json(oci.Features()) }}
}

func newOCISpecCmd() *cobra.Command {
	var bundle string
	cmd := &cobra.Command{Use: "spec", Short: "Write a config.json to start from", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			data, err := json.MarshalIndent(oci.DefaultSpec(), "", "\t")
			if err != nil {
				return err
			}
			name := filepath.Join(bundle, "config.json")
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err == nil {
				_, err = f.Write(append(data, '\n'))
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				return fmt.Errorf("cannot write a config: %v", err)
			}
			return nil
		}}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "folder to write it to")
	return cmd
}

func newOCIStateCmd(u *ui, f *ociFlags) *cobra.Command {
	return &cobra.Command{Use: "state ID", Short: "Show what a container is doing", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := f.engine.State(args[0])
			if err != nil {
				return err
			}
			return u.json(s)
		}}
}

func newOCIListCmd(u *ui, f *ociFlags) *cobra.Command {
	var format string
	var quiet bool
	cmd := &cobra.Command{Use: "list", Short: "List containers", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := f.engine.List()
			if err != nil {
				return err
			}
			if quiet {
				for _, s := range all {
					u.printf("%s\n", s.ID)
				}
				return nil
			}
			switch format {
			case "json":
				data, err := json.Marshal(all)
				u.printf("%s\n", data)
				return err
			case "table":
				rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE"}}
				for _, s := range all {
					rows = append(rows, []string{s.ID, strconv.Itoa(s.Pid), string(s.Status), s.Bundle})
				}
				u.table(rows)
				return nil
			}
			return usage(fmt.Errorf("cannot list as %q", format), "want table or json")
		}}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "format: table, json")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "the ids alone")
	return cmd
}

func newOCIKillCmd(f *ociFlags) *cobra.Command {
	var all bool
	cmd := &cobra.Command{Use: "kill ID [SIGNAL]", Short: "Send a signal to a container's first process (default TERM)", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			name := "TERM"
			if len(args) == 2 {
				name = args[1]
			}
			sig, err := oci.ParseSignal(name)
			if err != nil {
				return usage(err, "give a name such as TERM or SIGTERM, or a number")
			}
			return f.engine.Kill(args[0], sig, all)
		}}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all its processes")
	return cmd
}

func newOCIDeleteCmd(f *ociFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete ID", Short: "Remove a stopped container and all that is its", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.engine.Delete(cmd.Context(), args[0], force) }}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first; also removes what a crash has left")
	return cmd
}
