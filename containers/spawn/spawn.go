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

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

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
	pidfd := int32(-1)
	args := &cloneArgs{flags: uint64(o.Namespaces) | unix.CLONE_PIDFD, pidFD: uint64(uintptr(unsafe.Pointer(&pidfd))), exitSignal: uint64(syscall.SIGCHLD)}
	if o.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(o.Cgroup.Fd())
	}
	// What the child touches: made now, for it must not allocate.
	registers := &make([]uintptr, s.registers+1)[0]
	message := new([2]uint64)
	first, n := &s.calls[0], uintptr(len(s.calls))
	reportFD, forkedFD := reportEnd.Fd(), forkedEnd.Fd()

	syscall.ForkLock.Lock()
	beforeFork()
	pid, errno := clone(args, first, n, registers, message, reportFD, forkedFD)
	afterFork()
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(s)
	runtime.KeepAlive(args)
	if errno != 0 {
		report.Close()
		forked.Close()
		return nil, &CallError{"make a process in its namespaces and cgroup", errno}
	}
	return &Process{Pid: int(pid), Pidfd: os.NewFile(uintptr(pidfd), "pidfd"), report: report, forked: forked, what: s.what}, nil
}

// clone makes the child, which does not return from it.
//
//go:noinline
//go:norace
//go:nosplit
func clone(args *cloneArgs, first *call, n uintptr, registers *uintptr, message *[2]uint64, reportFD, forkedFD uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	afterForkInChild()
	play(first, n, registers, message, reportFD, forkedFD)
	return 0, 0 // not reached
}

// play makes the calls. It runs in a copy of this process that has one thread and
// no scheduler: it may not grow its stack, allocate, or panic.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func play(first *call, n uintptr, registers *uintptr, message *[2]uint64, reportFD, forkedFD uintptr) {
	base := unsafe.Pointer(registers)
	for i := uintptr(0); i < n; i++ {
		c := (*call)(unsafe.Add(unsafe.Pointer(first), i*unsafe.Sizeof(*first)))
		a0, a1, a2, a3, a4, a5 := c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5]
		if c.named&1 != 0 {
			a0 = *(*uintptr)(unsafe.Add(base, a0*8))
		}
		if c.named&2 != 0 {
			a1 = *(*uintptr)(unsafe.Add(base, a1*8))
		}
		if c.named&4 != 0 {
			a2 = *(*uintptr)(unsafe.Add(base, a2*8))
		}
		if c.named&8 != 0 {
			a3 = *(*uintptr)(unsafe.Add(base, a3*8))
		}
		if c.named&16 != 0 {
			a4 = *(*uintptr)(unsafe.Add(base, a4*8))
		}
		r, _, errno := syscall.RawSyscall6(c.trap, a0, a1, a2, a3, a4, a5)
		if errno == syscall.EINTR {
			i-- // a signal: once more
			continue
		}
		if errno == 0 && c.some != 0 && r == 0 {
			errno = syscall.EPIPE
		}
		if errno != 0 {
			e := uintptr(errno)
			switch {
			case c.on[0] == e:
				i += c.skip[0]
			case c.on[1] == e:
				i += c.skip[1]
			case c.on[2] == e:
				i += c.skip[2]
			case c.on[3] == e:
				i += c.skip[3]
			default:
				message[0], message[1] = uint64(i), uint64(e)
				syscall.RawSyscall(unix.SYS_WRITE, reportFD, uintptr(unsafe.Pointer(message)), 16)
				syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
			}
			continue
		}
		if c.out != 0 {
			*(*uintptr)(unsafe.Add(base, (c.out-1)*8)) = r
		}
		if c.fork != 0 && r != 0 {
			message[0] = uint64(r)
			syscall.RawSyscall(unix.SYS_WRITE, forkedFD, uintptr(unsafe.Pointer(message)), 8)
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
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
