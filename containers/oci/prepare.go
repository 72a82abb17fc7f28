package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// madeRoot is the root among what makeMounts makes.
const madeRoot = -1

// anyFolder is where a root is mounted whose own folder root in the container's user
// namespace may not reach. The pivot follows at once.
const anyFolder = "/sys"

// makeMounts makes those mounts that the runtime may make and the container may not:
// idmapped ones, those that are filled before they cover something, and the root and
// every bind mount for a container in a user namespace of its own, whose root may not
// reach the source. They are attached nowhere yet.
func makeMounts(s *specs.Spec, rootfs string) (made map[int]*os.File, err error) {
	made = map[int]*os.File{}
	theirs := owns(s, specs.UserNamespace) && os.Geteuid() == 0
	if theirs {
		if made[madeRoot], err = takeTree(rootfs, unix.AT_RECURSIVE); err != nil {
			return made, field("root.path", "cannot take %s: %v", rootfs, err)
		}
	}
	for i, m := range s.Mounts {
		o, err := parseMountOptions(m.Options)
		name := fmt.Sprintf("mounts[%d]", i)
		if err != nil {
			return made, field(name+".options", "%v", err)
		}
		mapped := o.idmap || len(m.UIDMappings) > 0
		if mapped && !o.bind {
			return made, field(name, "only a bind mount can be idmapped")
		}
		if o.copyUp {
			if m.Type != "tmpfs" {
				return made, field(name+".options", "tmpcopyup is for a tmpfs, not for %q", m.Type)
			}
			if made[i], err = copiedUp(rootfs, m.Destination, m.Source, labelled(s, m.Type, o.data)); err != nil {
				return made, field(name, "cannot copy %s up: %v", m.Destination, err)
			}
			continue
		}
		if !o.bind || !mapped && !theirs {
			continue
		}
		if made[i], err = takeTree(m.Source, o.cloneFlags()&unix.AT_RECURSIVE); err != nil {
			return made, field(name+".source", "cannot take %s: %v", m.Source, err)
		}
		if !mapped {
			continue
		}
		uids, gids := m.UIDMappings, m.GIDMappings
		if len(uids) == 0 {
			uids, gids = s.Linux.UIDMappings, s.Linux.GIDMappings
		}
		if len(uids) == 0 || len(gids) == 0 {
			return made, field(name+".uidMappings", "an idmapped mount needs mappings, its own or the container's")
		}
		user, err := userNamespace(uids, gids)
		if err != nil {
			return made, field(name+".uidMappings", "%v", err)
		}
		at := uint(unix.AT_EMPTY_PATH)
		if o.ridmap {
			at |= unix.AT_RECURSIVE
		}
		err = unix.MountSetattr(int(made[i].Fd()), "", at, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(user.Fd())})
		user.Close()
		if err != nil {
			return made, field(name, "cannot map the owners of %s: %v", m.Source, err)
		}
	}
	return made, nil
}

// takeTree makes a mount of a path that no propagation leads out of.
func takeTree(name string, recursive int) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|uint(recursive))
	if err != nil {
		return nil, err
	}
	tree := os.NewFile(uintptr(fd), name)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
		tree.Close()
		return nil, fmt.Errorf("cannot keep its propagation from the host: %w", err)
	}
	return tree, nil
}

// userNamespace makes a user namespace that holds nobody.
func userNamespace(uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	return newNamespace(unix.CLONE_NEWUSER, "user", func(pid int) error {
		return writeMaps(pid, &specs.Spec{Linux: &specs.Linux{UIDMappings: uids, GIDMappings: gids}})
	})
}

// newNamespace makes a namespace that holds nobody, when visit, if not nil, has seen the
// process that it is made with.
func newNamespace(flag uintptr, file string, visit func(pid int) error) (*os.File, error) {
	t, err := newTalk()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	b := &builder{}
	t.ask(b, "read its namespace")
	p, err := spawn.Start(&b.Script, spawn.Options{Namespaces: flag})
	if err != nil {
		return nil, err
	}
	defer func() {
		t.answer()
		p.Close()
		waitFor(p.Pid)
	}()
	if visit != nil {
		if err := visit(p.Pid); err != nil {
			return nil, err
		}
	}
	return os.Open(filepath.Join("/proc", fmt.Sprint(p.Pid), "ns", file))
}

// spares is what Prepare keeps.
type spares struct {
	network chan *os.File
	wanted  chan struct{}
}

// Prepare makes beforehand what the next container will need, and again each time that
// one was created: a network namespace, which takes the kernel as long as all else of a
// start. It is for a process that starts many containers; what it cannot make is made
// when a container needs it. It must not be called while one is created, nor stop, which
// ends it.
func (e *Engine) Prepare() (stop func()) {
	s := &spares{network: make(chan *os.File, 1), wanted: make(chan struct{}, 1)}
	e.spares = s
	ended, quit := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if f, err := newNamespace(unix.CLONE_NEWNET, "net", nil); err == nil {
				select {
				case s.network <- f:
				default: // two had asked for it
					f.Close()
				}
			}
			select {
			case <-s.wanted:
			case <-quit:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(quit)
		<-ended
		e.spares = nil
		select {
		case f := <-s.network:
			f.Close()
		default:
		}
	})
}

// takeNetwork is a network namespace that was prepared, nil if there is none. After done
// there will be another.
func (s *spares) takeNetwork() (f *os.File, done func()) {
	if s == nil {
		return nil, func() {}
	}
	done = func() {
		if len(s.network) > 0 {
			return
		}
		select {
		case s.wanted <- struct{}{}:
		default: // another container has asked
		}
	}
	select {
	case f = <-s.network:
	default:
	}
	return f, done
}
