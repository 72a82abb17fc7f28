package oci

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/powerd/powerd/containers/spawn"
)

// A console is where the script sends the master of the terminal it opens.
type console struct {
	socket *os.File
	// slot is a descriptor whose number the script gives the master, for a message
	// has to name it before there is one.
	slot *os.File
}

func newConsole(socket *os.File) (*console, error) {
	if err := unix.SetNonblock(int(socket.Fd()), false); err != nil {
		return nil, err
	}
	slot, err := os.Open("/dev/null")
	if err != nil {
		return nil, err
	}
	return &console{socket, slot}, nil
}

func (c *console) Close() {
	if c != nil {
		c.slot.Close()
		c.socket.Close()
	}
}

// dialConsole connects to an engine's console socket.
func dialConsole(path string) (*console, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	conn, err := net.DialUnix("unix", nil, addr)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the console socket: %v", err)
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return nil, fmt.Errorf("cannot use the console socket: %v", err)
	}
	return newConsole(f)
}

// terminal gives the process a terminal of the container's own devpts. The peer is
// opened by the master's descriptor and mounted by its own, so that no path can be
// exchanged on the way (CVE-2025-52565).
//
// See ioctl_tty(2), TIOCGPTPEER.
func (b *builder) terminal(c *console, p *specs.Process, mountConsole bool) {
	const what = "open process.terminal"
	master := b.openIn(what, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY).Save()
	b.Do(what, unix.SYS_IOCTL, master, unix.TIOCSPTLCK, make([]byte, 4))
	peer := b.Do(what, unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY).Save()
	if s := p.ConsoleSize; s != nil {
		size := &unix.Winsize{Row: uint16(s.Height), Col: uint16(s.Width)}
		b.Do("set process.consoleSize", unix.SYS_IOCTL, master, unix.TIOCSWINSZ, spawn.Struct(size))
	}
	b.Do(what, unix.SYS_FCHOWN, peer, int(p.User.UID), -1).Ignore(syscall.EPERM, syscall.EINVAL)
	if mountConsole {
		const what = "mount /dev/console"
		b.makePath("/dev/console", true)
		tree := b.Do(what, unix.SYS_OPEN_TREE, peer, "", atEmpty|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Save()
		b.attach(what, tree, b.openHow(what, "/dev/console", unix.O_PATH, inRoot|unix.RESOLVE_NO_SYMLINKS).Save())
	}
	slot := int(c.slot.Fd())
	b.Do(what, unix.SYS_DUP3, master, spawn.FD(slot), unix.O_CLOEXEC)
	text := []byte("/dev/ptmx")
	iov := []uint64{uint64(b.Data(text)), uint64(len(text))}
	rights := []uint64{20, uint64(unix.SOL_SOCKET) | uint64(unix.SCM_RIGHTS)<<32, uint64(slot)} // struct cmsghdr and a descriptor
	header := []uint64{0, 0, uint64(b.Data(words(iov))), 1, uint64(b.Data(words(rights))), 24, 0}
	b.Do("send the terminal to the console socket", unix.SYS_SENDMSG, spawn.FD(c.socket.Fd()), words(header), unix.MSG_NOSIGNAL)
	for fd := range 3 {
		b.Do(what, unix.SYS_DUP3, peer, fd, 0)
	}
	b.close(master)
	b.close(peer)
	b.Do("close the terminal's slot", unix.SYS_CLOSE, slot)
	b.Do("close the console socket", unix.SYS_CLOSE, int(c.socket.Fd()))
}

// control makes the terminal the session's.
func (b *builder) control() {
	b.Do("make it the controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
}

func words(w []uint64) []byte {
	var b []byte
	for i := range w {
		b = append(b, spawn.Struct(&w[i])...)
	}
	return b
}

// A Terminal is a container's terminal, seen from outside.
type Terminal struct{ master *os.File }

// consolePair makes a console whose master comes to us.
func consolePair() (c *console, receive func() (*Terminal, error), err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours := os.NewFile(uintptr(fds[0]), "console")
	if c, err = newConsole(os.NewFile(uintptr(fds[1]), "console")); err != nil {
		ours.Close()
		return nil, nil, err
	}
	return c, func() (*Terminal, error) {
		defer ours.Close()
		oob := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err != nil {
			return nil, fmt.Errorf("cannot receive the terminal: %v", err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil || len(msgs) != 1 {
			return nil, errors.New("cannot receive the terminal: its message has no descriptor")
		}
		got, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(got) != 1 {
			return nil, errors.New("cannot receive the terminal: its message has no descriptor")
		}
		if err := unix.SetNonblock(got[0], true); err != nil {
			return nil, err
		}
		return &Terminal{os.NewFile(uintptr(got[0]), "terminal")}, nil
	}, nil
}

// Relay connects the terminal with a person's, which is made raw meanwhile. It ends
// when the container's side is closed; restore puts the person's terminal back.
func (t *Terminal) Relay(in, out *os.File) (done <-chan struct{}, restore func()) {
	restore = func() {}
	if old, err := term.MakeRaw(int(in.Fd())); err == nil {
		restore = func() { term.Restore(int(in.Fd()), old) } //nolint:errcheck // nothing is left to do about it
	}
	t.Resize(in)
	go io.Copy(t.master, in) //nolint:errcheck // it ends with the process
	d := make(chan struct{})
	go func() {
		io.Copy(out, t.master) //nolint:errcheck // EIO is how the other side's end is told
		close(d)
	}()
	return d, restore
}

// Resize gives the terminal the size of a person's.
func (t *Terminal) Resize(from *os.File) {
	if size, err := unix.IoctlGetWinsize(int(from.Fd()), unix.TIOCGWINSZ); err == nil {
		raw, err := t.master.SyscallConn()
		if err == nil {
			raw.Control(func(fd uintptr) { unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }) //nolint:errcheck // only the size would be wrong
		}
	}
}

// Close closes it: the container's processes get SIGHUP.
func (t *Terminal) Close() error { return t.master.Close() }
