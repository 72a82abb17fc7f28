package oci

import (
	"path"
	"strings"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/powerd/powerd/containers/spawn"
)

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
	// user is whether the container is in another user namespace than the runtime.
	user bool
	// openProc is the host's /proc.
	openProc spawn.Register
}

// openIn opens a path inside the root, however its links point.
func (b *builder) openIn(what, name string, flags int) spawn.Call {
	return b.openHow(what, name, flags, inRoot)
}

func (b *builder) openHow(what, name string, flags int, resolve uint64) spawn.Call {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	return b.Do(what, unix.SYS_OPENAT2, b.root, rel, spawn.Struct(how), unix.SizeofOpenHow)
}

func (b *builder) close(fd spawn.Register) { b.Do("close a descriptor", unix.SYS_CLOSE, fd) }

// jump skips all calls up to where land is called.
func (b *builder) jump() (land func()) {
	to := b.Jump()
	return func() { to(b.Len()) }
}

// on lets the script go on where land is called after an error of the call.
func (b *builder) on(c spawn.Call, e ...syscall.Errno) (land func()) {
	return func() { c.GoTo(b.Len(), e...) }
}

// attach puts a mount on a path by descriptor, and closes both.
func (b *builder) attach(what string, mount any, on spawn.Register) {
	b.Do(what, unix.SYS_MOVE_MOUNT, mount, "", on, "", moveEmpty)
	b.Do("close a mount", unix.SYS_CLOSE, mount)
	b.close(on)
}

func (b *builder) attributes(what string, mount any, recursive bool, set, clear, propagation uint64) {
	if set|clear|propagation == 0 {
		return
	}
	attr := &unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: propagation}
	flags := atEmpty
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	b.Do(what, unix.SYS_MOUNT_SETATTR, mount, "", flags, spawn.Struct(attr), int(unsafe.Sizeof(*attr)))
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

// makePath makes the folders to a path, and the path itself as folder or file. What
// is there already stays as it is.
func (b *builder) makePath(name string, file bool) {
	what := "make " + name + " in the root"
	c := b.openIn(what, name, unix.O_PATH)
	b.close(c.Save())
	there := b.jump()
	c.SkipOn(syscall.ENOENT, 2) // over the close and the jump
	segs := strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/")
	for i, seg := range segs {
		parent := b.openIn(what, path.Join(segs[:i]...), unix.O_PATH|unix.O_DIRECTORY).Save()
		if file && i == len(segs)-1 {
			b.Do(what, unix.SYS_MKNODAT, parent, seg, unix.S_IFREG|0o644, 0).Ignore(syscall.EEXIST)
		} else {
			b.Do(what, unix.SYS_MKDIRAT, parent, seg, 0o755).Ignore(syscall.EEXIST)
		}
		b.close(parent)
	}
	there()
}

// write puts a text into a file that a call has opened, and closes it.
func (b *builder) write(what string, fd spawn.Register, text string) {
	b.Do(what, unix.SYS_WRITE, fd, []byte(text), len(text))
	b.close(fd)
}
