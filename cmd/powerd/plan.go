//go:build !powerd_oci

package main

import (
	"fmt"
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
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "seed of a simulated machine's work")
	output := outputFlag(cmd, "table", "json")
	show := func(s *daemon.Snapshot) error {
		if output.value == "json" {
			return u.json(s)
		}
		u.plan(s)
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if watch < 0 {
			return usage(fmt.Errorf("cannot watch for %v", watch), "give a time such as 1s")
		}
		if platform, ok := f.simulated(); ok {
			c, config, err := f.openSim(platform, watch)
			if err != nil {
				return err
			}
			s, err := planSim(cmd.Context(), c, config, watch)
			if err != nil {
				return err
			}
			return show(s)
		}
		w, err := f.open()
		if err != nil {
			return err
		}
		defer w.fs.Close()
		d := daemon.New(daemon.Options{FS: w.fs, Label: w.label, Config: w.config, Platform: w.platform, Calibrated: w.calibrated})
		d.Look(time.Now())
		second := time.After(watch)
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-second:
		}
		return show(d.Tick(time.Now()))
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
