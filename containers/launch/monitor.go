package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/oci"
	"github.com/powerd/powerd/containers/spawn"
)

// A Monitor says how powerd is called by a container's monitor.
type Monitor struct {
	// Start is the command line that calls Started, and Ended the one that calls Ended.
	Start, Ended []string
}

// RunDetached lets a prepared container run on its own. It returns once its program
// runs.
func (l *Launcher) RunDetached(ctx context.Context, c *Container, m Monitor) error {
	err := l.detach(c, m)
	if err != nil {
		return errors.Join(err, l.remove(context.WithoutCancel(ctx), c))
	}
	return nil
}

func (l *Launcher) detach(c *Container, m Monitor) error {
	dir := l.dir(c.Name)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make the log: %v", err)
	}
	defer log.Close()
	said, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer said.Close()
	defer end.Close()

	s := &spawn.Script{}
	s.Do("name the process", unix.SYS_PRCTL, unix.PR_SET_NAME, "powerd-monitor", 0, 0, 0)
	s.Do("start a session", unix.SYS_SETSID)
	s.Do("leave the folder", unix.SYS_CHDIR, "/")
	s.Do("take the container in", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for fd, f := range []*os.File{null, log, log} {
		s.Do("move a standard descriptor", unix.SYS_DUP3, spawn.FD(f.Fd()), fd, 0)
	}
	// What powerd has to say goes to the pipe, and the terminal to a socket: both have to
	// survive its execve.
	moved := []*os.File{end}
	if c.Terminal {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		for _, fd := range pair {
			f := os.NewFile(uintptr(fd), "console")
			defer f.Close()
			moved = append(moved, f)
		}
	}
	high := make([]spawn.Register, len(moved))
	for i, f := range moved { // out of each other's way first
		high[i] = s.Do("move a descriptor", unix.SYS_FCNTL, spawn.FD(f.Fd()), unix.F_DUPFD, 16).Save()
	}
	for i := range moved {
		s.Do("move a descriptor", unix.SYS_DUP3, high[i], pipeFD+i, 0)
	}
	s.Do("close the rest", unix.SYS_CLOSE_RANGE, pipeFD+len(moved), uint64(1<<32-1), unix.CLOSE_RANGE_CLOEXEC)
	fork, parent := s.Split("make a process that starts the container", 0)
	starter := fork.Save()
	if err := s.Exec(m.Start[0], m.Start, os.Environ(), ""); err != nil {
		return err
	}
	parent()
	if c.Terminal {
		s.Do("hold SIGCHLD for a signalfd", unix.SYS_RT_SIGPROCMASK, unix.SIG_BLOCK, sigchld, 0, 8)
		s.Do("keep the terminal's socket", unix.SYS_DUP3, consoleFD+1, 0, unix.O_CLOEXEC)
	}
	s.Do("close all descriptors", unix.SYS_CLOSE_RANGE, 3, uint64(1<<32-1), 0)
	status := s.Data(make([]byte, 8))
	s.Do("wait for powerd", unix.SYS_WAIT4, starter, status, 0, 0)
	s.Load("look how powerd ended", status, 0x7f, 0).Some().SkipOn(unix.EPIPE, 1)
	s.Do("end", unix.SYS_EXIT_GROUP, 1)
	s.Load("look how powerd ended", status+1, 0xff, 0).Some().SkipOn(unix.EPIPE, 1)
	s.Do("end", unix.SYS_EXIT_GROUP, 1)
	if c.Terminal {
		relay(s, status)
		s.Do("let SIGCHLD through", unix.SYS_RT_SIGPROCMASK, unix.SIG_UNBLOCK, sigchld, 0, 8)
	} else {
		s.Do("wait for the container", unix.SYS_WAIT4, -1, status, 0, 0)
	}
	const what = "write the exit status"
	file := filepath.Join(dir, "exit")
	fd := s.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, file+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o600).Save()
	s.Do(what, unix.SYS_WRITE, fd, status, 4)
	s.Do(what, unix.SYS_RENAMEAT2, unix.AT_FDCWD, file+".new", unix.AT_FDCWD, file, 0)
	if err := s.Exec(m.Ended[0], m.Ended, os.Environ(), ""); err != nil {
		return err
	}
	p, err := spawn.Start(s, spawn.Options{})
	if err != nil {
		return err
	}
	end.Close()
	p.Close()
	text, err := io.ReadAll(io.LimitReader(said, 1<<16))
	if err != nil {
		return fmt.Errorf("cannot hear from the container's monitor: %v", err)
	}
	if s := string(text); s != started {
		unix.Wait4(p.Pid, nil, 0, nil) //nolint:errcheck // its end is near; it may have been waited for
		if s == "" {
			s = "the container's monitor ended without a word"
		}
		return errors.New(strings.TrimSpace(s))
	}
	return nil
}

// relay writes what comes out of a container's terminal to the log, until the container
// has ended: its master comes by the socket that is descriptor 0, and takes its place.
//
// The script opens the other side too, and waits for its child beside: a container that
// has closed its terminal for a while, as an init does, would else look like one that
// has hung up, to be polled.
func relay(s *spawn.Script, status spawn.Addr) {
	const what = "receive the terminal"
	const signals = 3 // the descriptor
	text, control := s.Data(make([]byte, 64)), s.Data(make([]byte, 24))
	iov := s.Data(spawn.Struct(&[2]uint64{uint64(text), 64}))
	header := &[7]uint64{0, 0, uint64(iov), 1, uint64(control), 24, 0}
	s.Do(what, unix.SYS_RECVMSG, 0, spawn.Struct(header), unix.MSG_CMSG_CLOEXEC).Some()
	s.Do(what, unix.SYS_DUP3, s.Load(what, control+16, 0xff, 0).Save(), 0, unix.O_CLOEXEC) // the cmsghdr is 16 bytes
	s.Do(what, unix.SYS_CLOSE_RANGE, 3, uint64(1<<32-1), 0)
	s.Do("watch for the container's end", unix.SYS_SIGNALFD4, -1, sigchld, 8, unix.SFD_NONBLOCK|unix.SFD_CLOEXEC) // is 3, the first that is free
	s.Do("open the terminal", unix.SYS_IOCTL, 0, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	s.Do("read the terminal", unix.SYS_FCNTL, 0, unix.F_SETFL, unix.O_NONBLOCK)

	buf := s.Data(make([]byte, 4096))
	move := func() (empty func(to int)) {
		again := s.Len()
		c := s.Do("read the terminal", unix.SYS_READ, 0, buf, 4096).Some()
		// What a full disk does not take is lost; the container goes on.
		s.Do("write the log", unix.SYS_WRITE, 1, buf, c.Save()).Ignore(unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.EIO)
		s.Jump()(again)
		return func(to int) { c.GoTo(to, unix.EAGAIN, unix.EIO, unix.EPIPE) }
	}
	next := s.Len()
	s.Do("wait for the terminal", unix.SYS_PPOLL, spawn.Struct(&[2]uint64{unix.POLLIN << 32, unix.POLLIN<<32 | signals}), 2, 0, 0, 0)
	s.Do("read a signal", unix.SYS_READ, signals, make([]byte, 128), 128).Ignore(unix.EAGAIN)
	empty := move()
	empty(s.Len())
	s.Do("wait for the container", unix.SYS_WAIT4, -1, status, unix.WNOHANG, 0).Some().GoTo(next, unix.EPIPE)
	empty = move() // its last words
	empty(s.Len())
}

// sigchld is a set of signals.
var sigchld = spawn.Struct(&[]uint64{1 << (unix.SIGCHLD - 1)}[0])

// pipeFD is where the process that starts a container tells what came of it, consoleFD
// where it sends the container's terminal; the other end comes after.
const (
	pipeFD = 3 + iota
	consoleFD
)

// started is what it says when all is well.
const started = "started\n"

// Started creates and starts a container as a child of its monitor's: called by the
// monitor, it tells on the monitor's pipe what came of it.
func (l *Launcher) Started(ctx context.Context, name string) error {
	pipe := os.NewFile(pipeFD, "monitor")
	if _, err := unix.FcntlInt(pipeFD, unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return errors.New("cannot start a container so: this is a command of its monitor's")
	}
	err := func() error {
		c, err := l.Find(name)
		if err != nil {
			return err
		}
		o := l.options(c)
		o.Detach = true
		if c.Terminal {
			unix.CloseOnExec(consoleFD)
			o.Console = os.NewFile(consoleFD, "console")
		}
		_, err = l.Engine.Run(ctx, c.Name, l.dir(c.Name), o, nil)
		return err
	}()
	text := started
	if err != nil {
		text = err.Error()
	}
	_, werr := pipe.WriteString(text)
	return errors.Join(err, werr, pipe.Close())
}

// Ended cleans up after a detached container: called by its monitor.
func (l *Launcher) Ended(ctx context.Context, name string) error {
	c, err := l.Find(name)
	if err != nil {
		return err
	}
	if c.Remove {
		return l.remove(ctx, c)
	}
	if err := l.Engine.Delete(ctx, name, true); err != nil && !errors.Is(err, oci.ErrNotFound) {
		return err
	}
	return l.disconnect(c)
}
