package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/oci"
)

// runOCI is powerd as an OCI runtime: the command line that engines use with runc.
func runOCI(args []string, in io.Reader, out, errs io.Writer) int {
	u := newUI(out, errs)
	return execute(u, newOCICmd(u), args, in, out, errs)
}

// ociFlags are the global flags.
type ociFlags struct {
	engine  oci.Engine
	manager string
}

func newOCICmd(u *ui) *cobra.Command {
	var f ociFlags
	root := &cobra.Command{
		Use:           "powerd-oci",
		Short:         "Run containers from OCI bundles",
		Version:       "runtime-spec " + specs.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			switch f.manager {
			case "cgroupfs":
			case "none":
				f.engine.NoCgroups = true
			default:
				return usage(fmt.Errorf("cannot use cgroup manager %q", f.manager), "want cgroupfs or none")
			}
			return nil
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&f.engine.Root, "root", "/run/powerd-oci", "folder of the containers' state")
	root.PersistentFlags().StringVar(&f.manager, "cgroup-manager", "cgroupfs", "who makes cgroups: cgroupfs, or none to run without limits")
	root.AddCommand(newOCICreateCmd(&f), newOCIRunCmd(&f), newOCIStateCmd(u, &f), newOCIListCmd(u, &f),
		&cobra.Command{Use: "start ID", Short: "Let a created container's program run", Args: cobra.ExactArgs(1),
			RunE: func(_ *cobra.Command, args []string) error { return f.engine.Start(args[0]) }},
		newOCIKillCmd(&f), newOCIDeleteCmd(&f))
	return root
}

func newOCICreateCmd(f *ociFlags) *cobra.Command {
	var bundle, pidFile string
	cmd := &cobra.Command{Use: "create ID", Short: "Make a container up to its program", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := f.engine.Create(args[0], bundle)
			if err != nil || pidFile == "" {
				return err
			}
			if err := os.WriteFile(pidFile, []byte(strconv.Itoa(s.Pid)), 0o644); err != nil {
				if derr := f.engine.Delete(args[0], true); derr != nil {
					return fmt.Errorf("cannot write the pid file: %v; nor delete the container: %v", err, derr)
				}
				return fmt.Errorf("cannot write the pid file: %v", err)
			}
			return nil
		}}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "folder of config.json")
	cmd.Flags().StringVar(&pidFile, "pid-file", "", "file for the pid of the container's first process")
	return cmd
}

func newOCIRunCmd(f *ociFlags) *cobra.Command {
	var bundle string
	cmd := &cobra.Command{Use: "run ID", Short: "Create, start, wait, delete; ends with the program's exit code", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			signals := make(chan os.Signal, 32)
			signal.Notify(signals)
			defer signal.Stop(signals)
			code, err := f.engine.Run(args[0], bundle, signals)
			if err == nil && code != 0 {
				return exitCode(code)
			}
			return err
		}}
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "folder of config.json")
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
	cmd := &cobra.Command{Use: "list", Short: "List containers", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := f.engine.List()
			if err != nil {
				return err
			}
			switch format {
			case "json":
				data, err := json.Marshal(all)
				u.printf("%s\n", data)
				return err
			case "table":
				t := section{title: "ID"}
				t.row("PID", "STATUS", "BUNDLE")
				sections := []section{t}
				for _, s := range all {
					row := section{title: s.ID}
					row.row(strconv.Itoa(s.Pid), string(s.Status), s.Bundle)
					sections = append(sections, row)
				}
				u.sections(sections)
				return nil
			}
			return usage(fmt.Errorf("cannot list as %q", format), "want table or json")
		}}
	cmd.Flags().StringVarP(&format, "format", "f", "table", "format: table, json")
	return cmd
}

func newOCIKillCmd(f *ociFlags) *cobra.Command {
	return &cobra.Command{Use: "kill ID [SIGNAL]", Short: "Send a signal to a container's first process (default TERM)", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			name := "TERM"
			if len(args) == 2 {
				name = args[1]
			}
			sig, err := parseSignal(name)
			if err != nil {
				return usage(err, "give a name such as TERM or SIGTERM, or a number")
			}
			return f.engine.Kill(args[0], sig)
		}}
}

// parseSignal reads a signal by name, with or without SIG, or by number.
func parseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("cannot send signal %d: there is none", n)
		}
		return unix.Signal(n), nil
	}
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("cannot send signal %q: there is none", s)
}

func newOCIDeleteCmd(f *ociFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "delete ID", Short: "Remove a stopped container and all that is its", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return f.engine.Delete(args[0], force) }}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first; also removes what a crash has left")
	return cmd
}
