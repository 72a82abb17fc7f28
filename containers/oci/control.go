package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// StatePaused is a running container whose cgroup is frozen.
const StatePaused specs.ContainerState = "paused"

// Pause freezes all processes of a container, and waits until they are.
//
// See https://docs.kernel.org/admin-guide/cgroup-v2.html, cgroup.freeze.
func (e *Engine) Pause(id string) error { return e.freeze(id, specs.StateRunning, true) }

// Resume lets a paused container's processes go on.
func (e *Engine) Resume(id string) error { return e.freeze(id, StatePaused, false) }

func (e *Engine) freeze(id string, from specs.ContainerState, to bool) error {
	verb, value := "resume", "0"
	if to {
		verb, value = "pause", "1"
	}
	_, r, err := e.load(id)
	if err != nil {
		return err
	}
	switch {
	case r.Status != from:
		return fmt.Errorf("cannot %s container %s: it is %s", verb, id, r.Status)
	case r.Cgroup == "":
		return fmt.Errorf("cannot %s container %s: it has no cgroup of its own", verb, id)
	}
	dir := filepath.Join("/sys/fs/cgroup", r.Cgroup)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
		return fmt.Errorf("cannot %s container %s: %v", verb, id, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return fmt.Errorf("cannot %s container %s: %v", verb, id, err)
		}
		if strings.Contains(string(data), "frozen "+value) {
			return nil
		}
		if time.Now().After(deadline) {
			err := fmt.Errorf("cannot %s container %s: its processes do not stop within 10 s", verb, id)
			if to { // as it was
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0))
			}
			return err
		}
		time.Sleep(wait)
	}
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
	case r.Cgroup == "":
		return []int{r.Pid}, nil
	}
	return cgroupPids(r.Cgroup)
}
