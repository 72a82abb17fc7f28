package oci

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// An entrance is the way into a process' namespaces.
type entrance struct {
	pidfd *os.File
	fork  bool
}

var namespaceFiles = map[string]uintptr{
	"user": unix.CLONE_NEWUSER, "mnt": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET,
	"ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP, "time": unix.CLONE_NEWTIME,
}

// enterProcess adds the way into those namespaces of a process that are not ours, all
// at once, by its pidfd. After it the script is root there, and b.root is the root.
//
// See setns(2).
func enterProcess(b *builder, pid int) (*entrance, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot find process %d: %w", pid, err)
	}
	e := &entrance{pidfd: os.NewFile(uintptr(fd), "pidfd")}
	var flags uintptr
	for name, flag := range namespaceFiles {
		same, err := sameFile(fmt.Sprintf("/proc/%d/ns/%s", pid, name), "/proc/self/ns/"+name)
		if err != nil {
			e.Close()
			return nil, fmt.Errorf("cannot look at the namespaces of process %d: %v", pid, err)
		}
		if !same {
			flags |= flag
		}
	}
	if flags != 0 {
		b.Do("join the container's namespaces", unix.SYS_SETNS, spawn.FD(fd), flags)
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		b.user = true
		b.Do("become root of its user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		b.Do("become root of its user namespace", unix.SYS_SETRESUID, 0, 0, 0)
	}
	if e.fork = flags&unix.CLONE_NEWPID != 0; e.fork {
		b.Fork("go on in its pid namespace", 0)
	}
	b.root = b.rootAgain()
	return e, nil
}

func (e *entrance) Close() { e.pidfd.Close() }

// pid is the process that came in, a child of ours.
func (e *entrance) pid(p *spawn.Process) (int, error) {
	if !e.fork {
		return p.Pid, nil
	}
	pid, err := p.Forked()
	waitFor(p.Pid) // it has forked, or failed
	return pid, err
}

// ExecOptions say how a further process of a container runs.
type ExecOptions struct {
	// Process is what runs; nil fields are for the caller to fill in.
	Process *specs.Process
	// ConsoleSocket gets the terminal's master, if the process has one.
	ConsoleSocket string
	// Preserve is how many descriptors above 2 the program gets.
	Preserve int
	// Cgroup is one below the container's that it runs in, such as /sub.
	Cgroup string
	Detach bool
	// Started is called with the pid, if not nil, before Exec waits.
	Started func(pid int) error
	Signals <-chan os.Signal
}

// Spec returns the config a container was created with.
func (e *Engine) Spec(id string) (*specs.Spec, error) {
	dir, _, err := e.load(id)
	if err != nil {
		return nil, err
	}
	return Load(dir)
}

// Exec runs a further process in a running container: in its namespaces, cgroup and
// root, with the same confinement. It returns the exit code, 0 if detached.
func (e *Engine) Exec(id string, o ExecOptions) (int, error) {
	dir, r, err := e.load(id)
	if err != nil {
		return 0, err
	}
	if r.Status != specs.StateRunning && r.Status != specs.StateCreated {
		return 0, fmt.Errorf("cannot exec in container %s: container not running: it is %s", id, r.Status)
	}
	spec, err := Load(dir)
	if err != nil {
		return 0, err
	}
	if err := checkProcess(o.Process, "process"); err != nil {
		return 0, err
	}
	e.warn(id, o.Process)
	var home *os.File
	if r.Cgroup.Path != "" {
		if home, err = r.Cgroup.Open(o.Cgroup); err != nil {
			return 0, fmt.Errorf("cannot exec in container %s: %w", id, err)
		}
		defer home.Close()
	}
	o.Process.Env = environment(o.Process.Env, o.Process.User.UID, func() (*os.File, error) {
		return openInside(fmt.Sprintf("/proc/%d/root", r.Pid), "etc/passwd")
	})
	b := &builder{spec: spec}
	// What the container's own process says counts for those that follow it.
	in := identity{preserve: o.Preserve, affinity: cmp.Or(o.Process.ExecCPUAffinity, spec.Process.ExecCPUAffinity)}
	if in.filter, err = compileFilter(spec); err != nil {
		return 0, err
	}
	if in.filter != nil && in.filter.Notify {
		if in.talk, err = newTalk(); err != nil {
			return 0, err
		}
		defer in.talk.Close()
	}
	b.begin(o.Process)
	b.joinRdt(r.Rdt...)
	for i := range o.Preserve {
		b.Keep(spawn.FD(3 + i))
	}
	enter, err := enterProcess(b, r.Pid)
	if err != nil {
		return 0, err
	}
	defer enter.Close()
	b.Do("start a session", unix.SYS_SETSID).Ignore(unix.EPERM)
	con, receive, err := openConsole(o.Process.Terminal, o.ConsoleSocket, nil, o.Detach)
	if err != nil {
		return 0, err
	}
	defer con.Close()
	if con != nil {
		b.terminal(con, o.Process, false)
		b.control()
		in.console = true
	}
	if err := b.process(o.Process, in); err != nil {
		return 0, err
	}
	if err := b.Exec(o.Process.Args[0], o.Process.Args, o.Process.Env, searchPath(o.Process)); err != nil {
		return 0, err
	}
	p, err := startOn(in.affinity, &b.Script, spawn.Options{Cgroup: home})
	if errors.Is(err, unix.EBUSY) && home != nil && o.Cgroup == "" {
		// Its init has gone to a cgroup below, so that the container's own, which enables
		// controllers now, may have no processes.
		var below *os.File
		if below, err = r.Cgroup.OpenOf(r.Pid); err == nil {
			defer below.Close()
			p, err = startOn(in.affinity, &b.Script, spawn.Options{Cgroup: below})
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	defer p.Pidfd.Close()
	pid, err := enter.pid(p)
	if err == nil {
		lerr := in.announce(pid, r.State)
		if err = cmp.Or(lerr, p.Wait()); err != nil { // the first is why the second
			waitFor(pid)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("cannot exec in container %s: %w", id, err)
	}
	if o.Started != nil {
		if err := o.Started(pid); err != nil {
			unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it has ended
			waitFor(pid)
			return 0, err
		}
	}
	if o.Detach {
		return 0, nil
	}
	var terminal *Terminal
	if receive != nil {
		if terminal, err = receive(); err != nil {
			return 0, err
		}
		defer terminal.Close()
	}
	return foreground(pid, terminal, o.Signals, func(sig unix.Signal) { _ = unix.Kill(pid, sig) }), nil
}

// announce gives an agent the listener of a process that joins a container.
func (in identity) announce(pid int, state specs.State) error {
	if in.talk == nil {
		return nil
	}
	in.talk.started()
	if err := in.talk.heard(); err != nil {
		return nil // it has ended, and told why
	}
	if err := listen(in.filter, pid, state); err != nil {
		in.talk.Close() // the script ends where it waits
		return err
	}
	in.talk.answer()
	return nil
}

// openConsole is where a process' terminal goes: to an engine's socket, or to us.
func openConsole(terminal bool, socket string, connected *os.File, detach bool) (*console, func() (*Terminal, error), error) {
	switch {
	case !terminal && socket != "":
		return nil, nil, errors.New("cannot use a console socket: process.terminal is false")
	case !terminal:
		return nil, nil, nil
	case socket != "":
		c, err := dialConsole(socket)
		return c, nil, err
	case connected != nil:
		c, err := newConsole(connected)
		return c, nil, err
	case detach:
		return nil, nil, errors.New("cannot open a terminal for a detached process: give --console-socket")
	}
	return consolePair()
}

// foreground relays a process' terminal and passes signals on until it ends.
func foreground(pid int, terminal *Terminal, signals <-chan os.Signal, kill func(unix.Signal)) int {
	var done <-chan struct{}
	if terminal != nil {
		var restore func()
		done, restore = terminal.Relay(os.Stdin, os.Stdout)
		defer restore()
	}
	if terminal == nil && signals == nil {
		return ExitCode(waitFor(pid))
	}
	ended := make(chan unix.WaitStatus, 1)
	go func() { ended <- waitFor(pid) }()
	for {
		select {
		case sig := <-signals:
			switch sig, _ := sig.(unix.Signal); {
			case sig == unix.SIGWINCH && terminal != nil:
				terminal.Resize(os.Stdin)
			case sig != 0 && sig != unix.SIGCHLD && sig != unix.SIGURG:
				kill(sig)
			}
		case status := <-ended:
			if done != nil {
				<-done // its last words
			}
			return ExitCode(status)
		}
	}
}
