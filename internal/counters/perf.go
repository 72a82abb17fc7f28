package counters

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/internal/cpuset"
)

// Perf counts with the processor's counters, by perf_event_open(2): a group of two events
// for each cgroup and cpu, read together, so that their ratio is exact even where the
// counters are shared in turns. It needs CAP_PERFMON, or CAP_SYS_ADMIN before Linux 5.8.
//
// See perf_event_open(2), PERF_FLAG_PID_CGROUP, and Documentation/admin-guide/perf-security.rst.
type Perf struct {
	root   string
	kind   uint32    // perf_event_attr.type
	events [2]uint64 // its config, of the group's leader first
	units  []unit
}

// A unit is the counters of one kind of core of a hybrid; its type goes before the event.
type unit struct {
	cpus cpuset.Set
	kind uint64
}

// Host returns the counters of the machine whose files are below a folder, "/" unless a
// test has reasons.
//
// See Documentation/admin-guide/perf/ and PERF_PMU_TYPE_SHIFT in perf_event.h.
func Host(root string) *Perf {
	p := &Perf{root: root, kind: unix.PERF_TYPE_HARDWARE, events: [2]uint64{unix.PERF_COUNT_HW_CPU_CYCLES, unix.PERF_COUNT_HW_INSTRUCTIONS}}
	for _, name := range []string{"cpu_core", "cpu_atom", "cpu_lowpower"} {
		dir := filepath.Join(root, "sys/bus/event_source/devices", name)
		kind, err := os.ReadFile(filepath.Join(dir, "type"))
		list, lerr := os.ReadFile(filepath.Join(dir, "cpus"))
		if err != nil || lerr != nil {
			continue // it is no hybrid, or none of this kind
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(kind)), 10, 32)
		cpus, lerr := cpuset.Parse(strings.TrimSpace(string(list)))
		if err == nil && lerr == nil {
			p.units = append(p.units, unit{cpus, n})
		}
	}
	return p
}

// config is an event's on a cpu.
func (p *Perf) config(event uint64, cpu cpuset.CPU) uint64 {
	for _, u := range p.units {
		if u.cpus.Contains(cpu) {
			return u.kind<<32 | event
		}
	}
	return event
}

// perfCounter has the leaders' descriptors, and behind each its member's.
type perfCounter struct {
	cpus []cpuset.CPU
	fds  []int
	buf  [5 * 8]byte
}

// Open implements Source.
func (p *Perf) Open(cgroup string, cpus cpuset.Set) (Counter, error) {
	dir, err := os.Open(filepath.Join(p.root, cgroup))
	if err != nil {
		return nil, fmt.Errorf("cannot count the work of %s: %w", cgroup, err)
	}
	defer dir.Close() // an event holds on to the cgroup, not to this
	c := &perfCounter{}
	var missing, offline error
	for cpu := range cpus.All() {
		leader := -1
		for _, event := range p.events {
			attr := unix.PerfEventAttr{Type: p.kind, Size: unix.PERF_ATTR_SIZE_VER1, Config: p.config(event, cpu),
				Read_format: unix.PERF_FORMAT_GROUP | unix.PERF_FORMAT_TOTAL_TIME_ENABLED | unix.PERF_FORMAT_TOTAL_TIME_RUNNING}
			var fd int
			if fd, err = unix.PerfEventOpen(&attr, int(dir.Fd()), int(cpu), leader, unix.PERF_FLAG_PID_CGROUP|unix.PERF_FLAG_FD_CLOEXEC); err != nil {
				break
			}
			c.fds = append(c.fds, fd)
			if leader < 0 {
				leader = fd
			}
		}
		switch {
		case err == nil:
			c.cpus = append(c.cpus, cpu)
			continue
		case leader >= 0:
			unix.Close(leader)
			c.fds = c.fds[:len(c.fds)-1]
		}
		// A cpu that is offline or cannot count does not keep the others from counting.
		switch {
		case errors.Is(err, unix.ENODEV):
			offline = err
			continue
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
			missing = refused(cgroup, cpu, err)
			continue
		}
		c.Close() //nolint:errcheck // they were only opened
		return nil, refused(cgroup, cpu, err)
	}
	switch {
	case len(c.cpus) > 0:
		return c, nil
	case missing != nil:
		return nil, missing
	case offline != nil:
		return nil, fmt.Errorf("cannot count the work of %s on cpus %s: %w", cgroup, cpus, offline)
	}
	return nil, fmt.Errorf("cannot count the work of %s: it has no cpus", cgroup)
}

// refused says what an error of perf_event_open means.
func refused(cgroup string, cpu cpuset.CPU, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel has no such events for cpu %d (%v), as in most virtual machines", ErrNone, cpu, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel counts none for cgroups (%v), which needs CONFIG_CGROUP_PERF", ErrNone, err)
	case errors.Is(err, unix.EBADF):
		return fmt.Errorf("%w: the perf_event controller is in a hierarchy of version 1 (%v)", ErrNone, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: that needs CAP_PERFMON, and with kernel.perf_event_paranoid above 2, as Debian has it, CAP_SYS_ADMIN (%v)", ErrDenied, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w: no descriptors are left (%v)", ErrCrowded, err)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: %v", ErrCrowded, err)
	}
	return fmt.Errorf("cannot count the work of %s on cpu %d: %w", cgroup, cpu, err)
}

// Read implements Counter.
func (c *perfCounter) Read(to []Count) ([]Count, error) {
	for i, cpu := range c.cpus {
		n, err := unix.Read(c.fds[2*i], c.buf[:])
		if err != nil {
			return to, fmt.Errorf("cannot read the counters of cpu %d: %w", cpu, err)
		}
		if n == 0 {
			continue // the group is in an error state, e.g. after its cpu went away
		}
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(c.buf[8*i:]) }
		if n != len(c.buf) || word(0) != 2 {
			return to, fmt.Errorf("cannot read the counters of cpu %d: %d bytes of %d values, want 2", cpu, n, word(0))
		}
		to = append(to, Count{CPU: cpu, Enabled: time.Duration(word(1)), Running: time.Duration(word(2)), Cycles: word(3), Instructions: word(4)})
	}
	return to, nil
}

// Close implements Counter.
func (c *perfCounter) Close() error {
	var errs []error
	for _, fd := range c.fds {
		errs = append(errs, unix.Close(fd))
	}
	c.fds, c.cpus = nil, nil
	return errors.Join(errs...)
}
