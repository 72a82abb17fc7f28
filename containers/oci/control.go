package oci

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/group"
)

// StatePaused is a running container whose cgroup is frozen.
const StatePaused specs.ContainerState = "paused"

func (r *record) frozen() bool {
	if r.Cgroup.Path == "" {
		return false
	}
	frozen, err := r.Cgroup.Frozen()
	return err == nil && frozen
}

// withCgroup finds a container that has processes and a cgroup of its own.
func (e *Engine) withCgroup(verb, id string) (*record, error) {
	_, r, err := e.load(id)
	switch {
	case err != nil:
		return nil, err
	case r.Pid == 0:
		return nil, fmt.Errorf("cannot %s container %s: container not running: it is %s", verb, id, r.Status)
	case r.Cgroup.Path == "":
		return nil, fmt.Errorf("cannot %s container %s: it has no cgroup of its own", verb, id)
	}
	return r, nil
}

// Pause freezes all processes of a running container, and waits until they are.
func (e *Engine) Pause(ctx context.Context, id string) error {
	r, err := e.withCgroup("pause", id)
	if err != nil {
		return err
	}
	if r.Status != specs.StateRunning {
		return fmt.Errorf("cannot pause container %s: it is %s", id, r.Status)
	}
	return r.Cgroup.Freeze(ctx)
}

// Resume lets a paused container's processes go on.
func (e *Engine) Resume(ctx context.Context, id string) error {
	r, err := e.withCgroup("resume", id)
	if err != nil {
		return err
	}
	if r.Status != StatePaused {
		return fmt.Errorf("cannot resume container %s: it is %s", id, r.Status)
	}
	return r.Cgroup.Thaw(ctx)
}

// Pids are a container's processes, by their numbers outside.
func (e *Engine) Pids(id string) ([]int, error) {
	_, r, err := e.load(id)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Pid == 0:
		return nil, fmt.Errorf("cannot list the processes of container %s: container not running: it is %s", id, r.Status)
	case r.Cgroup.Path == "":
		return []int{r.Pid}, nil
	}
	return r.Cgroup.Pids(true)
}

// Update changes those limits of a container that are given: all, or with an error
// none.
func (e *Engine) Update(ctx context.Context, id string, limits *specs.LinuxResources) error {
	r, err := e.withCgroup("update", id)
	if err != nil {
		return err
	}
	return r.Cgroup.Update(ctx, limits)
}

// Stats is what a container's cgroup has used.
func (e *Engine) Stats(id string) (*group.Stats, error) {
	r, err := e.withCgroup("read the statistics of", id)
	if err != nil {
		return nil, err
	}
	return r.Cgroup.Stats()
}

// OOM tells how many of a container's processes the kernel has killed for want of
// memory, each time that there are more. It closes when the container has ended.
func (e *Engine) OOM(ctx context.Context, id string) (<-chan uint64, error) {
	r, err := e.withCgroup("watch", id)
	if err != nil {
		return nil, err
	}
	return r.Cgroup.OOM(ctx)
}

// ParseSignal reads a signal by name, with or without SIG, or by number.
func ParseSignal(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("cannot send signal %d: there is none", n)
		}
		return unix.Signal(n), nil
	}
	// The real-time signals, as libc numbers them.
	for name, of := range map[string]int{"RTMIN": 34, "RTMAX": 64} {
		if plus, ok := strings.CutPrefix(strings.TrimPrefix(strings.ToUpper(s), "SIG"), name); ok {
			n, err := strconv.Atoi(cmp.Or(plus, "0"))
			if err == nil && (plus == "" || plus[0] == '+' || plus[0] == '-') && of+n >= 34 && of+n <= 64 {
				return unix.Signal(of + n), nil
			}
		}
	}
	if sig := unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(s), "SIG")); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("cannot send signal %q: there is none", s)
}
