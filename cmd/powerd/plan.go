package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/internal/daemon"
)

func newPlanCmd(u *ui) *cobra.Command {
	var f machineFlags
	var watch time.Duration
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show the next plan, its reasons and the exact writes, and change nothing",
		Args:  noArgs,
	}
	f.add(cmd, machinesHelp)
	cmd.Flags().DurationVar(&watch, "watch", time.Second, "how long to look at the load before deciding")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w, err := f.open()
		if err != nil {
			return err
		}
		defer w.fs.Close()
		d := daemon.New(daemon.Options{FS: w.fs, Label: w.label, Config: w.config, Platform: w.platform})
		d.Look(time.Now())
		second := time.After(watch)
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-second:
		}
		s := d.Tick(time.Now())
		if output.value == "json" {
			return u.json(s)
		}
		u.plan(s)
		return nil
	}
	return cmd
}

func newStatusCmd(u *ui) *cobra.Command {
	var f machineFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running daemon sees, decided and charged",
		Args:  noArgs,
	}
	f.add(cmd, "the machine: host, or the root of a captured one")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w, err := f.open()
		if err != nil {
			return err
		}
		defer w.fs.Close()
		s, err := daemon.Fetch(cmd.Context(), w.config.Socket)
		if err != nil {
			return withHint(err, "start it with `powerd daemon` (systemctl start powerd), or name its --socket")
		}
		if output.value == "json" {
			return u.json(s)
		}
		u.status(s)
		return nil
	}
	return cmd
}
