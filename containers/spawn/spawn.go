package spawn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime's own steps around a fork; it keeps these names for others.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// A Process is what Start made.
type Process struct {
	Pid int
	// Pidfd refers to the first process of the script; a Fork leaves it behind.
	Pidfd *os.File
	report,
	forked *os.File
	what []string
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Options say what the process starts in.
type Options struct {
	// Namespaces are the CLONE_NEW flags of those to make.
	Namespaces uintptr
	// Cgroup, if not nil, is the folder of the cgroup it starts in: its first
	// instruction runs there.
	Cgroup *os.File
}

// A CallError is the call of a script that failed.
type CallError struct {
	What  string
	Errno syscall.Errno
}

func (e *CallError) Error() string { return fmt.Sprintf("cannot %s: %v", e.What, e.Errno) }
func (e *CallError) Unwrap() error { return e.Errno }

// execPlan is what cloneExec's child needs. The assembler knows its layout.
type execPlan struct {
	program    uint64 // descriptor
	empty      *byte
	argv, envp **byte
	keep       *FD
	keeps      uint64
	errno      uint64
}

// Start runs a script in a new process. It returns as soon as that exists; Wait
// tells whether the script came to its execve.
func Start(s *Script, o Options) (*Process, error) {
	if len(s.calls) == 0 {
		return nil, errors.New("cannot start a process: its script is empty")
	}
	report, reportEnd, err := os.Pipe() // close-on-exec: execve ends it
	if err != nil {
		return nil, err
	}
	forked, forkedEnd, err := os.Pipe()
	if err != nil {
		report.Close()
		reportEnd.Close()
		return nil, err
	}
	defer reportEnd.Close()
	defer forkedEnd.Close()
	program, err := s.image(reportEnd.Fd(), forkedEnd.Fd())
	if err == nil {
		var f *os.File
		if f, err = seal(program); err == nil {
			defer f.Close()
			var p *Process
			if p, err = s.start(f, append(s.fds, FD(reportEnd.Fd()), FD(forkedEnd.Fd())), o); err == nil {
				p.report, p.forked, p.what = report, forked, s.what
				return p, nil
			}
		}
	}
	report.Close()
	forked.Close()
	return nil, err
}

// start clones into the program.
func (s *Script) start(program *os.File, keep []FD, o Options) (*Process, error) {
	pidfd := int32(-1)
	args := &cloneArgs{flags: uint64(o.Namespaces) | unix.CLONE_PIDFD | unix.CLONE_VM | unix.CLONE_VFORK,
		pidFD: uint64(uintptr(unsafe.Pointer(&pidfd))), exitSignal: uint64(syscall.SIGCHLD)}
	if o.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(o.Cgroup.Fd())
	}
	name := &[]byte("powerd-init\x00")[0]
	none := new(byte)
	plan := &execPlan{program: uint64(program.Fd()), empty: none, argv: &[]*byte{name, nil}[0], envp: &[]*byte{nil}[0], keep: &keep[0], keeps: uint64(len(keep))}

	syscall.ForkLock.Lock()
	beforeFork() // blocks all signals, which the player lets through again
	pid := cloneExec(unsafe.Pointer(args), unsafe.Sizeof(*args), plan)
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(args)
	runtime.KeepAlive(&pidfd)
	runtime.KeepAlive(plan)
	if pid < 0 {
		return nil, &CallError{"make a process in its namespaces and cgroup", syscall.Errno(-pid)}
	}
	p := &Process{Pid: pid, Pidfd: os.NewFile(uintptr(pidfd), "pidfd")}
	if plan.errno != 0 {
		p.Pidfd.Close()
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
				break
			}
		}
		return nil, &CallError{"run a process' first program", syscall.Errno(plan.errno)}
	}
	return p, nil
}

// Wait returns when the script has come to its execve, or an error: the call that
// failed. The process itself is for the caller to wait for. A script that ends by
// itself counts as done.
func (p *Process) Wait() error {
	defer p.report.Close()
	defer p.forked.Close()
	var m [16]byte
	n, err := io.ReadFull(p.report, m[:])
	switch {
	case n == 0 && err == io.EOF:
	case err != nil:
		return fmt.Errorf("cannot learn how the process started: %w", err)
	default:
		at := binary.NativeEndian.Uint64(m[:8])
		what := "make a system call"
		if at < uint64(len(p.what)) {
			what = p.what[at]
		}
		return &CallError{what, syscall.Errno(binary.NativeEndian.Uint64(m[8:]))}
	}
	return nil
}

// Forked returns the pid of the child that a script's Fork went on in. It waits
// for the fork, and must be called before Wait, once for each Fork.
func (p *Process) Forked() (int, error) {
	var m [8]byte
	if _, err := io.ReadFull(p.forked, m[:]); err != nil {
		return 0, errors.Join(errors.New("the process ended before it forked"), p.Wait())
	}
	return int(binary.NativeEndian.Uint64(m[:])), nil
}

// Close gives up on what Wait would tell. The process goes on.
func (p *Process) Close() {
	p.report.Close()
	p.forked.Close()
	p.Pidfd.Close()
}
