//go:build !powerd_oci

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/powerd/powerd/configs"
	"github.com/powerd/powerd/containers"
	"github.com/powerd/powerd/internal/bench"
	"github.com/powerd/powerd/internal/sysfs"
	"github.com/powerd/powerd/internal/worker"
)

// hostPolicies are run on a real machine unless told: there a minute is a minute.
var hostPolicies = append([]string{bench.Powerd}, bench.Rivals...)

// benchHost runs loads on the machine that powerd runs on.
func benchHost(ctx context.Context, u *ui, config configs.Config, configFile string, names, policies []string, span time.Duration, seed uint64, each func(bench.Row)) (rows []bench.Row, cases []bench.Case, err error) {
	for _, p := range policies {
		if p != bench.Powerd && !slices.Contains(bench.Governors, p) {
			return nil, nil, usage(fmt.Errorf("cannot run policy %q on the host", p), "want powerd or one of "+strings.Join(bench.Governors, ", "))
		}
	}
	if os.Geteuid() != 0 {
		return nil, nil, withHint(errors.New("cannot run on host: only root may read its meter, set its clocks and make cgroups"), "run as root")
	}
	f := machineFlags{machine: "host", config: configFile}
	w, err := f.open()
	if err != nil {
		return nil, nil, err
	}
	defer w.fs.Close()
	j, err := w.cleanJournal(u)
	if err != nil {
		return nil, nil, err
	}
	defer j.Close()
	m := bench.Machine{Name: "host", CPUs: runtime.NumCPU()}
	for _, name := range names {
		l, err := openLoad(name, m.Cores(), span+benchWarm, seed)
		if err != nil {
			return nil, nil, err
		}
		cases = append(cases, bench.Case{Machine: m, Load: l, Seed: seed, Span: span + benchWarm, Warm: benchWarm})
	}
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot find powerd itself: %v", err)
	}
	cgroups, ok := containers.ReadMode(sysfs.NewReader(w.fs)).V2()
	if !ok {
		return nil, nil, withHint(errors.New("cannot run on host: it has no cgroup2 file system mounted"), "boot with systemd.unified_cgroup_hierarchy=1")
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	h := &bench.Host{FS: w.fs, Journal: j, Cgroups: filepath.Join(w.root, cgroups), Self: []string{self, "bench-play"}, Platform: w.platform, Calibrated: w.calibrated, Memory: walkSize(w.fs)}
	if err := h.Prepare(ctx); err != nil {
		return nil, nil, err
	}
	u.notef("measuring by %s for about %v", h.Meter(), (time.Duration(len(cases)*len(policies)) * (span + benchWarm)).Round(time.Second))
	rows, err = h.Compare(ctx, cases, policies, config, each)
	return rows, cases, err
}

// newPlayCmd is one container of a benchmark on a real machine: it does what it reads, and
// tells what became of it, also when it is ended.
func newPlayCmd(u *ui) *cobra.Command {
	measure := 0
	cmd := &cobra.Command{Use: "bench-play", Hidden: true, Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if measure > 0 {
			return u.json(worker.Measure(measure))
		}
		var p worker.Play
		if err := json.NewDecoder(cmd.InOrStdin()).Decode(&p); err != nil {
			return fmt.Errorf("cannot read what to play: %v", err)
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
		defer stop()
		return u.json(p.Run(ctx))
	}}
	cmd.Flags().IntVar(&measure, "measure", 0, "print how fast this cpu works, with so many bytes of memory")
	return cmd
}
