package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// An Engine runs containers whose state is in a folder.
type Engine struct {
	// Root is the folder of the state, e.g. /run/powerd-oci.
	Root string
	// NoCgroups leaves containers in the caller's cgroup, without limits.
	NoCgroups bool
}

// ownGroup holds the cgroups of containers that name none.
const ownGroup = "/powerd-oci"

// record is state.json.
type record struct {
	specs.State
	// Started is the init process' start time in clock ticks since boot, so that
	// another process of the same number is not taken for it.
	Started uint64 `json:"powerd_start_ticks"`
	Cgroup  string `json:"powerd_cgroup"`
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("there is no such container")
	ErrExists   = errors.New("there is one already")
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_+.-]{1,1000}$`)

func (e *Engine) dir(id string) (string, error) {
	if !idPattern.MatchString(id) || id == "." || id == ".." {
		return "", fmt.Errorf("cannot use container id %q: want letters, digits and _ + . -", id)
	}
	return filepath.Join(e.Root, id), nil
}

// Create makes a container up to its program, which Start lets run. Its process is
// a child of the caller's.
func (e *Engine) Create(id, bundle string) (*specs.State, error) {
	s, p, err := e.begin(id, bundle)
	if err == nil {
		p.Close() // what the program's start comes to, nobody will be there to hear
	}
	return s, err
}

func (e *Engine) begin(id, bundle string) (*specs.State, *spawn.Process, error) {
	dir, err := e.dir(id)
	if err != nil {
		return nil, nil, err
	}
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, nil, err
	}
	spec, err := Load(bundle)
	if err != nil {
		return nil, nil, err
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if info, err := os.Stat(rootfs); err != nil || !info.IsDir() {
		return nil, nil, field("root.path", "%s is no folder", rootfs)
	}
	if err := os.MkdirAll(e.Root, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot make the state folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, nil, fmt.Errorf("cannot create container %s: %w", id, ErrExists)
		}
		return nil, nil, fmt.Errorf("cannot create container %s: %v", id, err)
	}
	r := &record{State: specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating, Bundle: bundle, Annotations: spec.Annotations}}
	p, err := e.create(dir, r, spec, rootfs)
	if err != nil {
		return nil, nil, errors.Join(err, e.destroy(dir, r))
	}
	return &r.State, p, nil
}

func (e *Engine) create(dir string, r *record, spec *specs.Spec, rootfs string) (*spawn.Process, error) {
	var group *os.File
	if !e.NoCgroups {
		if cgroups.Mode() != cgroups.Unified {
			return nil, errors.New("cannot make a cgroup: this host has no cgroup v2 hierarchy alone; --cgroup-manager=none runs without limits")
		}
		r.Cgroup = spec.Linux.CgroupsPath
		if r.Cgroup == "" {
			r.Cgroup = ownGroup + "/" + r.ID
		}
		r.Cgroup = filepath.Join("/", r.Cgroup)
		// Whatever is in the container's cgroup ends with it: it must be its own.
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", r.Cgroup)); err == nil {
			group := r.Cgroup
			r.Cgroup = ""
			return nil, field("linux.cgroupsPath", "cgroup %s is there already", group)
		}
	}
	// First the record, so that whatever happens delete finds it all.
	if err := e.save(dir, r); err != nil {
		return nil, err
	}
	if r.Cgroup != "" {
		var err error
		if group, err = makeCgroup(r.Cgroup, spec.Linux.Resources); err != nil {
			return nil, err
		}
		defer group.Close()
	}
	fifo := filepath.Join(dir, "start")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, fmt.Errorf("cannot make %s: %v", fifo, err)
	}
	start, err := os.OpenFile(fifo, os.O_RDWR, 0) // both ends: opening does not wait
	if err != nil {
		return nil, err
	}
	defer start.Close()
	var pipes [4]*os.File
	for i := range 2 {
		if pipes[2*i], pipes[2*i+1], err = os.Pipe(); err != nil {
			return nil, err
		}
		defer pipes[2*i].Close()
		defer pipes[2*i+1].Close()
	}
	mapped, mappedEnd, ready, readyEnd := pipes[0], pipes[1], pipes[2], pipes[3]
	for _, f := range []*os.File{mapped, readyEnd, start} {
		// The child's reads and writes are to wait.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			return nil, err
		}
	}
	s, err := script(spec, rootfs, ends{mapped: mapped.Fd(), ready: readyEnd.Fd(), start: start.Fd()})
	if err != nil {
		return nil, err
	}
	var flags uintptr
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path == "" && ns.Type != specs.CgroupNamespace {
			flags |= cloneFlags[ns.Type]
		}
	}
	p, err := spawn.Start(s, spawn.Options{Namespaces: flags, Cgroup: group})
	if err != nil {
		return nil, fmt.Errorf("cannot create container %s: %w", r.ID, err)
	}
	r.Pid = p.Pid
	r.Started, _ = startTime(p.Pid)
	readyEnd.Close()
	mapped.Close()
	if owns(spec, specs.UserNamespace) {
		if err := writeMaps(p.Pid, spec); err != nil {
			return nil, err
		}
	}
	mappedEnd.Write([]byte{1}) //nolint:errcheck // whoever died has told why
	var b [1]byte
	if _, err := io.ReadFull(ready, b[:]); err != nil {
		p.Pidfd.Close()
		werr := p.Wait()
		unix.Wait4(p.Pid, nil, 0, nil) //nolint:errcheck // it has ended
		r.Pid = 0
		if werr == nil {
			werr = errors.New("its process ended without a word")
		}
		return nil, fmt.Errorf("cannot create container %s: %w", r.ID, werr)
	}
	r.Status = specs.StateCreated
	return p, e.save(dir, r)
}

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

func writeMaps(pid int, s *specs.Spec) error {
	for _, m := range []struct {
		file string
		ids  []specs.LinuxIDMapping
	}{{"uid_map", s.Linux.UIDMappings}, {"gid_map", s.Linux.GIDMappings}} {
		var text strings.Builder
		for _, id := range m.ids {
			fmt.Fprintf(&text, "%d %d %d\n", id.ContainerID, id.HostID, id.Size)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, m.file), []byte(text.String()), 0); err != nil {
			return fmt.Errorf("cannot map ids: %w", err)
		}
	}
	return nil
}

// save replaces state.json at once: a crash leaves the old or the new.
func (e *Engine) save(dir string, r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "state-")
	if err != nil {
		return fmt.Errorf("cannot save state: %v", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, "state.json"))
	}
	if err != nil {
		return fmt.Errorf("cannot save state: %v", err)
	}
	return nil
}

func (e *Engine) load(id string) (dir string, r *record, err error) {
	if dir, err = e.dir(id); err != nil {
		return "", nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(dir); serr == nil { // killed before its first record
			return dir, &record{State: specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating}}, nil
		}
		return "", nil, fmt.Errorf("cannot find container %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return "", nil, fmt.Errorf("cannot read state: %v", err)
	}
	r = &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return "", nil, fmt.Errorf("cannot read state of container %s: %v", id, err)
	}
	switch now, alive := startTime(r.Pid); {
	case r.Status == specs.StateCreating && r.Pid == 0:
	case !alive || now != r.Started:
		r.Status, r.Pid = specs.StateStopped, 0
	default:
		r.Status = specs.StateRunning
		if _, err := os.Stat(filepath.Join(dir, "start")); err == nil {
			r.Status = specs.StateCreated
		}
	}
	return dir, r, nil
}

// startTime returns when a process started, in ticks since boot; a zombie is none.
func startTime(pid int) (uint64, bool) {
	if pid <= 0 {
		return 0, false
	}
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, false
	}
	stat, err := p.Stat()
	if err != nil || stat.State == "Z" || stat.State == "X" {
		return 0, false
	}
	return stat.Starttime, true
}

// State returns what a container is doing.
func (e *Engine) State(id string) (*specs.State, error) {
	_, r, err := e.load(id)
	if err != nil {
		return nil, err
	}
	return &r.State, nil
}

// Start lets a created container's program run.
func (e *Engine) Start(id string) error {
	dir, r, err := e.load(id)
	if err != nil {
		return err
	}
	if r.Status != specs.StateCreated {
		return fmt.Errorf("cannot start container %s: it is %s", id, r.Status)
	}
	fifo := filepath.Join(dir, "start")
	f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		_, err = f.Write([]byte{1})
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot start container %s: %v", id, err)
	}
	return os.Remove(fifo)
}

// Kill sends a signal to a container's first process.
func (e *Engine) Kill(id string, sig unix.Signal) error {
	_, r, err := e.load(id)
	if err != nil {
		return err
	}
	if r.Pid == 0 {
		return fmt.Errorf("cannot signal container %s: it is %s", id, r.Status)
	}
	return r.signal(sig)
}

// signal reaches the process of the record and no other of its number.
func (r *record) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(r.Pid, 0)
	if err == nil {
		defer unix.Close(fd)
		if now, alive := startTime(r.Pid); !alive || now != r.Started {
			err = unix.ESRCH
		} else {
			err = unix.PidfdSendSignal(fd, sig, nil, 0)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot signal container %s: %w", r.ID, err)
	}
	return nil
}

// Delete removes a stopped container and all that is its; with force a running
// one too, and what a crash has left of one.
func (e *Engine) Delete(id string, force bool) error {
	dir, r, err := e.load(id)
	if err != nil {
		return err
	}
	if r.Status != specs.StateStopped && !force {
		return fmt.Errorf("cannot delete container %s: it is %s; --force kills it first", id, r.Status)
	}
	return e.destroy(dir, r)
}

func (e *Engine) destroy(dir string, r *record) error {
	if r.Pid != 0 {
		if err := r.signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	if r.Cgroup != "" {
		group := filepath.Join("/sys/fs/cgroup", r.Cgroup)
		if err := os.WriteFile(filepath.Join(group, "cgroup.kill"), []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot kill what is in cgroup %s: %v", r.Cgroup, err)
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for wait := time.Millisecond; r.Pid != 0; wait = min(2*wait, 50*time.Millisecond) {
		unix.Wait4(r.Pid, nil, unix.WNOHANG, nil) //nolint:errcheck // if it is our child
		if now, alive := startTime(r.Pid); !alive || now != r.Started {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot delete container %s: its process %d does not end", r.ID, r.Pid)
		}
		time.Sleep(wait)
	}
	if r.Cgroup != "" {
		group := filepath.Join("/sys/fs/cgroup", r.Cgroup)
		for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
			err := removeGroups(group)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("cannot remove cgroup %s: %v", r.Cgroup, err)
			}
			time.Sleep(wait)
		}
		if filepath.Dir(r.Cgroup) == ownGroup {
			os.Remove(filepath.Dir(group)) //nolint:errcheck // others may be in it
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot remove state: %v", err)
	}
	return nil
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

// List returns the states of all containers, by id.
func (e *Engine) List() ([]specs.State, error) {
	entries, err := os.ReadDir(e.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list containers: %v", err)
	}
	var out []specs.State
	for _, entry := range entries {
		if _, r, err := e.load(entry.Name()); err == nil {
			out = append(out, r.State)
		}
	}
	return out, nil
}

// Run creates and starts a container, waits for its program and deletes it. It
// returns the program's exit code, 128 + the signal that ended it. Signals that
// arrive on the channel are passed on.
func (e *Engine) Run(id, bundle string, signals <-chan os.Signal) (code int, err error) {
	s, p, err := e.begin(id, bundle)
	if err != nil {
		return 0, err
	}
	defer p.Pidfd.Close()
	defer func() { err = errors.Join(err, e.Delete(id, true)) }()
	if err := e.Start(id); err != nil {
		return 0, err
	}
	if err := p.Wait(); err != nil {
		return 0, fmt.Errorf("cannot start container %s: %w", id, err)
	}
	ended := make(chan unix.WaitStatus, 1)
	go func() {
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(s.Pid, &status, 0, nil); err != unix.EINTR {
				ended <- status
				return
			}
		}
	}()
	for {
		select {
		case sig := <-signals:
			if sig, ok := sig.(unix.Signal); ok && sig != unix.SIGCHLD && sig != unix.SIGURG {
				_ = e.Kill(id, sig) // it may just have ended
			}
		case status := <-ended:
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}
