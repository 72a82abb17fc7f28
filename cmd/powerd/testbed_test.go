package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/daemon"
	"github.com/powerd/powerd/internal/testbed"
	"github.com/powerd/powerd/internal/units"
)

// staticBinary builds powerd as a guest can run it.
func staticBinary(t *testing.T) string { return program(t, ".") }

// smallBinary is powerd-oci alone.
func smallBinary(t *testing.T) string { return program(t, ".", "-tags=powerd_oci") }

// program builds a program as a guest can run it.
func program(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-o", file}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// curve has its critical point in the middle: 1.6 GHz.
func curve() cpufreq.Curve {
	var c cpufreq.Curve
	for i, mw := range []units.Power{1000, 1200, 1500, 2400, 3600} {
		f := units.Frequency(i+2) * 400 * units.MHz
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: f, Speed: float64(f) / float64(2400*units.MHz), Dynamic: mw * units.Milliwatt})
	}
	return c
}

// guestNode is a node with powerd in it.
type guestNode struct {
	*testbed.Node
	t *testing.T
}

// run runs a command that must succeed and returns its output.
func (g guestNode) run(argv ...string) string {
	g.t.Helper()
	// A node whose kernel stands still must not keep all others from their turn.
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Minute)
	defer cancel()
	r, err := g.Run(ctx, argv...)
	if err != nil || r.Code != 0 {
		g.t.Fatalf("%q: %v, code %d\n%s%s", argv, err, r.Code, r.Stdout, r.Stderr)
	}
	return string(r.Stdout)
}

func (g guestNode) text(name string) string {
	g.t.Helper()
	data, err := g.ReadFile(name)
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// status waits until the daemon's snapshot satisfies ok.
func (g guestNode) status(ok func(*daemon.Snapshot) bool) *daemon.Snapshot {
	g.t.Helper()
	last := ""
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		r, err := g.Run(g.t.Context(), "powerd", "status", "-o", "json")
		if err != nil {
			g.t.Fatal(err)
		}
		last = string(r.Stdout) + string(r.Stderr)
		var s daemon.Snapshot
		if r.Code == 0 && json.Unmarshal(r.Stdout, &s) == nil && ok(&s) {
			return &s
		}
	}
	g.t.Fatalf("the daemon does not come to it:\n%s", last)
	return nil
}

// tunables are the files that powerd may change, with their values.
func (g guestNode) tunables() map[string]string {
	g.t.Helper()
	// One command, for a thousand reads one by one take seconds. Dead files
	// (a cpu's without a state) are left out on both sides.
	out := g.run("sh", "-c", `cd /sys; for f in devices/system/cpu/cpufreq/policy*/scaling_m*_freq devices/system/cpu/cpufreq/policy*/scaling_governor \
devices/system/cpu/cpu*/power/pm_qos_resume_latency_us devices/system/cpu/cpu*/cpuidle/state*/disable \
$(find fs/cgroup -name cpuset.cpus -o -name cpu.max -o -name cgroup.subtree_control); do [ -r $f ] && echo "$f=$(cat $f)"; done; true`)
	values := map[string]string{}
	for line := range strings.Lines(out) {
		file, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[file] = value
	}
	if len(values) < 14 { // two cpus' without containers
		g.t.Fatalf("only %d tunables:\n%s", len(values), out)
	}
	return values
}

// same fails unless every file that there was holds its first value.
func (g guestNode) same(when string, first map[string]string) {
	g.t.Helper()
	if diff := cmp.Diff(first, g.tunables()); diff != "" {
		g.t.Fatalf("%s: %s", when, diff)
	}
}

// asPlanned holds what is in force against a plan, from inside and outside. The daemon
// goes on deciding while its files are read one by one, so one comparison may mix two
// plans; ten never agree only when what is in force is not the plan's.
func (g guestNode) asPlanned(s *daemon.Snapshot) {
	g.t.Helper()
	var wrong []string
	for range 10 {
		if wrong = g.compare(s); wrong == nil {
			return
		}
		s = g.status(func(s *daemon.Snapshot) bool { return len(s.Outcome.Done) == 0 })
	}
	for _, w := range wrong {
		g.t.Error(w)
	}
}

// compare tells where what is in force is not the plan's.
func (g guestNode) compare(s *daemon.Snapshot) (wrong []string) {
	g.t.Helper()
	for i, b := range s.Plan.Bands {
		for c := range b.CPUs.All() {
			dir := fmt.Sprintf("/sys/devices/system/cpu/cpu%d/cpufreq/", c)
			if lo, hi := g.text(dir+"scaling_min_freq"), g.text(dir+"scaling_max_freq"); lo != fmt.Sprint(b.FloorKHz) || hi != fmt.Sprint(b.CeilingKHz) {
				wrong = append(wrong, fmt.Sprintf("cpu%d is held in %s to %s, the plan says %d to %d", c, lo, hi, b.FloorKHz, b.CeilingKHz))
			}
		}
		// The port is what the hardware obeys.
		if f, err := g.Frequency(i); err != nil || uint64(f) < b.FloorKHz || uint64(f) > b.CeilingKHz {
			wrong = append(wrong, fmt.Sprintf("domain %d is at %v, %v: not within %d to %d", i, f, err, b.FloorKHz, b.CeilingKHz))
		}
	}
	for _, a := range s.Plan.Assignments {
		dir := path.Join("/sys/fs/cgroup", a.ID)
		if a.CPUs == nil || g.text(dir+"/cpuset.cpus") != a.CPUs.String() {
			wrong = append(wrong, fmt.Sprintf("%s is on %q, the plan says %v", a.ID, g.text(dir+"/cpuset.cpus"), a.CPUs))
		}
		if max := g.text(dir + "/cpu.max"); (a.Limit != nil) != (max != "max 100000") && !(a.Limit != nil && *a.Limit > 1e6) {
			wrong = append(wrong, fmt.Sprintf("%s has cpu.max %q, the plan says %v", a.ID, max, a.Limit))
		}
	}
	return wrong
}

const guestPolicy = `interval: 250ms
classes:
  - {name: latency, cgroups: ["powerd/latency-*"], objective: latency, priority: 10, max_wake_latency: 60us}
  - {name: batch, cgroups: ["powerd/batch-*"], objective: energy, cpu_limit: 0.4}
`

// powerd in a guest: what firmware has is seen, the hardware moves, and whatever
// way it ends, every file holds its first value again.
func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	policy := filepath.Join(t.TempDir(), "powerd.yaml")
	if err := os.WriteFile(policy, []byte(guestPolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := testbed.Config{CoresPerSocket: 4, Domains: []cpuset.Set{cpuset.Range(0, 1), cpuset.Range(2, 3)}, Curve: curve(), Meter: true,
		IdlePower: 30 * units.Milliwatt, Base: 300 * units.Milliwatt, HostShare: 0.45,
		Files: map[string]string{"/bin/powerd": staticBinary(t), "/etc/powerd/powerd.yaml": policy}}
	g := guestNode{testbed.Start(t, cfg), t}

	t.Run("inspect", func(t *testing.T) {
		g.t = t
		var m struct {
			Cpufreq struct {
				Policies []struct {
					Driver string `json:"driver"`
					OPPs   []int  `json:"available_khz"`
				} `json:"policies"`
			} `json:"cpufreq"`
			Cpuidle struct {
				Tables []struct {
					States []struct {
						Name string `json:"name"`
					} `json:"states"`
				} `json:"tables"`
			} `json:"cpuidle"`
			ACPI struct {
				PSS []json.RawMessage `json:"pss"`
			} `json:"acpi"`
		}
		out := g.run("powerd", "inspect", "-o", "json")
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, table := range m.Cpuidle.Tables {
			for _, s := range table.States {
				names = append(names, s.Name)
			}
		}
		if want := []string{"POLL", "C1", "C2", "C3"}; !cmp.Equal(names, want) {
			t.Errorf("idle states %q, want %q", names, want)
		}
		if len(m.Cpufreq.Policies) != 2 || m.Cpufreq.Policies[0].Driver != "acpi-cpufreq" || len(m.ACPI.PSS) == 0 {
			t.Errorf("P-states: %+v, %d _PSS\n%s", m.Cpufreq, len(m.ACPI.PSS), out)
		}
	})

	for _, name := range []string{"batch-a", "batch-b", "latency-a"} {
		g.t = t
		g.run("sh", "-ec", "mkdir -p /sys/fs/cgroup/powerd/"+name)
		work := "while :; do :; done"
		if name != "batch-a" {
			work = "while :; do i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; usleep 50000; done"
		}
		if _, err := g.Start(t.Context(), "/tmp/work", testbed.Command{Argv: []string{"sh", "-c", "echo $$ > /sys/fs/cgroup/powerd/" + name + "/cgroup.procs; " + work}}); err != nil {
			t.Fatal(err)
		}
	}
	// powerd/ enables no controller: powerd does, and takes it back.
	first := g.tunables()
	launch := func(t *testing.T) int {
		g.t = t
		pid, err := g.Start(t.Context(), "/tmp/daemon", testbed.Command{Argv: []string{"powerd", "daemon"}})
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}

	t.Run("governs, and SIGTERM restores", func(t *testing.T) {
		pid := launch(t)
		calm := 0
		s := g.status(func(s *daemon.Snapshot) bool {
			if len(s.Containers) == 3 && s.Tick > 5 && len(s.Outcome.Done) == 0 {
				calm++
			}
			return calm > 2
		})
		g.asPlanned(s)
		if s.Energy.Method != "measured" || !strings.Contains(s.Energy.Why, "ACPI power meter") || s.Energy.MeasuredUJ == 0 {
			t.Errorf("energy: %+v", s.Energy)
		}
		if len(s.Outcome.Failures) > 0 {
			t.Errorf("failures: %+v", s.Outcome.Failures)
		}
		want := g.Config().Critical()
		for _, b := range s.Plan.Bands {
			if d := (int64(b.CriticalKHz) - int64(want)) / int64(400*units.MHz); d < -1 || d > 1 {
				t.Errorf("critical frequency %d kHz, the truth is %v", b.CriticalKHz, want)
			}
		}
		if diff := cmp.Diff(first, g.tunables()); diff == "" {
			t.Error("the daemon changed nothing")
		}
		if err := g.Signal(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := g.Wait(t.Context(), pid); err != nil || code != 0 {
			t.Errorf("after SIGTERM: code %d, %v\n%s", code, err, g.text("/tmp/daemon"))
		}
		g.same("after SIGTERM", first)
	})

	t.Run("SIGKILL and restore", func(t *testing.T) {
		chance := rand.New(rand.NewPCG(20, 26))
		// From before the journal is open to well into its ticks: what that is
		// depends on how fast this host plays a machine today.
		began, pid := time.Now(), launch(t)
		g.status(func(s *daemon.Snapshot) bool { return s.Pending > 0 })
		span := max(2500*time.Millisecond, 2*time.Since(began))
		changed := 0
		for i := range 20 {
			if i > 0 {
				pid = launch(t)
				time.Sleep(time.Duration(chance.Int64N(int64(span))))
			}
			if err := g.Signal(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if code, err := g.Wait(t.Context(), pid); err != nil || code != 128+9 {
				t.Fatalf("kill %d: code %d, %v", i, code, err)
			}
			if !cmp.Equal(first, g.tunables()) {
				changed++
			}
			g.run("powerd", "restore")
			g.same(fmt.Sprintf("after kill %d", i), first)
		}
		if changed < 5 {
			t.Errorf("only %d of 20 kills hit a daemon that had changed something", changed)
		}
		t.Logf("%d of 20 kills hit a daemon that had changed something", changed)
	})

	t.Run("the next start restores too", func(t *testing.T) {
		pid := launch(t)
		g.status(func(s *daemon.Snapshot) bool { return s.Pending > 0 })
		g.Signal(pid, syscall.SIGKILL) //nolint:errcheck // Wait tells
		g.Wait(t.Context(), pid)       //nolint:errcheck // as killed
		again := launch(t)
		g.status(func(s *daemon.Snapshot) bool { return s.Pending > 0 && s.Pid != pid })
		if log := g.text("/tmp/daemon"); !strings.Contains(log, "that an earlier powerd left") {
			t.Errorf("the second daemon said:\n%s", log)
		}
		g.Signal(again, syscall.SIGTERM) //nolint:errcheck // Wait tells
		if code, err := g.Wait(t.Context(), again); err != nil || code != 0 {
			t.Errorf("code %d, %v", code, err)
		}
		g.same("after the second daemon", first)
	})
}

// The unit under systemd: ready, in a leaf of its own, hardened, and restored
// after being stopped and killed.
func TestService(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	unit, err := filepath.Abs("../../configs/powerd.service")
	if err != nil {
		t.Fatal(err)
	}
	g := guestNode{testbed.Start(t, testbed.Config{CoresPerSocket: 2, Curve: curve(), Meter: true, Root: testbed.Debian, IdlePower: 30 * units.Milliwatt,
		Files: map[string]string{"/usr/bin/powerd": staticBinary(t), "/etc/systemd/system/powerd.service": unit}}), t}
	g.run("systemctl", "is-system-running", "--wait")
	if out := g.run("systemd-analyze", "verify", "/etc/systemd/system/powerd.service"); strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze: %s", out)
	}
	for _, name := range []string{"batch-a", "latency-a"} {
		g.run("systemd-run", "--slice=powerd.slice", "--unit="+name, "sh", "-c", "while :; do :; done")
	}
	// Started by hand after the kill: what ExecStopPost leaves is to be seen.
	if err := g.Mkdir("/run/systemd/system/powerd.service.d"); err != nil {
		t.Fatal(err)
	}
	if err := g.Put("/run/systemd/system/powerd.service.d/test.conf", []byte("[Service]\nRestart=no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	g.run("systemctl", "daemon-reload")
	// Debian's 3 leaves counting to CAP_SYS_ADMIN.
	if err := g.WriteFile("proc/sys/kernel/perf_event_paranoid", []byte("2")); err != nil {
		t.Fatal(err)
	}
	first := g.tunables()
	// For a unit with Delegate=yes systemd itself enables controllers above it and
	// so in the cgroups beside: of those, only what is below the slice is powerd's.
	mine := func(v map[string]string) map[string]string {
		const slice = "fs/cgroup/powerd.slice/"
		for name := range v {
			below, ok := strings.CutPrefix(name, slice)
			if !strings.HasPrefix(name, "devices/") && (!ok || below == "cpu.max" || below == "cpuset.cpus") {
				delete(v, name)
			}
		}
		return v
	}
	compare := func(when string) {
		t.Helper()
		if diff := cmp.Diff(mine(first), mine(g.tunables())); diff != "" {
			journal, _ := g.Run(t.Context(), "journalctl", "-u", "powerd", "--no-pager", "-o", "cat")
			t.Fatalf("%s: %s\n%s", when, diff, journal.Stdout)
		}
	}
	start := func() *daemon.Snapshot {
		t.Helper()
		if r, err := g.Run(t.Context(), "systemctl", "start", "powerd"); err != nil || r.Code != 0 { // until READY=1
			journal, _ := g.Run(t.Context(), "journalctl", "-u", "powerd", "--no-pager", "-o", "cat")
			t.Fatalf("%v %s\n%s", err, r.Stderr, journal.Stdout)
		}
		return g.status(func(s *daemon.Snapshot) bool { return s.Pending > 0 && len(s.Containers) == 2 })
	}
	property := func(name string) string {
		return strings.TrimSpace(g.run("systemctl", "show", "powerd", "-P", name))
	}

	s := start()
	if got := g.text(fmt.Sprintf("/proc/%d/cgroup", s.Pid)); got != "0::/system.slice/powerd.service/control" {
		t.Errorf("powerd is in cgroup %q", got)
	}
	if got := g.text(fmt.Sprintf("/proc/%d/status", s.Pid)); !strings.Contains(got, "NoNewPrivs:\t1") || !strings.Contains(got, "CapEff:\t0000004000800002") {
		t.Errorf("it is not hardened:\n%s", got)
	}
	// It may count; that the node's processor has nothing to count with, as a rule, is told.
	if c := s.Counting; c.Containers == 0 && !strings.Contains(c.Why, "counts no cycles and instructions") {
		t.Errorf("under its hardening it counts nothing: %+v", c)
	}
	if got := property("StatusText"); !strings.Contains(got, "tick") {
		t.Errorf("systemctl status shows %q", got)
	}
	if len(s.Outcome.Failures) > 0 {
		t.Errorf("under its hardening it cannot: %+v", s.Outcome.Failures)
	}
	g.run("systemctl", "stop", "powerd")
	compare("after systemctl stop")

	start()
	g.run("systemctl", "kill", "-s", "KILL", "--kill-who=main", "powerd")
	for deadline := time.Now().Add(30 * time.Second); property("ActiveState") != "failed"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("killed, the unit is %s", property("ActiveState"))
		}
	}
	if got := property("Result"); got != "signal" {
		t.Errorf("killed, the unit's result is %q", got)
	}
	compare("after SIGKILL and ExecStopPost")
}
