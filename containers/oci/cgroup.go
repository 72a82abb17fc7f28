package oci

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// makeCgroup makes a cgroup with its limits, and opens it.
func makeCgroup(group string, limits *specs.LinuxResources) (*os.File, error) {
	resources := &cgroup2.Resources{}
	if limits != nil {
		resources = cgroup2.ToResources(limits)
	}
	m, err := cgroup2.NewManager("/sys/fs/cgroup", group, resources)
	for range 5 { // the last container of ownGroup may have just taken it along
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		m, err = cgroup2.NewManager("/sys/fs/cgroup", group, resources)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make cgroup %s: %w", group, err)
	}
	dir := filepath.Join("/sys/fs/cgroup", group)
	if limits != nil {
		files := map[string]string{}
		for name, value := range limits.Unified {
			if strings.ContainsAny(name, "/\x00") || !strings.Contains(name, ".") {
				return nil, field("linux.resources.unified", "%q is no file of a cgroup", name)
			}
			files[name] = value
		}
		if limits.CPU != nil && limits.CPU.Burst != nil {
			files["cpu.max.burst"] = strconv.FormatUint(*limits.CPU.Burst, 10)
		}
		if limits.CPU != nil && limits.CPU.Idle != nil {
			files["cpu.idle"] = strconv.FormatInt(*limits.CPU.Idle, 10)
		}
		for name, value := range files {
			controller, _, _ := strings.Cut(name, ".")
			if controller != "cgroup" {
				if err := m.ToggleControllers([]string{controller}, cgroup2.Enable); err != nil {
					return nil, fmt.Errorf("cannot enable %s for cgroup %s: %w", controller, group, err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0); err != nil {
				return nil, fmt.Errorf("cannot set a limit: %w", err)
			}
		}
	}
	return os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// removeGroups removes a cgroup and those below it.
func removeGroups(group string) error {
	entries, err := os.ReadDir(group)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(group, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(group); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// cgroupPids are the processes in a cgroup and those below it.
func cgroupPids(group string) (pids []int, err error) {
	err = filepath.WalkDir(filepath.Join("/sys/fs/cgroup", group), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			pid, err := strconv.Atoi(lines.Text())
			if err != nil {
				return fmt.Errorf("cannot read %s: %v", p, err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// frozen tells whether a cgroup is.
func frozen(group string) bool {
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", group, "cgroup.freeze"))
	return group != "" && err == nil && strings.TrimSpace(string(data)) == "1"
}
