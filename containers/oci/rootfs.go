package oci

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// mounts makes the root and all that is mounted in it, everything by descriptor.
func (b *builder) mounts(rootfs string, overlay *Overlay, made map[int]*os.File) error {
	const what = "make the root"
	// What is shared with the host has to be taken before nothing is any more.
	shared := map[int]spawn.Register{}
	for i, mount := range b.spec.Mounts {
		if o, err := parseMountOptions(mount.Options); err == nil && o.bind && made[i] == nil && o.propagation == unix.MS_SHARED {
			shared[i] = b.Do("mount "+mount.Destination, unix.SYS_OPEN_TREE, unix.AT_FDCWD, mount.Source, o.cloneFlags()).Save()
		}
	}
	b.Do("keep mounts from the host", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	if overlay != nil {
		if made[madeRoot] != nil {
			return errors.New("cannot make the root: an overlay is not for a user namespace of its own, whose root does not own its folders; give it a copy")
		}
		if err := b.overlay(rootfs, overlay); err != nil {
			return err
		}
	}
	folders := []string{rootfs}
	if overlay != nil {
		folders = overlay.Lower
		if overlay.Upper != "" {
			folders = append([]string{overlay.Upper}, folders...)
		}
	}
	if tree := made[madeRoot]; tree != nil {
		b.root = b.Do(what, unix.SYS_FCNTL, spawn.FD(tree.Fd()), unix.F_DUPFD_CLOEXEC, 0).Save()
		rootfs = anyFolder
	} else {
		b.root = b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, rootfs, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Save()
	}
	b.Do(what, unix.SYS_MOVE_MOUNT, b.root, "", unix.AT_FDCWD, rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH)

	ownDev := false
	var covered []string
	for i, mount := range b.spec.Mounts {
		o, err := parseMountOptions(mount.Options)
		if err != nil {
			return field(fmt.Sprintf("mounts[%d].options", i), "%v", err)
		}
		what := "mount " + mount.Destination
		isFile := false
		var mfd any
		if made[i] != nil { // by the runtime, which may more
			mfd = spawn.FD(made[i].Fd())
			info, err := made[i].Stat()
			if err != nil {
				return err
			}
			isFile = !info.IsDir()
			b.attributes(what, mfd, false, o.set, o.clear, 0)
		} else if o.bind || mount.Type == "bind" {
			info, err := os.Stat(mount.Source)
			if err != nil {
				return field(fmt.Sprintf("mounts[%d].source", i), "%v", err)
			}
			isFile = !info.IsDir()
			if m, ok := shared[i]; ok {
				mfd = m
			} else {
				mfd = b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, mount.Source, o.cloneFlags()).Save()
				b.attributes(what, mfd, true, 0, 0, unix.MS_SLAVE)
			}
			b.attributes(what, mfd, false, o.set, o.clear, 0)
		} else {
			kind := mount.Type
			if kind == "cgroup" {
				kind = "cgroup2"
			}
			mfd = b.newMount(what, kind, mount.Source, labelled(b.spec, kind, o.data), o.set)
			ownDev = ownDev || path.Clean(mount.Destination) == "/dev"
		}
		b.attributes(what, mfd, true, o.recSet, o.recClear, 0)
		if o.propagation != 0 {
			b.attributes(what, mfd, o.recPropagation, 0, 0, o.propagation)
		}
		destination := inImage(folders, mount.Destination, covered)
		covered = append(covered, destination)
		b.makePath(destination, isFile)
		b.attach(what, mfd, b.openIn(what, destination, unix.O_PATH).Save())
	}
	if ownDev {
		b.defaultDevices()
	}
	for i, d := range b.spec.Linux.Devices {
		if err := b.device(fmt.Sprintf("linux.devices[%d]", i), d); err != nil {
			return err
		}
	}
	return nil
}

// hostCgroups lets a container have the host's mount of cgroups that may not mount them
// anew, for it is not root of the user namespace that its cgroup namespace belongs to: as
// with runc.
func hostCgroups(s *specs.Spec) {
	if !has(s, specs.UserNamespace) || has(s, specs.CgroupNamespace) {
		return
	}
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "cgroup" || m.Type == "cgroup2" {
			m.Type, m.Source, m.Options = "bind", "/sys/fs/cgroup", append([]string{"rbind"}, m.Options...)
		}
	}
}

// labelled adds linux.mountLabel to the options of a file system that takes it.
func labelled(s *specs.Spec, kind string, options []string) []string {
	if label := s.Linux.MountLabel; label != "" && (kind == "tmpfs" || kind == "devpts" || kind == "mqueue") {
		return append(slices.Clone(options), "context="+label)
	}
	return options
}

// defaultDevices makes what every container finds in /dev.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#default-devices.
func (b *builder) defaultDevices() {
	const what = "make the default devices"
	dev := b.openIn(what, "/dev", unix.O_PATH|unix.O_DIRECTORY).Save()
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		if b.user { // who may not make devices gets the host's
			m := b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, "/dev/"+d.name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Save()
			b.Do(what, unix.SYS_MKNODAT, dev, d.name, unix.S_IFREG|0o666, 0).Ignore(syscall.EEXIST)
			b.attach(what, m, b.openIn(what, "/dev/"+d.name, unix.O_PATH|unix.O_NOFOLLOW).Save())
			continue
		}
		b.Do(what, unix.SYS_MKNODAT, dev, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))).SkipOn(syscall.EEXIST, 1)
		b.Do(what, unix.SYS_FCHMODAT, dev, d.name, 0o666)
	}
	for _, l := range [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}} {
		b.Do(what, unix.SYS_SYMLINKAT, l[0], dev, l[1]).Ignore(syscall.EEXIST)
	}
	b.close(dev)
}

// deviceTypes by the name of linux.devices[].type.
var deviceTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// device makes a device of linux.devices, with its owner and mode. Who may not make
// devices gets the host's.
func (b *builder) device(name string, d specs.LinuxDevice) error {
	what := "make device " + d.Path
	kind, ok := deviceTypes[d.Type]
	switch {
	case !ok:
		return field(name+".type", "there is no type %q", d.Type)
	case !path.IsAbs(d.Path) || path.Clean(d.Path) == "/" || strings.IndexByte(d.Path, 0) >= 0:
		return field(name+".path", "want the path of a device, not %q", d.Path)
	case d.Type != "p" && (d.Major < 0 || d.Minor < 0 || d.Major > 0xfff || d.Minor > 0xfffff):
		return field(name, "there is no device %d:%d", d.Major, d.Minor)
	}
	dir, base := path.Split(path.Clean(d.Path))
	if path.Clean(dir) != "/" {
		b.makePath(dir, false)
	}
	parent := b.openIn(what, dir, unix.O_PATH|unix.O_DIRECTORY).Save()
	if b.user {
		m := b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, d.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Save()
		b.Do(what, unix.SYS_MKNODAT, parent, base, unix.S_IFREG|0o666, 0).Ignore(syscall.EEXIST)
		b.attach(what, m, b.openIn(what, d.Path, unix.O_PATH|unix.O_NOFOLLOW).Save())
		b.close(parent)
		return nil
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	var uid, gid int
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	b.Do(what, unix.SYS_UNLINKAT, parent, base, 0).Ignore(syscall.ENOENT) // a default one
	b.Do(what, unix.SYS_MKNODAT, parent, base, uint64(kind|mode), unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	b.Do(what, unix.SYS_FCHMODAT, parent, base, uint64(mode))
	b.Do(what, unix.SYS_FCHOWNAT, parent, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	b.close(parent)
	return nil
}

// pivot makes the root the root of the mount namespace; the old one, in which all are
// slaves by now, is gone: the host keeps its mounts.
func (b *builder) pivot() {
	const what = "pivot into the root"
	b.Do(what, unix.SYS_FCHDIR, b.root)
	b.Do(what, unix.SYS_PIVOT_ROOT, ".", ".")
	b.Do(what, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	b.Do(what, unix.SYS_CHDIR, "/")
	// Now, for a root cannot be pivoted to that is shared.
	p, recursive := strings.CutPrefix(b.spec.Linux.RootfsPropagation, "r")
	if attr := propagations[p]; attr != 0 && attr != unix.MS_SLAVE {
		const what = "set linux.rootfsPropagation"
		root := b.rootAgain()
		b.attributes(what, root, recursive, 0, 0, attr)
		b.close(root)
	}
}

// sysctls sets linux.sysctl.
func (b *builder) sysctls() {
	for key, value := range b.spec.Linux.Sysctl {
		what := "set sysctl " + key
		// The host's own /proc, whose sysctls are those of the namespaces of whoever
		// opens them: the container's may be anything (CVE-2025-52881).
		how := &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
		fd := b.Do(what, unix.SYS_OPENAT2, b.openProc, "sys/"+strings.ReplaceAll(key, ".", "/"), spawn.Struct(how), unix.SizeofOpenHow).Save()
		b.Do(what, unix.SYS_WRITE, fd, []byte(value), len(value))
		b.close(fd)
	}
}

// ownFolder is a folder of the host's, which in the container's mount namespace is free
// to mount something on, as long as there is the old root.
const ownFolder = "/proc"

// hide makes paths read-only or unreadable, before the pivot: what covers them is the
// host's null device, and nothing that was put in its place (CVE-2025-31133).
func (b *builder) hide() error {
	for _, p := range b.spec.Linux.ReadonlyPaths {
		what := "make " + p + " read-only"
		on := b.openIn(what, p, unix.O_PATH)
		fd := on.Save()
		absent := b.on(on, syscall.ENOENT, syscall.ENOTDIR)
		m := b.Do(what, unix.SYS_OPEN_TREE, fd, "", atEmpty|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Save()
		b.attributes(what, m, true, unix.MOUNT_ATTR_RDONLY, 0, 0)
		b.attach(what, m, fd)
		absent()
	}
	if len(b.spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	var null unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil || null.Mode&unix.S_IFMT != unix.S_IFCHR || null.Rdev != unix.Mkdev(1, 3) {
		return errors.New("cannot mask files: the host's /dev/null is not the null device")
	}
	// One empty folder for all, for a file system is dear.
	const what = "make an empty folder"
	empty := b.newMount(what, "tmpfs", "tmpfs", nil, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	b.Do(what, unix.SYS_MOVE_MOUNT, empty, "", unix.AT_FDCWD, ownFolder, unix.MOVE_MOUNT_F_EMPTY_PATH)
	copied := func(what string, from any, name string) spawn.Register {
		return b.Do(what, unix.SYS_OPEN_TREE, from, name, atEmpty|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Save()
	}
	for _, p := range b.spec.Linux.MaskedPaths {
		what := "mask " + p
		dir := b.openIn(what, p, unix.O_PATH|unix.O_DIRECTORY)
		fd := dir.Save()
		isFile, absent := b.on(dir, syscall.ENOTDIR), b.on(dir, syscall.ENOENT)
		b.attach(what, copied(what, empty, ""), fd)
		over := b.jump()
		isFile()
		on := b.openIn(what, p, unix.O_PATH).Save()
		b.attach(what, copied(what, unix.AT_FDCWD, "/dev/null"), on)
		over()
		absent()
	}
	b.close(empty)
	return nil
}

// seal makes the root read-only if it is to be.
func (b *builder) seal() {
	if b.spec.Root.Readonly {
		root := b.rootAgain()
		b.attributes("make the root read-only", root, false, unix.MOUNT_ATTR_RDONLY, 0, 0)
		b.close(root)
	}
}

// rootAgain opens the root that the pivot made.
func (b *builder) rootAgain() spawn.Register {
	return b.Do("open the root", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).Save()
}
