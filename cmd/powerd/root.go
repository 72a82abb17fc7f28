//go:build !powerd_oci

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// whole is powerd without the process around it.
var whole = func(args []string, in io.Reader, out, errs io.Writer) int { return run(args, in, out, errs) }

func run(args []string, in io.Reader, out, errs io.Writer) int {
	u := newUI(out, errs)
	return execute(u, newRootCmd(u), args, in, out, errs)
}

// newRootCmd puts the commands together. Each lives in the file of its name.
func newRootCmd(u *ui) *cobra.Command {
	root := &cobra.Command{
		Use:           "powerd",
		Short:         "The fewest joules for the work, within each container's bound",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		// Typing errors of up to two letters are worth a guess.
		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usage(fmt.Errorf("cannot read the command line: %v", err), "`"+cmd.CommandPath()+" --help` lists the flags")
	})
	root.AddGroup(&cobra.Group{ID: "energy", Title: "Energy:"}, &cobra.Group{ID: "containers", Title: "Containers:"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
		}
		root.AddCommand(cmds...)
	}
	add("energy", newBenchCmd(u), newCalibrateCmd(u), newCriticalCmd(u), newDaemonCmd(u), newInspectCmd(u), newLimitCmd(u), newPlanCmd(u), newRestoreCmd(u), newStatusCmd(u))
	add("containers", newRunCmd(u))
	add("containers", newManageCmds(u)...)
	root.AddCommand(newLaunchedCmds()...)
	return root
}

// noArgs refuses arguments of a command that takes flags only.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usage(fmt.Errorf("cannot read the command line: %s takes no argument, got %q", cmd.CommandPath(), args[0]),
		"`"+cmd.CommandPath()+" --help` lists the flags")
}

// choice is the value of a flag that takes one of a few words.
type choice struct {
	value   string
	choices []string
}

// outputFlag adds -o to a command; the first format is the default.
func outputFlag(cmd *cobra.Command, formats ...string) *choice {
	c := &choice{value: formats[0], choices: formats}
	cmd.Flags().VarP(c, "output", "o", "format: "+strings.Join(formats, ", "))
	return c
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.choices, "|") }
func (c *choice) Set(s string) error {
	if !slices.Contains(c.choices, s) {
		return fmt.Errorf("want one of %s", strings.Join(c.choices, ", "))
	}
	c.value = s
	return nil
}
