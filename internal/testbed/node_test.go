package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/powerd/powerd/cpufreq"
	"github.com/powerd/powerd/cstates"
	"github.com/powerd/powerd/internal/cpuset"
	"github.com/powerd/powerd/internal/units"
)

// curve is the nodes' of these tests.
func curve() cpufreq.Curve {
	var c cpufreq.Curve
	for _, o := range []struct {
		f units.Frequency
		p units.Power
	}{
		{800 * units.MHz, 2 * units.Watt},
		{1200 * units.MHz, 3200 * units.Milliwatt},
		{1600 * units.MHz, 4800 * units.Milliwatt},
		{2000 * units.MHz, 7 * units.Watt},
		{2400 * units.MHz, 9500 * units.Milliwatt},
	} {
		c.OPPs = append(c.OPPs, cpufreq.OPP{Frequency: o.f, Speed: float64(o.f) / float64(2400*units.MHz), Dynamic: o.p})
	}
	return c
}

func read(t *testing.T, n *Node, name string) string {
	t.Helper()
	data, err := n.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func write(t *testing.T, n *Node, name, value string) {
	t.Helper()
	if err := n.WriteFile(name, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what a poll must tell.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

const cpuDir = "/sys/devices/system/cpu/"

// A node as laptops are: one socket, a clock each, a meter.
func TestNode(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	cfg := Config{CoresPerSocket: 2, Curve: curve(), Meter: true, IdlePower: 300 * units.Milliwatt, Base: units.Watt,
		// Half a host cpu leaves room for whatever else the host runs.
		HostShare: 0.5}
	n := Start(t, cfg)

	t.Run("firmware", func(t *testing.T) {
		for name, want := range map[string]string{
			"cpufreq/policy0/scaling_driver":                "acpi-cpufreq",
			"cpufreq/policy1/scaling_available_frequencies": "2400000 2000000 1600000 1200000 800000",
			"cpufreq/policy1/affected_cpus":                 "1",
			"cpufreq/policy0/cpuinfo_transition_latency":    "10000",
			"cpuidle/current_driver":                        "acpi_idle",
			"cpu0/cpuidle/state1/name":                      "C1",
			"cpu0/cpuidle/state2/name":                      "C2",
			"cpu1/cpuidle/state3/name":                      "C3",
			"cpu1/cpuidle/state3/latency":                   "200",
			"cpu1/cpuidle/state3/residency":                 "400",
		} {
			if got := read(t, n, cpuDir+name); got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
	})

	t.Run("idle states are used", func(t *testing.T) {
		eventually(t, "C3's time grows", func() bool {
			ns, err := strconv.Atoi(read(t, n, cpuDir+"cpu1/cpuidle/state3/time"))
			return err == nil && ns > 0
		})
	})

	t.Run("files", func(t *testing.T) {
		if err := n.Put("/tmp/d/f", nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a file in no folder: %v", err)
		}
		if err := errors.Join(n.Mkdir("/tmp/d"), n.Put("/tmp/d/f", []byte{0, 0xff}, 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, err := n.Glob("/tmp/*/f"); err != nil || !cmp.Equal(got, []string{"/tmp/d/f"}) {
			t.Errorf("Glob = %q, %v", got, err)
		}
		if got, err := n.ReadDir("/tmp/d"); err != nil || !cmp.Equal(got, []string{"f"}) {
			t.Errorf("ReadDir = %q, %v", got, err)
		}
		if err := n.Remove("/tmp/d"); !errors.Is(err, syscall.ENOTEMPTY) {
			t.Errorf("a folder that is not empty: %v", err)
		}
		if err := n.WriteFile("/tmp/d/none", nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("WriteFile makes files: %v", err)
		}
	})

	t.Run("processes", func(t *testing.T) {
		r, err := n.Do(t.Context(), Command{Argv: []string{"sh", "-c", "cat; pwd; echo $A >&2; exit 3"},
			Stdin: []byte("in "), Env: []string{"A=a"}, Dir: "/tmp"})
		if want := (Result{Stdout: []byte("in /tmp\n"), Stderr: []byte("a\n"), Code: 3}); err != nil || !cmp.Equal(r, want) {
			t.Errorf("Do = %+v, %v; want %+v", r, err, want)
		}
		if _, err := n.Run(t.Context(), "/nonesuch"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a command that is not there: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := n.Run(ctx, "sleep", "999"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a command that takes too long: %v", err)
		}
		eventually(t, "a command given up is killed", func() bool {
			r, err := n.Run(t.Context(), "pidof", "sleep")
			return err == nil && r.Code == 1
		})
		pid, err := n.Start(t.Context(), "/tmp/out", Command{Argv: []string{"sh", "-c", "echo up; exec sleep 1000"}})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the background's output", func() bool { return read(t, n, "/tmp/out") == "up" })
		if err := n.Signal(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code, err := n.Wait(t.Context(), pid); err != nil || code != 128+15 {
			t.Errorf("Wait = %d, %v; want 143", code, err)
		}
		if err := n.Signal(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("the process is still there: %v", err)
		}
	})

	t.Run("setspeed reaches the ports", func(t *testing.T) {
		for cpu, f := range []units.Frequency{1200 * units.MHz, 2000 * units.MHz} {
			setSpeed(t, n, cpu, f)
			if got, err := n.Frequency(cpu); err != nil || got != f {
				t.Errorf("domain %d is at %v, %v; want %v", cpu, got, err, f)
			}
		}
		if p, err := n.PState(1); err != nil || p != 1 {
			t.Errorf("domain 1 is in P%d, %v; want P1", p, err)
		}
	})

	t.Run("clock slows the guest", func(t *testing.T) {
		fast, slow := loopTime(t, n, 2400*units.MHz), loopTime(t, n, 800*units.MHz)
		if ratio := slow.Seconds() / fast.Seconds(); ratio < 1.8 || ratio > 6 {
			t.Errorf("a loop takes %v at 2400 MHz and %v at 800 MHz: a ratio of %.2f, want about 3", fast, slow, ratio)
		}
	})

	t.Run("meter tells the truth", func(t *testing.T) {
		meters, err := n.Glob("/sys/class/hwmon/hwmon*/device/power1_average")
		if err != nil || len(meters) != 1 {
			t.Fatalf("meters: %q, %v", meters, err)
		}
		pid, err := n.Start(t.Context(), "/tmp/spin", Command{Argv: []string{"taskset", "1", "sh", "-c", "while :; do :; done"}})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Signal(pid, syscall.SIGKILL)
		for _, f := range []units.Frequency{2400 * units.MHz, 800 * units.MHz} {
			setSpeed(t, n, 0, f)
			time.Sleep(300 * time.Millisecond)
			before, err := n.Truth()
			if err != nil {
				t.Fatal(err)
			}
			sum, count := 0.0, 0
			for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); time.Sleep(meterPeriod) {
				uw, err := strconv.Atoi(read(t, n, meters[0]))
				if err != nil {
					t.Fatal(err)
				}
				sum, count = sum+float64(uw), count+1
			}
			after, err := n.Truth()
			if err != nil {
				t.Fatal(err)
			}
			d := after.Sub(before)
			truth := float64(d.Energy) / d.Elapsed.Seconds()
			if read := sum / float64(count); math.Abs(read-truth) > 0.2*truth {
				t.Errorf("at %v the meter reads %v, the truth is %v", f, units.Power(read), units.Power(truth))
			}
			opp := (f - 800*units.MHz) / (400 * units.MHz)
			if got := d.Domains[0].Residency[opp]; got != d.Elapsed {
				t.Errorf("domain 0 was at %v for %v of %v", f, got, d.Elapsed)
			}
			// A host busy with other things gives less; nothing gives more.
			if busy := d.Domains[0].Busy[opp].Seconds() / d.Elapsed.Seconds(); busy < 0.6 || busy > 1.15 {
				t.Errorf("a loop at %v keeps its cpu busy for %.2f of the time", f, busy)
			}
			active := curve().OPPs[opp].Active()
			if got := float64(d.Domains[0].Energy) / d.Domains[0].Busy[opp].Seconds(); math.Abs(got-float64(active)) > 0.2*float64(active) {
				t.Errorf("a busy cpu at %v draws %v, want about %v", f, units.Power(got), active)
			}
		}
	})

	t.Run("cgroups", func(t *testing.T) {
		if err := n.Mkdir("/sys/fs/cgroup/c"); err != nil {
			t.Fatal(err)
		}
		for name, value := range map[string]string{"cpuset.cpus": "1", "cpu.max": "50000 100000"} {
			write(t, n, "/sys/fs/cgroup/c/"+name, value)
			if got := read(t, n, "/sys/fs/cgroup/c/"+name); got != value {
				t.Errorf("%s = %q, want %q", name, got, value)
			}
		}
		if err := n.Remove("/sys/fs/cgroup/c"); err != nil {
			t.Error(err)
		}
	})

	t.Run("close leaves nothing", func(t *testing.T) {
		base, dir, pid := n.throttle.base, n.dir, n.cmd.Process.Pid
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{base, dir, fmt.Sprint("/proc/", pid)} {
			if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", name, err)
			}
		}
		if _, err := n.ReadFile("/proc/uptime"); err == nil {
			t.Error("a closed node answers")
		}
	})
}

func setSpeed(t *testing.T, n *Node, cpu int, f units.Frequency) {
	t.Helper()
	policy := fmt.Sprintf("%scpufreq/policy%d/", cpuDir, cpu)
	write(t, n, policy+"scaling_governor", "userspace")
	write(t, n, policy+"scaling_setspeed", fmt.Sprint(uint64(f)))
}

// loopTime is the least time a fixed loop takes on cpu 0 at f, of three.
func loopTime(t *testing.T, n *Node, f units.Frequency) time.Duration {
	t.Helper()
	setSpeed(t, n, 0, f)
	time.Sleep(3 * pollPeriod)
	least := time.Duration(math.MaxInt64)
	for range 3 {
		began := time.Now()
		if r, err := n.Run(t.Context(), "taskset", "1", "sh", "-c", "i=0; while [ $i -lt 15000 ]; do i=$((i+1)); done"); err != nil || r.Code != 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		least = min(least, time.Since(began))
	}
	return least
}

// TestThrottleV2 runs TestThrottle where cgroup v2 is all there is.
func TestThrottleV2(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	self := filepath.Join(t.TempDir(), "test")
	if _, err := tool(t.Context(), "", "env", "CGO_ENABLED=0", "go", "test", "-c", "-o", self, "."); err != nil {
		t.Fatal(err)
	}
	n := Start(t, Config{Curve: curve(), Files: map[string]string{"/bin/test-throttle": self}})
	r, err := n.Run(t.Context(), "test-throttle", "-test.v", "-test.run=^TestThrottle$")
	if err != nil || r.Code != 0 || !strings.Contains(string(r.Stdout), "--- PASS: TestThrottle ") {
		t.Errorf("%v\n%s%s", err, r.Stdout, r.Stderr)
	}
}

// A server: two sockets whose cores share a clock, firmware that does not know its
// powers, C1 alone.
func TestSharedClock(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	host := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(host, []byte("classes: []\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := curve()
	n := Start(t, Config{Sockets: 2, CoresPerSocket: 2, Curve: c, Domains: []cpuset.Set{cpuset.Range(0, 1), cpuset.Range(2, 3)},
		PSSPower: make([]units.Power, len(c.OPPs)), Idle: []cstates.Model{{Name: "C1", Exit: 1e-6}},
		Files: map[string]string{"/etc/powerd/policy.yaml": host}})
	if got := read(t, n, cpuDir+"cpufreq/policy2/affected_cpus"); got != "2 3" {
		t.Errorf("policy2 has cpus %q, want 2 and 3", got)
	}
	if got := read(t, n, cpuDir+"cpu3/topology/physical_package_id"); got != "1" {
		t.Errorf("cpu3 is in package %s, want 1", got)
	}
	setSpeed(t, n, 2, 800*units.MHz)
	if f, err := n.Frequency(1); err != nil || f != 800*units.MHz {
		t.Errorf("domain 1 is at %v, %v; want 800 MHz", f, err)
	}
	if states, err := n.Glob(cpuDir + "cpu0/cpuidle/state*"); err != nil || len(states) != 2 {
		t.Errorf("idle states %q, %v; want POLL and C1", states, err)
	}
	if got := read(t, n, "/etc/powerd/policy.yaml"); got != "classes: []" {
		t.Errorf("the file brought along reads %q", got)
	}
	if meters, err := n.Glob("/sys/class/hwmon/hwmon*/device/power1_average"); err != nil || len(meters) != 0 {
		t.Errorf("a node without meter has %q, %v", meters, err)
	}
}

func TestDebian(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	n := Start(t, Config{CoresPerSocket: 2, Curve: curve(), Meter: true, Root: Debian})
	r, err := n.Run(t.Context(), "systemctl", "is-system-running", "--wait")
	if state := strings.TrimSpace(string(r.Stdout)); err != nil || state != "running" {
		units, _ := n.Run(t.Context(), "systemctl", "--failed", "--no-legend")
		t.Errorf("systemd is %q (%s), %v; failed: %s", state, r.Stderr, err, units.Stdout)
	}
	if got := read(t, n, "/proc/1/comm"); got != "systemd" {
		t.Errorf("process 1 is %q", got)
	}
	setSpeed(t, n, 1, 1200*units.MHz)
	if f, err := n.Frequency(1); err != nil || f != 1200*units.MHz {
		t.Errorf("domain 1 is at %v, %v; want 1200 MHz", f, err)
	}
	r, err = n.Run(t.Context(), "systemd-run", "--wait", "--pipe", "-p", "AllowedCPUs=1", "-p", "CPUQuota=50%",
		"sh", "-c", "cd /sys/fs/cgroup/$(cut -d: -f3 /proc/self/cgroup); cat cpuset.cpus cpu.max")
	if got := string(r.Stdout); err != nil || got != "1\n50000 100000\n" {
		t.Errorf("a unit's cgroup has %q (%s), %v", got, r.Stderr, err)
	}
}
