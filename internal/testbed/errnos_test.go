package testbed

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/errnos.txt anew from the guest's kernel")

const errnosHead = `# What a real Linux refuses, as testbed's TestErrnos saw it: %s,
# acpi-cpufreq, acpi_idle, cgroup v2; 2 cpus, OPPs 800-2400 MHz.
# One operation a line: the file below the root, what was done with it, the result
# ("ok" or the errno), and for a write what the file read right afterwards. Lines
# that start with a blank only prepare the next. Go's quoting throughout.
# The cgroup t is empty unless told; its parent enables cpuset and cpu.
`

// The operations, in order. An indented one prepares the next.
const errnoScript = `
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "garbage"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write ""
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "-1"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1600000 x"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1600000x"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "99999999999999999999"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "9999999"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1"
 sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "2400000"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1700000"
 sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1600000"
sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "2000000"
sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "1200000"
 sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq write "2400000"
sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "garbage"
sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "1"
sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "9999999"
 sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "800000"
sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "900000"
 sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq write "800000"
sys/devices/system/cpu/cpufreq/policy0/scaling_governor write "nonesuch"
sys/devices/system/cpu/cpufreq/policy0/scaling_governor write ""
sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed write "1600000"
 sys/devices/system/cpu/cpufreq/policy0/scaling_governor write "userspace"
sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed write "1600000"
sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed write "1700000"
sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed write "garbage"
sys/devices/system/cpu/cpufreq/policy0/scaling_setspeed write "9999999"
 sys/devices/system/cpu/cpufreq/policy0/scaling_governor write "schedutil"
sys/devices/system/cpu/cpufreq/policy0/related_cpus write "0"
sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq write "1600000"
sys/devices/system/cpu/cpufreq/policy0/nonesuch write "1"
sys/devices/system/cpu/cpufreq/boost write "1"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write "garbage"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write "2"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write "1"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write "-1"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write "0"
sys/devices/system/cpu/cpu1/cpuidle/state1/disable write ""
sys/devices/system/cpu/cpu1/cpuidle/state1/latency write "1"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "garbage"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "-1"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write ""
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "100"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "n/a"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "2147483647"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "2147483648"
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us write "0"
sys/devices/system/cpu/cpu0/online write "0"
sys/devices/system/cpu/cpu1/online write "2"
sys/devices/system/cpu/cpu1/online write "garbage"
sys/devices/system/cpu/online write "0"
sys/fs/cgroup/t mkdir
sys/fs/cgroup/t mkdir
sys/fs/cgroup/none/t mkdir
sys/fs/cgroup/t/cpu.max write "1"
sys/fs/cgroup/t/cpu.max write "999"
sys/fs/cgroup/t/cpu.max write "1000"
sys/fs/cgroup/t/cpu.max write "0"
sys/fs/cgroup/t/cpu.max write "-1"
sys/fs/cgroup/t/cpu.max write "garbage"
sys/fs/cgroup/t/cpu.max write ""
sys/fs/cgroup/t/cpu.max write "50000 999"
sys/fs/cgroup/t/cpu.max write "50000 1000"
sys/fs/cgroup/t/cpu.max write "50000 1000001"
sys/fs/cgroup/t/cpu.max write "50000 100000"
sys/fs/cgroup/t/cpu.max write "50000 garbage"
sys/fs/cgroup/t/cpu.max write "99999999999999"
sys/fs/cgroup/t/cpu.max write "max"
sys/fs/cgroup/t/cpu.max write "max 100000"
sys/fs/cgroup/t/cpu.max.burst write "1000"
sys/fs/cgroup/t/cpu.weight write "0"
sys/fs/cgroup/t/cpu.weight write "10001"
sys/fs/cgroup/t/cpu.weight write "100"
sys/fs/cgroup/t/cpu.idle write "2"
sys/fs/cgroup/t/cpuset.cpus write "garbage"
sys/fs/cgroup/t/cpuset.cpus write "1-0"
sys/fs/cgroup/t/cpuset.cpus write "7"
sys/fs/cgroup/t/cpuset.cpus write "99999"
sys/fs/cgroup/t/cpuset.cpus write "0-1"
sys/fs/cgroup/t/cpuset.cpus write "1"
sys/fs/cgroup/t/cpuset.cpus write ""
sys/fs/cgroup/t/cpuset.cpus write "\n"
sys/fs/cgroup/t/cpuset.mems write "1"
sys/fs/cgroup/t/cpuset.cpus.effective write "0"
sys/fs/cgroup/t/cpuset.cpus.partition write "garbage"
sys/fs/cgroup/t/cpuset.cpus.partition write "root"
 sys/fs/cgroup/t/cpuset.cpus.partition write "member"
sys/fs/cgroup/t/cgroup.procs write "99999"
sys/fs/cgroup/t/cgroup.procs write "garbage"
sys/fs/cgroup/t/cgroup.subtree_control write "+nonesuch"
sys/fs/cgroup/t/cgroup.freeze write "2"
 sys/devices/system/cpu/cpu1/online write "0"
sys/fs/cgroup/t/cpuset.cpus write "1"
sys/fs/cgroup/t/cpuset.cpus.effective read
sys/devices/system/cpu/cpu1/power/pm_qos_resume_latency_us read
sys/devices/system/cpu/cpu1/cpuidle/state1/disable read
sys/devices/system/cpu/cpu1/cpufreq/scaling_max_freq read
sys/devices/system/cpu/cpu1/topology/core_id read
sys/devices/system/cpu/cpufreq/policy1/scaling_max_freq read
sys/devices/system/cpu/cpufreq/policy1/scaling_max_freq write "1600000"
 sys/devices/system/cpu/cpu1/online write "1"
sys/fs/cgroup/t/cpuset.cpus.effective read
sys/fs/cgroup/t/c mkdir
sys/fs/cgroup/t/c/cpu.max read
sys/fs/cgroup/t/c/cpuset.cpus read
sys/fs/cgroup/t/c/cgroup.procs read
sys/fs/cgroup/t remove
sys/fs/cgroup/t/c remove
 sys/fs/cgroup/t occupy
sys/fs/cgroup/t/cpuset.cpus write "\n"
sys/fs/cgroup/t/cpuset.cpus write "0-1"
sys/fs/cgroup/t remove
sys/fs/cgroup/t/cgroup.subtree_control write "+cpu"
 sys/fs/cgroup/t vacate
sys/fs/cgroup/t remove
sys/fs/cgroup/t remove
sys/fs/cgroup/t/cpu.max write "max"
sys/fs/cgroup/cpu.max write "max"
`

// TestErrnos compares what the guest's kernel refuses with testdata/errnos.txt, by
// which the simulator's refusals are checked.
func TestErrnos(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a node")
	}
	n := Start(t, Config{CoresPerSocket: 2, Curve: curve(), Meter: true})
	release, err := n.ReadFile("proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	major, _, _ := strings.Cut(string(release), "-")
	var got strings.Builder
	fmt.Fprintf(&got, errnosHead, "Debian's Linux "+strings.Join(strings.SplitN(major, ".", 3)[:2], "."))
	occupant := 0
	for line := range strings.Lines(errnoScript) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		name, action, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		after := ""
		switch action {
		case "read":
			var data []byte
			if data, err = n.ReadFile(name); err == nil {
				after = fmt.Sprintf(" %q", data)
			}
		case "mkdir":
			err = n.Mkdir(name)
		case "remove":
			err = n.Remove(name)
		case "occupy":
			occupant, err = n.Start(t.Context(), "/tmp/out", Command{Argv: []string{"sleep", "1000"}})
			if err == nil {
				err = n.WriteFile(name+"/cgroup.procs", fmt.Append(nil, occupant))
			}
		case "vacate":
			err = n.Signal(occupant, syscall.SIGKILL)
			if err == nil {
				_, err = n.Wait(t.Context(), occupant)
			}
		default:
			var data string
			if _, err := fmt.Sscanf(action, "write %q", &data); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			err = n.WriteFile(name, []byte(data))
			if data, err := n.ReadFile(name); err == nil {
				after = fmt.Sprintf(" reads %q", data)
			}
		}
		fmt.Fprintf(&got, "%s %s%s\n", line, errnoName(t, err), after)
	}
	const golden = "testdata/errnos.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got.String(), "\n")); d != "" {
		t.Errorf("the kernel differs from %s (-file +kernel); -update writes it anew:\n%s", golden, d)
	}
}

func errnoName(t *testing.T, err error) string {
	if err == nil {
		return "ok"
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		t.Errorf("an error without errno: %v", err)
		return "?"
	}
	return unix.ErrnoName(errno)
}
