package testbed

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// A throttle bounds the host cpu time of each vCPU's thread by cgroups of its own
// below the cgroup this process is in: powerd-testbed-PID-N/cpuI.
type throttle struct {
	base   string
	v2     bool
	quotas []int // us per quotaPeriod as last written; -1: no bound
}

// quotaPeriod is short beside the harness' poll, so that a guest sees a slower
// clock and not a stuttering one.
const quotaPeriod = 10 * time.Millisecond

// weightFactor is how much more a node weighs than another process on a busy host,
// where it could not hold its clock otherwise.
const weightFactor = 20

var throttles atomic.Int64

// newThrottle makes the cgroups for the threads of process pid.
func newThrottle(pid int, threads []int) (*throttle, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	parent, v2, err := cpuHierarchy(string(mounts), string(self))
	if err != nil {
		return nil, err
	}
	for _, left := range leftovers(parent) {
		(&throttle{base: left}).rmdir() // a busy one is tried again next time
	}
	t := &throttle{
		base: filepath.Join(parent, fmt.Sprintf("%s%d-%d", ownPrefix, os.Getpid(), throttles.Add(1))),
		v2:   v2,
	}
	if err := t.make(pid, threads); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the cgroups that slow vCPUs down (root and the cpu controller are needed): %w", err), t.remove())
	}
	return t, nil
}

// ownPrefix and a pid begin the name of each folder and cgroup the testbed makes.
const ownPrefix = "powerd-testbed-"

// leftovers returns what killed tests left in a folder.
func leftovers(parent string) []string {
	own, _ := filepath.Glob(filepath.Join(parent, ownPrefix+"*"))
	return slices.DeleteFunc(own, func(name string) bool {
		id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(name), ownPrefix), "-")
		pid, err := strconv.Atoi(id)
		return err != nil || !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
	})
}

func (t *throttle) make(pid int, threads []int) error {
	if err := os.Mkdir(t.base, 0o755); err != nil {
		return err
	}
	file, weight, value := "tasks", "cpu.shares", 1024*weightFactor
	if t.v2 {
		file, weight, value = "cgroup.threads", "cpu.weight", 100*weightFactor
	}
	if err := os.WriteFile(filepath.Join(t.base, weight), []byte(strconv.Itoa(value)), 0); err != nil {
		return err
	}
	// In v2, threads of one process may be in different cgroups only below the one
	// the process is in, and only in threaded ones.
	if err := os.WriteFile(filepath.Join(t.base, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return err
	}
	for i, tid := range threads {
		dir := t.dir(i)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if t.v2 {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.type"), []byte("threaded"), 0); err != nil {
				return err
			}
		}
		if t.v2 && i == 0 {
			if err := os.WriteFile(filepath.Join(t.base, "cgroup.subtree_control"), []byte("+cpu"), 0); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.Itoa(tid)), 0); err != nil {
			return err
		}
		t.quotas = append(t.quotas, -1)
	}
	return nil
}

func (t *throttle) dir(cpu int) string { return filepath.Join(t.base, "cpu"+strconv.Itoa(cpu)) }

// set gives vCPU cpu the share of a host cpu, 1 meaning no bound.
func (t *throttle) set(cpu int, share float64) error {
	quota := -1
	if share < 1 {
		// The kernel takes no quota under 1 ms.
		quota = max(1000, int(math.Round(share*float64(quotaPeriod.Microseconds()))))
	}
	if quota == t.quotas[cpu] {
		return nil
	}
	period := strconv.FormatInt(quotaPeriod.Microseconds(), 10)
	var err error
	if t.v2 {
		limit := "max"
		if quota > 0 {
			limit = strconv.Itoa(quota)
		}
		err = os.WriteFile(filepath.Join(t.dir(cpu), "cpu.max"), []byte(limit+" "+period), 0)
	} else {
		err = errors.Join(
			os.WriteFile(filepath.Join(t.dir(cpu), "cpu.cfs_period_us"), []byte(period), 0),
			os.WriteFile(filepath.Join(t.dir(cpu), "cpu.cfs_quota_us"), []byte(strconv.Itoa(quota)), 0))
	}
	if err != nil {
		return fmt.Errorf("cannot slow vCPU %d down: %w", cpu, err)
	}
	t.quotas[cpu] = quota
	return nil
}

// remove removes the cgroups once the process they held is gone, whose last
// threads may take a moment to leave.
func (t *throttle) remove() error {
	var err error
	for range 50 {
		if err = t.rmdir(); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("cannot remove cgroup %s: %w", t.base, err)
}

func (t *throttle) rmdir() error {
	children, _ := filepath.Glob(filepath.Join(t.base, "cpu[0-9]*"))
	for _, dir := range children {
		syscall.Rmdir(dir) // if it cannot go, its parent cannot either
	}
	if err := syscall.Rmdir(t.base); !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return nil
}

// cpuHierarchy finds, from /proc/self/mounts and /proc/self/cgroup, the folder of
// this process' cgroup in the hierarchy with the cpu controller:
//
//	cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
//	1:cpu,cpuacct:/user.slice
//
// or, on a host with cgroup v2 alone,
//
//	cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev 0 0
//	0::/user.slice
//
// There, processes may only be in leaves, so it is the parent of the process'.
// See cgroups(7).
func cpuHierarchy(mounts, self string) (dir string, v2 bool, err error) {
	mountOf := func(kind, controller string) string {
		for line := range strings.Lines(mounts) {
			f := strings.Fields(line)
			if len(f) < 4 || f[2] != kind {
				continue
			}
			if controller == "" || slices.Contains(strings.Split(f[3], ","), controller) {
				return f[1]
			}
		}
		return ""
	}
	for line := range strings.Lines(self) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if slices.Contains(strings.Split(f[1], ","), "cpu") {
			if m := mountOf("cgroup", "cpu"); m != "" {
				return filepath.Join(m, f[2]), false, nil
			}
		}
	}
	for line := range strings.Lines(self) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			if m := mountOf("cgroup2", ""); m != "" {
				return filepath.Join(m, filepath.Dir(path)), true, nil
			}
		}
	}
	return "", false, errors.New("cannot slow vCPUs down: no cgroup hierarchy with the cpu controller is mounted")
}
