package oci

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/group"
	"github.com/powerd/powerd/containers/network"
	"github.com/powerd/powerd/containers/seccomp"
	"github.com/powerd/powerd/containers/spawn"
)

// An Engine runs containers whose state is in a folder.
type Engine struct {
	// Root is the folder of the state, e.g. /run/powerd-oci.
	Root string
	// NoCgroups leaves containers in the caller's cgroup, without limits.
	NoCgroups bool
	// Cgroups says how cgroups are made.
	Cgroups group.Manager
	// Placed, if not nil, is called when a container whose annotations say how powerd
	// is to place it has its cgroup, and no process yet: it may set where it runs.
	Placed func(ctx context.Context) error

	// Warn, if not nil, is told what of a config is left out.
	Warn func(text string)

	// Step, if not nil, is told what of a start and end is done as it comes along, for
	// measurements.
	Step func(done string)

	spares *spares // nil without Prepare
}

func (e *Engine) step(done string) {
	if e.Step != nil {
		e.Step(done)
	}
}

// notes are those annotations that say how powerd is to place a container, powerd.class
// and its like, as attributes of its cgroup.
func notes(annotations map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range annotations {
		if strings.HasPrefix(name, "powerd.") {
			out["trusted."+name] = value
		}
	}
	return out
}

// record is state.json.
type record struct {
	specs.State
	// Started is the init process' start time in clock ticks since boot, so that
	// another process of the same number is not taken for it.
	Started uint64    `json:"powerd_start_ticks"`
	Cgroup  group.Ref `json:"powerd_cgroup"`
	// Rdt are the resctrl groups its processes are in, and RdtMade those that go with it.
	Rdt     []string  `json:"powerd_rdt,omitempty"`
	RdtMade []string  `json:"powerd_rdt_made,omitempty"`
	Created time.Time `json:"created"`
	Rootfs  string    `json:"rootfs"`
}

// A State is what a container is doing, with what runc tells beside what the
// specification asks for.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	// Owner is the user who made it.
	Owner string `json:"owner"`
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("container does not exist") // engines look for these words
	ErrExists   = errors.New("there is one already")
)

// gone ends the name of a state that is being removed; no id has a tilde.
const gone = "~"

// notInID tells what an id, the name of a folder and of a cgroup, cannot hold.
func notInID(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+.-", r))
}

func (e *Engine) dir(id string) (string, error) {
	if id == "" || len(id) > 200 || strings.ContainsFunc(id, notInID) || id == "." || id == ".." {
		return "", fmt.Errorf("cannot use container id %q: want up to 200 letters, digits and _ + . -", id)
	}
	return filepath.Join(e.Root, id), nil
}

// CreateOptions say how a container is made.
type CreateOptions struct {
	// ConsoleSocket gets the terminal's master; so does Console, a connected socket.
	ConsoleSocket string
	Console       *os.File
	// Preserve is how many descriptors above 2 the program gets.
	Preserve int
	// Env is added to the program's environment.
	Env []string
	// KeepKeyring leaves the process the caller's session keyring.
	KeepKeyring bool
	// Detach lets Run return once the program runs, Keep lets it leave the container
	// stopped, for Delete.
	Detach, Keep bool
	// Overlay, if not nil, is what the root is made of.
	Overlay *Overlay
	// Init leaves an init of a few kilobytes as process 1, which passes signals on and
	// waits for orphans.
	Init bool
	// Visit, if not nil, is called while the container's process waits in its
	// namespaces, before it enters its root.
	Visit func(pid int) error
	// Started is called with the pid, if not nil, when the container is created.
	Started func(pid int) error
}

// Create makes a container up to its program, which Start lets run. Its process is
// a child of the caller's.
func (e *Engine) Create(ctx context.Context, id, bundle string, o CreateOptions) (*specs.State, error) {
	o.Detach = true
	c, err := e.begin(ctx, id, bundle, o)
	if err != nil {
		return nil, err
	}
	c.process.Close() // what the program's start comes to, nobody will be there to hear
	return &c.record.State, nil
}

// created is a container up to its program.
type created struct {
	dir     string
	spec    *specs.Spec
	record  *record
	process *spawn.Process
	receive func() (*Terminal, error) // nil without a terminal for us
}

func (e *Engine) begin(ctx context.Context, id, bundle string, o CreateOptions) (*created, error) {
	dir, err := e.dir(id)
	if err != nil {
		return nil, err
	}
	if bundle, err = filepath.Abs(bundle); err != nil {
		return nil, err
	}
	config, err := read(bundle)
	if err != nil {
		return nil, err
	}
	spec, err := Parse(config)
	if err != nil {
		return nil, err
	}
	e.warn(id, spec.Process)
	e.step("read config.json")
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if info, err := os.Stat(rootfs); err != nil || !info.IsDir() {
		return nil, field("root.path", "%s is no folder", rootfs)
	}
	if err := os.MkdirAll(e.Root, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the state folder: %v", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("cannot create container %s: %w", id, ErrExists)
		}
		return nil, fmt.Errorf("cannot create container %s: %v", id, err)
	}
	r := &record{State: specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating, Bundle: bundle, Annotations: spec.Annotations}, Created: time.Now().UTC(), Rootfs: rootfs}
	c := &created{dir: dir, spec: spec, record: r}
	err = e.create(ctx, c, config, rootfs, o)
	if err == nil && o.Started != nil {
		if err = o.Started(r.Pid); err != nil {
			c.process.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(err, e.destroy(ctx, dir, r))
	}
	return c, nil
}

func (e *Engine) create(ctx context.Context, c *created, config []byte, rootfs string, o CreateOptions) error {
	dir, r, spec := c.dir, c.record, c.spec
	if !e.NoCgroups {
		var err error
		if r.Cgroup, err = e.Cgroups.Path(ctx, spec.Linux.CgroupsPath, r.ID); err != nil {
			return fmt.Errorf("cannot create container %s: %w", r.ID, err)
		}
	}
	classes, err := planRdt(spec.Linux.IntelRdt, r.ID)
	if err != nil {
		return err
	}
	if classes != nil {
		r.Rdt, r.RdtMade = []string{classes.group, classes.monitor}, classes.made
	}
	// First the record, so that whatever happens delete finds it all.
	if err := errors.Join(e.save(dir, r), saveConfig(dir, config)); err != nil {
		return err
	}
	if classes != nil {
		if err := classes.create(); err != nil {
			return err
		}
	}
	e.step("save the first record")
	var home *os.File
	ready := func() error { return nil }
	if !e.NoCgroups {
		o := group.Options{Annotations: spec.Annotations, Attributes: notes(spec.Annotations)}
		if uid, ok := group.Owner(spec); ok {
			o.Owner = &uid
		}
		g, err := e.Cgroups.Create(ctx, r.Cgroup, spec.Linux.Resources, o)
		if err != nil {
			if errors.Is(err, fs.ErrExist) {
				r.Cgroup = group.Ref{} // another's, and not to be removed
			}
			return fmt.Errorf("cannot create container %s: %w", r.ID, err)
		}
		defer g.Close()
		r.Cgroup, home, ready = g.Ref, g.Dir, g.Ready
		if err := e.save(dir, r); err != nil {
			return err
		}
		if len(o.Attributes) > 0 && e.Placed != nil {
			if err := e.Placed(ctx); err != nil {
				return fmt.Errorf("cannot create container %s: %w", r.ID, err)
			}
		}
	}
	e.step("make the cgroup")
	fifo := filepath.Join(dir, "start")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return fmt.Errorf("cannot make %s: %v", fifo, err)
	}
	start, err := os.OpenFile(fifo, os.O_RDWR, 0) // both ends: opening does not wait
	if err != nil {
		return err
	}
	defer start.Close()
	if err := unix.SetNonblock(int(start.Fd()), false); err != nil {
		return err
	}
	t, err := newTalk()
	if err != nil {
		return err
	}
	defer t.Close()
	con, receive, err := openConsole(spec.Process.Terminal, o.ConsoleSocket, o.Console, o.Detach)
	if err != nil {
		return err
	}
	defer con.Close()
	hostCgroups(spec)
	made, err := makeMounts(spec, rootfs)
	defer func() {
		for _, f := range made {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	var spare *os.File
	if owns(spec, specs.NetworkNamespace) && !has(spec, specs.UserNamespace) { // else it is another user namespace's
		var done func()
		spare, done = e.spares.takeNetwork()
		defer done()
		defer spare.Close()
	}
	namespaces, err := planNamespaces(spec, spare)
	if err != nil {
		return err
	}
	defer namespaces.Close()
	filter, err := compileFilter(spec)
	if err != nil {
		return err
	}
	roots := []string{rootfs}
	if o.Overlay != nil {
		roots = append([]string{o.Overlay.Upper}, o.Overlay.Lower...)
	}
	spec.Process.Env = environment(append(spec.Process.Env, o.Env...), spec.Process.User.UID, passwdOf(spec, roots))
	hooks := hookLists(spec.Hooks)
	before := o.Visit != nil || len(spec.Linux.NetDevices) > 0 || len(hooks["prestart"])+len(hooks["createRuntime"])+len(hooks["createContainer"]) > 0
	s, err := script(spec, rootfs, namespaces, parts{talk: t, start: start, console: con, made: made, overlay: o.Overlay, init: o.Init, visit: before, rdt: r.Rdt,
		identity: identity{preserve: o.Preserve, keepKeyring: o.KeepKeyring, console: con != nil, filter: filter, talk: t}})
	if err != nil {
		return err
	}
	for i := range o.Preserve {
		s.Keep(spawn.FD(3 + i))
	}
	e.step("write the script")
	p, err := spawn.Start(s, spawn.Options{Namespaces: namespaces.clone, Cgroup: home})
	if err != nil {
		return fmt.Errorf("cannot create container %s: %w", r.ID, err)
	}
	e.step("clone into namespaces and cgroup")
	t.started()
	var visit func(pid int) error
	if before {
		visit = func(pid int) error {
			if o.Visit != nil {
				if err := o.Visit(pid); err != nil {
					return err
				}
			}
			for _, name := range slices.Sorted(maps.Keys(spec.Linux.NetDevices)) {
				if err := network.MoveDevice(pid, name, spec.Linux.NetDevices[name]); err != nil {
					return err
				}
			}
			for _, name := range []string{"prestart", "createRuntime"} {
				if err := runHooks(ctx, name, hooks[name], r.State); err != nil {
					return err
				}
			}
			return runHooksInside(ctx, "createContainer", hooks["createContainer"], r.State)
		}
	}
	err = e.accompany(p, r, spec, namespaces, t, ready, visit, filter)
	if err != nil {
		werr := p.Wait()
		unix.Kill(p.Pid, unix.SIGKILL) //nolint:errcheck // it has ended
		status := waitFor(p.Pid)
		if r.Pid != 0 && r.Pid != p.Pid {
			unix.Kill(r.Pid, unix.SIGKILL) //nolint:errcheck // it has ended
			status = waitFor(r.Pid)
		}
		p.Pidfd.Close()
		r.Pid = 0
		if werr != nil && !errors.As(err, new(givenUp)) {
			err = werr
		}
		if status.Signaled() && status.Signal() == unix.SIGSYS {
			err = field("linux.seccomp", "it kills the process for a system call that the runtime makes to start its program: allow at least capset, prctl, read, write, close_range and execve")
		}
		return fmt.Errorf("cannot create container %s: %w", r.ID, err)
	}
	e.step("mount, pivot, take privileges away")
	r.Status = specs.StateCreated
	c.process, c.receive = p, receive
	return e.save(dir, r)
}

// givenUp is a failure of the runtime's own, not of the script's.
type givenUp struct{ error }

func (g givenUp) Unwrap() error { return g.error }

// accompany does the runtime's part while the script runs, until all is prepared.
func (e *Engine) accompany(p *spawn.Process, r *record, spec *specs.Spec, namespaces *plan, t *talk, ready func() error, visit func(pid int) error, filter *seccomp.Filter) (err error) {
	giveUp := func(err error) error {
		t.Close() // the script ends where it waits
		return givenUp{err}
	}
	r.Pid = p.Pid
	if err := ready(); err != nil {
		return giveUp(err)
	}
	if namespaces.user {
		if err := t.heard(); err != nil {
			return errors.New("its process ended without a word")
		}
		if err := writeMaps(p.Pid, spec); err != nil {
			return giveUp(err)
		}
		t.answer()
	}
	if namespaces.fork {
		pid, err := p.Forked()
		waitFor(p.Pid)
		if err != nil {
			return err
		}
		r.Pid = pid
	}
	r.Started, _ = startTime(r.Pid)
	if visit != nil {
		if err := t.heard(); err != nil {
			return errors.New("its process ended without a word")
		}
		if err := visit(r.Pid); err != nil {
			return giveUp(err)
		}
		t.answer()
	}
	if filter != nil && filter.Notify {
		if err := t.heard(); err != nil {
			return errors.New("its process ended without a word")
		}
		if err := listen(filter, r.Pid, r.State); err != nil {
			return giveUp(err)
		}
		t.answer()
	}
	if err := t.heard(); err != nil {
		return errors.New("its process ended without a word")
	}
	return nil
}

// saveConfig keeps the config a container was created with.
func saveConfig(dir string, config []byte) error {
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		return fmt.Errorf("cannot save the config: %v", err)
	}
	return nil
}

// writeMaps maps the ids of a process' user namespace. An ordinary user may map its own
// two ids, and what /etc/subuid and /etc/subgid give it by newuidmap and newgidmap.
//
// See user_namespaces(7).
func writeMaps(pid int, s *specs.Spec) error {
	for _, m := range []struct {
		file, helper string
		own          int
		ids          []specs.LinuxIDMapping
	}{{"uid_map", "newuidmap", os.Geteuid(), s.Linux.UIDMappings}, {"gid_map", "newgidmap", os.Getegid(), s.Linux.GIDMappings}} {
		if os.Geteuid() != 0 {
			if len(m.ids) != 1 || m.ids[0].Size != 1 || int(m.ids[0].HostID) != m.own {
				if err := mapByHelper(m.helper, pid, m.ids); err != nil {
					return err
				}
				continue
			}
			if m.file == "gid_map" { // for groups may be there to take rights away
				if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
					return fmt.Errorf("cannot map ids: %w", err)
				}
			}
		}
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

func mapByHelper(helper string, pid int, ids []specs.LinuxIDMapping) error {
	args := []string{strconv.Itoa(pid)}
	for _, id := range ids {
		args = append(args, fmt.Sprint(id.ContainerID), fmt.Sprint(id.HostID), fmt.Sprint(id.Size))
	}
	out, err := exec.Command(helper, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot map ids by %s: %w: %s (Debian's package is uidmap)", helper, err, tail(string(out)))
	}
	return nil
}

// save replaces state.json at once: a crash leaves the old or the new. It does not
// outlive the machine's, after which there is no container that it could tell of, so
// nothing waits for a disk.
func (e *Engine) save(dir string, r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "state.json")
	err = os.WriteFile(name+".new", data, 0o600)
	if err == nil {
		err = os.Rename(name+".new", name)
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
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 { // empty: a machine crashed
		if _, serr := os.Stat(dir); serr == nil { // killed before its first record
			return dir, &record{State: specs.State{Version: specs.Version, ID: id, Status: specs.StateCreating}}, nil
		}
		return "", nil, fmt.Errorf("cannot find container %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return "", nil, fmt.Errorf("cannot read state: %v", err)
	}
	r = &record{}
	if err := decode(data, r); err != nil {
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
		} else if r.frozen() {
			r.Status = StatePaused
		}
	}
	return dir, r, nil
}

// startTime returns when a process started, in ticks since boot; a zombie is none.
//
// See proc_pid_stat(5).
func startTime(pid int) (uint64, bool) {
	if pid <= 0 {
		return 0, false
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// After the name, which may hold anything, come the fields from the third on.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	return started, err == nil
}

// State returns what a container is doing.
func (e *Engine) State(id string) (*State, error) {
	dir, r, err := e.load(id)
	if err != nil {
		return nil, err
	}
	s := &State{State: r.State, Rootfs: r.Rootfs, Created: r.Created}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		s.Owner = strconv.FormatUint(uint64(st.Uid), 10)
		if f, err := os.Open("/etc/passwd"); err == nil {
			s.Owner = cmp.Or(findUser(f, st.Uid)[0], s.Owner)
			f.Close()
		}
	}
	return s, nil
}

// Start lets a created container's program run.
func (e *Engine) Start(ctx context.Context, id string) error {
	dir, r, err := e.load(id)
	if err != nil {
		return err
	}
	if r.Status != specs.StateCreated {
		return fmt.Errorf("cannot start container %s: it is %s", id, r.Status)
	}
	spec, err := Load(dir)
	if err != nil {
		return err
	}
	return start(ctx, dir, r, spec)
}

func start(ctx context.Context, dir string, r *record, spec *specs.Spec) error {
	hooks := hookLists(spec.Hooks)
	if err := runHooksInside(ctx, "startContainer", hooks["startContainer"], r.State); err != nil {
		return errors.Join(fmt.Errorf("cannot start container %s: %w", r.ID, err), r.signal(unix.SIGKILL))
	}
	fifo := filepath.Join(dir, "start")
	f, err := os.OpenFile(fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		_, err = f.Write([]byte{1})
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot start container %s: %v", r.ID, err)
	}
	if err := os.Remove(fifo); err != nil {
		return err
	}
	r.Status = specs.StateRunning
	return runHooks(ctx, "poststart", hooks["poststart"], r.State)
}

// Kill sends a signal to a container's first process, or to all.
func (e *Engine) Kill(id string, sig unix.Signal, all bool) error {
	_, r, err := e.load(id)
	if err != nil {
		return err
	}
	if all && r.Cgroup.Path != "" {
		pids, err := r.Cgroup.Pids(true)
		for _, pid := range pids {
			if kerr := unix.Kill(pid, sig); kerr != nil && kerr != unix.ESRCH {
				err = errors.Join(err, fmt.Errorf("cannot signal process %d: %w", pid, kerr))
			}
		}
		return err
	}
	if r.Pid == 0 {
		return fmt.Errorf("cannot signal container %s: container not running: it is %s", id, r.Status)
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
// one too, and what a crash has left of one, be it nothing.
func (e *Engine) Delete(ctx context.Context, id string, force bool) error {
	dir, r, err := e.load(id)
	if errors.Is(err, ErrNotFound) {
		if force {
			err = nil
		}
		return errors.Join(err, os.RemoveAll(filepath.Join(e.Root, id+gone))) // if a crash left it
	}
	if err != nil {
		return err
	}
	if r.Status != specs.StateStopped && !force {
		return fmt.Errorf("cannot delete container %s: it is %s; --force kills it first", id, r.Status)
	}
	spec, _ := Load(dir)
	return e.remove(ctx, dir, r, spec)
}

// remove deletes a container; without a spec it has no hooks.
func (e *Engine) remove(ctx context.Context, dir string, r *record, spec *specs.Spec) error {
	if err := e.destroy(ctx, dir, r); err != nil {
		return err
	}
	if spec != nil { // the hooks' failure does not keep a container
		r.Status, r.Pid = specs.StateStopped, 0
		return runHooks(ctx, "poststop", hookLists(spec.Hooks)["poststop"], r.State)
	}
	return nil
}

func (e *Engine) destroy(ctx context.Context, dir string, r *record) error {
	if r.Pid != 0 {
		err := r.signal(unix.SIGKILL)
		// A security module may forbid the signal; its cgroup's end kills it then.
		if err != nil && !errors.Is(err, unix.ESRCH) && !(errors.Is(err, fs.ErrPermission) && r.Cgroup.Path != "") {
			return err
		}
	}
	if r.Cgroup.Path != "" {
		if err := r.Cgroup.Remove(ctx); err != nil {
			return fmt.Errorf("cannot delete container %s: %w", r.ID, err)
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
	if err := removeRdt(r.RdtMade); err != nil {
		return err
	}
	// At once, so that nobody takes half of it for a container.
	err := os.Rename(dir, dir+gone)
	if errors.Is(err, fs.ErrExist) { // a crash left it
		if err = os.RemoveAll(dir + gone); err == nil {
			err = os.Rename(dir, dir+gone)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove state: %v", err)
	}
	if err := os.RemoveAll(dir + gone); err != nil {
		return fmt.Errorf("cannot remove state: %v", err)
	}
	return nil
}

// List returns the states of all containers, by id.
func (e *Engine) List() ([]State, error) {
	entries, err := os.ReadDir(e.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list containers: %v", err)
	}
	var out []State
	for _, entry := range entries {
		if s, err := e.State(entry.Name()); err == nil {
			out = append(out, *s)
		}
	}
	return out, nil
}

// Run creates and starts a container, waits for its program and deletes it. It
// returns the program's exit code, 128 + the signal that ended it. Signals that
// arrive on the channel are passed on. Detached, it returns once the program runs.
func (e *Engine) Run(ctx context.Context, id, bundle string, o CreateOptions, signals <-chan os.Signal) (code int, err error) {
	c, err := e.begin(ctx, id, bundle, o)
	if err != nil {
		return 0, err
	}
	defer c.process.Pidfd.Close()
	err = start(ctx, c.dir, c.record, c.spec)
	if err == nil {
		if err = c.process.Wait(); err != nil {
			err = fmt.Errorf("cannot start container %s: %w", id, err)
		}
	}
	e.step("start the program")
	if o.Detach && err == nil {
		return 0, nil
	}
	defer func() {
		e.step("run the program to its end")
		if o.Keep && err == nil {
			return
		}
		defer e.step("remove cgroup and state")
		if _, serr := os.Lstat(c.dir); !errors.Is(serr, fs.ErrNotExist) { // else somebody has deleted it
			err = errors.Join(err, e.remove(ctx, c.dir, c.record, c.spec))
		}
	}()
	if err != nil {
		return 0, err
	}
	var terminal *Terminal
	if c.receive != nil {
		if terminal, err = c.receive(); err != nil {
			return 0, err
		}
		defer terminal.Close()
	}
	code = foreground(c.record.Pid, terminal, signals, func(sig unix.Signal) { _ = e.Kill(id, sig, false) }) // it may just have ended
	c.record.Pid = 0
	return code, nil
}
