package oci

import (
	"fmt"
	"os"
	"path/filepath"

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
	t, err := newTalk()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	b := &builder{}
	t.ask(b, "read its namespace")
	p, err := spawn.Start(&b.Script, spawn.Options{Namespaces: unix.CLONE_NEWUSER})
	if err != nil {
		return nil, err
	}
	defer func() {
		t.answer()
		p.Close()
		waitFor(p.Pid)
	}()
	if err := writeMaps(p.Pid, &specs.Spec{Linux: &specs.Linux{UIDMappings: uids, GIDMappings: gids}}); err != nil {
		return nil, err
	}
	return os.Open(filepath.Join("/proc", fmt.Sprint(p.Pid), "ns/user"))
}
