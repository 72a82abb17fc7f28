package oci

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

// ends are descriptors that the script of a container is given.
type ends struct {
	mapped uintptr // read: a byte once the ids are mapped
	ready  uintptr // write: a byte once all is prepared
	start  uintptr // read: a byte when the program may start
}

// inRoot is how every path inside a container is resolved: symbolic links stay
// inside the root, and the magic ones of procfs are none.
//
// See openat2(2), RESOLVE_IN_ROOT.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

const (
	atEmpty   = unix.AT_EMPTY_PATH
	moveEmpty = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
)

// builder adds a container's calls to a script.
type builder struct {
	spawn.Script
	spec *specs.Spec
	root spawn.Register // the container's root, before and after the pivot
}

// openIn opens a path inside the root, however its links point.
func (b *builder) openIn(what, name string, flags int) spawn.Call {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: inRoot}
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	return b.Do(what, unix.SYS_OPENAT2, b.root, rel, unsafe.Pointer(how), int(unsafe.Sizeof(*how)))
}

func (b *builder) close(fd spawn.Register) { b.Do("close a descriptor", unix.SYS_CLOSE, fd) }

// attach puts a mount on a path by descriptor, and closes both.
func (b *builder) attach(what string, mount, on spawn.Register) {
	b.Do(what, unix.SYS_MOVE_MOUNT, mount, "", on, "", moveEmpty)
	b.close(mount)
	b.close(on)
}

func (b *builder) attributes(what string, mount spawn.Register, recursive bool, set, clear, propagation uint64) {
	if set|clear|propagation == 0 {
		return
	}
	attr := &unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: propagation}
	flags := atEmpty
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.Do(what, unix.SYS_MOUNT_SETATTR, mount, "", flags, unsafe.Pointer(attr), int(unsafe.Sizeof(*attr)))
}

// newMount makes a mount of a file system that is attached nowhere yet.
func (b *builder) newMount(what, kind, source string, data []string, attr uint64) spawn.Register {
	fs := b.Do(what, unix.SYS_FSOPEN, kind, unix.FSOPEN_CLOEXEC).Save()
	if source != "" {
		b.Do(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, "source", source, 0)
	}
	for _, d := range data {
		if key, value, ok := strings.Cut(d, "="); ok {
			b.Do(what+", option "+d, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, key, value, 0)
		} else {
			b.Do(what+", option "+d, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_FLAG, key, 0, 0)
		}
	}
	b.Do(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	m := b.Do(what, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, attr).Save()
	b.close(fs)
	return m
}

// makePath makes the folders to a path, and the path itself as folder or file.
func (b *builder) makePath(name string, file bool) {
	segs := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for i, seg := range segs {
		what := "make " + name + " in the root"
		parent := b.openIn(what, path.Join(segs[:i]...), unix.O_PATH|unix.O_DIRECTORY).Save()
		if file && i == len(segs)-1 {
			b.Do(what, unix.SYS_MKNODAT, parent, seg, unix.S_IFREG|0o644, 0).Ignore(syscall.EEXIST, syscall.EROFS)
		} else {
			b.Do(what, unix.SYS_MKDIRAT, parent, seg, 0o755).Ignore(syscall.EEXIST, syscall.EROFS)
		}
		b.close(parent)
	}
}

// script writes down all that stands between clone3 and the program.
func script(s *specs.Spec, rootfs string, e ends) (*spawn.Script, error) {
	b := &builder{spec: s}
	user := owns(s, specs.UserNamespace)
	if user {
		b.Do("wait for its ids to be mapped", unix.SYS_READ, e.mapped, make([]byte, 1), 1).Some()
		b.Do("become root of its user namespace", unix.SYS_SETRESGID, 0, 0, 0)
		b.Do("become root of its user namespace", unix.SYS_SETRESUID, 0, 0, 0)
	}
	if p := s.Process.OOMScoreAdj; p != nil {
		text := []byte(strconv.Itoa(*p))
		fd := b.Do("set process.oomScoreAdj", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC).Save()
		b.Do("set process.oomScoreAdj", unix.SYS_WRITE, fd, text, len(text))
		b.close(fd)
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Path == "" {
			continue
		}
		what := "join namespace " + ns.Path
		fd := b.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, ns.Path, unix.O_RDONLY|unix.O_CLOEXEC).Save()
		b.Do(what, unix.SYS_SETNS, fd, cloneFlags[ns.Type])
		b.close(fd)
	}
	if owns(s, specs.CgroupNamespace) { // now, for it is in its cgroup
		b.Do("make its cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	if s.Hostname != "" {
		b.Do("set hostname", unix.SYS_SETHOSTNAME, s.Hostname, len(s.Hostname))
	}
	if s.Domainname != "" {
		b.Do("set domainname", unix.SYS_SETDOMAINNAME, s.Domainname, len(s.Domainname))
	}
	b.Do("start a session", unix.SYS_SETSID).Ignore(syscall.EPERM)
	nulls, err := b.mounts(rootfs, user)
	if err != nil {
		return nil, err
	}
	b.pivot()
	b.hide(nulls)
	if err := b.process(user); err != nil {
		return nil, err
	}
	b.Do("tell that it is ready", unix.SYS_WRITE, e.ready, []byte{1}, 1)
	b.Do("wait to be started", unix.SYS_READ, e.start, make([]byte, 1), 1).Some()
	p := s.Process
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, v := range p.Env {
		if v, ok := strings.CutPrefix(v, "PATH="); ok {
			search = v
		}
	}
	return &b.Script, b.Exec(p.Args[0], p.Args, p.Env, search)
}

// mounts makes the root and all that is mounted in it, everything by descriptor.
// It returns copies of /dev/null for the masked files, made while the host's is
// still at hand.
func (b *builder) mounts(rootfs string, user bool) (nulls []spawn.Register, err error) {
	const what = "make the root"
	propagation := uint64(unix.MS_SLAVE)
	if p := b.spec.Linux.RootfsPropagation; p != "" {
		name := strings.TrimPrefix(p, "r")
		var ok bool
		if propagation, ok = propagations[name]; !ok {
			return nil, field("linux.rootfsPropagation", "there is no propagation %q", p)
		}
	}
	b.Do("keep mounts from the host", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	m := b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, rootfs, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Save()
	b.attributes(what, m, true, 0, 0, unix.MS_PRIVATE)
	b.Do(what, unix.SYS_MOVE_MOUNT, m, "", unix.AT_FDCWD, rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH)
	b.close(m)
	b.root = b.Do(what, unix.SYS_OPENAT, unix.AT_FDCWD, rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).Save()

	ownDev := false
	for i, mount := range b.spec.Mounts {
		o, err := parseMountOptions(mount.Options)
		if err != nil {
			return nil, field(fmt.Sprintf("mounts[%d].options", i), "%v", err)
		}
		what := "mount " + mount.Destination
		isFile := false
		var mfd spawn.Register
		if o.bind || mount.Type == "bind" {
			info, err := os.Stat(mount.Source)
			if err != nil {
				return nil, field(fmt.Sprintf("mounts[%d].source", i), "%v", err)
			}
			isFile = !info.IsDir()
			flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
			if o.rbind {
				flags |= unix.AT_RECURSIVE
			}
			mfd = b.Do(what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, mount.Source, flags).Save()
			b.attributes(what, mfd, false, o.set, o.clear, 0)
		} else {
			kind := mount.Type
			if kind == "cgroup" {
				kind = "cgroup2"
			}
			mfd = b.newMount(what, kind, mount.Source, o.data, o.set)
			ownDev = ownDev || path.Clean(mount.Destination) == "/dev"
		}
		b.attributes(what, mfd, true, o.recSet, o.recClear, 0)
		if o.propagation != 0 {
			b.attributes(what, mfd, o.recPropagation, 0, 0, o.propagation)
		}
		b.makePath(mount.Destination, isFile)
		b.attach(what, mfd, b.openIn(what, mount.Destination, unix.O_PATH).Save())
	}
	if ownDev {
		b.devices(user)
	}
	// The host's null device, and nothing that was put in its place.
	var null unix.Stat_t
	if err := unix.Stat("/dev/null", &null); err != nil || null.Mode&unix.S_IFMT != unix.S_IFCHR || null.Rdev != unix.Mkdev(1, 3) {
		return nil, errors.New("cannot mask files: the host's /dev/null is not the null device")
	}
	for range b.spec.Linux.MaskedPaths {
		nulls = append(nulls, b.Do("take the null device along", unix.SYS_OPEN_TREE, unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).Save())
	}
	if propagation != unix.MS_SLAVE {
		b.attributes("set linux.rootfsPropagation", b.root, true, 0, 0, propagation)
	}
	return nulls, nil
}

// devices makes what every container finds in /dev.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#default-devices.
func (b *builder) devices(user bool) {
	const what = "make the default devices"
	dev := b.openIn(what, "/dev", unix.O_PATH|unix.O_DIRECTORY).Save()
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		if user { // who may not make devices gets the host's
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

// pivot makes the root the root of the mount namespace; the old one is gone.
func (b *builder) pivot() {
	const what = "pivot into the root"
	b.Do(what, unix.SYS_FCHDIR, b.root)
	b.Do(what, unix.SYS_PIVOT_ROOT, ".", ".")
	b.Do(what, unix.SYS_MOUNT, 0, ".", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	b.Do(what, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH)
	b.Do(what, unix.SYS_CHDIR, "/")
}

// hide makes paths read-only or unreadable, in the root itself.
func (b *builder) hide(nulls []spawn.Register) {
	const plain = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	for key, value := range b.spec.Linux.Sysctl {
		what := "set sysctl " + key
		fd := b.openIn(what, "/proc/sys/"+strings.ReplaceAll(key, ".", "/"), unix.O_WRONLY).Save()
		b.Do(what, unix.SYS_WRITE, fd, []byte(value), len(value))
		b.close(fd)
	}
	for _, p := range b.spec.Linux.ReadonlyPaths {
		what := "make " + p + " read-only"
		before := b.Len()
		on := b.openIn(what, p, unix.O_PATH)
		fd := on.Save()
		m := b.Do(what, unix.SYS_OPEN_TREE, fd, "", atEmpty|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).Save()
		b.attributes(what, m, true, unix.MOUNT_ATTR_RDONLY, 0, 0)
		b.attach(what, m, fd)
		on.SkipOn(syscall.ENOENT, b.Len()-before-1)
	}
	for i, p := range b.spec.Linux.MaskedPaths {
		what := "mask " + p
		start := b.Len()
		dir := b.openIn(what, p, unix.O_PATH|unix.O_DIRECTORY)
		fd := dir.Save()
		m := b.newMount(what, "tmpfs", "tmpfs", nil, plain|unix.MOUNT_ATTR_RDONLY)
		b.attach(what, m, fd)
		// Jump over the file's calls: a call that always fails with one errno.
		over := b.Do(what, unix.SYS_CLOSE, -1)
		fileAt := b.Len()
		on := b.openIn(what, p, unix.O_PATH).Save()
		b.attach(what, nulls[i], on)
		end := b.Len()
		over.SkipOn(syscall.EBADF, end-fileAt)
		dir.SkipOn(syscall.ENOENT, end-start-1)
		dir.SkipOn(syscall.ENOTDIR, fileAt-start-1)
	}
	if b.spec.Root.Readonly {
		b.attributes("make the root read-only", b.rootAgain(), false, unix.MOUNT_ATTR_RDONLY, 0, 0)
	}
}

// rootAgain opens the root that the pivot made.
func (b *builder) rootAgain() spawn.Register {
	return b.Do("open the root", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).Save()
}

// process makes the process who and what it is to be.
func (b *builder) process(user bool) error {
	p := b.spec.Process
	for _, r := range p.Rlimits {
		lim := &unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		b.Do("set process.rlimits "+r.Type, unix.SYS_PRLIMIT64, 0, rlimits[r.Type], unsafe.Pointer(lim), 0)
	}
	// Nothing that is open here is for the program, but the standard three.
	b.Do("keep descriptors from the program", unix.SYS_CLOSE_RANGE, 3, uint64(math.MaxUint32), unix.CLOSE_RANGE_CLOEXEC)
	b.Do("make a session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0).Ignore(syscall.ENOSYS, syscall.EPERM)
	caps := capabilityLists(b.spec)
	for name, n := range capabilities {
		if !slices.Contains(caps["bounding"], name) {
			b.Do("drop "+name, unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, int(n), 0, 0, 0).Ignore(syscall.EINVAL) // unknown to the kernel
		}
	}
	// The working directory: inside the root, whatever its name pretends.
	cwd := b.openIn("enter process.cwd "+p.Cwd, p.Cwd, unix.O_PATH|unix.O_DIRECTORY)
	fd := cwd.Save()
	at := b.Len()
	b.Do("enter process.cwd "+p.Cwd, unix.SYS_FCHDIR, fd)
	over := b.Do("enter process.cwd "+p.Cwd, unix.SYS_CLOSE, -1)
	made := b.Len()
	b.makePath(p.Cwd, false) // as runc does
	b.Do("enter process.cwd "+p.Cwd, unix.SYS_FCHDIR, b.openIn("enter process.cwd "+p.Cwd, p.Cwd, unix.O_PATH|unix.O_DIRECTORY).Save())
	over.SkipOn(syscall.EBADF, b.Len()-made)
	cwd.SkipOn(syscall.ENOENT, made-at)

	if u := p.User.Umask; u != nil {
		b.Do("set process.user.umask", unix.SYS_UMASK, int(*u))
	}
	b.Do("keep capabilities over the change of user", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	groups := p.User.AdditionalGids
	var list unsafe.Pointer
	if len(groups) > 0 {
		list = unsafe.Pointer(&slices.Clone(groups)[0])
	}
	drop := b.Do("set process.user.additionalGids", unix.SYS_SETGROUPS, len(groups), list)
	if user && len(groups) == 0 {
		drop.Ignore(syscall.EPERM) // its user namespace denies setgroups
	}
	b.Do("set process.user.gid", unix.SYS_SETRESGID, int(p.User.GID), int(p.User.GID), int(p.User.GID))
	b.Do("set process.user.uid", unix.SYS_SETRESUID, int(p.User.UID), int(p.User.UID), int(p.User.UID))
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := new([2]unix.CapUserData)
	for _, n := range caps["effective"] {
		data[capabilities[n]/32].Effective |= 1 << (capabilities[n] % 32)
	}
	for _, n := range caps["permitted"] {
		data[capabilities[n]/32].Permitted |= 1 << (capabilities[n] % 32)
	}
	for _, n := range caps["inheritable"] {
		data[capabilities[n]/32].Inheritable |= 1 << (capabilities[n] % 32)
	}
	b.Do("set process.capabilities", unix.SYS_CAPSET, unsafe.Pointer(header), unsafe.Pointer(data))
	b.Do("clear the ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0).Ignore(syscall.EINVAL)
	for _, n := range caps["ambient"] {
		b.Do("raise ambient "+n, unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, int(capabilities[n]), 0, 0)
	}
	if p.NoNewPrivileges {
		b.Do("set process.noNewPrivileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return nil
}
