package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// A config without a mount namespace wants the runtime's. A chroot into a folder would
// do, but who has CAP_SYS_CHROOT leaves it: a second chroot, and ".." is no longer
// stopped. So the root is made in a mount namespace of its own all the same, and the
// process then goes back to the runtime's with that root alone. Its mounts are of a tree
// in which nothing is above the root, so ".." has nowhere to lead.
//
// The tree is there as long as its namespace is, and no process is in that any more: it
// is kept as `ip netns` keeps one, by a mount of its file in the container's folder.
// Delete unmounts it; it looks for it whatever the record says, so that a crash leaves
// nothing.
//
// See mount_namespaces(7), and put_mnt_ns and mntns_install in the kernel's
// fs/namespace.c.

// keptMounts is the folder of the mount in a container's.
const keptMounts = "mounts"

// inheritsMounts reports whether a container has the runtime's mount namespace.
func inheritsMounts(s *specs.Spec) bool { return !has(s, specs.MountNamespace) }

// keepMounts keeps the mount namespace that a process is in now.
func keepMounts(dir string, pid int) error {
	folder := filepath.Join(dir, keptMounts)
	file := filepath.Join(folder, "ns")
	err := os.Mkdir(folder, 0o700)
	if err == nil {
		err = os.WriteFile(file, nil, 0o600)
	}
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{
		{folder, folder, unix.MS_BIND},
		{"", folder, unix.MS_PRIVATE}, // others' copies of a namespace's mount are refused
		{fmt.Sprintf("/proc/%d/ns/mnt", pid), file, unix.MS_BIND},
	} {
		if err == nil {
			if err = unix.Mount(m.source, m.target, "", m.flags, ""); err == unix.EINVAL && m.target == file {
				// Linux 6.18 numbers all but the machine's first by cpu.
				err = fmt.Errorf("the kernel takes their namespace for one older than the runtime's: %w", err)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot keep the container's mounts: %w", err)
	}
	return nil
}

// dropMounts undoes what keepMounts has done of it, if anything.
func dropMounts(dir string) error {
	err := unix.Unmount(filepath.Join(dir, keptMounts), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: nothing is mounted there
		return fmt.Errorf("cannot unmount what kept the container's mounts: %w", err)
	}
	return nil
}

// goBack takes the process with its root into the runtime's mount namespace.
func (b *builder) goBack(ns *os.File) {
	const what = "go back to the runtime's mount namespace"
	b.Do(what, unix.SYS_SETNS, spawn.FD(ns.Fd()), unix.CLONE_NEWNS)
	b.Do(what, unix.SYS_FCHDIR, b.root)
	b.Do(what, unix.SYS_CHROOT, ".")
	b.Do(what, unix.SYS_CLOSE, spawn.FD(ns.Fd()))
}
