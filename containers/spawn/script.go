package spawn

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Register is the result of an earlier call, to be used as an argument.
type Register int

// An FD is a descriptor of this process that the script gets under its number.
type FD uintptr

// An Addr is where Data has put something in the process to come.
type Addr uint64

// A Script is system calls to be made in order. The zero Script is empty.
type Script struct {
	calls []call
	what  []string
	// data is what the calls point to, at dataBase + headerSize.
	data      []byte
	registers int
	fds       []FD
}

// call is a call as the player knows its layout.
type call struct {
	trap uintptr
	args [6]uintptr
	// named has a bit for each argument that is the number of a register.
	named uintptr
	out   uintptr // register for the result, plus 1
	// on are errnos that do not end the child, and how many calls each skips.
	on   [4]uintptr
	skip [4]uintptr
	// some demands a result above 0: a read that ends is a failure.
	some uintptr
	// fork: the call makes a child that goes on. 1 ends this process; 2 + n lets it
	// skip n calls.
	fork uintptr
}

// Len is how many calls there are.
func (s *Script) Len() int { return len(s.calls) }

// A Call is one of a script's, to be refined.
type Call struct {
	s  *Script
	at int
}

// Data puts bytes into the process to come, aligned to 8.
func (s *Script) Data(b []byte) Addr {
	if s.data == nil {
		s.data = make([]byte, 0, 16<<10)
	}
	for len(s.data)%8 != 0 {
		s.data = append(s.data, 0)
	}
	at := Addr(dataBase + headerSize + len(s.data))
	s.data = append(s.data, b...)
	return at
}

// Struct is a structure's bytes. It must hold no pointers but Addrs.
func Struct[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// Keep lets the process have a descriptor, under the same number.
func (s *Script) Keep(fd FD) {
	if !slices.Contains(s.fds, fd) {
		s.fds = append(s.fds, fd)
	}
}

// Do adds a call. What completes the sentence "cannot ...". An argument is an int,
// a uint64, a uintptr, a Register, an FD, an Addr, or what the call gets a pointer
// to: a string (which gets its NUL) or a []byte.
func (s *Script) Do(what string, trap uintptr, args ...any) Call {
	if s.calls == nil { // as many as a container takes
		s.calls, s.what = make([]call, 0, 512), make([]string, 0, 512)
	}
	c := call{trap: trap}
	for i, a := range args {
		switch a := a.(type) {
		case int:
			c.args[i] = uintptr(a)
		case uint64:
			c.args[i] = uintptr(a)
		case uintptr:
			c.args[i] = a
		case Addr:
			c.args[i] = uintptr(a)
		case FD:
			s.Keep(a)
			c.args[i] = uintptr(a)
		case Register:
			if i > 4 {
				panic("spawn: the sixth argument cannot be a register")
			}
			c.args[i] = uintptr(a)
			c.named |= 1 << i
		case string:
			c.args[i] = uintptr(s.Data(append([]byte(a), 0)))
		case []byte:
			if len(a) > 0 {
				c.args[i] = uintptr(s.Data(a))
			}
		default:
			panic(fmt.Sprintf("spawn: argument %d of %q is a %T", i, what, a))
		}
	}
	s.calls = append(s.calls, c)
	s.what = append(s.what, what)
	return Call{s, len(s.calls) - 1}
}

// Save keeps the call's result for later ones.
func (c Call) Save() Register {
	c.s.calls[c.at].out = uintptr(c.s.registers + 1)
	c.s.registers++
	return Register(c.s.registers - 1)
}

// Ignore lets the script go on after these errors.
func (c Call) Ignore(errs ...syscall.Errno) Call {
	for _, e := range errs {
		c.SkipOn(e, 0)
	}
	return c
}

// SkipOn lets the script go on n calls further down after an error.
func (c Call) SkipOn(e syscall.Errno, n int) Call {
	cl := &c.s.calls[c.at]
	for i := range cl.on {
		if cl.on[i] == 0 {
			cl.on[i], cl.skip[i] = uintptr(e), uintptr(n)
			return c
		}
	}
	panic("spawn: a call forgives too many errors")
}

// Some makes a result of 0, the end of a pipe, an error.
func (c Call) Some() Call {
	c.s.calls[c.at].some = 1
	return c
}

// Fork adds a clone after which this process ends and its child goes on, with this
// process' parent as its own.
func (s *Script) Fork(what string, flags uintptr) {
	c := s.Do(what, unix.SYS_CLONE, flags|unix.CLONE_PARENT|uintptr(syscall.SIGCHLD), 0, 0, 0, 0)
	s.calls[c.at].fork = 1
}

// Split adds a clone after which the child goes on with the calls that follow, and this
// process where parent is called. The result, if saved, is the child's pid, 0 in the
// child.
func (s *Script) Split(what string, flags uintptr) (c Call, parent func()) {
	c = s.Do(what, unix.SYS_CLONE, flags|uintptr(syscall.SIGCHLD), 0, 0, 0, 0)
	return c, func() { s.calls[c.at].fork = uintptr(2 + len(s.calls) - c.at - 1) }
}

// loadTrap is the player's own call.
const loadTrap = ^uintptr(0)

// Load gives the byte at an address & mask + plus.
func (s *Script) Load(what string, at Addr, mask, plus int) Call {
	return s.Do(what, loadTrap, at, mask, plus)
}

// GoTo lets the script go on, after one of these errors, at the call with an index as
// Len tells: further down or back.
func (c Call) GoTo(to int, errs ...syscall.Errno) {
	for _, e := range errs {
		c.SkipOn(e, to-c.at-1)
	}
}

// Jump goes on elsewhere. Where, as Len tells, land says when it is known.
func (s *Script) Jump() (land func(to int)) {
	c := s.Do("jump", unix.SYS_CLOSE, -1) // always fails, with EBADF
	return func(to int) { c.GoTo(to, syscall.EBADF) }
}

// Init lets this process stay as the init of what follows: the calls that are added
// next, up to the execve, are the program's, and done ends them. The init passes the
// signals it gets to the program, waits for all children that end, and ends with the
// program's exit code, 128 + the signal that ended it.
func (s *Script) Init() (done func()) {
	set := func(bits uint64) []byte { return Struct(&bits) }
	mask := func(what string, bits uint64) {
		s.Do(what, unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, set(bits), 0, 8)
	}
	s.Do("take orphans in", unix.SYS_PRCTL, unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	mask("hold signals back", ^uint64(0))
	c, parent := s.Split("make the program's process", 0)
	child := c.Save()
	mask("let signals through", 0)
	return func() {
		parent()
		s.Do("close all descriptors", unix.SYS_CLOSE_RANGE, 3, uint64(1<<32-1), 0)
		status := s.Data(make([]byte, 8))
		next := s.Len()
		sig := s.Do("wait for a signal", unix.SYS_RT_SIGTIMEDWAIT, set(^uint64(0)), 0, 0, 8).Save()
		s.Do("pass a signal on", unix.SYS_KILL, child, sig).Ignore(syscall.ESRCH, syscall.EPERM)
		reap := s.Len()
		s.Do("wait for a child", unix.SYS_WAIT4, -1, status, unix.WNOHANG, 0).Some().GoTo(next, syscall.EPIPE) // none has ended
		s.Do("look for the program", unix.SYS_KILL, child, 0).Ignore(syscall.EPERM).SkipOn(syscall.ESRCH, 1)
		s.Jump()(reap)
		const code = "tell the exit code"
		s.Load(code, status, 0x7f, 0).Some().SkipOn(syscall.EPIPE, 2) // no signal
		s.Do(code, unix.SYS_EXIT_GROUP, s.Load(code, status, 0x7f, 128).Save())
		s.Do(code, unix.SYS_EXIT_GROUP, s.Load(code, status+1, 0xff, 0).Save())
	}
}

// Pointers makes a NULL-terminated array of C strings, as execve takes.
func (s *Script) Pointers(list []string) Addr {
	ptrs := make([]Addr, len(list)+1)
	for i, v := range list {
		ptrs[i] = s.Data(append([]byte(v), 0))
	}
	return s.Data(unsafe.Slice((*byte)(unsafe.Pointer(&ptrs[0])), 8*len(ptrs)))
}

// checkStrings refuses NULs, which would cut a string short.
func checkStrings(list ...string) error {
	for _, v := range list {
		if strings.IndexByte(v, 0) >= 0 {
			return fmt.Errorf("cannot pass %q: it holds a NUL", v)
		}
	}
	return nil
}

// candidates are the files that a program's name may mean: the path itself, or, if
// that has no slash, that name in the absolute folders of searchPath.
func candidates(path, searchPath string) ([]string, error) {
	if err := checkStrings(path, searchPath); err != nil {
		return nil, err
	}
	if strings.Contains(path, "/") {
		return []string{path}, nil
	}
	var files []string
	for dir := range strings.SplitSeq(searchPath, ":") {
		if strings.HasPrefix(dir, "/") {
			files = append(files, dir+"/"+path)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("cannot find %q: PATH has no absolute folder", path)
	}
	return files, nil
}

// Find fails the script where Exec would find nothing that can be run.
func (s *Script) Find(path, searchPath string) error {
	files, err := candidates(path, searchPath)
	if err != nil {
		return err
	}
	for i, file := range files {
		left := len(files) - 1 - i
		c := s.Do(fmt.Sprintf("run %q", path), unix.SYS_FACCESSAT2, unix.AT_FDCWD, file, unix.X_OK, unix.AT_EACCESS)
		if left > 0 {
			for _, e := range []syscall.Errno{syscall.ENOENT, syscall.ENOTDIR, syscall.EACCES} {
				c.SkipOn(e, 1) // the jump of who was found
			}
			land := s.Jump()
			land(s.Len() + 2*left - 1)
		}
	}
	return nil
}

// Exec ends a script: the program at path, or, if that has no slash, the first of
// that name in the folders of searchPath that can be run.
func (s *Script) Exec(path string, args, env []string, searchPath string) error {
	if err := checkStrings(append(slices.Clone(args), env...)...); err != nil {
		return err
	}
	files, err := candidates(path, searchPath)
	if err != nil {
		return err
	}
	argv, envv := s.Pointers(args), s.Pointers(env)
	for i, file := range files {
		c := s.Do(fmt.Sprintf("run %q", path), unix.SYS_EXECVE, file, argv, envv)
		if i < len(files)-1 {
			c.Ignore(syscall.ENOENT, syscall.ENOTDIR, syscall.EACCES)
		}
	}
	return nil
}
