package oci

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// A join is a namespace that is there already.
type join struct {
	kind specs.LinuxNamespaceType
	path string
	file *os.File
	// late: it belongs to the user namespace that is joined, and so can be joined
	// only from there.
	late bool
}

// A plan is how a container comes into its namespaces.
//
// Mostly clone3 makes them. But user namespaces, pid and time namespaces by path, and
// the offsets of a time namespace have an order: then the script joins and unshares
// step by step, and goes on in a child.
type plan struct {
	clone uintptr // flags for clone3
	steps bool
	user  bool // a user namespace of its own
	joins []join
	// unshare has the flags of namespaces that the script makes.
	unshare uintptr
	fork    bool
}

// planNamespaces opens what is joined by path, and takes a network namespace that was
// prepared, if there is one. Close it when the process has started.
func planNamespaces(s *specs.Spec, network *os.File) (p *plan, err error) {
	p = &plan{}
	opened := p
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	var joinUser *os.File
	for i, ns := range s.Linux.Namespaces {
		if ns.Path == "" {
			switch ns.Type {
			case specs.CgroupNamespace: // made when it is in its cgroup
			case specs.NetworkNamespace:
				if network == nil {
					p.unshare |= unix.CLONE_NEWNET
					continue
				}
				p.joins = append(p.joins, join{kind: ns.Type, path: "its network", file: network})
			case specs.UserNamespace:
				p.user = true
			case specs.TimeNamespace:
				p.steps, p.fork = true, true
				p.unshare |= cloneFlags[ns.Type]
			default:
				p.unshare |= cloneFlags[ns.Type]
			}
			continue
		}
		name := fmt.Sprintf("linux.namespaces[%d].path", i)
		f, err := os.OpenFile(ns.Path, os.O_RDONLY, 0)
		if err != nil {
			return nil, field(name, "%v", err)
		}
		j := join{kind: ns.Type, path: ns.Path, file: f}
		p.joins = append(p.joins, j)
		kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
		if err != nil || uintptr(kind) != cloneFlags[ns.Type] {
			return nil, field(name, "%s is no %s namespace", ns.Path, ns.Type)
		}
		switch ns.Type {
		case specs.UserNamespace:
			if same, err := sameFile(ns.Path, "/proc/self/ns/user"); err == nil && same {
				// It is there already, and cannot be joined again.
				p.joins = p.joins[:len(p.joins)-1]
				f.Close()
				continue
			}
			joinUser, p.steps = f, true
		case specs.PIDNamespace:
			p.steps, p.fork = true, true
		case specs.TimeNamespace:
			p.steps = true
		case specs.MountNamespace:
			// It gets the root as one of its own does; ours would lose its own.
			if same, err := sameFile(ns.Path, "/proc/self/ns/mnt"); err != nil || same {
				return nil, field(name, "%s is the runtime's own mount namespace: the container needs another", ns.Path)
			}
		}
	}
	if p.user {
		// clone3 could make it, but the execve of the script's program, before its
		// ids are mapped, would take all capabilities from it.
		p.steps = true
	}
	if joinUser != nil {
		for i := range p.joins {
			p.joins[i].late = p.joins[i].file != joinUser && !ownedByOurs(p.joins[i].file)
		}
	}
	if p.steps {
		p.fork = p.fork || p.unshare&unix.CLONE_NEWPID != 0
		return p, nil
	}
	p.clone, p.unshare = p.unshare, 0
	return p, nil
}

// ownedByOurs tells whether a namespace belongs to our user namespace.
//
// See ioctl_ns(2), NS_GET_USERNS.
func ownedByOurs(f *os.File) bool {
	fd, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	same, err := sameFile(fmt.Sprintf("/proc/self/fd/%d", fd), "/proc/self/ns/user")
	return err == nil && same
}

func sameFile(a, b string) (bool, error) {
	ia, erra := os.Stat(a)
	ib, errb := os.Stat(b)
	if err := errors.Join(erra, errb); err != nil {
		return false, err
	}
	return os.SameFile(ia, ib), nil
}

func (p *plan) Close() {
	for _, j := range p.joins {
		j.file.Close()
	}
}

// enter adds the way into the namespaces. After it the process is root of its user
// namespace.
func (p *plan) enter(b *builder, t *talk) {
	joinThem := func(late bool) {
		for _, j := range p.joins {
			if j.kind != specs.UserNamespace && j.late == late {
				b.Do("join namespace "+j.path, unix.SYS_SETNS, spawn.FD(j.file.Fd()), cloneFlags[j.kind])
			}
		}
	}
	joinThem(false)
	if p.user {
		b.Do("make its user namespace", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
		t.ask(b, "map its ids")
	}
	for _, j := range p.joins {
		if j.kind == specs.UserNamespace {
			b.Do("join namespace "+j.path, unix.SYS_SETNS, spawn.FD(j.file.Fd()), cloneFlags[j.kind])
			b.user = true
		}
	}
	b.user = b.user || p.user
	if b.user {
		b.Do("become root of its user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		b.Do("become root of its user namespace", unix.SYS_SETRESUID, 0, 0, 0)
	}
	joinThem(true)
	if p.unshare != 0 {
		b.Do("make its namespaces", unix.SYS_UNSHARE, p.unshare)
	}
	if len(b.spec.Linux.TimeOffsets) > 0 {
		var text strings.Builder
		for clock, o := range b.spec.Linux.TimeOffsets {
			fmt.Fprintf(&text, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
		}
		const what = "set linux.timeOffsets"
		b.write(what, b.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/timens_offsets", unix.O_WRONLY|unix.O_CLOEXEC).Save(), text.String())
	}
	if p.fork {
		b.Fork("go on in its namespaces", 0)
	}
	if owns(b.spec, specs.CgroupNamespace) { // now, for it is in its cgroup
		b.Do("make its cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
}

// A talk is how runtime and script wait for one another.
type talk struct {
	up, down, // the script's ends
	upEnd, downEnd *os.File
}

func newTalk() (*talk, error) {
	t := &talk{}
	var err error
	if t.upEnd, t.up, err = os.Pipe(); err != nil {
		return nil, err
	}
	if t.down, t.downEnd, err = os.Pipe(); err != nil {
		t.Close()
		return nil, err
	}
	for _, f := range []*os.File{t.up, t.down} {
		// The script's reads and writes are to wait.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			t.Close()
			return nil, err
		}
	}
	return t, nil
}

// ask lets the script wait for the runtime to do something.
func (t *talk) ask(b *builder, what string) {
	t.tell(b)
	b.Do("wait for the runtime to "+what, unix.SYS_READ, spawn.FD(t.down.Fd()), make([]byte, 1), 1).Some()
}

// tell lets the runtime know that the script has come so far.
func (t *talk) tell(b *builder) {
	b.Do("tell how far it is", unix.SYS_WRITE, spawn.FD(t.up.Fd()), []byte{1}, 1)
}

// heard waits for the script to ask or tell.
func (t *talk) heard() error {
	_, err := t.upEnd.Read(make([]byte, 1))
	return err
}

// answer lets the script go on.
func (t *talk) answer() {
	t.downEnd.Write([]byte{1}) //nolint:errcheck // whoever died has told why
}

// started closes the script's ends in the runtime, so that its death is heard.
func (t *talk) started() {
	t.up.Close()
	t.down.Close()
}

func (t *talk) Close() {
	for _, f := range []*os.File{t.up, t.down, t.upEnd, t.downEnd} {
		if f != nil {
			f.Close()
		}
	}
}
