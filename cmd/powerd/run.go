//go:build !powerd_oci

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers/group"
	"github.com/powerd/powerd/containers/images"
	"github.com/powerd/powerd/containers/launch"
	"github.com/powerd/powerd/containers/network"
	"github.com/powerd/powerd/containers/oci"
	"github.com/powerd/powerd/internal/daemon"
)

// launchFlags say where people's containers are.
type launchFlags struct {
	dir, run, manager, subnet string
}

func (f *launchFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.dir, "containers-dir", "/var/lib/powerd", "folder of images and containers")
	cmd.Flags().StringVar(&f.run, "run-dir", "/run/powerd", "folder of what does not outlive a boot")
	cmd.Flags().StringVar(&f.subnet, "subnet", network.DefaultSubnet.String(), "addresses of containers on the bridge")
	cmd.Flags().StringVar(&f.manager, "cgroup-manager", "cgroupfs", "who makes cgroups: cgroupfs, systemd, or none to run without limits")
}

func (f *launchFlags) launcher() (*launch.Launcher, error) {
	l := &launch.Launcher{Dir: f.dir, Engine: oci.Engine{Root: filepath.Join(f.run, "containers"), Cgroups: group.Manager{Rootless: os.Geteuid() != 0}}}
	l.Engine.Placed = placed
	subnet, err := netip.ParsePrefix(f.subnet)
	if err != nil || !subnet.Addr().Is4() || subnet.Bits() < 8 || subnet.Bits() > 29 {
		return nil, usage(fmt.Errorf("cannot use subnet %q", f.subnet), "want an IPv4 prefix of /8 to /29, such as "+network.DefaultSubnet.String())
	}
	l.Net = network.Network{Dir: filepath.Join(f.run, "network"), Bridge: "powerd0", Subnet: subnet.Masked()}
	if l.Dir, err = filepath.Abs(f.dir); err != nil {
		return nil, err
	}
	switch f.manager {
	case "cgroupfs":
	case "systemd":
		l.Engine.Cgroups.Systemd = true
	case "none":
		l.Engine.NoCgroups = true
	default:
		return nil, usage(fmt.Errorf("cannot use cgroup manager %q", f.manager), "want cgroupfs, systemd or none")
	}
	return l, nil
}

// images is the store of images.
func (f *launchFlags) images() (*images.Store, error) {
	l, err := f.launcher()
	if err != nil {
		return nil, err
	}
	return l.Images()
}

// noInput makes standard input empty, until done.
func noInput() (done func()) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return func() {}
	}
	os.Stdin = null
	return func() { null.Close() }
}

// again is the command line of a hidden command for the same containers.
func (f *launchFlags) again(command, name string) ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(f.dir)
	if err != nil {
		return nil, err
	}
	run, err := filepath.Abs(f.run)
	return []string{self, command, "--containers-dir", dir, "--run-dir", run, "--cgroup-manager", f.manager, "--subnet", f.subnet, name}, err
}

func newRunCmd(u *ui) *cobra.Command {
	var (
		f                               launchFlags
		r                               launch.Request
		interactive                     bool
		entrypoint, memory, userns, sec string
		pull                            string
		annotations, power              = map[string]string{}, map[string]string{}
		class, tenant, budget           string
		publish, dns                    []string
		slowdown                        float64
	)
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARGS...]]",
		Short: "Run a container from an image",
		Long: `Run a container from an image: an OCI layout (folder or tar), an archive of
docker save, a root file system (folder or tar), or a registry's reference.

It ends with the program's exit code. A signal that powerd gets, the program
gets. With --detach it goes on by itself: ` + "`powerd logs`, `powerd stop`" + `.`,
		Example: `  powerd run -it --rm ./debian.tar bash
  powerd run -d --name web --cpus 0.5 --class latency registry.example/web:1
  powerd run --rm --userns 100000 ./rootfs id`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(errors.New("cannot run a container: no image is given"), "`powerd run --help` shows examples")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.launcher()
			if err != nil {
				return err
			}
			r.Image, r.Args, r.Pull = args[0], args[1:], images.Policy(pull)
			if cmd.Flags().Changed("entrypoint") {
				r.Entrypoint = &entrypoint
			}
			if r.Memory, err = parseBytes(memory); err != nil {
				return usage(fmt.Errorf("cannot limit memory: %v", err), "give bytes, or a number with k, m or g")
			}
			if userns != "" {
				if r.UserNS, err = parseUserNS(userns); err != nil {
					return usage(err, "want the host's first uid, and how many if not 65536: 100000 or 100000:1000")
				}
			}
			r.Seccomp = profile(sec)
			if r.Network == "" {
				if r.Network = launch.Bridge; os.Geteuid() != 0 {
					r.Network = launch.None
				}
			}
			for _, p := range publish {
				ports, err := network.ParsePorts(p)
				if err != nil {
					return usage(err, "such as 8080:80")
				}
				r.Publish = append(r.Publish, ports...)
			}
			for _, d := range dns {
				a, err := netip.ParseAddr(d)
				if err != nil {
					return usage(fmt.Errorf("cannot use resolver %q: it is no address", d), "such as --dns 192.0.2.1")
				}
				r.DNS = append(r.DNS, a)
			}
			for flag, set := range map[string]func(){
				"class":         func() { power[oci.AnnotationClass] = class },
				"slowdown":      func() { power[oci.AnnotationSlowdown] = strconv.FormatFloat(slowdown, 'g', -1, 64) },
				"tenant":        func() { power[oci.AnnotationTenant] = tenant },
				"energy-budget": func() { power[oci.AnnotationBudget] = budget },
			} {
				if cmd.Flags().Changed(flag) {
					set()
				}
			}
			r.Annotations = power
			for name, value := range annotations {
				if _, flagged := power[name]; !flagged {
					power[name] = value
				}
			}
			if err := oci.CheckAnnotations(r.Annotations); err != nil {
				return usage(err, "`powerd run --help` shows what they take")
			}
			if r.Terminal {
				width, height, err := term.GetSize(int(os.Stdin.Fd()))
				if err == nil {
					r.Size = &specs.Box{Width: uint(width), Height: uint(height)}
				} else if !r.Detach {
					return usage(errors.New("cannot use --tty: standard input is no terminal"), "leave --tty out")
				}
			}
			signals := allSignals()
			c, err := l.Prepare(cmd.Context(), r)
			if err != nil {
				return err
			}
			if r.Detach {
				start, err := f.again("launch-started", c.Name)
				if err != nil {
					return err
				}
				ended, err := f.again("launch-ended", c.Name)
				if err != nil {
					return err
				}
				if err := l.RunDetached(cmd.Context(), c, launch.Monitor{Start: start, Ended: ended}); err != nil {
					return err
				}
				u.printf("%s\n", c.Name)
				return nil
			}
			if !interactive && !r.Terminal {
				defer noInput()()
			}
			code, err := l.Run(context.WithoutCancel(cmd.Context()), c, signals)
			return ended(code, asShell(err))
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.SetInterspersed(false)
	fl.BoolVarP(&r.Detach, "detach", "d", false, "go on in the background, prints the name; with --tty its terminal's output is its log")
	fl.BoolVarP(&interactive, "interactive", "i", false, "connect standard input")
	fl.BoolVarP(&r.Terminal, "tty", "t", false, "give it a terminal")
	fl.BoolVar(&r.Remove, "rm", false, "remove it when it has ended")
	fl.BoolVar(&r.Init, "init", false, "an init as process 1: passes signals on, waits for orphans")
	fl.StringVar(&r.Name, "name", "", "its name (default the image's and four digits)")
	fl.StringVar(&r.Hostname, "hostname", "", "its host name (default its name)")
	fl.StringArrayVarP(&r.Env, "env", "e", nil, "NAME=VALUE, or NAME for the value here")
	fl.StringVarP(&r.Cwd, "workdir", "w", "", "working directory")
	fl.StringVarP(&r.User, "user", "u", "", "NAME or UID, :GROUP or :GID")
	fl.StringVar(&entrypoint, "entrypoint", "", "instead of the image's; \"\" for none")
	fl.StringArrayVarP(&r.Volumes, "volume", "v", nil, "SOURCE:DESTINATION[:OPTIONS], such as ./data:/data:ro")
	fl.StringArrayVar(&r.Tmpfs, "tmpfs", nil, "DESTINATION[:OPTIONS] of a tmpfs")
	fl.StringArrayVar(&r.Devices, "device", nil, "a device of the host's, such as /dev/fuse")
	fl.BoolVar(&r.ReadOnly, "read-only", false, "a read-only root")
	fl.BoolVar(&r.InPlace, "in-place", false, "write to the folder that is the image")
	fl.StringVar(&r.Network, "network", "", "network: none, host, bridge (default: bridge for root, else none)")
	fl.StringArrayVarP(&publish, "publish", "p", nil, "[[HOSTIP:]HOSTPORT:]PORT[/PROTOCOL] that the host publishes")
	fl.StringSliceVar(&dns, "dns", nil, "resolvers instead of the host's")
	fl.Float64Var(&r.CPUs, "cpus", 0, "cpu time it may use, in cpus")
	fl.StringVar(&r.CPUSet, "cpuset-cpus", "", "cpus it may run on, such as 0-3,6")
	fl.Uint64Var(&r.CPUWeight, "cpu-weight", 0, "its weight where cpu time is scarce, 1 to 10000")
	fl.StringVarP(&memory, "memory", "m", "", "memory it may use, such as 512m; -1 for no limit")
	fl.Int64Var(&r.PidsLimit, "pids-limit", 0, "processes it may have (default 2048); -1 for no limit")
	fl.StringVar(&userns, "userns", "", "user namespace: root is this uid of the host")
	fl.StringSliceVar(&r.CapAdd, "cap-add", nil, "a capability more, or ALL")
	fl.StringSliceVar(&r.CapDrop, "cap-drop", nil, "a capability less, or ALL")
	fl.BoolVar(&r.NewPrivileges, "new-privileges", false, "let set-uid programs gain privileges")
	fl.StringVar(&sec, "seccomp", "default", "system calls: default, unconfined, or a profile as other engines take")
	fl.StringVar(&r.ApparmorProfile, "apparmor", "", "AppArmor profile")
	fl.StringArrayVar(&r.Ulimits, "ulimit", nil, "NAME=SOFT[:HARD], such as nofile=1024")
	fl.StringArrayVar(&r.Sysctls, "sysctl", nil, "NAME=VALUE of a namespace of its own")
	fl.StringToStringVar(&annotations, "annotation", nil, "NAME=VALUE for config.json")
	fl.StringVar(&r.Platform, "platform", "", "of the image, such as linux/arm64")
	fl.StringVar(&pull, "pull", "missing", "when to ask a registry: missing, always, never")
	fl.StringVar(&class, "class", "", "energy class of powerd's policy")
	fl.Float64Var(&slowdown, "slowdown", 0, "how much slower than at full speed it may be, such as 1.5")
	fl.StringVar(&tenant, "tenant", "", "whose it is: the daemon puts no two tenants on one core")
	fl.StringVar(&budget, "energy-budget", "", "the most power it is charged on average, such as 2W or 90J/60s")
	return cmd
}

func parseUserNS(s string) (*specs.LinuxIDMapping, error) {
	start, size, both := strings.Cut(s, ":")
	if !both {
		size = "65536"
	}
	host, err := strconv.ParseUint(start, 10, 32)
	n, err2 := strconv.ParseUint(size, 10, 32)
	if err := errors.Join(err, err2); err != nil || n == 0 || host+n > 1<<32-1 {
		return nil, fmt.Errorf("cannot map ids to %q", s)
	}
	return &specs.LinuxIDMapping{HostID: uint32(host), Size: uint32(n)}, nil
}

// profile makes the filter that --seccomp names, for a container's capabilities.
func profile(name string) func(*specs.Spec) (*specs.LinuxSeccomp, error) {
	return func(s *specs.Spec) (*specs.LinuxSeccomp, error) {
		switch name {
		case "unconfined":
			return nil, nil
		case "default":
			return profiles.GetDefaultProfile(s)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("cannot read the seccomp profile: %v", err)
		}
		p, err := profiles.LoadProfile(string(data), s)
		if err != nil {
			return nil, fmt.Errorf("cannot use seccomp profile %s: %v", name, err)
		}
		return p, nil
	}
}

// daemonSocket is where the host's daemon answers.
func daemonSocket() (string, error) {
	config, err := configs.Load("", "/etc")
	return config.Socket, err
}

// placed asks the daemon, if one runs, to place a container whose cgroup has come. That
// it is slow does not keep the container: its next tick places it.
func placed(ctx context.Context) error {
	socket, err := daemonSocket()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := daemon.Place(ctx, socket); err != nil && !errors.Is(err, daemon.ErrNotRunning) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// newLaunchedCmds are the two commands of a container's monitor, and what the small
// powerd-oci calls.
func newLaunchedCmds() []*cobra.Command {
	cmds := []*cobra.Command{{Use: "place", Hidden: true, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return placed(cmd.Context()) }}}
	for name, do := range map[string]func(*launch.Launcher, context.Context, string) error{
		"launch-started": (*launch.Launcher).Started, "launch-ended": (*launch.Launcher).Ended,
	} {
		var f launchFlags
		cmd := &cobra.Command{Use: name + " NAME", Hidden: true, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			l, err := f.launcher()
			if err != nil {
				return err
			}
			return do(l, cmd.Context(), args[0])
		}}
		f.add(cmd)
		cmds = append(cmds, cmd)
	}
	return cmds
}
